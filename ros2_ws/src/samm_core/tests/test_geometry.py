# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Coordinates: round trips for any affine, what SimpleITK says of the same file, and points that have no pixel."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st

from samm_core.errors import PromptError, VolumeError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.sources.volume import read_here

PLANES = st.sampled_from(Plane)
# Which IJK axis runs along R, A and S, and which way: axial, coronal and sagittal acquisitions, each flip of them.
ACQUISITIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def affine(columns: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = columns * spacing
    matrix[:3, 3] = origin
    return matrix


def directions_of(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    """(3, 3): column order[r] points along ± RAS axis r."""
    columns = np.zeros((3, 3))
    columns[range(3), order] = signs
    return columns


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    (a, b, c), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_s = np.array([[a, -sa, 0], [sa, a, 0], [0, 0, 1]])
    about_a = np.array([[b, 0, sb], [0, 1, 0], [-sb, 0, b]])
    about_r = np.array([[1, 0, 0], [0, c, -sc], [0, sc, c]])
    return about_s @ about_a @ about_r


@st.composite
def geometries(draw: st.DrawFn) -> VolumeGeometry:
    """Any acquisition, oblique by any angle, a little sheared or not, anisotropic, anywhere within a room."""
    angle = st.floats(-np.pi, np.pi)
    columns = rotation(draw(st.tuples(angle, angle, angle))) @ directions_of(
        *draw(st.sampled_from(ACQUISITIONS))
    )
    columns[:, 2] += draw(st.sampled_from((0.0, 0.2))) * columns[:, 0]
    spacing = draw(st.tuples(*[st.floats(0.05, 10)] * 3))
    origin = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    dimensions = draw(st.tuples(*[st.integers(1, 400)] * 3))
    return VolumeGeometry(dimensions, affine(columns, spacing, origin))


def points_inside(geometry: VolumeGeometry) -> np.ndarray:
    """The eight corners of the outer voxel centres, and the middle, (9, 3) IJK."""
    last = np.array(geometry.dimensions) - 1.0
    return np.array([*product(*zip((0, 0, 0), last, strict=True)), last / 2])


@given(geometries(), PLANES)
def test_ras_to_ijk_to_slice_and_pixel_and_back_is_exact(geometry: VolumeGeometry, plane: Plane) -> None:
    points_ras = geometry.position_of(points_inside(geometry))

    across, points_xy = geometry.pixel_of(geometry.index_of(points_ras), plane)
    back = [
        geometry.position_of(geometry.ijk_of(xy, plane, index))
        for index, xy in zip(across, points_xy, strict=True)
    ]

    assert np.abs(np.concatenate(back) - points_ras).max() < 1e-6


@given(geometries(), PLANES, st.data())
def test_a_pixel_of_a_slice_goes_to_ras_and_comes_back_to_that_slice(
    geometry: VolumeGeometry, plane: Plane, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, geometry.slice_count(plane) - 1))
    rows, columns = geometry.slice_shape(plane)
    points_xy = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns / 2 - 0.5, rows / 2 - 0.5]])

    points_ras = geometry.position_of(geometry.ijk_of(points_xy, plane, index))

    assert geometry.to_slice(points_ras, plane, index) == pytest.approx(points_xy, abs=1e-6)
    assert [geometry.slice_at(point, plane) for point in points_ras] == [index] * 4


@given(geometries())
def test_each_plane_has_an_axis_of_its_own(geometry: VolumeGeometry) -> None:
    assert sorted(geometry.axis(plane) for plane in Plane) == [0, 1, 2]


