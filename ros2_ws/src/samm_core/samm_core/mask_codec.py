# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A mask's encoding on every wire: topics, the journal, 3D Slicer's bridge."""

from __future__ import annotations

import zlib
from enum import IntEnum

import numpy as np

from .errors import MaskError

MAX_SIDE = 16384


class MaskEncoding(IntEnum):
    """How a mask's pixels are written: RAW, a byte each; BITS_ZLIB, 8 in a byte, first pixel highest, then zlib."""

    RAW = 0
    BITS_ZLIB = 1


def encode_mask(mask: np.ndarray, encoding: MaskEncoding = MaskEncoding.BITS_ZLIB) -> bytes:
    """The bytes of a mask, (H, W) bool or 0/1."""
    mask = np.ascontiguousarray(mask, dtype=bool)
    if encoding == MaskEncoding.RAW:
        return mask.tobytes()
    return zlib.compress(np.packbits(mask).tobytes())


def decode_mask(
    data: bytes, shape: tuple[int, int], encoding: MaskEncoding = MaskEncoding.BITS_ZLIB
) -> np.ndarray:
    """The (H, W) bool mask of `shape` that encode_mask wrote.

    Raises MaskError for anything else, and never holds more than the mask's own size for it.
    """
    height, width = shape
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise MaskError(f"A mask of {height}×{width} pixels cannot be; each side is 1 to {MAX_SIDE}.")
    if encoding not in tuple(MaskEncoding):
        raise MaskError(f"There is no mask encoding {encoding}; send 0 (raw) or 1 (bits, zlib).")
    if encoding == MaskEncoding.RAW:
        pixels = np.frombuffer(data, np.uint8)
        if pixels.size != height * width or pixels.max(initial=0) > 1:
            raise MaskError(f"The raw mask is not {height}×{width} bytes of 0 and 1; send it again.")
        return pixels.reshape(shape).astype(bool)
    size = (height * width + 7) // 8
    stream = zlib.decompressobj()
    try:
        packed = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise MaskError(f"The mask's data is no zlib stream ({error}); send it again.") from None
    if len(packed) != size or not stream.eof or stream.unused_data:
        raise MaskError(f"The mask's data does not unpack to {height}×{width} pixels; send it again.")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width).reshape(shape).view(bool)
