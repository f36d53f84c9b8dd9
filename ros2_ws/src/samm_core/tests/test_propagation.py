# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One structure through a volume, from marks: on real weights, a made volume, real CT and real MR."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import (
    COUNT,
    FIRST,
    LAST,
    MIDDLE,
    SIDE,
    Embedder,
    ball,
    box_of,
    discs,
    embedder_of_the_ball,
    pictured,
    slices_of,
    volume_dice,
)

from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.models.base import SegmentationModel
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import read_here
from samm_core.tasks.carry import REACH, Grid, carried
from samm_core.tasks.propagation import Mark, Propagated, Reason, Stopped, dice, prompts_around, propagate
from samm_core.tasks.slices import PlaneSlices

# With all that takes its embeddings from structures.embedder_of_the_ball.
pytestmark = pytest.mark.xdist_group("ball")

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))


@pytest.fixture(scope="module")
def moving(lite_medsam: SegmentationModel) -> tuple[np.ndarray, Embedder]:
    return ball(), embedder_of_the_ball(lite_medsam)


def masks_of(given: Iterable[Propagated | Stopped]) -> tuple[dict[int, np.ndarray], list[Stopped]]:
    masks, stops = {}, []
    for each in given:
        if isinstance(each, Stopped):
            stops.append(each)
        else:
            masks[each.index] = each.mask
    return masks, stops


def test_a_box_on_one_slice_gives_the_whole_ball_and_says_that_it_ended(
    moving: tuple[np.ndarray, Embedder],
) -> None:
    truth, embedder = moving
    masks, stops = masks_of(propagate(slices_of(embedder), [Mark(MIDDLE, prompt=box_of(truth[MIDDLE]))]))
    assert volume_dice(masks, truth) > 0.9
    assert abs(min(masks) - FIRST) <= 1 and abs(max(masks) - LAST) <= 1, sorted(masks)
    assert {stop.step for stop in stops} == {1, -1}
    assert [stop.reason for stop in stops] == [Reason.STRUCTURE_END] * 2, stops
    assert str(stops[0]).startswith(f"From slice {MIDDLE} to slice ")


def test_a_click_a_painted_mask_and_a_box_lead_to_the_same_structure(
    moving: tuple[np.ndarray, Embedder],
) -> None:
    truth, embedder = moving
    x = float(np.nonzero(truth[MIDDLE])[1].mean())
    for mark in (Mark(MIDDLE, mask=truth[MIDDLE]), Mark(MIDDLE, prompt=PixelPrompt([(x, 32)], [1]))):
        masks, _ = masks_of(propagate(slices_of(embedder), [mark]))
        assert volume_dice(masks, truth) > 0.85, mark


def test_the_first_mask_needs_the_marked_slice_alone(moving: tuple[np.ndarray, Embedder]) -> None:
    truth, embedder = moving
    embedder.asked.clear()
    given = propagate(slices_of(embedder), [Mark(MIDDLE, prompt=box_of(truth[MIDDLE]))])
    first = next(given)
    assert first.index == MIDDLE and first.confidence == 1.0
    assert embedder.asked == [MIDDLE]
    next(given)
    # The slice that is decoded now, and those that come next.
    assert embedder.asked[1:4] == [MIDDLE + 1, MIDDLE + 2, MIDDLE + 3]
    given.close()


@settings(max_examples=6)
@given(
    frozen=st.dictionaries(
        st.integers(0, COUNT - 1), st.sampled_from(["nothing", "empty", "mask"]), max_size=3
    ),
    between=st.tuples(st.integers(0, MIDDLE), st.integers(MIDDLE, COUNT - 1)),
    taken=st.integers(0, 6),
)
def test_frozen_slices_and_those_out_of_range_never_come_whenever_the_generator_is_closed(
    moving: tuple[np.ndarray, Embedder], frozen: dict[int, str], between: tuple[int, int], taken: int
) -> None:
    truth, embedder = moving
    masks = {
        index: {"nothing": None, "empty": np.zeros_like(truth[0]), "mask": truth[index]}[kind]
        for index, kind in frozen.items()
    }
    given = propagate(slices_of(embedder), [Mark(MIDDLE, mask=truth[MIDDLE])], masks, between)
    for number, each in enumerate(given):
        if isinstance(each, Propagated):
            assert each.index not in frozen
            assert between[0] <= each.index <= between[1]
        if number == taken:
            given.close()


