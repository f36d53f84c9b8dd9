# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SAMM 1.2's protocol: every request and every status of it over HTTP, what is hostile, and sessions on the graph."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samm12_extension as samm12
from aiohttp import web
from bridge_process import BridgeProcess
from hypothesis import given, settings
from hypothesis import strategies as st
from ipp_client import BlockingIppClient
from samm12_extension import Samm12Error, Samm12Extension, marks, pixels_of
from samm_extension import SammExtension

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.geometry import Plane
from samm_core.latency.events import Task
from samm_core.mask_codec import decode_mask, encode_mask
from samm_core.models.parity import dice_of
from samm_core.prompts import mask_prompt
from samm_core.sources.base import ImageId, SliceKey, not_loaded
from samm_core.sources.picture import picture_volume
from samm_core.sources.volume import LoadedVolume, Window, read_here
from samm_ros.client import GraphClient
from slicer_ros_bridge import front as fronts
from slicer_ros_bridge.doors.samm12 import embedding_files, http, jobs, video
from slicer_ros_bridge.doors.samm12.server import Samm12Server
from slicer_ros_bridge.graph_actions import (
    ModelState,
    ModelWeights,
    TaskEnd,
    TaskProgress,
    VolumeTask,
    WeightsState,
)
from slicer_ros_bridge.sockets import Endpoint, SocketThread
from slicer_ros_bridge.volumes import VolumeStore
from slicer_ros_bridge.worker import Worker

ROWS, COLUMNS = SHAPE = (24, 32)
BOX = [8, 4, 19, 15]
BOXED = np.zeros(SHAPE, np.uint8)
BOXED[4:16, 8:20] = 1
IN_WINDOW = Window(0, 255)


def slice_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, np.uint8)


class Graph:
    """A GraphActions whose model fills the box, and the pixels of the points.

    holds_back: it does not answer yet. has_held: it was asked for something since then.
    """

    def __init__(self) -> None:
        self.volumes: dict[str, LoadedVolume] = {}
        self.model: ModelState | None = None
        self.embedding = None
        files = {"vit_b": "sam_vit_b_01ec64.pth", "mobile_sam": "mobile_sam.pt"}
        self.weights: WeightsState | None = WeightsState(
            "/weights",
            tuple(
                ModelWeights(name, file, 1, name == "mobile_sam", True, "") for name, file in files.items()
            ),
        )
        self.prompts: list[tuple[ClientPrompt, np.ndarray | None]] = []
        self.tasks: list[VolumeTask] = []
        self.cancelled: list[str] = []
        self.why, self.holds_back = "", False
        self.has_held = threading.Event()
        self.held: list[Callable[[], None]] = []

    def prompt(self, prompt: ClientPrompt, on_answer, picture: np.ndarray | None = None) -> int:
        self.prompts.append((prompt, picture))
        shape = picture.shape[:2]
        box = prompt.prompt.box
        mask = np.zeros(shape, bool)
        for x, y in prompt.prompt.points[:, :2].astype(int):
            mask[y, x] = True
        if box is not None:
            (x0, y0), (x1, y1) = np.rint(np.clip(box[:, :2], 0, [shape[1] - 1, shape[0] - 1])).astype(int)
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
        data = b"" if self.why else encode_mask(mask)
        answer = Answer(1, prompt.client_id, "", prompt.image, shape, data=data, error=self.why)
        self._do(lambda: on_answer(answer))
        return 1

    def forget(self, client_id: str) -> None:
        pass

    def select_model(self, name: str, done) -> None:
        self.model = ModelState(name, "cpu", name != "medsam_vit_b", True)
        done(self.model, "")

    def load_volume(self, path: Path, window: Window | None, done) -> None:
        volume = read_here(path, window)
        loaded = LoadedVolume(volume.uid, volume.name, volume.uri, volume.geometry, volume.window)
        self.volumes[volume.uid] = loaded
        done(loaded, "")

    def segment_volume(self, task: VolumeTask, on_progress, done) -> None:
        """The marked slice twice, as for a click; then forwards to the next to last slice, and backwards."""
        self.tasks.append(task)
        (index,) = [each.index for each in task.masks] + [each.slice_index for each in task.prompts]

        def work() -> None:
            order = [index, index, *range(index + 1, task.last), *range(index - 1, task.first - 1, -1)]
            for count, at in enumerate(order):
                mask = np.zeros(SHAPE, bool)
                mask[at, : 1 + count] = True
                image = ImageId(task.volume_uid, SliceKey(Plane.AXIAL, at))
                answer = Answer(1, task.client_id, "", image, SHAPE, data=encode_mask(mask))
                on_progress(TaskProgress(answer, count, task.last - task.first + 1))
            done(TaskEnd(not self.why, self.why, (), len(order), 0.0), "")

        self._do(work)

    def cancel_volume(self, client_id: str) -> None:
        self.cancelled.append(client_id)

    def _do(self, call: Callable[[], None]) -> None:
        if self.holds_back:
            self.held.append(call)
            self.has_held.set()
        else:
            call()


class Door:
    """The door over a stand-in for the graph, on the bridge's own threads and a real port."""

    def __init__(self, folder: Path) -> None:
        self.graph, self.problems = Graph(), []
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        # As bridge.py has it.
        endpoint = Endpoint("SAMM", "127.0.0.1", 0, "", 1 << 20, lambda *_: None, self._application)
        self._sockets = SocketThread([endpoint], lambda: self.server.tick(), said.put)
        self._worker = Worker(self._sockets.post)
        self.server = Samm12Server(self.graph, VolumeStore(folder), self._worker, self.problems.append)
        self._sockets.start()
        self.hear_model("lite_medsam")
        self.port = int(said.get(timeout=60).rpartition(":")[2])
        self.client = Samm12Extension(self.port)

    def close(self) -> None:
        self._sockets.close()
        self._worker.close()

    def hear_model(self, name: str, takes_points: bool = True) -> None:
        """The graph says that this model answers; empty: none does, for now."""
        self.on_thread(lambda: self.server.on_model(ModelState(name, "cpu", takes_points, True)))

    def on_thread(self, call: Callable[[], None]) -> None:
        """Make a call where the door's are made, and wait until it is."""
        done = threading.Event()

        def make() -> None:
            call()
            done.set()

        self._sockets.post(make)
        assert done.wait(30)

    def release(self) -> None:
        """Let the graph answer what it held back."""

        def answer() -> None:
            self.graph.holds_back = False
            held, self.graph.held = self.graph.held, []
            for call in held:
                call()

        self.on_thread(answer)

    def _application(self) -> web.Application:
        return http.application(self.server, self._sockets.post)


