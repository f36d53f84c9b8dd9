# SPDX-License-Identifier: Apache-2.0
"""APL_MSK, apply mask: writes a received mask into the segmentation, if it is for what is shown.

In:   received_masks, slice_requests (SliceMask, SliceRequest, newest), volume_info (VolumeInfo, latched)
Out:  segmentation_status (latched), overlay (sensor_msgs/Image, newest), task_events
Services: undo, redo (std_srvs/Trigger), save_segmentation
Parameters: stale_after, overlay, journal, trace
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rclpy.node import Node
from samm_msgs.msg import ClientCycles, Segment, SegmentationStatus, SliceMask, SliceRequest, VolumeInfo
from samm_msgs.srv import SaveSegmentation
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA
from std_srvs.srv import Trigger

from ..cycle import SliceId
from ..errors import MaskError, PromptError, SammError, VolumeError
from ..journal import Journal
from ..masks import write_segmentation
from ..overlay import draw_overlay
from ..session import ApplySession
from ..trace import Task
from ..volume import Volume, read_volume
from . import graph, parameters, process, wire
from .diagnostics import Diagnostics
from .direct import DirectSubscription, exclusive
from .images import image_to_msg
from .tracing import TaskTracer

STATUS_PERIOD_S = 0.1


class AplMsk(Node):
    """Owns the segmentation. Nothing that was applied is lost when the server, or with a journal this node, dies."""

    def __init__(self) -> None:
        super().__init__("apl_msk")
        self._stale_after = parameters.declare_number(
            self,
            "stale_after",
            0.3,
            "Seconds a prompt waits before what is shown counts as stale.",
            (0.05, 60.0),
        )
        self._draws = parameters.declare(
            self, "overlay", True, "Publish the current slice with its outlines."
        )
        journal = parameters.declare(
            self, "journal", "", "File that keeps what is applied across a restart; empty: it is not kept."
        )
        self._diagnostics = Diagnostics(self)
        self._lock = threading.RLock()
        self._session = ApplySession(self._open(journal))
        self._volume: Volume | None = None
        self._newest_slice: SliceId | None = None
        self._reported: SegmentationStatus | None = None
        self._tracer = TaskTracer(self, Task.APL_MSK)
        self._status = self.create_publisher(SegmentationStatus, graph.SEGMENTATION_STATUS, graph.LATCHED)
        self._overlay = self.create_publisher(Image, graph.OVERLAY, graph.NEWEST)
        self.create_subscription(VolumeInfo, graph.VOLUME_INFO, self._on_volume, graph.LATCHED)
        DirectSubscription(self, SliceRequest, graph.SLICE_REQUESTS, self._on_request, graph.NEWEST)
        DirectSubscription(self, SliceMask, graph.RECEIVED_MASKS, self._on_answer, graph.NEWEST)
        self.create_service(Trigger, graph.UNDO, self._on_undo)
        self.create_service(Trigger, graph.REDO, self._on_redo)
        self.create_service(SaveSegmentation, graph.SAVE_SEGMENTATION, self._on_save)
        self.create_timer(STATUS_PERIOD_S, self._report)

    def _open(self, path: str) -> Journal | None:
        try:
            return Journal(Path(path)) if path else None
        except MaskError as error:
            self._diagnostics.problem(str(error))
            return None

    @exclusive
    def _on_volume(self, message: VolumeInfo) -> None:
        try:
            shown = wire.volume_from_msg(message)
        except VolumeError as error:
            self._diagnostics.problem(str(error))
            return
        if shown is None:
            # A server that was restarted; what is shown stays until another volume takes its place.
            return
        self._session.show(shown.uid, shown.geometry)
        if self._draws and (self._volume is None or self._volume.uid != shown.uid):
            threading.Thread(target=self._read_voxels, args=(shown,), daemon=True).start()

    def _read_voxels(self, shown: wire.LoadedVolume) -> None:
        """The overlay's background. On another host than the server's the file may not be there: it stays black."""
        try:
            volume = read_volume(Path(shown.uri), shown.window)
        except SammError as error:
            self.get_logger().warning(f"The overlay has no background: {error}")
            return
        if volume.uid == shown.uid:
            self._volume = volume

    @exclusive
    def _on_request(self, message: SliceRequest) -> None:
        try:
            self._session.requested(wire.request_from_msg(message))
        except PromptError as error:
            self._diagnostics.problem(str(error))

    @exclusive
    def _on_answer(self, message: SliceMask) -> None:
        started_ns = time.monotonic_ns()
        try:
            answer = wire.answer_from_msg(message)
        except MaskError as error:
            self._diagnostics.problem(str(error))
            return
        outcome, why = self._session.apply(answer)
        self._tracer.ended(answer, started_ns, time.monotonic_ns(), outcome)
        self._diagnostics.count(outcome.name.lower())
        if why:
            self._diagnostics.problem(why)
            return
        self._diagnostics.solved()
        self._newest_slice = answer.slice
        self._draw(stale=False)

    @exclusive
    def _on_undo(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._session.undo()
        response.message = "" if response.success else "There is nothing to undo."
        self._draw(stale=False)
        return response

    @exclusive
    def _on_redo(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._session.redo()
        response.message = "" if response.success else "There is nothing to redo."
        self._draw(stale=False)
        return response

    @exclusive
    def _on_save(
        self, request: SaveSegmentation.Request, response: SaveSegmentation.Response
    ) -> SaveSegmentation.Response:
        try:
            if self._session.segmentation is None:
                raise MaskError("There is nothing to save; load a volume and segment something first.")
            write_segmentation(self._session.segmentation, Path(request.path))
            response.success = True
        except SammError as error:
            response.message = str(error)
        return response

    @exclusive
    def _report(self) -> None:
        status = self._status_message()
        if status == self._reported:
            return
        if self._reported and status.stale != self._reported.stale:
            self._draw(status.stale)
        self._reported = status
        self._status.publish(status)

    def _status_message(self) -> SegmentationStatus:
        session, segmentation = self._session, self._session.segmentation
        message = SegmentationStatus(
            volume_uid=session.volume_uid,
            clients=[
                ClientCycles(client_id=client_id, requested=requested, settled=settled)
                for client_id, (requested, settled) in session.cycles().items()
            ],
            stale=session.stale(self._stale_after),
            applied=session.counts.applied,
            refused=session.counts.refused,
            dropped=session.counts.dropped,
            last_error=session.last_error,
        )
        if segmentation:
            message.active = segmentation.active or ""
            message.undo_steps, message.redo_steps = segmentation.undo_steps, segmentation.redo_steps
            for segment in segmentation.segments():
                red, green, blue = segment.color
                color = ColorRGBA(r=float(red), g=float(green), b=float(blue), a=1.0)
                voxels = segmentation.voxels(segment.name)
                message.segments.append(
                    Segment(name=segment.name, label=segment.label, color=color, voxels=voxels)
                )
        return message

    def _draw(self, stale: bool) -> None:
        shown, segmentation = self._newest_slice, self._session.segmentation
        if not self._draws or shown is None or not self._overlay.get_subscription_count():
            return
        if shown.volume_uid != self._session.volume_uid:
            return
        labels = segmentation.slice_labels(shown.plane, shown.index)
        if self._volume and self._volume.uid == shown.volume_uid:
            image = self._volume.slice_image(shown.plane, shown.index)
        else:
            image = labels[..., None].repeat(3, axis=2) * 0
        colors = {segment.label: segment.color for segment in segmentation.segments()}
        message = image_to_msg(draw_overlay(image, labels, colors, stale))
        message.header.stamp = self.get_clock().now().to_msg()
        self._overlay.publish(message)


def main() -> None:
    with process.ros():
        process.spin(AplMsk())
