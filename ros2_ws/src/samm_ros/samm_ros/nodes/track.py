# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Follows marked objects through a live stream, beside the encoder that it uses.

In:   image (sensor_msgs/Image), image/compressed (CompressedImage), track_prompts (Prompt)
Out:  tracks (Tracks), label_image, stream_overlay (sensor_msgs/Image), stream_overlay/compressed (CompressedImage),
      task_events; where ROS has vision_msgs, detections (Detection2DArray), label_info (LabelInfo, latched)
Services: edit_tracks
Parameters: region, flip_x, flip_y, deinterlace, image_lower, image_upper, trace; stale_after, which can be set while it runs
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from rclpy.node import Node
from samm_msgs.msg import Prompt, Tracks
from samm_msgs.srv import EditTracks
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from samm_core.embedding.engine import EmbeddingEngine
from samm_core.errors import FrameError, PromptError, SammError
from samm_core.overlay import draw_overlay
from samm_core.segmentation.colors import segment_color
from samm_core.stream.session import Followed, Keyframe, StreamSession

from .. import conversions, topics
from ..support import parameters
from ..support.detections import Detections
from ..support.diagnostics import Diagnostics
from ..support.direct import CountingSubscription, DirectSubscription, exclusive
from ..support.images import array_from_compressed, array_from_image, compressed_to_msg, image_to_msg
from ..support.stream_trace import StreamTrace
from ..support.tracks import image_masks, label_image, picture_of, stream_view, track_to_msg
from ..support.watch import Watch
from ..support.world import stamp_ns

CHECK_PERIOD_S = 0.05


@dataclass(frozen=True, eq=False)
class _Shown:
    """An image that was followed: its header, itself as it came, and the objects' masks on it, (H, W) bool or None."""

    followed: Followed
    header: Header
    image: np.ndarray
    masks: list[np.ndarray | None]


