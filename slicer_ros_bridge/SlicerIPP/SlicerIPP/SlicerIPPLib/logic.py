# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's logic: MRML nodes on one side, the bridge on the other.

The same code runs in the desktop and on slicer-core, and knows neither Qt nor a layout. Nothing here waits: what takes
time is done by the client's thread, and comes back through process_events.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core import ipp
from samm_core.errors import SammError

from . import controls
from .autosave import Autosave
from .background import Background
from .client_events import BridgeState
from .connection import Connection
from .events import Events
from .export import Export
from .i18n import tr as _
from .incoming import Incoming
from .local_graph import LocalGraph
from .log import Log
from .marks import marks_on
from .marks_follow import MarksFollow
from .masks import Masks
from .observers import ChosenNodes
from .parameters import Parameters
from .prompts import INTERACTIVE, Prompts
from .runs import Runs
from .segment_list import Color, SegmentList, SegmentRow
from .segments import Segments
from .state import State
from .stream import Stream
from .surfaces import Surfaces
from .view import Place, SliceNodes, shown_place
from .volume import VolumeLoader
from .weights import Weights

if TYPE_CHECKING:
    import slicer


class SegmentationLogic:
    """Puts the parts together. state: what is known; events: what of it has changed."""

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        parameters: Parameters,
        slice_nodes: SliceNodes,
        local_graph: LocalGraph | None = None,
    ) -> None:
        """parameters: or an object with the same attributes, such as a parameter node.

        local_graph: one that outlives this; None: one of its own, which ends with it.
        """
        self.scene = scene
        self.parameters = parameters
        self.state = State()
        self.events = Events()
        self._log = Log(self.state, self.events.log)
        self._slice_nodes = slice_nodes
        self._is_dirty = self._are_segments_dirty = False
        self.connection = Connection(self.state, self.events, self._log)
        self.volume = VolumeLoader(
            parameters, self.state, self.events, self._log, self.connection, self._mark
        )
        self.segments = Segments(scene, parameters, self.state, self.events)
        self.segment_list = SegmentList(
            parameters,
            self.state,
            self.events,
            self._log,
            self.connection,
            self.segments,
            self._mark_segments,
        )
        self.surfaces = Surfaces(parameters, self.state, self.events, self.connection.wake_after)
        self._background = Background(self.connection.post)
        self._export = Export(parameters, self._log, self._background)
        self.autosave = Autosave(
            scene,
            parameters,
            self.state,
            self.events,
            self._log,
            self._background,
            self.connection.wake_after,
        )
        self.prompts = Prompts(parameters, self.state, self.connection, self.segments)
        self.runs = Runs(
            parameters, self.state, self.events, self._log, self.connection, self.volume, self.segments
        )
        self.masks = Masks(
            parameters,
            self.state,
            self.events,
            self._log,
            self.connection,
            self.prompts,
            self.segments,
        )
        self.stream = Stream(
            scene, parameters, self.state, self.events, self._log, self.connection, self.segments
        )
        self.weights = Weights(self.state, self.events, self._log, self.connection)
        self._graph = local_graph or LocalGraph()
        self._owns_graph = local_graph is None
        # Of its bridge, as it was told last: it is connected to once.
        self._graph_address = self._graph.address
        self._graph.listen(lambda: self.connection.post(self._on_graph))
        self._incoming = Incoming(
            self.state,
            self.events,
            self._log,
            self.connection,
            self.volume,
            self.masks,
            self.runs,
            self.stream,
            self.weights,
            self._mark,
        )
        self._marks_follow = MarksFollow(parameters)
        self._nodes = ChosenNodes(parameters, slice_nodes, self._mark)
        self._scene_observers = [
            scene.AddObserver(event, lambda *_arguments: self._on_scene_changed())
            for event in (scene.NodeRemovedEvent, scene.EndCloseEvent)
        ]
        self.events.connection.connect(self._mark)
        self.events.segments.connect(self.observe)
        self._on_graph()
        self.observe()

    # The connection.

    def connect(self, address: str, keys_folder: str = "") -> None:
        """Begin to connect, and stay connected; the state says how far that is."""
        self.disconnect()
        self.connection.open(address, keys_folder)

    def disconnect(self) -> None:
        self.stream.end()
        self.connection.disconnect()
        self.runs.end()

    def close(self) -> None:
        """Leave no observer and no thread behind; what is being written is written first."""
        self.runs.end()
        self._graph.listen(None)
        if self._owns_graph:
            self._graph.close()
        self.autosave.close()
        self._background.close()
        self.connection.close()
        for observer in self._scene_observers:
            self.scene.RemoveObserver(observer)
        self._scene_observers = []
        self._nodes.stop()
        self.segment_list.stop()

    def fileno(self) -> int:
        """Readable when process_events has something to do."""
        return self.connection.fileno()

    def test_connection(self, address: str, keys_folder: str, done: Callable[[str], None]) -> None:
        """Try an address aside; process_events calls `done` with one sentence: all is well, or what to do."""
        self.connection.test(address, keys_folder, done)

    def process_events(self) -> None:
        """Do what has come in, then send what has changed meanwhile: the newest state alone, however many changes."""
        for event in self.connection.take():
            self._try(lambda event=event: self._incoming.handle(event))
        if self._are_segments_dirty:
            self._are_segments_dirty = False
            self.segment_list.follow()
            self.events.controls.emit()
        self._try(self.surfaces.follow)
        self._try(self.autosave.follow)
        if self._is_dirty:
            # Before the flag: the marks' own change is sent with this.
            self._carry_marks()
            self._is_dirty = False
            self.volume.follow_window()
            if self.parameters.live and self.state.is_connected:
                self._prompt(again=False)

    # A graph on this computer.

    def start_graph(self, folder: Path | str, arguments: Sequence[str] = ()) -> None:
        """Run `samm up` of a checkout, and connect when it listens. arguments: such as name:=value."""
        self._try(lambda: self._graph.start(folder, arguments))
        self._on_graph()

    def stop_graph(self) -> None:
        self._graph.stop()

    def _on_graph(self) -> None:
        """The graph that was started from here has said something, or has started or ended."""
        was_running, address = self.state.graph_runs, self._graph.address
        self.state.graph_log, self.state.graph_runs = self._graph.lines, self._graph.is_running
        self.events.graph.emit()
        if self.state.graph_runs != was_running:
            self.events.controls.emit()
        if address and address != self._graph_address and self.state.bridge == BridgeState.DISCONNECTED:
            self.connect(address)
        self._graph_address = address

    # What is observed.

    def observe(self) -> None:
        """Call when a parameter has changed."""
        self._nodes.observe()
        self.volume.observe()
        if self.segment_list.observe():
            self.surfaces.chosen()
            self.autosave.chosen()
            self.events.segment_rows.emit()
        self._mark()
        self.events.controls.emit()

    # What a user does.

    def reasons(self) -> dict[str, str]:
        """By control: why it cannot act now, in one sentence; empty: it can."""
        has_view = self._slice_nodes(self.parameters.view) is not None
        can_restore = self.autosave.saved_path is not None
        return controls.reasons(self.parameters, self.state, has_view, can_restore)

    def load_volume(self) -> None:
        """Send the chosen volume to the graph, unless the graph has it; its window is followed from then on."""
        self.volume.load()

    def start_stream(self) -> None:
        """Show the graph's live stream, and what is followed in it, from its next image on."""
        if why := self.reasons()["start_stream"]:
            self._log.warn(why)
        else:
            self.stream.start()

    def stop_stream(self) -> None:
        """Show no further images; what is shown stays."""
        self.stream.end()

    def apply_window_preset(self, name: str) -> None:
        """Set the volume's display to a preset of the graph; the graph follows."""
        self.volume.show_window(*self.state.window_presets[name])
        self.observe()

    def embed_all(self) -> None:
        self.connection.request("embed", planes=[])

    def cancel_embed(self) -> None:
        self.connection.request("cancel_embed")

    def select_model(self, name: str) -> None:
        self.connection.request("select_model", name=name)

    def fetch_weights(self, name: str) -> None:
        """Make the graph download a model's weights; the state says how far that is."""
        if why := self.reasons()["fetch_weights"]:
            self._log.warn(why)
        else:
            self.weights.fetch(name)

    def cancel_fetch(self) -> None:
        """End the download early; what has come stays, and is gone on from next time."""
        self.weights.cancel()

    def prompt(self) -> None:
        """Send what is marked on the shown slice. The state's prompt_problem says what of it was not sent, and why."""
        self._prompt(again=True)

    def _prompt(self, again: bool) -> None:
        """again: marks on a live stream too that were sent before."""
        try:
            self.state.prompt_problem = self._send_marks(again)
        except SammError as error:
            self.state.prompt_problem = str(error)
        self.events.controls.emit()

    def freeze(self, frozen: bool) -> None:
        """Whether masks leave the slice that the view shows alone."""
        try:
            key = self.shown_place().key
        except SammError as error:
            self._log.warn(str(error))
            return
        (self.state.frozen.add if frozen else self.state.frozen.discard)(key)
        self._mark()
        self.events.controls.emit()

    def is_frozen(self) -> bool:
        try:
            return self.parameters.volume is not None and self.shown_place().key in self.state.frozen
        except SammError:
            return False

    def propagate(self, slices: int) -> None:
        """Carry the shown slice's mask to up to so many slices on each side, each until the structure ends."""
        self._run("propagate", lambda place: self.runs.propagate(place, slices))

    def segment_roi(self) -> None:
        """Segment what the 3-D ROI holds, on every slice of the view's plane that it crosses."""
        self._run("segment_roi", lambda place: self.runs.fill_box(place, self.parameters.roi))

    def segment_everything(self) -> None:
        """Segment everything on the shown slice, each thing as a new segment."""
        self._run("everything", self.runs.everything)

    def stop(self) -> None:
        """End the run over many slices; what is segmented stays."""
        self.runs.end(_("Stopped."))

    def add_segment(self, name: str = "", color: tuple[float, float, float] | None = None) -> str:
        """A new segment, active from now on; its id."""
        return self.segments.add(name, color)

    def segment_rows(self) -> list[SegmentRow]:
        """The segments in order. To count the voxels of one that has changed takes some milliseconds."""
        return self.segment_list.rows()

    def choose_segment(self, segment_id: str) -> None:
        """Masks go to it from now on."""
        self.parameters.segment_id = segment_id
        self.events.segments.emit()
        self.events.segment_rows.emit()

    def rename_segment(self, segment_id: str, name: str) -> None:
        self._try(lambda: self.segment_list.rename(segment_id, name))

    def recolor_segment(self, segment_id: str, color: Color) -> None:
        """color: red, green, blue, 0 to 1."""
        self._try(lambda: self.segment_list.recolor(segment_id, color))

    def set_segment_visible(self, segment_id: str, visible: bool) -> None:
        """In all views."""
        self._try(lambda: self.segment_list.set_visible(segment_id, visible))

    def remove_segment(self, segment_id: str) -> None:
        """With its voxels; undo brings them back."""
        self._try(lambda: self.segment_list.remove(segment_id))

    def show_3d(self, shown: bool) -> None:
        """Show the segments' surfaces in the 3-D views, or take them away."""
        self._try(lambda: self.surfaces.show(shown))
        self.events.controls.emit()

    def export(
        self,
        path: Path | str,
        source: Path | str | None = None,
        done: Callable[[str], None] | None = None,
    ) -> None:
        """Write the segmentation to a file, in the background; process_events says in the log how that ended.

        path: ends in one of export.KINDS. source: the file or DICOM folder that the volume was read from; None: as the volume
        node says. done: gets nothing, or the sentence of why there is no file.
        """

        def ended(why: str) -> None:
            if why:
                self._log.warn(why)
            if done is not None:
                done(why)

        try:
            self._export.write(Path(path), Path(source) if source else None, ended)
        except SammError as error:
            ended(str(error))

    def restore_autosave(self) -> None:
        """Bring back, as a new segmentation, what was saved of the volume by itself."""
        self._try(self.autosave.restore)

    def undo(self) -> None:
        """Take back the last step, here and in the graph's copy: a mask, all of a run, or a change of a segment."""
        self._step("undo", self.segments.undo, _("There is nothing to undo."))

    def redo(self) -> None:
        """Make again what was taken back last, here and in the graph's copy."""
        self._step("redo", self.segments.redo, _("There is nothing to redo."))

    def shown_place(self) -> Place:
        """What the chosen view shows of the volume. Raises VolumeError when that is none of its slices."""
        return shown_place(self.parameters, self._slice_nodes)

    # Inside.

    def _mark(self) -> None:
        """Something changed. However often until process_events runs, one prompt is sent."""
        if self.stream.is_drawing:
            # The next image of a stream is no change of what is marked.
            return
        if not self._is_dirty:
            self._is_dirty = True
            self.stream.marked()
            self.connection.wake()

    def _carry_marks(self) -> None:
        if self.parameters.volume is None or self.state.is_stream(self.parameters.volume):
            return
        # Beside the volume: what is marked waits on the slice that was shown last.
        with contextlib.suppress(SammError):
            self._marks_follow.follow(self.shown_place())

    def _send_marks(self, again: bool) -> str:
        """What of the marks was not sent, and why; empty when all were."""
        if why := self.reasons()["prompt"]:
            return why
        if self.state.is_stream(self.parameters.volume):
            return self.stream.send_marks(again)
        place = self.shown_place()
        if place.key in self.state.frozen:
            return _("The slice is frozen; thaw it to change its mask.")
        marks = marks_on(place, self.parameters, self.state.model)
        if marks.prompt is None:
            return marks.left_out
        if self.volume.has_changed():
            return self.volume.reload()
        self.prompts.send(INTERACTIVE, place, marks.prompt)
        return marks.left_out

    def _mark_segments(self) -> None:
        """Something in the segmentation has changed, by whomever. process_events looks what."""
        self.surfaces.changed()
        self.autosave.changed()
        if not self._are_segments_dirty:
            self._are_segments_dirty = True
            self.connection.wake()

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except SammError as error:
            self._log.warn(str(error))

    def _run(self, control: str, run: Callable[[Place], None]) -> None:
        try:
            if why := self.reasons()[control]:
                self._log.warn(why)
            else:
                run(self.shown_place())
        except SammError as error:
            self._log.warn(str(error))

    def _step(self, kind: str, step: Callable[[], bool], nothing: str) -> None:
        self.segment_list.follow()
        if not step():
            self._log.warn(nothing)
        else:
            # It was of the mask that is gone.
            self.state.score = None
            if self.state.is_connected and self.segments.was_shared:
                self.connection.request(kind, self._warn_of_error)
        self.segment_list.accept()
        self.events.controls.emit()

    def _warn_of_error(self, reply: ipp.Message) -> None:
        if reply.type == "error":
            self._log.warn(reply["message"])

    def _on_scene_changed(self) -> None:
        p = self.parameters
        for name in ("volume", "segmentation", "positive", "negative", "box", "roi"):
            node = getattr(p, name)
            if node is not None and self.scene.GetNodeByID(node.GetID() or "") is not node:
                setattr(p, name, None)
        if p.volume is None:
            self.volume.forget()
        self.segments.forget_removed()
        self.observe()
