# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The torch backend: device and precision, batches through the encoder, prompts through SAM's decoder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ...errors import ModelError
from ..base import (
    FEATURES,
    Embedding,
    MaskResult,
    PixelPrompt,
    SegmentationModel,
    index_of_choice,
    sam_features,
)
from ..checkpoint import content_hash, load_weights
from ..processor import Processor, check_image
from .decoder import FusedDecoder

_NICENESS = 10
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkModel(SegmentationModel):
    """A network with SAM's parts: `image_encoder`, `prompt_encoder` and `mask_decoder`.

    Prompts with points may have a decoder of their own, see families/point_decoder.py. Boxes alone never reach it.

    The encoder computes in `precision`, and its features are kept in it. The decoder always runs in float32: it
    is the cheap part, and its masks are what the user sees.

    network: the torch network. batch_decoders: decoders that take several prompts at once, set by `accelerate` on CUDA.
    """

    def __init__(
        self, name: str, processor: Processor, checkpoint: Path, device: str, precision: str | None
    ) -> None:
        """Raises ModelError for a device that is not here, and for a checkpoint that does not fit."""
        self.name = name
        self.processor = processor
        self.device = resolve_device(device)
        network = self.build_network()
        load_weights(network, checkpoint, name)
        self._weights = content_hash(network, processor.version)
        self.compute_in(precision or "float32")
        # eval() comes last: TinyViT then caches a table made of its weights, where they are.
        self.network = network.requires_grad_(False).to(self.device).eval()
        with torch.inference_mode():
            self._positions = network.prompt_encoder.get_dense_pe()
        points = self.build_point_decoder()
        self._point_decoder = points and points.requires_grad_(False).to(self.device).eval()
        self.batch_decoders: BatchDecoders | None = None

    @abstractmethod
    def build_network(self) -> torch.nn.Module:
        """The network, with weights not loaded yet."""

    def build_point_decoder(self) -> FusedDecoder | None:
        """The decoder of prompts with points, where it is not the network's own. Raises ModelError."""
        return None

    def fused_decoders(self) -> tuple[FusedDecoder, FusedDecoder | None]:
        """The network's decoder for export, and that of prompts with points where it is another."""
        multimask = self.takes_points and self._point_decoder is None
        return FusedDecoder(self.network, multimask).to(self.device).eval(), self._point_decoder

    def compute_in(self, precision: str) -> None:
        """Have the encoder compute in "float32", "bfloat16" or "float16"; call it before anything is encoded."""
        self.precision = _DTYPES[precision]
        self.backend = f"torch {precision}"
        self.fingerprint = hashlib.blake2b(
            f"{self._weights} {precision}".encode(), digest_size=16
        ).hexdigest()

    @abstractmethod
    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        """The decoder's logits, (1, 1, h, w), as a mask of the slice's size, (1, 1, H, W) bool."""

    def encode(self, images: Sequence[np.ndarray], ahead: bool = False) -> list[Embedding]:
        if not images:
            return []
        if ahead and self.device.type == "cpu":
            _yield_to_others()
        sizes = [check_image(image) for image in images]
        with torch.inference_mode(), self._autocast():
            features = self.network.image_encoder(self._inputs(images)).to(self.precision)
        # Copies: a view would keep the whole batch in memory after the cache has dropped all but one of it.
        parts = [features[0]] if len(images) == 1 else [part.clone() for part in features]
        if self.device.type == "cuda":
            # The decoder runs on another stream, which must not read them earlier.
            torch.cuda.current_stream(self.device).synchronize()
        return [self._embedding(part, size) for part, size in zip(parts, sizes, strict=True)]

    def _inputs(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """The encoder's input, (B, 3, S, S) float32, for slices of (H, W, 3) uint8.

        A GPU is sent the resized bytes, an eighth or a quarter of the float32 that it makes of them.
        """
        if self.device.type == "cpu":
            return torch.stack([torch.from_numpy(self.processor.preprocess(image)) for image in images])
        resized = [self.processor.resized(image) for image in images]
        tables = self._sent(np.stack([self.processor.intensities(each) for each in resized]))
        side = self.processor.image_size
        # Channels last, as the encoder's first layer hands on its output: whoever gets it otherwise copies it per layer.
        batch = torch.zeros(len(images), 3, side, side, device=self.device).to(
            memory_format=torch.channels_last
        )
        channels = torch.arange(3, device=self.device)[:, None, None]
        for square, table, pixels in zip(batch, tables, resized, strict=True):
            rows, columns, _ = pixels.shape
            square[:, :rows, :columns] = table[channels, self._sent(pixels).permute(2, 0, 1).int()]
        return batch

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        """`array` on the GPU, without waiting for what runs there."""
        return (
            torch.from_numpy(np.require(array, requirements="CW"))
            .pin_memory()
            .to(self.device, non_blocking=True)
        )

    def restore(self, tensors: Mapping[str, np.ndarray], original_size: tuple[int, int]) -> Embedding:
        features = torch.from_numpy(sam_features(tensors)).to(self.device, self.precision)
        return self._embedding(features, original_size)

    def _embedding(self, features: torch.Tensor, original_size: tuple[int, int]) -> Embedding:
        return Embedding({FEATURES: features}, original_size, self.processor.input_size(original_size))

    def _decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        if not self.batch_decoders:
            return [self._decode(embedding, prompt) for prompt in prompts]
        # The fused decoders take no masks.
        results = {i: self._decode(embedding, prompt) for i, prompt in enumerate(prompts) if prompt.has_mask}
        inputs = [self.processor.point_inputs(prompt, embedding.original_size) for prompt in prompts]
        alike: dict[tuple[bool, int], list[int]] = {}
        for i, (_, labels) in enumerate(inputs):
            if i not in results:
                alike.setdefault((prompts[i].has_points, len(labels)), []).append(i)
        for (has_points, _), members in alike.items():
            decoder = self.batch_decoders.points if has_points else self.batch_decoders.boxes
            coords, labels = (np.stack([inputs[i][part] for i in members]) for part in (0, 1))
            with torch.inference_mode(), decoder.stream():
                logits, scores = decoder(embedding.features, coords, labels)
                scores = scores.cpu()
                for row, i in enumerate(members):
                    several = self.processor.multimask_output(prompts[i])
                    proposed = slice(1, None) if several else slice(0, 1)
                    results[i] = self._result(
                        logits[row, proposed], scores[row, proposed], embedding, prompts[i].choice
                    )
        return [results[i] for i in range(len(prompts))]

    def _decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        multimask = self.processor.multimask_output(prompt)
        features = embedding.features[None].to(self.device, torch.float32)
        with torch.inference_mode():
            if self._point_decoder and prompt.has_points:
                inputs = self.processor.point_inputs(prompt, embedding.original_size)
                coords, labels = (torch.from_numpy(each).to(self.device)[None] for each in inputs)
                logits, scores = self._point_decoder(features.permute(0, 2, 3, 1), coords, labels)
                proposed = slice(1, None) if multimask else slice(0, 1)
                logits, scores = logits[:, proposed], scores[:, proposed]
            else:
                sparse, dense = self.network.prompt_encoder(*self._prompt_tensors(prompt, embedding))
                logits, scores = self.network.mask_decoder(
                    image_embeddings=features,
                    image_pe=self._positions,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=multimask,
                )
            return self._result(logits[0], scores[0], embedding, prompt.choice)

    def _result(
        self, logits: torch.Tensor, scores: torch.Tensor, embedding: Embedding, choice: int
    ) -> MaskResult:
        """The result of one prompt from the masks proposed for it: logits (M, h, w) and scores (M,)."""
        scores = scores.cpu().numpy()
        best = index_of_choice(scores, choice)
        mask = self.upscale(logits[None, best : best + 1], embedding)[0, 0]
        return MaskResult(mask.cpu().numpy(), float(scores[best]), logits.cpu().numpy(), scores, best)

    def _prompt_tensors(
        self, prompt: PixelPrompt, embedding: Embedding
    ) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor | None, torch.Tensor | None]:
        """What SAM's prompt encoder takes, in pixels of the encoder's input.

        points: (1, N, 2) with labels (1, N). box: (1, 4). mask: (1, 1, 256, 256).
        """
        points = box = mask = None
        if prompt.has_points:
            coords = self._scaled(prompt.points_xy, embedding)
            labels = torch.as_tensor(prompt.labels.astype(np.int32), device=self.device)
            points = (coords[None], labels[None])
        if prompt.has_box:
            box = self._scaled(prompt.box_xyxy.reshape(2, 2), embedding).reshape(1, 4)
        if prompt.has_mask:
            mask = torch.tensor(prompt.mask_input, device=self.device)[None, None]
        return points, box, mask

    def _scaled(self, pixels_xy: np.ndarray, embedding: Embedding) -> torch.Tensor:
        # In float64 first, as the references do: float32 would differ in the last bit, and the mask with it.
        scaled = self.processor.scale_pixels(pixels_xy.astype(np.float64), embedding.original_size)
        return torch.as_tensor(scaled, dtype=torch.float32, device=self.device)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)


