# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a family of models does around its network.

From a slice to the network's input, from a prompt to points, from logits to a mask.

This module imports no torch: every backend shares it, and a server on OpenVINO starts without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from ..errors import VolumeError
from ..mask_codec import MAX_SIDE
from ..prompts import PixelPrompt

# The labels of point_labels beside 0 and 1, as SAM's prompt encoder and its ONNX export have them.
PADDING, BOX_MIN, BOX_MAX = -1, 2, 3
# By SAM's decoder, for an ambiguous prompt.
PROPOSED_MASKS = 3


class Processor(ABC):
    """The arithmetic of one family, the same for all its weights.

    version: names the arithmetic. Change it whenever `preprocess` changes, so that saved embeddings are not mixed.
    image_size: S, the side of the encoder's input in pixels.
    takes_points, takes_box, takes_mask: what a prompt of this family may hold.
    points_correct_a_box: whether the family decodes a box better alone than with points. Its points are then used only
        where the mask of the box disagrees with them.
    """

    version: str
    image_size: int
    takes_points: bool
    takes_box: bool
    takes_mask: bool
    points_correct_a_box = False

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """A slice, (H, W, 3) uint8, as the encoder's input, (3, S, S) float32.

        Raises VolumeError for another shape or type, for a side over MAX_SIDE, and for a slice too thin to be resized.
        """
        resized = self.resized(image)
        rows, columns, channels = resized.shape
        square = np.zeros((3, self.image_size, self.image_size), np.float32)
        for channel, table in enumerate(self.intensities(resized)):
            grey = np.ascontiguousarray(resized[..., min(channel, channels - 1)])
            square[channel, :rows, :columns] = cv2.LUT(grey, table)
        return square

    def resized(self, image: np.ndarray) -> np.ndarray:
        """A slice, (H, W, 3) uint8, in `input_size`, (h, w, 3) uint8, or (h, w, 1) where its three channels are equal.

        Raises what `preprocess` raises.
        """
        rows, columns = self.input_size(check_image(image))
        grey = bool((image == image[..., :1]).all())
        resized = self.resize(image[..., 0] if grey else image, rows, columns)
        return resized.reshape(rows, columns, -1)

    @abstractmethod
    def resize(self, pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """(H, W) or (H, W, 3) uint8 as (rows, columns) or (rows, columns, 3) uint8, each channel by itself."""

    @abstractmethod
    def intensities(self, resized: np.ndarray) -> np.ndarray:
        """What the encoder takes for the grey values 0..255 of each channel of `resized`, (3, 256) float32."""

    @abstractmethod
    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a slice after the resize, before the padding."""

    def scale_pixels(self, pixels_xy: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Pixels of the slice, (N, 2) float64, as pixels of the encoder's input, (N, 2) float64."""
        (rows, columns), (old_rows, old_columns) = self.input_size(original_size), original_size
        return pixels_xy * (columns / old_columns, rows / old_rows)

    def multimask_output(self, prompt: PixelPrompt) -> bool:
        """Whether the decoder proposes three masks, the best scored of which is taken, or one.

        A single point is ambiguous: it may mean an organ or a part of it. A box, several points or a mask say which, and
        the decoder was trained to give one mask for them.
        """
        return len(prompt.points_xy) == 1 and not prompt.has_box and not prompt.has_mask

    def choices(self, prompt: PixelPrompt) -> int:
        """How many masks the decoder proposes for a prompt."""
        return PROPOSED_MASKS if self.multimask_output(prompt) else 1

    def point_inputs(
        self, prompt: PixelPrompt, original_size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """point_coords, (N, 2) float32 pixels of the encoder's input, and point_labels, (N,) int64, of points and box.

        A box is two points, BOX_MIN and BOX_MAX. Points without a box are followed by one of PADDING, because the weights
        were trained so.
        """
        pixels = [prompt.points_xy.astype(np.float64)]
        labels = prompt.labels.astype(np.int64).tolist()
        if prompt.has_box:
            pixels.append(prompt.box_xyxy.astype(np.float64).reshape(2, 2))
            labels += [BOX_MIN, BOX_MAX]
        coords = self.scale_pixels(np.concatenate(pixels), original_size)
        if not prompt.has_box:
            coords = np.concatenate([coords, np.zeros((1, 2))])
            labels.append(PADDING)
        return coords.astype(np.float32), np.array(labels, np.int64)

    @abstractmethod
    def mask(self, logits: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """One of the decoder's masks, (h, w) float32 logits, as a mask of the slice's size, (H, W) bool."""


class LiteMedSamProcessor(Processor):
    """The published inference of bowang-lab/MedSAM, branch LiteMedSAM.

    The longest side becomes 256 pixels, the slice's intensities are stretched to 0..1, and zeros fill the square to the
    right and below. Boxes keep the fractions of a pixel, which the original rounds away.
    """

    version = "lite_medsam 1: longest side 256 by area, min-max, zero padding"
    image_size = 256
    takes_points = True
    takes_box = True
    takes_mask = False
    points_correct_a_box = True

    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        return longest_side_size(original_size, self.image_size)

    def resize(self, pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        return cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)

    def intensities(self, resized: np.ndarray) -> np.ndarray:
        return stretched(resized)

    def scale_pixels(self, pixels_xy: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        return pixels_xy * (self.image_size / max(original_size))

    def mask(self, logits: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        rows, columns = self.input_size(original_size)
        return _resize(logits[:rows, :columns], original_size) > 0


class SamProcessor(Processor):
    """What segment_anything's SamPredictor does around the network."""

    version = "sam 1: longest side 1024, mean and deviation of ImageNet, zero padding"
    image_size = 1024
    takes_points = True
    takes_box = True
    takes_mask = True
    # Of ImageNet, as in build_sam.py of segment_anything.
    mean = np.array([[123.675], [116.28], [103.53]], np.float32)
    deviation = np.array([[58.395], [57.12], [57.375]], np.float32)

    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        return longest_side_size(original_size, self.image_size)

    def resize(self, pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))

    def intensities(self, resized: np.ndarray) -> np.ndarray:
        return (np.arange(256, dtype=np.float32) - self.mean) / self.deviation

    def mask(self, logits: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        rows, columns = self.input_size(original_size)
        square = _resize(logits, (self.image_size, self.image_size))
        return _resize(square[:rows, :columns], original_size) > 0


class MedSamProcessor(SamProcessor):
    """The arithmetic of bowang-lab/MedSAM's MedSAM_Inference.py, which differs from SAM's.

    The slice is squeezed into the square by cubic splines, and its intensities are stretched to 0..1. The probability,
    not the logit, is resized to the slice's size. Points and masks are refused, even beside a box.
    """

    version = "medsam 1: 1024x1024 by cubic splines, min-max"
    takes_points = False
    takes_mask = False

    def input_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        return self.image_size, self.image_size

    def scale_pixels(self, pixels_xy: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        rows, columns = original_size
        return pixels_xy / (columns, rows) * self.image_size

    def resize(self, pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        return resize_by_splines(pixels.reshape(*pixels.shape[:2], -1), self.image_size)

    def intensities(self, resized: np.ndarray) -> np.ndarray:
        return stretched(resized)

    def mask(self, logits: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        return _resize(1 / (1 + np.exp(-logits)), original_size) > 0.5


def check_image(image: np.ndarray) -> tuple[int, int]:
    """Rows and columns of `image`. Raises VolumeError unless it is (H, W, 3) uint8 with sides of 1 to MAX_SIDE."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise VolumeError(f"A slice has shape {image.shape} and type {image.dtype}; give (H, W, 3) uint8.")
    rows, columns = image.shape[:2]
    if not 1 <= min(rows, columns) <= max(rows, columns) <= MAX_SIDE:
        raise VolumeError(
            f"A slice of {rows}x{columns} pixels is out of range; each side is 1 to {MAX_SIDE}."
        )
    return rows, columns


def stretched(resized: np.ndarray) -> np.ndarray:
    """Grey values 0..255 stretched so that those of `resized` go from 0 to 1, (3, 256) float32."""
    low, high = np.float32(resized.min()), np.float32(resized.max())
    table = (np.arange(256, dtype=np.float32) - low) / max(high - low, np.float32(1e-8))
    return np.broadcast_to(table, (3, 256))


def longest_side_size(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Rows and columns of a slice of `size` once its longest side is `target`, rounded as SAM does.

    Raises VolumeError for a slice so thin that nothing would be left of its shorter side.
    """
    scale = target / max(size)
    rows, columns = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
    if min(rows, columns) < 1:
        raise VolumeError(f"A slice of {size[0]}x{size[1]} pixels is too thin to encode; resample it.")
    return rows, columns


def _resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) float32 as (H, W), bilinear between pixel centres and without smoothing, as torch's interpolate."""
    return cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_by_splines(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, C) uint8 as (size, size, C) uint8 by cubic splines, smoothed by a Gaussian where it shrinks.

    It is the resize that MedSAM was published with: order 3, anti-aliased, mirrored borders, range kept, fractions cut
    off. Here it is a product of two matrices and needs no further dependency. It differs from the original by rounding
    noise only. Where the exact value is a whole number, cutting fractions off can make that noise one grey level.
    """
    rows, columns = (_resize_matrix(length, size) for length in image.shape[:2])
    planes = np.moveaxis(image, -1, 0).astype(np.float64)
    resized = np.moveaxis(rows @ planes @ columns.T, 0, -1).clip(image.min(), image.max())
    # 1e-6 more: noise of the last bit must not turn a whole number into the one below.
    return (resized + 1e-6).astype(np.uint8)


@lru_cache(maxsize=8)
def _resize_matrix(length: int, size: int) -> np.ndarray:
    """(size, length) float64: the weight of each of `length` samples, mirrored at its ends, in each of `size`."""
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
    """The cubic B-spline at these distances from its centre, in samples."""
    near = np.abs(distance)
    return np.where(near < 1, 2 / 3 - near**2 + near**3 / 2, np.clip(2 - near, 0, None) ** 3 / 6)
