# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The IPP/2 door without sockets and ROS: its dispatch, its clients, and who may undo what in the graph."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from rclpy.task import Future
from samm_msgs.action import SegmentVolume

from samm_core import ipp
from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.events import Outcome, Task, TaskEvent
from samm_core.mask_codec import decode_mask, encode_mask
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import Window
from samm_ros.conversions import LoadedVolume
from slicer_ros_bridge import volume_tasks
from slicer_ros_bridge.doors.ipp import server as ipp_server
from slicer_ros_bridge.doors.ipp.server import IppServer
from slicer_ros_bridge.doors.samm11.actions import GraphSammActions
from slicer_ros_bridge.graph_actions import (
    Done,
    EmbeddingState,
    GraphActions,
    GraphListener,
    ModelState,
    ModelWeights,
    SegmentEdit,
    StreamImage,
    TaskEnd,
    TaskProgress,
    VolumeTask,
    WeightsState,
)
from slicer_ros_bridge.node_graph import NodeGraph, embedded_runs
from slicer_ros_bridge.undo import TASK_MARK, StepOwners
from slicer_ros_bridge.volume_tasks import TaskMessage, VolumeTasks
from slicer_ros_bridge.volumes import VolumeStore
from slicer_ros_bridge.worker import Worker

MODEL = ModelState("lite_medsam", "cpu", True, True)
PROMPT = {"plane": 0, "index": 3, "segment": "", "points_xy": [[1, 2]], "labels": [1], "box_xyxy": None}


def loaded_volume(uid: str) -> LoadedVolume:
    return LoadedVolume(uid, "v", f"/{uid}.nrrd", VolumeGeometry((5, 4, 3), np.eye(4)), Window(0, 1))


class FakeGraph:
    """GraphActions that note what they are asked, and answer at once."""

    def __init__(self) -> None:
        self.volumes = {"u": loaded_volume("u")}
        self.server = "a"
        self.model: ModelState | None = MODEL
        self.embedding: EmbeddingState | None = None
        self.weights: WeightsState | None = None
        self.asked: list[str] = []
        self.forgotten: list[str] = []
        self.prompts: dict[str, Callable[[Answer], None]] = {}
        self.listeners: list[GraphListener] = []
        self.tasks: list[tuple[VolumeTask, Callable[[TaskProgress], None], Done[TaskEnd]]] = []
        self.on_image: Callable[[StreamImage], None] | None = None
        self.marks: list[tuple[ClientPrompt, int]] = []

    def listen(self, listener: GraphListener) -> None:
        self.listeners.append(listener)

    def load_volume(self, path: Path, window: Window | None, done: Done[LoadedVolume]) -> None:
        self.asked.append(f"load {window.upper if window else None}")
        done(next(iter(self.volumes.values())), "")

    def select_model(self, name: str, done: Done[ModelState]) -> None:
        if name == MODEL.name:
            done(MODEL, "")
        else:
            done(None, "There is no such model.")

    def prompt(
        self,
        prompt: ClientPrompt,
        on_answer: Callable[[Answer], None],
        picture: np.ndarray | None = None,
    ) -> int:
        self.prompts[prompt.client_id] = on_answer
        return 1

    def forget(self, client_id: str) -> None:
        self.forgotten.append(client_id)

    def embed(self, planes: Sequence[int], volume_uid: str, done: Done[str]) -> None:
        done(f"Planes {list(planes)}.", "")

    def cancel_embed(self) -> None:
        self.asked.append("cancel")

    def segment_volume(
        self, task: VolumeTask, on_progress: Callable[[TaskProgress], None], done: Done[TaskEnd]
    ) -> None:
        self.tasks.append((task, on_progress, done))

    def cancel_volume(self, client_id: str) -> None:
        self.asked.append(f"cancel {client_id}")

    def fetch_weights(
        self, name: str, owner: str, on_progress: Callable[[int, int], None], done: Done[str]
    ) -> None:
        on_progress(1, 2)
        done(f"{name} is there.", "")

    def cancel_fetch(self, owner: str) -> None:
        self.asked.append(f"no weights for {owner}")

    def edit_segment(self, edit: SegmentEdit, owner: str, volume_uid: str, done: Done[str]) -> None:
        self.asked.append(
            f"{edit.kind} {edit.segment} {edit.new_name} {edit.color} of {owner} on {volume_uid}"
        )
        done("Done in the graph too.", "")

    def undo(self, client_ids: Collection[str], volume_uid: str, done: Done[str]) -> None:
        self.asked.append(f"undo {', '.join(client_ids)} on {volume_uid}")
        done("Undone.", "")

    def redo(self, volume_uid: str, done: Done[str]) -> None:
        self.asked.append("redo")
        done("Done again.", "")

    def save(self, path: Path, volume_uid: str, done: Done[str]) -> None:
        done(str(path), "")

    def watch_stream(self, on_image: Callable[[StreamImage], None] | None) -> None:
        self.on_image = on_image

    def mark_track(self, prompt: ClientPrompt, stamp_ns: int, done: Done[str]) -> None:
        self.marks.append((prompt, stamp_ns))
        done("Marked.", "")

    def rename_track(self, name: str, new_name: str, done: Done[str]) -> None:
        done(None, f"Nothing is called {name}.")

    def remove_track(self, name: str, done: Done[str]) -> None:
        self.asked.append(f"remove {name}")
        done("Removed.", "")

    def publish_event(self, event: TaskEvent) -> None:
        self.asked.append(event.node)

    def load(self, uid: str) -> None:
        """Beside what is loaded already."""
        self.volumes = {uid: loaded_volume(uid), **self.volumes}
        for listener in self.listeners:
            listener.on_volumes()


