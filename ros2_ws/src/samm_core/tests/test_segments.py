# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Segments are renamed, recoloured, removed, reordered and frozen, a step of undo each; a task's masks are one step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from samm_core.errors import MaskError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.prompts import PixelPrompt
from samm_core.segmentation.segmentation import Segment, Segmentation

TILTED = np.array([[0.9, 0.1, 0, 5], [-0.1, 0.9, 0.1, 0], [0, -0.1, 2, -9], [0, 0, 0, 1.0]])
GEOMETRY = VolumeGeometry((5, 4, 3), TILTED)


@dataclass(frozen=True, eq=False)
class Naive:
    """All that a user sees: the segments, each with its voxels, and where it is frozen."""

    segments: tuple[Segment, ...] = ()
    voxels: dict[str, np.ndarray] = field(default_factory=dict)
    frozen: dict[str, frozenset] = field(default_factory=dict)


class AgainstCopies(RuleBasedStateMachine):
    """A Segmentation against copies of everything at each step."""

    @initialize()
    def start(self) -> None:
        self.segmentation = Segmentation(GEOMETRY)
        self.now = Naive()
        self.done: list[Naive] = []
        self.undone: list[Naive] = []
        # Whose masks the newest steps are.
        self.groups: list[str] = []

    def names(self) -> list[str]:
        return [segment.name for segment in self.now.segments]

    def becomes(self, after: Naive, group: str = "") -> None:
        if not group or [group] != self.groups[-1:]:
            self.done.append(self.now)
            self.groups.append(group)
        self.now = after
        self.undone.clear()

    def with_new(self, name: str) -> Naive:
        found = next(s for s in self.segmentation.segments() if s.name == name)
        assert found.label not in {s.label for s in self.now.segments}
        return Naive(
            (*self.now.segments, found),
            {**self.now.voxels, name: np.zeros((3, 4, 5), bool)},
            {**self.now.frozen, name: frozenset()},
        )

    @rule(
        plane=st.sampled_from(Plane),
        index=st.integers(0, 2),
        name=st.sampled_from("abcd"),
        bits=st.integers(0, 2**20 - 1),
    )
    def apply(self, plane: Plane, index: int, name: str, bits: int) -> None:
        mask = self.mask(plane, bits)
        if name not in self.names() and any(name in state.voxels for state in self.done):
            return  # a test of its own, below
        self.segmentation.apply(mask, plane, index, name)
        if name not in self.names():
            # It stays, empty, when the mask is taken back; and so it is in what was before.
            self.add_to_all(name)
        voxels = self.now.voxels[name].copy()
        GEOMETRY.take_slice(voxels, plane, index)[...] = mask
        frozen = self.now.frozen[name] | {(plane, index)}
        self.becomes(
            replace(
                self.now,
                voxels={**self.now.voxels, name: voxels},
                frozen={**self.now.frozen, name: frozen},
            )
        )

    def add_to_all(self, name: str) -> None:
        found = next(s for s in self.segmentation.segments() if s.name == name)

        def added(state: Naive) -> Naive:
            return Naive(
                (*state.segments, found),
                {**state.voxels, name: np.zeros((3, 4, 5), bool)},
                {**state.frozen, name: frozenset()},
            )

        self.done = [added(state) for state in self.done]
        self.now = added(self.now)

    @rule(
        plane=st.sampled_from(Plane),
        index=st.integers(0, 2),
        name=st.sampled_from("abcd"),
        bits=st.integers(0, 2**20 - 1),
        group=st.sampled_from(["task 1", "task 2"]),
    )
    def apply_in_group(self, plane: Plane, index: int, name: str, bits: int, group: str) -> None:
        mask = self.mask(plane, bits)
        is_new = name not in self.names()
        applied = self.segmentation.apply_in_group(mask, plane, index, name, group)
        before = self.with_new(name) if is_new else self.now
        untouched = np.zeros((3, 4, 5), bool)
        for other, frozen in before.frozen[name]:
            GEOMETRY.take_slice(untouched, other, frozen)[...] = True
        untouched = GEOMETRY.take_slice(untouched, plane, index)
        assert applied == (not untouched.all())
        if applied:
            voxels = before.voxels[name].copy()
            view = GEOMETRY.take_slice(voxels, plane, index)
            view[~untouched] = mask[~untouched]
            self.becomes(replace(before, voxels={**before.voxels, name: voxels}), group)

    @staticmethod
    def mask(plane: Plane, bits: int) -> np.ndarray:
        shape = GEOMETRY.slice_shape(plane)
        return np.array([bits >> n & 1 for n in range(shape[0] * shape[1])], bool).reshape(shape)

    @precondition(lambda self: self.now.segments)
    @rule(data=st.data(), new=st.sampled_from("abcdxyz"))
    def rename(self, data: st.DataObject, new: str) -> None:
        old = data.draw(st.sampled_from(self.names()))
        if new in self.names():
            with pytest.raises(MaskError, match="not taken"):
                self.segmentation.rename(old, new)
            return
        self.segmentation.rename(old, new)
        self.becomes(
            Naive(
                tuple(replace(s, name=new) if s.name == old else s for s in self.now.segments),
                {new if name == old else name: each for name, each in self.now.voxels.items()},
                {new if name == old else name: each for name, each in self.now.frozen.items()},
            )
        )

    @precondition(lambda self: self.now.segments)
    @rule(data=st.data(), red=st.floats(0, 1))
    def recolor(self, data: st.DataObject, red: float) -> None:
        name = data.draw(st.sampled_from(self.names()))
        self.segmentation.recolor(name, (red, 0, 1))
        segments = tuple(
            replace(s, color=(red, 0.0, 1.0)) if s.name == name else s for s in self.now.segments
        )
        self.becomes(replace(self.now, segments=segments))

    @precondition(lambda self: self.now.segments)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.names()))
        self.segmentation.remove(name)
        self.becomes(
            Naive(
                tuple(s for s in self.now.segments if s.name != name),
                {other: each for other, each in self.now.voxels.items() if other != name},
                {other: each for other, each in self.now.frozen.items() if other != name},
            )
        )

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        segments = data.draw(st.permutations(self.now.segments))
        self.segmentation.reorder([segment.name for segment in segments])
        self.becomes(replace(self.now, segments=tuple(segments)))

    @precondition(lambda self: self.now.segments)
    @rule(data=st.data(), plane=st.sampled_from(Plane), index=st.integers(0, 2), freezes=st.booleans())
    def freeze(self, data: st.DataObject, plane: Plane, index: int, freezes: bool) -> None:
        name = data.draw(st.sampled_from(self.names()))
        (self.segmentation.freeze if freezes else self.segmentation.unfreeze)(name, plane, index)
        before, place = self.now.frozen[name], {(plane, index)}
        after = before | place if freezes else before - place
        if after != before:
            self.becomes(replace(self.now, frozen={**self.now.frozen, name: after}))

    @rule()
    def undo(self) -> None:
        assert self.segmentation.undo() == bool(self.done)
        if self.done:
            self.undone.append(self.now)
            self.now = self.done.pop()
            self.groups.pop()

    @rule()
    def redo(self) -> None:
        assert self.segmentation.redo() == bool(self.undone)
        if self.undone:
            self.done.append(self.now)
            self.groups.append("")
            self.now = self.undone.pop()

    @invariant()
    def is_the_same(self) -> None:
        found = self.segmentation
        assert tuple(found.segments()) == self.now.segments
        assert (found.undo_steps, found.redo_steps) == (len(self.done), len(self.undone))
        labels = np.zeros((3, 4, 5), np.uint8)
        for segment in self.now.segments:
            expected = self.now.voxels[segment.name]
            assert np.array_equal(found.layer(segment.name), expected)
            assert found.voxels(segment.name) == np.count_nonzero(expected)
            assert found.frozen(segment.name) == self.now.frozen[segment.name]
            labels[expected] = segment.label
        assert np.array_equal(found.labelmap(), labels)
        assert found.active in (self.names() or [None])


