# SPDX-License-Identifier: Apache-2.0
"""Segment Anything: Meta's vit_b, vit_l and vit_h, and MedSAM, a vit_b trained on medical images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.utils.transforms import ResizeLongestSide
from torch.nn import functional

from .base import Embedding, PixelPrompt, check_image, longest_side_size
from .network import NetworkModel


class Sam(NetworkModel):
    """Computes what segment_anything's SamPredictor computes, bit for bit in float32.

    A single point is ambiguous (an organ, or a part of it?): the decoder proposes three masks and the best
    scored is taken. For a box, or several points, it gives the one mask that it was trained to give there.
    """

    takes_points = True
    takes_box = True
    preprocessing = "sam 1: longest side 1024, mean and deviation of ImageNet, zero padding"

    def __init__(self, name: str, checkpoint: Path, device: str, precision: str | None) -> None:
        network = self.build(name)
        self._mean, self._deviation = network.pixel_mean.clone(), network.pixel_std.clone()
        super().__init__(network, name, checkpoint, device, precision)
        self._resize = ResizeLongestSide(self.image_size)

    def build(self, name: str) -> torch.nn.Module:
        return sam_model_registry[name]()

    def wants_several(self, prompt: PixelPrompt) -> bool:
        return len(prompt.points_xy) == 1 and not prompt.has_box

    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        return longest_side_size(original_size, self.image_size)

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        rows, columns = self.input_size(check_image(image))
        pixels = torch.from_numpy(self._resize.apply_image(image)).permute(2, 0, 1).contiguous()
        normal = (pixels - self._mean) / self._deviation
        return functional.pad(normal, (0, self.image_size - columns, 0, self.image_size - rows))

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        return self._network.postprocess_masks(logits, embedding.input_size, embedding.original_size) > 0


class MedSam(Sam):
    """Boxes only; the arithmetic of bowang-lab/MedSAM's MedSAM_Inference.py, which differs from SAM's.

    The slice is squeezed into the square by cubic splines, its intensities stretched to 0..1, and the
    probability, not the logit, is resized to the slice's size. Points, even beside a box, are refused.
    """

    takes_points = False
    preprocessing = "medsam 1: 1024x1024 by cubic splines, min-max"

    def build(self, name: str) -> torch.nn.Module:
        return sam_model_registry["vit_b"]()

    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        return self.image_size, self.image_size

    def scale_pixels(self, pixels_xy: np.ndarray, embedding: Embedding) -> np.ndarray:
        rows, columns = embedding.original_size
        return pixels_xy / (columns, rows) * self.image_size

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        check_image(image)
        grey = bool((image == image[..., :1]).all())
        square = resize_by_splines(image[..., :1] if grey else image, self.image_size).astype(np.float32)
        low, high = square.min(), square.max()
        normal = torch.from_numpy((square - low) / max(high - low, 1e-8)).permute(2, 0, 1)
        return normal.expand(3, -1, -1).contiguous()

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        size = embedding.original_size
        return functional.interpolate(logits.sigmoid(), size, mode="bilinear") > 0.5


def resize_by_splines(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) uint8 as (size, size, C) uint8 by cubic splines, smoothed by a Gaussian where it shrinks.

    It is the resize that MedSAM was published with (order 3, anti-aliased, mirrored borders, range kept,
    fractions cut off), as a product of two matrices and with no further dependency. It differs from the
    original in rounding noise only, which the cut can make one grey level where the exact value is a whole
    number.
    """
    rows, columns = (_resize_matrix(length, size) for length in image.shape[:2])
    planes = np.moveaxis(image, -1, 0).astype(np.float64)
    resized = np.moveaxis(rows @ planes @ columns.T, 0, -1).clip(image.min(), image.max())
    # The nudge keeps noise of the last bit from cutting a whole number down to the one below.
    return (resized + 1e-6).astype(np.uint8)


@lru_cache(maxsize=8)
def _resize_matrix(length: int, size: int) -> np.ndarray:
    """(size, length) float64: what each of `length` samples, mirrored at its ends, adds to each of `size`."""
    sigma = max(0.0, (length / size - 1) / 2)
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    smoothing = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma else np.ones(1)
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    reach = radius + _SPLINE_REACH
    samples = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weights = sum(
        weight * _cardinal_spline(centres[:, None] - samples + offset)
        for weight, offset in zip(smoothing / smoothing.sum(), offsets, strict=True)
    )
    period = max(2 * length - 2, 1)
    mirrored = samples % period
    mirrored = np.minimum(mirrored, period - mirrored) if length > 1 else np.zeros_like(samples)
    matrix = np.zeros((size, length))
    np.add.at(matrix, (np.arange(size)[:, None], mirrored), weights)
    return matrix


_SPLINE_POLE = np.sqrt(3.0) - 2
_SPLINE_REACH = 30  # samples; beyond them the spline is below 1e-16


def _cardinal_spline(distance: np.ndarray) -> np.ndarray:
    """The cubic spline that is 1 at 0 and 0 at every other whole number (Unser 1999, equations 19 and 24)."""
    steps = np.arange(-_SPLINE_REACH, _SPLINE_REACH + 1)
    factors = np.sqrt(3.0) * _SPLINE_POLE ** np.abs(steps)
    return sum(factor * _b_spline(distance - step) for factor, step in zip(factors, steps, strict=True))


def _b_spline(distance: np.ndarray) -> np.ndarray:
    near = np.abs(distance)
    return np.where(near < 1, 2 / 3 - near**2 + near**3 / 2, np.clip(2 - near, 0, None) ** 3 / 6)
