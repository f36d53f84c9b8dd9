# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Runs over many slices, which the graph does: a mask propagated, a 3-D box filled, everything on a slice.

Here they are asked for, and their masks are written as they come.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from samm_core import ipp
from samm_core.cycle.request import CycleCounter
from samm_core.errors import SammError
from samm_core.geometry import Plane
from samm_core.mask_codec import encode_mask

from .connection import Connection
from .events import Events
from .i18n import tr as _
from .log import Log
from .marks import turned_box
from .masks import cleaned
from .nodes import VoxelStamp, roi_corners, voxel_stamp
from .parameters import Parameters
from .segments import Segments
from .state import State
from .view import Place
from .volume import VolumeLoader

if TYPE_CHECKING:
    import slicer


@dataclass(frozen=True, eq=False)
class _Run:
    """number: its masks name it. place: the slice that was shown. plane: what the graph calls the place's.

    first, last: the slices that were asked for. total: so many masks are expected. marked: the slice whose mask was sent,
    and is not written again; -1: none. segment_id: which its masks are for; empty: each name that comes is a new segment.
    new_ids: of these, by name.
    """

    number: int
    place: Place
    plane: Plane
    uid: str
    stamp: VoxelStamp
    first: int
    last: int
    total: int
    segment_id: str = ""
    marked: int = -1
    new_ids: dict[str, str] = field(default_factory=dict)