@contextmanager
def refused(status: int, words: str = "") -> Iterator[None]:
    with pytest.raises(Samm12Error, match=words or None) as caught:
        yield
    assert caught.value.status == status, caught.value


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path / "volumes")
    yield door
    door.close()


@pytest.fixture
def client(door: Door) -> Samm12Extension:
    return door.client


# Connecting and models.


def test_the_panel_connects_and_finds_the_graphs_model_prepared(client: Samm12Extension) -> None:
    prepared = client.connect("ab" * 16)
    assert (prepared["model_id"], prepared["weight_id"], prepared["device"]) == (
        "medsam",
        "lite_medsam",
        "cpu",
    )
    again = client.post("/session", {"session_id": "cd" * 16, "autosave": {"embeddings": "/tmp/x"}})
    assert (again["active_sessions"], again["timeout_seconds"]) == (2, 600)
    with refused(400, "session_id"):
        client.post("/session", {"autosave": {}})
    with refused(400, "session_id"):
        client.post("/session")


def test_the_table_of_models_is_one_that_the_panel_can_show(client: Samm12Extension) -> None:
    models = client.get("/models")["models"]
    known = {"sam1", "sam2", "mobile_sam", "medsam", "medsam2", "sam3", "medical_sam3", "fastsam"}
    assert {model["id"] for model in models} <= known
    assert len({model["label"] for model in models}) == len(models)
    for model in models:
        weights = model["weights"]
        assert weights and len({weight["label"] for weight in weights}) == len(weights)
        for name, has in model["capabilities"].items():
            assert has == any(weight["capabilities"][name] for weight in weights)
        for weight in weights:
            assert client.get(f"/models/{weight['id']}") == weight
    table = {weight["id"]: weight for model in models for weight in model["weights"]}
    assert {name for name, weight in table.items() if weight["available"]} == {
        *("lite_medsam", "lite_medsam_embedded", "mobile_sam_vit_t", "mobile_sam_vit_t_embedded")
    }
    box_only = table["medsam_vit_b"]["capabilities"]
    assert box_only["box"] and not box_only["points"] and not box_only["text"]
    assert table["sam_vit_b_embedded"]["capabilities"]["embeddings"]
    assert not table["sam_vit_b"]["capabilities"]["embeddings"]
    with refused(404, "weight not found") as _:
        client.get("/models/a%2Fb")


def test_a_model_is_prepared_and_offloaded(door: Door, client: Samm12Extension) -> None:
    with refused(404, "weight not found"):
        client.prepare("../sam_vit_b")
    with pytest.raises(Samm12Error) as missing:
        client.prepare("sam_vit_b")
    assert (
        missing.value.status == 409 and missing.value.fields["checkpoint"] == "/weights/sam_vit_b_01ec64.pth"
    )
    assert client.prepare("mobile_sam_vit_t")["weight_id"] == "mobile_sam_vit_t"
    assert door.graph.model.name == "mobile_sam"
    assert client.get("/prepared")["prepared"]["weight_id"] == "mobile_sam_vit_t"
    # Another client of the graph takes another model.
    door.hear_model("vit_b")
    assert client.get("/prepared")["prepared"]["weight_id"] == "sam_vit_b"
    assert client.post("/offload") == {"status": "offloaded"}
    assert client.get("/prepared") == {"prepared": None}
    for path in ("/embedding-jobs", "/prediction-jobs", "/video-prediction-jobs"):
        with refused(409, "model not prepared"):
            client.post(path, {"total": 1})
    with refused(409, "model not prepared"):
        client.predict(marks([[1, 1]], [1]), slice_of(0))
    with refused(409, "model not prepared"):
        client.post("/embeddings", {"image": samm12.image(slice_of(0))})
    assert client.prepare("mobile_sam_vit_t")["status"] == "prepared"
    # A server that starts again has no model for a while.
    door.hear_model("")
    assert client.get("/prepared")["prepared"]["weight_id"] == "mobile_sam_vit_t"


def test_nothing_is_finetuned_and_the_panel_can_ask_for_it_all_the_same(client: Samm12Extension) -> None:
    assert client.get("/finetuning/datasets") == {"datasets": []}
    dataset = client.get("/finetuning/datasets/my%2Fset")
    assert dataset["name"] == "my/set" and dataset["source_segmented_volumes"] == 0
    assert {"source", "dataset", "train_segmented_volumes", "val_segmented_volumes"} <= dataset.keys()
    for method, path in (
        ("POST", "/finetuning/datasets/a/build"),
        ("GET", "/finetuning/reports/a"),
        ("POST", "/finetuning/train"),
        ("POST", "/finetuning/eval"),
        ("GET", "/finetuning/jobs/a"),
        ("POST", "/finetuning/jobs/a/cancel"),
    ):
        with refused(501, "finetunes nothing"):
            client.request(method, path, {} if method == "POST" else None)


# One slice.


def test_a_prompt_gets_the_mask_of_its_slice(door: Door, client: Samm12Extension) -> None:
    mask = client.predict(marks(box=BOX), slice_of(1))
    assert mask.shape == SHAPE and np.array_equal(mask, BOXED)
    mask = client.predict(marks([[3, 5], [30, 20]], [1, 0]), slice_of(1))
    assert mask[5, 3] == 1 and mask[20, 30] == 1 and mask.sum() == 2
    prompt, picture = door.graph.prompts[-1]
    # Three equal channels are one; the picture is named by its pixels, in the window that SAMM has applied.
    assert np.array_equal(picture, slice_of(1))
    assert prompt.image.source == picture_volume(slice_of(1)).uid and prompt.image.key.window == IN_WINDOW
    assert prompt.prompt.labels.tolist() == [1, 0]

    coloured = np.random.default_rng(2).integers(0, 256, (*SHAPE, 3), np.uint8)
    client.predict(marks(box=BOX), coloured)
    assert np.array_equal(door.graph.prompts[-1][1], coloured)


