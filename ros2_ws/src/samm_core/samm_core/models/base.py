# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a model is to the rest of samm_ros: it encodes a slice once, then decodes any number of prompts on it.

This module imports no torch: importing it takes seconds, and a server on OpenVINO needs none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CacheError, PromptError
from ..prompts import PixelPrompt, prompt_kind_error
from .processor import Processor

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor | np.ndarray

__all__ = ["FEATURES", "Embedding", "MaskResult", "PackedEmbedding", "PixelPrompt", "SegmentationModel"]

FEATURES = "features"
"""The name of the one tensor that an embedding of SAM's families has."""

# The scale of a channel of zeros: it must not be zero, because values are divided by it.
_MIN_SCALE = 1e-12 / 127


@dataclass(frozen=True, eq=False)
class Embedding:
    """One encoded slice: all that a model needs to decode prompts on it.

    tensors: named torch tensors or NumPy arrays, where the model that made them keeps them and in its precision.
        Channels come first. SAM's families have one, FEATURES, (C, h, w).
    original_size: rows and columns of the slice.
    input_size: rows and columns of the slice after the model's resize, before it is padded to a square.
    made_on: the torch device that `on_device` brings the tensors back to; None: they are where they were made.
    """

    tensors: Mapping[str, Tensor]
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    made_on: torch.device | None = None

    @property
    def features(self) -> Tensor:
        """The tensor FEATURES, (C, h, w). Raises KeyError for an embedding of a family without it."""
        return self.tensors[FEATURES]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Embedding:
        """This embedding with its tensors, which must be torch's, on `device`; as `dtype` where one is given."""
        tensors = {name: each.to(device, dtype or each.dtype) for name, each in self.tensors.items()}
        return replace(self, tensors=tensors, made_on=None)

    def on_host(self) -> Embedding:
        """This embedding in host memory; `on_device` undoes it."""
        first = next(iter(self.tensors.values()))
        if isinstance(first, np.ndarray):
            return self
        return replace(self.to("cpu"), made_on=self.made_on or first.device)

    def on_device(self) -> Embedding:
        """This embedding on the device that it was made on."""
        return self if self.made_on is None else self.to(self.made_on)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The tensors as contiguous arrays on the host; bfloat16, which NumPy lacks, becomes float16."""
        return {name: _as_array(tensor) for name, tensor in self.tensors.items()}

    def packed(self) -> PackedEmbedding:
        """This embedding at 8 bits a value, half of float16. Its masks have a mean Dice of 0.998 with the exact ones."""
        scales = {name: _scale(tensor) for name, tensor in self.tensors.items()}
        values = {name: _divided(tensor, scales[name]) for name, tensor in self.tensors.items()}
        dtypes = {name: tensor.dtype for name, tensor in self.tensors.items()}
        return PackedEmbedding(replace(self, tensors=values), scales, dtypes)

    def unpacked(self) -> Embedding:
        """This embedding itself: it is not packed. PackedEmbedding has the same method."""
        return self


@dataclass(frozen=True, eq=False)
class PackedEmbedding:
    """An embedding as int8 with one scale per channel. Decoders read what `unpacked` gives.

    values: the embedding with int8 tensors of the same shapes, on the same device.
    scales: float32, (C, 1, …) for each tensor, on the device where it was packed. A value comes back within half of
        its channel's scale.
    dtypes: of each tensor before it was packed, and again after `unpacked`.
    """

    values: Embedding
    scales: Mapping[str, Tensor]
    dtypes: Mapping[str, torch.dtype | np.dtype]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + sum(scale.nbytes for scale in self.scales.values())

    def on_host(self) -> PackedEmbedding:
        """The values in host memory; the scales, 1 KiB, stay where they are."""
        return replace(self, values=self.values.on_host())

    def on_device(self) -> PackedEmbedding:
        return replace(self, values=self.values.on_device())

    def unpacked(self) -> Embedding:
        """The embedding in its own precision; its values must be where its scales are."""
        tensors = {
            name: _as_dtype(packed * self.scales[name], self.dtypes[name])
            for name, packed in self.values.tensors.items()
        }
        return replace(self.values, tensors=tensors)


def _as_array(tensor: Tensor) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor)
    import torch  # it is loaded already, or there would be no tensor

    tensor = tensor.detach().cpu().contiguous()
    return (tensor.half() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _scale(tensor: Tensor) -> Tensor:
    """What one step of int8 is worth in each channel, (C, 1, …) float32, for a tensor of two axes or more."""
    others = tuple(range(1, tensor.ndim))
    if isinstance(tensor, np.ndarray):
        largest = np.abs(tensor.astype(np.float32)).max(axis=others, keepdims=True)
        return np.maximum(largest / 127, _MIN_SCALE)
    return (tensor.float().abs().amax(dim=others, keepdim=True) / 127).clamp(min=_MIN_SCALE)


def _divided(tensor: Tensor, scale: Tensor) -> Tensor:
    if isinstance(tensor, np.ndarray):
        return np.rint(tensor.astype(np.float32) / scale).astype(np.int8)
    return (tensor.float() / scale).round().char()


def _as_dtype(tensor: Tensor, dtype: torch.dtype | np.dtype) -> Tensor:
    return tensor.astype(dtype) if isinstance(tensor, np.ndarray) else tensor.to(dtype)


def sam_features(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """FEATURES, (C, h, w), of an embedding from elsewhere.

    Raises CacheError unless it is the only tensor, has three axes, and is float16 or float32.
    """
    features = tensors.get(FEATURES)
    fits = features is not None and features.ndim == 3 and features.dtype in (np.float16, np.float32)
    if not fits or len(tensors) != 1:
        found = ", ".join(f"{name} {each.shape} {each.dtype}" for name, each in tensors.items()) or "nothing"
        raise CacheError(
            f"The embedding holds {found}; this model reads {FEATURES} (C, h, w) alone: encode anew."
        )
    return features


@dataclass(frozen=True, eq=False)
class MaskResult:
    """What a decoder made of one prompt.

    mask: (H, W) bool, of the slice's own size: the best of the decoder's masks, or that of the prompt's `choice`.
    score: the model's own estimate of that mask's IoU, about 0 to 1.
    low_res_logits: (M, h, w) float32, all masks that the decoder proposed, before the threshold at 0. M is 1, or more
        where the prompt is ambiguous. They cover the encoder's padded input; one of them can be the next prompt's
        `mask_input`. They may be a view of the decoder's output: copy what is kept for long.
    scores: (M,) float32, of each of them.
    best: the index of the mask that `mask` was made of.
    """

    mask: np.ndarray
    score: float
    low_res_logits: np.ndarray
    scores: np.ndarray
    best: int

    def agrees_with(self, prompt: PixelPrompt) -> bool:
        """Whether the mask holds each positive point of the prompt and leaves out each negative one.

        A point off the slice counts as the nearest pixel of its border.
        """
        last = np.array(self.mask.shape[::-1]) - 1
        columns, rows = np.rint(prompt.points_xy).astype(int).clip(0, last).T
        return bool((self.mask[rows, columns] == prompt.labels).all())


class SegmentationModel(ABC):
    """A loaded model. Encoding is the heavy part, decoding the cheap one; decoding never encodes.

    Both may be called from several threads at once: a loaded model is never written to.

    Pixels: x is the column, y the row, and (0, 0) the centre of the first pixel. A model scales them by new
    size over old size, without a half-pixel shift, because its reference does so and its weights were trained
    with it.
    """

    name: str
    processor: Processor
    device: torch.device | str
    backend: str
    """What computes it and in which precision, to show: "torch float32"."""
    fingerprint: str
    """32 hexadecimal digits for what an embedding depends on besides the slice: weights, preprocessing, backend and
    precision."""
    former_fingerprints: tuple[str, ...] = ()
    """The fingerprints that earlier releases gave to the same encoder: what they saved can be read."""
    sweepers: int = 1
    """How many threads may embed ahead at once."""
    batch: int = 1
    """How many slices each of them encodes at once."""
    decodes_in_batch: bool = False
    """Whether decode_all is faster than one decode after the other."""
    refused: tuple[str, ...] = ()
    """Why each backend that would have been taken before this one was not: one sentence each."""

    @property
    def image_size(self) -> int:
        """The side of the encoder's square input, in pixels."""
        return self.processor.image_size

    @property
    def takes_points(self) -> bool:
        return self.processor.takes_points

    @property
    def takes_box(self) -> bool:
        return self.processor.takes_box

    @property
    def takes_mask(self) -> bool:
        return self.processor.takes_mask

    @abstractmethod
    def encode(self, images: Sequence[np.ndarray], ahead: bool = False) -> list[Embedding]:
        """One embedding for each slice, (H, W, 3) uint8, of a batch; sizes may differ. Raises VolumeError.

        ahead: nobody waits for them; where it can, the model then leaves the processor to other work.
        """

    def in_background(self) -> SegmentationModel:
        """This model for work that goes on all the time, such as a live stream's: where it can, other work goes before it.

        Its embeddings are this model's.
        """
        return self

    def decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        """The mask of `prompt` on the encoded slice. Raises PromptError, as check_prompt does."""
        return self.decode_all(embedding, [prompt])[0]

    def decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        """The masks of several prompts on one slice, in one batch if decodes_in_batch. Raises PromptError.

        Where the processor's points_correct_a_box is set, the points of a prompt with a box are used only if the mask
        of the box alone disagrees with one of them.
        """
        for prompt in prompts:
            self.check_prompt(prompt)
        boxes = {
            i: PixelPrompt(box_xyxy=prompt.box_xyxy)
            for i, prompt in enumerate(prompts)
            if self.processor.points_correct_a_box and prompt.has_box and prompt.has_points
        }
        results = self._decode_all(embedding, [boxes.get(i, prompt) for i, prompt in enumerate(prompts)])
        wrong = [i for i in boxes if not results[i].agrees_with(prompts[i])]
        corrected = self._decode_all(embedding, [prompts[i] for i in wrong]) if wrong else []
        for i, result in zip(wrong, corrected, strict=True):
            results[i] = result
        return results

    @abstractmethod
    def _decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        """The decoder's masks of prompts that check_prompt has passed."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, np.ndarray], original_size: tuple[int, int]) -> Embedding:
        """This model's embedding of tensors from a file or another process, as Embedding.as_arrays gives them.

        original_size: rows and columns of the slice. Raises CacheError for tensors that the model does not read.
        """

    def warm_up(self) -> None:
        """Encode and decode once: libraries set themselves up in their first call, which no user should wait for."""
        (embedding,) = self.encode([np.zeros((self.image_size, self.image_size, 3), np.uint8)])
        middle = np.full((1, 2), self.image_size / 2, np.float32)
        if self.takes_points:
            self.decode(embedding, PixelPrompt(middle, np.ones(1, np.uint8)))
        if self.takes_box:
            self.decode(embedding, PixelPrompt(box_xyxy=np.concatenate([middle[0] - 9, middle[0] + 9])))

    def check_prompt(self, prompt: PixelPrompt) -> None:
        """Raises PromptError for a prompt that this model was not trained to answer, and for a choice that there is not.

        A model for boxes refuses points even beside a box: it would answer, but points spoil its mask.
        """
        error = prompt_kind_error(prompt, self.name, self.takes_points, self.takes_box, self.takes_mask)
        if error:
            raise PromptError(error)
        there = self.processor.choices(prompt)
        if prompt.choice >= there:
            raise PromptError(
                f"{self.name} proposes {there} mask{'s' * (there > 1)} for this prompt and has no choice {prompt.choice};"
                f" give {f'0 to {there - 1}' if there > 1 else '0, or mark a single point'}."
            )


def index_of_choice(scores: np.ndarray, choice: int) -> int:
    """Which of the masks with these scores, (M,), a prompt's `choice` means: 0 is the one with the greatest."""
    return int(np.argsort(-scores, kind="stable")[choice])
