# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The live stream that the graph follows: each image with its labels and its objects, while somebody wants it.

In:   image (sensor_msgs/Image), image/compressed (CompressedImage), label_image (sensor_msgs/Image), tracks (Tracks)
Uses: edit_tracks
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from samm_msgs.msg import Track, Tracks
from samm_msgs.srv import EditTracks
from sensor_msgs.msg import CompressedImage, Image

from samm_core.cycle.request import ClientPrompt
from samm_core.errors import FrameError
from samm_core.stream.view import StreamView
from samm_ros import conversions, topics
from samm_ros.support.direct import DirectSubscription
from samm_ros.support.images import array_from_compressed, array_from_image

from .graph_actions import Done, Post, StreamImage, StreamTrack
from .service_calls import ServiceCalls

# Images whose labels may still come: as many as the graph may be late by.
KEPT_IMAGES = 16
# The graph says itself that no image comes. Where it says nothing for so long, it is gone.
SILENT_S = 1.0
SILENT = "The graph says nothing of the stream any more; see its logs."
_STATES = {
    Track.PROMPTED: "prompted",
    Track.TRACKING: "tracking",
    Track.UNCERTAIN: "uncertain",
    Track.LOST: "lost",
}


@dataclass(eq=False)
class _Parts:
    """What has come with one stamp.

    number: of `tracks`, in the order of their coming. told: the tracks that were told.
    """

    image: Image | CompressedImage | None = None
    labels: Image | None = None
    tracks: Tracks | None = None
    number: int = 0
    told: Tracks | None = None


class LiveStream:
    """Listens to nothing while nobody watches. watch(), tick() and the edits are called on the doors' thread.

    Each subscription has a thread of its own, which puts together what came with one stamp and posts it when it is
    complete. `_lock` guards what these threads share, and is held for that alone.
    """

    def __init__(self, node: Node, post: Post, calls: ServiceCalls) -> None:
        self._node, self._post, self._calls = node, post, calls
        self._edit = node.create_client(EditTracks, topics.EDIT_TRACKS)
        self._lock = threading.Lock()
        self._subscriptions: list[DirectSubscription] = []
        self._on_image: Callable[[StreamImage], None] | None = None
        # The newest that was told, and when: time.monotonic().
        self._newest: StreamImage | None = None
        self._heard_at = 0.0
        self._begin()

    def watch(self, on_image: Callable[[StreamImage], None] | None) -> None:
        """Call `on_image` on the doors' thread with each image from now on; None: listen to nothing any more."""
        self._on_image = on_image
        if on_image is None:
            for subscription in self._subscriptions:
                subscription.destroy()
            self._subscriptions = []
            self._begin()
        elif not self._subscriptions:
            of_a_stream = topics.OF_A_STREAM
            self._subscriptions = [
                self._hear(Image, topics.IMAGE, topics.NEWEST, "image"),
                self._hear(CompressedImage, topics.COMPRESSED_IMAGE, topics.NEWEST, "image"),
                self._hear(Image, topics.LABEL_IMAGE, of_a_stream, "labels"),
                self._hear(Tracks, topics.TRACKS, of_a_stream, "tracks"),
            ]

    def tick(self) -> None:
        """Say it where the graph is gone; call some times a second."""
        newest = self._newest
        if newest and not newest.stale and time.monotonic() - self._heard_at > SILENT_S:
            self._tell(replace(newest, stale=True, error=SILENT))

    def prompt(self, prompt: ClientPrompt, stamp_ns: int, done: Done[str]) -> None:
        message = conversions.prompt_to_msg(prompt)
        message.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        request = EditTracks.Request(edit=EditTracks.Request.PROMPT, prompt=message)
        self._calls.call(self._edit, request, lambda r: f"{prompt.segment} is marked.", done)

    def rename(self, name: str, new_name: str, done: Done[str]) -> None:
        request = EditTracks.Request(edit=EditTracks.Request.RENAME, name=name, new_name=new_name)
        self._calls.call(self._edit, request, lambda r: f"{name} is {new_name} now.", done)

    def remove(self, name: str, done: Done[str]) -> None:
        request = EditTracks.Request(edit=EditTracks.Request.REMOVE, name=name)
        text = f"{name} is followed no longer." if name else "Nothing is followed any more."
        self._calls.call(self._edit, request, lambda r: text, done)

    def _begin(self) -> None:
        self._parts: OrderedDict[int, _Parts] = OrderedDict()
        self._count = self._told = 0
        self._newest = None
        # Of 16 bits it chooses a window, and keeps to it. The doors' worker alone uses it.
        self._view = StreamView()

    def _hear(self, kind: type, topic: str, qos: object, part: str) -> DirectSubscription:
        return DirectSubscription(self._node, kind, topic, lambda message: self._heard(part, message), qos)

    def _heard(self, part: str, message: Image | CompressedImage | Tracks) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        with self._lock:
            parts = self._parts.setdefault(stamp_ns, _Parts())
            self._parts.move_to_end(stamp_ns)
            setattr(parts, part, message)
            if part == "tracks":
                self._count += 1
                parts.number = self._count
            if len(self._parts) > KEPT_IMAGES:
                self._parts.popitem(last=False)
            is_whole = None not in (parts.image, parts.labels, parts.tracks)
            # One that was late is not told after a newer one, and none is told twice.
            if is_whole and parts.tracks is not parts.told and parts.number > self._told:
                parts.told, self._told = parts.tracks, parts.number
                image = _stream_image(stamp_ns, parts, self._view)
                self._post(lambda: self._tell(image))

    def _tell(self, image: StreamImage) -> None:
        if self._on_image is None:
            return
        self._newest, self._heard_at = image, time.monotonic()
        self._on_image(image)


def _stream_image(stamp_ns: int, parts: _Parts, view: StreamView) -> StreamImage:
    image, labels, tracks = parts.image, parts.labels, parts.tracks
    return StreamImage(
        number=int(tracks.frame),
        stamp_ns=stamp_ns,
        tracks=tuple(map(_track, tracks.tracks)),
        stale=tracks.stale,
        error=tracks.error,
        decode=lambda: _decoded(image, labels, view),
    )


def _track(message: Track) -> StreamTrack:
    # Of a state that a newer graph may have, no more is known than that it is not to be trusted.
    state = _STATES.get(message.state, "uncertain")
    return StreamTrack(
        message.name,
        int(message.label),
        state,
        message.cause,
        float(message.age),
        float(message.score),
        int(message.area),
        message.error,
    )


def _decoded(
    image: Image | CompressedImage, labels: Image, view: StreamView
) -> tuple[np.ndarray, np.ndarray]:
    """As StreamImage.decode has it."""
    to_array = array_from_image if isinstance(image, Image) else array_from_compressed
    pixels, label_pixels = view.prepare(to_array(image)), array_from_image(labels)
    if label_pixels.shape != pixels.shape[:2] or label_pixels.dtype != np.uint8:
        raise FrameError(
            f"The label image is {label_pixels.shape} {label_pixels.dtype}, but the image is {pixels.shape[:2]}; "
            "it has to be mono8 of the image's size."
        )
    return pixels, label_pixels
