# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Training slices from a folder of sources: volumes and pictures, most with labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import nibabel
import numpy as np

from .anatomy import degrade, noise, paint
from .picture import Picture

# Centre and width in Hounsfield units, and the weight in the random choice: abdomen, liver, wide, lung, bone, brain.
CT_WINDOWS = ((40, 400, 6), (60, 200, 2), (50, 700, 2), (-500, 1500, 1), (400, 1800, 1), (40, 100, 1))
# Of an object on a slice: with fewer there is nothing to click on.
MIN_PIXELS = 30
_MAX_SIDE = 512


@dataclass(frozen=True)
class Case:
    """One volume or picture of a source, and its labels where there are any.

    held_out: whether it is never trained on. weight: of its source in the random choice of a source.
    teacher: the share of its slices that get masks of boxes beside their labels.
    """

    source: str
    modality: str
    image: Path
    labels: tuple[Path, ...]
    held_out: bool
    weight: float
    teacher: float


def find_cases(folder: Path) -> list[Case]:
    """The cases of all sources in a folder, each with its SOURCE.json, in the order of their names.

    Of a source with three cases or more, every fifth is held out, and at least one.
    """
    cases = []
    for about in sorted(folder.glob("*/SOURCE.json")):
        source = json.loads(about.read_text())
        images = sorted([*about.parent.glob("*_image.nii.gz"), *about.parent.glob("*_image.png")])
        for number, image in enumerate(images):
            stem = image.name.split("_image")[0]
            suffix = image.name.split("_image")[1]
            labels = tuple(sorted(about.parent.glob(f"{stem}_label*{suffix}")))
            held_out = len(images) >= 3 and number % 5 == 2
            weight, teacher = (
                float(source.get(key, default)) for key, default in (("weight", 1), ("teacher", 0.25))
            )
            cases.append(
                Case(about.parent.name, source["modality"], image, labels, held_out, weight, teacher)
            )
    return cases


def random_slice(case: Case, random: np.random.Generator) -> Picture | None:
    """A random slice of a case, randomly cropped, turned, resampled and windowed; None where the slice is of no use."""
    if case.image.suffix == ".png":
        image, labels = _picture(case)
    else:
        taken = _take_slice(case, random)
        if taken is None:
            return None
        image, labels = taken
    image, labels = _place(image, labels, random)
    masks = [mask for each in labels for mask in objects_of(each, random)]
    if labels and labels[0].any() and image.ndim == 2 and random.random() < 0.15:
        return Picture(paint(labels[0], random), masks, f"{case.source}, painted")
    image = _contrast(image, random)
    return Picture(image, masks, case.source)


