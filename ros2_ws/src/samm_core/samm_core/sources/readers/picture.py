# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""PNG and JPEG, by Pillow, which refuses what is cut short."""

from __future__ import annotations

import os
import struct
import warnings as python_warnings
from pathlib import Path

import numpy as np

from ...errors import VolumeError
from .content import LPS_TO_RAS, Content, open_regular, require_size

_GREY = {"1", "L", "I;16", "I;16B", "I;16L", "I", "F"}


def read(path: Path, max_voxels: int) -> Content:
    """Raises VolumeError for what is no picture or is cut short. Alpha is left out; a pixel counts as 1 mm."""
    from PIL import Image, UnidentifiedImageError

    with os.fdopen(open_regular(path), "rb") as file:
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                # A few times more pixels are unpacked than any screen shows; Pillow's own limit.
                python_warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=("PNG", "JPEG")) as picture:
                    grey = picture.mode in _GREY or (picture.mode == "LA")
                    require_size(path.name, picture.size, 4, max_voxels)
                    if picture.mode == "LA":
                        picture = picture.convert("L")
                    elif not grey:
                        picture = picture.convert("RGB")
                    pixels = np.array(picture)
        except (
            UnidentifiedImageError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
            OSError,
            SyntaxError,
            ValueError,
            struct.error,
            EOFError,
        ) as error:
            reason = (
                "it is no PNG or JPEG"
                if isinstance(error, UnidentifiedImageError)
                else str(error).rstrip(".")
            )
            raise VolumeError(f"{path.name} cannot be read ({reason}); export it again.") from None
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 1 << 16:
        pixels = pixels.astype(np.uint16)
    return Content(np.ascontiguousarray(pixels[None]), LPS_TO_RAS.copy())
