# Copyright 2026 samm_ros maintainers
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
from .labelmap import (
    LABELMAP,
    VoxelCounts,
    cover,
    covers,
    grid_offset,
    holds_voxels,
    part_of,
    slice_of,
    update_views,
)

if TYPE_CHECKING:
    import slicer


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


@dataclass(frozen=True, eq=False)
class _Segment:
    """A segment that was added, or was taken away again. dimensions, ijk_to_local: of the volume that it is for."""

    node_id: str
    segment_id: str
    dimensions: tuple[int, int, int]
    ijk_to_local: np.ndarray
    name: str
    color: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Look:
    """The name and the color that a segment had before."""

    node_id: str
    segment_id: str
    name: str
    color: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Removed:
    """A segment that the user removed, or that came back. segment: with all that it holds. next_id: which was below it."""

    node_id: str
    segment_id: str
    segment: slicer.vtkSegment
    next_id: str


@dataclass(eq=False)
class Step:
    """Changes that are taken back together, the last one first. group: whose next mask joins them; None: nobody's.

    is_shared: the graph's copy has this step too.
    """

    changes: list[_Change | _Segment | _Look | _Removed]
    group: int | None = None
    is_shared: bool = True


class SegmentWriter:
    """Nothing but the box is written: not other segments, nor other slices, nor what the user made elsewhere.

    A segment's labelmap covers the volume and all that the segment holds outside of it.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.counts = VoxelCounts()
        self._scene = scene
        self._undo: deque[Step] = deque(maxlen=UNDO_STEPS)
        self._redo: list[Step] = []
        # Whether the graph's copy has the step too that was taken back, or made again, last.
        self.was_shared = False

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
        group: int | None = None,
    ) -> None:
        """Make `mask`, (rows, columns) bool, what the segment holds on a slice.

        group: masks of a group that follow one another are one step of undo; None: a step of its own. dimensions,
        ijk_to_local: the volume's voxels along I, J, K and their (4, 4) place in the node's own space. axis, index: the
        slice, on the IJK axis across it. Raises MaskError and changes nothing when the segment cannot be written or the
        mask does not fit.
        """
        layer, label, image = self._layer(node, segment_id, dimensions, ijk_to_local)
        plane = slice_of(layer, axis, index)
        if plane.shape != mask.shape:
            raise MaskError(
                _("The mask is {mask} pixels, but the slice is {expected}; load the volume again.").format(
                    mask=mask.shape, expected=plane.shape
                )
            )
        box = bounding_box((plane == label) | mask)
        y0, y1, x0, x1 = box
        held, modified = plane[y0:y1, x0:x1] == label, image.GetMTime()
        change = _Change(
            node.GetID(),
            segment_id,
            dimensions,
            ijk_to_local,
            axis,
            index,
            SavedPixels.of(held, box),
        )
        plane[y0:y1, x0:x1] = np.where(mask[y0:y1, x0:x1], label, 0)
        update_views(node, segment_id, image)
        gained = np.count_nonzero(mask[y0:y1, x0:x1]) - np.count_nonzero(held)
        self.counts.gained(segment_id, image, modified, int(gained))
        self._push(change, group)

    def add_segment(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
        name: str,
        color: tuple[float, float, float],
        group: int,
    ) -> str:
        """A new segment, whose id it returns; the undo of its group takes it away again."""
        segment_id = node.GetSegmentation().AddEmptySegment("", name, color)
        self._push(_Segment(node.GetID(), segment_id, dimensions, ijk_to_local, name, color), group)
        return segment_id

    def note_look(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        segment_id: str,
        name: str,
        color: tuple[float, float, float],
    ) -> Step:
        """The segment has another name or another color now than these; undo brings these back."""
        return self._push_own(_Look(node.GetID(), segment_id, name, color))

    def note_removed(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        segment_id: str,
        segment: slicer.vtkSegment,
        next_id: str,
    ) -> Step:
        """The segment is gone from the segmentation; undo brings it back, above the segment next_id, or as the last."""
        return self._push_own(_Removed(node.GetID(), segment_id, segment, next_id))

    def separate(self, node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> None:
        """Give a segment a labelmap of its own, where it shares one."""
        segmentation = node.GetSegmentation()
        image = segmentation.GetSegment(segment_id).GetRepresentation(LABELMAP)
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        others = [segmentation.GetSegment(i).GetRepresentation(LABELMAP) for i in ids if i != segment_id]
        if image is not None and any(other is image for other in others):
            segmentation.SeparateSegmentLabelmap(segment_id)

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
        """Take back the last step that still can be; False when there is none."""
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """Make the step again that was taken back last; False when there is none."""
        return self._step(self._redo, self._undo)

    def forget_removed(self) -> bool:
        """Drop the steps of nodes that left the scene, with all that they hold; whether there were any."""
        count = len(self._undo) + len(self._redo)
        self._undo = deque(filter(self._is_in_scene, self._undo), maxlen=UNDO_STEPS)
        self._redo = list(filter(self._is_in_scene, self._redo))
        return len(self._undo) + len(self._redo) < count

    def _is_in_scene(self, step: Step) -> bool:
        return any(self._scene.GetNodeByID(change.node_id) for change in step.changes)

    def _push(self, change: _Change | _Segment, group: int | None) -> None:
        self._redo.clear()
        if group is not None and self._undo and self._undo[-1].group == group:
            self._undo[-1].changes.append(change)
        else:
            self._undo.append(Step([change], group))

    def _push_own(self, change: _Look | _Removed) -> Step:
        self._redo.clear()
        self._undo.append(Step([change], is_shared=False))
        return self._undo[-1]

    def _step(self, steps: deque[Step] | list[Step], back: deque[Step] | list[Step]) -> bool:
        while steps:
            # Written once, however many of its slices change.
            drawn: dict[tuple[str, str], slicer.vtkOrientedImageData] = {}
            step = steps.pop()
            reverted = [self._revert(change, drawn) for change in reversed(step.changes)]
            for (node_id, segment_id), image in drawn.items():
                update_views(self._scene.GetNodeByID(node_id), segment_id, image)
            changes = [change for change in reverted if change is not None]
            if changes:
                back.append(Step(changes, is_shared=step.is_shared))
                self.was_shared = step.is_shared
                return True
        return False

    def _revert(
        self,
        change: _Change | _Segment | _Look | _Removed,
        drawn: dict[tuple[str, str], slicer.vtkOrientedImageData],
    ) -> _Change | _Segment | _Look | _Removed | None:
        """What does it again; None where it cannot be taken back. Adds what is to be drawn to `drawn`."""
        node = self._scene.GetNodeByID(change.node_id)
        if not node:
            return None
        if isinstance(change, _Segment):
            return self._revert_segment(change, node, drawn)
        if isinstance(change, _Look):
            return _revert_look(change, node)
        if isinstance(change, _Removed):
            return _revert_removed(change, node)
        segment = node.GetSegmentation().GetSegment(change.segment_id)
        image = segment and segment.GetRepresentation(LABELMAP)
        if not image:
            # The user deleted it: what was in it went with it.
            return None
        offset = grid_offset(image, change.ijk_to_local)
        if offset is None or not covers(image, change.dimensions, offset):
            # Laid over another grid since, or moved by the user.
            return None
        y0, y1, x0, x1 = change.before.box
        plane = slice_of(part_of(image, change.dimensions, offset), change.axis, change.index)
        label = segment.GetLabelValue()
        pixels = plane[y0:y1, x0:x1]
        again = replace(change, before=SavedPixels.of(pixels == label, change.before.box))
        pixels[...] = np.where(change.before.unpack(), label, 0)
        drawn[change.node_id, change.segment_id] = image
        return again

    def _revert_segment(
        self,
        change: _Segment,
        node: slicer.vtkMRMLSegmentationNode,
        drawn: dict[tuple[str, str], slicer.vtkOrientedImageData],
    ) -> _Segment | None:
        segmentation = node.GetSegmentation()
        if segmentation.GetSegment(change.segment_id) is None:
            segmentation.AddEmptySegment(change.segment_id, change.name, change.color)
            image = self._layer(node, change.segment_id, change.dimensions, change.ijk_to_local)[2]
            drawn[change.node_id, change.segment_id] = image
            return change
        layer, label, _image = self._layer(node, change.segment_id, change.dimensions, change.ijk_to_local)
        if (layer == label).any():
            # The user went on with it.
            return None
        drawn.pop((change.node_id, change.segment_id), None)
        segmentation.RemoveSegment(change.segment_id)
        return change

    def _layer(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        segment_id: str,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
    ) -> tuple[np.ndarray, int, slicer.vtkOrientedImageData]:
        """The segment's own labelmap over the whole volume: a (K, J, I) view of it, its label, the image."""
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(segment_id)
        if segment is None:
            raise MaskError(_("The segment was deleted; choose another one, or add one."))
        image = segment.GetRepresentation(LABELMAP)
        if image is None and segmentation.CreateRepresentation(LABELMAP):
            image = segment.GetRepresentation(LABELMAP)
        if image is None:
            raise MaskError(
                _(
                    "The segmentation holds no labelmaps; make a binary labelmap its source in Slicer's Segmentations."
                )
            )
        # Segments that share a labelmap cannot overlap: a mask would eat its neighbours.
        self.separate(node, segment_id)
        image = segment.GetRepresentation(LABELMAP)
        offset = grid_offset(image, ijk_to_local) if holds_voxels(image) else None
        if offset is None or not covers(image, dimensions, offset):
            offset = cover(image, dimensions, ijk_to_local, offset)
        return part_of(image, dimensions, offset), segment.GetLabelValue(), image


def _revert_look(change: _Look, node: slicer.vtkMRMLSegmentationNode) -> _Look | None:
    segment = node.GetSegmentation().GetSegment(change.segment_id)
    if segment is None:
        return None
    again = replace(change, name=segment.GetName(), color=segment.GetColor())
    segment.SetName(change.name)
    segment.SetColor(*change.color)
    return again


def _revert_removed(change: _Removed, node: slicer.vtkMRMLSegmentationNode) -> _Removed:
    segmentation = node.GetSegmentation()
    if segmentation.GetSegment(change.segment_id) is None:
        # A segment that is gone meanwhile cannot be below it.
        below = change.next_id if segmentation.GetSegment(change.next_id) is not None else ""
        segmentation.AddSegment(change.segment, change.segment_id, below)
    else:
        segmentation.RemoveSegment(change.segment_id)
    return change
