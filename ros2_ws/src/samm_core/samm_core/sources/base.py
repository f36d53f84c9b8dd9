# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sources of images: what gives images to encode, and says where their pixels are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..geometry import Plane
from .window import Window


@dataclass(frozen=True)
class SliceKey:
    """One slice of a volume; index runs along the plane's IJK axis, from 0.

    window: None is the one that the volume was loaded with last. In another window a slice is another image.
    """

    plane: Plane
    index: int
    window: Window | None = None

    def __str__(self) -> str:
        return f"{self.plane.name.lower()} slice {self.index}"


@dataclass(frozen=True)
class ImageId:
    """One image of one source. Requests, masks, embeddings and the trace name images by it.

    source: the source's uid; empty: the volume that was loaded last. key: which of its images.
    """

    source: str
    key: SliceKey

    def __str__(self) -> str:
        return str(self.key)

    def in_window(self, window: Window) -> ImageId:
        """This image, in `window` where its key names none."""
        return self if self.key.window else replace(self, key=replace(self.key, window=window))


class ImageSource(Protocol):
    """What the embedding engine encodes images of. A volume is one.

    uid: names its content; equal content has equal names. name: to show.
    """

    @property
    def uid(self) -> str: ...

    @property
    def name(self) -> str: ...

    def image(self, key: SliceKey) -> np.ndarray:
        """(rows, columns, 3) uint8, contiguous."""
        ...

    def shape(self, key: SliceKey) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def pose(self, key: SliceKey) -> np.ndarray:
        """(4, 4) float64: pixels (x, y, 0, 1) to millimetres of the source's frame; RAS for volumes."""
        ...

    def problem(self, key: SliceKey) -> str:
        """Why it has no such image, one sentence; empty: it has."""
        ...


def not_loaded(source: str) -> str:
    """What somebody is told who works on a volume that the server does not hold."""
    return f"The volume {source[:8]} is not loaded, or was let go to make room for another; load it again."
