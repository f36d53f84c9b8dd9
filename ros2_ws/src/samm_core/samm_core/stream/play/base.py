# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What all recordings that are played have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...errors import FrameError
from ...sources.readers import SUFFIXES
from ..pixels import MAX_SIDE

MAX_RATE = 1000.0
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURES = tuple(suffix for suffix in SUFFIXES if suffix not in (*VOLUMES, ".dcm"))


@dataclass(frozen=True, eq=False)
class PlayedFrame:
    """One image of a recording.

    stamp_s: seconds since the recording's first image. pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB. pose: (4, 4)
    float64, pixels (x, y, 0, 1) to millimetres in the frame that the player names; None: there is none. status_ok: whether
    the pose was measured, and not only left from earlier.
    """

    stamp_s: float
    pixels: np.ndarray
    pose: np.ndarray | None = None
    status_ok: bool = True


class Player(ABC):
    """A recording, which can be played again and again.

    name: the file's or folder's. kind: what it is, in words. frame_count: None: only playing it tells. rate: images a second,
    on the average. frame_id: of the frame that poses are in; empty: there are no poses. remarks: sentences about how it was
    read.
    """

    name: str
    kind: str
    frame_count: int | None = None
    rate: float
    frame_id: str = ""
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[PlayedFrame]:
        """The images from number `start` on, their stamps rising. Raises FrameError or VolumeError where it is damaged."""


def played(
    player: Player, rate: float | None = None, loop: bool = False, start: int = 0
) -> Iterator[PlayedFrame]:
    """A recording's images as a stream, whose stamps begin with 0 and rise, also from one round to the next.

    rate: images a second; None: as recorded. loop: begin again after the last one, for ever. start: number of the first, in
    each round. Raises FrameError for what is not possible.
    """
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise FrameError(
            f"{rate:g} images a second are not possible; give more than 0 and up to {MAX_RATE:g}."
        )
    if start < 0 or (player.frame_count is not None and start >= player.frame_count):
        raise FrameError(
            f"There is no image {start} in {player.name}; it has images 0 to {(player.frame_count or 1) - 1}."
        )
    count, begins_s = 0, 0.0
    while True:
        first_s, before = None, count
        for frame in player.frames(start):
            first_s = frame.stamp_s if first_s is None else first_s
            stamp_s = begins_s + frame.stamp_s - first_s if rate is None else count / rate
            yield replace(frame, stamp_s=stamp_s)
            count += 1
        if count == before:
            raise FrameError(f"{player.name} has no image from number {start} on; give another start.")
        if not loop:
            return
        begins_s = stamp_s + 1 / player.rate


def require_sides(name: str, width: int, height: int) -> None:
    """Raises FrameError for images that are empty or too large to be held."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise FrameError(
            f"{name} has images of {width} x {height} pixels; 1 to {MAX_SIDE} a side are played."
        )


def usable_rate(rate: object, default: float) -> float:
    """A rate that a file claims, or `default` where it makes no sense."""
    try:
        number = float(rate)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) and 0 < number <= MAX_RATE else default


def as_pixels(array: np.ndarray, name: str) -> np.ndarray:
    """An image of any whole numbers as PlayedFrame's; signed ones are raised by half their range. Raises FrameError."""
    if array.ndim == 3 or array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype.kind == "i":
        return (np.clip(array, -(1 << 15), (1 << 15) - 1).astype(np.int32) + (1 << 15)).astype(np.uint16)
    raise FrameError(f"{name} has pixels of the type {array.dtype}; give whole numbers of 8 or 16 bits.")
