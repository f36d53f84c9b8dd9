# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which slice of the volume a slice view shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from samm_core.errors import VolumeError
from samm_core.geometry import Plane, VolumeGeometry

from .i18n import tr as _
from .nodes import array_of, world_geometry
from .parameters import Parameters

# A view's vtkMRMLSliceNode by the view's name; None when the layout has no such view.
SliceNodes = Callable[[str], Any]

PLANES = {"Red": Plane.AXIAL, "Green": Plane.CORONAL, "Yellow": Plane.SAGITTAL}


@dataclass(frozen=True)
class Place:
    """One slice of a volume node. geometry: the volume's, with its parent transforms, in the world."""

    volume_id: str
    geometry: VolumeGeometry
    plane: Plane
    index: int

    @property
    def axis(self) -> int:
        return self.geometry.axis(self.plane)

    @property
    def key(self) -> tuple[str, int, int]:
        """The same in every geometry that the volume may get by its transforms."""
        return self.volume_id, self.axis, self.index

    def at(self, index: int) -> Place:
        """Another slice of the same plane."""
        return Place(self.volume_id, self.geometry, self.plane, index)


def shown_place(parameters: Parameters, slice_nodes: SliceNodes, view: str = "") -> Place:
    """What a view, by default the chosen one, shows of the chosen volume. Raises VolumeError when that is none of its slices."""
    view = view or parameters.view
    geometry = world_geometry(parameters.volume)
    plane = PLANES[view]
    slice_node = slice_nodes(view)
    if slice_node is None:
        raise VolumeError(_("There is no {view} slice view; choose a layout that has it.").format(view=view))
    slice_to_ras = array_of(slice_node.GetSliceToRAS())
    normal = slice_to_ras[:3, 2] / np.linalg.norm(slice_to_ras[:3, 2])
    across = geometry.ras_to_ijk[:3, :3] / np.linalg.norm(geometry.ras_to_ijk[:3, :3], axis=1, keepdims=True)
    if np.abs(across @ normal).argmax() != geometry.axis(plane):
        raise VolumeError(
            _(
                "{view} shows no {plane} slice of the volume; turn it back to the {plane} plane, or choose another view."
            ).format(view=view, plane=plane.name.lower())
        )
    middle = geometry.position_of((np.array(geometry.dimensions) - 1) / 2)[0]
    # Where the view's plane passes the volume's middle: panning the view does not move it.
    shown_ras = middle + ((slice_to_ras[:3, 3] - middle) @ normal) * normal
    index = round(float(geometry.index_of(shown_ras)[0, geometry.axis(plane)]))
    if not geometry.contains_slice(plane, index):
        raise VolumeError(
            _("{view} shows no slice of the volume; move its slider into the volume.").format(view=view)
        )
    return Place(parameters.volume.GetID(), geometry, plane, index)
