# SPDX-License-Identifier: Apache-2.0
"""What makes a torch model fast on CUDA: fused attention in the encoder, a captured decoder, batches for the sweep."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

import numpy as np
import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT, get_rel_pos
from torch import nn
from torch.nn import functional

from ..errors import BackendError
from .decoder import DecoderGraph
from .network import NetworkModel
from .parity import Golden, check_parity

# Prompts of more tokens are rare, and each number of tokens is a graph of its own.
_CAPTURED_TOKENS = 8
# Of what is free, the part that a batch of the sweep may take, and what a slice of 1024 pixels takes of it.
_BATCH_SHARE, _SLICE_BYTES = 0.25, 1.5 * 2**30
_BATCH_LIMIT = 16
_FASTEST_FIRST = ("float16", "bfloat16", "float32")


def accelerate(model: NetworkModel, precision: str | None) -> tuple[str, ...]:
    """Switch `model`, on CUDA, to its fast paths in the fastest precision that agrees; why others are refused is returned.

    precision: one of PRECISIONS; None: float16, bfloat16 or float32, the first that agrees. float16 comes first: it is as
    fast as bfloat16 and rounds eight times finer, and where it overflows the gate sees values that are not finite.
    The reference is the same network, eager, in float32 on the same device: `model` is that where nothing else agrees.
    """
    model.compute_in("float32")
    golden = Golden.of(model)
    encoder = model._network.image_encoder
    blocks = list(encoder.blocks) if isinstance(encoder, ImageEncoderViT) else []
    eager = [block.attn for block in blocks]
    try:
        for block in blocks:
            block.attn = FusedAttention(block.attn)
        model.decodes_in_batch = True
        model.batch_decoder = CapturedDecoder(
            DecoderGraph(model._network, several=model.takes_points).to(model.device).eval(), model.device
        )
        agrees, refused = choose_precision(model, golden, (precision,) if precision else _FASTEST_FIRST)
    except Exception as error:  # whatever a driver or its compiler trips over
        agrees = False
        refused = (f"The fast paths of CUDA are not used for {model.name}: {_in_one_line(error)}",)
    if agrees:
        model.backend += ", fused"
        free, _ = torch.cuda.mem_get_info(model.device)
        model.batch = int(min(max(free * _BATCH_SHARE // _SLICE_BYTES, 1), _BATCH_LIMIT))
        # One prepares and sends its slices while the other's are encoded.
        model.sweepers = 2
    else:
        for block, attention in zip(blocks, eager, strict=True):
            block.attn = attention
        model.decodes_in_batch, model.batch_decoder = False, None
        model.compute_in("float32")
    return refused


def choose_precision(
    model: NetworkModel, golden: Golden, precisions: Sequence[str]
) -> tuple[bool, tuple[str, ...]]:
    """Have `model` compute in the first of `precisions` that agrees with `golden`: whether one does, and why others do not."""
    refused: list[str] = []
    for precision in precisions:
        model.compute_in(precision)
        try:
            check_parity(model, golden, precision)
        except BackendError as error:
            refused.append(str(error))
        except Exception as error:  # a kernel that there is not, or no memory, in this precision
            refused.append(f"{model.backend} is not used for {model.name}: {_in_one_line(error)}")
        else:
            return True, tuple(refused)
    return False, tuple(refused)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class FusedAttention(nn.Module):
    """segment_anything's attention with decomposed relative positions, without its (T, T) matrix in memory.

    To the score of a query and a key it adds one term for the key's row and one for its column, both linear in the
    query. So queries are lengthened by these terms and keys by ones where their row and column are: the score is one
    product again, which the fused kernels take. The sums are the same, in another order.
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
        # The fused kernels want one width, of a multiple of eight.
        wide = -(-query.shape[-1] // 8) * 8
        query, key, value = (functional.pad(each, (0, wide - each.shape[-1])) for each in (query, key, value))
        seen = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :depth]
        return own.proj(seen.transpose(1, 2).reshape(batch, height, width, channels))


def _grid(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every pixel, (H, W) each."""
    return torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )


class CapturedDecoder:
    """A DecoderGraph whose launches are recorded once for each number of tokens and played back: a single prompt is
    hundreds of small kernels, and starting them takes longer than they do. Batches run as they are.

    It has a stream of high priority, so that a prompt overtakes what the sweep has queued.
    """

    def __init__(self, decoder: nn.Module, device: torch.device) -> None:
        self._decoder = decoder
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._captured: dict[int, _Capture] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stream(self) -> object:
        """One caller at a time: the captured graphs have one set of inputs."""
        with self._lock, torch.cuda.stream(self._stream):
            yield

    def __call__(
        self, features: torch.Tensor, xy: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = features.permute(1, 2, 0)[None].to(self._device, torch.float32)
        inputs = (pixels, torch.from_numpy(xy).to(self._device), torch.from_numpy(labels).to(self._device))
        batch, tokens = labels.shape
        if batch > 1 or tokens > _CAPTURED_TOKENS:
            return self._decoder(*inputs)
        if tokens not in self._captured:
            self._captured[tokens] = _Capture(self._decoder, inputs)
        return self._captured[tokens].play(inputs)


class _Capture:
    """One recorded call: inputs are copied into its own, outputs are its own until the next call."""

    def __init__(self, decoder: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = tuple(each.clone() for each in inputs)
        for _ in range(3):  # libraries set themselves up in the first calls, which must not be recorded
            decoder(*self._inputs)
        torch.cuda.current_stream().synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: the sweep's threads go on meanwhile.
        with torch.cuda.graph(
            self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            self._outputs = decoder(*self._inputs)

    def play(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._outputs
