# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Motion between the frames of a stream, by dense optical flow (Kroeger et al., Dense Inverse Search, 2016).

Flow goes back: it says of each pixel of the newer frame where that pixel was on the older one, so that a mask of the older
frame is brought forward by one look-up, which does not blur. It is computed between the two frames themselves, from the
flow of the frame before as a start. Flows of single steps that are added up drift: Dice after 0.6 s is 0.93 with them, and
0.96 so.

All pictures here are Frame.small, (h, w) uint8; all flow is (h, w, 2) float32 in their pixels, relative.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from .frames import KEPT_NS, Frame

# Where flow is computed later than its frames came, only each second of them is looked at, or fewer: at most so many.
_STRIDE, _MOST_STEPS = 2, 24
# DIS reads beyond pictures that are thinner; they are padded to it.
_LEAST_SIDE = 64
# Of pairs of pixels for a similarity, and how far one may lie from it, in pixels.
_PAIRS, _LEAST_PAIRS, _INLIER_PX = 400, 8, 2.0
# What is compared of an object: itself and so many pixels around it, without the finest noise.
_AROUND_PX, _BLUR_PX = 6, 1.2


@dataclass(frozen=True, eq=False)
class Shown:
    """One frame as motion is computed on it."""

    number: int
    stamp_ns: int
    small: np.ndarray

    @cached_property
    def smooth(self) -> np.ndarray:
        """(h, w) float32, without the finest noise: what looks are compared on."""
        return cv2.GaussianBlur(self.small.astype(np.float32), (0, 0), _BLUR_PX)


@dataclass
class Motion:
    """The motion between the newest frames of one stream, all of one size. Not thread-safe.

    kept_ns: how long frames are kept, by their own stamps. held: the number of a frame that is kept longer, with all that
    came after it; None: none is.
    """

    kept_ns: int = KEPT_NS
    held: int | None = None
    _frames: OrderedDict[int, Shown] = field(default_factory=OrderedDict)
    # By number, the frames that flow is kept up to, and the flow from the newest frame.
    _followed: dict[int, Shown] = field(default_factory=dict)
    _flows: dict[int, Passage] = field(default_factory=dict)

    def put(self, frame: Frame) -> None:
        """Take the newest frame; its number is higher than all before, and its size theirs."""
        shown = Shown(frame.number, frame.stamp_ns, frame.small)
        self._frames[frame.number] = shown
        for number, base in self._followed.items():
            back = flow(shown.small, base.small, self._flows[number].back)
            self._flows[number] = Passage(base, shown, back)
        while (oldest := next(iter(self._frames.values()))).stamp_ns < frame.stamp_ns - self.kept_ns:
            if self.held is not None and oldest.number >= self.held:
                break
            del self._frames[oldest.number]

    @property
    def newest(self) -> Shown | None:
        return next(reversed(self._frames.values()), None)

    def shown(self, number: int) -> Shown | None:
        """The frame of this number, while it is kept."""
        return self._followed.get(number) or self._frames.get(number)

    def after(self, number: int) -> list[Shown]:
        """The frames that came after the one of this number, the oldest first."""
        return [each for each in self._frames.values() if each.number > number]

    def follow(self, numbers: set[int]) -> None:
        """Keep up the flow to these frames, for as long as they are followed, and to no others."""
        for number in set(self._followed) - numbers:
            del self._followed[number], self._flows[number]
        for number in numbers - set(self._followed):
            if passage := self.passage(number):
                self.take_up(passage)

    def take_up(self, passage: Passage) -> None:
        """Follow a frame that need not be kept any more; passage: from it to the newest frame."""
        self._followed[passage.older.number], self._flows[passage.older.number] = passage.older, passage

    def passages(self) -> dict[int, Passage]:
        """By the number of each frame that is followed, the passage from it to the newest frame."""
        return dict(self._flows)

    def passage(self, older: int, newer: int | None = None) -> Passage | None:
        """From the frame `older` to the frame `newer`; None: the newest.

        None where one of them is not kept, or `older` is the newer one.
        """
        newest = self.newest
        if newest is None:
            return None
        newer = newest.number if newer is None else newer
        if newer == newest.number and older in self._flows:
            return self._flows[older]
        base, last = self.shown(older), self.shown(newer)
        if base is None or last is None or older > newer:
            return None
        back = through([each for each in self.after(older) if each.number <= newer], base)
        return Passage(base, last, back)

    def clear(self) -> None:
        self._frames.clear()
        self.held = None
        self._followed.clear()
        self._flows.clear()


