# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Says where a live stream's objects are in the world, and fills volumes from tracked sweeps.

In:   pose (PoseStamped), transform (TransformStamped): of what carries the image, metres; or /tf, where ROS has tf2
      tracks (Tracks), label_image; while a sweep is recorded, image (sensor_msgs/Image), image/compressed (CompressedImage)
Out:  contours (visualization_msgs/MarkerArray), points (PointCloud2): metres, in the frame of the poses
Services: record_sweep
Parameters: image_geometry, world_frame, pose_tolerance, roots
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from samm_msgs.msg import Tracks
from samm_msgs.srv import RecordSweep
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from samm_core.errors import PoseError, SammError, VolumeError
from samm_core.segmentation.colors import segment_color
from samm_core.stream.sweep import Sweep
from samm_core.stream.world import ImageGeometry, PoseBuffer, contours_in_world, points_in_world

from .. import topics
from ..support import parameters, process
from ..support.diagnostics import Diagnostics
from ..support.direct import DirectSubscription
from ..support.images import array_from_compressed, array_from_image
from ..support.tf_poses import TfPoses
from ..support.world import label_cloud, outline_marker, pose_from_msg, stamp_ns

# For a pose or the tracks of an image that is here already.
WAIT_S = 0.05
# Tracks and images that wait for the labels of theirs.
KEPT = 8


@dataclass(frozen=True, eq=False)
class _Placed:
    """An image's labels, (H, W) uint8, what they are, and where: (4, 4), pixels to millimetres of header.frame_id."""

    header: Header
    labels: np.ndarray
    tracks: Tracks
    image_to_world: np.ndarray


