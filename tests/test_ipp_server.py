# SPDX-License-Identifier: Apache-2.0
"""The IPP/2 door without sockets and ROS: its dispatch, its clients, and who may undo what in the graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from samm_core import ipp
from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.events import Outcome, Task, TaskEvent
from samm_core.mask_codec import encode_mask
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import Window
from samm_ros.conversions import LoadedVolume
from slicer_ros_bridge.doors.ipp.server import IppServer
from slicer_ros_bridge.doors.samm11.actions import GraphSammActions
from slicer_ros_bridge.graph_actions import Done, EmbeddingState, GraphActions, GraphListener, ModelState
from slicer_ros_bridge.node_graph import NodeGraph
from slicer_ros_bridge.undo import StepOwners
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
        self.model: ModelState | None = MODEL
        self.embedding: EmbeddingState | None = None
        self.asked: list[str] = []
        self.forgotten: list[str] = []
        self.prompts: dict[str, Callable[[Answer], None]] = {}
        self.listeners: list[GraphListener] = []

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

    def prompt(self, prompt: ClientPrompt, on_answer: Callable[[Answer], None]) -> int:
        self.prompts[prompt.client_id] = on_answer
        return 1

    def forget(self, client_id: str) -> None:
        self.forgotten.append(client_id)

    def embed(self, planes: Sequence[int], volume_uid: str, done: Done[str]) -> None:
        done(f"Planes {list(planes)}.", "")

    def cancel_embed(self) -> None:
        self.asked.append("cancel")

    def undo(self, client_ids: Collection[str], volume_uid: str, done: Done[str]) -> None:
        self.asked.append(f"undo {', '.join(client_ids)} on {volume_uid}")
        done("Undone.", "")

    def redo(self, volume_uid: str, done: Done[str]) -> None:
        self.asked.append("redo")
        done("Done again.", "")

    def save(self, path: Path, volume_uid: str, done: Done[str]) -> None:
        done(str(path), "")

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
        self.server = IppServer(
            self.graph,
            VolumeStore(folder / "volumes"),
            folder / "saved",
            self.worker,
            lambda identity, frames: self.sent.append((identity, ipp.unpack(ipp.FROM_BRIDGE, frames))),
            self.problems.append,
        )
        self.graph.listen(self.server)
        self.graph.load("u")

    def say(self, identity: bytes, kind: str, **fields: int | str | list | None) -> list[ipp.Message]:
        """What that identity is told at once."""
        before = len(self.sent)
        self.server.handle(identity, ipp.pack(ipp.FROM_SLICER, kind, **fields))
        return [message for to, message in self.sent[before:] if to == identity]

    def hello(self, identity: bytes, name: str) -> list[ipp.Message]:
        return self.say(identity, "hello", id=1, version=ipp.VERSION, client=name, software="")


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.worker.close()


def test_each_message_of_the_protocol_has_its_handler(door: Door) -> None:
    assert {"hello", *door.server.handlers} == set(ipp.FROM_SLICER)


def test_a_client_is_welcomed_and_told_the_state(door: Door) -> None:
    welcome, model, volume = door.hello(b"1", "a")
    assert (welcome.type, welcome["re"], welcome["version"]) == ("welcome", 1, ipp.VERSION)
    assert model.fields == {"name": "lite_medsam", "device": "cpu", "takes_points": True, "takes_box": True}
    assert (volume["uid"], volume["dimensions"]) == ("u", [5, 4, 3])
    door.graph.embedding = EmbeddingState("u", (1, 0, 0), (3, 4, 5), 2.0, False, 10)
    embedding = door.hello(b"2", "b")[-1]
    assert (embedding["uid"], embedding["done"], embedding["total"]) == ("u", [1, 0, 0], [3, 4, 5])


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


def test_an_undo_names_all_streams_of_its_client(door: Door) -> None:
    door.hello(b"1", "a")
    assert door.say(b"1", "undo", id=4)[0]["text"] == "Undone."
    assert door.graph.asked == ["undo a, a/1, a/2, a/3 on u"]


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
) -> TaskEvent:
    where = ImageId(volume_uid, SliceKey(Plane.AXIAL, 3))
    return TaskEvent(task, outcome, 1, client_id, where, node, 0, ended_ms * 10**6)


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
