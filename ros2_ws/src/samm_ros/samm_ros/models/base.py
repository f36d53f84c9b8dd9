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

from ..errors import PromptError
from ..prompts import PixelPrompt, kind_objection
from .recipe import Recipe

if TYPE_CHECKING:
    import torch

__all__ = ["Embedding", "MaskResult", "PackedEmbedding", "PixelPrompt", "SegmentationModel"]

# A channel of zeros has a scale too.
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Embedding:
    """One encoded slice: all that a model needs to decode prompts on it.

    features: (C, h, w), a torch tensor or a NumPy array, where the model that made it keeps them and in its precision.
    original_size: rows and columns of the slice.
    input_size: rows and columns after the model's resize, before it pads to a square.
    home: the torch device that `restored` brings the features back to; None: where they are.
    """

    features: torch.Tensor | np.ndarray
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    home: torch.device | None = None

    @property
    def nbytes(self) -> int:
        return self.features.nbytes

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Embedding:
        """This embedding with its features, a tensor, on `device`, as `dtype` when one is given."""
        return replace(self, features=self.features.to(device, dtype or self.features.dtype), home=None)

    def on_host(self) -> Embedding:
        """This embedding in host memory; `restored` undoes it."""
        if isinstance(self.features, np.ndarray):
            return self
        return replace(self, features=self.features.cpu(), home=self.home or self.features.device)

    def restored(self) -> Embedding:
        """This embedding on the device that it was made on."""
        return self if self.home is None else self.to(self.home)

    def as_array(self) -> np.ndarray:
        """The features as a contiguous array on the host; bfloat16, which NumPy lacks, becomes float16."""
        if isinstance(self.features, np.ndarray):
            return np.ascontiguousarray(self.features)
        import torch

        features = self.features.detach().cpu().contiguous()
        return (features.half() if features.dtype == torch.bfloat16 else features).numpy()

    def packed(self) -> PackedEmbedding:
        """This embedding at 8 bits a value: half of float16, and masks with a Dice of 0.998 on average with its own."""
        if isinstance(self.features, np.ndarray):
            exact = self.features.astype(np.float32)
            scale = np.maximum(np.abs(exact).max(axis=(1, 2), keepdims=True), _TINY) / 127
            values = np.rint(exact / scale).astype(np.int8)
        else:
            exact = self.features.float()
            scale = exact.abs().amax(dim=(1, 2), keepdim=True).clamp(min=_TINY) / 127
            values = (exact / scale).round().char()
        return PackedEmbedding(replace(self, features=values), scale, self.features.dtype)

    def unpacked(self) -> Embedding:
        """This embedding; see PackedEmbedding."""
        return self


@dataclass(frozen=True, eq=False)
class PackedEmbedding:
    """An embedding as int8 with a scale a channel, which decoders do not read before `unpacked`.

    values: features (C, h, w) int8, where those that it was made of are. scale: (C, 1, 1) float32, there too.
    dtype: of the features, packed and unpacked. Each comes back within half of its channel's scale.
    """

    values: Embedding
    scale: torch.Tensor | np.ndarray
    dtype: torch.dtype | np.dtype

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scale.nbytes

    def on_host(self) -> PackedEmbedding:
        """As Embedding's; the scale, 1 KiB, stays."""
        return replace(self, values=self.values.on_host())

    def restored(self) -> PackedEmbedding:
        return replace(self, values=self.values.restored())

    def unpacked(self) -> Embedding:
        """The embedding in its own precision, where the scale is."""
        exact = self.values.features * self.scale
        features = exact.astype(self.dtype) if isinstance(exact, np.ndarray) else exact.to(self.dtype)
        return replace(self.values, features=features)


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
    recipe: Recipe
    device: torch.device | str
    backend: str
    """What computes it and in which precision, to show: "torch float32"."""
    fingerprint: str
    """Hexadecimal; names what embeddings depend on besides the slice: weights, preprocessing, backend, precision."""
    sweepers: int = 1
    """How many threads may embed ahead at once."""
    batch: int = 1
    """How many slices each of them encodes at once."""
    decodes_in_batch: bool = False
    """Whether decode_all is faster than one decode after the other."""
    refused: tuple[str, ...] = ()
    """Why each backend that would have been taken before this one was not, a sentence each."""

    @property
    def image_size(self) -> int:
        return self.recipe.image_size

    @property
    def takes_points(self) -> bool:
        return self.recipe.takes_points

    @property
    def takes_box(self) -> bool:
        return self.recipe.takes_box

    @abstractmethod
    def encode(self, images: Sequence[np.ndarray], ahead: bool = False) -> list[Embedding]:
        """One embedding for each slice, (H, W, 3) uint8, of a batch; sizes may differ. Raises VolumeError.

        ahead: nobody waits for them: where it can, the model leaves the processor to whoever decodes meanwhile.
        """

    @abstractmethod
    def decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        """The mask of `prompt` on the encoded slice. Raises PromptError, as check_prompt does."""

    def decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        """The masks of several prompts on one slice, in one batch if decodes_in_batch. Raises PromptError."""
        return [self.decode(embedding, prompt) for prompt in prompts]

    @abstractmethod
    def adopt(self, features: np.ndarray, original_size: tuple[int, int]) -> Embedding:
        """An embedding from elsewhere (a file, another process) as this model's own: (C, h, w) float16 or float32."""

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
