# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's logic: MRML nodes on one side, the client on the other. The same code runs in the desktop and on slicer-core.

Nothing here waits: what takes time is done by the client's thread, and comes back through process_events.
"""

from __future__ import annotations

import itertools
import os
import platform
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer.util
import vtk

from . import client as ipp_client
from .client import IppClient, Mailbox
from .nodes import (
    array_of,
    display_window,
    geometry_of,
    ijk_to_ras,
    is_bent,
    placed_points,
    printable,
    roi_corners,
    to_world,
)
from .segments import SegmentWriter
from .shared import ipp
from .shared.errors import SammError, VolumeError
from .shared.geometry import Plane, VolumeGeometry

PLANES = {"Red": Plane.AXIAL, "Green": Plane.CORONAL, "Yellow": Plane.SAGITTAL}
LOW_CONFIDENCE = 0.7
LOG_LINES = 200
INTERACTIVE, RUN = 0, 1
# Pixels around the mask of one slice in which the next slice's is looked for.
PROPAGATE_MARGIN = 2
# Prompts of a stream whose late masks, as those of a drag, may still be for what is shown.
REMEMBERED = 64
_COLORS = ((0.50, 0.68, 0.50), (0.95, 0.84, 0.57), (0.69, 0.48, 0.40), (0.44, 0.72, 0.82), (0.85, 0.40, 0.31))
_POINTS_EVENTS = ("PointModifiedEvent", "PointAddedEvent", "PointRemovedEvent", "PointPositionDefinedEvent")


@dataclass(frozen=True)
class _Asked:
    """A prompt that was sent. index, axis: of the slice; plane: its plane in the graph's geometry."""

    number: int
    uid: str
    plane: Plane
    axis: int
    index: int
    segment_id: str
    positive_xy: tuple[tuple[float, float], ...] = ()

    @property
    def target(self) -> tuple[str, Plane, int, str]:
        return self.uid, self.plane, self.index, self.segment_id


@dataclass(frozen=True)
class _Place:
    """What a view shows of the volume. geometry: the volume's, with its parent transforms, in the world."""

    geometry: VolumeGeometry
    plane: Plane
    index: int

    @property
    def axis(self) -> int:
        return self.geometry.axis(self.plane)


@dataclass(frozen=True)
class _Step:
    """One slice of a run. box: None takes the box from the mask before it, which `toward` leads to."""

    index: int
    box: tuple[float, float, float, float] | None
    toward: int = 0


