# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The chosen segmentation and its active segment: made when there is none, written, taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from samm_core import ipp
from samm_core.errors import MaskError
from samm_core.segmentation.colors import segment_color

from .events import Events
from .i18n import tr as _
from .labelmap import VoxelCounts
from .nodes import printable, to_world, world_geometry
from .parameters import Parameters
from .segment_writer import SegmentWriter, Step
from .state import State
from .view import Place

if TYPE_CHECKING:
    import slicer


class Segments:
    """Masks go through here into the scene."""

    def __init__(
        self, scene: slicer.vtkMRMLScene, parameters: Parameters, state: State, events: Events
    ) -> None:
        self._scene = scene
        self._parameters = parameters
        self._state = state
        self._events = events
        self._writer = SegmentWriter(scene)
        # Segments of which the graph has a copy, since it was asked for their masks.
        self._in_graph: set[str] = set()

    def add(self, name: str = "", color: tuple[float, float, float] | None = None) -> str:
        """A new segment, active from now on; its id. A segmentation is made when none is chosen."""
        p = self._parameters
        if p.segmentation is None:
            p.segmentation = self._add_segmentation()
        segmentation = p.segmentation.GetSegmentation()
        count = segmentation.GetNumberOfSegments()
        p.segment_id = segmentation.AddEmptySegment(
            "", name or f"Segment_{count + 1}", color or segment_color(count)
        )
        self._events.segments.emit()
        return p.segment_id

    def active(self) -> str:
        """The active segment's id. One is made when there is none, so that nothing of the user's is overwritten."""
        p = self._parameters
        if p.segmentation is None or p.segmentation.GetSegmentation().GetSegment(p.segment_id or "") is None:
            return self.add()
        return p.segment_id

    def name_of(self, segment_id: str) -> str:
        segment = self._parameters.segmentation.GetSegmentation().GetSegment(segment_id)
        return segment.GetName() or segment_id

    def graph_name(self, segment_id: str) -> str:
        """What the graph calls it, which has a copy of it from now on."""
        self._in_graph.add(segment_id)
        return printable(self.name_of(segment_id), ipp.MAX_NAME)

    def is_in_graph(self, segment_id: str) -> bool:
        return segment_id in self._in_graph

    def chosen(self) -> None:
        """Another segmentation is chosen, whose segments may have the same ids: the graph has a copy of none."""
        self._in_graph.clear()

    def forget_removed(self) -> None:
        """Nodes have left the scene: so do their steps of undo."""
        if self._writer.forget_removed():
            self._tell_history()

    def write(
        self, segment_id: str, axis: int, index: int, mask: np.ndarray, group: int | None = None
    ) -> None:
        """Make `mask`, (rows, columns) bool, what the segment holds on a slice of the chosen volume.

        group: as SegmentWriter.write has it. Raises SammError and changes nothing when it cannot be written.
        """
        node = self._chosen()
        self._writer.write(node, segment_id, *self._grid(node), axis, index, mask, group)
        self._tell_history()

    def add_in_group(self, name: str, group: int) -> str:
        """A new segment, not the active one, that the undo of the group's masks takes away; its id. Raises SammError."""
        node = self._chosen()
        color = segment_color(node.GetSegmentation().GetNumberOfSegments())
        segment_id = self._writer.add_segment(node, *self._grid(node), name, color, group)
        self._in_graph.add(segment_id)
        self._tell_history()
        return segment_id

    def remove(self, segment_id: str) -> None:
        """Take a segment away with its voxels; note_removed() makes that a step."""
        node = self._chosen()
        # Its neighbours keep theirs, and it keeps its own for undo.
        self._writer.separate(node, segment_id)
        node.GetSegmentation().RemoveSegment(segment_id)

    def note_look(self, segment_id: str, name: str, color: tuple[float, float, float]) -> Step:
        """The segment had this name and this color before: a step, which the graph's copy does not have yet."""
        step = self._writer.note_look(self._chosen(), segment_id, name, color)
        self._tell_history()
        return step

    def note_removed(self, segment_id: str, segment: slicer.vtkSegment, next_id: str) -> Step:
        """The segment is gone: a step, which the graph's copy does not have yet. next_id: which was below it."""
        step = self._writer.note_removed(self._chosen(), segment_id, segment, next_id)
        self._tell_history()
        return step

    @property
    def counts(self) -> VoxelCounts:
        """Of its segments' voxels."""
        return self._writer.counts

    @property
    def was_shared(self) -> bool:
        """Whether the graph's copy has the step too that was taken back, or made again, last."""
        return self._writer.was_shared

    def make_segmentation(self) -> None:
        """One is made when none is chosen."""
        if self._parameters.segmentation is None:
            self._parameters.segmentation = self._add_segmentation()
            self._events.segments.emit()

    def names(self) -> list[str]:
        """Of the chosen segmentation's segments."""
        node = self._parameters.segmentation
        if node is None:
            return []
        segmentation = node.GetSegmentation()
        return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]

    def mask_on(self, place: Place) -> np.ndarray:
        """What the active segment holds on a slice, (rows, columns) bool. Raises SammError when it cannot be read."""
        node = self._parameters.segmentation
        return self._writer.mask(
            node, self._parameters.segment_id, *self._grid(node), place.axis, place.index
        )

    def undo(self) -> bool:
        """Take back the last mask, or all masks of a run; False when there is none."""
        return self._step(self._writer.undo())

    def redo(self) -> bool:
        """Write again what was taken back last; False when there is none."""
        return self._step(self._writer.redo())

    def _chosen(self) -> slicer.vtkMRMLSegmentationNode:
        if self._parameters.segmentation is None:
            raise MaskError(_("The segmentation was deleted; choose or add one."))
        return self._parameters.segmentation

    def _step(self, is_done: bool) -> bool:
        # Steps of segments that are gone were dropped, also when nothing was done.
        self._tell_history()
        return is_done

    def _tell_history(self) -> None:
        self._state.can_undo, self._state.can_redo = self._writer.can_undo, self._writer.can_redo
        self._events.history.emit()

    def _grid(self, node: slicer.vtkMRMLSegmentationNode) -> tuple[tuple[int, int, int], np.ndarray]:
        """The volume's dimensions, and IJK to the segmentation node's own space."""
        geometry = world_geometry(self._parameters.volume)
        return geometry.dimensions, np.linalg.inv(to_world(node)) @ geometry.ijk_to_ras

    def _add_segmentation(self) -> slicer.vtkMRMLSegmentationNode:
        """On the volume's grid, and moved by the volume's transform."""
        node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Slicer-IPP segmentation"))
        node.CreateDefaultDisplayNodes()
        volume = self._parameters.volume
        if volume:
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        return node
