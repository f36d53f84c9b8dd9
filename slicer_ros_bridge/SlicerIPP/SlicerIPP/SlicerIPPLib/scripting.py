# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One slice segmented by a script, as in Slicer's Python console: no panel, no view. Blocks until the mask is written."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import slicer
from numpy.typing import ArrayLike

from samm_core.cycle.request import STILL_WAITING
from samm_core.errors import NotReadyError, PromptError, VolumeError
from samm_core.geometry import Plane

from .client_events import BridgeState
from .controls import why_no_volume
from .diagnosis import diagnose
from .i18n import tr as _
from .logic import SegmentationLogic
from .marks import marks_on
from .nodes import placed_points, roi_corners, world_geometry
from .parameters import Parameters
from .prompts import INTERACTIVE
from .view import Place

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLMarkupsROINode

# Until the bridge answers and the graph has a model.
CONNECT_LIMIT_S = 20.0


def segment_slice(
    scene: slicer.vtkMRMLScene,
    parameters: Parameters,
    plane: Plane,
    slice_index: int | None = None,
    limit_s: float = 120.0,
) -> str:
    """Segment one slice of parameters.volume from its points and its box; the id of the segment that was written.

    A segmentation and a segment are made when parameters has none. slice_index: None takes the slice on which the first
    positive point, or the box's centre, lies. Raises SammError with a sentence; no voxel was written then.
    """
    if why := why_no_volume(parameters):
        raise VolumeError(why)
    place = _place(parameters, plane, slice_index)
    parameters.live = parameters.autosave = False
    logic = SegmentationLogic(scene, parameters, lambda view: None)
    try:
        return _segment(logic, place, time.monotonic() + limit_s)
    finally:
        logic.close()


def plane_named(name: str) -> Plane:
    """Raises PromptError for no plane's name."""
    try:
        return Plane[name.upper()]
    except KeyError:
        raise PromptError(
            _("There is no plane {name}; give axial, coronal or sagittal.").format(name=repr(name))
        ) from None


def points_node(points: vtkMRMLMarkupsFiducialNode | ArrayLike | None) -> vtkMRMLMarkupsFiducialNode | None:
    """points: a markups node, or (N, 3) RAS millimetres, for which a node outside of the scene is made."""
    if points is None or hasattr(points, "GetNumberOfControlPoints"):
        return points
    node = slicer.vtkMRMLMarkupsFiducialNode()
    node.SetName(_("Point"))
    for point_ras in np.asarray(points, np.float64).reshape(-1, 3):
        node.AddControlPoint(*point_ras)
    return node


def roi_node(box: vtkMRMLMarkupsROINode | ArrayLike | None) -> vtkMRMLMarkupsROINode | None:
    """box: a ROI node, or (2, 3) RAS millimetres, two opposite corners, for which a node outside of the scene is made."""
    if box is None or hasattr(box, "GetNumberOfControlPoints"):
        return box
    corners_ras = np.asarray(box, np.float64).reshape(2, 3)
    node = slicer.vtkMRMLMarkupsROINode()
    node.SetName(_("Box"))
    node.SetCenter(*corners_ras.mean(axis=0))
    node.SetSize(*np.abs(corners_ras[1] - corners_ras[0]))
    return node


def _place(parameters: Parameters, plane: Plane, slice_index: int | None) -> Place:
    geometry = world_geometry(parameters.volume)
    if slice_index is None:
        corners_ras = roi_corners(parameters.box)
        marks_ras = [position for _name, position in placed_points(parameters.positive)]
        marks_ras += [] if corners_ras is None else [corners_ras.mean(axis=0)]
        if not marks_ras:
            raise PromptError(_("Nothing is marked: give a positive point or a box."))
        slice_index = geometry.slice_at(marks_ras[0], plane)
    if not geometry.contains_slice(plane, slice_index):
        raise PromptError(
            _("There is no slice {index}; the volume has slices 0 to {last} in that plane.").format(
                index=slice_index, last=geometry.slice_count(plane) - 1
            )
        )
    return Place(parameters.volume.GetID(), geometry, plane, slice_index)


def _segment(logic: SegmentationLogic, place: Place, deadline: float) -> str:
    parameters, state = logic.parameters, logic.state
    _require_zmq()
    logic.connect(parameters.address, parameters.keys_folder)
    connect_deadline = min(deadline, time.monotonic() + CONNECT_LIMIT_S)
    is_open = _serve_until(
        logic,
        lambda: state.bridge == BridgeState.DISCONNECTED or (state.is_connected and state.model is not None),
        connect_deadline,
    )
    if state.bridge == BridgeState.DISCONNECTED:
        # Its address or its keys cannot be used.
        raise NotReadyError(state.log[-1])
    if not is_open and state.is_connected:
        raise NotReadyError(_("The graph has no model yet; it is starting."))
    if not is_open:
        raise NotReadyError(diagnose(parameters.address, parameters.keys_folder))
    logic.load_volume()
    if not _serve_until(logic, lambda: not state.is_loading, deadline):
        raise NotReadyError(_("The volume was not loaded in time; give a longer limit."))
    if not state.has_loaded(parameters.volume):
        raise VolumeError(state.log[-1])
    marks = marks_on(place, parameters, state.model)
    if marks.left_out:
        raise PromptError(marks.left_out)
    logic.prompts.send(INTERACTIVE, place, marks.prompt)

    def is_refused() -> bool:
        return bool(state.prompt_problem) and not state.prompt_problem.startswith(STILL_WAITING)

    if not _serve_until(logic, lambda: state.score is not None or is_refused(), deadline):
        raise NotReadyError(state.prompt_problem or _("No mask came in time; give a longer limit."))
    if state.score is None:
        raise PromptError(state.prompt_problem)
    return parameters.segment_id


def _require_zmq() -> None:
    try:
        import zmq  # noqa: F401
    except ImportError:
        raise NotReadyError(
            _("The Python package pyzmq is missing; install it: slicer.util.pip_install('pyzmq')")
        ) from None


def _serve_until(logic: SegmentationLogic, condition: Callable[[], bool], deadline: float) -> bool:
    """Serve the logic until something is so; False when it is not in time."""
    while not condition():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        if select.select([logic.fileno()], [], [], min(left_s, 0.1))[0]:
            logic.process_events()
    return True
