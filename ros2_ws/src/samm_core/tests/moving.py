# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Made streams: a disc with a texture of its own that moves over another texture. For the tests of what follows it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from samm_core.prompts import PixelPrompt
from samm_core.stream.frames import Frame
from samm_core.stream.tracker import Found, KeyframeJob, Target, Tracked, Tracker, TrackerSettings
from samm_core.tasks.propagation import dice

SIDE, RADIUS = 240, 36
RATE_HZ = 30


@lru_cache
def texture(seed: int, low: int, high: int, side: int = 3 * SIDE) -> np.ndarray:
    """(side, side) uint8, smooth enough for flow."""
    noise = np.random.default_rng(seed).normal(0, 1, (side, side)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, low, high, cv2.NORM_MINMAX).astype(
        np.uint8
    )


def disc(x: float, y: float, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """(H, W) bool."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y) < RADIUS


def scene(x: float, y: float, shape: tuple[int, int] = (SIDE, SIDE), gain: float = 1.0) -> np.ndarray:
    """(H, W) uint8: the disc with its middle at x, y; the ground lies still."""
    rows, columns = shape
    picture = texture(0, 0, 110)[:rows, :columns].astype(np.float32)
    moved = cv2.warpAffine(
        texture(1, 120, 230), np.float32([[1, 0, x - SIDE], [0, 1, y - SIDE]]), (columns, rows)
    )
    inside = cv2.GaussianBlur(disc(x, y, shape).astype(np.float32), (0, 0), 1)
    return (np.clip((picture * (1 - inside) + moved * inside) * gain, 0, 255)).astype(np.uint8)


class Film:
    """A tracker and the frames that it was given. The model is the truth: where the disc is, keyframes see it."""

    def __init__(self) -> None:
        # A keyframe whenever one may be: how often they come is a test of its own.
        self.tracker = Tracker(TrackerSettings(keyframe_s=0))
        self.frames: list[Frame] = []
        self.truth: dict[int, np.ndarray] = {}

    def show(self, x: float, y: float, gain: float = 1.0, pixels: np.ndarray | None = None) -> list[Tracked]:
        """The next frame, with the disc at x, y; or with other pixels, and without it."""
        number = len(self.frames) + 1
        shown = scene(x, y, gain=gain) if pixels is None else pixels
        frame = Frame(number, number * 1_000_000_000 // RATE_HZ, 0, shown)
        self.frames.append(frame)
        self.truth[number] = disc(x, y) if pixels is None else np.zeros(shown.shape[:2], bool)
        return self.tracker.step(frame)

    def mark(self, name: str = "disc", frame: Frame | None = None, cycle: int = 1) -> Frame:
        """A box around the disc on a frame, the newest if none is given."""
        frame = frame or self.frames[-1]
        self.tracker.prompt(name, self.box(frame), frame, "client", cycle)
        return frame

    def box(self, frame: Frame) -> PixelPrompt:
        rows, columns = np.nonzero(self.truth[frame.number])
        return PixelPrompt(box_xyxy=[columns.min() - 2, rows.min() - 2, columns.max() + 2, rows.max() + 2])

    def answer(self, job: KeyframeJob) -> list[Target]:
        """What the truth says of a job's targets."""
        targets = self.tracker.targets(job)
        truth = self.truth[job.frame.number]
        found = [
            Found(each, truth, 0.9, 1.0 if each.expected is None else dice(truth, each.expected))
            for each in targets
        ]
        self.tracker.answer(job, found)
        return targets

    def keyframe(self) -> list[Target]:
        job = self.tracker.job()
        assert job is not None
        return self.answer(job)

    def dice(self, tracked: Tracked) -> float:
        """Of what is drawn on the newest frame."""
        return dice(tracked.mask, self.truth[len(self.frames)])