class Door:
    """An IppServer with its graph, and what it sent to each identity."""

    def __init__(self, folder: Path) -> None:
        self.graph = FakeGraph()
        self.sent: list[tuple[bytes, ipp.Message]] = []
        self.problems: list[str] = []
        self.worker = Worker(lambda call: call())
        self.stream_worker = Worker(lambda call: call(), "stream")
        self.server = IppServer(
            self.graph,
            VolumeStore(folder / "volumes"),
            folder / "saved",
            self.worker,
            self.stream_worker,
            lambda identity, frames: self.sent.append((identity, ipp.unpack(ipp.FROM_BRIDGE, frames))),
            self.problems.append,
        )
        self.graph.listen(self.server)
        self.graph.load("u")

    def say(
        self, identity: bytes, kind: str, buffer: bytes = b"", **fields: int | str | list | dict | None
    ) -> list[ipp.Message]:
        """What that identity is told at once."""
        before = len(self.sent)
        self.server.handle(identity, ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields))
        return [message for to, message in self.sent[before:] if to == identity]

    def hello(self, identity: bytes, name: str, **more: str) -> list[ipp.Message]:
        return self.say(identity, "hello", id=1, version=ipp.VERSION, client=name, software="", **more)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.worker.close()
    door.stream_worker.close()


def test_each_message_of_the_protocol_has_its_handler(door: Door) -> None:
    assert {"hello", *door.server.handlers} == set(ipp.FROM_SLICER)


def test_a_client_is_welcomed_and_told_the_state(door: Door) -> None:
    welcome, model, volume = door.hello(b"1", "a")
    assert (welcome.type, welcome["re"], welcome["version"]) == ("welcome", 1, ipp.VERSION)
    assert model.fields == {"name": "lite_medsam", "device": "cpu", "takes_points": True, "takes_box": True}
    assert (volume["uid"], volume["dimensions"]) == ("u", [5, 4, 3])
    door.graph.embedding = EmbeddingState("u", (1, 0, 0), (3, 4, 5), 2.0, False, 10, ([(0, 0)], [], []))
    embedding = door.hello(b"2", "b")[-1]
    assert (embedding["uid"], embedding["done"], embedding["total"]) == ("u", [1, 0, 0], [3, 4, 5])
    assert embedding["runs"] == [[[0, 0]], [], []]


@hypothesis.given(st.lists(st.lists(st.booleans(), min_size=1, max_size=40), min_size=3, max_size=3))
def test_runs_hold_each_embedded_slice_once(planes: list[list[bool]]) -> None:
    runs = embedded_runs(np.concatenate(planes), [len(plane) for plane in planes])
    for plane, found in zip(planes, runs, strict=True):
        assert [index for first, last in found for index in range(first, last + 1)] == list(
            np.flatnonzero(plane)
        )
        assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(found)), "runs are apart"


def test_a_client_without_a_hello_is_refused(door: Door) -> None:
    (error,) = door.say(b"1", "undo", id=5)
    assert (error.type, error["re"]) == ("error", 5)
    assert "Say hello first" in error["message"]
    assert not door.graph.asked


