# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A live stream through a running graph: how many masks a second, how late, and what is dropped.

    ./samm bench --live
    ./samm bench --live --minutes 10

Each line is a stream of its own through one graph: a picture that moves, with marked discs in it. With --minutes it is a minute
of one stream, and what the server's memory is at its end.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from rclpy.node import Node
from samm_msgs.msg import ModelInfo, Prompt, Track, Tracks
from samm_msgs.srv import EditTracks
from sensor_msgs.msg import Image

from samm_core.errors import LaunchError
from samm_ros import topics
from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import launch
from samm_ros.support.direct import CountingSubscription
from samm_ros.support.images import image_to_msg
from samm_ros.support.services import response_to

# (rate, columns, rows, objects)
STREAMS = (
    (30, 256, 256, 1),
    (30, 640, 480, 1),
    (30, 640, 480, 3),
    (30, 640, 480, 8),
    (5, 640, 480, 1),
    (15, 640, 480, 1),
    (60, 640, 480, 1),
    (30, 1920, 1080, 1),
)
SECONDS, QUICK_SECONDS = 20.0, 4.0
SETTLE_S = 3.0
# Of the stream that lasts minutes.
LONG = (30, 640, 480, 3)
# Frames of the moving picture, which go to and fro.
PICTURES = 60
DISC_PX, STEP_PX = 24, 1.5


@dataclass
class Heard:
    """What came back in the time that is measured: seconds from an image's stamp to its masks, and within the node."""

    whole: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    last: Tracks | None = None


