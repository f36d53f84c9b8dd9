# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Poses by stamp, pixels in millimetres, outlines in the world: known places, and refusals where there is none."""

from __future__ import annotations

import numpy as np
import phantom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samm_core.errors import MaskError, PoseError
from samm_core.stream.world import (
    SECOND_NS,
    ImageGeometry,
    PoseBuffer,
    contours_in_world,
    interpolated,
    points_in_world,
    rigid,
)

MS = SECOND_NS // 1000
STAMP = 1_700_000_000 * SECOND_NS


def pose(angles_deg: tuple[float, float, float] = (0, 0, 0), at: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    return phantom.placed(phantom.rotation(angles_deg), (1, 1, 1), at)


angles = st.tuples(*[st.floats(-180, 180)] * 3)
places = st.tuples(*[st.floats(-1000, 1000)] * 3)


# Poses.


def test_a_pose_between_two_is_halfway_in_place_and_turn() -> None:
    poses = PoseBuffer()
    poses.put(STAMP, pose((0, 0, 10), (0, 0, 0)))
    poses.put(STAMP + 80 * MS, pose((0, 0, 50), (8, 0, -16)))

    halfway = poses.at(STAMP + 40 * MS)
    assert np.allclose(halfway, pose((0, 0, 30), (4, 0, -8)))
    assert np.allclose(poses.at(STAMP + 20 * MS), pose((0, 0, 20), (2, 0, -4)))
    assert np.array_equal(poses.at(STAMP), rigid(pose((0, 0, 10))))


@given(angles, angles, places, places, st.floats(0, 1))
def test_interpolation_is_rigid_and_turns_at_one_speed(one, other, here, there, share) -> None:
    earlier, later = rigid(pose(one, here)), rigid(pose(other, there))
    between = interpolated(earlier, later, share)
    assert np.abs(rigid(between) - between).max() < 1e-9
    # OpenCV takes turns of less than 1e-5 for none.
    assert np.allclose(interpolated(earlier, later, 0.0), earlier, atol=2e-5)
    assert np.allclose(interpolated(earlier, later, 1.0), later, atol=2e-5)

    def turn(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1)))

    assert turn(earlier, between) == pytest.approx(share * turn(earlier, later), abs=1e-3)


@pytest.mark.parametrize(
    ("stamp", "sentence"),
    [
        (STAMP - 1 * MS, "The oldest pose is 1 ms newer than the image"),
        (STAMP + 330 * MS, "The newest pose is 30 ms older than the image"),
        (STAMP + 200 * MS, "around the image are 200 ms apart; at most 90 ms"),
    ],
)
def test_nothing_is_carried_beyond_the_poses_or_over_a_gap(stamp: int, sentence: str) -> None:
    poses = PoseBuffer()
    for at in 0, 100, 300:
        poses.put(STAMP + at * MS, pose())
    with pytest.raises(PoseError, match=sentence):
        poses.at(stamp, 0.09)
    assert poses.newest_ns == STAMP + 300 * MS


def test_a_probe_that_was_not_seen_has_no_place() -> None:
    poses = PoseBuffer()
    with pytest.raises(PoseError, match="No pose has come"):
        poses.at(STAMP)
    assert poses.newest_ns is None
    poses.put(STAMP, pose())
    # What PLUS sends with the status INVALID is the unit matrix.
    poses.put(STAMP + 50 * MS, np.eye(4), valid=False)
    poses.put(STAMP + 100 * MS, pose())
    for at in 25, 50, 75:
        with pytest.raises(PoseError, match="did not see the probe"):
            poses.at(STAMP + at * MS)
    assert np.allclose(poses.at(STAMP + 100 * MS), np.eye(4))
    with pytest.raises(PoseError, match="mirrors"):
        poses.put(STAMP + 150 * MS, np.diag([1.0, 1, -1, 1]))
    poses.put(STAMP + 200 * MS, pose())
    with pytest.raises(PoseError, match="did not see the probe"):
        poses.at(STAMP + 175 * MS)


def test_poses_are_kept_for_a_while_and_no_longer_than_their_clock() -> None:
    poses = PoseBuffer(keep_s=1.0)
    for n in range(300):
        poses.put(STAMP + n * 10 * MS, pose(at=(n, 0, 0)))
    assert len(poses) == 101
    with pytest.raises(PoseError, match="The oldest pose is"):
        poses.at(STAMP)
    # One that was overtaken on its way finds its place.
    poses.put(STAMP + 2985 * MS, pose(at=(298.5, 9, 0)))
    assert poses.at(STAMP + 2985 * MS)[1, 3] == 9
    # The recording begins again: what was to come is no neighbour of what comes.
    poses.put(STAMP, pose(at=(5, 0, 0)))
    assert len(poses) == 1 and poses.newest_ns == STAMP
    # The same stamp again is a correction.
    poses.put(STAMP, pose(at=(6, 0, 0)))
    assert len(poses) == 1 and poses.at(STAMP)[0, 3] == 6


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.eye(3), "not 4×4 and finite"),
        (np.full((4, 4), np.nan), "not 4×4 and finite"),
        (np.diag([2.0, 2, 2, 1]), "scales or shears by 3"),
        (np.diag([1.0, 1, 1, 2]), r"ends in \[0\.0, 0\.0, 0\.0, 2\.0\]"),
        (np.diag([-1.0, 1, 1, 1]), "mirrors"),
        (pose(at=(1e9, 0, 0)), "reaches to 1e"),
    ],
)
def test_what_is_no_pose_is_refused(matrix: np.ndarray, sentence: str) -> None:
    with pytest.raises(PoseError, match=sentence):
        rigid(matrix)