def test_a_mask_as_prompt_becomes_marks_that_the_model_takes(door: Door, client: Samm12Extension) -> None:
    painted = samm12.mask(BOXED)
    client.predict(marks(mask=painted), slice_of(1))
    sent, wanted = door.graph.prompts[-1][0].prompt, mask_prompt(BOXED)
    assert np.array_equal(sent.box[:, :2].ravel(), wanted.box_xyxy) and sent.labels.all()
    assert all(BOXED[int(y), int(x)] for x, y, _ in sent.points)
    client.predict(marks([[1, 2]], [0], box=BOX, mask=painted), slice_of(1))
    sent = door.graph.prompts[-1][0].prompt
    assert np.array_equal(sent.box[:, :2].ravel(), BOX) and sent.labels[0] == 0
    # A model that takes boxes alone.
    door.hear_model("medsam_vit_b", takes_points=False)
    client.predict(marks(mask=painted), slice_of(1))
    assert not len(door.graph.prompts[-1][0].prompt.points)


def test_other_marks_do_without_a_mask_that_is_empty_on_their_slice(
    door: Door, client: Samm12Extension
) -> None:
    """The panel sends the slice of a chosen segment with each prompt, on slices that it does not reach too."""
    empty = samm12.mask(np.zeros(SHAPE))
    assert np.array_equal(client.predict(marks(box=BOX, mask=empty), slice_of(1)), BOXED)
    assert client.predict(marks([[3, 5]], [1], mask=empty), slice_of(1)).sum() == 1
    sent = door.graph.prompts[-1][0].prompt
    assert sent.points[:, :2].tolist() == [[3, 5]] and sent.box is None


def bad_image(**changes: Any) -> dict[str, Any]:
    return {"image": {**samm12.image(slice_of(1)), **changes}}


GOOD = samm12.image(slice_of(1))
MALFORMED = [
    (marks(), "prompt is empty"),
    (marks([[1, 1]], []), "same length"),
    (marks([[1, 1, 1]], [1]), r"\[x, y\]"),
    (marks([[1, True]], [1]), r"\[x, y\]"),
    (marks([[1, 1e300]], [1]), r"\[x, y\]"),
    (marks([[1, 1]], [2]), "1 or 0"),
    (marks([[1, 1]], [True]), "1 or 0"),
    (marks([[1, 1]] * 1025, [1] * 1025), "at most 1024"),
    (marks(box=[5, 5, 5, 9]), "an area"),
    (marks(box=[5, 5, 9]), "an area"),
    (marks(text="  "), "blank"),
    (marks(text=7), "blank"),
    (marks(mask=samm12.mask(np.ones((3, 3)))), "one of its size"),
    (marks(mask=samm12.mask(np.zeros(SHAPE))), "mask is empty"),
    (marks(mask={"shape": [2, 2], "data": "AAAAAg=="}), "0 and 1"),
    (marks(mask=[1]), "`mask`"),
    ({**marks(box=BOX), "image": None}, "`image`"),
    ({**marks(box=BOX), **bad_image(shape=[ROWS, COLUMNS])}, "`shape`"),
    ({**marks(box=BOX), **bad_image(shape=[ROWS, COLUMNS, 4])}, "`shape`"),
    ({**marks(box=BOX), **bad_image(shape=[True, COLUMNS, 3])}, "`shape`"),
    ({**marks(box=BOX), **bad_image(shape=[0, COLUMNS, 3])}, "`shape`"),
    ({**marks(box=BOX), **bad_image(shape=[1 << 40, COLUMNS, 3])}, "`shape`"),
    ({**marks(box=BOX), **bad_image(data=7)}, "base64 string"),
    ({**marks(box=BOX), **bad_image(data="é" * len(GOOD["data"]))}, "no base64"),
    ({**marks(box=BOX), **bad_image(data=GOOD["data"][:-4] + "AA=A")}, "no base64"),
    ({**marks(box=BOX), **bad_image(data=GOOD["data"][:-4] + "!-_\n")}, "no base64"),
    ({**marks(box=BOX), "embedding_id": 7}, "`embedding_id`"),
]


