# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Weights listed and fetched through the graph: the node, the bridge and Slicer-IPP's logic, from a publisher on this host."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus, GoalStatusArray
from bridge_process import BridgeProcess
from peer import Peer
from slicer_scene import SlicerScene

from samm_ros import topics

CONTENT = np.random.default_rng(0).bytes(3 << 20)
# The node with a published checkpoint on this host in place of vit_b's.
NODE = """
import sys
from samm_core.models.weights import WEIGHTS, Weights
namespace, url, size, digest = sys.argv[1:]
WEIGHTS["vit_b"] = Weights("w.pth", "a page", url, int(size), digest)
from samm_ros.nodes.weights import WeightsNode
from samm_ros.support import process
with process.ros(["--ros-args", "-r", "__ns:=/" + namespace]):
    with process.spinning_aside(WeightsNode()):
        process.spin()
"""


class Publisher(ThreadingHTTPServer):
    """Sends half of CONTENT, and the rest once `goes_on` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.goes_on = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "bytes=0-")
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        half = len(CONTENT) // 2
        self.wfile.write(CONTENT[start:half])
        self.server.goes_on.wait(60)
        self.wfile.write(CONTENT[max(start, half) :])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.goes_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def scene(namespace: str, publisher: Publisher, tmp_path: Path) -> Iterator[SlicerScene]:
    """Connected to a bridge beside the node, whose weights are under tmp_path."""
    url = f"http://127.0.0.1:{publisher.server_address[1]}/w.pth"
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, namespace, url, str(len(CONTENT)), hashlib.sha256(CONTENT).hexdigest()],
        env={**os.environ, "SAMM_HOME": str(tmp_path), "no_proxy": "127.0.0.1"},
    )
    try:
        with BridgeProcess(namespace, tmp_path / "bridge") as bridge, SlicerScene() as scene:
            scene.logic.connect(f"tcp://127.0.0.1:{bridge.ports['IPP/2']}")
            # The bridge may hear of the node after it was asked.
            scene.spin_until(lambda: scene.state.weights)
            yield scene
    finally:
        node.terminate()
        node.wait()


def of(scene: SlicerScene, model: str) -> tuple[str, int, bool, bool]:
    weights = next(each for each in scene.state.weights if each.model == model)
    return weights.file_name, weights.size, weights.is_here, weights.is_fetchable


def test_weights_are_listed_and_fetched_with_progress_and_a_fetch_that_was_stopped_goes_on(
    scene: SlicerScene, publisher: Publisher, namespace: str, tmp_path: Path
) -> None:
    logic, state = scene.logic, scene.state
    assert of(scene, "lite_medsam") == ("", 0, True, False)
    assert of(scene, "vit_b") == ("w.pth", len(CONTENT), False, True)
    assert of(scene, "medsam_vit_b")[2:] == (False, False)

    logic.fetch_weights("vit_b")
    assert logic.reasons()["fetch_weights"].startswith("Weights are being fetched already")
    scene.spin_until(lambda: state.fetch_progress[1] == len(CONTENT))
    assert state.fetch_progress[0] < len(CONTENT)
    goals = f"{topics.FETCH_WEIGHTS}/_action/status"
    with Peer(namespace) as peer:
        peer.listen(GoalStatusArray, goals, topics.LATCHED)
        logic.cancel_fetch()
        # Else the rest may be there before the node has heard of it.
        peer.wait_for(
            goals, lambda each: any(s.status == GoalStatus.STATUS_CANCELING for s in each.status_list)
        )
    publisher.goes_on.set()
    scene.spin_until(lambda: not state.fetching)
    assert "was cancelled" in state.log[-1]
    assert not (tmp_path / "weights" / "w.pth").exists()

    logic.fetch_weights("vit_b")
    scene.spin_until(lambda: not state.fetching)
    assert state.log[-1] == "The weights of vit_b are there: choose the model."
    assert state.fetch_progress == (len(CONTENT), len(CONTENT))
    assert (tmp_path / "weights" / "w.pth").read_bytes() == CONTENT
    scene.spin_until(lambda: of(scene, "vit_b")[2])

    logic.fetch_weights("medsam_vit_b")
    scene.spin_until(lambda: not state.fetching)
    assert "has no direct address" in state.log[-1]
    logic.fetch_weights("no such")
    scene.spin_until(lambda: not state.fetching)
    assert "no weights to fetch" in state.log[-1]
