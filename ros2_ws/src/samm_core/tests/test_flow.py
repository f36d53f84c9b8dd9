# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Flow between frames: known motion, late and over long times, thin pictures, looks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import disc, scene, texture

from samm_core.stream.flow import Motion, Passage, Shown, flow, similarity, sought, still
from samm_core.stream.frames import Frame

# Pixels a frame, to the right and down.
SPEED = (1.5, 0.7)


def panned(i: float, shape: tuple[int, int] = (200, 256)) -> np.ndarray:
    """A view over a texture that all moves by SPEED each frame."""
    rows, columns = shape
    matrix = np.float32([[1, 0, i * SPEED[0] - 100], [0, 1, i * SPEED[1] - 100]])
    return cv2.warpAffine(texture(2, 0, 255), matrix, (columns, rows))


def frame(number: int, pixels: np.ndarray) -> Frame:
    return Frame(number, number * 33_000_000, 0, pixels)


def test_flow_over_many_frames_does_not_drift() -> None:
    motion = Motion()
    for i in range(40):
        motion.put(frame(i + 1, panned(i)))
        motion.follow({1})
    moved = -motion.passage(1).back[60:140, 80:180]
    np.testing.assert_allclose(moved.mean(axis=(0, 1)), 39 * np.array(SPEED), atol=0.3)
    assert moved.std(axis=(0, 1)).max() < 0.5


def test_flow_that_is_asked_for_late_is_the_same() -> None:
    early, late = Motion(), Motion()
    for i in range(30):
        for motion in (early, late):
            motion.put(frame(i + 1, panned(i)))
        early.follow({1})
    np.testing.assert_allclose(
        late.passage(1).back[60:140, 80:180], early.passage(1).back[60:140, 80:180], atol=0.5
    )
    assert late.passage(1, 1).back.max() == 0
    assert late.passage(5, 3) is None and late.passage(99) is None


def test_frames_are_kept_for_a_time_and_longer_while_they_are_held_or_followed() -> None:
    motion = Motion(kept_ns=330_000_000)
    for i in range(30):
        motion.put(frame(i + 1, panned(i)))
        if i == 4:
            motion.follow({3})
            motion.held = 5
    assert motion.passage(3) is not None and motion.shown(4) is None
    assert motion.passage(5) is not None
    motion.held = None
    motion.put(frame(31, panned(30)))
    assert motion.shown(5) is None and motion.shown(31 - 10) is not None and motion.shown(31 - 11) is None
    motion.follow(set())
    assert motion.passage(3) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (10, 200), (30, 256), (256, 33), (63, 64), (256, 200)])
def test_pictures_of_any_size_have_flow(shape: tuple[int, int]) -> None:
    older, newer = panned(0, shape), panned(1, shape)
    back = flow(newer, older, still(newer))
    assert back.shape == (*shape, 2) and np.isfinite(back).all()
    assert Passage(Shown(1, 0, older), Shown(2, 0, newer), back).brought(older).shape == shape


@given(seed=st.integers(0, 99))
@settings(max_examples=10)
def test_a_picture_that_does_not_move_stays_as_it_is(seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (20, 30)).astype(np.uint8)
    passage = Passage(Shown(1, 0, picture), Shown(2, 0, picture), still(picture))
    np.testing.assert_array_equal(passage.brought(picture), picture)


def test_likeness_does_not_see_brightness_and_contrast_and_sees_another_object() -> None:
    soft = disc(100, 110).astype(np.uint8) * 255
    one = Shown(1, 0, scene(100, 110))
    brighter = Shown(2, 0, scene(100, 110, gain=0.6))
    without = Shown(3, 0, texture(0, 0, 110)[:240, :240].copy())
    assert Passage(one, brighter, still(soft)).likeness(soft) > 0.98
    assert Passage(one, without, still(soft)).likeness(soft) < 0.5
    assert Passage(one, one, still(soft)).likeness(np.zeros_like(soft)) == -1


def test_an_object_is_sought_over_the_whole_view() -> None:
    older, newer = Shown(1, 0, scene(70, 80)), Shown(2, 0, scene(160, 150))
    soft = disc(70, 80).astype(np.uint8) * 255
    passage = sought(older, soft, newer)
    found = passage.brought(soft) > 127
    truth = disc(160, 150)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    # What is around it is another part of the ground.
    assert passage.likeness(passage.brought(soft)) > 0.75
    assert sought(older, np.zeros_like(soft), newer) is None
    assert sought(older, soft, Shown(3, 0, scene(70, 80, (200, 240)))) is None


def test_a_similarity_tells_a_turn_and_a_shift_from_both_sides() -> None:
    matrix = cv2.getRotationMatrix2D((120, 120), 6, 1.05)
    matrix[:, 2] += (5, -3)
    older = texture(3, 0, 255)[:240, :240].copy()
    newer = cv2.warpAffine(older, matrix, (240, 240))
    back = flow(newer, older, still(older))
    for on_older in (True, False):
        found = similarity(back, disc(120, 120), on_older)
        point = np.array([130, 100, 1])
        np.testing.assert_allclose(found @ point, matrix @ point, atol=0.5)
    assert similarity(back, np.zeros((240, 240), bool)) is None
