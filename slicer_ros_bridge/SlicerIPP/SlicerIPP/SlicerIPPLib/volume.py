# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The chosen volume in the graph: sent, sent again when it has changed, its window followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import slicer.util

from samm_core import ipp
from samm_core.errors import SammError, VolumeError

from .connection import Connection
from .controls import why_no_load
from .events import Events
from .i18n import tr as _
from .log import Log
from .nodes import display_window, ijk_to_ras, printable, voxel_stamp
from .parameters import Parameters
from .state import GraphVolume, SentVolume, State


class VolumeLoader:
    """Loads the chosen volume into the graph, and loads it again when the graph has lost it."""

    def __init__(
        self,
        parameters: Parameters,
        state: State,
        events: Events,
        log: Log,
        connection: Connection,
        marks_wait: Callable[[], None],
    ) -> None:
        """marks_wait: called when what is marked may be sent now, or should be once more."""
        self._parameters = parameters
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection
        self._marks_wait = marks_wait
        self._sent_window: tuple[float, float] | None = None
        self._is_window_on_its_way = False
        # The one that is chosen, as observe() saw it last.
        self._volume: slicer.vtkMRMLVolumeNode | None = None
        events.connection.connect(self._on_connection)

    def load(self) -> None:
        """Send the chosen volume to the graph, unless the graph has it; its window is followed from then on."""
        if why := why_no_load(self._parameters, self._state):
            self._log.warn(why)
            return
        volume = self._parameters.volume
        try:
            description, voxels = _describe(volume)
        except SammError as error:
            self._log.warn(str(error))
            return
        node_id, stamp = volume.GetID(), voxel_stamp(volume)
        self._state.is_loading = True
        self._sent_window = description["window"] and tuple(description["window"])

        def loaded(reply: ipp.Message) -> None:
            self._state.is_loading = False
            if self._parameters.volume is not volume:
                # It is gone, or another one was chosen while it was on its way.
                if not why_no_load(self._parameters, self._state):
                    self.load()
            elif reply.type == "error":
                self._log.warn(reply["message"])
            else:
                self._state.graph_volume = GraphVolume.from_message(reply)
                self._state.sent_volume = SentVolume(reply["uid"], node_id, stamp)
                self._log.say(_("{name} is loaded.").format(name=volume.GetName()))
                for sentence in self._state.graph_volume.warnings:
                    self._log.warn(sentence)
                self._marks_wait()
            self._events.volume.emit()
            self._events.controls.emit()

        self._connection.send_volume(voxels, description, loaded)
        self._events.controls.emit()

    def has_changed(self) -> bool:
        """Whether the volume has other voxels, or another place, than were sent."""
        volume = self._parameters.volume
        return self._state.has_loaded(volume) and voxel_stamp(volume) != self._state.sent_volume.stamp

    def reload(self) -> str:
        """Send what the volume holds now; a sentence that says so. A graph that has it already answers at once."""
        sentence = _("{name} has changed since it was loaded; it is being sent again.").format(
            name=self._parameters.volume.GetName()
        )
        self._log.warn(sentence)
        self.load()
        return sentence

    def observe(self) -> None:
        """Look at the volume that is chosen now: what is known of the work on another one is forgotten."""
        volume = self._parameters.volume
        if volume is self._volume:
            return
        self._volume = volume
        self._state.score, self._state.latency = None, {}
        self._events.latency.emit()

    def forget(self) -> None:
        """The volume node is gone."""
        self._state.sent_volume = None

    def on_graph_volume(self, message: ipp.Message) -> None:
        """The graph says which volume it has now."""
        self._state.graph_volume = GraphVolume.from_message(message)
        sent, volume = self._state.sent_volume, self._parameters.volume
        if sent and not self._state.is_loading and message["uid"] != sent.uid:
            if message["uid"]:
                self._state.sent_volume = None
                self._log.warn(
                    _(
                        "Another volume was loaded into the graph by somebody else; press Load to have yours back."
                    )
                )
            elif volume is not None and volume.GetID() == sent.node_id:
                # The server came back without it, and its own client could not restore it.
                self._log.say(_("The graph lost the volume; it is being sent again."))
                self.load()
        self._events.volume.emit()

    def show_window(self, lower: float, upper: float) -> None:
        """Set the display of the volume to a window; the graph follows."""
        volume = self._parameters.volume
        if volume is None:
            return
        if volume.GetDisplayNode() is None:
            volume.CreateDefaultDisplayNodes()
        display = volume.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(lower, upper)

    def follow_window(self) -> None:
        """Send the display's window to the graph. One is on its way at a time, and the newest follows it."""
        volume = self._parameters.volume
        if not self._state.has_loaded(volume) or self._is_window_on_its_way or not self._state.is_connected:
            return
        window = display_window(volume)
        if window is None or window == self._sent_window:
            return
        self._sent_window, self._is_window_on_its_way = window, True

        def answered(reply: ipp.Message) -> None:
            self._is_window_on_its_way = False
            if reply.type == "error":
                self._log.warn(reply["message"])
            self._marks_wait()

        self._connection.request("window", answered, uid=self._state.sent_volume.uid, window=list(window))

    def _on_connection(self) -> None:
        if not self._state.is_connected:
            self._is_window_on_its_way = False


def _describe(volume: slicer.vtkMRMLVolumeNode) -> tuple[dict[str, Any], np.ndarray]:
    """The fields of the message, and the voxels. Raises VolumeError for voxels that the graph does not take."""
    voxels = slicer.util.arrayFromVolume(volume)
    components = 1 if voxels.ndim == 3 else voxels.shape[3]
    is_color = (components, voxels.dtype.name) == (3, "uint8")
    if voxels.dtype.name not in ipp.DTYPES or not (components == 1 or is_color):
        raise VolumeError(
            _(
                "{name} has {components} × {dtype} per voxel; cast it to float (module Cast Scalar Volume)."
            ).format(name=volume.GetName(), components=components, dtype=voxels.dtype.name)
        )
    window = display_window(volume)
    description = {
        "name": printable(volume.GetName() or "", ipp.MAX_TEXT),
        "shape_kji": list(voxels.shape[:3]),
        "components": components,
        "dtype": voxels.dtype.name,
        "ijk_to_ras": ijk_to_ras(volume).ravel().tolist(),
        "window": list(window) if window else None,
    }
    return description, voxels
