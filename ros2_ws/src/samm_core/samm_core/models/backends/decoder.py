# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SAM's prompt encoder and mask decoder as one torch module, for export and for capture on CUDA."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ..families.click_maps import ClickLayers


class FusedDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder in one, with half of the arithmetic. It takes no mask_input.

    The few tokens and the 4096 pixels attend to each other. The published module projects all pixels to the keys and values
    of each head. Here the tokens absorb that projection: (Wk x)·q = x·(Wk^T q). Only the order of products differs, so masks
    differ by rounding. Transposed convolutions of stride 2 are products too.

    network: has `prompt_encoder` and `mask_decoder`.
    multimask: whether the outputs are all masks (the first for unambiguous prompts) or the first alone.
    clicks: maps of the clicks beside the pixels, where the weights were trained with them, see click_maps.py.
    """

    def __init__(self, network: nn.Module, multimask: bool, clicks: ClickLayers | None = None) -> None:
        super().__init__()
        self.prompts, self.decoder, self.clicks = network.prompt_encoder, network.mask_decoder, clicks
        self.masks = self.decoder.num_mask_tokens if multimask else 1
        self.image_size = float(self.prompts.input_image_size[0])
        with torch.no_grad():
            positions = self.prompts.get_dense_pe().flatten(2).transpose(1, 2)
            self.register_buffer("positions", positions.clone(), persistent=False)
            # By label + 1: padding has no place, the other four have.
            placed = torch.tensor([[0.0], [1.0], [1.0], [1.0], [1.0]])
            self.register_buffer("placed", placed, persistent=False)

    def forward(
        self, features: torch.Tensor, point_coords: torch.Tensor, point_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features (1, h, w, C), point_coords (B, N, 2), point_labels (B, N) to logits (B, M, 4h, 4w), scores (B, M).

        Coordinates and labels are those of Processor.point_inputs.
        """
        decoder, transformer = self.decoder, self.decoder.transformer
        _, height, width, channels = features.shape
        points = self._point_tokens(point_coords, point_labels)
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(points.shape[0], -1, -1), points], 1)
        pixels = features.float().reshape(1, height * width, channels) + self.prompts.no_mask_embed.weight
        if self.clicks:
            pixels = pixels + self.clicks.coarse(point_coords, point_labels)
        # `tokens` stay as they are: they are the positions of the queries, as in the published module.
        queries = tokens
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(queries, queries, queries)
            else:
                placed = queries + tokens
                queries = queries + layer.self_attn(placed, placed, queries)
            queries = layer.norm1(queries)
            placed_pixels = pixels + self.positions
            attended = _tokens_to_pixels(
                layer.cross_attn_token_to_image, queries + tokens, placed_pixels, pixels
            )
            queries = layer.norm2(queries + attended)
            queries = layer.norm3(queries + layer.mlp(queries))
            attended = _pixels_to_tokens(
                layer.cross_attn_image_to_token, placed_pixels, queries + tokens, queries
            )
            pixels = layer.norm4(pixels + attended)
        # Only the tokens that are read below attend to the image once more.
        queries, tokens = queries[:, : 1 + self.masks], tokens[:, : 1 + self.masks]
        attended = _tokens_to_pixels(
            transformer.final_attn_token_to_image, queries + tokens, pixels + self.positions, pixels
        )
        queries = transformer.norm_final_attn(queries + attended)
        weights = [decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in range(self.masks)]
        logits = self._masks(pixels, torch.stack(weights, 1), height, width)
        if self.clicks:
            logits = logits + self.clicks.fine(point_coords, point_labels, queries[:, 1:]).view(logits.shape)
        return logits, decoder.iou_prediction_head(queries[:, 0])[:, : self.masks]

    def _point_tokens(self, point_coords: torch.Tensor, point_labels: torch.Tensor) -> torch.Tensor:
        """(B, N, C): Fourier features of each point's place, plus the embedding of its label."""
        frequencies = self.prompts.pe_layer.positional_encoding_gaussian_matrix
        turns = (((point_coords + 0.5) / self.image_size) * 2 - 1) @ frequencies * (2 * math.pi)
        places = torch.cat([turns.sin(), turns.cos()], -1)
        # By label + 1: padding, negative, positive, the two corners of a box.
        kinds = [self.prompts.not_a_point_embed, *self.prompts.point_embeddings]
        kinds = torch.cat([kind.weight for kind in kinds])
        return places * self.placed[point_labels + 1] + kinds[point_labels + 1]

    def _masks(self, pixels: torch.Tensor, weights: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Each pixel becomes 2×2, each of those 2×2 again; a mask is their product with its weights (B, M, c)."""
        first, norm, gelu, second, last_gelu = self.decoder.output_upscaling
        batch, count = weights.shape[:2]
        fine = (pixels @ _as_matrix(first)).view(-1, height * width, 4, first.out_channels) + first.bias
        fine = gelu(functional.layer_norm(fine, (first.out_channels,), norm.weight, norm.bias, norm.eps))
        finest = (fine @ _as_matrix(second)).view(-1, height * width, 4, 4, second.out_channels) + second.bias
        finest = last_gelu(finest).reshape(-1, height * width * 16, second.out_channels)
        # Row, column, then which of the first 2×2 and of the second.
        logits = (finest @ weights.transpose(1, 2)).view(batch, height, width, 2, 2, 2, 2, count)
        return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(batch, count, height * 4, width * 4)


def _as_matrix(convolution: nn.ConvTranspose2d) -> torch.Tensor:
    """A transposed convolution of kernel and stride 2 as (in, 2·2·out)."""
    return convolution.weight.permute(0, 2, 3, 1).reshape(convolution.in_channels, -1)


def _per_head(attention: nn.Module, linear: nn.Linear, tokens: torch.Tensor) -> torch.Tensor:
    """(B, H, N, d) of (B, N, C)."""
    batch, count, _ = tokens.shape
    return linear(tokens).view(batch, count, attention.num_heads, -1).transpose(1, 2)


def _tokens_to_pixels(
    attention: nn.Module, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """The output of `attention`, (B, N, C), for queries (B, N, C) on keys and values (·, P, C), which are not projected."""
    heads = attention.num_heads
    batch, count, channels = queries.shape
    width = attention.internal_dim // heads
    projected = _per_head(attention, attention.q_proj, queries) / math.sqrt(width)
    # The bias of the keys adds the same to all scores of a query, which does not change their softmax.
    projected = (projected @ attention.k_proj.weight.view(heads, width, channels)).reshape(
        batch, heads * count, channels
    )
    # Pixels first, then transposed: OpenVINO fuses the shorter form into an attention that takes twice as long.
    weights = torch.softmax((keys @ projected.transpose(1, 2)).transpose(1, 2), -1)
    attended = (weights @ values).view(batch, heads, count, channels)
    attended = attended @ attention.v_proj.weight.view(heads, width, channels).transpose(1, 2)
    attended = attended + attention.v_proj.bias.view(heads, 1, width)
    return attention.out_proj(attended.transpose(1, 2).reshape(batch, count, heads * width))


def _pixels_to_tokens(
    attention: nn.Module, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """The output of `attention`, (B, P, C), for queries (·, P, C), which are not projected, on keys and values (B, N, C)."""
    heads = attention.num_heads
    batch, count, channels = keys.shape
    width = attention.internal_dim // heads
    projected = _per_head(attention, attention.k_proj, keys) / math.sqrt(width)
    bias = (projected @ attention.q_proj.bias.view(heads, width, 1)).reshape(batch, 1, heads * count)
    projected = (projected @ attention.q_proj.weight.view(heads, width, channels)).reshape(
        batch, heads * count, channels
    )
    scores = (queries @ projected.transpose(1, 2) + bias).view(batch, -1, heads, count)
    weights = torch.softmax(scores, -1).view(batch, -1, heads * count)
    outputs = _per_head(attention, attention.v_proj, values) @ attention.out_proj.weight.t().reshape(
        heads, width, channels
    )
    return weights @ outputs.reshape(batch, heads * count, channels) + attention.out_proj.bias
