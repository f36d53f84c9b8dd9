# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The parity check that every backend must pass before it is used: its masks are those of torch in float32.

Fast is often silently wrong: swapped axes, values that overflow half precision, another network's weights. What the
reference makes of one slice and a few prompts is computed once, at the export, and kept beside it. So the check needs no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import load_file, save_file

from ..errors import BackendError
from ..prompts import PixelPrompt
from .base import SegmentationModel

# By the precision of the encoder, relative to the norm of the reference's tensor. Measured for LiteMedSAM: float32 3e-4,
# which is the rounding to float16 in which OpenVINO's features are kept. In half precision the few prompts of this check may
# agree where those of a user do not, so the limit is lower than masks alone would ask for. Masks of 90 boxes on a brain, by
# the error of their embedding: 0.007 (the inputs of some layers rounded to bfloat16 in torch), mean Dice 0.997, lowest
# 0.986; 0.010 (of more layers), 0.994 and 0.936; 0.049 (OpenVINO's bfloat16), 0.972 and 0.760.
MAX_EMBEDDING_ERROR = {"float32": 0.005, "bfloat16": 0.008, "float16": 0.008}
MIN_MEAN_DICE, MIN_DICE = 0.995, 0.98
_TENSOR = "embedding."


@dataclass(frozen=True, eq=False)
class Reference:
    """What the reference makes of the phantom and its prompts.

    image: (H, W, 3) uint8, the phantom. tensors: of its embedding, by name, float32.
    masks: (P, H, W) bool, one for each of reference_prompts.
    """

    image: np.ndarray
    tensors: dict[str, np.ndarray]
    masks: np.ndarray

    @classmethod
    def of(cls, model: SegmentationModel) -> Reference:
        """Computed by `model`, which is torch in float32."""
        image = phantom()
        (embedding,) = model.encode([image])
        prompts = reference_prompts(model.takes_points, model.takes_box)
        masks = [model.decode(embedding, prompt).mask for prompt in prompts]
        return cls(image, embedding.as_arrays(), np.stack(masks))

    def save(self, path: Path) -> None:
        tensors = {f"{_TENSOR}{name}": tensor for name, tensor in self.tensors.items()}
        save_file({"image": self.image, "masks": self.masks.astype(np.uint8), **tensors}, path)

    @classmethod
    def load(cls, path: Path) -> Reference:
        stored = load_file(path)
        tensors = {
            name.removeprefix(_TENSOR): each for name, each in stored.items() if name.startswith(_TENSOR)
        }
        return cls(stored["image"], tensors, stored["masks"].astype(bool))


def phantom() -> np.ndarray:
    """An abdomen of ellipses, (150, 200, 3) uint8. No two of its axes are alike, so that none can be swapped unseen."""
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


def reference_prompts(takes_points: bool, takes_box: bool) -> list[PixelPrompt]:
    """Prompts of the kinds that a model takes, on the phantom's organs."""
    boxes = [
        PixelPrompt(box_xyxy=box) for box in ([18, 33, 97, 92], [119, 54, 166, 122], [85, 105, 115, 131])
    ]
    points = [PixelPrompt([[143, 88]], [1]), PixelPrompt([[58, 62], [112, 52]], [1, 0])]
    both = [PixelPrompt([[143, 88], [121, 60]], [1, 0], [119, 54, 166, 122])]
    return boxes * takes_box + points * takes_points + both * (takes_points and takes_box)


def check_parity(model: SegmentationModel, reference: Reference, precision: str) -> None:
    """Raises BackendError, naming the figure that is out of bounds, unless `model` agrees with `reference`.

    precision: in which the model's encoder computes, "float32", "bfloat16" or "float16".
    """
    refused = f"{model.backend} is not used for {model.name}"
    (embedding,) = model.encode([reference.image])
    tensors = embedding.as_arrays()
    shapes, expected = ({n: each.shape for n, each in t.items()} for t in (tensors, reference.tensors))
    if shapes != expected:
        raise BackendError(f"{refused}: an embedding has the shapes {shapes}, not {expected}.")
    for name, exact in reference.tensors.items():
        tensor = tensors[name].astype(np.float32)
        if not np.isfinite(tensor).all():
            raise BackendError(f"{refused}: its embedding has values that are not finite.")
        error = np.linalg.norm(tensor - exact) / np.linalg.norm(exact)
        if error > MAX_EMBEDDING_ERROR[precision]:
            raise BackendError(
                f"{refused}: its embedding is {error:.3g} off the reference's, and {MAX_EMBEDDING_ERROR[precision]:g} is"
                " allowed."
            )
    results = [
        model.decode(embedding, prompt) for prompt in reference_prompts(model.takes_points, model.takes_box)
    ]
    if not all(np.isfinite(result.score) for result in results):
        raise BackendError(f"{refused}: the score of a mask is not finite.")
    dice = [dice_of(result.mask, mask) for result, mask in zip(results, reference.masks, strict=True)]
    if np.mean(dice) < MIN_MEAN_DICE or min(dice) < MIN_DICE:
        raise BackendError(
            f"{refused}: its masks have a mean Dice of {np.mean(dice):.3f} and a lowest of {min(dice):.3f} with the"
            f" reference's, and {MIN_MEAN_DICE} and {MIN_DICE} are needed."
        )


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two bool masks: 1.0 where both are empty, 0.0 where their shapes differ."""
    if one.shape != other.shape:
        return 0.0
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
