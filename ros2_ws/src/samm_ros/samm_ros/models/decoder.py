# SPDX-License-Identifier: Apache-2.0
"""SAM's prompt encoder and mask decoder as one torch module, for export and for CUDA graphs."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class DecoderGraph(nn.Module):
    """SAM's prompt encoder and mask decoder in one, with half of the arithmetic.

    The few tokens and the 4096 pixels attend to each other. Where the published module projects all pixels to keys and
    values of each head, here the tokens' side absorbs the projection: (Wk x)·q = x·(Wk^T q). Products are only
    associated otherwise, so masks differ by rounding. Transposed convolutions of stride 2 are products too.

    several: whether the outputs are all four masks (the first for unambiguous prompts) or the first alone.
    """

    def __init__(self, network: nn.Module, several: bool) -> None:
        super().__init__()
        prompts, self.decoder = network.prompt_encoder, network.mask_decoder
        self.masks = self.decoder.num_mask_tokens if several else 1
        self.image_size = float(prompts.input_image_size[0])
        with torch.no_grad():
            positions = prompts.get_dense_pe().flatten(2).transpose(1, 2)
            outputs = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
            kinds = [prompts.not_a_point_embed, *prompts.point_embeddings]
            self.register_buffer("positions", positions.clone())
            self.register_buffer("outputs", outputs[None].clone())
            self.register_buffer("no_mask", prompts.no_mask_embed.weight[None].clone())
            self.register_buffer("frequencies", prompts.pe_layer.positional_encoding_gaussian_matrix.clone())
            # Row label + 1: padding, negative, positive, the box's corners.
            self.register_buffer("kinds", torch.cat([kind.weight for kind in kinds]))
            self.register_buffer("placed", torch.tensor([[0.0], [1.0], [1.0], [1.0], [1.0]]))

    def forward(
        self, features: torch.Tensor, xy: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features (1, h, w, C), xy (B, N, 2), labels (B, N) to logits (B, M, 4h, 4w) and scores (B, M)."""
        decoder, transformer = self.decoder, self.decoder.transformer
        _, height, width, channels = features.shape
        prompt = self._prompt_tokens(xy, labels)
        tokens = torch.cat([self.outputs.expand(prompt.shape[0], -1, -1), prompt], 1)
        pixels = features.float().reshape(1, height * width, channels) + self.no_mask
        queries = tokens
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(queries, queries, queries)
            else:
                placed = queries + tokens
                queries = queries + layer.self_attn(placed, placed, queries)
            queries = layer.norm1(queries)
            placed_pixels = pixels + self.positions
            seen = _tokens_to_pixels(layer.cross_attn_token_to_image, queries + tokens, placed_pixels, pixels)
            queries = layer.norm2(queries + seen)
            queries = layer.norm3(queries + layer.mlp(queries))
            told = _pixels_to_tokens(
                layer.cross_attn_image_to_token, placed_pixels, queries + tokens, queries
            )
            pixels = layer.norm4(pixels + told)
        # Only the tokens that are read below look at the image once more.
        queries, tokens = queries[:, : 1 + self.masks], tokens[:, : 1 + self.masks]
        seen = _tokens_to_pixels(
            transformer.final_attn_token_to_image, queries + tokens, pixels + self.positions, pixels
        )
        queries = transformer.norm_final_attn(queries + seen)
        weights = [decoder.output_hypernetworks_mlps[i](queries[:, 1 + i]) for i in range(self.masks)]
        logits = self._masks(pixels, torch.stack(weights, 1), height, width)
        return logits, decoder.iou_prediction_head(queries[:, 0])[:, : self.masks]

    def _prompt_tokens(self, xy: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, N, C): Fourier features of the place, plus what kind of mark is there."""
        turns = (((xy + 0.5) / self.image_size) * 2 - 1) @ self.frequencies * (2 * math.pi)
        places = torch.cat([turns.sin(), turns.cos()], -1)
        return places * self.placed[labels + 1] + self.kinds[labels + 1]

    def _masks(self, pixels: torch.Tensor, weights: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Each pixel becomes 2×2, each of those 2×2 again; a mask is their product with its weights (B, M, c)."""
        first, norm, gelu, second, last_gelu = self.decoder.output_upscaling
        batch, count = weights.shape[:2]
        fine = (pixels @ _as_matrix(first)).view(-1, height * width, 4, first.out_channels) + first.bias
        fine = gelu(functional.layer_norm(fine, (first.out_channels,), norm.weight, norm.bias, norm.eps))
        finest = (fine @ _as_matrix(second)).view(-1, height * width, 4, 4, second.out_channels) + second.bias
        finest = last_gelu(finest).reshape(-1, height * width * 16, second.out_channels)
        # row, column, then which of the first 2×2 and of the second.
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
    """What `attention` gives for queries (B, N, C) on keys and values (·, P, C), without projecting those."""
    heads = attention.num_heads
    batch, count, channels = queries.shape
    width = attention.internal_dim // heads
    asked = _per_head(attention, attention.q_proj, queries) / math.sqrt(width)
    # The bias of the keys adds the same to all scores of a query, which the softmax does not see.
    asked = (asked @ attention.k_proj.weight.view(heads, width, channels)).reshape(
        batch, heads * count, channels
    )
    # Pixels first, then turned: OpenVINO fuses the shorter form into an attention that takes twice as long.
    weights = torch.softmax((keys @ asked.transpose(1, 2)).transpose(1, 2), -1)
    seen = (weights @ values).view(batch, heads, count, channels)
    seen = seen @ attention.v_proj.weight.view(heads, width, channels).transpose(1, 2)
    seen = seen + attention.v_proj.bias.view(heads, 1, width)
    return attention.out_proj(seen.transpose(1, 2).reshape(batch, count, heads * width))


def _pixels_to_tokens(
    attention: nn.Module, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """What `attention` gives for queries (·, P, C) on keys and values (B, N, C), without projecting the queries."""
    heads = attention.num_heads
    batch, count, channels = keys.shape
    width = attention.internal_dim // heads
    offered = _per_head(attention, attention.k_proj, keys) / math.sqrt(width)
    bias = (offered @ attention.q_proj.bias.view(heads, width, 1)).reshape(batch, 1, heads * count)
    offered = (offered @ attention.q_proj.weight.view(heads, width, channels)).reshape(
        batch, heads * count, channels
    )
    scores = (queries @ offered.transpose(1, 2) + bias).view(batch, -1, heads, count)
    weights = torch.softmax(scores, -1).view(batch, -1, heads * count)
    told = _per_head(attention, attention.v_proj, values) @ attention.out_proj.weight.t().reshape(
        heads, width, channels
    )
    return weights @ told.reshape(batch, heads * count, channels) + attention.out_proj.bias