class Runs:
    """One run at a time. All that a run writes is one step of undo; what is written when it ends early stays."""

    def __init__(
        self,
        parameters: Parameters,
        state: State,
        events: Events,
        log: Log,
        connection: Connection,
        volume: VolumeLoader,
        segments: Segments,
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection
        self._volume = volume
        self._segments = segments
        self._counter = CycleCounter()
        self._run: _Run | None = None

    def propagate(self, place: Place, slices: int) -> None:
        """Carry what the active segment holds on the slice, painted by hand or not, to so many slices on each side."""
        mask = self._segments.mask_on(place)
        if not mask.any():
            self._log.warn(_("The shown slice has no mask to propagate; segment it first."))
            return
        first = max(place.index - slices, 0)
        last = min(place.index + slices, place.geometry.slice_count(place.plane) - 1)
        data = encode_mask(mask)
        mark = {"index": place.index, "shape": list(mask.shape), "size": len(data)}
        segment_id = self._segments.active()
        run = self._new(place, (first, last), last - first + 1, segment_id, place.index)
        self._start(run, "propagate", self._segments.graph_name(segment_id), data, masks=[mark])

    def fill_box(self, place: Place, roi: slicer.vtkMRMLMarkupsROINode) -> None:
        """Segment what the ROI holds, on every slice of the place's plane that it crosses."""
        crossed = _crossed(place, roi)
        if not crossed:
            self._log.warn(_("The ROI crosses no slice of this view's plane; move it into the volume."))
            return
        last = place.geometry.slice_count(place.plane) - 1
        segment_id = self._segments.active()
        run = self._new(place, (0, last), crossed, segment_id)
        box = turned_box(roi, self._parameters.volume)
        self._start(run, "box", self._segments.graph_name(segment_id), box3d=box)

    def everything(self, place: Place) -> None:
        """Segment everything on the slice, each thing as a new segment."""
        if place.key in self._state.frozen:
            self._log.warn(_("The slice is frozen; thaw it to change its mask."))
            return
        self._segments.make_segmentation()
        run = self._new(place, (place.index, place.index), 0)
        self._start(run, "automatic", self._free_name(f"{place.plane.name.capitalize()} {place.index}"))

    def receive(self, message: ipp.Message, mask: np.ndarray) -> None:
        """A mask of a run has come. mask: (rows, columns) bool."""
        run = self._run
        if run is None or message["number"] != run.number:
            # Of a run that was stopped here.
            self._state.dropped += 1
            return
        self.progressed(message)
        index = message["index"]
        if why := self._rejection(run, message):
            self._state.dropped += 1
            self.end(why)
        elif index != run.marked and (run.place.volume_id, run.place.axis, index) not in self._state.frozen:
            self._write(run, message, mask)
        self._events.controls.emit()

    def progressed(self, message: ipp.Message) -> None:
        """So much of a run is done."""
        if self._run is not None and message["number"] == self._run.number:
            self._state.progress = message["done"], max(message["total"] or self._run.total, message["done"])

    def end(self, why: str = "") -> None:
        """End the run, if there is one; what is segmented stays."""
        if self._run is not None:
            self._connection.send("cancel_volume", number=self._run.number)
            self._finish(why)

    def _new(
        self, place: Place, between: tuple[int, int], total: int, segment_id: str = "", marked: int = -1
    ) -> _Run:
        sent, plane = self._state.sent_volume, self._state.graph_volume.plane_across(place.axis)
        number = self._counter.next()
        return _Run(number, place, plane, sent.uid, sent.stamp, *between, total, segment_id, marked)

    def _start(
        self,
        run: _Run,
        task: str,
        segment: str,
        data: bytes = b"",
        masks: Sequence[Any] = (),
        box3d: Any = None,
    ) -> None:
        """segment: its name, or how the names of its segments begin. data: of the masks."""
        if self._volume.has_changed():
            self._log.warn(_("The volume has changed since it was loaded; press Load, then start again."))
            return
        self._run = run
        self._state.progress = (0, run.total)
        self._state.is_running = True
        frozen = [
            index
            for volume_id, axis, index in self._state.frozen
            if (volume_id, axis) == (run.place.volume_id, run.place.axis) and run.first <= index <= run.last
        ]
        self._connection.request(
            "segment_volume",
            lambda reply: self._ended(run, reply),
            data,
            number=run.number,
            uid=run.uid,
            task=task,
            plane=int(run.plane),
            segment=segment,
            first=run.first,
            last=run.last,
            masks=list(masks),
            prompts=[],
            box3d=box3d,
            frozen=sorted(frozen),
        )
        self._events.controls.emit()

    def _rejection(self, run: _Run, message: ipp.Message) -> str:
        """Why a mask must not be written; empty: it may."""
        if not self._state.has_loaded(self._parameters.volume) or not (
            message["uid"] == run.uid == self._state.sent_volume.uid
        ):
            return _("The run was for another volume, and has been ended.")
        if voxel_stamp(self._parameters.volume) != run.stamp:
            return _("The volume has changed since it was loaded; press Load, then start again.")
        if message["plane"] != run.plane or not run.first <= message["index"] <= run.last:
            return _("A mask came for a slice that was not asked for; the run has been ended.")
        return ""

    def _write(self, run: _Run, message: ipp.Message, mask: np.ndarray) -> None:
        p, name = self._parameters, message["segment"]
        mask = cleaned(mask, p.remove_holes, p.remove_islands, np.zeros((0, 2)))
        try:
            segment_id = run.segment_id or run.new_ids.get(name)
            if segment_id is None:
                segment_id = run.new_ids[name] = self._segments.add_in_group(name, run.number)
            self._segments.write(segment_id, run.place.axis, message["index"], mask, group=run.number)
        except SammError as error:
            self.end(str(error))
            return
        self._state.score = message["score"]
        self._events.mask.emit()

    def _ended(self, run: _Run, reply: ipp.Message) -> None:
        """The bridge says how it ended, or that it cannot be; or the bridge was lost."""
        if run is not self._run:
            return
        for sentence in reply.get("stopped", ()):
            self._log.say(sentence)
        if reply.type == "error" or not reply["success"]:
            done = self._state.progress[0]
            stays = _("{sentence} What is segmented stays.").format(sentence=reply["message"])
            self._finish(stays if reply.type == "error" and done else reply["message"])
            return
        self._state.progress = reply["slices"], reply["slices"]
        sentence = (
            _("Done: {count} slices in {seconds} s.")
            if run.segment_id
            else _("Done: {count} new segments in {seconds} s.")
        )
        self._finish(sentence.format(count=reply["slices"], seconds=f"{reply['seconds']:.1f}"))

    def _finish(self, why: str) -> None:
        self._run = None
        self._state.is_running = False
        if why:
            self._log.say(why)
        self._events.controls.emit()

    def _free_name(self, name: str) -> str:
        """With this no segment's name begins: those that come are new."""
        taken = self._segments.names()
        candidates = (f"{name} ({n})" if n > 1 else name for n in itertools.count(1))
        return next(each for each in candidates if not any(other.startswith(f"{each} ") for other in taken))


def _crossed(place: Place, roi: slicer.vtkMRMLMarkupsROINode) -> int:
    """How many slices of the place's plane a ROI crosses; one that lies between two counts to the nearer."""
    corners_ras = roi_corners(roi)
    if corners_ras is None:
        return 0
    across, _pixels = place.geometry.pixel_of(place.geometry.index_of(corners_ras), place.plane)
    count = place.geometry.slice_count(place.plane)
    if across.max() < -0.5 or across.min() > count - 0.5:
        return 0
    first, last = max(int(np.ceil(across.min())), 0), min(int(np.floor(across.max())), count - 1)
    return max(last - first + 1, 1)