def objects_of(labels: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """What a user may click on in a label map: each part of a label, all parts of one, two labels that touch, all labels.

    labels: (H, W) int32. Returns masks, (H, W) bool.
    """
    masks = []
    numbers = [n for n in np.unique(labels) if n]
    if len(numbers) > 24:
        numbers = list(random.choice(numbers, 24, replace=False))
    for number in numbers:
        whole = (labels == number).astype(np.uint8)
        count, parts, statistics, _ = cv2.connectedComponentsWithStats(whole, connectivity=4)
        large = [i for i in range(1, count) if statistics[i, cv2.CC_STAT_AREA] >= MIN_PIXELS]
        masks += [parts == i for i in sorted(large, key=lambda i: -statistics[i, cv2.CC_STAT_AREA])[:3]]
        if 2 <= len(large) <= 4:
            masks.append(whole.astype(bool))
    if len(numbers) >= 2:
        anything = labels > 0
        if anything.mean() < 0.9:
            masks += [m for m in [_largest(anything)] if m.sum() >= MIN_PIXELS]
        number = random.choice(numbers)
        near = cv2.dilate((labels == number).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        others = [n for n in np.unique(labels[near]) if n not in (0, number)]
        if others:
            masks.append((labels == number) | (labels == random.choice(others)))
    return masks


def _largest(mask: np.ndarray) -> np.ndarray:
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return parts == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else mask


@lru_cache(maxsize=64)
def _volume(case: Case) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Voxels (I, J, K) float32, label maps (I, J, K) int32, and spacing (3,) mm, in the canonical axes closest to R, A, S."""
    image = nibabel.as_closest_canonical(nibabel.load(case.image))
    voxels = np.asarray(image.dataobj, np.float32)
    labels = []
    for path in case.labels:
        label = nibabel.as_closest_canonical(nibabel.load(path))
        labels.append(np.asarray(label.dataobj).astype(np.int32).reshape(voxels.shape[:3]))
    return voxels[..., 0] if voxels.ndim == 4 else voxels, labels, np.array(image.header.get_zooms()[:3])


@lru_cache(maxsize=64)
def _picture(case: Case) -> tuple[np.ndarray, list[np.ndarray]]:
    image = cv2.cvtColor(cv2.imread(str(case.image), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    if (image == image[..., :1]).all():
        image = image[..., 0]
    return image, [cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int32) for path in case.labels]


def _take_slice(case: Case, random: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]] | None:
    voxels, labels, spacing = _volume(case)
    # A plane across thick slices is left out. Axial slices are taken twice as often as the others.
    weights = np.array([voxels.shape[axis] * (2 if axis == 2 else 1) for axis in range(3)], float)
    for axis in range(3):
        across = [s for i, s in enumerate(spacing) if i != axis]
        sides = [s for i, s in enumerate(voxels.shape) if i != axis]
        if max(across) > 3.5 * min(across) or min(sides) < 24:
            weights[axis] = 0
    if not weights.any():
        weights[int(np.argmax(spacing))] = 1
    axis = int(random.choice(3, p=weights / weights.sum()))
    if labels:
        areas = np.moveaxis(labels[0], axis, 0).reshape(voxels.shape[axis], -1)
        rows = np.flatnonzero((areas > 0).sum(1) >= MIN_PIXELS)
    else:
        rows = np.arange(int(voxels.shape[axis] * 0.15), max(1, int(np.ceil(voxels.shape[axis] * 0.85))))
    if not len(rows):
        return None
    index = int(random.choice(rows))
    # As a slice is shown: the last axis upwards, the patient's right on the left.
    image = np.flip(np.take(voxels, index, axis).T)
    maps = [np.flip(np.take(each, index, axis).T) for each in labels]
    across = [spacing[i] for i in range(3) if i != axis]  # between columns, between rows
    if max(across) > 1.2 * min(across):
        size = (
            int(round(image.shape[1] * across[0] / min(across))),
            int(round(image.shape[0] * across[1] / min(across))),
        )
        image = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
        maps = [
            cv2.resize(np.ascontiguousarray(each), size, interpolation=cv2.INTER_NEAREST) for each in maps
        ]
    if case.modality.upper().startswith("CT"):
        weights = np.array([w for *_, w in CT_WINDOWS], float)
        centre, width, _ = CT_WINDOWS[int(random.choice(len(CT_WINDOWS), p=weights / weights.sum()))]
        width = width * np.exp(random.uniform(-0.25, 0.25))
        centre = centre + random.uniform(-0.12, 0.12) * width
        low, high = centre - width / 2, centre + width / 2
    else:
        low, high = np.percentile(voxels[:: max(1, voxels.shape[0] // 64)], [0.5, 99.5])
        high = low + (high - low) * random.uniform(0.75, 1.2)
    if high <= low:
        return None
    return np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8), maps


def _place(
    image: np.ndarray, labels: list[np.ndarray], random: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Image and label maps, cropped, flipped, turned, stretched and resampled alike at random."""
    rows, columns = image.shape[:2]
    if random.random() < 0.5:
        part = random.uniform(0.5, 1.0, 2)
        height, width = max(24, int(rows * part[0])), max(24, int(columns * part[1]))
        top, left = (
            int(random.integers(0, max(1, a - b + 1))) for a, b in ((rows, height), (columns, width))
        )
        window = np.s_[top : top + height, left : left + width]
        image, labels = image[window], [each[window] for each in labels]
        rows, columns = image.shape[:2]
    # Random resolution, as scanners and exported pictures have, from coarse to fine.
    longest = float(np.clip(np.exp(random.uniform(np.log(90), np.log(400))), 64, _MAX_SIDE))
    scale = min(longest / max(rows, columns), 3.0)
    stretch = np.exp(random.uniform(-0.12, 0.12))
    size = (max(16, int(columns * scale * stretch)), max(16, int(rows * scale / stretch)))
    angle = random.uniform(-20, 20) if random.random() < 0.4 else 0.0
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, 1.0)
    matrix = np.diag([size[0] / columns, size[1] / rows]) @ turn
    if scale < 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.45 / scale)
    image = cv2.warpAffine(np.ascontiguousarray(image), matrix, size, flags=cv2.INTER_LINEAR)
    labels = [
        cv2.warpAffine(
            np.ascontiguousarray(each).astype(np.float32), matrix, size, flags=cv2.INTER_NEAREST
        ).astype(np.int32)
        for each in labels
    ]
    if random.random() < 0.3:
        image, labels = _warp(image, labels, random)
    quarter, mirrored = int(random.integers(4)) if random.random() < 0.3 else 0, random.random() < 0.5

    def turned(each: np.ndarray) -> np.ndarray:
        each = np.rot90(each, quarter)
        return np.ascontiguousarray(each[:, ::-1] if mirrored else each)

    return turned(image), [turned(each) for each in labels]


def _warp(
    image: np.ndarray, labels: list[np.ndarray], random: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    rows, columns = image.shape[:2]
    strength = random.uniform(0.01, 0.03) * max(rows, columns)
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    x = x + (strength * noise((rows, columns), max(rows, columns) / 4, random)).astype(np.float32)
    y = y + (strength * noise((rows, columns), max(rows, columns) / 4, random)).astype(np.float32)
    image = cv2.remap(image, x, y, cv2.INTER_LINEAR)
    return image, [cv2.remap(e.astype(np.float32), x, y, cv2.INTER_NEAREST).astype(np.int32) for e in labels]


def _contrast(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if random.random() < 0.1:
        image = 255 - image
    if random.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), float(random.uniform(0.4, 1.5)))
    if image.ndim == 2:
        return degrade(image, random) if random.random() < 0.5 else image
    if random.random() < 0.2:
        return image.mean(2).astype(np.uint8)
    return image
