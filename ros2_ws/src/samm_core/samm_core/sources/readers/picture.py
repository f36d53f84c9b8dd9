# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures: PNG, JPEG, TIFF and BMP by Pillow, which refuses what is cut short; and arrays of pixels as one axial slice."""

from __future__ import annotations

import os
import struct
import warnings as python_warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import VolumeError
from .content import LPS_TO_RAS, Content, open_regular, require_size

if TYPE_CHECKING:
    from PIL import Image

# A few times more than any screen shows; Pillow warns beyond it.
MAX_PIXELS = 89_478_485
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_GREY = {"1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I", "F"}
# Tags of TIFF and of EXIF. White is the least value where the first is 0.
_PHOTOMETRIC, _ORIENTATION = 262, 274


def read(path: Path, max_voxels: int) -> Content:
    """One axial slice; a pixel counts as 1 mm. Alpha is left out, and a photograph is turned as its camera says.

    Raises VolumeError for what is no picture, is cut short, or holds several.
    """
    from PIL import Image, UnidentifiedImageError

    with os.fdopen(open_regular(path), "rb") as file:
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                python_warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=_FORMATS) as picture:
                    require_size(path.name, picture.size, 4, max_voxels)
                    # Telephones put a small copy, or a map of depths, behind a photograph (MPO).
                    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
                        raise VolumeError(f"{path.name} holds {picture.n_frames} pictures; save one of them.")
                    pixels, warnings = _pixels(path, picture)
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
                "it is no PNG, JPEG, TIFF or BMP"
                if isinstance(error, UnidentifiedImageError)
                else str(error).rstrip(".")
            )
            raise VolumeError(f"{path.name} cannot be read ({reason}); export it again.") from None
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() < 1 << 16:
        pixels = pixels.astype(np.uint16)
    return content_of(pixels, path.name, warnings)


def content_of(pixels: np.ndarray, name: str, warnings: tuple[str, ...] = ()) -> Content:
    """An array of pixels as one axial slice, its first row the front of the patient.

    pixels: (H, W) of any real number or bool, or (H, W, 3) or (H, W, 4), RGB and alpha, uint8, or uint16, of which the
    upper 8 bits are taken. Raises VolumeError that names the picture `name` for another array, and for one that is empty or
    has more than MAX_PIXELS.
    """
    pixels = np.asarray(pixels)
    colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if not (pixels.ndim == 2 or colour):
        raise VolumeError(
            f"{name} is an array of the shape {pixels.shape}; give rows × columns, or these × 3 colours."
        )
    if pixels.dtype.kind not in "buif" or (colour and pixels.dtype not in (np.uint8, np.uint16)):
        wanted = "8 or 16 bits without sign" if colour else "real numbers"
        raise VolumeError(f"{name} has pixels of the type {pixels.dtype}; give {wanted}.")
    require_size(name, pixels.shape[1::-1], pixels.itemsize, MAX_PIXELS)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype == np.float16:
        pixels = pixels.astype(np.float32)
    if colour:
        pixels = pixels[..., :3] if pixels.dtype == np.uint8 else (pixels[..., :3] >> 8).astype(np.uint8)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return Content(np.ascontiguousarray(pixels[None]), LPS_TO_RAS.copy(), warnings=warnings)


def _pixels(path: Path, picture: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """(H, W), or (H, W, 3) RGB, upright; and what is to be told."""
    from PIL import ImageOps

    warnings: tuple[str, ...] = ()
    grey = picture.mode in _GREY
    white_is_least = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0
    # As it is stored; Pillow makes 8 bits of colours, and RGBA of 16-bit grey with alpha.
    stored = str(picture.tile[0][3]) if picture.tile else ""
    if not grey and ";16" in stored:
        warnings += (f"{path.name} has 16 bits a colour; the upper 8 were taken.",)
    if picture.getexif().get(_ORIENTATION, 1) not in (0, 1):
        picture = ImageOps.exif_transpose(picture)
        warnings += (f"{path.name} was turned upright, as its camera says (EXIF orientation).",)
    if not grey:
        picture = picture.convert("L" if picture.mode == "LA" or "LA;16" in stored else "RGB")
    pixels = np.array(picture)
    if white_is_least and picture.mode.startswith("I;16"):
        # Pillow inverts 8 bits alone.
        pixels = ~pixels
    return pixels, warnings
