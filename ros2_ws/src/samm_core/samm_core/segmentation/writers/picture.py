# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""PNG: the mask of a picture, whose pixels are labels that viewers show in the segments' colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from ...errors import MaskError
from .read_back import MARK

if TYPE_CHECKING:
    from ..segmentation import Segmentation


def write(segmentation: Segmentation, path: Path) -> None:
    """8 bits with a palette: a pixel's value is its segment's label, 0 is none. Rows and columns are the picture's.

    Raises MaskError for the segmentation of a volume of several slices.
    """
    slices = segmentation.geometry.dimensions[2]
    if slices != 1:
        raise MaskError(f".mask.png holds one slice, and the volume has {slices}; write .seg.nrrd.")
    labels = segmentation.labelmap()[0]
    palette = np.zeros((256, 3), np.uint8)
    for segment in segmentation.segments():
        palette[segment.label] = np.rint(np.array(segment.color) * 255)
    picture = Image.fromarray(labels).convert("L")
    picture.putpalette(palette.tobytes())
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", MARK)
    picture.save(path, pnginfo=about)
    shown = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if shown is None or not np.array_equal(shown[..., ::-1], palette[labels]):
        raise OSError(0, "it does not read back")
