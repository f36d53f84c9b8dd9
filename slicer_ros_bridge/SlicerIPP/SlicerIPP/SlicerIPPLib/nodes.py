# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What MRML nodes hold, as arrays and text: positions and matrices in the world, windows, names."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np
import vtk

from samm_core.errors import VolumeError
from samm_core.geometry import VolumeGeometry

from .i18n import tr as _

if TYPE_CHECKING:
    import slicer

# The time at which a volume node's voxels were modified last, and where they lie in the node's own space.
VoxelStamp = tuple[int, bytes]


@functools.lru_cache(maxsize=8)
def _geometry(dimensions: tuple[int, int, int], ijk_to_world: bytes) -> VolumeGeometry:
    # Made once: a drag asks for it a hundred times a second.
    return VolumeGeometry(dimensions, np.frombuffer(ijk_to_world).reshape(4, 4))


def world_geometry(volume: slicer.vtkMRMLVolumeNode) -> VolumeGeometry:
    """The volume's geometry in the world. Raises VolumeError without voxels, and for a transform that is not linear."""
    voxels = volume.GetImageData()
    if voxels is None:
        raise VolumeError(_("{name} has no voxels; choose another volume.").format(name=volume.GetName()))
    return _geometry(voxels.GetDimensions(), (to_world(volume) @ ijk_to_ras(volume)).tobytes())


def placed_points(node: slicer.vtkMRMLMarkupsNode | None) -> list[tuple[str, np.ndarray]]:
    """The placed control points of a markups node: label and (3,) position in the world."""
    points = []
    for n in range(node.GetNumberOfControlPoints() if node else 0):
        if node.GetNthControlPointPositionStatus(n) == node.PositionDefined:
            position = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(n, position)
            points.append(
                (node.GetNthControlPointLabel(n) or f"{node.GetName()} {n + 1}", np.array(position))
            )
    return points


def roi_corners(roi: slicer.vtkMRMLMarkupsROINode | None) -> np.ndarray | None:
    """(8, 3) corners of a ROI in the world, its own rotation and transforms included; None when it is not placed."""
    if roi is None or roi.GetNumberOfDefinedControlPoints() < 1:
        return None
    size = np.array(roi.GetSize())
    if not (size > 0).any():
        return None
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    object_to_world = array_of(roi.GetObjectToWorldMatrix())
    return signs * size @ object_to_world[:3, :3].T + object_to_world[:3, 3]


def display_window(volume: slicer.vtkMRMLVolumeNode) -> tuple[float, float] | None:
    """Lower and upper end of the volume's display window; None without one."""
    display = volume.GetDisplayNode()
    if display is None or not hasattr(display, "GetWindowLevelMin"):
        return None
    lower, upper = float(display.GetWindowLevelMin()), float(display.GetWindowLevelMax())
    return (lower, upper) if lower < upper else None


def ijk_to_ras(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return array_of(matrix)


def voxel_stamp(volume: slicer.vtkMRMLVolumeNode) -> VoxelStamp:
    """Another one when the voxels or their place have changed."""
    image = volume.GetImageData()
    return (image.GetMTime() if image else 0), ijk_to_ras(volume).tobytes()


def is_bent(node: slicer.vtkMRMLTransformableNode) -> bool:
    """Whether its transform to the world is not linear."""
    transform = node.GetParentTransformNode()
    return transform is not None and not transform.IsTransformToWorldLinear()


def to_world(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4) from a node's own space to the world; raises VolumeError for a transform that is not linear."""
    if is_bent(node):
        raise VolumeError(
            _("The transform of {name} is not linear: harden it (module Transforms) first.").format(
                name=node.GetName()
            )
        )
    transform = node.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    if transform is not None:
        transform.GetMatrixTransformToWorld(matrix)
    return array_of(matrix)


def array_of(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_of(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """Of (4, 4); the inverse of array_of."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, np.float64).ravel())
    return matrix


def printable(text: str, longest: int) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:longest]
