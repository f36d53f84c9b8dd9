# SPDX-License-Identifier: Apache-2.0
"""Writes masks into the segments of a vtkMRMLSegmentationNode, a slice's bounding box at a time, and takes them back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from samm_core.errors import MaskError
from samm_core.segmentation.slice_edit import UNDO_STEPS, SavedPixels, bounding_box

from .i18n import tr as _
from .labelmap import cover, covers, grid_offset, holds_voxels, part_of, slice_of, update_views

if TYPE_CHECKING:
    import slicer

_LABELMAP = "Binary labelmap"


@dataclass(frozen=True, eq=False)
class _Change:
    """What a box of a segment's slice held before. dimensions, ijk_to_local: of the volume that the slice belongs to."""

    node_id: str
    segment_id: str
    dimensions: tuple[int, int, int]
    ijk_to_local: np.ndarray
    axis: int
    index: int
    before: SavedPixels


class SegmentWriter:
    """Nothing but the box is written: not other segments, nor other slices, nor what the user made elsewhere.

    A segment's labelmap covers the volume and all that the segment holds outside of it.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._undo: deque[_Change] = deque(maxlen=UNDO_STEPS)
        self._redo: list[_Change] = []

    @property
    def can_undo(self) -> bool:
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        return bool(self._redo)

    def write(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        segment_id: str,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
        axis: int,
        index: int,
        mask: np.ndarray,
    ) -> None:
        """Make `mask`, (rows, columns) bool, what the segment holds on a slice.

        dimensions, ijk_to_local: the volume's voxels along I, J, K and their (4, 4) place in the node's own space.
        axis, index: the slice, on the IJK axis across it. Raises MaskError and changes nothing when the segment cannot be
        written or the mask does not fit.
        """
        layer, label, image, is_new = self._layer(node, segment_id, dimensions, ijk_to_local)
        plane = slice_of(layer, axis, index)
        if plane.shape != mask.shape:
            raise MaskError(
                _("The mask is {mask} pixels, but the slice is {expected}; load the volume again.").format(
                    mask=mask.shape, expected=plane.shape
                )
            )
        box = bounding_box((plane == label) | mask)
        y0, y1, x0, x1 = box
        change = _Change(
            node.GetID(),
            segment_id,
            dimensions,
            ijk_to_local,
            axis,
            index,
            SavedPixels.of(plane[y0:y1, x0:x1] == label, box),
        )
        plane[y0:y1, x0:x1] = np.where(mask[y0:y1, x0:x1], label, 0)
        update_views(node, segment_id, image)
        if is_new and node.GetDisplayNode():
            # Slicer's views take up a segment's first labelmap when its display changes, else only when they are scrolled.
            node.GetDisplayNode().Modified()
        self._undo.append(change)
        self._redo.clear()

    def mask(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        segment_id: str,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
        axis: int,
        index: int,
    ) -> np.ndarray:
        """What the segment holds on a slice, (rows, columns) bool."""
        layer, label = self._layer(node, segment_id, dimensions, ijk_to_local)[:2]
        return slice_of(layer, axis, index) == label

    def undo(self) -> bool:
        """Take back the last mask that still can be; False when there is none."""
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """Write the mask again that was taken back last; False when there is none."""
        return self._step(self._redo, self._undo)

    def _step(self, changes: deque[_Change] | list[_Change], back: deque[_Change] | list[_Change]) -> bool:
        while changes:
            change = changes.pop()
            node = self._scene.GetNodeByID(change.node_id)
            segment = node and node.GetSegmentation().GetSegment(change.segment_id)
            image = segment and segment.GetRepresentation(_LABELMAP)
            if not image:
                # The user deleted it: what was in it went with it.
                continue
            offset = grid_offset(image, change.ijk_to_local)
            if offset is None or not covers(image, change.dimensions, offset):
                # Laid over another grid since, or moved by the user.
                continue
            y0, y1, x0, x1 = change.before.box
            plane = slice_of(part_of(image, change.dimensions, offset), change.axis, change.index)
            label = segment.GetLabelValue()
            pixels = plane[y0:y1, x0:x1]
            back.append(replace(change, before=SavedPixels.of(pixels == label, change.before.box)))
            pixels[...] = np.where(change.before.unpack(), label, 0)
            update_views(node, change.segment_id, image)
            return True
        return False

    def _layer(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        segment_id: str,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
    ) -> tuple[np.ndarray, int, slicer.vtkOrientedImageData, bool]:
        """The segment's own labelmap over the whole volume: a (K, J, I) view of it, its label, the image, and whether
        it was made to cover the volume just now."""
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(segment_id)
        if segment is None:
            raise MaskError(_("The segment was deleted; choose another one, or add one."))
        image = segment.GetRepresentation(_LABELMAP)
        if image is None and segmentation.CreateRepresentation(_LABELMAP):
            image = segment.GetRepresentation(_LABELMAP)
        if image is None:
            raise MaskError(
                _(
                    "The segmentation holds no labelmaps; make a binary labelmap its source in Slicer's Segmentations."
                )
            )
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        others = [segmentation.GetSegment(i).GetRepresentation(_LABELMAP) for i in ids if i != segment_id]
        if any(other is image for other in others):
            # Segments that share a labelmap cannot overlap: a mask would eat its neighbours.
            segmentation.SeparateSegmentLabelmap(segment_id)
            image = segment.GetRepresentation(_LABELMAP)
        offset = grid_offset(image, ijk_to_local) if holds_voxels(image) else None
        is_new = offset is None or not covers(image, dimensions, offset)
        if is_new:
            offset = cover(image, dimensions, ijk_to_local, offset)
        return part_of(image, dimensions, offset), segment.GetLabelValue(), image, is_new
