# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures as sources: an endoscope's frame, an ultrasound still, an X-ray or a photograph is a volume of one slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..geometry import Plane, VolumeGeometry
from .base import SliceKey
from .readers.picture import MAX_PIXELS, content_of
from .volume import Volume, volume_of
from .window import Window

__all__ = ["MAX_PICTURES", "MAX_PIXELS", "PICTURE", "picture_plane", "picture_volume"]

# The one image of a picture in memory.
PICTURE = SliceKey(Plane.AXIAL, 0)
# So many that no file holds are loaded at a time, the newest ones: who sends one after the other goes on for hours.
MAX_PICTURES = 32


def picture_volume(pixels: np.ndarray, name: str = "picture", window: Window | None = None) -> Volume:
    """A picture in memory as a volume of one axial slice, PICTURE; a pixel counts as 1 mm.

    pixels: (H, W) of any real number or bool, or (H, W, 3) RGB or (H, W, 4) with alpha, which is left out; uint8, or uint16,
    of which the upper 8 bits are taken. name: to show. window: of grey; None chooses one (see automatic_window).

    It has the uid of a file with the same pixels, and no uri. Raises VolumeError for an array that is no picture, is empty,
    not finite anywhere, or has more than MAX_PIXELS.
    """
    # A copy: whoever gave the array may draw on it.
    content = content_of(np.array(pixels), name)
    return replace(volume_of(content, Path("picture"), window), name=name, uri="")


def picture_plane(geometry: VolumeGeometry) -> Plane | None:
    """The plane of the one image that a volume is; None: it has several. A radiograph's may be coronal."""
    if geometry.dimensions[2] != 1:
        return None
    return next(plane for plane in Plane if geometry.axis(plane) == 2)
