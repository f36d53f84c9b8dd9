# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A copy of what a segmentation node holds on its volume's voxels, as samm_core's writers read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samm_core.errors import MaskError
from samm_core.geometry import VolumeGeometry
from samm_core.segmentation.segment_list import MAX_SEGMENTS, Segment

from .i18n import tr as _
from .labelmap import LABELMAP, reaches_beyond, voxels_on
from .nodes import ijk_to_ras, to_world, world_geometry
from .parameters import Parameters

if TYPE_CHECKING:
    import slicer


@dataclass(frozen=True, eq=False)
class Contents:
    """geometry: of the volume's own voxels, without the transforms of the scene, as the volume's file has it.

    held: each segment in order, with its voxels, (K, J, I) bool. beyond: names of the segments that reach beyond the volume.
    """

    geometry: VolumeGeometry
    held: list[tuple[Segment, np.ndarray]]
    beyond: list[str]

    def segments(self) -> list[Segment]:
        return [segment for segment, _voxels in self.held]

    def snapshot(self) -> list[tuple[Segment, np.ndarray]]:
        return self.held

    def labelmap(self) -> np.ndarray:
        """(K, J, I) uint8; of two segments that overlap, the later one's label."""
        labels = np.zeros(self.geometry.dimensions[::-1], np.uint8)
        for segment, voxels in self.held:
            labels[voxels] = segment.label
        return labels


def contents_of(parameters: Parameters) -> Contents:
    """What the chosen segmentation holds on the chosen volume; reads each voxel of each segment once.

    Raises SammError without one of them, for a segment without a labelmap, and for more segments than a labelmap has labels.
    """
    node, volume = parameters.segmentation, parameters.volume
    if node is None:
        raise MaskError(_("There is no segmentation yet: segment something first, or choose one."))
    if volume is None:
        raise MaskError(_("Choose the volume that the segmentation is of first."))
    segmentation = node.GetSegmentation()
    count = segmentation.GetNumberOfSegments()
    if count > MAX_SEGMENTS:
        raise MaskError(
            _("There are {count} segments; a file holds {most}.").format(count=count, most=MAX_SEGMENTS)
        )
    world = world_geometry(volume)
    ijk_to_local = np.linalg.inv(to_world(node)) @ world.ijk_to_ras
    held, beyond = [], []
    for number in range(count):
        segment = segmentation.GetNthSegment(number)
        voxels, is_beyond = _voxels_of(segment, world.dimensions, ijk_to_local)
        held.append((Segment(segment.GetName(), number + 1, segment.GetColor()), voxels))
        if is_beyond:
            beyond.append(segment.GetName())
    return Contents(VolumeGeometry(world.dimensions, ijk_to_ras(volume)), held, beyond)


def _voxels_of(
    segment: slicer.vtkSegment, dimensions: tuple[int, int, int], ijk_to_local: np.ndarray
) -> tuple[np.ndarray, bool]:
    image = segment.GetRepresentation(LABELMAP)
    if image is None:
        raise MaskError(
            _(
                "{name} has no labelmap; make a binary labelmap of it in Slicer's Segmentations, or remove it."
            ).format(name=segment.GetName())
        )
    label = segment.GetLabelValue()
    return (
        voxels_on(image, label, dimensions, ijk_to_local),
        reaches_beyond(image, label, dimensions, ijk_to_local),
    )