class Peer:
    """A camera and somebody who listens; a context manager."""

    def __init__(self, namespace: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self.node = Node("peer", namespace=namespace, context=self._context)
        self._images = self.node.create_publisher(Image, topics.IMAGE, topics.NEWEST)
        self._edit = self.node.create_client(EditTracks, topics.EDIT_TRACKS)
        self._changed = threading.Condition()
        self._heard = Heard()
        self._model = ""
        # Of each picture, when it was sent last.
        self._stamps: dict[int, Time] = {}
        self._tracks = CountingSubscription(
            self.node, Tracks, topics.TRACKS, self._on_tracks, topics.OF_A_STREAM
        )
        self.node.create_subscription(ModelInfo, topics.MODEL_INFO, self._on_model, topics.LATCHED)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tracks.destroy()
        self._executor.shutdown(1.0)
        self._thread.join(2.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _on_tracks(self, message: Tracks) -> None:
        now = time.time_ns()
        with self._changed:
            heard = self._heard
            if not message.stale:
                stamp = message.header.stamp
                heard.whole.append((now - stamp.sec * 1_000_000_000 - stamp.nanosec) / 1e9)
                heard.inside.append((message.published_ns - message.received_ns) / 1e9)
                heard.states += [each.state for each in message.tracks]
            heard.last = message
            self._changed.notify_all()

    def _on_model(self, message: ModelInfo) -> None:
        with self._changed:
            self._model = message.name
            self._changed.notify_all()

    def measured(self) -> Heard:
        """What was heard since this was called last."""
        with self._changed:
            heard, self._heard = self._heard, Heard()
        return heard

    def edit(self, request: EditTracks.Request) -> None:
        response = response_to(self._edit, request, 60.0)
        if response is None or not response.success:
            raise LaunchError(f"edit_tracks: {response and response.message}")

    def mark(self, name: str, box: tuple[float, float, float, float], picture: int) -> None:
        """Mark an object by a box, on one of the pictures as it was sent last."""
        with self._changed:
            if not self._changed.wait_for(lambda: picture in self._stamps, 60.0):
                raise LaunchError("The stream does not run.")
            stamp = self._stamps[picture]
        x0, y0, x1, y1 = box
        prompt = Prompt(segment=name, coordinates=Prompt.PIXEL, has_box=True)
        prompt.header.stamp = stamp
        prompt.box_min, prompt.box_max = Point(x=x0, y=y0), Point(x=x1, y=y1)
        self.edit(EditTracks.Request(edit=EditTracks.Request.PROMPT, prompt=prompt))

    def wait_for_the_node(self, timeout_s: float = 60.0) -> None:
        """Until images arrive there."""
        with self._changed:
            self._heard.last = None
            if not self._changed.wait_for(lambda: self._heard.last and self._model, timeout_s):
                raise LaunchError(f"The node track said nothing within {timeout_s:g} s.")
            self._stamps.clear()

    def wait_for_masks(self, count: int, timeout_s: float = 120.0) -> None:
        def there() -> bool:
            last = self._heard.last
            return last is not None and sum(t.state == Track.TRACKING for t in last.tracks) >= count

        with self._changed:
            if not self._changed.wait_for(there, timeout_s):
                raise LaunchError(f"No masks of {count} objects within {timeout_s:g} s: {self._heard.last}")

    def publish(self, pictures: list[Image], rate: float, stop: threading.Event) -> int:
        """Send the pictures again and again at a rate; how many were sent."""
        sent, start = 0, time.monotonic()
        self._stamps.clear()
        while not stop.wait(max(0.0, start + sent / rate - time.monotonic())):
            message = pictures[sent % len(pictures)]
            now = time.time_ns()
            message.header.stamp = Time(sec=now // 1_000_000_000, nanosec=now % 1_000_000_000)
            self._images.publish(message)
            with self._changed:
                self._stamps[sent % len(pictures)] = message.header.stamp
                self._changed.notify_all()
            sent += 1
        return sent


def main(args: argparse.Namespace | None = None) -> int:
    """0. Prints the table."""
    seconds = QUICK_SECONDS if args and args.quick else SECONDS
    minutes = args.minutes if args else None
    namespace = f"stream_{uuid.uuid4().hex[:8]}"
    os.environ.update(environment())
    arguments = {"namespace": namespace, "bridge": "false"}
    print(
        "rate  size        objects   masks/s   whole p50    p99 ms   inside p50    p99 ms   dropped  tracking"
        + ("   server MiB" if minutes else "")
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(arguments, Path(folder)) as supervisor,
        Peer(namespace) as peer,
    ):
        for stream in [LONG] if minutes else STREAMS:
            for line in measure(peer, *stream, 60.0 if minutes else seconds, max(1, round(minutes or 1))):
                resident = psutil.Process(supervisor.processes["samm_server"]).memory_info().rss / 2**20
                print(line + (f"   {resident:10.0f}" if minutes else ""), flush=True)
    return 0


def measure(
    peer: Peer, rate: float, columns: int, rows: int, objects: int, seconds: float, times: int
) -> Iterator[str]:
    """A line of the table, `times` times: of so many seconds of one stream."""
    pictures, boxes = moving_picture(columns, rows, objects)
    messages = [image_to_msg(each) for each in [*pictures, *pictures[-2:0:-1]]]
    stop = threading.Event()
    sent: list[int] = []
    camera = threading.Thread(target=lambda: sent.append(peer.publish(messages, rate, stop)))
    camera.start()
    try:
        peer.wait_for_the_node()
        for i, box in enumerate(boxes):
            peer.mark(f"disc {i + 1}", box, PICTURES // 2)
        peer.wait_for_masks(objects)
        stop.wait(SETTLE_S)
        before = peer.measured().last
        for _ in range(times):
            stop.wait(seconds)
            heard = peer.measured()
            yield line_of(heard, heard.last.dropped - before.dropped, rate, columns, rows, objects, seconds)
            before = heard.last
    finally:
        stop.set()
        camera.join()
    peer.edit(EditTracks.Request(edit=EditTracks.Request.REMOVE))


def line_of(
    heard: Heard, dropped: int, rate: float, columns: int, rows: int, objects: int, seconds: float
) -> str:
    whole, inside = np.array(heard.whole) * 1e3, np.array(heard.inside) * 1e3
    tracking = np.mean(np.array(heard.states) == Track.TRACKING)
    return (
        f"{rate:4g}  {columns:4d}×{rows:<4d}  {objects:7d}   {len(whole) / seconds:7.1f}   {np.median(whole):9.1f} "
        f"{np.percentile(whole, 99):9.1f}   {np.median(inside):10.1f} {np.percentile(inside, 99):9.1f}   "
        f"{dropped:7d}  {tracking:7.0%}"
    )


def moving_picture(
    columns: int, rows: int, discs: int
) -> tuple[list[np.ndarray], list[tuple[float, float, float, float]]]:
    """PICTURES of (rows, columns, 3) uint8 in which the scene moves to the right, and the boxes of the discs half-way."""
    random = np.random.default_rng(1)
    margin = int(PICTURES * STEP_PX) + 1
    scene = cv2.GaussianBlur(random.integers(0, 160, (rows, columns + margin, 3), np.uint8), (0, 0), 3)
    scene = cv2.normalize(scene, None, 0, 120, cv2.NORM_MINMAX)
    radius = min(DISC_PX * columns // 256, rows // 8)
    centres = [
        (columns * (1 + i % 4) / 5 + margin / 2, rows * (1 + i // 4) / (2 + (discs - 1) // 4))
        for i in range(discs)
    ]
    for i, (x, y) in enumerate(centres):
        shade = 180 + 70 * (i % 2)
        cv2.circle(scene, (round(x), round(y)), radius, (shade, shade - 40, shade - 60), -1)
    scene = cv2.GaussianBlur(scene, (0, 0), 1.5)
    starts = [margin - 1 - round(i * STEP_PX) for i in range(PICTURES)]
    pictures = [np.ascontiguousarray(scene[:, x : x + columns]) for x in starts]
    middle = starts[PICTURES // 2]
    return pictures, [(x - middle - radius, y - radius, x - middle + radius, y + radius) for x, y in centres]


if __name__ == "__main__":
    raise SystemExit(main())