def test_the_bridge_needs_no_pybase64_and_refuses_the_same_without_it() -> None:
    program = f"""import sys
sys.modules["pybase64"] = None
import slicer_ros_bridge.bridge
from slicer_ros_bridge.doors.samm12 import payloads
import numpy as np
mask = np.arange(35).reshape(5, 7) % 3 == 0
picture = payloads.picture_of({GOOD!r})
print(picture.shape)
sent = str(payloads.MaskText(mask))
print((payloads.marks_of({{"mask": {{"shape": [5, 7], "data": sent}}}}).mask == mask).all())
for end in ("éééé", "AA=A", "!-_\\n"):
    try:
        payloads.picture_of({{**{GOOD!r}, "data": {GOOD["data"][:-4]!r} + end}})
    except payloads.Refused as error:
        print(error.status, "no base64" in str(error))"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == [str(SHAPE), "True", *["400 True"] * 3], ended.stderr


@pytest.mark.parametrize(("fields", "words"), MALFORMED, ids=[words for _, words in MALFORMED])
def test_a_malformed_prompt_is_refused_in_a_sentence(door: Door, fields: dict, words: str) -> None:
    with refused(400, words):
        door.client.post("/predict", {"image": GOOD, **fields})
    assert not door.graph.prompts


def test_a_picture_of_another_length_is_told_its_length(client: Samm12Extension) -> None:
    with pytest.raises(Samm12Error) as wrong:
        client.post("/predict", {**marks(box=BOX), **bad_image(data=GOOD["data"][:-4])})
    assert wrong.value.status == 400
    wanted = ROWS * COLUMNS * 3
    assert (wrong.value.fields["expected"], wrong.value.fields["actual"]) == (wanted, wanted - 3)


def test_what_the_model_refuses_is_an_error_that_the_panel_shows(door: Door, client: Samm12Extension) -> None:
    with refused(500, "takes no text"):
        client.predict(marks(text="liver"), slice_of(1))
    door.graph.why = "medsam_vit_b takes no points: draw a box."
    with refused(500, "takes no points: draw a box"):
        client.predict(marks([[1, 1]], [1]), slice_of(1))
    assert "takes no points" in door.problems[-1]


def test_a_picture_that_the_graph_let_go_of_is_sent_again(door: Door, client: Samm12Extension) -> None:
    door.graph.why, door.graph.holds_back = not_loaded(picture_volume(slice_of(1)).uid), True
    masks: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: masks.append(client.predict(marks(box=BOX), slice_of(1))))
    thread.start()
    assert door.graph.has_held.wait(30)
    door.on_thread(lambda: setattr(door.graph, "why", ""))
    door.release()
    thread.join(30)
    assert np.array_equal(masks[0], BOXED) and len(door.graph.prompts) == 2


# Embeddings and jobs.


def test_slices_are_embedded_first_and_prompted_by_their_ids(door: Door, client: Samm12Extension) -> None:
    client.prepare("lite_medsam_embedded")
    with refused(500, "embedding not found"):
        client.predict(marks(box=BOX), "0" * 32)
    first = client.post("/embeddings", {"image": samm12.image(slice_of(0))})
    assert first == client.post("/embeddings", {"image": samm12.image(slice_of(0))})
    assert first["shape"] == list(SHAPE)

    items = [samm12.embedding_item(index, slice_of(index)) for index in range(5)]
    state = client.job("embedding", items)
    assert (state["status"], state["completed"], state["submitted"], state["error"]) == (
        "complete",
        5,
        5,
        None,
    )
    for item, result in zip(items, state["results"], strict=True):
        assert {name: item[name] for name in item if name != "image"}.items() <= result.items()
    assert state["results"][0]["embedding_id"] == first["embedding_id"]
    mask = client.predict(marks(box=BOX), state["results"][3]["embedding_id"])
    assert np.array_equal(mask, BOXED)
    assert np.array_equal(door.graph.prompts[-1][1], slice_of(3))
    with refused(400, "one of its size"):
        client.predict(marks(mask=samm12.mask(np.ones((3, 3)))), first["embedding_id"])
    # A finished job says how it is; embeddings are of the weights that were prepared.
    path = f"/embedding-jobs/{state['job_id']}"
    assert client.post(f"{path}/items", {"items": items[:1]}) == state
    client.prepare("lite_medsam")
    with refused(500, "embedding not found"):
        client.predict(marks(box=BOX), first["embedding_id"])


def test_embeddings_are_saved_and_come_back(client: Samm12Extension, tmp_path: Path) -> None:
    client.prepare("lite_medsam_embedded")
    items = [samm12.embedding_item(index, slice_of(index)) for index in range(3)]
    results = client.job("embedding", items)["results"]
    kept = ("embedding_id", "slice_spec", "image_shape", "image_digest")
    folder = tmp_path / "a b" / "embeddings"
    wanted = {"path": str(folder), "items": [{name: each[name] for name in kept} for each in results]}
    saved = client.post("/embedding-files/save", wanted)
    assert (saved["path"], saved["count"]) == (str(folder), 3)
    assert Path(saved["metadata_path"]).exists() and Path(saved["data_path"]).exists()
    # Again, and with fewer: what is there is replaced whole.
    assert client.post("/embedding-files/save", {**wanted, "items": wanted["items"][:2]})["count"] == 2
    assert len(list(folder.iterdir())) == 2

    client.post("/offload")
    client.prepare("lite_medsam_embedded")
    loaded = client.post("/embedding-files/load", {"path": str(folder)})
    assert (loaded["path"], loaded["count"]) == (str(folder), 2)
    assert loaded["items"] == [{**each, "shape": list(SHAPE)} for each in wanted["items"][:2]]
    assert np.array_equal(client.predict(marks(box=BOX), results[1]["embedding_id"]), BOXED)

    with refused(500, "embedding not found"):
        client.post("/embedding-files/save", wanted)
    client.prepare("mobile_sam_vit_t_embedded")
    with refused(500, "is of lite_medsam_embedded"):
        client.post("/embedding-files/load", {"path": str(folder)})


def test_files_that_are_none_are_refused_and_others_stay(client: Samm12Extension, tmp_path: Path) -> None:
    client.prepare("lite_medsam_embedded")
    item = samm12.embedding_item(0, slice_of(0))
    (result,) = client.job("embedding", [item])["results"]
    kept = {name: result[name] for name in ("embedding_id", "slice_spec", "image_shape", "image_digest")}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with refused(500, "holds files that are no embeddings"):
        client.post("/embedding-files/save", {"path": str(tmp_path / "mine"), "items": [kept]})
    with refused(500, "is no folder"):
        client.post("/embedding-files/save", {"path": str(tmp_path / "mine" / "notes.txt"), "items": [kept]})
    with refused(500, "no absolute path"):
        client.post("/embedding-files/save", {"path": "here", "items": [kept]})
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    # Another program's files of the same names.
    mine = {"embeddings.json": '{"format": "mine"}', "pictures-1.bin": "mine"}
    (tmp_path / "mine" / "notes.txt").unlink()
    for name, text in mine.items():
        (tmp_path / "mine" / name).write_text(text)
    with refused(500, "holds files that are no embeddings"):
        client.post("/embedding-files/save", {"path": str(tmp_path / "mine"), "items": [kept]})
    assert {each.name: each.read_text() for each in (tmp_path / "mine").iterdir()} == mine
    with refused(400, "image_digest"):
        kept.pop("image_digest")
        client.post("/embedding-files/save", {"path": str(tmp_path / "new"), "items": [kept]})
    with refused(500, "cannot be read"):
        client.post("/embedding-files/load", {"path": str(tmp_path / "none")})

    folder = tmp_path / "whole"
    client.post("/embedding-files/save", {"path": str(folder), "items": [{**kept, "image_digest": "0"}]})
    metadata = json.loads((folder / "embeddings.json").read_text())
    data = folder / metadata["data"]
    whole = data.read_bytes()
    for damage in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        data.write_bytes(damage)
        with refused(500, "damaged"):
            client.post("/embedding-files/load", {"path": str(folder)})
    data.write_bytes(whole)
    for damage in (
        {**metadata, "format": "x"},
        {**metadata, "items": [{**metadata["items"][0], "pixels": [1 << 40, 1]}]},
        {**metadata, "items": [{}]},
        {**metadata, "data": "../whole"},
        [],
    ):
        (folder / "embeddings.json").write_text(json.dumps(damage))
        with refused(500, "holds no embeddings|cannot be read"):
            client.post("/embedding-files/load", {"path": str(folder)})


def test_more_slices_than_a_folder_takes_are_not_saved(
    client: Samm12Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.prepare("lite_medsam_embedded")
    (result,) = client.job("embedding", [samm12.embedding_item(0, slice_of(0))])["results"]
    kept = {name: result[name] for name in ("embedding_id", "slice_spec", "image_shape", "image_digest")}
    monkeypatch.setattr(embedding_files, "MAX_BYTES", 2 * ROWS * COLUMNS)
    with refused(500, "save fewer"):
        client.post("/embedding-files/save", {"path": str(tmp_path / "many"), "items": [kept] * 3})
    assert not (tmp_path / "many").exists()
    saved = client.post("/embedding-files/save", {"path": str(tmp_path / "many"), "items": [kept] * 2})
    assert Path(saved["data_path"]).stat().st_size == 2 * ROWS * COLUMNS


def prediction_item(index: int, **prompt: Any) -> dict[str, Any]:
    echo = {"key": f"Red|0|{index}", "slice_spec": samm12.slice_spec(index)}
    return {**echo, **marks(**(prompt or {"box": BOX})), "image": samm12.image(slice_of(index))}


def test_a_box_is_predicted_slice_by_slice(door: Door, client: Samm12Extension) -> None:
    items = [prediction_item(index) for index in range(6)]
    state = client.job("prediction", items)
    assert (state["status"], state["completed"]) == ("complete", 6)
    for item, result in zip(items, state["results"], strict=True):
        assert (result["key"], result["slice_spec"]) == (item["key"], item["slice_spec"])
        assert np.array_equal(pixels_of(result), BOXED)
    with refused(409, "prediction job is closed"):
        client.post(f"/prediction-jobs/{state['job_id']}/items", {"items": items[:1]})
    # A slice that fails ends the job, and what was made before stays.
    door.graph.holds_back = True
    begun = client.post("/prediction-jobs", {"total": 3})
    path = f"/prediction-jobs/{begun['job_id']}"
    assert client.post(f"{path}/items", {"items": items[:2]})["status"] == "running"
    door.release()
    assert client.get(path)["completed"] == 2
    door.graph.why = "The graph gave no mask in time."
    failed = client.post(f"{path}/items", {"items": items[2:3]})
    assert (failed["status"], failed["completed"]) == ("failed", 2)
    assert failed["error"] == "The graph gave no mask in time."


@pytest.mark.parametrize("kind", ["embedding", "prediction"])
def test_what_does_not_fit_a_job_is_refused(client: Samm12Extension, kind: str) -> None:
    for total in (0, -1, True, "3", None, 4097, 1.5):
        with refused(400, "`total`"):
            client.post(f"/{kind}-jobs", {"total": total})
    job_id = client.post(f"/{kind}-jobs", {"total": 1})["job_id"]
    path = f"/{kind}-jobs/{job_id}/items"
    item = {"embedding": samm12.embedding_item(0, slice_of(0)), "prediction": prediction_item(0)}[kind]
    for items in ([], {}, None, [7], [{}], [{**item, "image": {}}]):
        with refused(400):
            client.post(path, {"items": items})
    missing = {name: value for name, value in item.items() if name != "key"}
    with refused(400, "`key` is missing"):
        client.post(path, {"items": [missing]})
    with refused(400, "for 1 slices"):
        client.post(path, {"items": [item, item]})
    state = client.get(f"/{kind}-jobs/{job_id}")
    assert (state["status"], state["submitted"], state["results"]) == ("queued", 0, [])
    for method, unknown in (("GET", f"/{kind}-jobs/none"), ("POST", f"/{kind}-jobs/none/items")):
        with pytest.raises(Samm12Error) as error:
            client.request(method, unknown, {"items": [item]} if method == "POST" else None)
        assert (error.value.status, error.value.fields["job_id"]) == (404, "none")


def test_jobs_do_not_pile_up(door: Door, client: Samm12Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [client.post("/prediction-jobs", {"total": 1})["job_id"] for _ in range(jobs.MAX_JOBS)]
    with refused(429, "under way"):
        client.post("/prediction-jobs", {"total": 1})
    client.post(f"/prediction-jobs/{ids[3]}/items", {"items": [prediction_item(0)]})
    client.post("/prediction-jobs", {"total": 1})
    with refused(404):
        client.get(f"/prediction-jobs/{ids[3]}")
    # Nobody goes on with them.
    with monkeypatch.context() as soon:
        soon.setattr(jobs, "KEPT_S", -1.0)
        door.on_thread(door.server.tick)
    with refused(404):
        client.get(f"/prediction-jobs/{ids[0]}")
    monkeypatch.setattr(jobs, "MAX_WAITING_BYTES", ROWS * COLUMNS)
    path = f"/prediction-jobs/{client.post('/prediction-jobs', {'total': 9})['job_id']}"
    door.graph.holds_back = True
    client.post(f"{path}/items", {"items": [prediction_item(0)]})
    client.post(f"{path}/items", {"items": [prediction_item(1)]})
    with refused(413, "wait already"):
        client.post(f"{path}/items", {"items": [prediction_item(2)]})
    door.release()
    assert client.post(f"{path}/items", {"items": [prediction_item(2)]})["submitted"] == 3


def test_a_job_whose_client_sends_no_more_of_it_is_let_go_of(
    door: Door, client: Samm12Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [client.post("/prediction-jobs", {"total": 3})["job_id"] for _ in range(jobs.MAX_JOBS)]
    door.graph.holds_back = True
    for job_id in ids:
        path = f"/prediction-jobs/{job_id}"
        state = client.post(f"{path}/items", {"items": [prediction_item(0), prediction_item(1)]})
        assert state["status"] in ("running", "queued")
    # The graph has a slice of the first ones, and the others wait for it.
    with monkeypatch.context() as soon:
        soon.setattr(jobs, "KEPT_S", -1.0)
        door.on_thread(door.server.tick)
    assert {client.get(f"/prediction-jobs/{job_id}")["completed"] for job_id in ids} == {0}
    with refused(429, "under way"):
        client.post("/prediction-jobs", {"total": 1})
    door.release()
    state = client.get(f"/prediction-jobs/{ids[0]}")
    assert (state["status"], state["completed"], state["error"]) == ("running", 2, None)
    monkeypatch.setattr(jobs, "KEPT_S", -1.0)
    door.on_thread(door.server.tick)
    for job_id in ids:
        with refused(404, "let go of"):
            client.get(f"/prediction-jobs/{job_id}")
    assert client.post("/prediction-jobs", {"total": 1})["status"] == "queued"


# Video.


def frame(index: int, pixels: np.ndarray | None = None) -> dict[str, Any]:
    echo = {"key": f"Red|0|{index}", "slice_spec": samm12.slice_spec(index)}
    return {
        "frame_index": index,
        **echo,
        "image": samm12.image(slice_of(index) if pixels is None else pixels),
    }


def uploaded(client: Samm12Extension, total: int = 6) -> str:
    status, state = client.request("POST", "/video-prediction-jobs", {"total": total})
    assert (status, state["status"], state["weight_id"]) == (202, "uploading", "lite_medsam")
    path = f"/video-prediction-jobs/{state['job_id']}"
    for index in range(total):
        state = client.post(f"{path}/frames", {"frames": [frame(index)]})
    assert state["submitted"] == total and not state["results"]
    return path


def run(marked: int, direction: str = "both", **prompt: Any) -> dict[str, Any]:
    given = {"frame_index": marked, **marks(**(prompt or {"box": BOX}))}
    return {
        "prompt": given,
        "direction": direction,
        "offload_video_to_cpu": True,
        "offload_state_to_cpu": False,
    }


def test_slices_as_video_are_propagated_through(door: Door, client: Samm12Extension) -> None:
    path = uploaded(client)
    status, state = client.request("POST", f"{path}/run", run(2))
    assert status == 202 and state["status"] in ("queued", "running", "complete")
    state = client.until_ended(path)
    assert (state["status"], state["completed"], state["next_cursor"]) == ("complete", 6, 6)
    # The marked one first, by its second look; the one that was not reached is empty.
    assert [each["frame_index"] for each in state["results"]] == [2, 3, 4, 1, 0, 5]
    assert [each["sequence"] for each in state["results"]] == list(range(6))
    assert [pixels_of(each).sum() for each in state["results"]] == [2, 3, 4, 5, 6, 0]
    assert state["results"][1]["slice_spec"] == samm12.slice_spec(3)
    assert client.get(f"{path}?cursor=4")["results"] == state["results"][4:]
    for cursor in ("7", "-1", "x", "1e1", "9" * 30):
        with pytest.raises(Samm12Error) as wrong:
            client.get(f"{path}?cursor={cursor}")
        assert (wrong.value.status, wrong.value.fields["next_cursor"]) == (400, 6)
    (task,) = door.graph.tasks
    assert (task.kind, task.first, task.last) == ("propagate", 0, 5)
    volume = read_here(Path(door.graph.volumes[task.volume_uid].uri), IN_WINDOW)
    assert np.array_equal(volume.slice_image(Plane.AXIAL, 4)[..., 0], slice_of(4))
    with refused(409, "complete already"):
        client.post(f"{path}/cancel")
    with refused(409, "takes no frames any more"):
        client.post(f"{path}/frames", {"frames": [frame(0)]})

    # The same frames again, one way from a painted mask.
    again = uploaded(client)
    client.post(f"{again}/run", run(3, "forward", mask=samm12.mask(BOXED)))
    state = client.until_ended(again)
    assert [each["frame_index"] for each in state["results"]] == [3, 4, 5]
    task = door.graph.tasks[-1]
    assert (task.first, task.last, len(door.graph.volumes)) == (3, 5, 1)
    assert np.array_equal(decode_mask(task.masks[0].data, SHAPE), BOXED)


def test_a_video_is_refused_what_does_not_fit_it(
    door: Door, client: Samm12Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Samm12Error) as long:
        client.post("/video-prediction-jobs", {"total": 4097})
    assert (long.value.status, long.value.fields["max_frames"]) == (400, 4096)
    path = f"/video-prediction-jobs/{client.post('/video-prediction-jobs', {'total': 3})['job_id']}"
    client.post(f"{path}/frames", {"frames": [frame(0)]})
    for frames, status, words in (
        ([frame(0)], 409, "twice"),
        ([frame(1), frame(1)], 409, "twice"),
        ([frame(3)], 400, "no frame 3"),
        ([frame(1, np.zeros((9, 9), np.uint8))], 400, "one shape"),
        ([], 400, "not empty"),
        ([{**frame(1), "frame_index": -1}], 400, "frame_index"),
    ):
        with refused(status, words):
            client.post(f"{path}/frames", {"frames": frames})
    with pytest.raises(Samm12Error) as missing:
        client.post(f"{path}/run", run(0))
    assert (missing.value.status, missing.value.fields["submitted"]) == (409, 1)
    # Of all videos: the other one takes as much of it.
    other = uploaded(client, 1)
    monkeypatch.setattr(video, "MAX_BYTES", 3 * ROWS * COLUMNS)
    with pytest.raises(Samm12Error, match="let one end, or cancel one") as large:
        client.post(f"{path}/frames", {"frames": [frame(1), frame(2)]})
    assert (large.value.status, large.value.fields["max_bytes"]) == (413, 3 * ROWS * COLUMNS)
    client.post(f"{other}/cancel")
    client.post(f"{path}/frames", {"frames": [frame(1), frame(2)]})
    painted = samm12.mask(BOXED)
    for wrong, words in (
        (run(3), "no frame 3"),
        (run(0, "up"), "direction"),
        ({}, "`prompt`"),
        (run(0, box=BOX, mask=painted), "prompt alone"),
        (run(0, points=[[1, 1]], labels=[1], text="liver"), "no points beside"),
        (run(0, mask=samm12.mask(np.ones((3, 3)))), "one of its size"),
    ):
        with refused(400, words):
            client.post(f"{path}/run", wrong)
    with refused(500, "takes no text"):
        client.post(f"{path}/run", run(0, text="liver"))
    client.prepare("lite_medsam_embedded")
    with pytest.raises(Samm12Error) as changed:
        client.post(f"{path}/run", run(0))
    assert changed.value.status == 409 and changed.value.fields["expected_weight_id"] == "lite_medsam"
    assert changed.value.fields["actual_weight_id"] == "lite_medsam_embedded"
    assert client.get(path)["status"] == "failed"
    with refused(404):
        client.post("/video-prediction-jobs/none/cancel")


def test_a_video_by_an_empty_mask_fails_and_says_why(door: Door, client: Samm12Extension) -> None:
    """The panel reads the job's state: after a refusal it would go on waiting for one that uploads."""
    path = uploaded(client)
    status, state = client.request("POST", f"{path}/run", run(2, mask=samm12.mask(np.zeros(SHAPE))))
    assert (status, state["status"], state["results"]) == (202, "failed", [])
    assert "mask is empty" in state["error"]
    assert client.get(path)["status"] == "failed" and not door.graph.tasks


