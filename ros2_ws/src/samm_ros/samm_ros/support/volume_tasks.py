# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Goals of SegmentVolume as the core's requests. Apart from conversions.py: it imports what runs the tasks."""

from __future__ import annotations

import numpy as np
from samm_msgs import msg
from samm_msgs.action import SegmentVolume

from samm_core.errors import MaskError, PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.mask_codec import MaskEncoding, decode_mask
from samm_core.prompts import client_name_error, segment_name_error
from samm_core.tasks.box3d import Box3D
from samm_core.tasks.propagation import Mark
from samm_core.tasks.volume_task import TaskKind, VolumeRequest

from .. import conversions


def volume_request_from_msg(goal: SegmentVolume.Goal, geometry: VolumeGeometry) -> VolumeRequest:
    """Raises PromptError for a task, a plane, a range, a name or a mark that there is not."""
    if error := client_name_error(goal.client_id) or segment_name_error(goal.segment):
        raise PromptError(error)
    try:
        kind = TaskKind(goal.task)
    except ValueError:
        raise PromptError(
            f"There is no task {goal.task}; give 0 (propagate), 1 (box), 2 (three planes) or 3 (automatic)."
        ) from None
    plane = conversions.plane_from_msg(goal.plane)
    last = geometry.slice_count(plane) - 1 if goal.last == -1 else goal.last
    return VolumeRequest(
        kind,
        goal.segment,
        plane,
        (goal.first, last),
        [
            *(_mark_from_msg(message, plane, geometry) for message in goal.prompts),
            *(_painted_from_msg(message) for message in goal.masks),
        ],
        _box_from_msg(goal),
        frozenset(goal.frozen),
    )


def _box_from_msg(goal: SegmentVolume.Goal) -> Box3D | None:
    """None where the goal has none: all of its sides are 0 long."""
    size, centre, turn = goal.box_size, goal.box_centre, goal.box_orientation
    sides = np.array([size.x, size.y, size.z])
    if not sides.any():
        return None
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    if not np.isfinite(quaternion).all():
        raise PromptError(
            f"The box's orientation {quaternion.tolist()} is not finite; give a unit quaternion."
        )
    axes = np.eye(3)
    if quaternion.any():
        # It takes long to import, and few boxes are turned.
        from scipy.spatial.transform import Rotation

        axes = Rotation.from_quat(quaternion).as_matrix()
    return Box3D(np.array([centre.x, centre.y, centre.z]), axes, sides / 2)


def _painted_from_msg(message: msg.SliceMask) -> Mark:
    shape = (message.height, message.width)
    try:
        mask = decode_mask(bytes(message.data), shape, MaskEncoding(message.encoding))
    except (MaskError, ValueError) as error:
        raise PromptError(f"The mask on slice {message.image.index} cannot be read: {error}") from None
    return Mark(message.image.index, mask)


def _mark_from_msg(message: msg.Prompt, plane: Plane, geometry: VolumeGeometry) -> Mark:
    given = conversions.prompt_from_msg(message)
    if given.prompt is None:
        raise PromptError(given.problem)
    if given.prompt.plane != plane:
        raise PromptError(
            f"A mark is on the {given.prompt.plane.name.lower()} plane, and the task on the {plane.name.lower()} one;"
            " give one plane."
        )
    index, pixels = given.prompt.on_slice(geometry)
    return Mark(index, prompt=pixels)
