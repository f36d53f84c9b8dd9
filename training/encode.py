# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Makes the training data: slices of sources and of random anatomy, each encoded once and saved in a file of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from samm_core.models import load_model
from samm_core.models.base import Embedding, SegmentationModel
from samm_core.prompts import PixelPrompt

from .anatomy import random_anatomy
from .picture import Picture
from .volumes import MIN_PIXELS, Case, find_cases, random_slice

SIDE = 256
_SYNTHETIC_SHARE = 0.22
_TEACHER_BOXES, _MIN_AGREEMENT = 8, 0.9
_MAX_OBJECTS = 24


@dataclass(frozen=True, eq=False)
class TrainingSlice:
    """A slice of the training data.

    features: (64, 64, 256) float16, channels last. masks: (M, 256, 256) bool, of its objects, in pixels of the encoder's
    input. size: rows and columns of that input that hold the slice; the rest is padding. image: (256, 256) uint8, to look
    at.
    """

    features: np.ndarray
    masks: np.ndarray
    size: tuple[int, int]
    image: np.ndarray
    source: str


def make(sources: Path, data: Path, count: int, held_out: bool, workers: int, seed: int) -> None:
    """Make slices 0 to `count` of the training set, or of the held-out set, in `data`; those that are there stay."""
    data.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(sources, data, held_out, seed)) as pool:
        for done, source in enumerate(pool.map(_make_one, range(count)), 1):
            print(f"\r{done}/{count} slices, the last of {source:30.30}", end="", flush=True)
    print()


def load(path: Path) -> TrainingSlice:
    """A slice that `make` wrote."""
    with safe_open(path, "numpy") as file:
        about = file.metadata()
        masks = np.unpackbits(file.get_tensor("masks"), axis=-1).astype(bool)
        rows, columns = json.loads(about["size"])
        return TrainingSlice(
            file.get_tensor("features"), masks, (rows, columns), file.get_tensor("image"), about["source"]
        )


def paths(data: Path) -> list[Path]:
    """The files that `make` wrote, in order."""
    return sorted(data.glob("*.safetensors"))


_model: SegmentationModel
_cases: list[Case]
_data: Path
_seed: int
_held_out: bool


def _start(sources: Path, data: Path, held_out: bool, seed: int) -> None:
    global _model, _cases, _data, _seed, _held_out
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    _data, _seed, _held_out = data, seed, held_out
    _cases = [case for case in find_cases(sources) if case.held_out == held_out]
    _model = load_model("lite_medsam", device="cpu")


def _make_one(number: int) -> str:
    path = _data / f"{number:05}.safetensors"
    if path.exists():
        return "an earlier run"
    random = np.random.default_rng((_seed, _held_out, number))
    while True:
        picture, teacher = _picture(random)
        if picture is None or min(picture.image.shape[:2]) < 24:
            continue
        encoded = _encode(picture, teacher, random)
        if len(encoded.masks):
            break
    part = path.with_suffix(".part")
    save_file(
        {
            "features": encoded.features,
            "masks": np.packbits(encoded.masks, axis=-1),
            "image": encoded.image,
        },
        part,
        {"size": json.dumps(encoded.size), "source": encoded.source},
    )
    os.replace(part, path)
    return encoded.source


def _picture(random: np.random.Generator) -> tuple[Picture | None, float]:
    """A random slice, or None, and the probability that it gets masks of boxes."""
    if not _cases or (random.random() < _SYNTHETIC_SHARE and not _held_out):
        return random_anatomy(random), 0.0
    # The source is chosen first, so that one with many cases does not push out the others.
    weights = {case.source: case.weight for case in _cases}
    shares = np.array(list(weights.values()))
    source = list(weights)[int(random.choice(len(weights), p=shares / shares.sum()))]
    cases = [case for case in _cases if case.source == source]
    case = cases[int(random.integers(len(cases)))]
    picture = random_slice(case, random)
    return picture, case.teacher if picture and picture.masks else 1.0


def _encode(picture: Picture, teacher: float, random: np.random.Generator) -> TrainingSlice:
    image = picture.image if picture.image.ndim == 3 else np.repeat(picture.image[..., None], 3, 2)
    (embedding,) = _model.encode([image])
    rows, columns = embedding.input_size
    masks = [_to_input(mask, (rows, columns)) for mask in picture.masks]
    if random.random() < teacher:
        masks += [_to_input(m, (rows, columns)) for m in teacher_masks(_model, embedding, random)]
    masks = [mask for mask in masks if MIN_PIXELS <= mask.sum() <= 0.9 * rows * columns]
    if len(masks) > _MAX_OBJECTS:
        masks = [masks[i] for i in random.choice(len(masks), _MAX_OBJECTS, replace=False)]
    small = np.zeros((SIDE, SIDE), np.uint8)
    small[:rows, :columns] = cv2.resize(image[..., 0], (columns, rows), interpolation=cv2.INTER_AREA)
    features = np.ascontiguousarray(embedding.features.transpose(1, 2, 0))
    stacked = np.stack(masks) if masks else np.zeros((0, SIDE, SIDE), bool)
    return TrainingSlice(features, stacked, (rows, columns), small, picture.source)


def _to_input(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    square = np.zeros((SIDE, SIDE), bool)
    smooth = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    square[: size[0], : size[1]] = smooth > 0.5
    return square


def teacher_masks(
    model: SegmentationModel, embedding: Embedding, random: np.random.Generator
) -> list[np.ndarray]:
    """Masks, (H, W) bool, that the model gives for random boxes and gives again for the masks' own boxes."""
    height, width = embedding.original_size
    masks: list[np.ndarray] = []
    for box in _random_boxes(height, width, random):
        first = model.decode(embedding, PixelPrompt(box_xyxy=box))
        if first.score < 0.6 or first.mask.sum() < MIN_PIXELS or first.mask.mean() > 0.7:
            continue
        rows, columns = (np.flatnonzero(first.mask.any(axis)) for axis in (1, 0))
        own = (columns[0] - 1.0, rows[0] - 1.0, columns[-1] + 1.0, rows[-1] + 1.0)
        second = model.decode(embedding, PixelPrompt(box_xyxy=own))
        if _overlap(first.mask, second.mask) < _MIN_AGREEMENT or second.score < 0.75:
            continue
        if all(_overlap(second.mask, known) < 0.8 for known in masks):
            masks.append(second.mask)
    return masks


def _random_boxes(height: int, width: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(_TEACHER_BOXES):
        size = np.exp(random.uniform(np.log(0.08), np.log(0.55))) * max(height, width)
        sides = size * np.exp(random.uniform(-0.4, 0.4, 2))
        middle = random.uniform(0.1, 0.9, 2) * (width, height)
        low, high = middle - sides / 2, middle + sides / 2
        yield np.concatenate(
            [low.clip(0, (width - 3, height - 3)), high.clip((2, 2), (width - 1, height - 1))]
        )


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
