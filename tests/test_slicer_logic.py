# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's rules on a real MRML scene, without a bridge: which masks are applied, which marks are sent, how runs go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import vtk
from scipy.spatial.transform import Rotation
from slicer_scene import SlicerScene, numpy_matrix, positions, vtk_matrix
from SlicerIPPLib.client_events import BridgeState, MaskReceived, MessageReceived, ReplyReceived
from SlicerIPPLib.events import Signal
from SlicerIPPLib.marks import turned_box
from SlicerIPPLib.nodes import roi_corners, voxel_stamp
from SlicerIPPLib.state import GraphVolume, Model, SentVolume

from samm_core import ipp
from samm_core.cycle.request import STILL_WAITING
from samm_core.geometry import VolumeGeometry
from samm_core.mask_codec import decode_mask
from samm_core.tasks.box3d import Box3D

UID = "0123456789abcdef"
DIMENSIONS = (10, 9, 8)


class Loaded(SlicerScene):
    """As if a bridge were connected and had the volume; what would be sent to it lies in `sent`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []
        volume = self.add_volume(np.zeros(DIMENSIONS[::-1], np.int16), np.eye(4), (0, 1))
        self.state.bridge = BridgeState.CONNECTED
        self.state.model = Model("a model", "cpu", True, True)
        self.state.graph_volume = GraphVolume(UID, VolumeGeometry(DIMENSIONS, np.eye(4)), (0, 1), ())
        self.state.sent_volume = SentVolume(UID, volume.GetID(), voxel_stamp(volume))
        self.state.tasks = list(ipp.TASKS)
        self.logic.connection.send_prompt = lambda **fields: self.sent.append(fields)
        self.runs: list[dict[str, Any]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.logic.connection.send = lambda kind, **fields: self.notes.append((kind, fields))
        self.logic.connection.request = self._request
        self.show_slice(3)

    def show_slice(self, index: int) -> None:
        self.show("Red", 2, index, np.eye(4))

    def mark(self, *points: tuple[float, float, float]) -> None:
        self.parameters.positive = self.add_points(points)
        self.logic.prompt()

    def answer(self, prompt: dict[str, Any], mask: np.ndarray | None = None, **changed: Any) -> np.ndarray:
        """The mask to a prompt that was sent comes in."""
        mask = np.ones(DIMENSIONS[1::-1], bool) if mask is None else mask
        fields = {name: prompt[name] for name in ("number", "stream", "uid", "plane", "index")}
        fields |= {"cycle": 1, "shape": list(mask.shape), "score": 0.9, **changed}
        self._handle(MaskReceived(ipp.Message("mask", fields), mask))
        return mask

    def refuse(self, prompt: dict[str, Any], sentence: str) -> None:
        fields = {"number": prompt["number"], "stream": prompt["stream"], "cycle": 1, "message": sentence}
        self._handle(MessageReceived(ipp.Message("refused", fields)))

    def volume_mask(self, index: int, mask: np.ndarray | None = None, **changed: Any) -> None:
        """A mask of the newest run comes in."""
        mask = np.ones(DIMENSIONS[1::-1], bool) if mask is None else mask
        run = self.runs[-1]
        fields = {name: run[name] for name in ("number", "uid", "plane", "segment")}
        fields |= {"index": index, "shape": list(mask.shape), "score": 0.9, "done": 1, "total": 0, **changed}
        self._handle(MaskReceived(ipp.unpack(ipp.FROM_BRIDGE, packed("volume_mask", b"x", **fields)), mask))

    def volume_progress(self, done: int, total: int) -> None:
        fields = {"number": self.runs[-1]["number"], "done": done, "total": total}
        self._handle(MessageReceived(ipp.Message("volume_progress", fields)))

    def volume_ended(self, **changed: Any) -> None:
        fields = {"success": True, "message": "", "stopped": [], "slices": 0, "seconds": 1.5, **changed}
        fields = {"number": self.runs[-1]["number"], **fields}
        self.reply(ipp.unpack(ipp.FROM_BRIDGE, packed("volume_ended", **fields)))

    def reply(self, message: ipp.Message) -> None:
        """To the newest run."""
        self._handle(ReplyReceived(self._on_reply, message))

    def written(self) -> list[int]:
        """The indices of the slices that the active segment is on."""
        return sorted({round(float(z)) for z in self.voxels()[:, 2]})

    def _request(self, kind: str, on_reply: Any = None, buffer: bytes = b"", **fields: Any) -> None:
        """What the bridge would refuse is refused here."""
        if kind == "segment_volume":
            ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields)
            self.runs.append({**fields, "buffer": buffer})
            self._on_reply = on_reply

    def _handle(self, event: Any) -> None:
        self.logic._incoming.handle(event)


def packed(kind: str, buffer: bytes = b"", **fields: Any) -> list[bytes]:
    return ipp.pack(ipp.FROM_BRIDGE, kind, buffer, **fields)


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    with Loaded() as loaded:
        yield loaded


def test_a_mask_is_written_on_the_slice_of_its_prompt(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    mask = loaded.answer(loaded.sent[0])
    assert loaded.written() == [3]
    assert len(loaded.voxels()) == mask.sum()
    assert loaded.state.score == 0.9
    assert loaded.state.can_undo


def test_a_late_mask_for_another_slice_is_dropped_without_a_word(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    loaded.show_slice(4)
    loaded.mark((4, 5, 4))
    log = loaded.state.log
    loaded.answer(loaded.sent[0])
    assert (loaded.state.dropped, loaded.state.log) == (1, log)
    loaded.answer(loaded.sent[1])
    assert loaded.written() == [4]


def test_a_mask_that_is_older_than_the_applied_one_is_dropped_without_a_word(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    loaded.mark((5, 5, 3))
    log = loaded.state.log
    loaded.answer(loaded.sent[1])
    small = np.zeros(DIMENSIONS[1::-1], bool)
    loaded.answer(loaded.sent[0], small)
    assert (loaded.state.dropped, loaded.state.log) == (1, log)
    assert len(loaded.voxels()) == small.size


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"index": 2}, "another slice than its prompt"),
        ({"uid": "another"}, "another volume"),
        ({"number": 1}, "answers no prompt"),
        ({"shape": [3, 3]}, "pixels"),
    ],
)
def test_a_mask_that_does_not_fit_its_prompt_is_refused_in_a_sentence(
    loaded: Loaded, changed: dict[str, Any], sentence: str
) -> None:
    loaded.mark((4, 5, 3))
    loaded.answer(loaded.sent[0], **changed)
    assert sentence in loaded.state.log[-1]
    assert loaded.state.prompt_problem == loaded.state.log[-1]
    assert not loaded.state.can_undo


def test_a_mask_of_voxels_that_have_changed_since_is_refused(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    loaded.parameters.volume.GetImageData().Modified()
    loaded.answer(loaded.sent[0])
    assert "before it changed" in loaded.state.log[-1]


def test_a_slice_that_was_frozen_meanwhile_keeps_its_mask(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    loaded.logic.freeze(True)
    loaded.answer(loaded.sent[0])
    assert "frozen meanwhile" in loaded.state.log[-1]
    loaded.logic.prompt()
    assert "thaw it" in loaded.state.prompt_problem
    assert len(loaded.sent) == 1


@pytest.mark.parametrize("may_come", [True, False])
def test_after_a_refusal_a_mask_is_applied_only_if_it_was_still_to_come(
    loaded: Loaded, may_come: bool
) -> None:
    loaded.mark((4, 5, 3))
    sentence = f"{STILL_WAITING} The model is loading." if may_come else "The model failed."
    loaded.refuse(loaded.sent[0], sentence)
    assert loaded.state.prompt_problem == loaded.state.log[-1] == sentence
    loaded.answer(loaded.sent[0])
    assert loaded.state.can_undo == may_come


def test_what_the_model_does_not_take_is_named_and_the_rest_is_sent(loaded: Loaded) -> None:
    loaded.state.model = Model("boxes", "cpu", False, True)
    loaded.parameters.box = loaded.add_roi((2, 2, 2), (6, 7, 4), np.eye(4))
    loaded.mark((4, 5, 3))
    assert "boxes takes no points" in loaded.state.prompt_problem
    assert loaded.sent[0]["points_xy"] == []
    assert loaded.sent[0]["box_xyxy"] == [2, 2, 6, 7]
    assert "boxes takes no points" in loaded.logic.reasons()["positive"]
    assert not loaded.logic.reasons()["box"]


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        ((2, 2, 5), (6, 7, 6), "crosses slices 5 to 6, not the shown slice 3"),
        ((22, 2, 2), (26, 7, 4), "lies outside the volume"),
        ((2, 2, 2), (2.5, 7, 4), "less than a pixel wide"),
    ],
)
def test_a_box_that_cannot_be_sent_is_named(loaded: Loaded, low, high, sentence: str) -> None:
    loaded.parameters.box = loaded.add_roi(low, high, np.eye(4))
    loaded.logic.prompt()
    assert sentence in loaded.state.prompt_problem
    assert not loaded.sent


def test_what_is_known_of_a_mask_goes_with_it(loaded: Loaded) -> None:
    def masked() -> None:
        loaded.logic.prompt()
        loaded.answer(loaded.sent[-1])
        assert loaded.state.score == 0.9

    loaded.mark((4, 5, 3))
    masked()
    loaded.logic.prompt()
    loaded.refuse(loaded.sent[-1], "No.")
    assert loaded.state.score is None
    masked()
    loaded.logic.undo()
    assert loaded.state.score is None
    masked()
    loaded.state.latency = {"total": 20.0}
    loaded.add_volume(np.zeros((3, 4, 5), np.int16), np.eye(4), (0, 1))
    assert (loaded.state.score, loaded.state.latency) == (None, {})


def test_a_volume_that_is_chosen_while_another_one_is_on_its_way_is_loaded_instead(loaded: Loaded) -> None:
    on_their_way: list[Any] = []
    loaded.logic.connection.send_volume = lambda _voxels, fields, on_reply: on_their_way.append(
        (fields["shape_kji"], on_reply)
    )

    def arrive(uid: str) -> None:
        fields = {"uid": uid, "dimensions": [5, 4, 3], "ijk_to_ras": np.eye(4).ravel().tolist()}
        loaded._handle(
            ReplyReceived(on_their_way[-1][1], ipp.Message("volume", {**fields, "window": [0, 1]}))
        )

    loaded.add_volume(np.zeros((3, 4, 5), np.int16), np.eye(4), (0, 1))
    loaded.logic.load_volume()
    newer = loaded.add_volume(np.zeros((2, 4, 5), np.int16), np.eye(4), (0, 1))
    said = list(loaded.state.log)
    arrive("a" * 32)
    assert [shape for shape, _on_reply in on_their_way] == [[3, 4, 5], [2, 4, 5]]
    assert not loaded.state.has_loaded(newer) and loaded.state.is_loading
    assert loaded.state.log == said
    arrive("b" * 32)
    assert loaded.state.has_loaded(newer)
    # Of one that is gone before it has arrived, nothing stays.
    gone = loaded.add_volume(np.zeros((6, 4, 5), np.int16), np.eye(4), (0, 1))
    loaded.logic.load_volume()
    loaded.scene.RemoveNode(gone)
    arrive("c" * 32)
    assert len(on_their_way) == 3
    assert loaded.state.sent_volume is None and not loaded.state.is_loading


def test_a_disconnection_ends_the_download_of_weights(loaded: Loaded) -> None:
    loaded.logic.weights.fetch("a model")
    told: list[str] = []
    loaded.logic.events.weights.connect(lambda: told.append(loaded.state.fetching))
    loaded.logic.disconnect()
    assert told == [""]
    assert loaded.logic.reasons()["cancel_fetch"] != ""


def test_the_graph_has_no_copy_of_another_segmentations_segments(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    segment_id = loaded.parameters.segment_id
    assert loaded.logic.segments.is_in_graph(segment_id)
    another = loaded.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    another.GetSegmentation().AddEmptySegment(segment_id)
    loaded.parameters.segmentation = another
    loaded.logic.observe()
    assert not loaded.logic.segments.is_in_graph(segment_id)


def test_steps_of_a_segmentation_that_left_the_scene_are_dropped(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    loaded.answer(loaded.sent[0])
    first = loaded.parameters.segmentation
    loaded.parameters.segmentation = None
    loaded.logic.observe()
    loaded.mark((4, 5, 3))
    loaded.answer(loaded.sent[-1])
    loaded.scene.RemoveNode(first)
    assert loaded.state.can_undo, "the other one's step stays"
    loaded.logic.undo()
    assert loaded.state.can_redo
    loaded.scene.RemoveNode(loaded.parameters.segmentation)
    assert not loaded.state.can_undo and not loaded.state.can_redo


def a_mask() -> np.ndarray:
    mask = np.zeros(DIMENSIONS[1::-1], bool)
    mask[4:6, 4:7] = True
    return mask


@pytest.fixture
def painted(loaded: Loaded) -> Loaded:
    """The shown slice, 3, was painted by hand."""
    segment_id = loaded.logic.add_segment("painted")
    loaded.logic.segments.write(segment_id, 2, 3, a_mask())
    return loaded


def test_a_propagation_sends_the_painted_mask_with_its_range_and_the_frozen_slices(painted: Loaded) -> None:
    painted.show_slice(5)
    painted.logic.freeze(True)
    painted.show_slice(3)
    painted.logic.propagate(2)
    assert painted.state.is_running
    (run,) = painted.runs
    ((mark, data),) = zip(run["masks"], [run["buffer"]], strict=True)
    np.testing.assert_array_equal(decode_mask(data, tuple(mark["shape"])), a_mask())
    assert (mark["index"], mark["size"]) == (3, len(data))
    sent = {name: run[name] for name in ("uid", "task", "plane", "segment", "first", "last", "frozen")}
    assert sent == {
        "uid": UID,
        "task": "propagate",
        "plane": 0,
        "segment": "painted",
        "first": 1,
        "last": 5,
        "frozen": [5],
    }


def test_the_masks_of_a_run_are_written_as_they_come_and_are_one_step_of_undo(painted: Loaded) -> None:
    painted.logic.propagate(2)
    whole = np.ones_like(a_mask())
    for done, index in enumerate((3, 4, 2, 5), 1):
        painted.volume_mask(index, whole, done=done)
    assert painted.written() == [2, 3, 4, 5]
    assert painted.state.progress == (4, 5)
    np.testing.assert_array_equal(painted.logic.segments.mask_on(painted.logic.shown_place()), a_mask())
    painted.volume_ended(slices=4, stopped=["From slice 3 to slice 2: the structure ends."])
    assert painted.state.log[-2:] == [
        "From slice 3 to slice 2: the structure ends.",
        "Done: 4 slices in 1.5 s.",
    ]
    assert not painted.state.is_running
    painted.logic.undo()
    assert painted.written() == [3]
    painted.logic.redo()
    assert painted.written() == [2, 3, 4, 5]


def test_what_is_done_in_between_ends_the_step_of_a_run(painted: Loaded) -> None:
    painted.logic.propagate(3)
    painted.volume_mask(4)
    painted.logic.undo()
    painted.volume_mask(5)
    assert not painted.state.can_redo
    painted.logic.segments.write(painted.parameters.segment_id, 2, 0, a_mask())
    painted.volume_mask(6)
    for expected in ([0, 3, 5], [3, 5], [3]):
        painted.logic.undo()
        assert painted.written() == expected


def test_a_run_that_is_stopped_is_cancelled_and_what_still_comes_is_not_written(painted: Loaded) -> None:
    painted.logic.propagate(3)
    painted.volume_mask(4)
    number = painted.runs[0]["number"]
    painted.logic.stop()
    assert painted.notes == [("cancel_volume", {"number": number})]
    painted.volume_mask(5, number=number)
    painted.volume_ended(number=number, success=False, message="Cancelled.")
    assert painted.written() == [3, 4]
    assert (painted.state.log[-1], painted.state.dropped) == ("Stopped.", 1)


def test_a_frozen_slice_keeps_what_it_holds_whatever_a_run_brings(painted: Loaded) -> None:
    painted.logic.propagate(2)
    painted.show_slice(4)
    painted.logic.freeze(True)
    painted.volume_mask(4)
    painted.volume_mask(5)
    assert painted.written() == [3, 5]
    assert painted.state.is_running


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"uid": "another"}, "for another volume"),
        ({"plane": 1}, "not asked for"),
        ({"index": 7}, "not asked for"),
        ({"mask": np.ones((3, 3), bool)}, "pixels"),
    ],
)
def test_a_mask_that_does_not_fit_its_run_ends_it_in_a_sentence(
    painted: Loaded, changed: dict[str, Any], sentence: str
) -> None:
    painted.logic.propagate(2)
    painted.volume_mask(**{"index": 4, **changed})
    assert sentence in painted.state.log[-1]
    assert painted.written() == [3]
    assert not painted.state.is_running
    assert painted.notes[-1][0] == "cancel_volume"


def test_voxels_that_change_and_a_segment_that_is_deleted_end_a_run(painted: Loaded) -> None:
    painted.logic.propagate(2)
    painted.parameters.segmentation.GetSegmentation().RemoveSegment(painted.parameters.segment_id)
    painted.volume_mask(4)
    assert "segment was deleted" in painted.state.log[-1]
    segment_id = painted.logic.add_segment("again")
    painted.logic.segments.write(segment_id, 2, 3, a_mask())
    painted.logic.propagate(2)
    painted.parameters.volume.GetImageData().Modified()
    painted.volume_mask(4)
    assert "has changed" in painted.state.log[-1]
    assert painted.written() == [3]
    painted.logic.propagate(2)
    assert len(painted.runs) == 2 and "has changed" in painted.state.log[-1]


@pytest.mark.parametrize("done", [0, 1])
def test_a_bridge_that_refuses_or_is_lost_ends_a_run_in_a_sentence(painted: Loaded, done: int) -> None:
    painted.logic.propagate(2)
    for _ in range(done):
        painted.volume_mask(4)
    painted.reply(ipp.Message("error", {"message": "The bridge was lost before it answered."}))
    stays = " What is segmented stays." if done else ""
    assert painted.state.log[-1] == f"The bridge was lost before it answered.{stays}"
    assert not painted.state.is_running


def test_an_older_bridge_does_no_runs_and_the_controls_say_so(painted: Loaded) -> None:
    painted.state.tasks = []
    painted.parameters.roi = painted.add_roi((2, 2, 2.6), (6, 7, 5.4), np.eye(4))
    reasons = painted.logic.reasons()
    for control in ("propagate", "segment_roi", "everything"):
        assert "older than Slicer-IPP" in reasons[control]
    assert not reasons["prompt"]


def test_a_model_that_takes_no_box_propagates_and_fills_none(painted: Loaded) -> None:
    painted.state.model = Model("points", "cpu", True, False)
    painted.parameters.roi = painted.add_roi((2, 2, 2.6), (6, 7, 5.4), np.eye(4))
    assert not painted.logic.reasons()["propagate"]
    assert "takes no box" in painted.logic.reasons()["segment_roi"]


def test_a_three_d_box_is_sent_in_millimetres_for_the_whole_volume(loaded: Loaded) -> None:
    loaded.parameters.roi = loaded.add_roi((2, 2, 2.6), (6, 7, 5.4), np.eye(4))
    loaded.logic.segment_roi()
    (run,) = loaded.runs
    assert (run["task"], run["first"], run["last"], run["masks"]) == ("box", 0, 7, [])
    np.testing.assert_allclose(run["box3d"]["centre_ras"], (4, 4.5, 4))
    np.testing.assert_allclose(run["box3d"]["size_mm"], (4, 5, 2.8))
    np.testing.assert_allclose(np.abs(run["box3d"]["orientation_xyzw"]), (0, 0, 0, 1))
    assert loaded.state.progress == (0, 3)
    loaded.volume_mask(3, segment="Segment_1")
    assert loaded.written() == [3]


def test_a_three_d_box_beside_the_volume_is_named(loaded: Loaded) -> None:
    loaded.parameters.roi = loaded.add_roi((2, 2, 20), (6, 7, 25), np.eye(4))
    loaded.logic.segment_roi()
    assert "crosses no slice" in loaded.state.log[-1]
    loaded.parameters.roi = loaded.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "not placed")
    loaded.logic.segment_roi()
    assert "crosses no slice" in loaded.state.log[-1]
    assert not loaded.runs


def _turned(degrees: float, axis: tuple[float, float, float], centre: tuple[float, ...]) -> np.ndarray:
    transform = vtk.vtkTransform()
    transform.Translate(*centre)
    transform.RotateWXYZ(degrees, *axis)
    return numpy_matrix(transform.GetMatrix())


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "placed", [np.eye(4), _turned(75, (1, -2, 3), (3, -4, 5))], ids=["upright", "turned"]
)
@pytest.mark.parametrize("moved", [np.eye(4), _turned(40, (2, 1, 0), (9, 8, 7))], ids=["as it is", "moved"])
def test_a_roi_is_the_box_whose_corners_it_has_in_the_volumes_own_space(
    loaded: Loaded, placed: np.ndarray, moved: np.ndarray, mirrored: bool
) -> None:
    if mirrored:
        placed = placed @ np.diag([-1.0, 1, 1, 1])
    node = loaded.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(vtk_matrix(moved))
    loaded.parameters.volume.SetAndObserveTransformNodeID(node.GetID())
    roi = loaded.add_roi((-2, 2, 2.6), (6, 7, 5.4), placed)

    box = turned_box(roi, loaded.parameters.volume)

    # As the graph reads it.
    axes = Rotation.from_quat(box["orientation_xyzw"]).as_matrix()
    found = Box3D(box["centre_ras"], axes, np.array(box["size_mm"]) / 2).corners_ras
    expected = positions(np.linalg.inv(moved), roi_corners(roi))
    order = [np.lexsort(np.round(corners, 3).T) for corners in (found, expected)]
    np.testing.assert_allclose(found[order[0]], expected[order[1]], atol=1e-5)


def test_a_roi_that_a_transform_shears_is_held_by_its_box(loaded: Loaded) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    node = loaded.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(vtk_matrix(sheared))
    loaded.parameters.volume.SetAndObserveTransformNodeID(node.GetID())
    roi = loaded.add_roi((2, 2, 2.6), (6, 7, 5.4), np.eye(4))
    box = turned_box(roi, loaded.parameters.volume)
    axes = Rotation.from_quat(box["orientation_xyzw"]).as_matrix()
    offsets = (positions(np.linalg.inv(sheared), roi_corners(roi)) - box["centre_ras"]) @ axes
    np.testing.assert_allclose(np.abs(offsets).max(axis=0), np.array(box["size_mm"]) / 2)


def test_everything_on_a_slice_arrives_as_new_segments_that_one_undo_takes_away(painted: Loaded) -> None:
    kept, segmentation = painted.parameters.segment_id, painted.parameters.segmentation.GetSegmentation()

    def names() -> list[str]:
        return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]

    painted.logic.segment_everything()
    (run,) = painted.runs
    assert (run["task"], run["segment"], run["first"]) == ("automatic", "Axial 3", 3)
    painted.volume_progress(done=16, total=256)
    assert painted.state.progress == (16, 256)
    for name in ("Axial 3 1", "Axial 3 2"):
        painted.volume_mask(3, segment=name)
    painted.volume_ended(slices=2)
    assert painted.state.log[-1] == "Done: 2 new segments in 1.5 s."
    assert names() == ["painted", "Axial 3 1", "Axial 3 2"]
    ids = [segmentation.GetNthSegmentID(n) for n in (1, 2)]
    assert painted.parameters.segment_id == kept and painted.written() == [3]
    painted.logic.undo()
    assert names() == ["painted"]
    painted.logic.redo()
    assert names() == ["painted", "Axial 3 1", "Axial 3 2"]
    assert [len(painted.voxels(each)) for each in ids] == [a_mask().size] * 2
    painted.logic.segment_everything()
    assert painted.runs[-1]["segment"] == "Axial 3 (2)", "its segments would not be new"


def test_a_run_ends_with_the_sentence_that_refuses_it(painted: Loaded) -> None:
    painted.logic.propagate(2)
    assert "under way" in painted.logic.reasons()["propagate"]
    painted.volume_ended(success=False, message="The model failed.")
    assert painted.state.log[-1] == "The model failed."
    assert not painted.state.is_running


def test_a_view_that_was_turned_to_another_plane_is_not_marked_on(loaded: Loaded) -> None:
    node = loaded.slices["Red"]
    node.SetOrientation("Coronal")
    node.UpdateMatrices()
    loaded.logic.prompt()
    assert loaded.state.prompt_problem.startswith("Red shows no axial slice of the volume; turn it back")
    node.SetOrientation("Axial")
    node.UpdateMatrices()
    loaded.logic.prompt()
    assert "Red shows" not in loaded.state.prompt_problem


def test_without_its_view_a_prompt_says_which_layout_it_needs(loaded: Loaded) -> None:
    del loaded.slices["Red"]
    loaded.logic.prompt()
    assert loaded.state.prompt_problem == "There is no Red slice view; choose a layout that has it."
    assert not loaded.logic.is_frozen()


def test_a_slot_may_disconnect_itself() -> None:
    signal, calls = Signal(), []

    def once() -> None:
        calls.append("once")
        signal.disconnect(once)

    signal.connect(once)
    signal.connect(lambda: calls.append("always"))
    signal.emit()
    signal.emit()
    assert calls == ["once", "always", "always"]
