# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A camera for tests of live streams: sends pictures at a rate, and knows which one it sent when."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.publisher import Publisher
from sensor_msgs.msg import CompressedImage, Image

from samm_ros.support.images import compressed_to_msg, image_to_msg

SIZE = (192, 256)
RADIUS = 30
PICTURES = 60


def scene_with_a_disc(
    shape: tuple[int, int] = SIZE, count: int = PICTURES, step: float = 1.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`count` pictures (H, W, 3) uint8 of a bright disc that moves over a textured ground, and its masks (H, W) bool.

    It moves along an ellipse, so that the last picture is followed by the first.
    """
    rows, columns = shape
    ground = np.random.default_rng(1).integers(0, 160, (rows, columns), np.uint8)
    ground = cv2.normalize(cv2.GaussianBlur(ground, (0, 0), 3), None, 20, 90, cv2.NORM_MINMAX)
    pictures, masks = [], []
    for i in range(count):
        turn = 2 * np.pi * i / count
        x = columns / 2 + step * count / (2 * np.pi) * np.cos(turn)
        y = rows / 2 + step * count / (4 * np.pi) * np.sin(turn)
        disc = np.zeros((rows, columns), np.float32)
        cv2.circle(disc, (round(16 * x), round(16 * y)), 16 * RADIUS, 1.0, -1, cv2.LINE_AA, shift=4)
        # A cross on it, so that its motion can be seen.
        texture = np.full((rows, columns), 210.0, np.float32)
        cv2.line(texture, (round(x) - 15, round(y)), (round(x) + 15, round(y)), 170.0, 3)
        cv2.line(texture, (round(x), round(y) - 15), (round(x), round(y) + 15), 170.0, 3)
        grey = ground * (1 - disc) + texture * disc
        pictures.append(np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2))
        masks.append(disc > 0.5)
    return pictures, masks


def box_of(mask: np.ndarray, margin: float = 2.0) -> tuple[float, float, float, float]:
    """x min, y min, x max, y max of a mask, pixels."""
    rows, columns = np.nonzero(mask)
    return columns.min() - margin, rows.min() - margin, columns.max() + margin, rows.max() + margin


class Camera:
    """Sends its pictures again and again from a thread; a context manager.

    sent: of each image, its stamp in nanoseconds and the index of its picture.
    """

    def __init__(
        self,
        publisher: Publisher,
        pictures: Sequence[np.ndarray],
        rate: float = 15.0,
        frame_id: str = "camera",
        compression: str = "",
    ) -> None:
        self._publisher, self._rate, self._frame_id = publisher, rate, frame_id
        self._compression = compression
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self.sent: dict[int, int] = {}
        self.count = 0
        self.show(pictures)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def show(self, pictures: Sequence[np.ndarray]) -> None:
        """Go on with other pictures."""
        with self._changed:
            self._messages = [self.message(each) for each in pictures]

    def message(self, picture: np.ndarray) -> Image | CompressedImage:
        """A picture as it is sent, without a stamp."""
        message = (
            compressed_to_msg(picture, self._compression) if self._compression else image_to_msg(picture)
        )
        message.header.frame_id = self._frame_id
        return message

    def stamp_of(self, picture: int, timeout_s: float = 30.0) -> Time:
        """The stamp that a picture was sent with last, once it was."""

        def found() -> int:
            return next((stamp for stamp, sent in reversed(self.sent.items()) if sent == picture), 0)

        with self._changed:
            assert self._changed.wait_for(found, timeout_s), f"picture {picture} was not sent"
            return time_of(found())

    def send(self, message: Image | CompressedImage, stamp_ns: int) -> None:
        message.header.stamp = time_of(stamp_ns)
        self._publisher.publish(message)
        self.count += 1

    def _run(self) -> None:
        start, sent = time.monotonic(), 0
        while not self._stop.wait(max(0.0, start + sent / self._rate - time.monotonic())):
            with self._changed:
                index = sent % len(self._messages)
                stamp_ns = time.time_ns()
                self.send(self._messages[index], stamp_ns)
                self.sent[stamp_ns] = index
                self._changed.notify_all()
            sent += 1


def time_of(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