def test_a_client_that_comes_back_goes_on_where_it_was(door: Door) -> None:
    door.hello(b"1", "a")
    door.say(b"1", "prompt", number=7, stream=0, uid="u", **PROMPT)
    door.hello(b"2", "a")
    assert door.server.names == ["a"]
    mask = np.ones((4, 5), bool)
    answer = Answer(
        1, "a", "", ImageId("u", SliceKey(Plane.AXIAL, 3)), mask.shape, "m", data=encode_mask(mask)
    )
    door.graph.prompts["a"](answer)
    identity, message = door.sent[-1]
    assert (identity, message.type, message["number"]) == (b"2", "mask", 7)
    # Its answer is sent again, and the graph gets no second request.
    door.graph.prompts.clear()
    (again,) = door.say(b"2", "prompt", number=7, stream=0, uid="u", **PROMPT)
    assert again == message
    assert not door.graph.prompts


def test_a_client_hears_of_its_own_volume_unless_another_took_its_place(door: Door) -> None:
    door.graph.volumes = {uid: loaded_volume(uid) for uid in ("newest", "u")}
    # The bridge was restarted: only the client knows what it works on.
    assert door.hello(b"1", "a", uid="u")[2]["uid"] == "u"
    assert door.hello(b"2", "b", uid="unknown")[2]["uid"] == "", "it is to send it"
    assert door.hello(b"3", "c")[2]["uid"] == "newest"

    def told() -> list[str]:
        before = len(door.sent)
        door.server.on_volumes()
        return [message["uid"] for identity, message in door.sent[before:] if identity == b"1"]

    door.graph.volumes.pop("u")
    assert told() == ["newest"]
    door.graph.volumes["u"] = loaded_volume("u")
    assert told() == ["u"]
    # The server was restarted, and has one of two volumes back.
    door.graph.volumes.pop("u")
    door.graph.server = "b"
    assert told() == [""]


