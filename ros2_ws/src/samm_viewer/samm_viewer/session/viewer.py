# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A scene with its views and Slicer-IPP's logic over it. It knows no page: tests send events in, and look at pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
from SlicerIPPLib.events import Signal
from SlicerIPPLib.logic import SegmentationLogic
from SlicerIPPLib.nodes import world_geometry
from SlicerIPPLib.parameters import Parameters
from SlicerIPPLib.view import PLANES, shown_place
from trame_slicer.core import SlicerApp
from trame_slicer.views import IViewFactory

from samm_core.errors import SammError
from samm_core.sources.volume import Volume

from .marking import Marking
from .views import Views
from .volumes import add_volume


class Viewer:
    """One person's work: a volume, its segmentation, what is marked, and the connection to the graph.

    changed: what is shown or marked has changed by something that the logic's events do not tell.
    """

    def __init__(self, app: SlicerApp, factories: Sequence[IViewFactory]) -> None:
        """factories: of views; the app's view manager takes them."""
        for factory in factories:
            app.view_manager.register_factory(factory)
        self.app = app
        self.changed = Signal()
        self.parameters = Parameters()
        self.views = Views(app)
        self.logic = SegmentationLogic(app.scene, self.parameters, self.views.slice_node)
        self.marking = Marking(self.views, self.logic, self.changed.emit)
        # The volume that the views show; it differs from the chosen one until the first image of a stream is there.
        self._shown_id = ""
        self.logic.events.connection.connect(self._load_when_connected)
        self.logic.events.stream.connect(self._show_stream)

    def close(self) -> None:
        self.logic.close()

    def open(self, volume: Volume) -> slicer.vtkMRMLVolumeNode:
        """Show a volume in place of what was shown, and load it into the graph as soon as there is a connection."""
        self.logic.stop_stream()
        self._clear()
        node = add_volume(self.app.scene, volume)
        self.parameters.volume = node
        self._shown_id = node.GetID()
        self.views.show(node)
        self.logic.observe()
        self._load_when_connected()
        self.changed.emit()
        return node

    def start_stream(self) -> None:
        """Show the graph's live stream in place of the volume."""
        if self.logic.reasons()["start_stream"]:
            self.logic.start_stream()
            return
        self._clear()
        self._shown_id = ""
        self.logic.start_stream()
        self.changed.emit()

    def new_segment(self) -> None:
        """Marks from now on are of another structure."""
        self.marking.clear()
        self.logic.add_segment()

    def choose_segment(self, segment_id: str) -> None:
        """Marks from now on correct this one."""
        if segment_id != self.parameters.segment_id:
            self.marking.clear()
            self.logic.choose_segment(segment_id)
            self.changed.emit()

    def toggle_3d(self) -> None:
        """Show the segments' surfaces, all of them in the view, or take them away."""
        self.logic.show_3d(not self.logic.state.show_3d)
        if self.logic.state.show_3d:
            self.views.three_d.fit_view_to_content()

    def slice_range(self, view: str) -> tuple[int, int]:
        """The index of the slice that a view shows, and how many there are in its plane; without a volume 0 and 1."""
        if self.parameters.volume is None:
            return 0, 1
        try:
            place = shown_place(self.parameters, self.views.slice_node, view)
        except SammError:
            # It was moved out of the volume.
            return 0, world_geometry(self.parameters.volume).slice_count(PLANES[view])
        return place.index, place.geometry.slice_count(place.plane)

    def show_slice(self, view: str, index: int) -> None:
        """Show a slice of the volume, its position across the view unchanged. An index beyond the ends is the end."""
        if self.parameters.volume is None:
            return
        geometry, plane = world_geometry(self.parameters.volume), PLANES[view]
        position = (np.array(geometry.dimensions) - 1) / 2
        position[geometry.axis(plane)] = min(max(index, 0), geometry.slice_count(plane) - 1)
        self.views.slice_node(view).JumpSliceByOffsetting(*geometry.position_of(position)[0])

    def _clear(self) -> None:
        """No volume, no mark, no segment; what was segmented is saved."""
        p, scene = self.parameters, self.app.scene
        self.logic.autosave.close()
        self.marking.clear()
        self.marking.clear_roi()
        for name in ("segmentation", "volume"):
            node = getattr(p, name)
            if node is not None:
                scene.RemoveNode(node)
        p.segment_id = ""

    def _load_when_connected(self) -> None:
        if not self.logic.reasons()["load"] and not self.logic.state.has_loaded(self.parameters.volume):
            self.logic.load_volume()

    def _show_stream(self) -> None:
        """The views show a stream from its first image on."""
        state = self.logic.state
        if state.stream and state.stream_volume_id and state.stream_volume_id != self._shown_id:
            self._shown_id = state.stream_volume_id
            self.views.show(self.app.scene.GetNodeByID(self._shown_id))
            self.changed.emit()