class SlicerIPPLogic:
    """parameters: has the attributes of parameters.Parameters. slice_node: a view's slice node by its name."""

    def __init__(self, scene: Any, parameters: Any, slice_node: Callable[[str], Any]) -> None:
        self.scene = scene
        self.parameters = parameters
        self.changed: list[Callable[[str], None]] = []
        self.state = ipp_client.DISCONNECTED
        self.round_trip_ms: float | None = None
        self.models: list[str] = []
        self.model: dict[str, Any] | None = None
        self.window_presets: dict[str, tuple[float, float]] = {}
        self.embedding: dict[str, Any] | None = None
        self.objection = ""
        self.progress = (0, 0)
        self.score: float | None = None
        self.latency: dict[str, float] = {}
        self.log: list[str] = []
        self.dropped = 0
        self._slice_node = slice_node
        self._writer = SegmentWriter(scene)
        self._client: IppClient | None = None
        self._name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._numbers = itertools.count(time.time_ns() // 1000)
        self._mailbox = Mailbox()
        self._posted: deque[Callable[[], None]] = deque()
        self._graph_volume: dict[str, Any] | None = None
        self._own_uid = ""
        self._own_volume_id = ""
        self._is_loading = False
        self._asked: dict[int, OrderedDict[int, _Asked]] = {INTERACTIVE: OrderedDict(), RUN: OrderedDict()}
        self._applied: dict[int, int] = {}
        self._frozen: set[tuple[str, int, int]] = set()
        self._steps: deque[_Step] = deque()
        self._step: _Step | None = None
        self._boxes: dict[int, tuple[float, float, float, float] | None] = {}
        self._run_place: tuple[Any, ...] = ()
        self._is_dirty = False
        self._sent_window: tuple[float, float] | None = None
        self._window_waits = False
        self._observed: list[tuple[Any, int]] = []
        self._observed_nodes: tuple[Any, ...] = ()
        self._scene_observers = [
            scene.AddObserver(event, lambda *_: self._on_scene_changed())
            for event in (scene.NodeRemovedEvent, scene.EndCloseEvent)
        ]
        self.observe()

    # Connection.

    def connect(self, address: str, keys_folder: str = "") -> None:
        """Begin to connect, and keep connected; `state` says how far that is."""
        self.disconnect()
        try:
            self._client = IppClient(address, self._name, keys_folder, self._mailbox.wake)
        except ValueError as error:
            self._complain(str(error))
            return
        self._set_state(ipp_client.CONNECTING)

    def disconnect(self) -> None:
        if self._client:
            self._client.close()
            self._client = None
        self._end_run()
        self._set_state(ipp_client.DISCONNECTED)

    def close(self) -> None:
        """Leave no observer and no thread behind."""
        self.disconnect()
        for observer in self._scene_observers:
            self.scene.RemoveObserver(observer)
        self._scene_observers = []
        self._stop_observing()
        self._mailbox.close()

    def fileno(self) -> int:
        """Readable when process_events has something to do."""
        return self._mailbox.fileno()

    def test_connection(self, address: str, keys_folder: str, done: Callable[[str], None]) -> None:
        """Try an address aside; process_events calls done with one sentence: all is well, or what to mend."""

        def test() -> None:
            sentence = ipp_client.diagnose(address, keys_folder)
            self._posted.append(lambda: done(sentence))
            self._mailbox.wake()

        threading.Thread(target=test, daemon=True).start()

    def process_events(self) -> None:
        """Do what has come in, then send what has changed meanwhile: the newest state alone, however many changes."""
        self._mailbox.empty()
        while self._posted:
            self._posted.popleft()()
        for event in self._client.take() if self._client else ():
            kind, *values = event
            if kind == "mask":
                self._on_mask(*values)
            elif kind == "message":
                self._on_message(values[0])
            elif kind == "reply":
                values[0](values[1])
            elif kind == "state":
                self._set_state(values[0])
            elif kind == "round_trip":
                self.round_trip_ms = values[0]
                self._tell("connection")
            elif kind == "problem":
                self._complain(values[0])
            if self._client is None:
                return
        if self._is_dirty:
            self._is_dirty = False
            self._follow_window()
            if self.parameters.live and self.state == ipp_client.CONNECTED:
                self.prompt()

    # What is observed.

    def observe(self) -> None:
        """Call when a parameter has changed: listens to the nodes that are chosen now, and to no others."""
        p = self.parameters
        nodes = (p.volume, p.positive, p.negative, p.box, p.roi, p.segmentation, self._slice_node(p.view))
        display = p.volume.GetDisplayNode() if p.volume else None
        if (*nodes, display) != self._observed_nodes:
            self._stop_observing()
            self._observed_nodes = (*nodes, display)
            for markups in (p.positive, p.negative, p.box):
                for name in _POINTS_EVENTS if markups else ():
                    self._listen(markups, getattr(markups, name))
            for node in (p.box, nodes[-1], display):
                if node:
                    self._listen(node, vtk.vtkCommand.ModifiedEvent)
            for node in (p.volume, p.positive, p.negative, p.box):
                if node:
                    self._listen(node, node.TransformModifiedEvent)
        self._mark()
        self._tell("controls")

    def _listen(self, node: Any, event: int) -> None:
        self._observed.append((node, node.AddObserver(event, lambda *_: self._mark())))

    def _stop_observing(self) -> None:
        for node, observer in self._observed:
            node.RemoveObserver(observer)
        self._observed, self._observed_nodes = [], ()

    def _mark(self) -> None:
        """Something changed; however often until process_events runs, one prompt is sent."""
        if not self._is_dirty:
            self._is_dirty = True
            self._mailbox.wake()

    def _on_scene_changed(self) -> None:
        p = self.parameters
        for name in ("volume", "segmentation", "positive", "negative", "box", "roi"):
            node = getattr(p, name)
            if node is not None and self.scene.GetNodeByID(node.GetID() or "") is not node:
                setattr(p, name, None)
        if p.volume is None:
            self._own_uid = self._own_volume_id = ""
        self.observe()

    # The volume.

    def load_volume(self) -> None:
        """Send the chosen volume to the graph, unless the graph has it; its window is followed from then on."""
        why = self.reasons()["load"]
        if why:
            self._complain(why)
            return
        volume = self.parameters.volume
        try:
            description, voxels = self._describe(volume)
        except SammError as error:
            self._complain(str(error))
            return
        volume_id = volume.GetID()
        self._is_loading = True
        self._sent_window = description["window"] and tuple(description["window"])

        def loaded(reply: ipp.Message) -> None:
            self._is_loading = False
            if reply.type == "error":
                self._complain(reply["message"])
            else:
                self._own_uid, self._own_volume_id = reply["uid"], volume_id
                self._graph_volume = dict(reply.fields)
                self._say(f"{volume.GetName()} is loaded.")
                self._mark()
            self._tell("volume")
            self._tell("controls")

        self._client.send_volume(voxels, description, loaded)
        self._tell("controls")

    def _describe(self, volume: Any) -> tuple[dict[str, Any], np.ndarray]:
        """Raises VolumeError for voxels that the graph does not take."""
        voxels = slicer.util.arrayFromVolume(volume)
        components = 1 if voxels.ndim == 3 else voxels.shape[3]
        if voxels.dtype.name not in ipp.DTYPES or (
            components != 1 and (components, voxels.dtype.name) != (3, "uint8")
        ):
            raise VolumeError(
                f"{volume.GetName()} has {components} × {voxels.dtype.name} a voxel; cast it to float (module Cast Scalar Volume)."
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

    def apply_window_preset(self, name: str) -> None:
        """Set the volume's display to a preset of the graph; the graph follows."""
        lower, upper = self.window_presets[name]
        volume = self.parameters.volume
        if volume is None:
            return
        if volume.GetDisplayNode() is None:
            volume.CreateDefaultDisplayNodes()
        display = volume.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(lower, upper)
        self.observe()

    def _follow_window(self) -> None:
        """Tell the graph the display's window; one is on its way at a time, and the newest follows it."""
        volume = self.parameters.volume
        if volume is None or not self._is_ours() or self._window_waits or self.state != ipp_client.CONNECTED:
            return
        window = display_window(volume)
        if window is None or window == self._sent_window:
            return
        self._sent_window, self._window_waits = window, True

        def answered(reply: ipp.Message) -> None:
            self._window_waits = False
            if reply.type == "error":
                self._complain(reply["message"])
            self._mark()

        self._client.request("window", answered, uid=self._own_uid, window=list(window))

    def embed_all(self) -> None:
        self._request("embed", planes=[])

    def cancel_embed(self) -> None:
        self._request("cancel_embed")

    def select_model(self, name: str) -> None:
        self._request("select_model", name=name)

    def save_in_graph(self, name: str) -> None:
        """Save the graph's own copy of the segmentation, in the folder that the bridge has for it."""
        self._request("save", name=name)

    def _request(self, kind: str, **fields: Any) -> None:
        if self._client is None:
            self._complain("Connect first.")
            return

        def answered(reply: ipp.Message) -> None:
            if reply.type == "error":
                self._complain(reply["message"])
            elif reply.type == "done":
                self._say(reply["text"])

        try:
            self._client.request(kind, answered, **fields)
        except ipp.ProtocolError as error:
            self._complain(str(error))

    # Prompts.

    def prompt(self) -> None:
        """Send what is marked on the shown slice, instead of any older prompt; `objection` says why there is nothing."""
        fields, place = None, None
        self.objection = self.reasons()["prompt"]
        if not self.objection:
            try:
                place = self._place()
                if self._key(place) in self._frozen:
                    self.objection = "The slice is frozen; thaw it to change its mask."
                else:
                    fields = self._marked(place)
            except SammError as error:
                self.objection = str(error)
        if fields is not None:
            self._ask(INTERACTIVE, place, **fields)
        self._tell("controls")

    def _ask(self, stream: int, place: _Place, **fields: Any) -> None:
        segment_id = self._segment()
        asked = _Asked(
            next(self._numbers),
            self._own_uid,
            self._graph_plane(place),
            place.axis,
            place.index,
            segment_id,
            tuple(tuple(fields["points_xy"][n]) for n, label in enumerate(fields.get("labels", [])) if label),
        )
        prompts = self._asked[stream]
        prompts[asked.number] = asked
        if len(prompts) > REMEMBERED:
            prompts.popitem(last=False)
        segment = self.parameters.segmentation.GetSegmentation().GetSegment(segment_id)
        prompt = {"points_xy": [], "labels": [], "box_xyxy": None, **fields}
        self._client.prompt(
            number=asked.number,
            stream=stream,
            uid=asked.uid,
            plane=int(asked.plane),
            index=asked.index,
            segment=printable(segment.GetName() or segment_id, ipp.MAX_NAME),
            **prompt,
        )

    def _marked(self, place: _Place) -> dict[str, Any] | None:
        """The points and the box on a slice, in its pixels; None when there is nothing to send. Sets `objection`."""
        points, labels, left_out = [], [], []
        for node, label in ((self.parameters.positive, 1), (self.parameters.negative, 0)):
            for name, position in placed_points(node):
                ijk = place.geometry.index_of(position)
                across, pixel = place.geometry.pixel_of(ijk, place.plane)
                if not ((ijk[0] >= -0.5) & (ijk[0] <= np.array(place.geometry.dimensions) - 0.5)).all():
                    left_out.append(f"{name} lies outside the volume: move it inside.")
                elif abs(across[0] - place.index) > 0.5 + 1e-6:
                    left_out.append(
                        f"{name} is on slice {round(float(across[0]))}, {self.parameters.view} shows slice {place.index}: "
                        "move it here, or show its slice."
                    )
                else:
                    points.append(pixel[0].tolist())
                    labels.append(label)
        box = self._box_on(self.parameters.box, place, left_out)
        model = self.model or {}
        if points and not model.get("takes_points"):
            left_out.append(
                f"{model.get('name')} takes no points: draw a box, or choose a model that takes points, such as vit_b."
            )
            points, labels = [], []
        if box and not model.get("takes_box"):
            left_out.append(
                f"{model.get('name')} takes no box: place points, or choose a model that takes boxes, such as vit_b."
            )
            box = None
        self.objection = " ".join(left_out)
        if not points and box is None:
            self.objection = (
                self.objection or "Nothing is marked on this slice: draw a box or place a point on it."
            )
            return None
        return {"points_xy": points[: ipp.MAX_POINTS], "labels": labels[: ipp.MAX_POINTS], "box_xyxy": box}

    def _box_on(self, roi: Any, place: _Place, left_out: list[str]) -> list[float] | None:
        """A ROI's extent on a slice, x min, y min, x max, y max; None when it does not cross it."""
        corners = roi_corners(roi)
        if corners is None:
            return None
        across, pixels = place.geometry.pixel_of(place.geometry.index_of(corners), place.plane)
        if not across.min() - 0.5 <= place.index <= across.max() + 0.5:
            slices = f"{round(float(across.min()))} to {round(float(across.max()))}"
            left_out.append(
                f"{roi.GetName()} crosses slices {slices}, {self.parameters.view} shows slice {place.index}: move it here, or show those."
            )
            return None
        rows, columns = place.geometry.slice_shape(place.plane)
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        if (high < -0.5).any() or (low > (columns - 0.5, rows - 0.5)).any():
            left_out.append(f"{roi.GetName()} lies outside the volume: move it inside.")
            return None
        if (high - low < 1).any():
            left_out.append(f"{roi.GetName()} is less than a pixel wide on this slice: make it larger.")
            return None
        return [*low.tolist(), *high.tolist()]

    def _place(self) -> _Place:
        """What the chosen view shows; raises VolumeError when that is none of the volume's slices."""
        geometry = self._geometry()
        plane = PLANES[self.parameters.view]
        slice_to_ras = array_of(self._slice_node(self.parameters.view).GetSliceToRAS())
        normal = slice_to_ras[:3, 2] / np.linalg.norm(slice_to_ras[:3, 2])
        middle = geometry.position_of((np.array(geometry.dimensions) - 1) / 2)[0]
        # Where the view's plane passes the volume's middle: panning the view does not move it.
        shown = middle + ((slice_to_ras[:3, 3] - middle) @ normal) * normal
        index = round(float(geometry.index_of(shown)[0, geometry.axis(plane)]))
        if not geometry.contains_slice(plane, index):
            raise VolumeError(
                f"{self.parameters.view} shows no slice of the volume; move its slider into the volume."
            )
        return _Place(geometry, plane, index)

    def _geometry(self) -> VolumeGeometry:
        """The volume's geometry in the world; raises VolumeError for a transform that is not linear."""
        volume = self.parameters.volume
        voxels = volume.GetImageData()
        if voxels is None:
            raise VolumeError(f"{volume.GetName()} has no voxels; choose another volume.")
        return geometry_of(voxels.GetDimensions(), (to_world(volume) @ ijk_to_ras(volume)).tobytes())

    def _graph_plane(self, place: _Place) -> Plane:
        """The plane with the same IJK axis in the graph's geometry, which knows no transforms."""
        matrix = np.array(self._graph_volume["ijk_to_ras"], np.float64)
        graph = geometry_of(tuple(self._graph_volume["dimensions"]), matrix.tobytes())
        return next(plane for plane in Plane if graph.axis(plane) == place.axis)

    def _key(self, place: _Place) -> tuple[str, int, int]:
        return self.parameters.volume.GetID(), place.axis, place.index

    def freeze(self, frozen: bool) -> None:
        """Whether masks leave the slice that the view shows alone."""
        try:
            key = self._key(self._place())
        except SammError as error:
            self._complain(str(error))
            return
        (self._frozen.add if frozen else self._frozen.discard)(key)
        self._mark()
        self._tell("controls")

    def is_frozen(self) -> bool:
        try:
            return self.parameters.volume is not None and self._key(self._place()) in self._frozen
        except SammError:
            return False

    # Masks.

    def _on_mask(self, message: ipp.Message, mask: np.ndarray) -> None:
        started_ns = time.monotonic_ns()
        stream = message["stream"]
        asked = self._asked.get(stream, {}).get(message["number"])
        why = self._why_not(message, asked)
        if not why:
            try:
                mask = self._cleaned(mask, asked)
                self._write(asked, mask)
            except SammError as error:
                why = str(error)
        self._client.send(
            "applied",
            cycle=message["cycle"],
            stream=stream,
            completed=not why,
            started_ns=started_ns,
            ended_ns=time.monotonic_ns(),
        )
        if why:
            self.dropped += 1
            if stream == RUN and self._step:
                self._end_run(why)
            return
        self._applied[stream] = asked.number
        self.score = message["score"]
        self._tell("mask")
        self._tell("history")
        if stream == RUN:
            self._run_on(mask)

    def _why_not(self, message: ipp.Message, asked: _Asked | None) -> str:
        """Why a mask is not for what is shown; empty: it is. The graph's own rule, cycle.ApplyRule, is the same."""
        if asked is None:
            return "The mask answers no prompt of this session."
        if message["uid"] != self._own_uid or asked.uid != self._own_uid or not self._is_ours():
            return "The mask is for another volume."
        if (message["plane"], message["index"]) != (int(asked.plane), asked.index):
            return "The mask is for another slice than was asked for."
        newest = next(reversed(self._asked[message["stream"]].values()))
        if asked.target != newest.target:
            return "Its prompt was overtaken by one for another slice or segment."
        if asked.number <= self._applied.get(message["stream"], 0):
            return "A newer mask is applied already."
        if (self._own_volume_id, asked.axis, asked.index) in self._frozen:
            return "The slice was frozen meanwhile."
        return ""

    def _write(self, asked: _Asked, mask: np.ndarray) -> None:
        node = self.parameters.segmentation
        if node is None:
            raise VolumeError("The segmentation was deleted; choose or add one.")
        self._writer.write(node, asked.segment_id, *self._grid(node), asked.axis, asked.index, mask)

    def _grid(self, node: Any) -> tuple[tuple[int, int, int], np.ndarray]:
        """The volume's dimensions and IJK to the segmentation node's own space."""
        geometry = self._geometry()
        return geometry.dimensions, np.linalg.inv(to_world(node)) @ geometry.ijk_to_ras

    def _cleaned(self, mask: np.ndarray, asked: _Asked) -> np.ndarray:
        if not (self.parameters.remove_holes or self.parameters.remove_islands) or not mask.any():
            return mask
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        if self.parameters.remove_holes:
            image = sitk.BinaryFillhole(image)
        if self.parameters.remove_islands:
            parts = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(image)))
            rows, columns = mask.shape
            hit = {
                int(parts[round(y), round(x)])
                for x, y in asked.positive_xy
                if 0 <= round(y) < rows and 0 <= round(x) < columns
            }
            # Relabelled by size: the first is the largest.
            return np.isin(parts, sorted(hit - {0}) or [1])
        return sitk.GetArrayFromImage(image).astype(bool)

    # Runs over many slices.

    def propagate(self, slices: int) -> None:
        """Segment up to so many slices on each side: each is looked for in the box of the mask before it."""
        if self._cannot_run("propagate"):
            return
        place = self._place()
        node, segment_id = self.parameters.segmentation, self.parameters.segment_id
        box = _box_of(self._writer.mask(node, segment_id, *self._grid(node), place.axis, place.index), place)
        if box is None:
            self._complain("The shown slice has no mask to propagate; segment it first.")
            return
        steps = [
            _Step(place.index + toward * n, None, toward)
            for toward in (1, -1)
            for n in range(1, slices + 1)
            if place.geometry.contains_slice(place.plane, place.index + toward * n)
        ]
        self._boxes = {1: box, -1: box}
        self._start_run(place, steps)

    def segment_roi(self) -> None:
        """Segment every slice of the view's plane that the 3-D ROI crosses, with its cross-section as the box."""
        if self._cannot_run("segment_roi"):
            return
        place = self._place()
        across, _ = place.geometry.pixel_of(
            place.geometry.index_of(roi_corners(self.parameters.roi)), place.plane
        )
        last = place.geometry.slice_count(place.plane) - 1
        steps = []
        for index in range(max(0, int(np.ceil(across.min()))), min(last, int(np.floor(across.max()))) + 1):
            box = self._box_on(self.parameters.roi, _Place(place.geometry, place.plane, index), [])
            if box:
                steps.append(_Step(index, tuple(box)))
        if not steps:
            self._complain("The ROI crosses no slice of this view's plane; move it into the volume.")
            return
        self._start_run(place, steps)

    def stop(self) -> None:
        """End what propagate or segment_roi has begun; what is segmented stays."""
        self._end_run("Stopped.")

    def _cannot_run(self, control: str) -> bool:
        why = self.reasons()[control]
        if not why:
            try:
                self._place()
            except SammError as error:
                why = str(error)
        if why:
            self._complain(why)
        return bool(why)

    def _start_run(self, place: _Place, steps: list[_Step]) -> None:
        self._steps = deque(
            s for s in steps if (self.parameters.volume.GetID(), place.axis, s.index) not in self._frozen
        )
        self.progress = (0, len(self._steps))
        self._run_place = place.geometry, place.plane
        self._next_step()

    def _next_step(self) -> None:
        while self._steps:
            self._step = self._steps.popleft()
            box = self._step.box or self._boxes.get(self._step.toward)
            if box is not None:
                geometry, plane = self._run_place
                self._ask(RUN, _Place(geometry, plane, self._step.index), box_xyxy=list(box))
                self._tell("controls")
                return
            self._count_step()
        self._end_run("Done.")

    def _run_on(self, mask: np.ndarray) -> None:
        if self._step is None:
            return
        if self._step.toward:
            geometry, plane = self._run_place
            # Where the structure has ended, so has this direction.
            self._boxes[self._step.toward] = _box_of(mask, _Place(geometry, plane, self._step.index))
        self._count_step()
        self._next_step()

    def _count_step(self) -> None:
        self.progress = (self.progress[0] + 1, self.progress[1])

    def _end_run(self, why: str = "") -> None:
        was_running = self._step is not None
        self._steps.clear()
        self._step = None
        if was_running:
            if why:
                self._say(why)
            self._tell("controls")

    # Segments.

    def add_segment(self, name: str = "", color: tuple[float, float, float] | None = None) -> str:
        """A new segment, active from now on; its id. A segmentation is made when none is chosen."""
        p = self.parameters
        if p.segmentation is None:
            p.segmentation = self.scene.AddNewNodeByClass(
                "vtkMRMLSegmentationNode", "Slicer-IPP segmentation"
            )
            p.segmentation.CreateDefaultDisplayNodes()
            if p.volume:
                p.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(p.volume)
                p.segmentation.SetAndObserveTransformNodeID(p.volume.GetTransformNodeID())
        segmentation = p.segmentation.GetSegmentation()
        count = segmentation.GetNumberOfSegments()
        color = color or _COLORS[count % len(_COLORS)]
        p.segment_id = segmentation.AddEmptySegment("", name or f"Segment_{count + 1}", color)
        self._tell("segments")
        self.observe()
        return p.segment_id

    def _segment(self) -> str:
        """The active segment's id; one is made when there is none, so that nothing of the user's is overwritten."""
        p = self.parameters
        if p.segmentation is None or p.segmentation.GetSegmentation().GetSegment(p.segment_id or "") is None:
            return self.add_segment()
        return p.segment_id

    @property
    def can_undo(self) -> bool:
        return self._writer.can_undo

    @property
    def can_redo(self) -> bool:
        return self._writer.can_redo

    def undo(self) -> None:
        """Take back the last mask, here and in the graph's copy."""
        self._step_back("undo")

    def redo(self) -> None:
        self._step_back("redo")

    def _step_back(self, kind: str) -> None:
        if getattr(self._writer, kind)():
            if self._client and self.state == ipp_client.CONNECTED:
                self._client.request(
                    kind, lambda reply: self._complain(reply["message"]) if reply.type == "error" else None
                )
        else:
            self._complain(f"There is nothing to {kind}.")
        self._tell("history")
        self._tell("controls")

    @property
    def low_confidence(self) -> bool:
        return self.score is not None and self.score < LOW_CONFIDENCE

    # What the bridge says.

    def _on_message(self, message: ipp.Message) -> None:
        if message.type == "welcome":
            self.models = list(message["models"])
            self.window_presets = {name: tuple(window) for name, window in message["window_presets"].items()}
            self._tell("model")
        elif message.type == "model":
            self.model = dict(message.fields) if message["name"] else None
            self._mark()
            self._tell("model")
        elif message.type == "volume":
            self._graph_volume = dict(message.fields) if message["uid"] else None
            if self._own_uid and not self._is_loading and not self._is_ours():
                self._on_volume_lost(message)
            self._tell("volume")
        elif message.type == "embedding":
            total = sum(message["total"])
            self.embedding = {**message.fields, "fraction": sum(message["done"]) / total if total else 0.0}
            self._tell("embedding")
        elif message.type == "cycle":
            self.latency = {**message["intervals_ms"], "total": message["total_ms"]}
            self._tell("latency")
        elif message.type == "refused":
            self.objection = message["message"]
            if message["stream"] == RUN:
                self._end_run(message["message"])
            else:
                self._complain(message["message"])
        elif message.type == "error":
            self._complain(message["message"])
        self._tell("controls")

    def _on_volume_lost(self, message: ipp.Message) -> None:
        if message["uid"]:
            self._own_uid = ""
            self._complain(
                "Another volume was loaded into the graph by somebody else; press Load to have yours back."
            )
        elif self.parameters.volume is not None and self.parameters.volume.GetID() == self._own_volume_id:
            # The server came back without it, and its own client could not restore it.
            self._say("The graph lost the volume; it is being sent again.")
            self.load_volume()

    def _is_ours(self) -> bool:
        """Whether the graph has the volume that is chosen here."""
        volume, graph = self.parameters.volume, self._graph_volume
        return bool(
            volume is not None
            and graph
            and self._own_uid
            and graph["uid"] == self._own_uid
            and volume.GetID() == self._own_volume_id
        )

    # What the widget shows.

    def reasons(self) -> dict[str, str]:
        """By control: why it cannot act now, one sentence; empty: it can."""
        p = self.parameters
        connected = "" if self.state == ipp_client.CONNECTED else "Connect to the bridge first."
        model = "" if self.model else "The graph has no model yet; it is starting."
        volume = "" if p.volume is not None else "Choose a volume first."
        if p.volume is not None and is_bent(p.volume):
            volume = "The volume's transform is not linear: harden it (module Transforms) first."
        loading = "The volume is on its way." if self._is_loading else ""
        loaded = (
            connected
            or volume
            or loading
            or ("" if self._is_ours() else "Load the volume into the graph first.")
        )
        prompts = loaded or model
        name = (self.model or {}).get("name")
        no_points = (
            ""
            if not self.model or self.model["takes_points"]
            else f"{name} takes no points; draw a box, or choose a model that does."
        )
        no_box = (
            ""
            if not self.model or self.model["takes_box"]
            else f"{name} takes no box; place points, or choose a model that does."
        )
        running = "A run over many slices is under way; stop it first." if self._step else ""
        view = (
            ""
            if self._slice_node(p.view) is not None
            else f"There is no {p.view} slice view; choose a layout that has it."
        )
        sweeping = bool(self.embedding and self.embedding["sweeping"])
        return {
            "connect": ""
            if self.state == ipp_client.DISCONNECTED
            else "Already connected, or trying to be; disconnect first.",
            "disconnect": "" if self.state != ipp_client.DISCONNECTED else "Not connected.",
            "test": "",
            "model": connected,
            "select_model": connected,
            "volume": "",
            "load": connected or volume or loading,
            "window": connected or volume,
            "positive": no_points,
            "negative": no_points,
            "box": no_box,
            "roi": no_box,
            "live": "",
            "prompt": prompts or view,
            "freeze": volume or view,
            "propagate": prompts or view or no_box or running or self._no_segment(),
            "segment_roi": prompts
            or view
            or no_box
            or running
            or ("" if p.roi is not None else "Place a 3-D ROI first."),
            "stop": "" if self._step else "Nothing is running.",
            "embed": prompts,
            "cancel_embed": connected or ("" if sweeping else "Nothing is being embedded."),
            "undo": "" if self.can_undo else "There is nothing to undo.",
            "redo": "" if self.can_redo else "There is nothing to redo.",
            "add_segment": "",
        }

    def _no_segment(self) -> str:
        p = self.parameters
        there = (
            p.segmentation is not None
            and p.segmentation.GetSegmentation().GetSegment(p.segment_id or "") is not None
        )
        return "" if there else "Segment the shown slice first."

    def _set_state(self, state: str) -> None:
        if state == self.state:
            return
        self.state = state
        if state != ipp_client.CONNECTED:
            self.round_trip_ms = None
            self._window_waits = False
        if state == ipp_client.LOST:
            self._say("The bridge was lost; it is looked for.")
        elif state == ipp_client.CONNECTED:
            self._say("Connected.")
        self._mark()
        self._tell("connection")
        self._tell("controls")

    def _say(self, sentence: str) -> None:
        self.log = [*self.log[1 - LOG_LINES :], sentence]
        self._tell("log")

    def _complain(self, sentence: str) -> None:
        if not self.log or self.log[-1] != sentence:
            self._say(sentence)

    def _tell(self, what: str) -> None:
        for changed in list(self.changed):
            changed(what)


def _box_of(mask: np.ndarray, place: _Place) -> tuple[float, float, float, float] | None:
    """The box around a mask with PROPAGATE_MARGIN, within the slice; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    height, width = place.geometry.slice_shape(place.plane)
    return (
        float(max(columns[0] - PROPAGATE_MARGIN, 0)),
        float(max(rows[0] - PROPAGATE_MARGIN, 0)),
        float(min(columns[-1] + PROPAGATE_MARGIN, width - 1)),
        float(min(rows[-1] + PROPAGATE_MARGIN, height - 1)),
    )