class TrackNode(Node):
    """Images come in on their subscription's thread, which carries the objects to them; keyframes have a thread of their own.

    Nothing queues: an image that comes while another is worked on takes the place of one that waits.
    """

    def __init__(self, engine: EmbeddingEngine) -> None:
        super().__init__("track")
        self._stale_after = parameters.declare_number(
            self,
            "stale_after",
            0.3,
            "Seconds without an image after which what is shown is stale.",
            (0.05, 60.0),
            on_set=functools.partial(setattr, self, "_stale_after"),
        )
        self._lock = threading.RLock()
        self._diagnostics = Diagnostics(self, self._readings)
        self._trace = StreamTrace(self)
        self._session = StreamSession(engine.encode, stream_view(self), self._on_keyframe)
        self._refused = 0
        # Why the newest image, and why the newest prompt, could not be used.
        self._image_error = self._prompt_error = ""
        self._newest: _Shown | None = None
        self._is_stale = False
        self._watch = Watch("track", CHECK_PERIOD_S, self._check)
        self._tracks = self.create_publisher(Tracks, topics.TRACKS, topics.OF_A_STREAM)
        self._detections = Detections(self)
        self._labels = self.create_publisher(Image, topics.LABEL_IMAGE, topics.OF_A_STREAM)
        self._overlay = self.create_publisher(Image, topics.STREAM_OVERLAY, topics.OF_A_STREAM)
        self._compressed = self.create_publisher(
            CompressedImage, topics.COMPRESSED_STREAM_OVERLAY, topics.OF_A_STREAM
        )
        self._images = [
            CountingSubscription(self, kind, topic, self._taker(to_array), topics.NEWEST, overridable=True)
            for kind, topic, to_array in (
                (Image, topics.IMAGE, array_from_image),
                (CompressedImage, topics.COMPRESSED_IMAGE, array_from_compressed),
            )
        ]
        DirectSubscription(self, Prompt, topics.TRACK_PROMPTS, self._on_prompt, topics.OF_ALL_CLIENTS)
        self.create_service(EditTracks, topics.EDIT_TRACKS, self._on_edit)

    def destroy_node(self) -> None:
        self._watch.close()
        self._session.close()
        super().destroy_node()

    def _taker(
        self, to_array: Callable[[Image | CompressedImage], np.ndarray]
    ) -> Callable[[Image | CompressedImage], None]:
        def take(message: Image | CompressedImage) -> None:
            received_ns = time.monotonic_ns()
            with self._lock:
                try:
                    image = to_array(message)
                    followed = self._session.take(image, stamp_ns(message.header), received_ns)
                except FrameError as error:
                    self._refused += 1
                    self._image_error = str(error)
                    self._diagnostics.problem(self._image_error)
                    self._tell(message.header)
                    return
                self._image_error = ""
                masks = image_masks(followed, self._session.view)
                self._newest = _Shown(followed, message.header, image, masks)
                self._is_stale = False
                self._watch.begin()
                self._publish()
            self._diagnostics.count("images")
            self._diagnostics.solved()

        return take

    def _publish(self) -> None:
        """What is followed at the newest image, stamped as that is."""
        shown = self._newest
        labels = label_image(shown.followed.shape, shown.followed.tracked, shown.masks)
        published_ns = self._tell(shown.header)
        picture = image_to_msg(labels)
        picture.header = shown.header
        self._labels.publish(picture)
        if not self._is_stale:
            self._trace.published(shown.followed.frame, published_ns)
        self._draw(shown, labels)

    def _tell(self, header: Header) -> int:
        """Publish the tracks of the newest image; the nanoseconds of CLOCK_MONOTONIC at which they were handed over.

        header: of an image that could not be read, where none was followed before.
        """
        message = Tracks(
            header=header,
            dropped=sum(subscription.missed for subscription in self._images),
            refused=self._refused,
            stale=self._is_stale,
            error=self._image_error or self._prompt_error,
            published_ns=time.monotonic_ns(),
        )
        if shown := self._newest:
            followed = shown.followed
            message.header = shown.header
            message.frame, message.received_ns = followed.frame.number, followed.frame.received_ns
            message.height, message.width = followed.shape
            message.tracks = [track_to_msg(*each) for each in zip(followed.tracked, shown.masks, strict=True)]
        self._tracks.publish(message)
        self._detections.publish(message)
        return message.published_ns

    def _draw(self, shown: _Shown, labels: np.ndarray) -> None:
        wanted = [
            (publisher, to_msg)
            for publisher, to_msg in (
                (self._overlay, image_to_msg),
                (self._compressed, functools.partial(compressed_to_msg, compression="jpeg")),
            )
            if publisher.get_subscription_count()
        ]
        if not wanted:
            return
        colors = {each.label: segment_color(each.label - 1) for each in shown.followed.tracked}
        picture = draw_overlay(picture_of(shown.image, self._session.view), labels, colors, self._is_stale)
        for publisher, to_msg in wanted:
            message = to_msg(picture)
            message.header = shown.header
            publisher.publish(message)

    @exclusive
    def _check(self) -> bool:
        """Say it where no image comes: what is shown is of another time. Whether it is not yet."""
        since_ns = time.monotonic_ns() - self._newest.followed.frame.received_ns
        if since_ns > self._stale_after * 1e9:
            self._is_stale = True
            self._publish_again()
        return not self._is_stale

    def _on_keyframe(self, keyframe: Keyframe) -> None:
        self._trace.keyframe(keyframe)
        with self._lock:
            if self._is_stale:
                # No image comes that would bring its masks along.
                self._publish_again()

    def _publish_again(self) -> None:
        """What is followed at the newest image by now: marks are answered, and objects renamed and removed, without images."""
        shown = self._newest
        followed = replace(shown.followed, tracked=self._session.tracker.tracks())
        # Where an image of another size was refused meanwhile, the masks of the last one stay.
        with contextlib.suppress(FrameError):
            self._newest = replace(shown, followed=followed, masks=image_masks(followed, self._session.view))
        self._publish()

    def _on_prompt(self, message: Prompt) -> None:
        self._prompt(message)

    def _prompt(self, message: Prompt) -> str:
        """Why the prompt was not taken, one sentence; empty: it was."""
        given = conversions.prompt_from_msg(message)
        error = given.error()
        try:
            if not error:
                self._session.prompt(
                    given.segment, given.prompt, stamp_ns(message.header), given.client_id, given.cycle
                )
        except PromptError as refused:
            error = str(refused)
        self._prompt_error = error
        if error:
            self._diagnostics.problem(error)
        return error

    def _on_edit(self, request: EditTracks.Request, response: EditTracks.Response) -> EditTracks.Response:
        try:
            if request.edit == EditTracks.Request.PROMPT:
                response.message = self._prompt(request.prompt)
            elif request.edit == EditTracks.Request.RENAME:
                self._session.tracker.rename(request.name, request.new_name)
            elif request.edit == EditTracks.Request.REMOVE:
                self._session.remove(request.name)
            else:
                response.message = f"There is no edit {request.edit}; give 0 to 2, as EditTracks.srv says."
        except SammError as error:
            response.message = str(error)
        response.success = not response.message
        with self._lock:
            if self._is_stale:
                self._publish_again()
        return response

    def _readings(self) -> dict[str, object]:
        missed, refused = sum(each.missed for each in self._images), self._refused
        return {
            "images dropped": missed,
            "images refused": refused,
            "objects": len(self._session.tracker.names),
        }
