# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where the pixels of a stream are: poses by stamp, pixels to millimetres, and outlines of masks in the world.

Frames are those of PLUS (plus toolkit, "Coordinate systems used by Plus"): Image is in pixels, every other frame in
millimetres; ImageToProbe is the calibration of a tracked probe, and its pose brings the probe to the world. What leaves for
ROS is in metres, as REP 103 asks.
"""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ..errors import MaskError, PoseError

SECOND_NS = 1_000_000_000
MM_PER_M = 1000.0
# Of a rotation's rows and columns: float32 on the wire, and six digits in PLUS' files, are off by less.
_RIGID = 1e-3
# Between the rows and the columns of an image, off the right angle: calibrations are off by less.
_SKEW_DEG = 1.0
# Trackers send up to 1 kHz, for KEEP_S.
_MOST_POSES = 20_000
# A pose that came over an unordered network is late by less; a clock that was set back, or a recording that began again, by
# more.
_LATE_NS = SECOND_NS
_MOST_MM = 1e7


def rigid(pose: ArrayLike) -> np.ndarray:
    """A pose (4, 4) with its rotation's rounding taken out, float64; its translation is as it was.

    Raises PoseError for what is no rotation and translation: another shape, not finite, scaled, sheared or mirrored.
    """
    matrix = np.array(pose, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise PoseError("A pose is not 4×4 and finite; check what sends it.")
    if not np.array_equal(matrix[3], (0, 0, 0, 1)) or np.abs(matrix).max() > _MOST_MM:
        raise PoseError(
            f"A pose ends in {matrix[3].tolist()} and reaches to {np.abs(matrix).max():g} mm; check what sends it."
        )
    rotation = matrix[:3, :3]
    off = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if off > _RIGID:
        raise PoseError(
            f"A pose scales or shears by {off:.2g}, and a tracked thing does neither; give a rotation."
        )
    if np.linalg.det(rotation) < 0:
        raise PoseError("A pose mirrors, and no tracked thing does; check the order of its axes.")
    left, _, right = np.linalg.svd(rotation)
    matrix[:3, :3] = left @ right
    return matrix


def interpolated(earlier: np.ndarray, later: np.ndarray, share: float) -> np.ndarray:
    """The pose (4, 4) between two rigid ones, at `share` of the way: linear in place, along the shortest turn (slerp)."""
    pose = np.eye(4)
    turn, _ = cv2.Rodrigues(earlier[:3, :3].T @ later[:3, :3])
    part, _ = cv2.Rodrigues(turn * share)
    pose[:3, :3] = earlier[:3, :3] @ part
    pose[:3, 3] = (1 - share) * earlier[:3, 3] + share * later[:3, 3]
    return pose


class PoseBuffer:
    """The poses of one tracked thing by their stamps; thread-safe. Those of the newest `keep_s` seconds are kept.

    A pose is (4, 4), the thing's millimetres to those of its parent frame. A clock that jumps back empties the buffer.
    """

    def __init__(self, keep_s: float = 10.0) -> None:
        self._keep_ns = int(keep_s * SECOND_NS)
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        # None: the tracker said that it did not see the thing.
        self._poses: list[np.ndarray | None] = []

    def __len__(self) -> int:
        with self._lock:
            return len(self._stamps)

    @property
    def newest_ns(self) -> int | None:
        """The stamp of the newest pose; None: there is none. An image that is newer may still get its pose."""
        with self._lock:
            return self._stamps[-1] if self._stamps else None

    def clear(self) -> None:
        with self._lock:
            self._stamps.clear()
            self._poses.clear()

    def put(self, stamp_ns: int, pose: ArrayLike, valid: bool = True) -> None:
        """valid: the tracker saw the thing; where it did not, there is no pose around this stamp.

        Raises PoseError for a valid pose that is not rigid; it counts as not valid.
        """
        try:
            checked = rigid(pose) if valid else None
        except PoseError:
            self._put(stamp_ns, None)
            raise
        self._put(stamp_ns, checked)

    def _put(self, stamp_ns: int, pose: np.ndarray | None) -> None:
        with self._lock:
            stamps, poses = self._stamps, self._poses
            if stamps and stamp_ns < stamps[-1] - _LATE_NS:
                stamps.clear()
                poses.clear()
            at = bisect.bisect_left(stamps, stamp_ns)
            if at < len(stamps) and stamps[at] == stamp_ns:
                poses[at] = pose
                return
            stamps.insert(at, stamp_ns)
            poses.insert(at, pose)
            old = bisect.bisect_left(stamps, stamps[-1] - self._keep_ns)
            old = max(old, len(stamps) - _MOST_POSES)
            del stamps[:old], poses[:old]

    def at(self, stamp_ns: int, tolerance_s: float = 0.1) -> np.ndarray:
        """The pose (4, 4) at a stamp: as it came, or between its two neighbours, both within `tolerance_s` of the stamp.

        Raises PoseError where there is none: nothing is carried on beyond the newest pose, before the oldest, over a gap,
        or from a pose that was not valid.
        """
        with self._lock:
            if not self._stamps:
                raise PoseError("No pose has come; check the topic of the poses.")
            at = bisect.bisect_left(self._stamps, stamp_ns)
            if at == len(self._stamps):
                raise PoseError(
                    f"The newest pose is {_ms(stamp_ns - self._stamps[-1])} older than the image; check the clocks."
                )
            if self._stamps[at] == stamp_ns:
                return _seen(self._poses[at]).copy()
            if at == 0:
                raise PoseError(
                    f"The oldest pose is {_ms(self._stamps[0] - stamp_ns)} newer than the image; check the clocks."
                )
            before, after = self._stamps[at - 1], self._stamps[at]
            earlier, later = self._poses[at - 1], self._poses[at]
        if max(stamp_ns - before, after - stamp_ns) > tolerance_s * SECOND_NS:
            raise PoseError(
                f"The poses around the image are {_ms(after - before)} apart; at most {tolerance_s * 1000:g} ms from the "
                "image are taken."
            )
        return interpolated(_seen(earlier), _seen(later), (stamp_ns - before) / (after - before))


def _seen(pose: np.ndarray | None) -> np.ndarray:
    if pose is None:
        raise PoseError("The tracker did not see the probe at the image's time; bring it back into view.")
    return pose


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.0f} ms"


@dataclass(frozen=True, eq=False)
class ImageGeometry:
    """Where pixels of an image are in the frame that is tracked.

    image_to_frame: (4, 4) float64, pixels (x, y, 0, 1) of the image as it came to millimetres; PLUS' ImageToProbe. Its third
    column is a unit step across the image where none was given.

    Raises PoseError unless it is finite, scales both axes of the image, and leaves them at a right angle.
    """

    image_to_frame: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.image_to_frame, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise PoseError("The image's matrix is not 4×4 and finite; give 16 numbers, row by row.")
        if not np.array_equal(matrix[3], (0, 0, 0, 1)):
            raise PoseError(
                f"The image's matrix ends in {matrix[3].tolist()}, not 0 0 0 1; give it row by row."
            )
        sizes = np.linalg.norm(matrix[:3, :2], axis=0)
        if not ((sizes > 1e-6) & (sizes < _MOST_MM)).all():
            raise PoseError(
                f"Pixels of {sizes[0]:g} × {sizes[1]:g} mm have no place; give millimetres a pixel, more than 0."
            )
        cosine = float(matrix[:3, 0] @ matrix[:3, 1] / sizes.prod())
        if abs(cosine) > np.sin(np.radians(_SKEW_DEG)):
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            raise PoseError(
                f"The image's rows and columns meet at {angle:.1f}°, not at a right angle; calibrate it again."
            )
        if not matrix[:3, 2].any():
            across = np.cross(matrix[:3, 0], matrix[:3, 1])
            matrix[:3, 2] = across / np.linalg.norm(across)
        matrix.flags.writeable = False
        object.__setattr__(self, "image_to_frame", matrix)

    @classmethod
    def of_pixel_size(cls, across_mm: float, down_mm: float) -> ImageGeometry:
        """Pixels of this size, in the image's own frame: its first pixel's centre is 0, x to the right, y down."""
        return cls(np.diag([across_mm, down_mm, 1.0, 1.0]))

    @classmethod
    def of_image_to_probe(cls, numbers: Sequence[float]) -> ImageGeometry:
        """16 numbers, row by row, as PLUS writes ImageToProbe."""
        if len(numbers) != 16:
            raise PoseError(f"The image's matrix has {len(numbers)} numbers; give 16, row by row.")
        return cls(np.reshape(np.array(numbers, np.float64), (4, 4)))

    @classmethod
    def parse(cls, text: str) -> ImageGeometry:
        """Of 1 number (square pixels), 2 (across, down; mm) or 16 (ImageToProbe), with commas or blanks between them."""
        words = [word for word in re.split(r"[\s,;]+", text.strip()) if word]
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) == 16:
            return cls.of_image_to_probe(numbers)
        if len(numbers) not in (1, 2):
            raise PoseError(
                f"The image's geometry is {text[:60]!r}; give millimetres a pixel (1 or 2 numbers) or ImageToProbe (16)."
            )
        return cls.of_pixel_size(numbers[0], numbers[-1])

    def in_world(self, frame_to_world: ArrayLike) -> np.ndarray:
        """(4, 4): pixels (x, y, 0, 1) to the world's millimetres, by the pose of the tracked frame. Raises PoseError."""
        return rigid(frame_to_world) @ self.image_to_frame