def test_closed_slices_wait_no_longer_for_what_they_asked_for(
    moving: tuple[np.ndarray, Embedder],
) -> None:
    _, embedder = moving
    futures: list[Future] = []
    slices = PlaneSlices(
        embedder.volume, Plane.AXIAL, embedder.model, lambda image: futures.append(Future()) or futures[-1]
    )
    slices.ask([-1, 0, 1, 1, COUNT])
    slices.close()
    assert [future.cancelled() for future in futures] == [True, True]


def test_walks_from_two_marks_meet_and_each_slice_comes_once(moving: tuple[np.ndarray, Embedder]) -> None:
    truth, embedder = moving
    marks = [Mark(4, mask=truth[4]), Mark(8, mask=truth[8])]
    given = list(propagate(slices_of(embedder), marks))
    indices = [each.index for each in given if isinstance(each, Propagated)]
    assert len(indices) == len(set(indices)) and set(range(4, 9)) <= set(indices)
    inner = [s for s in given if isinstance(s, Stopped) and (s.start, s.step) in ((4, 1), (8, -1))]
    assert {stop.reason for stop in inner} == {Reason.MET}


def test_a_correction_is_carried_on_as_far_as_the_frozen_mark(moving: tuple[np.ndarray, Embedder]) -> None:
    truth, embedder = moving
    frozen = {MIDDLE: truth[MIDDLE]}
    masks, stops = masks_of(propagate(slices_of(embedder), [Mark(8, mask=truth[8])], frozen))
    assert min(masks) == MIDDLE + 1
    assert [stop.reason for stop in stops if stop.step == -1] == [Reason.FROZEN]
    assert dice(masks[7], truth[7]) > 0.85


def test_a_structure_that_splits_is_followed_into_both_parts(lite_medsam: SegmentationModel) -> None:
    apart = [0, 5, 9, 13, 16]
    truth = discs([[(32 - d, 32, 9), (32 + d, 32, 9)] for d in apart])
    embedder = Embedder(pictured(truth), lite_medsam)
    masks, _ = masks_of(propagate(slices_of(embedder), [Mark(0, mask=truth[0])]))
    left, right = np.hsplit(masks[4], 2)
    assert dice(masks[4], truth[4]) > 0.8 and left.any() and right.any()


def test_a_structure_that_ends_from_one_slice_to_the_next_is_not_drawn_on(
    lite_medsam: SegmentationModel,
) -> None:
    truth = discs([[(32, 28, 12)] if k < 2 else [] for k in range(4)])
    embedder = Embedder(pictured(truth), lite_medsam)
    masks, stops = masks_of(propagate(slices_of(embedder), [Mark(0, mask=truth[0])]))
    assert sorted(masks) == [0, 1]
    assert stops[-1].reason == Reason.STRUCTURE_END


def test_a_volume_of_one_slice_gives_that_slice(lite_medsam: SegmentationModel) -> None:
    truth = ball()[MIDDLE : MIDDLE + 1]
    embedder = Embedder(pictured(truth), lite_medsam)
    masks, stops = masks_of(propagate(slices_of(embedder), [Mark(0, prompt=box_of(truth[0]))]))
    assert list(masks) == [0]
    assert [(stop.index, stop.reason) for stop in stops] == [(0, Reason.VOLUME_END)] * 2


@pytest.mark.parametrize(
    ("marks", "options", "sentence"),
    [
        ([], {}, "no mark"),
        ([(99, "mask")], {}, "slices 0 to 12"),
        ([(6, "empty")], {}, "empty"),
        ([(6, "small")], {}, "shape"),
        ([(6, "mask"), (6, "mask")], {}, "twice"),
        ([(6, "outside")], {}, "outside the slice"),
        ([(6, "mask")], {"between": (7, 9)}, "outside the range"),
        ([(6, "mask")], {"between": (9, 2)}, "reversed"),
        ([(6, "mask")], {"between": (0, 13)}, "slices 0 to 12"),
        ([(6, "mask")], {"frozen": {-1: None}}, "frozen slice"),
    ],
)
def test_what_cannot_be_propagated_is_refused_before_anything_is_embedded(
    moving: tuple[np.ndarray, Embedder], marks: list[tuple[int, str]], options: dict, sentence: str
) -> None:
    truth, embedder = moving
    kinds = {
        "mask": {"mask": truth[MIDDLE]},
        "empty": {"mask": np.zeros_like(truth[0])},
        "small": {"mask": np.ones((3, 3), bool)},
        "outside": {"prompt": PixelPrompt(box_xyxy=[200, 200, 300, 300])},
    }
    embedder.asked.clear()
    with pytest.raises(PromptError, match=sentence):
        propagate(slices_of(embedder), [Mark(index, **kinds[kind]) for index, kind in marks], **options)
    assert not embedder.asked


