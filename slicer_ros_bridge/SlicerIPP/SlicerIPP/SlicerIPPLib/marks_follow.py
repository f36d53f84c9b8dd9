# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Marks that move with the shown slice, so that a prompt is carried by scrolling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from samm_core.errors import SammError

from .nodes import roi_corners
from .parameters import Parameters
from .view import Place

if TYPE_CHECKING:
    import slicer


class MarksFollow:
    """Carries the marks of one slice to the next one that is shown; those of other slices stay where they are."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        # Where the view was last; None: nowhere on the volume.
        self._place: Place | None = None
        self._view = ""

    def follow(self, place: Place) -> None:
        """The chosen view shows this slice now. Moves what lies on the slice that it showed before."""
        p, before = self._parameters, self._place
        is_same_view = p.view == self._view
        self._place, self._view = place, p.view
        if not p.marks_follow or before is None or not is_same_view or before.index == place.index:
            return
        if before.at(place.index).key != place.key or not np.array_equal(
            before.geometry.ijk_to_ras, place.geometry.ijk_to_ras
        ):
            # Another plane or volume, or one that was moved: nothing was scrolled.
            return
        shift_ras = (place.index - before.index) * place.geometry.ijk_to_ras[:3, place.axis]
        for points in (p.positive, p.negative):
            _move_points(points, before, shift_ras)
        _move_box(p.box, before, shift_ras)


def _move_points(
    points: slicer.vtkMRMLMarkupsFiducialNode | None, place: Place, shift_ras: np.ndarray
) -> None:
    """Those that lie on the place's slice."""
    for n in range(points.GetNumberOfControlPoints() if points else 0):
        if points.GetNthControlPointPositionStatus(n) != points.PositionDefined:
            continue
        position_ras = np.zeros(3)
        points.GetNthControlPointPositionWorld(n, position_ras)
        try:
            place.geometry.to_slice(position_ras, place.plane, place.index)
        except SammError:
            continue
        points.SetNthControlPointPositionWorld(n, *(position_ras + shift_ras))


def _move_box(box: slicer.vtkMRMLMarkupsROINode | None, place: Place, shift_ras: np.ndarray) -> None:
    """If it crosses the place's slice."""
    corners_ras = roi_corners(box)
    if corners_ras is None:
        return
    across, _pixels_xy = place.geometry.pixel_of(place.geometry.index_of(corners_ras), place.plane)
    if across.min() - 0.5 <= place.index <= across.max() + 0.5:
        box.SetCenterWorld(*(np.array(box.GetCenterWorld()) + shift_ras))