def through(later: Sequence[Shown], base: Shown, start: np.ndarray | None = None) -> np.ndarray:
    """The flow from the last of several frames, the oldest first, to one before them all.

    start: the flow from the frame before them, where that is not `base` itself.
    """
    total = still(base.small) if start is None else start
    stride = max(_STRIDE, -(-len(later) // _MOST_STEPS))
    # Counted from the end, so that the last one is among them.
    for shown in later[::-1][::stride][::-1]:
        total = flow(shown.small, base.small, total)
    return total


_local = threading.local()


def flow(newer: np.ndarray, older: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where each pixel of `newer` was on `older`; start: about where."""
    rows, columns = newer.shape
    below, right = max(0, _LEAST_SIDE - rows), max(0, _LEAST_SIDE - columns)
    pictures = (newer, older, start.copy())
    if below or right:
        pictures = tuple(
            cv2.copyMakeBorder(each, 0, below, 0, right, cv2.BORDER_REPLICATE) for each in pictures
        )
    shape = pictures[0].shape
    if getattr(_local, "shape", None) != shape:
        # It keeps its buffers: one for each thread, and a new one for pictures of another size.
        _local.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        _local.shape = shape
    return np.ascontiguousarray(_local.dis.calc(*pictures)[:rows, :columns])


def still(picture: np.ndarray) -> np.ndarray:
    """The flow where nothing moves."""
    return np.zeros((*picture.shape[:2], 2), np.float32)


@dataclass(frozen=True, eq=False)
class Passage:
    """From one frame to a later one, by the flow back. What all objects share is computed once."""

    older: Shown
    newer: Shown
    back: np.ndarray

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = _identity(*self.back.shape[:2])
        # Fixed point: to 1/32 of a pixel, and twice as fast.
        return cv2.convertMaps(x + self.back[..., 0], y + self.back[..., 1], cv2.CV_16SC2)

    @cached_property
    def _before(self) -> np.ndarray:
        """What the older frame showed, as it lies on the newer one, (h, w) float32."""
        return self.brought(self.older.smooth)

    def brought(self, picture: np.ndarray) -> np.ndarray:
        """A picture of the older frame, (h, w) uint8 or float32, as it lies on the newer one; 0 where it was out of view."""
        return cv2.remap(picture, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    def likeness(self, soft: np.ndarray) -> float:
        """How alike an object looks on both frames, −1 to 1: their correlation in and around its mask.

        soft: the mask as it lies on the newer frame, (h, w) uint8. Brightness and contrast make no difference.
        """
        x, y, width, height = cv2.boundingRect((soft > 127).astype(np.uint8))
        if not width:
            return -1.0
        x0, y0 = max(x - _AROUND_PX, 0), max(y - _AROUND_PX, 0)
        window = slice(y0, y + height + _AROUND_PX), slice(x0, x + width + _AROUND_PX)
        near = cv2.dilate(soft[window], _DISC) > 127
        before, now = self._before[window][near], self.newer.smooth[window][near]
        before, now = before - before.mean(), now - now.mean()
        return float(before @ now) / max(float(np.sqrt((before @ before) * (now @ now))), 1e-6)


_DISC = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _AROUND_PX + 1, 2 * _AROUND_PX + 1))


def sought(older: Shown, soft: np.ndarray, newer: Shown) -> Passage | None:
    """From a frame long ago, on which an object's mask is `soft`, (h, w) uint8, to where it looks most alike now.

    None for frames of two sizes, and for an empty mask. Whether it is there at all, likeness tells.
    """
    x, y, width, height = cv2.boundingRect((soft > 127).astype(np.uint8))
    if older.small.shape != newer.small.shape or not width:
        return None
    x0, y0 = max(x - _AROUND_PX, 0), max(y - _AROUND_PX, 0)
    patch = older.smooth[y0 : y + height + _AROUND_PX, x0 : x + width + _AROUND_PX]
    # A third of it may lie out of view.
    beyond_y, beyond_x = patch.shape[0] // 3, patch.shape[1] // 3
    picture = cv2.copyMakeBorder(newer.smooth, beyond_y, beyond_y, beyond_x, beyond_x, cv2.BORDER_REPLICATE)
    _, _, _, (px, py) = cv2.minMaxLoc(cv2.matchTemplate(picture, patch, cv2.TM_CCOEFF_NORMED))
    start = still(newer.small)
    start[..., 0], start[..., 1] = x0 - (px - beyond_x), y0 - (py - beyond_y)
    return Passage(older, newer, flow(newer.small, older.small, start))


_identities: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}


def _identity(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    if (rows, columns) not in _identities:
        if len(_identities) > 8:
            _identities.clear()
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        _identities[rows, columns] = x, y
        return x, y
    return _identities[rows, columns]


def _looked_up(picture: np.ndarray, back: np.ndarray) -> np.ndarray:
    x, y = _identity(*picture.shape[:2])
    return cv2.remap(picture, x + back[..., 0], y + back[..., 1], cv2.INTER_NEAREST)


def similarity(back: np.ndarray, where: np.ndarray, older: bool = True) -> np.ndarray | None:
    """The turn, zoom and shift that takes a region from the older frame to the newer one, by RANSAC: (2, 3) float64.

    where: (h, w) bool, the region; on the older frame, or (older=False) on the newer one. None: it is too small.
    """
    chosen = _looked_up(where.astype(np.uint8), back) > 0 if older else where
    places = np.flatnonzero(chosen)
    if len(places) < _LEAST_PAIRS:
        return None
    places = places[:: max(1, len(places) // _PAIRS)]
    newer = np.stack(_identity(*where.shape), axis=-1)
    # RANSAC draws at random; the same pairs have to give the same answer.
    cv2.setRNGSeed(0)
    matrix, _ = cv2.estimateAffinePartial2D(
        (newer + back).reshape(-1, 2)[places],
        newer.reshape(-1, 2)[places],
        ransacReprojThreshold=_INLIER_PX,
    )
    return matrix
