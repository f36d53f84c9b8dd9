# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Structures in made volumes, and what embeds their slices: for the tests of whole volumes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path

import numpy as np

from samm_core.embedding.engine import EncodedSlice
from samm_core.geometry import Plane
from samm_core.models.base import SegmentationModel
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId
from samm_core.sources.readers.content import Content
from samm_core.sources.volume import Volume, volume_of
from samm_core.sources.window import Window
from samm_core.tasks.propagation import dice
from samm_core.tasks.slices import PlaneSlices

SIDE, COUNT, MIDDLE = 64, 13, 6
# The ball's slices, and its radius.
FIRST, LAST, RADIUS = 2, 10, 14.0


class Embedder:
    """Embeds each slice once, when it is asked for."""

    def __init__(self, volume: Volume, model: SegmentationModel) -> None:
        self.volume, self.model = volume, model
        self.encoded: dict[tuple[Plane, int], EncodedSlice] = {}
        self.asked: list[int] = []

    def __call__(self, image: ImageId) -> Future[EncodedSlice]:
        key = image.key.plane, image.key.index
        self.asked.append(image.key.index)
        if key not in self.encoded:
            (embedding,) = self.model.encode([self.volume.image(image.key)])
            self.encoded[key] = EncodedSlice(embedding, self.model)
        future: Future[EncodedSlice] = Future()
        future.set_result(self.encoded[key])
        return future


def made(voxels: np.ndarray) -> Volume:
    """A volume of voxels, (K, J, I) uint8, that are 2 mm cubes."""
    return volume_of(Content(voxels, np.diag([2.0, 2, 2, 1])), Path("made"), Window(0, 255))


def discs(centres_and_radii: Iterable[Iterable[tuple[float, float, float]]]) -> np.ndarray:
    """(K, SIDE, SIDE) bool: for each slice its discs, x, y and radius."""
    y, x = np.mgrid[:SIDE, :SIDE]
    empty = np.zeros((SIDE, SIDE), bool)
    return np.array(
        [
            np.any([empty, *(np.hypot(x - cx, y - cy) <= r for cx, cy, r in each)], axis=0)
            for each in centres_and_radii
        ]
    )


def pictured(structure: np.ndarray) -> Volume:
    """Bright where the structure is, in a darker body with a bone and air around it, and a little noise.

    A slice of noise alone would be stretched to full contrast by the model's preprocessing.
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    scene = np.where(np.hypot((x - 32) / 31, (y - 32) / 28) < 1, 70, 5)
    scene = np.where(np.hypot(x - 32, y - 55) < 4, 240, scene)
    noise = np.random.default_rng(0).normal(0, 4, structure.shape)
    return made(np.clip(np.where(structure, 170, scene) + noise, 0, 255).astype(np.uint8))


def ball() -> np.ndarray:
    """From slice FIRST to LAST, drifting to the right."""
    radii = [np.sqrt(max(0.0, 1 - ((k - MIDDLE) / 4.6) ** 2)) * RADIUS for k in range(COUNT)]
    return discs(
        [[(26 + k, 32, r)] if FIRST <= k <= LAST else [] for k, r in zip(range(COUNT), radii, strict=True)]
    )


@lru_cache(maxsize=1)
def embedder_of_the_ball(model: SegmentationModel) -> Embedder:
    """Of the ball's volume, the same for all tests: encoding takes the most of their time."""
    return Embedder(pictured(ball()), model)


def box_of(mask: np.ndarray) -> PixelPrompt:
    rows, columns = np.nonzero(mask)
    return PixelPrompt(box_xyxy=[columns.min() - 2, rows.min() - 2, columns.max() + 2, rows.max() + 2])


def slices_of(embedder: Embedder, plane: Plane = Plane.AXIAL) -> PlaneSlices:
    return PlaneSlices(embedder.volume, plane, embedder.model, embedder)


def volume_dice(masks: dict[int, np.ndarray], truth: np.ndarray) -> float:
    whole = np.zeros_like(truth)
    for index, mask in masks.items():
        whole[index] = mask
    return dice(whole, truth)