def test_a_mark_without_mask_and_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        Mark(3)


@given(
    shift=st.tuples(st.integers(-REACH, REACH), st.integers(-REACH, REACH)),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_a_mask_is_carried_by_as_much_as_its_features_moved(shift: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(32, 32, 48)).astype(np.float32)
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    coverage = np.zeros((32, 32), np.float32)
    coverage[10:18, 12:22] = 1
    moved = np.roll(features, shift, axis=(0, 1))
    result = carried([(features, coverage)], moved)
    assert result.shape == (32, 32) and result.min() >= 0 and result.max() <= 1 + 1e-5
    np.testing.assert_array_equal(result > 0.5, np.roll(coverage, shift, axis=(0, 1)) > 0.5)


def test_nothing_is_carried_from_an_empty_mask_and_all_from_a_full_one() -> None:
    features = np.ones((16, 16, 8), np.float32) / np.sqrt(8)
    for value in (0.0, 1.0):
        coverage = np.full((16, 16), value, np.float32)
        np.testing.assert_array_equal(carried([(features, coverage)], features), coverage)


def test_what_is_thinner_than_a_cell_is_not_lost(moving: tuple[np.ndarray, Embedder]) -> None:
    _, embedder = moving
    grid = Grid(embedder(ImageId("", SliceKey(Plane.AXIAL, MIDDLE))).result())
    line = np.zeros((SIDE, SIDE), bool)
    line[20:40, 30] = True
    mask = grid.mask_of(grid.logits_of(grid.coverage(line)))
    assert (mask & line).sum() > 0.8 * line.sum()


@given(
    pieces=st.lists(st.tuples(*[st.integers(0, 39)] * 2, *[st.integers(1, 12)] * 2), min_size=0, max_size=4)
)
@settings(max_examples=50)
def test_prompts_hold_each_large_piece_and_do_not_overlap(
    lite_medsam: SegmentationModel, pieces: list[tuple[int, int, int, int]]
) -> None:
    mask = np.zeros((40, 40), bool)
    for y, x, height, width in pieces:
        mask[y : y + height, x : x + width] = True
    boxes = [prompt.box_xyxy for prompt in prompts_around(mask, lite_medsam)]
    assert bool(boxes) == bool(mask.any())
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        assert -0.5 <= x0 < x1 <= 39.5 and -0.5 <= y0 < y1 <= 39.5
        for other in boxes[:i]:
            assert x1 < other[0] or other[2] < x0 or y1 < other[1] or other[3] < y0


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the volumes are not in {DATA}; set SAMM_TEST_DATA")
@pytest.mark.parametrize(
    ("of", "label", "first", "marked", "floor"),
    [("ct", 2, 13, 14, 0.94), ("mr", 3, 5, 6, 0.80)],
    ids=["right kidney on CT", "left kidney on MR"],
)
def test_an_organ_reaches_its_floor_and_ends_where_it_ends(
    lite_medsam: SegmentationModel, of: str, label: int, first: int, marked: int, floor: float
) -> None:
    """From a few slices below its upper end, as far as that: each slice takes the encoder a second."""
    volume, labels = (read_here(DATA / f"{of}_{what}.nii.gz") for what in ("sm", "seg"))
    truth = labels.voxels == label
    truth[:first] = False
    mark, between = Mark(marked, prompt=box_of(truth[marked])), (first, len(truth) - 1)
    masks, stops = masks_of(propagate(slices_of(Embedder(volume, lite_medsam)), [mark], between=between))
    assert volume_dice(masks, truth) >= floor
    assert abs(max(masks) - np.flatnonzero(truth.any(axis=(1, 2)))[-1]) <= 2, sorted(masks)
    assert {stop.step: stop.reason for stop in stops} == {1: Reason.STRUCTURE_END, -1: Reason.RANGE_END}
