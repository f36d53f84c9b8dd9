# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Saved segmentations as 3D Slicer's core reads them: a ball lies where it was segmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slicer_scene import numpy_matrix, positions, slicer_app
from vtk import vtkImageData, vtkMatrix4x4
from vtk.util.numpy_support import vtk_to_numpy

from samm_core.geometry import Plane, VolumeGeometry
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation

OBLIQUE = np.array([[0.8, 0, -1.8, -3], [0, -0.7, 0, 8], [0.6, 0, 2.4, 5], [0, 0, 0, 1.0]])
# As by a gantry tilted by 15°.
TILTED = np.array([[-0.9, 0, 0, 40], [0, -0.9, 0.67, 30], [0, 0, 2.5, -20], [0, 0, 0, 1.0]])


def with_ball(matrix: np.ndarray) -> tuple[Segmentation, np.ndarray]:
    """A ball and its centre, RAS."""
    geometry = VolumeGeometry((14, 12, 11), matrix)
    ijk = np.argwhere(np.ones(geometry.dimensions[::-1]))[:, ::-1]
    inside = np.linalg.norm(ijk - (8, 5, 6), axis=1) < 3.3
    ball = inside.reshape(geometry.dimensions[::-1])
    segmentation = Segmentation(geometry)
    for index in range(geometry.slice_count(Plane.AXIAL)):
        segmentation.apply(geometry.take_slice(ball, Plane.AXIAL, index), Plane.AXIAL, index, "ball")
    return segmentation, geometry.position_of(ijk[inside]).mean(axis=0)


def voxels_of(image: vtkImageData) -> np.ndarray:
    """(N, 3) IJK of what is set in an image of VTK."""
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
    return np.argwhere(array > 0)[:, ::-1] + (x0, y0, z0)


@pytest.mark.parametrize("matrix", [OBLIQUE, TILTED], ids=["oblique", "tilted"])
def test_slicer_shows_a_saved_segment_where_it_was(tmp_path: Path, matrix: np.ndarray) -> None:
    segmentation, centre = with_ball(matrix)
    write_segmentation(segmentation, tmp_path / "out.seg.nrrd")

    node = slicer_app().io_manager.load_segmentation(str(tmp_path / "out.seg.nrrd"))

    segment = node.GetSegmentation().GetNthSegment(0)
    image = segment.GetRepresentation("Binary labelmap")
    to_world = vtkMatrix4x4()
    image.GetImageToWorldMatrix(to_world)
    found = positions(numpy_matrix(to_world), voxels_of(image)).mean(axis=0)
    slicer_app().scene.Clear(False)
    assert segment.GetName() == "ball"
    assert found == pytest.approx(centre, abs=0.05)


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd"])
def test_slicer_shows_a_saved_labelmap_where_it_was(tmp_path: Path, name: str) -> None:
    segmentation, centre = with_ball(OBLIQUE)
    write_segmentation(segmentation, tmp_path / name)

    (node,) = slicer_app().io_manager.load_volumes(str(tmp_path / name))

    to_ras = vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)
    found = positions(numpy_matrix(to_ras), voxels_of(node.GetImageData())).mean(axis=0)
    slicer_app().scene.Clear(False)
    assert found == pytest.approx(centre, abs=0.05)
