# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The markups nodes that are made for a user to mark with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import vtk

from .i18n import tr as _

if TYPE_CHECKING:
    import slicer

# Of a box: its sides, as a share of the shown slice's.
BOX_SHARE = 0.4
_GREEN, _RED = (0, 0.7, 0), (0.8, 0, 0)


def add_points(scene: slicer.vtkMRMLScene, positive: bool) -> slicer.vtkMRMLMarkupsFiducialNode:
    """An empty list of points: green P for those that the mask must hold, red N for those that it must leave out."""
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P" if positive else "N")
    points.CreateDefaultDisplayNodes()
    points.GetDisplayNode().SetSelectedColor(*(_GREEN if positive else _RED))
    return points


def add_box(
    scene: slicer.vtkMRMLScene, volume: slicer.vtkMRMLVolumeNode, slice_node: slicer.vtkMRMLSliceNode
) -> slicer.vtkMRMLMarkupsROINode:
    """A box in the middle of the shown slice, along the view's axes, and so thin that it is on no other slice."""
    # A copy: of the view's own, box and view would move each other.
    slice_to_ras, ras_to_slice = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    slice_to_ras.DeepCopy(slice_node.GetSliceToRAS())
    vtk.vtkMatrix4x4.Invert(slice_to_ras, ras_to_slice)
    bounds = [0.0] * 6
    volume.GetSliceBounds(bounds, ras_to_slice)
    middle = [(bounds[0] + bounds[1]) / 2, (bounds[2] + bounds[3]) / 2, 0.0, 1.0]
    box = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", _("Slicer-IPP box"))
    box.CreateDefaultDisplayNodes()
    # Its fill would hide the mask.
    box.GetDisplayNode().SetFillVisibility(False)
    box.SetAndObserveObjectToNodeMatrix(slice_to_ras)
    box.SetCenterWorld(*slice_to_ras.MultiplyPoint(middle)[:3])
    # Half a voxel at most, in whatever plane: a box is on each slice that is half a voxel away from it.
    thickness = min(volume.GetSpacing()) / 2
    box.SetSize(BOX_SHARE * (bounds[1] - bounds[0]), BOX_SHARE * (bounds[3] - bounds[2]), thickness)
    return box
