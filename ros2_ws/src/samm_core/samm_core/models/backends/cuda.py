# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What makes a torch model fast on CUDA: fused attention in the encoder, a captured decoder, batches of slices."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT, get_rel_pos
from torch import nn
from torch.nn import functional

from ...errors import BackendError
from ..parity import Reference, check_parity
from .torch import BatchDecoders, NetworkModel

# Prompts of more points are rare, and each number of points needs a recording of its own.
_MAX_CAPTURED_POINTS = 8
# The share of free memory that a batch of slices embedded ahead may take, and the bytes that one of 1024 pixels takes.
_BATCH_SHARE, _SLICE_BYTES = 0.25, 1.5 * 2**30
_MAX_BATCH = 16
_FASTEST_FIRST = ("float16", "bfloat16", "float32")


def accelerate(model: NetworkModel, precision: str | None) -> tuple[str, ...]:
    """Switch `model`, on CUDA, to its fast paths in the fastest precision that agrees with the reference.

    The reference is the same network, eager, in float32 on the same device. Where nothing else agrees, `model` stays that.

    precision: "float32", "bfloat16" or "float16". None takes the first that agrees of float16, bfloat16 and float32.
        float16 comes first because it is as fast as bfloat16 and rounds eight times finer. Where it overflows, the parity
        check finds values that are not finite.

    Returns why each other precision is refused, one sentence each.
    """
    model.compute_in("float32")
    reference = Reference.of(model)
    encoder = model.network.image_encoder.to(memory_format=torch.channels_last)
    blocks = list(encoder.blocks) if isinstance(encoder, ImageEncoderViT) else []
    eager = [block.attn for block in blocks]
    try:
        for block in blocks:
            block.attn = FusedAttention(block.attn)
        model.decodes_in_batch = True
        decoder, point_decoder = model.fused_decoders()
        boxes = CapturedDecoder(decoder, model.device)
        points = CapturedDecoder(point_decoder, model.device) if point_decoder else boxes
        model.batch_decoders = BatchDecoders(boxes, points)
        precisions = (precision,) if precision else _FASTEST_FIRST
        agrees, refused = choose_precision(model, reference, precisions)
    except Exception as error:  # whatever a driver or its compiler trips over
        agrees = False
        refused = (f"The fast paths of CUDA are not used for {model.name}: {_in_one_line(error)}",)
    if agrees:
        model.backend += ", fused"
        free, _ = torch.cuda.mem_get_info(model.device)
        model.batch = int(min(max(free * _BATCH_SHARE // _SLICE_BYTES, 1), _MAX_BATCH))
        # While the slices of one thread are encoded, the other prepares and sends its own.
        model.sweepers = 2
    else:
        for block, attention in zip(blocks, eager, strict=True):
            block.attn = attention
        model.decodes_in_batch, model.batch_decoders = False, None
        model.compute_in("float32")
    return refused


def choose_precision(
    model: NetworkModel, reference: Reference, precisions: Sequence[str]
) -> tuple[bool, tuple[str, ...]]:
    """Have `model` compute in the first of `precisions` that agrees with the reference.

    Returns whether one agrees, and why each that was tried before it is refused.
    """
    refused: list[str] = []
    for precision in precisions:
        model.compute_in(precision)
        try:
            check_parity(model, reference, precision)
        except BackendError as error:
            refused.append(str(error))
        except Exception as error:  # a missing kernel, or too little memory, in this precision
            refused.append(f"{model.backend} is not used for {model.name}: {_in_one_line(error)}")
        else:
            return True, tuple(refused)
    return False, tuple(refused)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class FusedAttention(nn.Module):
    """segment_anything's attention with decomposed relative positions, without its (T, T) matrix in memory.

    That attention adds two terms to the score of a query and a key, one for the key's row and one for its column. Both are
    linear in the query. Here each query is lengthened by its terms for all rows and columns, and each key by a one-hot row
    and column. The score is then a single product, which the fused kernels take. The sums are the same, in another order.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to the same shape."""
        own = self.attention
        batch, height, width, channels = x.shape
        heads = own.num_heads
        qkv = own.qkv(x).reshape(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        lengthened, places = [query * own.scale], []
        if own.use_rel_pos:
            on_grid = query.reshape(batch, heads, height, width, -1)
            rows = get_rel_pos(height, height, own.rel_pos_h).to(query.dtype)
            columns = get_rel_pos(width, width, own.rel_pos_w).to(query.dtype)
            lengthened.append(torch.einsum("bnhwc,hkc->bnhwk", on_grid, rows).flatten(2, 3))
            lengthened.append(torch.einsum("bnhwc,wkc->bnhwk", on_grid, columns).flatten(2, 3))
            row, column = (axis.flatten() for axis in _grid(height, width, x.device))
            for index, length in ((row, height), (column, width)):
                place = functional.one_hot(index, length).to(query.dtype)
                places.append(place.expand(batch, heads, -1, -1))
        query, key = torch.cat(lengthened, -1), torch.cat([key, *places], -1)
        depth = value.shape[-1]
        # The fused kernels need one width for all three, a multiple of eight.
        wide = -(-query.shape[-1] // 8) * 8
        query, key, value = (functional.pad(each, (0, wide - each.shape[-1])) for each in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :depth]
        return own.proj(attended.transpose(1, 2).reshape(batch, height, width, channels))


def _grid(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every pixel, (H, W) each."""
    return torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )


class CapturedDecoder:
    """A FusedDecoder whose kernel launches are recorded once for each number of points and played back.

    A single prompt is hundreds of small kernels, and launching them takes longer than running them. Batches run as they are.
    It has a stream of high priority, so that a prompt overtakes the slices that are embedded ahead.
    """

    def __init__(self, decoder: nn.Module, device: torch.device) -> None:
        self._decoder = decoder
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._captured: dict[int, _Capture] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """One caller at a time: a recording has one set of inputs and outputs."""
        with self._lock, torch.cuda.stream(self._stream):
            yield

    def __call__(
        self, features: torch.Tensor, point_coords: np.ndarray, point_labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        channels_last = features.permute(1, 2, 0)[None].to(self._device, torch.float32)
        coords, labels = (torch.from_numpy(each).to(self._device) for each in (point_coords, point_labels))
        inputs = (channels_last, coords, labels)
        batch, points = point_labels.shape
        if batch > 1 or points > _MAX_CAPTURED_POINTS:
            return self._decoder(*inputs)
        if points not in self._captured:
            self._captured[points] = _Capture(self._decoder, inputs)
        return self._captured[points].play(inputs)


class _Capture:
    """One recorded call. Inputs are copied into its own; its outputs stay until the next call."""

    def __init__(self, decoder: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = tuple(each.clone() for each in inputs)
        for _ in range(3):  # libraries set themselves up in the first calls, which must not be recorded
            decoder(*self._inputs)
        torch.cuda.current_stream().synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: the threads that embed ahead may launch kernels meanwhile.
        with torch.cuda.graph(
            self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            self._outputs = decoder(*self._inputs)

    def play(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._outputs