class WorldNode(Node):
    """It listens to nothing but poses until one comes."""

    def __init__(self) -> None:
        super().__init__("world")
        geometry = parameters.declare(
            self,
            "image_geometry",
            "",
            "Where pixels are in what carries the image: millimetres a pixel (1 or 2 numbers), or ImageToProbe (16).",
        )
        self._roots = parameters.declare_roots(self)
        self._world_frame = parameters.declare(
            self, "world_frame", "", "The frame that contours and points are in; empty: that of the poses."
        )
        self._tolerance_s = parameters.declare_number(
            self,
            "pose_tolerance",
            0.05,
            "Seconds from an image to the poses around it, at most.",
            (0.0, 10.0),
        )
        self._diagnostics = Diagnostics(self)
        self._geometry = ImageGeometry.parse(geometry) if geometry else None
        self._poses = PoseBuffer()
        self._pose_frame = ""
        self._tf = TfPoses(self) if self._world_frame else None
        self._changed = threading.Condition()
        self._tracks: dict[int, Tracks] = {}
        self._images: dict[int, np.ndarray] = {}
        self._sweep: Sweep | None = None
        self._names: dict[int, str] = {}
        self._is_recording = False
        self._is_listening = False
        self._image_subscriptions: list[DirectSubscription] = []
        # Labels whose outlines RViz has.
        self._drawn: set[int] = set()
        self._contours = self.create_publisher(MarkerArray, topics.CONTOURS, topics.OF_A_STREAM)
        self._points = self.create_publisher(PointCloud2, topics.POINTS, topics.OF_A_STREAM)
        DirectSubscription(self, PoseStamped, topics.POSE, self._on_pose, topics.POSES)
        DirectSubscription(self, TransformStamped, topics.TRANSFORM, self._on_pose, topics.POSES)
        self.create_service(
            RecordSweep,
            topics.RECORD_SWEEP,
            self._on_record,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        if self._tf and self._tf.is_there:
            self._is_listening = True
            self._listen()

    def _on_pose(self, message: PoseStamped | TransformStamped) -> None:
        try:
            self._poses.put(stamp_ns(message.header), pose_from_msg(message))
        except PoseError as error:
            self._diagnostics.problem(str(error))
        with self._changed:
            self._pose_frame = message.header.frame_id
            self._changed.notify_all()
            is_first, self._is_listening = not self._is_listening, True
        if is_first:
            self._listen()

    def _listen(self) -> None:
        if self._geometry is None:
            self._diagnostics.failing("Poses come, but image_geometry says not how large a pixel is; set it.")
            return
        DirectSubscription(self, Tracks, topics.TRACKS, self._on_tracks, topics.OF_A_STREAM)
        DirectSubscription(self, Image, topics.LABEL_IMAGE, self._on_labels, topics.OF_A_STREAM)

    def _on_tracks(self, message: Tracks) -> None:
        self._keep(self._tracks, stamp_ns(message.header), message)

    def _keep(self, kept: dict, stamp: int, value: object) -> None:
        with self._changed:
            kept[stamp] = value
            while len(kept) > KEPT:
                del kept[next(iter(kept))]
            self._changed.notify_all()

    def _on_labels(self, message: Image) -> None:
        stamp = stamp_ns(message.header)
        tracks = self._awaited(lambda: self._tracks.get(stamp))
        if tracks is None or tracks.stale:
            return
        labels = array_from_image(message)
        try:
            placed = self._place(message.header, labels, tracks)
        except PoseError as error:
            self._diagnostics.problem(str(error))
            self._withdraw(message.header)
            return
        self._diagnostics.solved()
        self._publish(placed)
        if self._is_recording:
            self._record(placed, stamp)

    def _awaited(self, get: Callable[[], object]) -> object:
        """What `get` gives as soon as it is there; None after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while (value := get()) is None and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
        return value

    def _place(self, header: Header, labels: np.ndarray, tracks: Tracks) -> _Placed:
        """Raises PoseError where the image has no pose."""
        frame = self._world_frame
        if self._tf and self._tf.is_there:
            pose = self._tf.at(frame, header)
        else:
            stamp = stamp_ns(header)
            self._awaited(lambda: (self._poses.newest_ns or 0) >= stamp or None)
            pose = self._poses.at(stamp, self._tolerance_s)
            if frame and frame != self._pose_frame:
                raise PoseError(
                    f"Poses are in {self._pose_frame!r}, and {frame!r} was asked for; send those, or run with tf2."
                )
            frame = self._pose_frame
        placed = Header(stamp=header.stamp, frame_id=frame)
        return _Placed(placed, labels, tracks, self._geometry.in_world(pose))

    def _publish(self, placed: _Placed) -> None:
        masks = [(track, placed.labels == track.label) for track in placed.tracks.tracks]
        if self._contours.get_subscription_count():
            markers = []
            for track, mask in masks:
                outlines = contours_in_world(mask, placed.image_to_world)
                markers.append(
                    outline_marker(
                        placed.header, track.label, track.name, segment_color(track.label - 1), outlines
                    )
                )
            present = {track.label for track, _ in masks}
            markers += [
                outline_marker(placed.header, label, "", (0, 0, 0), []) for label in self._drawn - present
            ]
            self._drawn = present
            self._contours.publish(MarkerArray(markers=markers))
        if self._points.get_subscription_count():
            points = [(track.label, points_in_world(mask, placed.image_to_world)) for track, mask in masks]
            self._points.publish(label_cloud(placed.header, points))

    def _withdraw(self, header: Header) -> None:
        """An image without a pose has nothing in the world: what is drawn there is of another time."""
        gone = Header(stamp=header.stamp, frame_id=self._world_frame or self._pose_frame)
        if self._drawn:
            markers = [outline_marker(gone, label, "", (0, 0, 0), []) for label in sorted(self._drawn)]
            self._drawn = set()
            self._contours.publish(MarkerArray(markers=markers))
        if self._points.get_subscription_count():
            self._points.publish(label_cloud(gone, []))

    def _record(self, placed: _Placed, stamp: int) -> None:
        image = self._awaited(lambda: self._images.get(stamp))
        with self._changed:
            if image is None or not self._is_recording:
                return
            try:
                self._sweep.add(image, placed.labels, placed.image_to_world)
            except SammError as error:
                self._is_recording = False
                self._diagnostics.problem(str(error))
            self._names.update({track.label: track.name for track in placed.tracks.tracks})

    def _on_image(self, message: Image | CompressedImage) -> None:
        to_array = array_from_image if isinstance(message, Image) else array_from_compressed
        try:
            image = to_array(message)
        except SammError:
            return  # the node track says it
        if image.dtype == np.uint8:
            self._keep(self._images, stamp_ns(message.header), image)

    def _on_record(
        self, request: RecordSweep.Request, response: RecordSweep.Response
    ) -> RecordSweep.Response:
        try:
            if request.command == RecordSweep.Request.START:
                self._start()
            elif request.command == RecordSweep.Request.STOP:
                self._stop()
            elif request.command == RecordSweep.Request.SAVE:
                self._save(self._roots.resolved(request.path), request.spacing_mm)
            else:
                raise VolumeError(
                    f"There is no command {request.command}; give 0 to 2, as RecordSweep.srv says."
                )
            response.success = True
        except SammError as error:
            response.message = str(error)
        response.frames = len(self._sweep) if self._sweep else 0
        return response

    def _start(self) -> None:
        if self._geometry is None:
            raise VolumeError("Frames have no place without the parameter image_geometry; set it.")
        if not self._image_subscriptions:
            self._image_subscriptions = [
                DirectSubscription(self, kind, topic, self._on_image, topics.NEWEST, overridable=True)
                for kind, topic in ((Image, topics.IMAGE), (CompressedImage, topics.COMPRESSED_IMAGE))
            ]
        with self._changed:
            self._sweep, self._names, self._is_recording = Sweep(), {}, True

    def _stop(self) -> None:
        with self._changed:
            self._is_recording = False
            self._images.clear()
        for subscription in self._image_subscriptions:
            subscription.destroy()
        self._image_subscriptions = []

    def _save(self, path: Path, spacing_mm: float) -> None:
        self._stop()
        if self._sweep is None:
            raise VolumeError("No sweep was recorded; start one first.")
        colors = {label: segment_color(label - 1) for label in self._names}
        self._sweep.save(path, self._names, colors, spacing_mm)


def main() -> None:
    with process.ros():
        node = WorldNode()
        with process.spinning_aside(node):
            process.spin()
