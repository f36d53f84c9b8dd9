# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The part of a slice that a mask changes, and what was in it before. NumPy alone: 3D Slicer uses it too."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

# Changes that can be taken back.
UNDO_STEPS = 200


@dataclass(frozen=True)
class SavedPixels:
    """The pixels inside a box of a slice.

    box: y0, y1, x0, x1, ends excluded. packed: 8 pixels in a byte, by rows, then zlib: undo holds whole volumes
    of them.
    """

    box: tuple[int, int, int, int]
    packed: bytes

    @classmethod
    def of(cls, pixels: np.ndarray, box: tuple[int, int, int, int]) -> SavedPixels:
        """pixels: (y1 − y0, x1 − x0) bool, those inside the box."""
        return cls(box, zlib.compress(np.packbits(pixels).tobytes(), 1))

    def unpack(self) -> np.ndarray:
        """(y1 − y0, x1 − x0) bool."""
        y0, y1, x0, x1 = self.box
        shape = (y1 - y0, x1 - x0)
        bits = np.unpackbits(np.frombuffer(zlib.decompress(self.packed), np.uint8), count=shape[0] * shape[1])
        return bits.reshape(shape).astype(bool)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """y0, y1, x0, x1 of a (rows, columns) mask, ends excluded; four zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
