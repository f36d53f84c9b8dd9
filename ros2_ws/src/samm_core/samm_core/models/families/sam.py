# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Segment Anything by torch: Meta's vit_b, vit_l and vit_h, and MedSAM, a vit_b trained on medical images."""

from __future__ import annotations

import torch
from segment_anything import sam_model_registry
from torch.nn import functional

from ..backends.torch import NetworkModel
from ..base import Embedding


class Sam(NetworkModel):
    """Computes what segment_anything's SamPredictor computes, bit for bit in float32."""

    def build_network(self) -> torch.nn.Module:
        return sam_model_registry[self.name]()

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        return self.network.postprocess_masks(logits, embedding.input_size, embedding.original_size) > 0


class MedSam(NetworkModel):
    """Computes what bowang-lab/MedSAM's MedSAM_Inference.py computes, see MedSamProcessor."""

    def build_network(self) -> torch.nn.Module:
        return sam_model_registry["vit_b"]()

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        size = embedding.original_size
        return functional.interpolate(logits.sigmoid(), size, mode="bilinear") > 0.5
