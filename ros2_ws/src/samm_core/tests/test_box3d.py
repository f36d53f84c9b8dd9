# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""3-D boxes: where slices cut them, and the structure in one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phantom import placed, rotation
from structures import FIRST, LAST, Embedder, ball, embedder_of_the_ball, slices_of, volume_dice

from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.models.base import SegmentationModel
from samm_core.tasks.box3d import Box3D, cross_sections, segment_box

# With all that takes its embeddings from structures.embedder_of_the_ball.
pytestmark = pytest.mark.xdist_group("ball")

SIDES = (40, 36, 30)
angles = st.lists(st.floats(-180, 180), min_size=3, max_size=3)


def oblique(degrees: list[float]) -> VolumeGeometry:
    return VolumeGeometry(SIDES, placed(rotation(degrees), (1.0, 2.0, 3.0), (5, -7, 11)))


@given(
    of_volume=angles,
    of_box=angles,
    half=st.lists(st.floats(4, 25), min_size=3, max_size=3),
    centre=st.tuples(*(st.floats(0.3, 0.7) for _ in range(3))),
    plane=st.sampled_from(list(Plane)),
)
@settings(max_examples=40)
# Along the voxels, and its faces lie on slices but for rounding.
@example([0.0, 108.5, 1.0], [0.0, 108.5, 1.0], [4.0] * 3, (0.3, 0.5, 0.625), Plane.AXIAL)
@example([0.0, 46.0, 1.0], [0.0, 46.0, 1.0], [4.0] * 3, (0.5, 0.5, 0.5), Plane.AXIAL)
def test_a_section_is_the_bounding_box_of_what_lies_in_the_box(
    of_volume: list[float], of_box: list[float], half: list[float], centre: tuple, plane: Plane
) -> None:
    geometry = oblique(of_volume)
    box = Box3D(geometry.position_of([np.array(centre) * SIDES])[0], rotation(of_box), np.array(half))
    sections = cross_sections(box, geometry, plane)
    rows, columns = geometry.slice_shape(plane)
    x, y = np.meshgrid(np.linspace(0, columns - 1, 60), np.linspace(0, rows - 1, 60))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    for index in range(geometry.slice_count(plane)):
        ras = geometry.position_of(geometry.ijk_of(points, plane, index))
        inside = (np.abs((ras - box.centre_ras) @ box.axes_ras) <= box.half_lengths_mm).all(axis=1)
        if not inside.any():
            continue
        sampled = np.concatenate([points[inside].min(axis=0), points[inside].max(axis=0)])
        assert (sections[index][:2] <= sampled[:2] + 1e-6).all(), (index, sections[index], sampled)
        assert (sections[index][2:] >= sampled[2:] - 1e-6).all(), (index, sections[index], sampled)


def test_the_sections_of_a_straight_box_are_itself() -> None:
    geometry = VolumeGeometry(SIDES, np.diag([1.0, 2.0, 3.0, 1.0]))
    sections = cross_sections(Box3D.between([4, 10, 9], [20, 30, 24]), geometry, Plane.AXIAL)
    assert sorted(sections) == [3, 4, 5, 6, 7, 8]
    for section in sections.values():
        np.testing.assert_allclose(section, [4, 5, 20, 15])


def test_a_box_turned_by_45_degrees_is_cut_in_its_exact_polygon() -> None:
    geometry = VolumeGeometry(SIDES, np.eye(4))
    box = Box3D([20, 18, 15], rotation([0, 45, 0]), [5, 4, 5])
    sections = cross_sections(box, geometry, Plane.AXIAL)
    # A square on its corner: as wide as it is near to the middle.
    reach = 5 * np.sqrt(2)
    for index, (x0, y0, x1, y1) in sections.items():
        width = 2 * (reach - abs(index - 15))
        np.testing.assert_allclose([x1 - x0, y0, y1], [width, 14, 22], atol=1e-9)


def test_a_box_between_two_slices_counts_to_the_nearer_one() -> None:
    geometry = VolumeGeometry(SIDES, np.diag([1.0, 1.0, 5.0, 1.0]))
    assert list(cross_sections(Box3D.between([4, 4, 21], [9, 9, 22]), geometry, Plane.AXIAL)) == [4]


@pytest.mark.parametrize("corner", [(500, 0, 0), (0, 0, -500), (-200, 10, 10)])
def test_a_box_outside_the_volume_is_refused(corner: tuple[float, float, float]) -> None:
    geometry = VolumeGeometry(SIDES, np.eye(4))
    box = Box3D.between(corner, np.array(corner) + 20.0)
    with pytest.raises(PromptError, match="outside the volume"):
        cross_sections(box, geometry, Plane.AXIAL)


@pytest.mark.parametrize(
    ("centre", "axes", "half", "sentence"),
    [
        ([0, 0, np.nan], np.eye(3), [1, 1, 1], "finite"),
        ([0, 0], np.eye(3), [1, 1, 1], "centre_ras"),
        ([0, 0, 0], np.eye(3), [1, 0, 1], "flat"),
        ([0, 0, 0], np.ones((3, 3)), [1, 1, 1], "right angles"),
    ],
)
def test_what_is_no_box_is_refused(centre: list, axes: np.ndarray, half: list, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        Box3D(centre, axes, half)


@pytest.fixture(scope="module")
def embedder(lite_medsam: SegmentationModel) -> Embedder:
    return embedder_of_the_ball(lite_medsam)


def box_of_the_ball() -> Box3D:
    k, j, i = np.nonzero(ball())
    low, high = (np.array([each.min() for each in (i, j, k)]), np.array([each.max() for each in (i, j, k)]))
    # The made volume's voxels are cubes of 2 mm.
    return Box3D.between(2.0 * low - [4, 4, 1], 2.0 * high + [4, 4, 1])


def test_a_box_gives_the_ball_in_it_and_nothing_outside(embedder: Embedder) -> None:
    sections = cross_sections(box_of_the_ball(), embedder.volume.geometry, Plane.AXIAL)
    assert sorted(sections) == list(range(FIRST, LAST + 1))
    masks = {given.index: given.mask for given in segment_box(slices_of(embedder), box_of_the_ball())}
    assert volume_dice(masks, ball()) > 0.9
    for index, mask in masks.items():
        rows, columns = np.nonzero(mask)
        x0, y0, x1, y1 = sections[index]
        assert x0 <= columns.min() and columns.max() <= x1 and y0 <= rows.min() and rows.max() <= y1


def test_it_can_be_closed_at_any_point(embedder: Embedder) -> None:
    for taken in (0, 2):
        slices = slices_of(embedder)
        masks = segment_box(slices, box_of_the_ball())
        for _ in range(taken):
            next(masks)
        masks.close()


def test_one_slice_of_a_box_is_enough(embedder: Embedder) -> None:
    box = box_of_the_ball()
    thin = Box3D(box.centre_ras, box.axes_ras, [*box.half_lengths_mm[:2], 0.5])
    (given,) = segment_box(slices_of(embedder), thin)
    assert (
        given.index == 6 and volume_dice({6: given.mask}, ball() & (np.arange(13) == 6)[:, None, None]) > 0.9
    )
