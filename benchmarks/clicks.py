# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Simulated clicks of a user on a structure whose mask is known."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# A user aims at the middle and does not hit it: the share of the greatest depth below the border that a click has at least.
MIN_DEPTH = 0.5


@dataclass(frozen=True)
class Click:
    """x, y: pixels, (0, 0) is the centre of the first. positive: whether the mask must hold it."""

    x: float
    y: float
    positive: bool


def first_click(truth: np.ndarray, random: np.random.Generator, part: float = MIN_DEPTH) -> Click:
    """A click in the inner part of the largest piece of a mask, (H, W) bool, that is not empty.

    part: 0 to 1, the least depth of the click below the border as a share of the deepest pixel's; 1 is the middle.
    """
    x, y = _inside(_largest(truth), random, part)
    return Click(x, y, True)


def next_click(
    truth: np.ndarray, answer: np.ndarray, random: np.random.Generator, part: float = MIN_DEPTH
) -> Click | None:
    """A click in the inner part of the largest piece that `answer` lacks or has too much; None where they are equal.

    truth, answer: (H, W) bool. SAM and its predecessors are trained and judged by such clicks (Sofiiuk et al., RITM,
    2021). part: as in first_click.
    """
    lacking, surplus = _largest(truth & ~answer), _largest(answer & ~truth)
    if not lacking.any() and not surplus.any():
        return None
    positive = bool(lacking.sum() >= surplus.sum())
    x, y = _inside(lacking if positive else surplus, random, part)
    return Click(x, y, positive)


def _inside(mask: np.ndarray, random: np.random.Generator, part: float) -> tuple[float, float]:
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= part * depth.max() - 1e-6)
    rows, columns = (each[mask[rows, columns]] for each in (rows, columns))
    chosen = int(random.integers(len(rows)))
    return float(columns[chosen]), float(rows[chosen])


def _largest(mask: np.ndarray) -> np.ndarray:
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return parts == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else mask