def test_a_video_is_segmented_while_other_volumes_come_and_go(
    client: Samm12Extension, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # As a part that another thread has put in place by now: it is listed, and is not there.
    (tmp_path / "volumes" / "gone.nrrd").symlink_to(tmp_path / "nowhere")
    path = uploaded(client, 2)
    client.post(f"{path}/run", run(0))
    state = client.until_ended(path)
    assert (state["status"], state["completed"]) == ("complete", 2)
    assert not caplog.records


def test_a_video_is_cancelled_and_makes_room(door: Door, client: Samm12Extension) -> None:
    paths = [uploaded(client, 2) for _ in range(4)]
    with pytest.raises(Samm12Error) as full:
        client.post("/video-prediction-jobs", {"total": 1})
    assert (full.value.status, full.value.fields["max_jobs"]) == (429, 4)
    assert client.post(f"{paths[1]}/cancel")["status"] == "cancelled"
    assert client.post(f"{paths[1]}/cancel")["status"] == "cancelled"
    uploaded(client, 1)
    door.graph.holds_back = True
    client.post(f"{paths[0]}/run", run(0))
    assert door.graph.has_held.wait(30)
    assert client.post(f"{paths[0]}/cancel")["status"] == "cancelled"
    assert door.graph.cancelled == [f"samm12-{paths[0].rpartition('/')[2]}"]
    door.release()
    assert client.get(paths[0])["results"] == []
    door.graph.why = "The structure cannot be found."
    client.post(f"{paths[2]}/run", run(0))
    failed = client.until_ended(paths[2])
    assert (failed["status"], failed["error"]) == ("failed", "The structure cannot be found.")


# Who may ask, and what is hostile.


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8799"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8799"},
        {"Host": ""},
    ],
)
def test_a_web_page_gets_nothing(door: Door, headers: dict[str, str]) -> None:
    with refused(403):
        door.client.request("GET", "/health", headers=headers)
    with refused(403):
        door.client.request("POST", "/offload", headers={"Content-Type": "text/plain", **headers})
    assert door.client.get("/prepared")["prepared"]


