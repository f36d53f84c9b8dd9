# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The frames of a live stream, and the newest of them, that a prompt may still name by their stamps."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

# The longer side of the picture that motion is computed on.
FLOW_SIDE = 256
# A prompt that was made on an older frame cannot be carried to the newest one.
KEPT_NS = 5_000_000_000
NEAR_NS = 100_000_000
KEPT_BYTES = 256 * 1024**2


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a stream, as it is encoded.

    number: counts the images that were taken in, from 1. stamp_ns: the image's own time, as its sender stamped it.
    received_ns: of CLOCK_MONOTONIC. pixels: (H, W), or (H, W, 3) RGB; uint8, contiguous.
    """

    number: int
    stamp_ns: int
    received_ns: int
    pixels: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.shape[:2]

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8, contiguous, as models take it; grey three times over."""
        return self.pixels if self.pixels.ndim == 3 else np.repeat(self.pixels[..., None], 3, axis=2)

    @cached_property
    def small(self) -> np.ndarray:
        """(h, w) uint8 grey, its longer side FLOW_SIDE pixels or fewer: what motion is computed on."""
        grey = self.pixels if self.pixels.ndim == 2 else cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)
        rows, columns = self.shape
        scale = FLOW_SIDE / max(rows, columns)
        if scale >= 1:
            return grey
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


class FrameRing:
    """The newest frames, within a time and a number of bytes. Thread-safe.

    kept_ns: of the frames' own stamps. kept_bytes: of their pixels; the newest frame is kept whatever it takes.
    """

    def __init__(self, kept_ns: int = KEPT_NS, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_ns, self._kept_bytes = kept_ns, kept_bytes
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, frame: Frame) -> None:
        """Keep `frame` as the newest; stamps that went back are another recording, of which nothing earlier is kept."""
        with self._lock:
            if self._frames and frame.stamp_ns < self._frames[-1].stamp_ns:
                self._frames.clear()
                self._bytes = 0
            self._frames.append(frame)
            self._bytes += frame.pixels.nbytes
            oldest_ns = frame.stamp_ns - self._kept_ns
            while len(self._frames) > 1 and (
                self._bytes > self._kept_bytes or self._frames[0].stamp_ns < oldest_ns
            ):
                self._bytes -= self._frames.popleft().pixels.nbytes

    @property
    def newest(self) -> Frame | None:
        with self._lock:
            return self._frames[-1] if self._frames else None

    def at(self, stamp_ns: int) -> Frame | None:
        """The frame with this stamp, the newest of several; 0: the newest of all. None: it is not kept.

        An image that was dropped for a newer one has no frame: the nearest counts, up to NEAR_NS away.
        """
        with self._lock:
            if not self._frames:
                return None
            if not stamp_ns:
                return self._frames[-1]
            nearest = min(reversed(self._frames), key=lambda each: abs(each.stamp_ns - stamp_ns))
            return nearest if abs(nearest.stamp_ns - stamp_ns) <= NEAR_NS else None

    @property
    def frames(self) -> list[Frame]:
        """All that are kept, the oldest first."""
        with self._lock:
            return list(self._frames)

    def clear(self) -> None:
        with self._lock:
            self._frames.clear()
            self._bytes = 0
