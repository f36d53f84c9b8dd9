# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the user has marked on a slice, as a prompt in its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import vtk

from samm_core.errors import PromptError
from samm_core.prompts import PixelPrompt, prompt_kind_error

from .i18n import tr as _
from .nodes import array_of, placed_points, roi_corners, to_world
from .parameters import Parameters
from .state import Model
from .view import Place

if TYPE_CHECKING:
    import slicer

_A_POINT = PixelPrompt([[0, 0]], [1])
_A_BOX = PixelPrompt(box_xyxy=[0, 0, 1, 1])
# Of a box, pixels.
_MIN_WIDTH = 1


@dataclass(frozen=True)
class Marks:
    """prompt: None when nothing on the slice can be sent. left_out: what was not taken, and why; empty: all was."""

    prompt: PixelPrompt | None
    left_out: str


def why_no_points(model: Model) -> str:
    """Why the model cannot use points; empty: it can."""
    return prompt_kind_error(_A_POINT, model.name, model.takes_points, model.takes_box)


def why_no_box(model: Model) -> str:
    """Why the model cannot use a box; empty: it can."""
    return prompt_kind_error(_A_BOX, model.name, model.takes_points, model.takes_box)


def marks_on(place: Place, parameters: Parameters, model: Model) -> Marks:
    """The points and the box on a slice, as far as they lie on it and the model takes them."""
    left_out: list[str] = []
    points, labels = _points_on(place, parameters, left_out)
    if points and (why := why_no_points(model)):
        left_out.append(why)
        points, labels = [], []
    box = None
    try:
        box = box_on(place, parameters.box)
    except PromptError as error:
        left_out.append(str(error))
    if box is not None and (why := why_no_box(model)):
        left_out.append(why)
        box = None
    if points or box is not None:
        return Marks(PixelPrompt(points, labels, box), " ".join(left_out))
    nothing = _("Nothing is marked on this slice: draw a box or place a point on it.")
    return Marks(None, " ".join(left_out) or nothing)


def _points_on(
    place: Place, parameters: Parameters, left_out: list[str]
) -> tuple[list[np.ndarray], list[int]]:
    """Pixels and labels; appends a sentence to left_out for each point that lies elsewhere."""
    points, labels = [], []
    for node, label in ((parameters.positive, 1), (parameters.negative, 0)):
        for name, position_ras in placed_points(node):
            try:
                pixels_xy = place.geometry.to_slice(position_ras, place.plane, place.index)
            except PromptError as error:
                left_out.append(f"{name}: {error}")
            else:
                points.append(pixels_xy[0])
                labels.append(label)
    return points, labels


def box_on(place: Place, roi: slicer.vtkMRMLMarkupsROINode | None) -> np.ndarray | None:
    """A ROI's extent on a slice, (4,) pixels x min, y min, x max, y max; None without a ROI.

    Raises PromptError when the ROI does not cross the slice, or is too thin on it.
    """
    corners_ras = roi_corners(roi)
    if corners_ras is None:
        return None
    across, pixels_xy = place.geometry.pixel_of(place.geometry.index_of(corners_ras), place.plane)
    if not across.min() - 0.5 <= place.index <= across.max() + 0.5:
        raise PromptError(
            _(
                "{name} crosses slices {first} to {last}, not the shown slice {index}: move it here, or show one of those."
            ).format(
                name=roi.GetName(),
                first=round(float(across.min())),
                last=round(float(across.max())),
                index=place.index,
            )
        )
    box = np.concatenate([pixels_xy.min(axis=0), pixels_xy.max(axis=0)])
    if (box[2:] - box[:2] < _MIN_WIDTH).any():
        raise PromptError(
            _("{name} is less than a pixel wide on this slice: make it larger.").format(name=roi.GetName())
        )
    if PixelPrompt(box_xyxy=box).outside(*place.geometry.slice_shape(place.plane)):
        raise PromptError(_("{name} lies outside the volume: move it inside.").format(name=roi.GetName()))
    return box


def turned_box(
    roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLVolumeNode
) -> dict[str, list[float]] | None:
    """A ROI as the field box3d of `segment_volume`: in RAS of the volume without its transforms, which the graph knows.

    None when it is not placed. Where a transform shears it, it is the box around it.
    """
    corners_world = roi_corners(roi)
    if corners_world is None:
        return None
    world_to_ras = np.linalg.inv(to_world(volume))
    corners_ras = corners_world @ world_to_ras[:3, :3].T + world_to_ras[:3, 3]
    axes = world_to_ras[:3, :3] @ array_of(roi.GetObjectToWorldMatrix())[:3, :3]
    # The rotation that is nearest to its axes; of a mirrored box, one axis the other way is the same box.
    left, _lengths, right = np.linalg.svd(axes / np.linalg.norm(axes, axis=0))
    rotation = left @ right
    rotation[:, 2] *= np.sign(np.linalg.det(rotation))
    along = corners_ras @ rotation
    low, high = along.min(axis=0), along.max(axis=0)
    wxyz = [0.0] * 4
    vtk.vtkMath.Matrix3x3ToQuaternion(rotation.tolist(), wxyz)
    return {
        "centre_ras": (rotation @ ((low + high) / 2)).tolist(),
        "size_mm": (high - low).tolist(),
        "orientation_xyzw": [*wxyz[1:], wxyz[0]],
    }
