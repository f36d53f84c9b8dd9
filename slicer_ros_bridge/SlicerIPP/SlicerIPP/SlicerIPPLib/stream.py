# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A live stream in the scene, and marks back to the graph.

Its newest image is a volume, and what the graph follows in it are segments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from samm_core import ipp
from samm_core.geometry import Plane
from samm_core.segmentation.colors import segment_color

from .connection import Connection
from .events import Events
from .i18n import tr as _
from .labelmap import update_views
from .log import Log
from .marks import marks_on
from .nodes import matrix_of, printable, world_geometry
from .parameters import Parameters
from .segments import Segments
from .state import State
from .view import Place

if TYPE_CHECKING:
    from samm_core.prompts import PixelPrompt

_LABELMAP = "Binary labelmap"
# As Slicer places the pictures that it reads: upright in Red, a pixel is a millimetre.
_IJK_TO_RAS = matrix_of(np.diag([-1.0, -1.0, 1.0, 1.0]))
# A point, as label, x, y, or a box, as x min, y min, x max, y max; pixels.
_Mark = tuple


class Stream:
    """All nodes are updated in place. Of images that come faster than they are shown, the newest is shown.

    is_drawing: while an image is shown; what changes in the scene then is no user's doing.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        parameters: Parameters,
        state: State,
        events: Events,
        log: Log,
        connection: Connection,
        segments: Segments,
    ) -> None:
        self.is_drawing = False
        self._scene = scene
        self._parameters = parameters
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection
        self._segments = segments
        self._segmentation_id = ""
        self._is_chosen = False
        # The stamps of the image that is shown, and of the one that was when something was marked last.
        self._shown_ns = self._marked_ns = 0
        # The labels of all objects, which their segments share.
        self._labelmap: slicer.vtkOrientedImageData | None = None
        # By the objects' names, the ids of their segments. By those, the names that were asked for.
        self._objects: dict[str, str] = {}
        self._new_names: dict[str, str] = {}
        # Objects whose segments the user has deleted.
        self._deleted: set[str] = set()
        # By the id of a segment, the marks that were sent for it last.
        self._sent: dict[str, list[_Mark]] = {}
        self._is_sending = False
        self._waiting: dict[str, Any] | None = None
        self._problem = ""
        events.connection.connect(self._on_connection)

    def start(self) -> None:
        self._state.stream = True
        self._is_chosen = self._is_sending = False
        self._waiting = None
        self._state.stream_text = _("Waiting for images …")
        self._ask()
        self._tell()

    def end(self) -> None:
        """What is shown stays."""
        if not self._state.stream:
            return
        self._state.stream = False
        self._state.stream_text = ""
        if self._state.is_connected:
            self._connection.request("stream", on=False)
        self._tell()

    def receive(self, message: ipp.Message, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Show an image. pixels: (H, W) or (H, W, 3) RGB, uint8. labels: (H, W) uint8, a value an object."""
        if not self._state.stream:
            return
        self.is_drawing = True
        try:
            volume = self._draw(pixels)
            self._shown_ns = message["stamp_ns"]
            node = self._segmentation_on(volume)
            self._follow(node, message["tracks"])
            self._write(node, labels, message["tracks"], message["stale"])
            self._choose(volume, node)
        finally:
            self.is_drawing = False
            # The next one may come.
            self._connection.send("image_taken", number=message["number"])
        self._state.stream_text = _text_of(message)
        self._events.stream.emit()

    def marked(self) -> None:
        """Something was marked, on the image that is shown."""
        self._marked_ns = self._shown_ns

    def send_marks(self, again: bool) -> str:
        """Mark the active segment's object in the graph; what of the marks was not sent, and why.

        Marks that were sent for another segment are not this one's. again: those that were sent before too, on the image that
        is shown now. Raises SammError for a volume that cannot be marked.
        """
        p = self._parameters
        geometry = world_geometry(p.volume)
        plane = next(plane for plane in Plane if geometry.axis(plane) == 2)
        marks = marks_on(Place(p.volume.GetID(), geometry, plane, 0), p, self._state.model)
        if marks.prompt is None:
            return marks.left_out
        segment_id = self._segments.active()
        of_others = {mark for owner, sent in self._sent.items() if owner != segment_id for mark in sent}
        mine = [mark for mark in _marks_of(marks.prompt) if mark not in of_others]
        if not mine or (mine == self._sent.get(segment_id) and not again):
            return marks.left_out or self._problem
        self._sent[segment_id] = mine
        points = [mark for mark in mine if len(mark) == 3]
        self._waiting = {
            "name": printable(self._segments.name_of(segment_id), ipp.MAX_NAME),
            "stamp_ns": self._shown_ns if again else self._marked_ns,
            "points_xy": [[x, y] for _label, x, y in points],
            "labels": [label for label, _x, _y in points],
            "box_xyxy": next((list(mark) for mark in mine if len(mark) == 4), None),
        }
        self._send()
        return marks.left_out

    def _send(self) -> None:
        """One is on its way at a time, and the newest follows it."""
        if self._is_sending or self._waiting is None:
            return
        fields, self._waiting, self._is_sending = self._waiting, None, True

        def answered(reply: ipp.Message) -> None:
            self._is_sending = False
            self._problem = reply["message"] if reply.type == "error" else ""
            self._state.prompt_problem = self._problem
            self._warn_of_error(reply)
            self._events.controls.emit()
            self._send()

        self._connection.request("track_prompt", answered, **fields)

    def _on_connection(self) -> None:
        if not self._state.stream:
            return
        if self._state.is_connected:
            self._ask()
            return
        node = self._node(self._segmentation_id)
        if node is not None and self._labelmap is not None:
            # What is shown is of another time.
            self._write(node, self._array(), [], True)
        self._state.stream_text = _("The bridge was lost; the stream goes on when it is back.")
        self._events.stream.emit()

    def _ask(self) -> None:
        def answered(reply: ipp.Message) -> None:
            if reply.type == "error":
                self._log.warn(reply["message"])
                self._state.stream_text = reply["message"]
                self._events.stream.emit()

        self._connection.request("stream", answered, on=True)

    def _tell(self) -> None:
        self._events.stream.emit()
        self._events.controls.emit()

    def _warn_of_error(self, reply: ipp.Message) -> None:
        if reply.type == "error":
            self._log.warn(reply["message"])

    # The scene.

    def _node(self, node_id: str) -> Any:
        return self._scene.GetNodeByID(node_id) if node_id else None

    def _draw(self, pixels: np.ndarray) -> slicer.vtkMRMLVolumeNode:
        """The volume that shows these pixels; a new one where there is none of their kind."""
        kind = "vtkMRMLScalarVolumeNode" if pixels.ndim == 2 else "vtkMRMLVectorVolumeNode"
        node = self._node(self._state.stream_volume_id)
        if node is not None and node.GetClassName() != kind:
            self._scene.RemoveNode(node)
            node = None
        if node is None:
            node = self._scene.AddNewNodeByClass(kind, _("Live stream"))
            node.SetIJKToRASMatrix(_IJK_TO_RAS)
            slicer.util.updateVolumeFromArray(node, pixels[None])
            node.CreateDefaultDisplayNodes()
            if pixels.ndim == 2:
                node.GetDisplayNode().SetAutoWindowLevel(False)
                node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
            self._state.stream_volume_id = node.GetID()
            self._is_chosen = False
            return node
        shown = slicer.util.arrayFromVolume(node)
        if shown.shape == (1, *pixels.shape):
            shown[0] = pixels
            slicer.util.arrayFromVolumeModified(node)
        else:
            slicer.util.updateVolumeFromArray(node, pixels[None])
        return node

    def _segmentation_on(self, volume: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLSegmentationNode:
        """Made where there is none, and moved by the volume's transform."""
        node = self._node(self._segmentation_id)
        if node is None:
            node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Live objects"))
            node.CreateDefaultDisplayNodes()
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            self._segmentation_id = node.GetID()
            self._objects, self._is_chosen = {}, False
        if node.GetTransformNodeID() != volume.GetTransformNodeID():
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        return node

    def _choose(self, volume: slicer.vtkMRMLVolumeNode, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Mark on the stream from its first image on; the user may choose something else since."""
        if self._is_chosen:
            return
        self._is_chosen = True
        self._parameters.volume, self._parameters.segmentation = volume, node
        self._events.segments.emit()

    def _follow(self, node: slicer.vtkMRMLSegmentationNode, tracks: list[dict[str, Any]]) -> None:
        """Each object has its segment, and what the user does to one is done to its object."""
        segmentation = node.GetSegmentation()
        names = {track["name"] for track in tracks}
        self._deleted &= names
        for name in self._objects.keys() - names:
            segment = segmentation.GetSegment(self._objects.pop(name))
            # One that was renamed goes on by its new name.
            if segment is not None and segment.GetName() not in names:
                segment.RemoveAllRepresentations()
        for track in tracks:
            name, segment_id = track["name"], self._objects.get(track["name"])
            if name in self._deleted:
                continue
            if segment_id is None:
                self._objects[name] = self._segment_of(segmentation, name, track["label"])
            elif segmentation.GetSegment(segment_id) is None:
                self._on_deleted(name)
            else:
                self._on_named(name, segment_id, segmentation.GetSegment(segment_id))

    def _segment_of(self, segmentation: slicer.vtkSegmentation, name: str, label: int) -> str:
        """The segment of that name, such as the one that was active when the object was marked; a new one without."""
        color = segment_color(label - 1)
        segment_id = segmentation.GetSegmentIdBySegmentName(name)
        if not segment_id:
            return segmentation.AddEmptySegment("", name, color)
        segmentation.GetSegment(segment_id).SetColor(color)
        return segment_id

    def _on_deleted(self, name: str) -> None:
        self._sent.pop(self._objects.pop(name), None)
        self._deleted.add(name)

        def answered(reply: ipp.Message) -> None:
            self._warn_of_error(reply)
            if reply.type == "error":
                self._deleted.discard(name)

        self._connection.request("track_remove", answered, name=name)

    def _on_named(self, name: str, segment_id: str, segment: slicer.vtkSegment) -> None:
        new_name = printable(segment.GetName(), ipp.MAX_NAME)
        if new_name in (name, self._new_names.get(segment_id)):
            return
        self._new_names[segment_id] = new_name

        def answered(reply: ipp.Message) -> None:
            del self._new_names[segment_id]
            self._warn_of_error(reply)
            if reply.type == "error":
                segment.SetName(name)

        self._connection.request("track_rename", answered, name=name, new_name=new_name)

    def _write(
        self,
        node: slicer.vtkMRMLSegmentationNode,
        labels: np.ndarray,
        tracks: list[dict[str, Any]],
        stale: bool,
    ) -> None:
        """Make the labels what the segments hold; of a lost object, and where all are stale, nothing is shown."""
        if self._labelmap is None or self._array().shape != labels.shape:
            self._labelmap = _labelmap(labels.shape)
        segmentation = node.GetSegmentation()
        shown = np.zeros(256, np.uint8)
        for track in tracks:
            if track["name"] not in self._objects:
                continue
            segment = segmentation.GetSegment(self._objects[track["name"]])
            segment.SetLabelValue(track["label"])
            if segment.GetRepresentation(_LABELMAP) is not self._labelmap:
                segment.AddRepresentation(_LABELMAP, self._labelmap)
            if track["state"] != "lost" and not stale:
                shown[track["label"]] = track["label"]
        self._array()[...] = shown[labels]
        if self._objects:
            update_views(node, next(iter(self._objects.values())), self._labelmap)

    def _array(self) -> np.ndarray:
        """(H, W), a view of the labels that are shown."""
        width, height, _depth = self._labelmap.GetDimensions()
        return vtk_to_numpy(self._labelmap.GetPointData().GetScalars()).reshape(height, width)


def _labelmap(shape: tuple[int, int]) -> slicer.vtkOrientedImageData:
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetDimensions(shape[1], shape[0], 1)
    labelmap.SetImageToWorldMatrix(_IJK_TO_RAS)
    labelmap.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    labelmap.GetPointData().GetScalars().Fill(0)
    return labelmap


def _marks_of(prompt: PixelPrompt) -> list[_Mark]:
    points = np.column_stack([prompt.labels, prompt.points_xy]).tolist()
    marks: list[_Mark] = [(int(label), x, y) for label, x, y in points]
    return marks if prompt.box_xyxy is None else [*marks, tuple(prompt.box_xyxy.tolist())]


def _text_of(message: ipp.Message) -> str:
    """What is followed, a line each."""
    lines = [_line_of(track) for track in message["tracks"]]
    if message["stale"]:
        lines = [_("No image has come for a while; nothing is drawn."), *lines]
    if message["error"]:
        lines.append(message["error"])
    return "\n".join(lines) or _("Mark something on the image, and it is followed.")


def _line_of(track: dict[str, Any]) -> str:
    texts = {
        "prompted": _("{name}: marked, its first mask is to come"),
        "tracking": _("{name}: tracking, {age} s"),
        "uncertain": _("{name}: uncertain: {cause}"),
        "lost": _("{name}: lost: {cause}"),
    }
    line = texts[track["state"]].format(name=track["name"], age=f"{track['age_s']:.1f}", cause=track["cause"])
    return f"{line} {track['error']}".rstrip()
