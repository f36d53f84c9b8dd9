# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Scribbles and lassos become prompts of few points, on the slice, on the right side of what was drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.models.base import SegmentationModel
from samm_core.prompts import PixelPrompt, Prompt, lasso_prompt, mask_prompt, prompt_on, scribble_prompt
from samm_core.sources.volume import read_here

SHARED_DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[4] / "../shared/data"))
SHAPE = (120, 200)


def lines(least: int) -> st.SearchStrategy[np.ndarray]:
    """Also beyond the slice."""
    return hnp.arrays(np.float64, st.tuples(st.integers(least, 30), st.just(2)), elements=st.floats(-50, 250))


def distances_to(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of each point, (N, 2), to a polyline, (M, 2)."""
    starts, ways = line[:-1, None], np.diff(line, axis=0)[:, None]
    if not len(ways):
        return np.hypot(*(points - line[0]).T)
    squares = (ways**2).sum(-1)
    along = ((points - starts) * ways).sum(-1) / np.where(squares > 0, squares, 1)
    nearest = starts + np.clip(along, 0, 1)[..., None] * ways
    return np.hypot(*np.moveaxis(points - nearest, -1, 0)).min(axis=0)


@given(lines(1), st.booleans())
def test_a_scribble_is_at_most_eight_points_of_its_line_on_the_slice(
    line: np.ndarray, positive: bool
) -> None:
    try:
        prompt = scribble_prompt(line, SHAPE, positive)
    except PromptError as error:
        assert "off the slice" in str(error)
        assert not ((line >= 0) & (line <= np.array(SHAPE[::-1]) - 1)).all(axis=1).any()
        return
    assert 1 <= len(prompt.points_xy) <= 8
    assert prompt.labels.tolist() == [int(positive)] * len(prompt.points_xy)
    assert prompt.outside(*SHAPE) == "" and not prompt.has_box
    assert distances_to(line, prompt.points_xy.astype(np.float64)).max() < 0.01


@given(st.floats(5, 190), st.floats(5, 190), st.floats(5, 115))
def test_the_points_of_a_straight_scribble_are_evenly_apart_and_its_direction_is_no_matter(
    x0: float, x1: float, y: float
) -> None:
    line = np.array([(x0, y), (x1, y)])
    xs = scribble_prompt(line, SHAPE).points_xy[:, 0]
    steps = np.abs(np.diff(xs))
    assert steps.size == 0 or np.ptp(steps) <= 1
    back = scribble_prompt(line[::-1], SHAPE).points_xy[::-1, 0]
    np.testing.assert_allclose(xs, back, atol=1)


def ellipse(centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii + centre


@given(st.floats(30, 170), st.floats(30, 90), st.floats(4, 29), st.floats(4, 29))
def test_a_round_lasso_is_its_box_and_points_inside(x: float, y: float, across: float, down: float) -> None:
    prompt = lasso_prompt(ellipse((x, y), (across, down)), SHAPE)
    assert set(prompt.labels.tolist()) == {1} and 1 <= len(prompt.labels) <= 3
    inside = ((prompt.points_xy - (x, y)) / (across, down)) ** 2
    assert (inside.sum(axis=1) < 1).all()
    np.testing.assert_allclose(prompt.box_xyxy, [x - across, y - down, x + across, y + down], atol=1.6)


def test_the_bay_of_a_concave_lasso_is_marked_as_none() -> None:
    """An upright C: open to the right."""
    crescent = [(40, 20), (100, 20), (100, 40), (60, 40), (60, 80), (100, 80), (100, 100), (40, 100)]
    prompt = lasso_prompt(crescent, SHAPE)
    positive, negative = (prompt.points_xy[prompt.labels == label] for label in (1, 0))
    assert len(positive) and len(negative)
    bay = lambda points: ((points > (60, 40)) & (points < (100, 80))).all(axis=1)  # noqa: E731
    assert bay(negative).all() and not bay(positive).any()
    np.testing.assert_allclose(prompt.box_xyxy, [39.5, 19.5, 100.5, 100.5])


def test_a_mask_is_marked_as_by_a_lasso_around_it() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[20:101, 40:101] = True
    mask[41:80, 61:101] = False
    prompt = mask_prompt(mask)
    assert all(
        mask[int(y), int(x)] == label for (x, y), label in zip(prompt.points_xy, prompt.labels, strict=True)
    )
    assert set(prompt.labels.tolist()) == {0, 1}
    np.testing.assert_allclose(prompt.box_xyxy, [39.5, 19.5, 100.5, 100.5])


@given(lines(3))
def test_a_lasso_is_refused_or_a_prompt_on_the_slice(polygon: np.ndarray) -> None:
    try:
        prompt = lasso_prompt(polygon, SHAPE)
    except PromptError as error:
        assert "encloses nothing" in str(error)
        return
    assert prompt.outside(*SHAPE) == ""
    assert 1 <= (prompt.labels == 1).sum() <= 3 and (prompt.labels == 0).sum() <= 2
    x0, y0, x1, y1 = prompt.box_xyxy
    assert (prompt.points_xy >= (x0, y0)).all() and (prompt.points_xy <= (x1, y1)).all()
    assert x0 >= -0.5 and y0 >= -0.5 and x1 <= SHAPE[1] - 0.5 and y1 <= SHAPE[0] - 0.5


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: scribble_prompt([], SHAPE), "scribble of the shape"),
        (lambda: scribble_prompt([1, 2], SHAPE), "scribble of the shape"),
        (lambda: scribble_prompt([(1, np.nan)], SHAPE), "not finite"),
        (lambda: scribble_prompt([(1, 1), (1e308, -1e308)], SHAPE), "far off any slice"),
        (lambda: scribble_prompt([(500, 500), (600, 500)], SHAPE), "off the slice"),
        (lambda: lasso_prompt([(0, 0), (5, 5)], SHAPE), "give 3 or more rows"),
        (lambda: lasso_prompt([(0, 0), (5, 5), (np.inf, 0)], SHAPE), "not finite"),
        (lambda: lasso_prompt([(500, 500), (600, 500), (600, 600)], SHAPE), "encloses nothing"),
        (lambda: mask_prompt(np.zeros(SHAPE)), "mask is empty"),
        (lambda: Prompt(Plane.AXIAL, 0, False, np.zeros((1, 3)), [1], choice=-1), "no choice -1"),
        (lambda: PixelPrompt([[0, 0]], [1], choice=256), "no choice 256"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(draw: Callable[[], object], sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        draw()


def test_prompts_are_joined_and_placed_on_a_slice() -> None:
    over = scribble_prompt([(10, 10), (60, 10)], SHAPE)
    beside = scribble_prompt([(10, 60)], SHAPE, positive=False)
    boxed = PixelPrompt(box_xyxy=[0, 0, 70, 20], choice=0)
    both = over.joined(beside).joined(boxed)
    assert both.labels.tolist() == [1] * len(over.labels) + [0]
    assert both.box_xyxy.tolist() == [0, 0, 70, 20]
    placed = prompt_on(Plane.CORONAL, 7, both)
    assert (placed.plane, placed.slice_index) == (Plane.CORONAL, 7)
    np.testing.assert_array_equal(placed.in_pixels().points_xy, both.points_xy)
    np.testing.assert_array_equal(placed.in_pixels().box_xyxy, both.box_xyxy)


@pytest.mark.skipif(not (SHARED_DATA / "mr_seg.nii.gz").is_file(), reason="mr_seg.nii.gz is not there")
def test_a_scribble_finds_more_than_a_click_and_a_lasso_more_than_a_scribble(
    lite_medsam: SegmentationModel,
) -> None:
    """Each structure of a real MR where one of four slices shows most of it: its middle, a line through it, one around it."""
    volume, labels = (read_here(SHARED_DATA / f"mr_{name}.nii.gz") for name in ("sm", "seg"))
    chosen = (3, 8, 13, 18)
    embeddings = lite_medsam.encode([volume.slice_image(Plane.AXIAL, index) for index in chosen])
    dice: dict[str, list[float]] = {"click": [], "scribble": [], "lasso": []}
    for label in np.unique(labels.voxels)[1:]:
        index = max(chosen, key=lambda each: np.count_nonzero(labels.voxels[each] == label))
        if not (labels.voxels[index] == label).any():
            continue
        truth = largest_part(labels.voxels[index] == label)
        if truth.sum() < 60:
            continue
        embedding = embeddings[chosen.index(index)]
        drawn = {
            "click": scribble_prompt([deepest(truth)], truth.shape),
            "scribble": scribble_prompt(through(truth), truth.shape),
            "lasso": lasso_prompt(around(truth), truth.shape),
        }
        for how, prompt in drawn.items():
            mask = lite_medsam.decode(embedding, prompt).mask
            dice[how].append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert len(dice["click"]) >= 8
    click, scribble, lasso = (np.mean(found) for found in dice.values())
    assert click + 0.05 < scribble < lasso and lasso > 0.83, dice


def largest_part(mask: np.ndarray) -> np.ndarray:
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def deepest(mask: np.ndarray) -> tuple[int, int]:
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    return np.unravel_index(depth.argmax(), mask.shape)[::-1]


def through(mask: np.ndarray) -> np.ndarray:
    """The middle of each row, or of each column where there are more of them, without the ends."""
    places = np.argwhere(mask)
    along = int(np.ptp(places[:, 1]) > np.ptp(places[:, 0]))
    line = []
    for step in np.unique(places[:, along]):
        across = places[places[:, along] == step, 1 - along]
        middle = across[np.abs(across - np.median(across)).argmin()]
        line.append((middle, step) if along == 0 else (step, middle))
    cut = len(line) // 10
    return np.array(line[cut : len(line) - cut])


def around(mask: np.ndarray) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    outlines, _ = cv2.findContours(
        cv2.dilate(mask.astype(np.uint8), kernel), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    return max(outlines, key=len)[:, 0]
