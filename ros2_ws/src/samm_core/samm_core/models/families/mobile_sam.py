# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""MobileSAM: SAM with a TinyViT for its encoder. The rest is SAM's, preprocessing included."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as SamNetwork

from .lite_medsam import Conv2d_BN, build_lite_medsam
from .sam import Sam


class MobileSam(Sam):
    """Takes what SAM takes; its checkpoints are those of ChaoningZhang/MobileSAM (mobile_sam.pt)."""

    def build_network(self) -> torch.nn.Module:
        return build_mobile_sam()


def build_mobile_sam() -> SamNetwork:
    """MobileSAM's network, with weights not loaded yet."""
    return SamNetwork(
        image_encoder=_encoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()


def _encoder() -> torch.nn.Module:
    """MobileSAM's TinyViT, made from LiteMedSAM's.

    They differ in the patch embedding alone: MobileSAM's halves 1024 pixels twice, LiteMedSAM's keeps its 256. The
    classifier is never run. It is built all the same, because its weights are in the published checkpoint, which must
    fit strictly.
    """
    encoder = build_lite_medsam().image_encoder
    encoder.img_size = 1024
    encoder.patch_embed.seq[0] = Conv2d_BN(3, 32, 3, 2, 1)
    encoder.patch_embed.seq[2] = Conv2d_BN(32, 64, 3, 2, 1)
    encoder.norm_head = torch.nn.LayerNorm(320)
    encoder.head = torch.nn.Linear(320, 1000)
    return encoder
