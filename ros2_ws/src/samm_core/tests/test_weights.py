# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Fetching checkpoints: whole, resumed, or not at all; from a real server on this machine."""

from __future__ import annotations

import hashlib
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from samm_core.errors import ModelError
from samm_core.models.weights import WEIGHTS, Weights, download

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Publisher(ThreadingHTTPServer):
    """Serves CONTENT, whole or from an offset; records the ranges that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.resumes = True
        self.cut_after: int | None = None
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.resumes else 0
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut_after])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    weights = Weights("w.pth", "a page", server.url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(WEIGHTS, "test_model", weights)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(folder: Path, name: str = "test_model") -> str:
    with pytest.raises(ModelError) as caught:
        download(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_fetched_whole_and_its_progress_reported(publisher, tmp_path):
    seen = []
    path = download("test_model", tmp_path / "new" / "folder", lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "folder" / "w.pth"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_checkpoint_that_is_there_is_not_fetched_again(publisher, tmp_path):
    download("test_model", tmp_path)
    download("test_model", tmp_path)
    assert len(publisher.ranges) == 1


def test_a_checkpoint_that_is_there_but_wrong_is_replaced(publisher, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"half of it")
    assert download("test_model", tmp_path).read_bytes() == CONTENT


def test_a_fetch_that_broke_off_goes_on_where_it_stopped(publisher, tmp_path):
    publisher.cut_after = 1_500_000
    message = refusal(tmp_path)
    assert "1500000 of 3000000" in message or "IncompleteRead" in message
    assert not (tmp_path / "w.pth").exists()
    publisher.cut_after = None
    assert download("test_model", tmp_path).read_bytes() == CONTENT
    assert publisher.ranges == [None, "bytes=1500000-"]


def test_a_server_that_does_not_resume_sends_it_all_again(publisher, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT[:1000])
    publisher.resumes = False
    assert download("test_model", tmp_path).read_bytes() == CONTENT


def test_a_part_longer_than_the_checkpoint_is_started_again(publisher, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT + b"more")
    assert download("test_model", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content", [CONTENT[:-1] + b"!", CONTENT[::-1] + b"and more"], ids=["changed", "longer"]
)
def test_a_wrong_checksum_is_refused_and_nothing_is_left_behind(publisher, tmp_path, content):
    publisher.content = content
    message = refusal(tmp_path)
    assert "checksum" in message and publisher.url in message and str(tmp_path / "w.pth") in message
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_sentence_says_what_to_do_by_hand(publisher, tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
        monkeypatch.setitem(WEIGHTS, "test_model", replace(WEIGHTS["test_model"], url=url))
        message = refusal(tmp_path)
    assert "could not be fetched" in message and f"get {url} by hand" in message
    assert str(tmp_path / "w.pth") in message


def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(publisher, tmp_path):
    (tmp_path / "file").touch()
    assert "could not be fetched" in refusal(tmp_path / "file")


def test_a_checkpoint_without_an_address_says_where_its_publisher_has_it(tmp_path):
    message = refusal(tmp_path, "medsam_vit_b")
    assert "github.com/bowang-lab/MedSAM" in message and str(tmp_path / "medsam_vit_b.pth") in message
    (tmp_path / "medsam_vit_b.pth").touch()
    assert download("medsam_vit_b", tmp_path) == tmp_path / "medsam_vit_b.pth"


def test_weights_that_are_not_published_are_refused_with_the_names_there_are(tmp_path):
    assert "vit_b, vit_l, vit_h, mobile_sam" in refusal(tmp_path, "vit_x")


def test_every_published_checkpoint_with_an_address_has_a_size_and_a_checksum():
    for name, weights in WEIGHTS.items():
        assert weights.page.startswith("https://"), name
        if weights.url:
            assert weights.url.startswith("https://") and weights.size > 10_000_000, name
            assert len(bytes.fromhex(weights.sha256)) == 32, name
