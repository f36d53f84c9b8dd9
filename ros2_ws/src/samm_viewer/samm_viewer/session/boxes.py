# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A ROI as a rectangle on a slice: begun, and its edges, corners and middle dragged with the mouse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
from SlicerIPPLib.nodes import array_of, matrix_of

# A ROI without a size is none to Slicer.
_LEAST_MM = 1e-3


@dataclass(frozen=True)
class Grip:
    """What of a ROI is dragged. sides: by the ROI's axis, -1 or 1: that face; 0: neither. All 0: it is moved as a whole.

    start: (3,) where it was gripped, in the ROI's own axes. centre, size: the ROI's then, in the same axes.
    """

    sides: tuple[int, int, int]
    start: np.ndarray
    centre: np.ndarray
    size: np.ndarray


def begin(
    roi: slicer.vtkMRMLMarkupsROINode, slice_to_ras: np.ndarray, corner_ras: np.ndarray, depth_mm: float
) -> Grip:
    """Make the ROI a rectangle of no area along the slice's axes, with a corner at a point; what is dragged then.

    slice_to_ras: (4, 4). depth_mm: its size across the slice.
    """
    rotation = slice_to_ras[:3, :3] / np.linalg.norm(slice_to_ras[:3, :3], axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = corner_ras
    roi.SetAndObserveObjectToNodeMatrix(matrix_of(matrix))
    roi.SetCenterWorld(*corner_ras)
    size = np.array([0.0, 0.0, depth_mm])
    roi.SetSize(*np.maximum(size, _LEAST_MM))
    # Slices may be mirrored, as axial ones are; a ROI's axes never are.
    corner = _frame(roi)[0].T @ corner_ras
    return Grip((1, 1, 0), corner, corner, size)


def grip_at(
    roi: slicer.vtkMRMLMarkupsROINode, slice_to_ras: np.ndarray, point_ras: np.ndarray, reach_mm: float
) -> Grip | None:
    """What of the ROI lies within reach of a point of the slice: a corner, an edge, the middle; None: nothing."""
    rotation, centre, size = _frame(roi)
    point = rotation.T @ point_ras
    offset = point - centre
    across = int(np.abs(rotation.T @ slice_to_ras[:3, 2]).argmax())
    in_plane = [axis for axis in range(3) if axis != across]
    if abs(offset[across]) > size[across] / 2 + reach_mm:
        return None
    if any(abs(offset[axis]) > size[axis] / 2 + reach_mm for axis in in_plane):
        return None
    sides = [0, 0, 0]
    for axis in in_plane:
        if size[axis] / 2 - abs(offset[axis]) < min(reach_mm, size[axis] / 4 + reach_mm / 2):
            sides[axis] = 1 if offset[axis] > 0 else -1
    if not any(sides) and np.hypot(*offset[in_plane]) > reach_mm:
        return None
    return Grip(tuple(sides), point, centre, size)


def drag(roi: slicer.vtkMRMLMarkupsROINode, grip: Grip, point_ras: np.ndarray) -> None:
    """Move what was gripped to a point. A face that is drawn past the other one becomes that one."""
    rotation = _frame(roi)[0]
    moved = rotation.T @ point_ras - grip.start
    sides = np.array(grip.sides)
    if not sides.any():
        centre, size = grip.centre + moved, grip.size
    else:
        low, high = grip.centre - grip.size / 2, grip.centre + grip.size / 2
        low, high = low + moved * (sides < 0), high + moved * (sides > 0)
        low, high = np.minimum(low, high), np.maximum(low, high)
        centre, size = (low + high) / 2, high - low
    was_modifying = roi.StartModify()
    roi.SetCenterWorld(*(rotation @ centre))
    roi.SetSize(*np.maximum(size, _LEAST_MM))
    roi.EndModify(was_modifying)


def _frame(roi: slicer.vtkMRMLMarkupsROINode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Its axes as columns (3, 3), and centre and size (3,) in those axes, in the world's millimetres."""
    matrix = array_of(roi.GetObjectToWorldMatrix())
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    rotation = matrix[:3, :3] / lengths
    return rotation, rotation.T @ matrix[:3, 3], np.array(roi.GetSize()) * lengths