class BatchDecoder(Protocol):
    """Decodes several prompts on one slice in one call, see cuda.py."""

    def stream(self) -> contextlib.AbstractContextManager[None]:
        """What the call and the reading of its outputs must be within."""
        ...

    def __call__(
        self, features: torch.Tensor, point_coords: np.ndarray, point_labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features (C, h, w), point_coords (B, N, 2) and point_labels (B, N) to logits (B, M, 4h, 4w) and scores (B, M).

        The next call may overwrite the outputs.
        """
        ...


@dataclass(frozen=True)
class BatchDecoders:
    """The decoder of boxes alone and that of all prompts with points, which may be the same."""

    boxes: BatchDecoder
    points: BatchDecoder


def _yield_to_others() -> None:
    """Lower the priority of this thread and of those that torch starts from it (Linux has one for each).

    Not to the lowest there is: the thread holds Python's lock now and then, and must get to release it on a busy machine.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises ModelError for a device that is not here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f'"{device}" is not a device; give auto, cpu, cuda or cuda:1.') from error
    if resolved.type not in ("cpu", "cuda"):
        raise ModelError(f'The device "{device}" is not supported; give auto, cpu, cuda or cuda:1.')
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ModelError(f'There is no "{device}": torch sees {count} GPUs here; give auto or cpu.')
    return resolved
