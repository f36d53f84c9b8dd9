# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""APL_MSK, apply mask: writes a received mask into the segmentation of its volume.

In:   received_masks, slice_requests (SliceMask, SliceRequest, newest), task_masks (TaskMask, all), volumes (latched),
      picture_prompts (PicturePrompt)
Out:  segmentation_status (latched), overlay (sensor_msgs/Image, newest), task_events
Services: undo, redo (UndoChange), edit_segments, get_prompts, save_segmentation, save_work, open_work (WorkFile)
Parameters: stale_after and overlay, which can be set while it runs; journal, session, roots, trace

ROS time is for stamps alone: what is stale is told, and the journal retried, on a steady clock.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rclpy.node import Node
from samm_msgs.msg import (
    ClientCycles,
    PicturePrompt,
    Segment,
    SegmentationStatus,
    SliceMask,
    SliceRequest,
    TaskMask,
    VolumeList,
    VolumeSegmentation,
)
from samm_msgs.srv import EditSegments, GetPrompts, SaveSegmentation, UndoChange, WorkFile
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA, Header

from samm_core.cycle.apply import ApplySession
from samm_core.cycle.request import Answer, Request
from samm_core.errors import MaskError, PromptError, SammError, VolumeError
from samm_core.latency.events import Outcome, Task
from samm_core.overlay import draw_overlay
from samm_core.saved_work import SavedWork, load_work
from samm_core.segmentation.journal import Journal
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.picture import MAX_PICTURES
from samm_core.sources.volume import LoadedVolume, Volume, read_volume
from samm_core.sources.window import Window

from .. import conversions, topics
from ..support import parameters, process
from ..support.diagnostics import Diagnostics
from ..support.direct import DirectSubscription, exclusive
from ..support.images import image_to_msg
from ..support.intra_process import ValueSubscription
from ..support.pictures import volume_from_image
from ..support.tracing import TaskTracer
from ..support.watch import Watch

# State is told as soon as it changes, but no sooner than so long after the last time.
STATUS_PERIOD_S = 0.1
JOURNAL_RETRY_S = 1.0
# Volumes whose voxels are kept for the overlay: two clients may take turns.
MAX_BACKGROUNDS = 2
# Whole-volume tasks whose end is told, the newest ones.
ENDED_TASKS = 16


def _telling(method: Callable) -> Callable:
    """A method that runs alone, and after which what it changed is told."""
    alone = exclusive(method)

    @functools.wraps(method)
    def told(self: AplMsk, *arguments: object) -> object:
        try:
            return alone(self, *arguments)
        finally:
            self._reporting.begin()

    return told