def test_the_rounding_of_a_file_is_taken_out() -> None:
    """Six digits, as PLUS writes them."""
    exact = pose((33, -71, 120), (257.956, -52.6852, 25.5612))
    checked = rigid(np.array([[float(f"{x:.6g}") for x in row] for row in exact]))
    assert np.abs(checked[:3, :3].T @ checked[:3, :3] - np.eye(3)).max() < 1e-12
    assert np.abs(checked - exact).max() < 1e-4


# Pixels.


def test_a_pixel_is_where_the_calibration_and_the_pose_put_it() -> None:
    """PLUS' chain: ImageToProbe, then ProbeToReference; by hand for one pixel."""
    image_to_probe = [0, -0.2, 0, 10, 0.1, 0, 0, -5, 0, 0, 0.2, 3, 0, 0, 0, 1]
    geometry = ImageGeometry.of_image_to_probe(image_to_probe)
    to_world = geometry.in_world(pose((0, 0, 90), (100, 200, 300)))
    # Pixel (40, 20): probe (10 − 4, −5 + 4, 3) = (6, −1, 3); turned by 90° about z: (1, 6, 3).
    assert np.allclose(to_world @ [40, 20, 0, 1], [101, 206, 303, 1])


def test_a_size_is_a_geometry_too() -> None:
    assert np.allclose(ImageGeometry.parse("0.2, 0.3").image_to_frame @ [10, 10, 0, 1], [2, 3, 0, 1])
    assert np.allclose(ImageGeometry.parse("0.5").image_to_frame, np.diag([0.5, 0.5, 1, 1]))
    flat = ImageGeometry.parse("0.1 0 0 1  0 0.1 0 2  0 0 0 3  0 0 0 1")
    assert np.array_equal(flat.image_to_frame[:3, 2], (0, 0, 1))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The image's geometry is ''; give millimetres a pixel"),
        ("a b", "geometry is 'a b'"),
        ("1 2 3", "geometry is '1 2 3'"),
        ("0", "Pixels of 0 × 0 mm"),
        ("nan 1", "not 4×4 and finite"),
        ("1 0 0 0  1 1 0 0  0 0 1 0  0 0 0 1", "rows and columns meet at 45.0°"),
        ("1 0 0 0  0 1 0 0  0 0 1 0  0 0 1 1", "not 0 0 0 1; give it row by row"),
    ],
)
def test_what_is_no_geometry_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(PoseError, match=sentence):
        ImageGeometry.parse(text)


# Masks.


def test_an_outline_is_in_metres_at_its_place() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:21, 30:41] = 1
    mask[14:17, 34:37] = 0
    to_world = ImageGeometry.of_pixel_size(0.5, 0.25).in_world(pose((90, 0, 0), (1000, 0, 0)))

    outlines = contours_in_world(mask, to_world)

    # The outer one and the hole's; turned about x, the image's y goes up.
    assert len(outlines) == 2
    outer = max(outlines, key=len)
    assert outer.dtype == np.float64 and len(outer) == 40
    assert np.allclose(outer.min(axis=0), (1.015, 0, 0.0025)) and np.allclose(
        outer.max(axis=0), (1.020, 0, 0.005)
    )
    assert np.allclose(np.linalg.norm(np.diff(outer, axis=0), axis=1).max(), 0.0005)


def test_points_are_the_pixels_of_the_mask() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2, 3:6] = True
    mask[4, 6] = True
    to_world = ImageGeometry.of_pixel_size(2, 3).in_world(np.eye(4))
    expected = np.array([(6, 6, 0), (8, 6, 0), (10, 6, 0), (12, 12, 0)]) / 1000
    assert np.allclose(points_in_world(mask, to_world), expected)
    assert np.allclose(points_in_world(mask, to_world, step=2), expected[[1, 3]])


def test_an_empty_mask_has_nothing_and_a_pixel_is_one_point() -> None:
    empty = np.zeros((4, 4), np.uint8)
    assert contours_in_world(empty, np.eye(4)) == []
    assert points_in_world(empty, np.eye(4)).shape == (0, 3)
    empty[1, 2] = 7
    (outline,) = contours_in_world(empty, np.eye(4))
    assert np.allclose(outline, [(0.002, 0.001, 0)])
    with pytest.raises(MaskError, match=r"shape \(4, 4, 1\)"):
        contours_in_world(empty[..., None], np.eye(4))
