# SPDX-License-Identifier: Apache-2.0
"""Segment Anything by torch: Meta's vit_b, vit_l and vit_h, and MedSAM, a vit_b trained on medical images."""

from __future__ import annotations

from pathlib import Path

import torch
from segment_anything import sam_model_registry
from torch.nn import functional

from .base import Embedding
from .network import NetworkModel
from .recipe import MedSamRecipe, SamRecipe


class Sam(NetworkModel):
    """Computes what segment_anything's SamPredictor computes, bit for bit in float32."""

    recipe = SamRecipe()

    def __init__(self, name: str, checkpoint: Path, device: str, precision: str | None) -> None:
        super().__init__(self.build(name), name, checkpoint, device, precision)

    def build(self, name: str) -> torch.nn.Module:
        return sam_model_registry[name]()

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        return self._network.postprocess_masks(logits, embedding.input_size, embedding.original_size) > 0


class MedSam(Sam):
    """Boxes only; the arithmetic of bowang-lab/MedSAM's MedSAM_Inference.py, see MedSamRecipe."""

    recipe = MedSamRecipe()

    def build(self, name: str) -> torch.nn.Module:
        return sam_model_registry["vit_b"]()

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        size = embedding.original_size
        return functional.interpolate(logits.sigmoid(), size, mode="bilinear") > 0.5