def contours_in_world(mask: np.ndarray, image_to_world: np.ndarray) -> list[np.ndarray]:
    """The outlines of a mask, those of its holes too: each (N, 3) float64, metres, closed from its last point to its first.

    mask: (rows, columns), anything but 0 is inside. image_to_world: (4, 4), pixels to millimetres. An outline goes through
    the centres of the outermost pixels; one pixel alone is an outline of one point. Empty: the mask is.
    """
    outlines, _ = cv2.findContours(_inside(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [_metres(outline.reshape(-1, 2), image_to_world) for outline in outlines]


def points_in_world(mask: np.ndarray, image_to_world: np.ndarray, step: int = 1) -> np.ndarray:
    """The centres of a mask's pixels: (N, 3) float64, metres, row by row; of every `step`-th row and column alone.

    mask, image_to_world: as contours_in_world takes them.
    """
    rows, columns = np.nonzero(_inside(mask)[::step, ::step])
    return _metres(np.stack([columns, rows], axis=1) * step, image_to_world)


def _inside(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise MaskError(f"A mask has the shape {mask.shape}; give rows × columns.")
    return np.ascontiguousarray(mask != 0).view(np.uint8)


def _metres(points_xy: np.ndarray, image_to_world: np.ndarray) -> np.ndarray:
    matrix = np.asarray(image_to_world, np.float64)
    return (np.asarray(points_xy, np.float64) @ matrix[:3, :2].T + matrix[:3, 3]) / MM_PER_M
