# SPDX-License-Identifier: Apache-2.0
"""What a model is to the rest of samm_ros: it encodes a slice once, then decodes any number of prompts on it.

This module imports no torch, so that prompts can be checked where no model is loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PromptError, VolumeError
from ..prompts import PixelPrompt, kind_objection

if TYPE_CHECKING:
    import torch

__all__ = ["Embedding", "MaskResult", "PixelPrompt", "SegmentationModel"]

MAX_SIDE = 16384


@dataclass(frozen=True, eq=False)
class Embedding:
    """One encoded slice: all that a model needs to decode prompts on it.

    features: (C, h, w), on the device and in the precision of the model that made it.
    original_size: rows and columns of the slice.
    input_size: rows and columns after the model's resize, before it pads to a square.
    home: the device that `restored` brings the features back to; None: where they are.
    """

    features: torch.Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    home: torch.device | None = None

    @property
    def nbytes(self) -> int:
        return self.features.nbytes

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Embedding:
        """This embedding with its features on `device`, as `dtype` when one is given."""
        return replace(self, features=self.features.to(device, dtype or self.features.dtype), home=None)

    def on_host(self) -> Embedding:
        """This embedding in host memory; `restored` undoes it."""
        return replace(self, features=self.features.cpu(), home=self.home or self.features.device)

    def restored(self) -> Embedding:
        """This embedding on the device that it was made on."""
        return self if self.home is None else self.to(self.home)


@dataclass(frozen=True, eq=False)
class MaskResult:
    """mask: (H, W) bool, of the slice's own size. score: the model's own estimate of it, about 0 to 1."""

    mask: np.ndarray
    score: float


class SegmentationModel(ABC):
    """A loaded model. Encoding is the heavy part, decoding the cheap one; decoding never encodes.

    Both may be called from several threads at once: a loaded model is never written to.

    Pixels: x is the column, y the row, and (0, 0) the centre of the first pixel. A model scales them by new
    size over old size, without a half-pixel shift, because its reference does so and its weights were trained
    with it.
    """

    name: str
    device: torch.device
    image_size: int
    takes_points: bool
    takes_box: bool
    fingerprint: str
    """Hexadecimal; names what embeddings depend on besides the slice: weights, preprocessing, precision."""

    @abstractmethod
    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        """A slice, (H, W, 3) uint8, as the encoder's input: (3, S, S) float32 on the CPU, S = image_size.

        Raises VolumeError for a slice of another kind, beyond 16384 pixels a side, or too thin to be resized.
        """

    @abstractmethod
    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        """One embedding for each slice, (H, W, 3) uint8, of a batch; sizes may differ. Raises VolumeError."""

    @abstractmethod
    def decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        """The mask of `prompt` on the encoded slice. Raises PromptError, as check_prompt does."""

    def warm_up(self) -> None:
        """Encode and decode once, so that the first slice of a user pays for no set-up of the libraries below."""
        (embedding,) = self.encode([np.zeros((self.image_size, self.image_size, 3), np.uint8)])
        middle = np.full((1, 2), self.image_size / 2, np.float32)
        if self.takes_points:
            self.decode(embedding, PixelPrompt(middle, np.ones(1, np.uint8)))
        if self.takes_box:
            self.decode(embedding, PixelPrompt(box_xyxy=np.concatenate([middle[0] - 9, middle[0] + 9])))

    def check_prompt(self, prompt: PixelPrompt) -> None:
        """Raises PromptError for a prompt that this model was not trained to answer.

        A model for boxes refuses points even beside a box: it would answer, with a mask that they spoil.
        """
        if objection := kind_objection(prompt, self.name, self.takes_points, self.takes_box):
            raise PromptError(objection)


def check_image(image: np.ndarray) -> tuple[int, int]:
    """Rows and columns of `image`; raises VolumeError unless it is (H, W, 3) uint8, at most 16384 a side."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise VolumeError(f"A slice has shape {image.shape} and type {image.dtype}; give (H, W, 3) uint8.")
    rows, columns = image.shape[:2]
    if not 1 <= min(rows, columns) <= max(rows, columns) <= MAX_SIDE:
        raise VolumeError(f"A slice of {rows}x{columns} pixels is out of range; give 1 to {MAX_SIDE} a side.")
    return rows, columns


def longest_side_size(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Rows and columns of a slice of `size` once its longest side is `target`, rounded as SAM does.

    Raises VolumeError for a slice so thin that nothing would be left of its shorter side.
    """
    scale = target / max(size)
    rows, columns = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
    if min(rows, columns) < 1:
        raise VolumeError(f"A slice of {size[0]}x{size[1]} pixels is too thin to encode; resample it.")
    return rows, columns
