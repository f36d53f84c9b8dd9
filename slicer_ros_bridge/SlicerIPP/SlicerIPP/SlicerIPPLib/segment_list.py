# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The list of the chosen segmentation's segments: shown, and changed here or by Slicer's own table of segments.

Each change but that of visibility is one step of undo, and is made in the graph's copy too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from samm_core import ipp
from samm_core.errors import MaskError, VolumeError

from .connection import Connection
from .events import Events
from .i18n import tr as _
from .labelmap import LABELMAP, voxel_volume
from .log import Log
from .nodes import printable, to_world
from .parameters import Parameters
from .segments import Segments
from .state import State

if TYPE_CHECKING:
    import slicer

Color = tuple[float, float, float]


@dataclass(frozen=True)
class SegmentRow:
    """A segment. color: red, green, blue, 0 to 1. volume_ml: NaN where it has no labelmap, as an imported surface."""

    id: str
    name: str
    color: Color
    visible: bool
    volume_ml: float
    is_active: bool


@dataclass(frozen=True, eq=False)
class _Known:
    """A segment as it was when it was looked at last. next_id: of the segment below it; empty: it is the last."""

    segment: slicer.vtkSegment
    name: str
    color: Color
    next_id: str


class SegmentList:
    """Finds by comparison what has changed, so that it is the same whoever changed it.

    changed: called, on the scene's thread, when follow() has something to do.
    """

    def __init__(
        self,
        parameters: Parameters,
        state: State,
        events: Events,
        log: Log,
        connection: Connection,
        segments: Segments,
        changed: Callable[[], None],
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection
        self._segments = segments
        self._changed = changed
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._observed: list[tuple[Any, int]] = []
        self._known: dict[str, _Known] = {}

    def observe(self) -> bool:
        """Listen to the segmentation that is chosen now; whether it is another one."""
        node = self._parameters.segmentation
        if node is self._node:
            return False
        self.stop()
        self._node = node
        self._segments.chosen()
        if node is not None:
            segmentation = node.GetSegmentation()
            for event in (
                segmentation.SegmentAdded,
                segmentation.SegmentModified,
                segmentation.SegmentRemoved,
                segmentation.SegmentsOrderModified,
                segmentation.SourceRepresentationModified,
            ):
                self._listen(segmentation, event)
            self._listen(node, node.DisplayModifiedEvent)
        self.accept()
        return True

    def stop(self) -> None:
        for caller, observer in self._observed:
            caller.RemoveObserver(observer)
        self._observed, self._node = [], None

    def rows(self) -> list[SegmentRow]:
        """In order; empty without a segmentation."""
        node = self._parameters.segmentation
        if node is None:
            return []
        return [self._row(node, segment_id) for segment_id in _ids(node)]

    def rename(self, segment_id: str, name: str) -> None:
        """Raises MaskError for a segment that is gone, and for no name."""
        name = printable(name, ipp.MAX_NAME).strip()
        if not name:
            raise MaskError(_("A segment needs a name: write one."))
        segment = self._segment(segment_id)
        self._change(lambda: segment.SetName(name))

    def recolor(self, segment_id: str, color: Color) -> None:
        """color: red, green, blue, 0 to 1. Raises MaskError for a segment that is gone, and for no color."""
        values = tuple(float(value) for value in color)
        if len(values) != 3 or not all(0 <= value <= 1 for value in values):
            raise MaskError(_("A color is red, green and blue, each from 0 to 1."))
        segment = self._segment(segment_id)
        self._change(lambda: segment.SetColor(*values))

    def set_visible(self, segment_id: str, visible: bool) -> None:
        """In all views. Raises MaskError for a segment that is gone."""
        self._segment(segment_id)
        node = self._parameters.segmentation
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
        if visible:
            node.GetDisplayNode().SetVisibility(True)
        node.GetDisplayNode().SetSegmentVisibility(segment_id, visible)

    def remove(self, segment_id: str) -> None:
        """With its voxels, which undo brings back. Raises MaskError for a segment that is gone."""
        self._segment(segment_id)
        self._change(lambda: self._segments.remove(segment_id))

    def follow(self) -> None:
        """Take in what has changed since the last call: as steps of undo, and in the graph's copy."""
        node = self._parameters.segmentation
        if node is not self._node:
            # Another one was chosen: observe() takes it as it is.
            return
        if node is not None and not self._state.is_stream(self._parameters.volume):
            for segment_id, before in list(self._known.items()):
                segment = node.GetSegmentation().GetSegment(segment_id)
                if segment is None:
                    self._on_removed(segment_id, before)
                elif segment is before.segment:
                    self._on_look(segment_id, before)
        self.accept()
        self._events.segment_rows.emit()

    def accept(self) -> None:
        """Take the list as it is: what has changed is no change of the user's."""
        node = self._parameters.segmentation
        ids = [] if node is None else _ids(node)
        self._known = {}
        for n, segment_id in enumerate(ids):
            next_id = ids[n + 1] if n + 1 < len(ids) else ""
            segment = node.GetSegmentation().GetSegment(segment_id)
            self._known[segment_id] = _Known(segment, segment.GetName(), segment.GetColor(), next_id)
        self._segments.counts.keep(ids)

    def _change(self, change: Callable[[], None]) -> None:
        # What was changed before it is a step before it.
        self.follow()
        change()
        self.follow()

    def _on_removed(self, segment_id: str, before: _Known) -> None:
        is_shared = self._segments.is_in_graph(segment_id)
        step = self._segments.note_removed(segment_id, before.segment, before.next_id)
        if is_shared:
            self._tell_graph(step, "segment_remove", name=printable(before.name, ipp.MAX_NAME))
        if self._parameters.segment_id == segment_id:
            self._parameters.segment_id = ""
            self._events.segments.emit()

    def _on_look(self, segment_id: str, before: _Known) -> None:
        name, color = before.segment.GetName(), before.segment.GetColor()
        is_shared = self._segments.is_in_graph(segment_id)
        old, new = printable(before.name, ipp.MAX_NAME), printable(name, ipp.MAX_NAME)
        if name != before.name:
            step = self._segments.note_look(segment_id, before.name, before.color)
            if is_shared:
                self._tell_graph(step, "segment_rename", name=old, new_name=new)
        if color != before.color:
            step = self._segments.note_look(segment_id, name, before.color)
            if is_shared:
                self._tell_graph(step, "segment_recolor", name=new, color=list(color))

    def _tell_graph(self, step: Any, kind: str, **fields: Any) -> None:
        """step: is the graph's too unless the graph refuses it."""
        if not self._state.is_connected:
            return
        step.is_shared = True

        def answered(reply: ipp.Message) -> None:
            if reply.type == "error":
                step.is_shared = False
                self._log.warn(reply["message"])

        self._connection.request(kind, answered, **fields)

    def _segment(self, segment_id: str) -> slicer.vtkSegment:
        node = self._parameters.segmentation
        segment = node and node.GetSegmentation().GetSegment(segment_id)
        if not segment:
            raise MaskError(_("The segment was deleted; choose another one, or add one."))
        return segment

    def _row(self, node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> SegmentRow:
        segment, display = node.GetSegmentation().GetSegment(segment_id), node.GetDisplayNode()
        visible = bool(display and display.GetVisibility() and display.GetSegmentVisibility(segment_id))
        return SegmentRow(
            segment_id,
            segment.GetName() or segment_id,
            segment.GetColor(),
            visible,
            self._volume_ml(node, segment_id, segment),
            segment_id == self._parameters.segment_id,
        )

    def _volume_ml(
        self, node: slicer.vtkMRMLSegmentationNode, segment_id: str, segment: slicer.vtkSegment
    ) -> float:
        image = segment.GetRepresentation(LABELMAP)
        if image is None:
            return float("nan")
        count = self._segments.counts.of(segment_id, image, segment.GetLabelValue())
        return count * voxel_volume(image) * _scale(node) / 1000

    def _listen(self, caller: Any, event: int) -> None:
        self._observed.append((caller, caller.AddObserver(event, lambda *_arguments: self._changed())))


def _ids(node: slicer.vtkMRMLSegmentationNode) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]


def _scale(node: slicer.vtkMRMLSegmentationNode) -> float:
    """By how much its transform makes volumes larger; 1 where the transform is not linear."""
    try:
        return abs(float(np.linalg.det(to_world(node)[:3, :3])))
    except VolumeError:
        return 1.0
