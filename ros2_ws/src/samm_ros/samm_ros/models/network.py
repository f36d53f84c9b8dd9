# SPDX-License-Identifier: Apache-2.0
"""The torch backend: device and precision, batches through the encoder, prompts through SAM's decoder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import ModelError
from .base import Embedding, MaskResult, PixelPrompt, SegmentationModel
from .checkpoint import content_hash, load_weights
from .recipe import check_image

_NICENESS = 10
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkModel(SegmentationModel):
    """A network with SAM's parts: `image_encoder`, `prompt_encoder` and `mask_decoder`.

    The encoder runs in `precision`, and its features are kept in it. The decoder always runs in float32: it
    is the cheap part, and its masks are what the user sees.
    """

    def __init__(
        self, network: torch.nn.Module, name: str, checkpoint: Path, device: str, precision: str | None
    ) -> None:
        self.name = name
        self.device = resolve_device(device)
        load_weights(network, checkpoint, name)
        self._weights = content_hash(network, self.recipe.version)
        self.compute_in(precision or "float32")
        # eval() comes last: TinyViT then caches a table made of its weights, where they are.
        self._network = network.requires_grad_(False).to(self.device).eval()
        with torch.inference_mode():
            self._positions = network.prompt_encoder.get_dense_pe()
        self.batch_decoder: BatchDecoder | None = None

    def compute_in(self, precision: str) -> None:
        """Have the encoder compute in this precision from now on, by name; for use before anything is encoded."""
        self.precision = PRECISIONS[precision]
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
        batch = torch.stack([torch.from_numpy(self.recipe.preprocess(image)) for image in images])
        with torch.inference_mode(), self._autocast():
            if self.device.type == "cuda":
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            features = self._network.image_encoder(batch).to(self.precision)
        # Copies: a view would keep the whole batch in memory after the cache has dropped all but one of it.
        parts = [features[0]] if len(images) == 1 else [part.clone() for part in features]
        if self.device.type == "cuda":
            # Whoever decodes does so on another stream, which must not read them earlier.
            torch.cuda.current_stream(self.device).synchronize()
        return [
            Embedding(part, size, self.recipe.input_size(size))
            for part, size in zip(parts, sizes, strict=True)
        ]

    def adopt(self, features: np.ndarray, original_size: tuple[int, int]) -> Embedding:
        tensor = torch.from_numpy(features).to(self.device, self.precision)
        return Embedding(tensor, original_size, self.recipe.input_size(original_size))

    def decode(self, embedding: Embedding, prompt: PixelPrompt) -> MaskResult:
        if self.batch_decoder:
            return self.decode_all(embedding, [prompt])[0]
        self.check_prompt(prompt)
        with torch.inference_mode():
            sparse, dense = self._network.prompt_encoder(*self._prompt_tensors(prompt, embedding), masks=None)
            logits, scores = self._network.mask_decoder(
                image_embeddings=embedding.features[None].to(self.device, torch.float32),
                image_pe=self._positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=self.recipe.wants_several(prompt),
            )
            best = int(scores[0].argmax())
            mask = self.upscale(logits[:, best : best + 1], embedding)
            return MaskResult(mask[0, 0].cpu().numpy(), float(scores[0, best]))

    def decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        if not self.batch_decoder:
            return super().decode_all(embedding, prompts)
        tokens = []
        for prompt in prompts:
            self.check_prompt(prompt)
            tokens.append(self.recipe.tokens(prompt, embedding.original_size))
        by_count: dict[int, list[int]] = {}
        for i, (_, labels) in enumerate(tokens):
            by_count.setdefault(len(labels), []).append(i)
        results: dict[int, MaskResult] = {}
        for members in by_count.values():
            xy, labels = (np.stack([tokens[i][part] for i in members]) for part in (0, 1))
            with torch.inference_mode(), self.batch_decoder.stream():
                logits, scores = self.batch_decoder(embedding.features, xy, labels)
                known = scores.cpu().numpy()
                for row, i in enumerate(members):
                    several = self.recipe.wants_several(prompts[i])
                    first = 1 + int(known[row, 1:].argmax()) if several else 0
                    mask = self.upscale(logits[row : row + 1, first : first + 1], embedding)
                    results[i] = MaskResult(mask[0, 0].cpu().numpy(), float(known[row, first]))
        return [results[i] for i in range(len(prompts))]

    def _prompt_tensors(
        self, prompt: PixelPrompt, embedding: Embedding
    ) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor | None]:
        """The points, (1, N, 2) with labels (1, N), and the box, (1, 4), in pixels of the encoder's input."""
        points = box = None
        if prompt.has_points:
            xy = self._scaled(prompt.points_xy, embedding)
            labels = torch.as_tensor(prompt.labels.astype(np.int32), device=self.device)
            points = (xy[None], labels[None])
        if prompt.has_box:
            box = self._scaled(prompt.box_xyxy.reshape(2, 2), embedding).reshape(1, 4)
        return points, box

    def _scaled(self, pixels_xy: np.ndarray, embedding: Embedding) -> torch.Tensor:
        # In float64 first, as the references do: float32 would differ in the last bit, and the mask with it.
        scaled = self.recipe.scale_pixels(pixels_xy.astype(np.float64), embedding.original_size)
        return torch.as_tensor(scaled, dtype=torch.float32, device=self.device)

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)


class BatchDecoder(Protocol):
    """Prompts on one slice in one call, see models/cuda.py."""

    def stream(self) -> contextlib.AbstractContextManager: ...

    def __call__(
        self, features: torch.Tensor, xy: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features (C, h, w), xy (B, N, 2), labels (B, N) to logits (B, M, 4h, 4w) and scores (B, M)."""
        ...


def _yield_to_others() -> None:
    """Lower the priority of this thread and of those that torch starts from it (Linux has one for each).

    Not to the lowest there is: it holds Python's lock now and then, and must get to release it on a busy machine.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises ModelError for one not here."""
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