TestSegmentationIsWhatCopiesAre = AgainstCopies.TestCase
TestSegmentationIsWhatCopiesAre.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def full(plane: Plane = Plane.AXIAL) -> np.ndarray:
    return np.ones(GEOMETRY.slice_shape(plane), bool)


def test_one_undo_takes_a_whole_task_back_and_one_redo_brings_it() -> None:
    segmentation = Segmentation(GEOMETRY)
    segmentation.apply(full(), Plane.AXIAL, 0, "by hand")
    before = segmentation.labelmap()
    for index in range(3):
        segmentation.apply_in_group(full(), Plane.AXIAL, index, "auto 1", "task")
        segmentation.apply_in_group(~full(), Plane.AXIAL, index, "auto 2", "task")
    after = segmentation.labelmap()

    assert segmentation.undo()
    assert [segment.name for segment in segmentation.segments()] == ["by hand"]
    assert np.array_equal(segmentation.labelmap(), before)
    assert segmentation.redo()
    assert np.array_equal(segmentation.labelmap(), after)


def test_what_comes_between_ends_the_step_and_nothing_is_lost() -> None:
    segmentation = Segmentation(GEOMETRY)
    segmentation.apply_in_group(full(), Plane.AXIAL, 0, "a", "task")
    segmentation.apply(full(), Plane.AXIAL, 1, "b")
    segmentation.apply_in_group(full(), Plane.AXIAL, 2, "a", "task")

    assert segmentation.undo_steps == 3
    assert segmentation.undo()
    assert segmentation.voxels("b") == full().sum()


