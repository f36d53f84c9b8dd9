# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Synthetic slices: random anatomy in random contrast, and random contrast for the anatomy of label maps.

This is domain randomisation, as in SynthSeg (Billot et al., Medical Image Analysis 2023). A network that was trained on
every contrast, resolution and artefact at random treats a real slice as one more of them.
"""

from __future__ import annotations

import cv2
import numpy as np

from .picture import Picture


def random_anatomy(random: np.random.Generator) -> Picture:
    """A picture of a body with organs, some inside others, and its masks; each side is 160 to 288 pixels."""
    rows, columns = (int(random.integers(160, 289)) for _ in range(2))
    labels = np.zeros((rows, columns), np.int32)
    structures: list[np.ndarray] = []

    def add(mask: np.ndarray) -> None:
        structures.append(mask)
        labels[mask] = len(structures)

    centre = (columns * random.uniform(0.45, 0.55), rows * random.uniform(0.45, 0.55))
    if random.random() < 0.85:
        body = blob(
            (rows, columns),
            centre,
            (columns * random.uniform(0.36, 0.49), rows * random.uniform(0.34, 0.48)),
            0.06,
            random,
        )
        add(body)
        inner = cv2.erode(body.astype(np.uint8), _disc(int(random.integers(3, 14)))).astype(bool)
        add(inner)
    else:  # the whole picture is inside the body, as in a close-up or in ultrasound
        inner = np.ones((rows, columns), bool)
    inside = np.argwhere(inner)
    for _ in range(int(random.integers(4, 16))):
        y, x = inside[random.integers(len(inside))]
        # From the size of a vessel to that of a liver.
        size = float(np.exp(random.uniform(np.log(4), np.log(min(rows, columns) * 0.3))))
        axes = (size * random.uniform(0.6, 1.4), size * random.uniform(0.5, 1.2))
        organ = blob((rows, columns), (x, y), axes, random.uniform(0.03, 0.3), random) & inner
        if organ.sum() < 30:
            continue
        # Organs are beside each other more often than inside each other.
        taken = labels > (2 if len(structures) >= 2 else 0)
        if random.random() < 0.8:
            organ = organ & ~taken
        organ = _largest(organ)
        if organ.sum() < 30:
            continue
        add(organ)
        if random.random() < 0.3:  # a cortex, a wall, a lesion
            core = cv2.erode(organ.astype(np.uint8), _disc(int(random.integers(2, 8)))).astype(bool)
            if core.sum() >= 30:
                add(core)
    image = paint(labels, random)
    # A user may mean a whole structure, or only the part of it that no other one covers.
    masks = []
    for number, whole in enumerate(structures, 1):
        visible = labels == number
        masks.append(whole)
        if visible.sum() >= 30 and visible.sum() < 0.9 * whole.sum() and number > 2:
            masks.append(visible)
    return Picture(image, masks, "synthetic anatomy")


def paint(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A label map, (H, W) int32, as a slice, (H, W) uint8, in random contrast and with random artefacts."""
    numbers, places = np.unique(labels, return_inverse=True)
    means = random.uniform(20, 235, len(numbers))
    if random.random() < 0.5:  # close contrasts, as of organs in CT
        means = 110 + (means - 127) * random.uniform(0.25, 0.8)
    if 0 in numbers and random.random() < 0.8:
        means[numbers == 0] = random.uniform(0, 25)
    deviations = random.uniform(0, 12, len(numbers))
    places = places.reshape(labels.shape)
    image = means[places]
    for scale in random.choice([0.0, 1.0, 2.0, 4.0, 9.0], 2, replace=False):
        image = image + deviations[places] * noise(labels.shape, scale, random)
    image = cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.3, 1.6)))
    return degrade(image, random)


def degrade(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(H, W) float or uint8 with a random bias field, noise, speckle and gamma, as (H, W) uint8."""
    image = image.astype(np.float64)
    if random.random() < 0.4:
        image = image * np.exp(random.uniform(0.05, 0.35) * noise(image.shape, max(image.shape) / 4, random))
    if random.random() < 0.15:
        image = image * (1 + random.uniform(0.05, 0.4) * noise(image.shape, random.uniform(0.3, 1.5), random))
    if random.random() < 0.6:
        image = image + random.uniform(1, 12) * random.standard_normal(image.shape)
    image = 255 * (np.clip(image, 0, 255) / 255) ** np.exp(random.uniform(-0.35, 0.35))
    return np.clip(image, 0, 255).astype(np.uint8)


def blob(
    size: tuple[int, int],
    centre: tuple[float, float],
    axes: tuple[float, float],
    roughness: float,
    random: np.random.Generator,
) -> np.ndarray:
    """A turned ellipse whose radius varies smoothly with the angle; (H, W) bool."""
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angles)
    for order in range(2, 8):
        radius += (
            roughness * random.normal() / order**0.7 * np.cos(order * angles + random.uniform(0, 2 * np.pi))
        )
    turn = random.uniform(0, np.pi)
    x, y = axes[0] * radius * np.cos(angles), axes[1] * radius * np.sin(angles)
    points = np.stack(
        [centre[0] + x * np.cos(turn) - y * np.sin(turn), centre[1] + x * np.sin(turn) + y * np.cos(turn)], 1
    )
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask.astype(bool)


def noise(size: tuple[int, int], scale: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise of deviation 1, smooth over `scale` pixels."""
    if scale < 0.5:
        return random.standard_normal(size)
    rows, columns = (max(2, int(side / scale)) for side in size)
    coarse = random.standard_normal((rows, columns))
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _largest(mask: np.ndarray) -> np.ndarray:
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return parts == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else mask


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
