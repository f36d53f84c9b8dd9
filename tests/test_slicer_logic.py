# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's rules on a real MRML scene, without a bridge: which masks are applied, which marks are sent, how runs go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from slicer_scene import SlicerScene
from SlicerIPPLib.client_events import BridgeState, MaskReceived, MessageReceived
from SlicerIPPLib.events import Signal
from SlicerIPPLib.nodes import voxel_stamp
from SlicerIPPLib.prompts import INTERACTIVE, RUN
from SlicerIPPLib.state import GraphVolume, Model, SentVolume

from samm_core import ipp
from samm_core.cycle.request import STILL_WAITING
from samm_core.geometry import VolumeGeometry

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
        self.logic.connection.send_prompt = lambda **fields: self.sent.append(fields)
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

    def written(self) -> list[int]:
        """The indices of the slices that the active segment is on."""
        return sorted({round(float(z)) for z in self.voxels()[:, 2]})

    def _handle(self, event: Any) -> None:
        self.logic._incoming.handle(event)


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


def test_a_propagation_asks_for_a_slice_at_a_time_and_stops_where_the_structure_ends(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    middle = np.zeros(DIMENSIONS[1::-1], bool)
    middle[4:6, 4:7] = True
    loaded.answer(loaded.sent.pop(), middle)
    loaded.logic.propagate(2)
    assert loaded.state.is_running
    assert [(p["stream"], p["index"], p["box_xyxy"]) for p in loaded.sent] == [(RUN, 4, [2, 2, 8, 7])]
    loaded.answer(loaded.sent.pop(), np.zeros_like(middle))
    # Upwards the structure has ended.
    assert [p["index"] for p in loaded.sent] == [2]
    loaded.answer(loaded.sent.pop(), middle)
    loaded.answer(loaded.sent.pop(), middle)
    assert not loaded.state.is_running
    assert loaded.state.progress == (4, 4)
    assert loaded.state.log[-1] == "Done."
    assert loaded.written() == [1, 2, 3]


def test_a_three_d_box_leaves_frozen_slices_out(loaded: Loaded) -> None:
    loaded.parameters.roi = loaded.add_roi((2, 2, 2.6), (6, 7, 5.4), np.eye(4))
    loaded.show_slice(4)
    loaded.logic.freeze(True)
    loaded.logic.segment_roi()
    loaded.answer(loaded.sent[-1])
    loaded.answer(loaded.sent[-1])
    assert [p["index"] for p in loaded.sent] == [3, 5]
    assert loaded.state.progress == (2, 2)
    assert not loaded.state.is_running


def test_a_run_ends_with_the_sentence_that_refuses_it(loaded: Loaded) -> None:
    loaded.parameters.roi = loaded.add_roi((2, 2, 2.6), (6, 7, 5.4), np.eye(4))
    loaded.logic.segment_roi()
    assert "under way" in loaded.logic.reasons()["propagate"]
    loaded.refuse(loaded.sent[-1], "The model failed.")
    assert loaded.state.log[-1] == "The model failed."
    assert not loaded.state.is_running


def test_without_its_view_a_prompt_says_which_layout_it_needs(loaded: Loaded) -> None:
    del loaded.slices["Red"]
    loaded.logic.prompt()
    assert loaded.state.prompt_problem == "There is no Red slice view; choose a layout that has it."
    assert not loaded.logic.is_frozen()


def test_prompts_are_numbered_upwards_over_all_streams(loaded: Loaded) -> None:
    loaded.mark((4, 5, 3))
    loaded.parameters.roi = loaded.add_roi((2, 2, 2.6), (6, 7, 3.4), np.eye(4))
    loaded.logic.segment_roi()
    first, second = loaded.logic.prompts.newest(INTERACTIVE), loaded.logic.prompts.newest(RUN)
    assert 0 < first < second


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