def test_a_task_never_changes_what_the_user_marked_in_any_plane() -> None:
    segmentation = Segmentation(GEOMETRY)
    segmentation.apply(~full(Plane.CORONAL), Plane.CORONAL, 1, "a")
    segmentation.apply(~full(), Plane.AXIAL, 2, "a")

    assert not segmentation.apply_in_group(full(), Plane.AXIAL, 2, "a", "task")
    for index in 0, 1:
        assert segmentation.apply_in_group(full(), Plane.AXIAL, index, "a", "task")

    voxels = segmentation.layer("a")
    assert not GEOMETRY.take_slice(voxels, Plane.CORONAL, 1).any()
    assert not GEOMETRY.take_slice(voxels, Plane.AXIAL, 2).any()
    assert voxels.sum() == 2 * (full().sum() - 5)
    # Another segment is no concern of it, and what is thawed is written.
    assert segmentation.apply_in_group(full(), Plane.AXIAL, 2, "b", "task")
    segmentation.unfreeze("a", Plane.AXIAL, 2)
    assert segmentation.apply_in_group(full(), Plane.AXIAL, 2, "a", "task")


def test_the_name_of_a_removed_segment_is_free_and_undo_brings_that_one_back() -> None:
    segmentation = Segmentation(GEOMETRY)
    segmentation.apply(full(), Plane.AXIAL, 0, "liver")
    segmentation.remove("liver")
    segmentation.apply(full(), Plane.AXIAL, 1, "liver")
    assert [s.label for s in segmentation.segments()] == [2]

    segmentation.undo()
    segmentation.undo()

    # The second one, which is empty again, gives way.
    assert [(s.name, s.label) for s in segmentation.segments()] == [("liver", 1), ("liver 2", 2)]
    assert segmentation.voxels("liver") == full().sum()
    segmentation.redo()
    segmentation.redo()
    assert [(s.name, s.label) for s in segmentation.segments()] == [("liver", 2)]
    assert np.array_equal(segmentation.layer("liver")[1], full())


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda s: s.rename("b", "c"), "no segment 'b'; there are a"),
        (lambda s: s.rename("a", "a\n"), "printable name"),
        (lambda s: s.remove("b"), "no segment 'b'"),
        (lambda s: s.recolor("a", (0, 0, 1.5)), "each 0 to 1"),
        (lambda s: s.recolor("a", (0, 0, float("nan"))), "each 0 to 1"),
        (lambda s: s.recolor("a", (0, 0)), "red, green and blue"),
        (lambda s: s.reorder(["a", "a"]), "name each once"),
        (lambda s: s.reorder([]), "name each once"),
        (lambda s: s.freeze("a", Plane.AXIAL, 3), "slices 0 to 2"),
        (lambda s: s.freeze("a", 7, 0), "no plane 7"),
        (lambda s: s.apply_in_group(np.ones((9, 9)), Plane.AXIAL, 0, "a", "t"), "but the slice is"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_changes_nothing(edit: object, sentence: str) -> None:
    segmentation = Segmentation(GEOMETRY)
    segmentation.add("a")

    with pytest.raises(MaskError, match=sentence):
        edit(segmentation)

    assert segmentation.undo_steps == 0
    assert segmentation.segments() == [Segment("a", 1, segmentation.segments()[0].color)]


def test_the_last_prompt_of_a_slice_goes_with_its_segment() -> None:
    segmentation = Segmentation(GEOMETRY)
    first, second, third = (PixelPrompt([[x, 1]], [1]) for x in (0, 1, 2))
    segmentation.apply(full(), Plane.AXIAL, 1, "liver")
    segmentation.note_prompt("liver", Plane.AXIAL, 1, first)
    segmentation.note_prompt("liver", Plane.AXIAL, 2, second)
    segmentation.note_prompt("liver", Plane.AXIAL, 1, third)
    assert segmentation.prompts() == [
        ("liver", Plane.AXIAL, 2, second),
        ("liver", Plane.AXIAL, 1, third),
    ]
    segmentation.rename("liver", "spleen")
    assert segmentation.prompts("spleen") == [("spleen", *each[1:]) for each in segmentation.prompts()]
    with pytest.raises(MaskError, match="no segment 'liver'"):
        segmentation.prompts("liver")

    segmentation.remove("spleen")
    segmentation.add("spleen")
    assert segmentation.prompts() == []
    assert segmentation.undo()
    assert [each[3] for each in segmentation.prompts()] == [second, third]
    segmentation.clear()
    assert segmentation.prompts() == []


def test_a_prompt_of_no_segment_or_off_its_slice_is_not_noted() -> None:
    segmentation = Segmentation(GEOMETRY)
    segmentation.add("liver")
    with pytest.raises(MaskError, match="no segment 'spleen'"):
        segmentation.note_prompt("spleen", Plane.AXIAL, 1, PixelPrompt([[0, 0]], [1]))
    with pytest.raises(MaskError, match="no axial slice 3"):
        segmentation.note_prompt("liver", Plane.AXIAL, 3, PixelPrompt([[0, 0]], [1]))
    with pytest.raises(MaskError, match="lies outside the axial slice 1; move it"):
        segmentation.note_prompt("liver", Plane.AXIAL, 1, PixelPrompt([[40, 0]], [1]))
    assert segmentation.prompts() == []