@pytest.mark.parametrize(("order", "signs"), ACQUISITIONS)
def test_a_slightly_oblique_acquisition_keeps_its_planes(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    tilted = rotation((0.3, -0.3, 0.2)) @ directions_of(order, signs)
    geometry = VolumeGeometry((7, 6, 5), affine(tilted, (0.7, 0.9, 6.5), (10, -20, 30)))

    assert (geometry.axis(Plane.SAGITTAL), geometry.axis(Plane.CORONAL), geometry.axis(Plane.AXIAL)) == order


def test_at_a_tie_of_45_degrees_the_planes_are_always_the_same() -> None:
    axes = set()
    for error in (-1e-12, 0, 1e-12):
        geometry = VolumeGeometry(
            (5, 5, 5), affine(rotation((np.pi / 4 + error, 0, 0)), (1, 1, 1), (0, 0, 0))
        )
        axes.add(tuple(geometry.axis(plane) for plane in Plane))

    assert len(axes) == 1


@given(geometries(), PLANES)
def test_slices_are_what_plain_indexing_gives(geometry: VolumeGeometry, plane: Plane) -> None:
    assume(np.prod(geometry.dimensions) < 1e5)
    voxels_kji = np.arange(np.prod(geometry.dimensions)).reshape(geometry.dimensions[::-1])
    index = geometry.slice_count(plane) // 2

    pixels = geometry.take_slice(voxels_kji, plane, index)

    rows, columns = geometry.slice_shape(plane)
    assert pixels.shape == (rows, columns)
    assert np.shares_memory(pixels, voxels_kji)
    i, j, k = geometry.ijk_of([columns - 1, 0], plane, index)[0].astype(int)
    assert pixels[0, columns - 1] == voxels_kji[k, j, i]
    i, j, k = geometry.ijk_of([0, rows - 1], plane, index)[0].astype(int)
    assert pixels[rows - 1, 0] == voxels_kji[k, j, i]


def test_a_slice_of_colours_keeps_its_channels() -> None:
    geometry = VolumeGeometry((4, 3, 2), np.eye(4))
    assert geometry.take_slice(np.zeros((2, 3, 4, 3)), Plane.CORONAL, 1).shape == (2, 4, 3)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (0.4, -0.2, 0.1)], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0)], ids=["axial", "coronal", "sagittal"])
def test_geometry_is_what_simpleitk_says_of_the_same_file(
    tmp_path: Path, suffix: str, tilt: tuple[float, float, float], order: tuple[int, ...]
) -> None:
    image = sitk.GetImageFromArray(np.arange(6 * 5 * 4, dtype=np.int16).reshape(4, 5, 6))
    image.SetSpacing((0.8, 1.1, 6.5))
    image.SetOrigin((-12.5, 40.25, 7.0))
    image.SetDirection((rotation(tilt) @ directions_of(order, (1, -1, 1))).ravel().tolist())
    path = tmp_path / f"volume{suffix}"
    sitk.WriteImage(image, str(path))

    geometry = read_here(path).geometry

    again = sitk.ReadImage(str(path))
    for index in (0.0, 0.0, 0.0), (5.0, 4.0, 3.0), (1.25, 3.5, 0.75):
        left, posterior, superior = again.TransformContinuousIndexToPhysicalPoint(index)
        assert geometry.position_of(index)[0] == pytest.approx((-left, -posterior, superior), abs=1e-6)
        assert geometry.index_of((-left, -posterior, superior))[0] == pytest.approx(index, abs=1e-6)
    assert geometry.spacing == pytest.approx(again.GetSpacing())
    assert geometry.dimensions == (6, 5, 4)


AXIAL = VolumeGeometry((10, 8, 6), affine(np.eye(3), (1, 1, 2), (0, 0, 0)))


def test_a_point_outside_the_volume_and_one_off_the_slice_are_told_apart() -> None:
    with pytest.raises(
        PromptError, match=r"\(20\.0, 0\.0, 4\.0\) RAS lies outside the volume; move it inside"
    ):
        AXIAL.to_slice([[1, 1, 4], [20, 0, 4]], Plane.AXIAL, 2)
    with pytest.raises(PromptError, match=r"\(1\.0, 1\.0, 8\.2\) RAS lies on axial slice 4, not on slice 2"):
        AXIAL.to_slice([[1, 1, 4], [1, 1, 8.2]], Plane.AXIAL, 2)