class AplMsk(Node):
    """Owns the segmentations. Nothing that was applied is lost when the server, or with a journal this node, dies."""

    def __init__(self) -> None:
        super().__init__("apl_msk")
        self._stale_after = parameters.declare_number(
            self,
            "stale_after",
            0.3,
            "Seconds a prompt waits before what is shown counts as stale.",
            (0.05, 60.0),
            on_set=self._set_stale_after,
        )
        self._draws = parameters.declare(
            self,
            "overlay",
            True,
            "Publish the current slice with its outlines.",
            on_set=functools.partial(setattr, self, "_draws"),
        )
        journal = parameters.declare(
            self, "journal", "", "File that keeps what is applied across a restart; empty: it is not kept."
        )
        # A file of saved work that is opened as soon as its volume is there; empty: none, or it is open.
        self._session_file = parameters.declare(
            self, "session", "", "File of saved work to open at the start; empty: none."
        )
        self._roots = parameters.declare_roots(self, journal, self._session_file)
        self._diagnostics = Diagnostics(self)
        self._lock = threading.RLock()
        # Why there is no journal although one was asked for, one sentence.
        self._no_journal = ""
        self._session = ApplySession(self._open(journal))
        # All that were loaded, by uid: nothing is saved over what they were read from.
        self._volumes: dict[str, LoadedVolume] = {}
        self._newest: ImageId | None = None
        self._ended_tasks: deque[str] = deque(maxlen=ENDED_TASKS)
        # What the overlay is drawn over, by uid; of which volumes there is none; and whether one is being read.
        self._backgrounds: dict[str, Volume] = {}
        self._unreadable: set[str] = set()
        self._reads_background = False
        # The newest pictures that came with prompts, which no file holds.
        self._pictures: deque[Image] = deque(maxlen=MAX_BACKGROUNDS)
        self._reported: SegmentationStatus | None = None
        self._reporting = Watch("status", STATUS_PERIOD_S, self._report)
        self._journaling = Watch("journal", JOURNAL_RETRY_S, self._retry_journal)
        self._tracer = TaskTracer(self, Task.APL_MSK)
        self._status = self.create_publisher(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
        self._overlay = self.create_publisher(Image, topics.OVERLAY, topics.NEWEST)
        self.create_subscription(VolumeList, topics.VOLUMES, self._on_volumes, topics.LATCHED)
        ValueSubscription(
            self,
            SliceRequest,
            topics.SLICE_REQUESTS,
            self._on_request,
            topics.OF_ALL_CLIENTS,
            conversions.request_from_msg,
            lambda message, error: self._diagnostics.problem(str(error)),
        )
        ValueSubscription(
            self,
            SliceMask,
            topics.RECEIVED_MASKS,
            self._on_answer,
            topics.OF_ALL_CLIENTS,
            conversions.answer_from_msg,
            self._on_damaged,
        )
        DirectSubscription(
            self, PicturePrompt, topics.PICTURE_PROMPTS, self._on_picture_prompt, topics.PICTURES
        )
        DirectSubscription(self, TaskMask, topics.TASK_MASKS, self._on_task_mask, topics.TASKS)
        self.create_service(UndoChange, topics.UNDO, self._on_undo)
        self.create_service(UndoChange, topics.REDO, self._on_redo)
        self.create_service(EditSegments, topics.EDIT_SEGMENTS, self._on_edit)
        self.create_service(GetPrompts, topics.GET_PROMPTS, self._on_get_prompts)
        self.create_service(SaveSegmentation, topics.SAVE_SEGMENTATION, self._on_save)
        self.create_service(WorkFile, topics.SAVE_WORK, self._on_save_work)
        self.create_service(WorkFile, topics.OPEN_WORK, self._on_open_work)
        self._diagnostics.failing(self._journal_error())
        self._reporting.begin()

    def destroy_node(self) -> None:
        self._reporting.close()
        self._journaling.close()
        with self._lock:
            self._session.fold_journal()
        super().destroy_node()

    @_telling
    def _set_stale_after(self, seconds: float) -> None:
        self._stale_after = seconds

    def _open(self, path: str) -> Journal | None:
        try:
            journal = Journal(Path(path)) if path else None
        except MaskError as error:
            self._no_journal = str(error)
            return None
        if journal and journal.damage:
            self._diagnostics.problem(journal.damage)
        return journal

    def _journal_error(self) -> str:
        return self._no_journal or self._session.journal_error

    @_telling
    def _retry_journal(self) -> bool:
        """Whether there is something to write yet."""
        self._session.retry_journal()
        return bool(self._session.journal_error)

    @_telling
    def _on_volumes(self, message: VolumeList) -> None:
        """A server that was restarted has none at first; what was applied stays."""
        try:
            volumes = conversions.volumes_from_msg(message)
        except VolumeError as error:
            self._diagnostics.problem(str(error))
            return
        for volume in reversed(volumes):
            self._volumes[volume.uid] = volume
            if misfit := self._session.load(volume.uid, volume.geometry):
                self._diagnostics.problem(misfit)
        self._forget_pictures({volume.uid for volume in volumes})
        if self._session_file:
            self._open_session(volumes, message.error)

    def _open_session(self, volumes: list[LoadedVolume], error: str) -> None:
        """Open the session's work once its volume is there, unless the journal has newer work on it. Else say why not yet.

        error: why the server has no volume.
        """
        path = Path(self._session_file)
        try:
            uid = load_work(path, with_voxels=False).source_uid
            if uid not in self._volumes:
                instead = next((volume for volume in volumes if volume.at_start), None)
                if instead:
                    error = f"{instead.uri} has changed since; put the file back and load it."
                if error:
                    raise MaskError(f"The work of {path} is not open: {error}")
                return
            self._session_file = ""
            if self._session.segmentation(uid).segments():
                raise MaskError(
                    f"The journal has work on the volume of {path}, which stays; open the file by open_work for its own."
                )
            self._restore(load_work(path))
            self.get_logger().info(f"{path} is open")
        except SammError as problem:
            self._session.last_error = str(problem)
            self._diagnostics.problem(str(problem))

    def _restore(self, work: SavedWork) -> None:
        work.restore(self._session.segmentation(work.source_uid))
        self._session.models[work.source_uid] = work.model

    def _forget_pictures(self, loaded: set[str]) -> None:
        """Keep the newest alone of those that the server has let go of: nobody can load them again, and there is no end."""
        gone = [uid for uid, volume in self._volumes.items() if not volume.uri and uid not in loaded]
        for uid in gone[:-MAX_PICTURES]:
            self._session.forget(uid)
            del self._volumes[uid]
            if self._newest and self._newest.source == uid:
                self._newest = None

    @exclusive
    def _on_picture_prompt(self, message: PicturePrompt) -> None:
        self._pictures.append(message.picture)
        self._unreadable -= {uid for uid, volume in self._volumes.items() if not volume.uri}

    def _picture(self, uid: str, window: Window) -> Volume:
        """Raises SammError where it did not come with a prompt, or too long ago."""
        for message in reversed(list(self._pictures)):
            volume = volume_from_image(message)
            if volume.uid == uid:
                return volume.with_window(window)
        raise VolumeError(
            "The picture came without a prompt, or before others; prompt on it by picture_prompts."
        )

    def _read_background(self, volume: LoadedVolume) -> None:
        """Read what the overlay is drawn over, one volume at a time. Not before somebody looks: the first mask comes before."""
        if not self._reads_background and volume.uid not in self._unreadable:
            self._reads_background = True
            threading.Thread(target=self._read_voxels, args=(volume,), daemon=True).start()

    def _read_voxels(self, loaded: LoadedVolume) -> None:
        """The overlay's background. On another host than the server's the file may not be there: it stays black."""
        volume = None
        try:
            if loaded.uri:
                volume = read_volume(self._roots.resolved(loaded.uri), loaded.window)
            else:
                volume = self._picture(loaded.uid, loaded.window)
        except SammError as error:
            self.get_logger().warning(f"The overlay has no background: {error}")
        with self._lock:
            self._reads_background = False
            if volume is None or volume.uid != loaded.uid:
                self._unreadable.add(loaded.uid)
                return
            self._backgrounds[volume.uid] = volume
            if len(self._backgrounds) > MAX_BACKGROUNDS:
                del self._backgrounds[next(iter(self._backgrounds))]
            self._draw(stale=bool(self._reported and self._reported.stale))

    @_telling
    def _on_request(self, request: Request) -> None:
        self._session.requested(request)

    @_telling
    def _on_damaged(self, message: SliceMask, error: SammError) -> None:
        self._session.counts.dropped += 1
        self._diagnostics.count("dropped")
        self._diagnostics.problem(str(error))
        with contextlib.suppress(PromptError):
            self._trace(_damaged(message), time.monotonic_ns(), Outcome.DROPPED)

    @_telling
    def _on_answer(self, answer: Answer) -> None:
        started_ns = time.monotonic_ns()
        ending = self._session.apply(answer)
        self._trace(answer, started_ns, ending.outcome)
        self._diagnostics.count(ending.outcome.name.lower())
        if ending.outcome == Outcome.COMPLETED:
            self._newest = answer.image
            self._draw(stale=False)
            self._diagnostics.solved()
        elif ending.is_problem:
            self._diagnostics.problem(ending.why)

    @_telling
    def _on_task_mask(self, message: TaskMask) -> None:
        """One slice of a whole-volume task, or its end."""
        if message.ended:
            self._ended_tasks.append(message.id)
            return
        started_ns = time.monotonic_ns()
        try:
            answer = conversions.answer_from_msg(message.mask)
        except MaskError as error:
            self._diagnostics.problem(str(error))
            return
        ending = self._session.apply_in_group(answer, message.id)
        self._trace(answer, started_ns, ending.outcome)
        self._diagnostics.count(ending.outcome.name.lower())
        if ending.outcome == Outcome.COMPLETED:
            self._newest = answer.image
            self._draw(stale=False)
        elif ending.is_problem:
            self._diagnostics.problem(ending.why)

    def _trace(self, answer: Answer, started_ns: int, outcome: Outcome) -> None:
        self._tracer.ended(answer, started_ns, time.monotonic_ns(), outcome)

    @_telling
    def _on_undo(self, request: UndoChange.Request, response: UndoChange.Response) -> UndoChange.Response:
        response.success = self._session.undo(request.volume_uid)
        response.message = "" if response.success else "There is nothing to undo."
        self._draw(stale=False)
        return response

    @_telling
    def _on_redo(self, request: UndoChange.Request, response: UndoChange.Response) -> UndoChange.Response:
        response.success = self._session.redo(request.volume_uid)
        response.message = "" if response.success else "There is nothing to redo."
        self._draw(stale=False)
        return response

    @_telling
    def _on_edit(
        self, request: EditSegments.Request, response: EditSegments.Response
    ) -> EditSegments.Response:
        try:
            segmentation = self._session.segmentation(request.volume_uid)
            if segmentation is None:
                raise MaskError("There are no segments to change; load a volume first.")
            conversions.edit_segments(segmentation, request)
            response.success = True
        except SammError as error:
            response.message = str(error)
        self._draw(stale=False)
        return response

    @exclusive
    def _on_get_prompts(
        self, request: GetPrompts.Request, response: GetPrompts.Response
    ) -> GetPrompts.Response:
        try:
            volume, segmentation = self._worked_on(request.volume_uid)
            response.prompts = [
                conversions.slice_prompt_to_msg(name, ImageId(volume.uid, SliceKey(plane, index)), prompt)
                for name, plane, index, prompt in segmentation.prompts(
                    request.segment or segmentation.active or ""
                )
            ]
            response.success = True
        except SammError as error:
            response.message = str(error)
        return response

    def _on_save(
        self, request: SaveSegmentation.Request, response: SaveSegmentation.Response
    ) -> SaveSegmentation.Response:
        try:
            path = self._roots.resolved(request.path)
            with self._lock:
                volume, segmentation = self._worked_on(request.volume_uid)
                uris = [each.uri for each in self._volumes.values() if each.uri]
            # Whoever publishes on `volumes` names these paths. What lies elsewhere is not looked at, and not overwritten.
            inputs = [Path(uri) for uri in uris if self._roots.hold(uri)]
            source = self._roots.resolved(volume.uri) if path.suffix == ".dcm" and volume.uri else None
            # Masks do not wait for the disk.
            write_segmentation(segmentation, path, inputs, source)
            response.success = True
        except SammError as error:
            response.message = str(error)
        return response

    def _on_save_work(self, request: WorkFile.Request, response: WorkFile.Response) -> WorkFile.Response:
        try:
            with self._lock:
                volume, segmentation = self._worked_on(request.volume_uid)
                if not volume.uri:
                    raise MaskError(
                        f"{volume.name} is in no file that could be loaded again; save its segmentation, as .seg.nrrd or"
                        " .mask.png."
                    )
                work = SavedWork.of(volume, segmentation, self._session.models.get(volume.uid, ""))
            # Masks do not wait for the disk.
            work.save(self._roots.resolved(request.path))
            response.success = True
        except SammError as error:
            response.message = str(error)
        return response

    @_telling
    def _on_open_work(self, request: WorkFile.Request, response: WorkFile.Response) -> WorkFile.Response:
        try:
            work = load_work(self._roots.resolved(request.path))
            volume, _ = self._worked_on(request.volume_uid or work.source_uid)
            if work.source_uid != volume.uid:
                raise MaskError(
                    f"{request.path} is work on another volume ({work.source_uid[:8]}, not {volume.uid[:8]}); load"
                    f" {work.source_uri}."
                )
            self._restore(work)
            response.success = True
        except SammError as error:
            response.message = str(error)
        self._draw(stale=False)
        return response

    def _worked_on(self, volume_uid: str) -> tuple[LoadedVolume, Segmentation]:
        """A volume and its segmentation; empty: of the one that was loaded last. Raises MaskError where there is none."""
        uid = volume_uid or next(reversed(self._session.segmentations), "")
        segmentation = self._session.segmentation(uid)
        if segmentation is None:
            raise MaskError("There is nothing to save or open; load the volume first.")
        return self._volumes[uid], segmentation

    @exclusive
    def _report(self) -> bool:
        """Publish what is new. Whether something becomes stale, if nothing else happens."""
        if self._session.journal_error:
            self._journaling.begin()
        self._diagnostics.failing(self._journal_error())
        status, reported = self._status_message(), self._reported
        if reported:
            # But for the time, is there anything new?
            status.header = reported.header
        if status != reported:
            status.header = self._header()
            self._reported = status
            self._status.publish(status)
            if reported and status.stale != reported.stale:
                self._draw(status.stale)
        return self._session.is_awaiting and not status.stale

    def _header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id=topics.FRAME_ID)

    def _status_message(self) -> SegmentationStatus:
        session = self._session
        return SegmentationStatus(
            volumes=[_told(uid, each) for uid, each in reversed(session.segmentations.items())],
            clients=[
                ClientCycles(
                    client_id=client_id,
                    requested=client.requested,
                    settled=client.settled,
                    error=client.error,
                )
                for client_id, client in session.clients().items()
            ],
            stale=session.stale(self._stale_after),
            ended_tasks=list(self._ended_tasks),
            applied=session.counts.applied,
            refused=session.counts.refused,
            dropped=session.counts.dropped,
            last_error=session.last_error,
            journal_error=self._journal_error(),
        )

    def _draw(self, stale: bool) -> None:
        newest = self._newest
        if not self._draws or newest is None or not self._overlay.get_subscription_count():
            return
        segmentation, key = self._session.segmentation(newest.source), newest.key
        labels = segmentation.slice_labels(key.plane, key.index)
        if background := self._backgrounds.get(newest.source):
            image = background.image(key)
        else:
            image = labels[..., None].repeat(3, axis=2) * 0
            self._read_background(self._volumes[newest.source])
        colors = {segment.label: segment.color for segment in segmentation.segments()}
        message = image_to_msg(draw_overlay(image, labels, colors, stale))
        message.header = self._header()
        self._overlay.publish(message)


def _told(volume_uid: str, segmentation: Segmentation) -> VolumeSegmentation:
    message = VolumeSegmentation(
        volume_uid=volume_uid,
        active=segmentation.active or "",
        undo_steps=segmentation.undo_steps,
        redo_steps=segmentation.redo_steps,
    )
    for segment in segmentation.segments():
        red, green, blue = segment.color
        color = ColorRGBA(r=float(red), g=float(green), b=float(blue), a=1.0)
        voxels = segmentation.voxels(segment.name)
        frozen = sorted(segmentation.frozen(segment.name))
        message.segments.append(
            Segment(
                name=segment.name,
                label=segment.label,
                color=color,
                voxels=voxels,
                frozen_planes=array("B", [plane for plane, _ in frozen]),
                frozen_indices=array("i", [index for _, index in frozen]),
            )
        )
    return message


def _damaged(message: SliceMask) -> Answer:
    """Whose answer a damaged message seems to be. Raises PromptError where it names no slice."""
    shape = (message.height, message.width)
    return Answer(
        message.cycle, message.client_id, message.segment, conversions.image_from_msg(message.image), shape
    )


def main() -> None:
    with process.ros():
        process.spin(AplMsk())