def test_a_client_with_a_volume_is_welcome_when_the_graph_was_heard_of_or_there_seems_to_be_none(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, door.graph.volumes, door.graph.server = door.graph.volumes, {}, ""
    monkeypatch.setattr(ipp_server, "HEARD_S", 60.0)
    assert door.hello(b"1", "a", uid="u") == []
    assert door.hello(b"2", "b")[0].type == "welcome"
    with monkeypatch.context() as later:
        later.setattr(ipp_server, "HEARD_S", 0.0)
        assert door.hello(b"3", "c", uid="u")[2]["uid"] == ""
    door.graph.volumes, door.graph.server = volumes, "a"
    assert door.hello(b"1", "a", uid="u")[2]["uid"] == "u"


def test_a_client_whose_volume_a_restarted_server_has_again_is_told_of_the_next_one(door: Door) -> None:
    door.graph.volumes = {"u": loaded_volume("u")}
    assert door.hello(b"1", "a", uid="u")[2]["uid"] == "u"
    door.graph.server = "b"
    before = len(door.sent)
    door.server.on_volumes()
    assert len(door.sent) == before, "nothing has changed for it"
    door.graph.volumes = {"newest": loaded_volume("newest")}
    door.server.on_volumes()
    assert [message["uid"] for _, message in door.sent[before:]] == ["newest"]


def test_a_client_that_is_silent_or_says_bye_is_forgotten(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    for identity, name in ((b"1", "a"), (b"2", "b")):
        door.hello(identity, name)
        door.say(identity, "prompt", number=1, stream=2, uid="u", **PROMPT)
    assert [m.type for m in door.say(b"1", "bye", id=3)] == ["done"]
    monkeypatch.setattr(ipp, "TIMEOUT_S", -1.0)
    door.server.tick()
    assert door.server.names == []
    assert door.graph.forgotten == ["a/2", "b/2"]


def test_a_failure_in_the_door_is_answered_and_the_next_message_served(door: Door) -> None:
    door.hello(b"1", "a")
    door.graph.undo = None
    (error,) = door.say(b"1", "undo", id=5)
    assert (error["re"], error["message"][:27]) == (5, "The bridge failed at this m")
    (done,) = door.say(b"1", "redo", id=6)
    assert done["text"] == "Done again."


def test_a_model_and_embeddings_are_answered_when_the_graph_has_them(door: Door) -> None:
    door.hello(b"1", "a")
    assert door.say(b"1", "select_model", id=2, name="lite_medsam")[0]["name"] == "lite_medsam"
    assert door.say(b"1", "select_model", id=3, name="x")[0]["message"] == "There is no such model."
    assert door.say(b"1", "embed", id=4, planes=[0, 2])[0]["text"] == "Planes [0, 2]."
    assert door.say(b"1", "cancel_embed", id=5)[0]["re"] == 5


def mark(index: int, mask: np.ndarray) -> tuple[dict, bytes]:
    data = encode_mask(mask)
    return {"index": index, "shape": list(mask.shape), "size": len(data)}, data


def task(number: int = 1, **changes: int | str | list | dict | None) -> dict:
    fields = {"uid": "u", "task": "propagate", "plane": 0, "segment": "s", "first": 0, "last": 2}
    return {
        **fields,
        "number": number,
        "masks": [],
        "prompts": [],
        "box3d": None,
        "frozen": [],
        "id": number,
        **changes,
    }


def task_answer(index: int, client_id: str = "a", cycle: int = 1) -> Answer:
    mask = np.eye(4, 5).astype(bool)
    image = ImageId("u", SliceKey(Plane.AXIAL, index))
    return Answer(cycle, client_id, "s", image, mask.shape, "m", data=encode_mask(mask), score=0.9)


END = TaskEnd(True, "", ("From slice 1 to slice 2: the volume ends.",), 2, 1.5)


def test_a_task_reaches_the_graph_whole_and_its_masks_and_its_end_the_client(door: Door) -> None:
    door.hello(b"1", "a")
    masks = [np.eye(4, 5).astype(bool), np.ones((4, 5), bool)]
    (one, first), (two, second) = (mark(index, mask) for index, mask in enumerate(masks))
    prompt = {"index": 2, "points_xy": [[1, 2]], "labels": [1], "box_xyxy": None}
    box = {"centre_ras": [1, 2, 3], "size_mm": [4, 5, 6], "orientation_xyzw": [0, 0, 0, 1]}
    fields = task(7, masks=[one, two], prompts=[prompt], box3d=box, frozen=[0])
    assert not door.say(b"1", "segment_volume", first + second, **fields)

    ((asked, on_progress, done),) = door.graph.tasks
    assert (asked.client_id, asked.volume_uid, asked.kind, asked.segment) == ("a", "u", "propagate", "s")
    assert (asked.first, asked.last, asked.frozen) == (0, 2, [0])
    for painted, mask in zip(asked.masks, masks, strict=True):
        np.testing.assert_array_equal(decode_mask(painted.data, painted.shape), mask)
    assert (asked.prompts[0].slice_index, asked.prompts[0].points.tolist()) == (2, [[1, 2, 0]])
    assert asked.box.size_mm == (4, 5, 6)

    before = len(door.sent)
    on_progress(TaskProgress(None, 16, 256))
    on_progress(TaskProgress(task_answer(2), 1, 0))
    done(END, "")
    (_, progress), (_, mask), (_, ended) = door.sent[before:]
    assert (progress.type, progress["done"], progress["total"]) == ("volume_progress", 16, 256)
    assert (mask.type, mask["number"], mask["index"], mask["done"]) == ("volume_mask", 7, 2, 1)
    assert decode_mask(mask.buffer, tuple(mask["shape"])).sum() == 4
    assert (ended.type, ended["re"], ended["success"], ended["slices"]) == ("volume_ended", 7, True, 2)
    assert ended["stopped"] == list(END.stopped)


def test_a_task_that_cannot_begin_is_an_error_and_the_next_one_works(door: Door) -> None:
    door.hello(b"1", "a")
    door.say(b"1", "segment_volume", **task(1))
    door.graph.tasks[0][2](None, "The graph's segment_volume is away.")
    assert (door.sent[-1][1].type, door.sent[-1][1]["re"]) == ("error", 1)
    door.say(b"1", "segment_volume", **task(2))
    assert len(door.graph.tasks) == 2


@pytest.mark.parametrize(
    ("changes", "buffer", "sentence"),
    [
        ({"uid": "other"}, b"", "other is not loaded"),
        ({"masks": [{"index": 0, "shape": [4, 5], "size": 9}]}, b"12345678", "9 bytes by their sizes, but 8"),
        ({}, b"more", "0 bytes by their sizes, but 4"),
        ({"masks": [{"index": 0, "shape": [9000, 9000], "size": 1}]}, b"1", "the slices have"),
        (
            {"prompts": [{"index": 0, "points_xy": [[1, 2]], "labels": [], "box_xyxy": None}]},
            b"",
            "0 labels for 1 points",
        ),
        (
            {"box3d": {"centre_ras": [0] * 3, "size_mm": [1, 0, 1], "orientation_xyzw": [0, 0, 0, 1]}},
            b"",
            "must exceed 0",
        ),
        (
            {"box3d": {"centre_ras": [0] * 3, "size_mm": [1] * 3, "orientation_xyzw": [0] * 4}},
            b"",
            "no unit quaternion",
        ),
    ],
)
def test_a_task_that_cannot_be_is_refused_in_a_sentence_and_begins_nothing(
    door: Door, changes: dict, buffer: bytes, sentence: str
) -> None:
    door.hello(b"1", "a")
    (error,) = door.say(b"1", "segment_volume", buffer, **task(**changes))
    assert sentence in error["message"]
    assert not door.graph.tasks


def test_of_several_tasks_of_a_client_the_newest_follows_the_one_that_runs(door: Door) -> None:
    door.hello(b"1", "a")
    door.say(b"1", "segment_volume", **task(1))
    door.say(b"1", "segment_volume", **task(2))
    (refused,) = door.say(b"1", "segment_volume", **task(3))
    assert (refused["re"], refused["message"]) == (2, "A newer task took its place.")
    assert len(door.graph.tasks) == 1 and door.graph.asked == ["cancel a"] * 2
    door.graph.tasks[0][2](TaskEnd(False, "Cancelled after 1 slices; they stay.", (), 1, 0.5), "")
    assert door.sent[-1][1]["number"] == 1
    assert len(door.graph.tasks) == 2
    door.graph.tasks[1][2](END, "")
    assert door.sent[-1][1]["number"] == 3


def test_a_task_is_cancelled_by_its_number(door: Door) -> None:
    door.hello(b"1", "a")
    door.say(b"1", "segment_volume", **task(1))
    assert door.say(b"1", "cancel_volume", id=5, number=99)[0]["re"] == 5
    assert not door.graph.asked
    door.say(b"1", "segment_volume", **task(2))
    (refused, done) = door.say(b"1", "cancel_volume", id=6, number=2)
    assert (refused["re"], refused.type, done["re"]) == (2, "error", 6)
    door.graph.tasks[0][2](END, "")
    assert len(door.graph.tasks) == 1, "a task that was cancelled began"


def test_a_client_that_leaves_or_comes_back_ends_its_task(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, leave in enumerate(
        (
            lambda: door.say(b"1", "bye"),
            lambda: door.hello(b"2", "a"),
            lambda: (monkeypatch.setattr(ipp, "TIMEOUT_S", -1.0), door.server.tick()),
        ),
        1,
    ):
        door.hello(b"1", "a")
        door.say(b"1", "segment_volume", **task(number))
        door.graph.asked.clear()
        leave()
        assert door.graph.asked == ["cancel a"]
        door.graph.tasks[-1][2](TaskEnd(False, "Cancelled.", (), 0, 0.0), "")
    assert len(door.graph.tasks) == 3


def test_an_undo_names_all_streams_of_its_client(door: Door) -> None:
    door.hello(b"1", "a")
    assert door.say(b"1", "undo", id=4)[0]["text"] == "Undone."
    assert door.graph.asked == ["undo a, a/1, a/2, a/3 on u"]


def test_a_change_of_a_segment_is_asked_for_on_the_clients_volume(door: Door) -> None:
    door.hello(b"1", "a")
    for kind, fields in (
        ("segment_rename", {"name": "s", "new_name": "t"}),
        ("segment_recolor", {"name": "t", "color": [0, 0.5, 1]}),
        ("segment_remove", {"name": "t"}),
    ):
        assert door.say(b"1", kind, id=4, **fields)[0]["text"] == "Done in the graph too."
    assert door.graph.asked == [
        "rename s t (0.0, 0.0, 0.0) of a on u",
        "recolor t  (0, 0.5, 1) of a on u",
        "remove t  (0.0, 0.0, 0.0) of a on u",
    ]


def test_weights_are_listed_and_fetched_with_progress(door: Door) -> None:
    door.hello(b"1", "a")
    door.hello(b"2", "asks for nothing")
    (listed,) = door.say(b"1", "weights", id=3)
    assert (listed["re"], listed["models"]) == (3, []), "the graph is starting"
    weights = WeightsState("/w", (ModelWeights("vit_b", "b.pth", 5, False, True, "a page"),))
    before = len(door.sent)
    door.server.on_weights(weights)
    ((to, listed),) = door.sent[before:]
    assert (to, listed["folder"], [each["model"] for each in listed["models"]]) == (b"1", "/w", ["vit_b"])
    progress, done = door.say(b"1", "fetch_weights", id=5, name="vit_b")
    assert (progress.type, progress["name"], progress["done"], progress["total"]) == (
        "weights_progress",
        "vit_b",
        1,
        2,
    )
    assert done["text"] == "vit_b is there."
    door.say(b"1", "cancel_fetch", id=6)
    assert door.graph.asked == ["no weights for a"]


def test_each_client_is_told_of_its_own_volume_whatever_another_loads(door: Door) -> None:
    door.hello(b"1", "a")
    door.say(b"1", "prompt", id=2, number=1, stream=0, uid="u", **PROMPT)
    before = len(door.sent)

    door.graph.load("v")

    assert not [message for _, message in door.sent[before:] if message.type == "volume"]
    *_, volume = door.hello(b"2", "b")
    assert volume["uid"] == "v", "a client without a volume hears of the one loaded last"
    assert "does not know your volume" in door.say(b"2", "undo", id=3)[0]["message"]
    assert "does not know your volume" in door.say(b"2", "save", id=3, name="x.nrrd")[0]["message"]
    door.say(b"1", "bye", id=4)
    *_, volume = door.hello(b"3", "a")
    assert volume["uid"] == "u", "a client that comes back goes on with its volume"
    door.say(b"3", "undo", id=4)
    assert door.graph.asked[-1] == "undo a, a/1, a/2, a/3 on u"


def test_a_file_is_saved_in_the_folder_alone(door: Door) -> None:
    door.hello(b"1", "a")
    assert door.say(b"1", "save", id=2, name="x.nrrd")[0]["text"].endswith("/saved/x.nrrd")
    for name in ("../x", "/x", ".x"):
        assert "no bare file name" in door.say(b"1", "save", id=3, name=name)[0]["message"]


def test_the_times_of_a_whole_cycle_are_told_its_client(door: Door) -> None:
    door.hello(b"1", "a")
    door.hello(b"2", "b")
    before = len(door.sent)
    for task in Task:
        door.server.on_event(_event("a/2", task=task, ended_ms=10 * task + 10))
    ((identity, cycle),) = door.sent[before:]
    assert (identity, cycle.type, cycle["stream"]) == (b"1", "cycle", 2)
    assert cycle["total_ms"] == 50
    assert list(cycle["intervals_ms"].values()) == [10] * 5


def _event(
    client_id: str,
    volume_uid: str = "u",
    task: Task = Task.APL_MSK,
    node: str = "apl_msk",
    outcome: Outcome = Outcome.COMPLETED,
    ended_ms: int = 1,
    cycle: int = 1,
) -> TaskEvent:
    where = ImageId(volume_uid, SliceKey(Plane.AXIAL, 3))
    return TaskEvent(task, outcome, cycle, client_id, where, node, 0, ended_ms * 10**6)


@pytest.fixture
def owners() -> StepOwners:
    return StepOwners()


def test_a_client_undoes_its_own_newest_step_alone(owners: StepOwners) -> None:
    assert owners.may_undo(["a"], "u"), "what is not known is left to the graph"
    owners.note(_event("a"))
    owners.note(_event("b/1"))
    assert not owners.may_undo(["a", "a/1"], "u")
    assert owners.may_undo(["b", "b/1"], "u")
    owners.undone("u")
    assert owners.may_undo(["a", "a/1"], "u")


def test_a_change_of_a_segment_is_a_step_of_its_client(owners: StepOwners) -> None:
    owners.note(_event("b"))
    owners.edited("a", "u")
    assert owners.may_undo(["a", "a/1"], "u")
    assert not owners.may_undo(["b"], "u")
    owners.undone("u")
    assert owners.may_undo(["b"], "u")


def test_the_steps_of_another_volume_hinder_no_undo(owners: StepOwners) -> None:
    owners.note(_event("b"))
    assert owners.may_undo(["a"], "other")
    assert not owners.may_undo(["a"], "u")


@pytest.mark.parametrize(
    "event",
    [
        _event("b", node="slicer/b"),
        _event("b", task=Task.RCV_MSK),
        _event("b", outcome=Outcome.DROPPED),
    ],
    ids=["Slicer's own", "another task", "not applied"],
)
def test_only_what_apl_msk_applied_is_a_step(owners: StepOwners, event: TaskEvent) -> None:
    owners.note(event)
    assert owners.may_undo(["a"], "u")


def test_the_masks_of_a_task_are_one_step_of_its_client(owners: StepOwners) -> None:
    name = f"a{TASK_MARK}12345678"
    owners.note(_event("b"))
    for cycle in (1, 2, 3):
        owners.note_task(name, cycle, "an id")
        owners.note(_event(name, cycle=cycle))
    assert owners.may_undo(["a", "a/1"], "u")
    assert not owners.may_undo(["b"], "u")
    owners.undone("u")
    assert owners.may_undo(["b"], "u")
    # What comes of the task after that, or after another's mask, is a step of its own.
    owners.note_task(name, 4, "an id")
    owners.note(_event(name, cycle=4))
    owners.note(_event("b", cycle=5))
    owners.note_task(name, 6, "an id")
    owners.note(_event(name, cycle=6))
    for owner in ("a", "b", "a", "b"):
        assert owners.may_undo([owner], "u")
        owners.undone("u")


def test_another_programs_task_is_one_step_too(owners: StepOwners) -> None:
    owners.note(_event("a"))
    for cycle in (2, 3):
        owners.note_task("program", cycle, "an id")
        owners.note(_event("program", cycle=cycle))
    assert not owners.may_undo(["a"], "u")
    owners.undone("u")
    assert owners.may_undo(["a"], "u")


def test_a_task_that_was_redone_is_joined_by_nothing(owners: StepOwners) -> None:
    for cycle in (1, 2):
        owners.note_task("a", cycle, "an id")
        owners.note(_event("a", cycle=cycle))
        owners.undone("u")
        owners.redone("u")
    owners.undone("u")
    owners.undone("u")
    owners.note(_event("b", cycle=9))
    owners.undone("u")
    assert owners.may_undo(["c"], "u"), "there were more than two steps"


class FakeGoal:
    """As support.goals.Goal, without a server. All that were sent are in `sent`."""

    sent: list[FakeGoal] = []

    def __init__(self, node: object, client: object, request: object, on_feedback: Callable) -> None:
        self.request, self.on_feedback, self.ended = request, on_feedback, Future()
        self.cancelled = False
        FakeGoal.sent.append(self)

    def cancel(self) -> None:
        self.cancelled = True


class Tasks:
    """VolumeTasks over fakes: is_there: whether the action's server is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_there, self.now = True, 0.0
        FakeGoal.sent = []
        action = SimpleNamespace(server_is_ready=lambda: self.is_there)
        monkeypatch.setattr(volume_tasks, "ActionClient", lambda *_: action)
        monkeypatch.setattr(volume_tasks, "Goal", FakeGoal)
        monkeypatch.setattr(volume_tasks, "time", SimpleNamespace(monotonic=lambda: self.now))
        node = SimpleNamespace(
            count_publishers=lambda topic: int(self.is_there), get_fully_qualified_name=lambda: "/bridge"
        )
        self.tasks = VolumeTasks(node, lambda call: call())
        self.progress: list[TaskProgress] = []
        self.ends: list[tuple[TaskEnd | None, str]] = []

    def start(self, **changes: object) -> FakeGoal | None:
        asked = VolumeTask(
            **{
                "client_id": "a",
                "volume_uid": "u",
                "kind": "propagate",
                "plane": Plane.AXIAL,
                "segment": "s",
                "first": 0,
                "last": 2,
                **changes,
            }
        )
        self.tasks.start(asked, self.progress.append, lambda end, why: self.ends.append((end, why)))
        return FakeGoal.sent[-1] if FakeGoal.sent else None

    def mask(self, goal: FakeGoal, index: int) -> None:
        self.tasks.heard(TaskMessage("id", task_answer(index, goal.request.client_id, index)))


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    return Tasks(monkeypatch)


def result(**fields: object) -> SegmentVolume.Result:
    return SegmentVolume.Result(**{"success": True, "id": "id", "slices": 2, **fields})


def test_a_task_ends_when_its_last_mask_has_come_and_is_applied_whichever_comes_first(tasks: Tasks) -> None:
    goal = tasks.start()
    tasks.mask(goal, 0)
    goal.ended.set_result(result(stopped=["It ends."]))
    assert not tasks.ends, "a mask was still to come"
    tasks.mask(goal, 1)
    tasks.tasks.heard(TaskMessage("id", None))
    assert not tasks.ends, "APL_MSK had still to apply it"
    tasks.tasks.on_applied(["id"])
    assert tasks.ends == [(TaskEnd(True, "", ("It ends.",), 2, 0.0), "")]
    assert [(each.answer.image.key.index, each.done) for each in tasks.progress] == [(0, 1), (1, 2)]

    goal = tasks.start()
    tasks.tasks.heard(TaskMessage("another id", None))
    tasks.tasks.on_applied(["id", "another id"])
    goal.ended.set_result(result(id="another id", slices=0))
    assert len(tasks.ends) == 2


def test_masks_that_are_lost_are_told_and_hold_up_no_task_for_good(tasks: Tasks) -> None:
    goal = tasks.start()
    tasks.mask(goal, 0)
    goal.ended.set_result(result())
    tasks.now = volume_tasks.LAST_MASKS_S
    tasks.tasks.tick()
    ((end, why),) = tasks.ends
    assert not end.success and "1 masks were lost" in end.message and not why


def test_the_masks_of_an_earlier_bridges_task_are_not_those_of_a_new_one(tasks: Tasks) -> None:
    goal = tasks.start()
    for client_id in ("a", f"a{TASK_MARK}00000000"):
        tasks.tasks.heard(TaskMessage("id", task_answer(1, client_id)))
    assert not tasks.progress
    assert goal.request.client_id.startswith(f"a{TASK_MARK}")


def test_progress_without_a_mask_is_told(tasks: Tasks) -> None:
    goal = tasks.start(kind="automatic")
    goal.on_feedback(SegmentVolume.Feedback(done=16, total=256))
    assert tasks.progress == [TaskProgress(None, 16, 256)]
    assert goal.request.task == SegmentVolume.Goal.AUTOMATIC


@pytest.mark.parametrize(
    ("lose", "sentence"),
    [
        (lambda tasks: (setattr(tasks, "is_there", False), tasks.tasks.tick()), "segment_volume is away"),
        (lambda tasks: tasks.tasks.server_restarted(), "was restarted"),
        (lambda tasks: tasks.tasks.on_volumes({"v"}), "u is not loaded"),
        (lambda tasks: FakeGoal.sent[0].ended.set_result(None), "does not take tasks"),
    ],
)
def test_a_task_whose_graph_is_lost_ends_in_a_sentence(
    tasks: Tasks, lose: Callable[[Tasks], object], sentence: str
) -> None:
    goal = tasks.start()
    tasks.mask(goal, 0)
    lose(tasks)
    ((end, why),) = tasks.ends
    assert end is None and sentence in why
    # What still comes of it is nobody's.
    tasks.mask(goal, 1)
    if not goal.ended.done():
        goal.ended.set_result(result())
    tasks.tasks.tick()
    assert len(tasks.progress) == len(tasks.ends) == 1


def test_a_server_that_is_not_there_yet_is_waited_for_a_while(tasks: Tasks) -> None:
    tasks.is_there = False
    assert tasks.start() is None
    tasks.is_there = True
    tasks.tasks.tick()
    assert len(FakeGoal.sent) == 1
    tasks.tasks.cancel("b")
    assert not FakeGoal.sent[0].cancelled
    tasks.tasks.cancel("a")
    assert FakeGoal.sent[0].cancelled

    tasks.is_there = False
    tasks.start(client_id="c")
    tasks.tasks.cancel("c")
    assert "before it began" in tasks.ends[-1][1]
    tasks.start(client_id="d")
    tasks.now = 3600.0
    tasks.tasks.tick()
    assert "segment_volume is away" in tasks.ends[-1][1]


def test_a_step_that_was_redone_is_still_its_clients(owners: StepOwners) -> None:
    owners.note(_event("a"))
    owners.undone("u")
    owners.redone("u")
    assert owners.may_undo(["a"], "u")
    assert not owners.may_undo(["b"], "u")
    owners.undone("u")
    owners.note(_event("b"))
    owners.redone("u")
    assert owners.may_undo(["b"], "u"), "a new mask leaves nothing to redo"


@pytest.mark.parametrize("graph", [NodeGraph, FakeGraph])
def test_a_graph_has_the_whole_seam(graph: type) -> None:
    for name, function in vars(GraphActions).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            assert (
                inspect.signature(getattr(graph, name)).parameters == inspect.signature(function).parameters
            )


def test_both_doors_need_the_same_seam_alone(door: Door, tmp_path: Path) -> None:
    actions = GraphSammActions(door.graph, VolumeStore(tmp_path / "samm"), door.worker, door.problems.append)
    door.graph.listen(actions)
    actions.load_volume(np.zeros((3, 4, 5), np.uint8))
    # The worker makes its calls one after the other.
    door.worker.close()
    masks: list[tuple[np.ndarray | None, str]] = []
    actions.prompt(Plane.AXIAL, 1, PixelPrompt([(1, 2)], [1]), lambda mask, why: masks.append((mask, why)))
    mask = np.eye(4, 5).astype(bool)
    answer = Answer(
        1, "samm/0", "", ImageId("u", SliceKey(Plane.AXIAL, 1)), mask.shape, "m", data=encode_mask(mask)
    )
    door.graph.prompts["samm/0"](answer)
    np.testing.assert_array_equal(masks[0][0], mask)
    assert door.graph.forgotten == ["samm/0"]


def test_a_prompt_that_the_model_does_not_take_is_refused(door: Door, tmp_path: Path) -> None:
    actions = GraphSammActions(door.graph, VolumeStore(tmp_path / "samm"), door.worker, door.problems.append)
    door.graph.model = ModelState("medsam", "cpu", False, True)
    answers: list[str] = []
    actions.prompt(Plane.AXIAL, 1, PixelPrompt([(1, 2)], [1]), lambda mask, why: answers.append(why))
    assert answers == ["medsam takes no points; give a box, or choose a model that takes them."]