def test_localhost_is_this_computer_too(door: Door) -> None:
    door.client.request("GET", "/health", headers={"Host": "localhost:9999"})


def test_what_is_no_request_gets_an_error_in_json(client: Samm12Extension) -> None:
    for method, path, body, status in (
        ("GET", "/", None, 404),
        ("GET", "/predict", None, 405),
        ("DELETE", "/health", None, 405),
        ("POST", "/predict", b"{", 400),
        ("POST", "/predict", b"[]", 400),
        ("POST", "/predict", b"\xff\xfe", 400),
        ("POST", "/predict", b'{"points": [[NaN, 1]], "labels": [1]}', 400),
        ("POST", "/predict", b"[" * 100_000, 400),
        ("POST", "/predict", b'{"points": ' + b"9" * 10_000 + b"}", 400),
    ):
        with refused(status):
            client.request(method, path, body)


def test_a_body_beyond_the_limit_is_not_read(
    client: Samm12Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((Samm12Error, OSError)) as large:
        client.request("POST", "/predict", b" " * (http.MAX_BODY_BYTES + 1))
    assert not isinstance(large.value, Samm12Error) or large.value.status == 413
    assert client.get("/health")


SENDABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([GOOD, [[1, 1]], [1], BOX, [GOOD], [8, 8, 3], samm12.mask(BOXED)]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "image",
                    "shape",
                    "data",
                    "points",
                    "labels",
                    "box",
                    "mask",
                    "text",
                    "items",
                    "frames",
                    "key",
                    "slice_spec",
                    "image_shape",
                    "image_digest",
                    "frame_index",
                    "prompt",
                    "direction",
                    "total",
                    "path",
                    "session_id",
                    "embedding_id",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    door = Door(tmp_path_factory.mktemp("fuzzed"))
    door.client.prepare("lite_medsam_embedded")
    yield door
    door.close()


@settings(max_examples=150)
@given(data=st.data())
def test_any_json_gets_an_answer_and_breaks_nothing(fuzzed: Door, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from([each for each in fuzzed.server.routes if each.method == "POST"]))
    path = re.sub(r"\{\w+\}", "x", route.path)
    fields = data.draw(SENDABLE)
    if isinstance(fields, dict) and isinstance(fields.get("path"), str):
        # The test writes nowhere.
        fields = {**fields, "path": f"relative/{fields['path']}"}
    try:
        status, _ = fuzzed.client.request("POST", path, fields)
        assert status in (200, 202)
    except Samm12Error as error:
        assert error.status in (400, 404, 409, 413, 429, 500, 501), error
        assert "The bridge failed" not in error.fields["error"]


@settings(max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_leave_the_port_in_service(fuzzed: Door, data: bytes, half_closed: bool) -> None:
    with closing(socket.create_connection(("127.0.0.1", fuzzed.port), timeout=30)) as raw:
        raw.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"[: data[0] if data else 0] + data)
        if half_closed:
            raw.shutdown(socket.SHUT_WR)
    assert fuzzed.client.get("/health")["status"] == "ready"


def test_silent_and_slow_connections_are_ended(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "_SILENT_S", 0.2)
    monkeypatch.setattr(fronts, "_HEAD_S", 0.2)
    monkeypatch.setattr(http, "BODY_WITHIN_S", 0.2)
    for sent in (
        b"",
        b"GET /health HT",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{",
    ):
        with closing(socket.create_connection(("127.0.0.1", door.port), timeout=60)) as raw:
            raw.sendall(sent)
            told = told_until_the_end(raw)
            assert not told or told.startswith(b"HTTP/1.1 408")


def until_served(door: Door, served: bool) -> None:
    """The front hears of connections a moment after they are made and closed."""
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        try:
            door.client.get("/health")
        except OSError:
            if not served:
                return
        else:
            if served:
                return
        time.sleep(0.02)
    raise AssertionError(f"a request is {'not ' if served else ''}served")


def test_connections_are_bounded_and_room_comes_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "MAX_CONNECTIONS", 8)
    held = [socket.create_connection(("127.0.0.1", door.port), timeout=30) for _ in range(8)]
    for each in held:
        each.sendall(b"GET /health HT")
    until_served(door, False)
    for each in held:
        each.close()
    until_served(door, True)


def told_until_the_end(raw: socket.socket) -> bytes:
    """What is said before the other side hangs up. Raises TimeoutError where it does not."""
    told = b""
    with suppress(ConnectionResetError):
        while more := raw.recv(4096):
            told += more
    return told


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_users_program_is_hung_up_on_before_it_says_anything(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fronts, "_SILENT_S", 600.0)
    # Another user may not be able to reach this interpreter: it starts as this one.
    stranger = """import os, socket, sys
os.setgroups([])
os.setuid(65534)
connection = socket.socket()
connection.connect(("127.0.0.1", int(sys.argv[1])))
connection.recv(1)"""
    subprocess.run([sys.executable, "-c", stranger, str(door.port)], timeout=60, check=True)
    assert "Another user's program was refused" in caplog.text


def test_who_hangs_up_at_once_is_not_taken_for_another_user(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """As what looks whether a port is open: its socket is nobody's by the time that the front looks."""
    for _ in range(50):
        socket.create_connection(("127.0.0.1", door.port), timeout=30).close()
    assert door.client.get("/health")
    assert not caplog.records


def test_a_bridge_that_closes_hangs_up_on_everybody_and_leaves_no_thread(tmp_path: Path) -> None:
    before = {*threading.enumerate()}
    door = Door(tmp_path)
    door.graph.holds_back = True
    connections = []
    body = json.dumps({**marks(box=BOX), "image": GOOD}).encode()
    asks = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    for sent in (b"", b"GET /health HT", asks, b"\xff"):
        connections.append(socket.create_connection(("127.0.0.1", door.port), timeout=30))
        connections[-1].sendall(sent)
    assert door.graph.has_held.wait(30)
    # ZeroMQ's greeting.
    assert connections[-1].recv(1) == b"\xff"
    door.close()
    assert {*threading.enumerate()} <= before
    for raw in connections:
        with raw:
            # The rest of the greeting may have been on its way.
            assert len(told_until_the_end(raw)) < 64
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", door.port), timeout=30)


def test_samm_1_1_is_served_where_http_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    def application() -> web.Application:
        raise ImportError("No module named 'aiohttp'")

    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    echo = lambda identity, frames: sockets.send("SAMM", identity, frames)  # noqa: E731
    sockets = SocketThread(
        [Endpoint("SAMM", "127.0.0.1", 0, "", 1 << 20, echo, application)], lambda: None, said.put
    )
    with closing(sockets):
        sockets.start()
        port = int(said.get(timeout=60).rpartition(":")[2])
        with SammExtension(port) as samm11:
            assert samm11.request_frames([b"a", b"echo"]) == b"a"
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as raw:
            raw.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert told_until_the_end(raw) == b""
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"SAMM 1.2 is not served at port {port}" in told.getMessage()
    assert "No module named 'aiohttp'" in told.getMessage()


# On the graph.


@pytest.fixture(scope="module")
def bridge(
    shared_graph: str, mni_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgeProcess]:
    with BridgeProcess(shared_graph, tmp_path_factory.mktemp("bridge")) as bridge:
        Samm12Extension(bridge.ports["SAMM"]).until_prepared()
        yield bridge
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


DISC = np.hypot(*(np.mgrid[:96, :128] - np.array([44, 70]).reshape(2, 1, 1))) < 22
AROUND = [46, 20, 94, 68]


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    """(3, 96, 128) uint8: a cylinder in noise, by chance, so that no graph has seen it."""
    noise = np.random.default_rng().normal(0, 6, (3, *DISC.shape))
    return (np.where(DISC, 170, 80) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(400)
def test_two_panels_share_a_graph_with_all_other_clients(
    bridge: BridgeProcess, shared_graph: str, slices: np.ndarray
) -> None:
    """Slicer-IPP, the extension of the paper's release and a ROS client are beside them."""
    panel, other = Samm12Extension(bridge.ports["SAMM"]), Samm12Extension(bridge.ports["SAMM"])
    assert panel.connect()["weight_id"] == "lite_medsam" == other.connect("f" * 32)["weight_id"]
    with (
        GraphClient(shared_graph, "beside") as ros,
        BlockingIppClient(bridge.ports["IPP/2"], "beside") as ipp,
        SammExtension(bridge.ports["SAMM"]) as samm11,
    ):
        assert ipp.hello()["version"] == 2
        for index, prompt in (
            (0, marks(box=AROUND)),
            (0, marks([[70, 44]], [1])),
            (1, marks(box=AROUND)),
            (0, marks(mask=samm12.mask(DISC))),
        ):
            mask = panel.predict(prompt, slices[index])
            assert dice_of(mask, DISC) > 0.9, (index, prompt)
            assert np.array_equal(other.predict(prompt, slices[index]), mask)
        assert samm11.set_image_size(slices.shape) == b"\1", "ZeroMQ is served at the same port"

        def hits() -> list[bool]:
            events = [e for e in ros.events if e.task == Task.CPL_INF and e.client_id.startswith("samm12/")]
            return [each.completion.embedding_hit for each in events if each.completion]

        # Scrolled to and fro, until some events are heard: they are sent by best effort.
        for index in range(40):
            panel.predict(marks(box=AROUND), slices[index % 2])
            if len(hits()) >= 6:
                break
        # Two slices were encoded, also where one was scrolled back to, or prompted on by the other panel.
        assert len(hits()) >= 6 and hits().count(False) <= 2 and all(hits()[-3:]), hits()


@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(400)
def test_jobs_and_videos_run_on_the_graph(bridge: BridgeProcess, slices: np.ndarray) -> None:
    panel = Samm12Extension(bridge.ports["SAMM"])
    panel.connect()
    echo = [{"key": f"Red|0|{k}", "slice_spec": samm12.slice_spec(k)} for k in range(len(slices))]
    images = [samm12.image(each) for each in slices]
    items = [{**e, **marks(box=AROUND), "image": i} for e, i in zip(echo, images, strict=True)]
    state = panel.job("prediction", items)
    assert (state["status"], state["completed"]) == ("complete", 3), state["error"]
    by_slice = [pixels_of(each) for each in state["results"]]
    assert all(dice_of(mask, DISC) > 0.9 for mask in by_slice)

    path = f"/video-prediction-jobs/{panel.post('/video-prediction-jobs', {'total': 3})['job_id']}"
    for k, image in enumerate(images):
        panel.post(f"{path}/frames", {"frames": [{"frame_index": k, **echo[k], "image": image}]})
    panel.post(f"{path}/run", run(1, box=AROUND))
    state = panel.until_ended(path)
    assert (state["status"], state["completed"]) == ("complete", 3), state["error"]
    assert state["results"][0]["frame_index"] == 1
    assert all(dice_of(pixels_of(each), DISC) > 0.9 for each in state["results"])

    panel.prepare("lite_medsam_embedded")
    (embedded,) = panel.job("embedding", [samm12.embedding_item(0, slices[0])])["results"]
    mask = panel.predict(marks(box=AROUND), embedded["embedding_id"])
    assert np.array_equal(mask, by_slice[0])
    panel.prepare("lite_medsam")
