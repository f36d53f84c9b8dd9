# SPDX-License-Identifier: Apache-2.0
"""The gate that every backend passes when it is activated: a golden slice, encoded and prompted by float32 torch.

Fast is often silently wrong: swapped axes, values that overflow half precision, a graph of other weights. The golden
values are computed once, at the export, and kept beside it, so that the gate needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import BackendError
from ..prompts import PixelPrompt
from .base import SegmentationModel

# Relative to the norm of the golden features. Measured for LiteMedSAM: float32 3e-4 (the rounding to float16 in which
# features are kept). In half precision the few prompts of the gate may agree where those of a user do not: with an error
# of 0.007 (the inputs of some layers rounded to bfloat16 in torch) the masks of 90 boxes on a brain had a Dice of 0.997 on
# average and 0.986 at least, with 0.010 (of more layers) 0.994 and 0.936, with 0.049, OpenVINO's bfloat16, 0.972 and 0.760.
EMBEDDING_ERROR = {"float32": 0.005, "bfloat16": 0.008, "float16": 0.008}
MEAN_DICE, LEAST_DICE = 0.995, 0.98


@dataclass(frozen=True, eq=False)
class Golden:
    """image (H, W, 3) uint8; features (C, h, w) float32; masks (P, H, W) bool of golden_prompts."""

    image: np.ndarray
    features: np.ndarray
    masks: np.ndarray

    @classmethod
    def of(cls, reference: SegmentationModel) -> Golden:
        """What `reference` makes of the phantom and its prompts."""
        image = phantom()
        (embedding,) = reference.encode([image])
        prompts = golden_prompts(reference.takes_points, reference.takes_box)
        masks = [reference.decode(embedding, prompt).mask for prompt in prompts]
        return cls(image, embedding.as_array(), np.stack(masks))

    def save(self, path: Path, save_file: Callable) -> None:
        save_file(
            {"image": self.image, "features": self.features, "masks": self.masks.astype(np.uint8)}, path
        )

    @classmethod
    def load(cls, path: Path) -> Golden:
        from safetensors.numpy import load_file

        stored = load_file(path)
        return cls(stored["image"], stored["features"], stored["masks"].astype(bool))


def phantom() -> np.ndarray:
    """An abdomen of ellipses, (150, 200, 3) uint8: no two axes are alike, so that none is swapped unseen."""
    rows, columns = 150, 200
    image = np.full((rows, columns), 12, np.uint8)
    for centre, axes, angle, grey in (
        ((98, 76), (92, 66), 0, 95),
        ((58, 62), (38, 27), 25, 150),
        ((143, 88), (20, 31), -20, 180),
        ((100, 118), (13, 11), 0, 225),
        ((112, 52), (14, 9), 40, 60),
    ):
        cv2.ellipse(image, centre, axes, angle, 0, 360, grey, -1)
    noise = np.random.default_rng(0).normal(0, 6, (rows, columns))
    smooth = cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float64) + noise
    return np.repeat(smooth.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def golden_prompts(takes_points: bool, takes_box: bool) -> list[PixelPrompt]:
    """Prompts of the kinds that a model takes, on the phantom's organs."""
    boxes = [
        PixelPrompt(box_xyxy=box) for box in ([18, 33, 97, 92], [119, 54, 166, 122], [85, 105, 115, 131])
    ]
    points = [PixelPrompt([[143, 88]], [1]), PixelPrompt([[58, 62], [112, 52]], [1, 0])]
    return boxes * takes_box + points * takes_points


def check_parity(model: SegmentationModel, golden: Golden, precision: str) -> None:
    """Raises BackendError, naming the figure that is out of bounds, unless `model`, whose encoder computes in `precision`,
    agrees with the golden values."""
    embedding_error = EMBEDDING_ERROR[precision]
    refused = f"{model.backend} is not used for {model.name}"
    (embedding,) = model.encode([golden.image])
    features = embedding.as_array().astype(np.float32)
    if features.shape != golden.features.shape:
        raise BackendError(
            f"{refused}: an embedding has the shape {features.shape}, not {golden.features.shape}."
        )
    if not np.isfinite(features).all():
        raise BackendError(f"{refused}: its embedding has values that are not finite.")
    error = np.linalg.norm(features - golden.features) / np.linalg.norm(golden.features)
    if error > embedding_error:
        raise BackendError(
            f"{refused}: its embedding is {error:.3g} off the reference's, and {embedding_error:g} is allowed."
        )
    results = [
        model.decode(embedding, prompt) for prompt in golden_prompts(model.takes_points, model.takes_box)
    ]
    if not all(np.isfinite(result.score) for result in results):
        raise BackendError(f"{refused}: the score of a mask is not finite.")
    dice = [dice_of(result.mask, mask) for result, mask in zip(results, golden.masks, strict=True)]
    if np.mean(dice) < MEAN_DICE or min(dice) < LEAST_DICE:
        raise BackendError(
            f"{refused}: its masks have a Dice of {np.mean(dice):.3f} on average and {min(dice):.3f} at least with the"
            f" reference's, and {MEAN_DICE} and {LEAST_DICE} are needed."
        )


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks of one shape; two empty masks agree."""
    if one.shape != other.shape:
        return 0.0
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