def test_half_a_voxel_beyond_the_outer_centres_is_still_inside() -> None:
    edge = [[-0.5, 7.5, 11.0], [9.5, -0.5, 11.0]]
    assert AXIAL.to_slice(edge, Plane.AXIAL, 5) == pytest.approx(np.array([[-0.5, 7.5], [9.5, -0.5]]))
    assert AXIAL.slice_at(edge[0], Plane.AXIAL) == 5
    assert AXIAL.slice_at([-0.5, 0, -1.0], Plane.SAGITTAL) == 0
    with pytest.raises(PromptError, match="outside"):
        AXIAL.slice_at([-0.51, 0, 0], Plane.AXIAL)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e300])
def test_a_point_that_is_nowhere_is_outside(bad: float) -> None:
    with pytest.raises(PromptError, match="outside the volume"):
        AXIAL.slice_at([bad, 0, 0], Plane.AXIAL)


def test_slices_are_counted_from_0_and_never_from_the_end() -> None:
    assert [index for index in range(-2, 9) if AXIAL.contains_slice(Plane.AXIAL, index)] == list(range(6))


@given(geometries(), PLANES)
def test_upright_pictures_look_as_radiologists_expect(geometry: VolumeGeometry, plane: Plane) -> None:
    assume(np.prod(geometry.dimensions) < 1e5)
    rows, columns = geometry.slice_shape(plane)
    pixels = np.arange(rows * columns).reshape(rows, columns)
    points_xy = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]])

    picture = geometry.show_upright(pixels, plane)

    assert np.shares_memory(picture, pixels)
    drawn_xy = geometry.upright_xy(points_xy, plane).astype(int)
    assert [picture[y, x] for x, y in drawn_xy] == [pixels[y, x] for x, y in points_xy]


@pytest.mark.parametrize(("order", "signs"), ACQUISITIONS)
@pytest.mark.parametrize("plane", Plane)
def test_upright_pictures_point_the_right_way(
    plane: Plane, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    geometry = VolumeGeometry((7, 6, 5), affine(directions_of(order, signs), (0.7, 0.9, 6.5), (0, 0, 0)))
    rows, columns = geometry.slice_shape(plane)
    pixels_xy = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    positions = geometry.position_of(geometry.ijk_of(pixels_xy, plane, 2)).reshape(rows, columns, 3)

    picture = geometry.show_upright(positions, plane)

    rightwards, downwards = picture[0, 1] - picture[0, 0], picture[1, 0] - picture[0, 0]
    # The patient's right on the left, or anterior on the left; anterior up, or superior up.
    across, down = {
        Plane.AXIAL: ((-1, 0, 0), (0, -1, 0)),
        Plane.CORONAL: ((-1, 0, 0), (0, 0, -1)),
        Plane.SAGITTAL: ((0, -1, 0), (0, 0, -1)),
    }[plane]
    sx, sy = geometry.spacing_xy(plane)
    assert rightwards == pytest.approx(np.multiply(across, sx))
    assert downwards == pytest.approx(np.multiply(down, sy))


@pytest.mark.parametrize(
    ("dimensions", "matrix", "sentence"),
    [
        ((0, 5, 5), np.eye(4), r"\(0, 5, 5\) voxels"),
        ((5, 5), np.eye(4), r"\(5, 5\) voxels"),
        ((5, 5, 5), np.full((4, 4), np.nan), "not 4×4 and finite"),
        ((5, 5, 5), np.eye(3), "not 4×4 and finite"),
        ((5, 5, 5), np.diag([1, 1, 0, 1]), r"spacing \[1.0, 1.0, 0.0\] mm"),
        ((5, 5, 5), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "flat"),
        ((5, 5, 5), np.diag([1, 1, 1, 2]), "ends in"),
    ],
)
def test_what_is_no_geometry_is_refused(
    dimensions: tuple[int, ...], matrix: np.ndarray, sentence: str
) -> None:
    with pytest.raises(VolumeError, match=sentence):
        VolumeGeometry(dimensions, matrix)


def test_geometries_are_values() -> None:
    one, same = (VolumeGeometry((5, 4, 3), np.eye(4)) for _ in range(2))
    other = VolumeGeometry((5, 4, 3), np.diag([1, 1, 2, 1]))

    assert one == same and hash(one) == hash(same)
    assert one != other
    with pytest.raises(ValueError, match="read-only"):
        one.ijk_to_ras[0, 0] = 2
