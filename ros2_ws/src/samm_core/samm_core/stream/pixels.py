# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image message as pixels: by the names that ROS gives to encodings, or out of a JPEG or PNG file."""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import FrameError

# Of a picture, in pixels; what a header claims beyond it is refused before anything is held.
MAX_SIDE = 8192

# What becomes RGB of 16 bits is scaled as cv_bridge does it: all 16 count, whatever the camera's sensor has.
_TO_8_BITS = 255 / 65535


@dataclass(frozen=True)
class _Encoding:
    """channels: values of `bits` a pixel. conversion: OpenCV's, to RGB; None: it is grey, or RGB already."""

    bits: int
    channels: int
    conversion: int | None = None
    bayer: bool = False


_ENCODINGS = {
    "mono8": _Encoding(8, 1),
    "8UC1": _Encoding(8, 1),
    "mono16": _Encoding(16, 1),
    "16UC1": _Encoding(16, 1),
    "rgb8": _Encoding(8, 3),
    "bgr8": _Encoding(8, 3, cv2.COLOR_BGR2RGB),
    # cv_bridge takes it for BGR.
    "8UC3": _Encoding(8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(8, 4, cv2.COLOR_BGRA2RGB),
    "yuv422": _Encoding(8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Encoding(8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Encoding(8, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Encoding(8, 2, cv2.COLOR_YUV2RGB_YUY2),
} | {
    f"bayer_{pattern}{bits}": _Encoding(bits, 1, getattr(cv2, f"COLOR_Bayer{pattern.upper()}2RGB"), True)
    for pattern in ("rggb", "bggr", "gbrg", "grbg")
    for bits in (8, 16)
}
ENCODINGS = tuple(_ENCODINGS)


def decode_image(
    data: bytes | memoryview | np.ndarray,
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool = False,
) -> np.ndarray:
    """The pixels of a sensor_msgs/Image, whose fields these are.

    data: anything contiguous of bytes. step: the bytes from one row to the next. Returns (height, width) uint8 or
    uint16, or (height, width, 3) uint8 RGB; contiguous; it may share the memory of `data`. Raises FrameError for an
    encoding that is not one of ENCODINGS, and for sizes that do not fit each other, or are beyond MAX_SIDE.
    """
    kind = _ENCODINGS.get(encoding)
    if kind is None:
        raise FrameError(
            f"The image's encoding {encoding[:40]!r} is not known; send one of {', '.join(ENCODINGS)}."
        )
    _require_size(width, height)
    if kind.conversion in (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2) and width % 2:
        raise FrameError(
            f"The image is {width} pixels wide, but {encoding} has pairs of pixels; send an even width."
        )
    if kind.bayer and min(width, height) < 2:
        raise FrameError(
            f"The image has {width} x {height} pixels, but {encoding} has its colours in squares of 2 x 2; send more."
        )
    row = width * kind.channels * kind.bits // 8
    if step < row:
        raise FrameError(
            f"The image's step is {step} bytes, but a row of {width} pixels in {encoding} has {row}; correct the step."
        )
    have = memoryview(data).nbytes
    # Some leave out what pads the last row.
    needed = step * (height - 1) + row
    if have < needed:
        raise FrameError(f"The image has {have} bytes of its {needed}; send it whole.")
    rows = np.ndarray((height, row), np.uint8, np.ascontiguousarray(data), strides=(step, 1))
    pixels = np.ascontiguousarray(rows)
    if kind.bits == 16:
        order = ">" if is_bigendian else "<"
        pixels = pixels.view(f"{order}u2").astype(np.uint16, copy=False)
    pixels = pixels.reshape(height, width) if kind.channels == 1 else pixels.reshape(height, width, -1)
    if kind.bayer:
        return _demosaiced(pixels, kind.conversion)
    return pixels if kind.conversion is None else cv2.cvtColor(pixels, kind.conversion)


def decode_compressed(data: bytes | memoryview | np.ndarray, format: str) -> np.ndarray:
    """The pixels of a sensor_msgs/CompressedImage, whose fields these are: a JPEG or PNG file.

    format: what image_transport writes, such as "rgb8; jpeg compressed bgr8", or "jpeg" and "png" of other senders; the
    file itself says what it is, and `format` how its colours are ordered. Returns (H, W) uint8 or uint16, or (H, W, 3)
    uint8 RGB; contiguous. Raises FrameError for other files, what is damaged or cut short, and sides beyond MAX_SIDE.
    """
    if "compressedDepth" in format:
        raise FrameError(
            "The image is of compressedDepth, which holds distances; send image_transport's compressed, of a picture."
        )
    encoding, semicolon, of_file = format.partition(";")
    encoding = encoding.strip()
    pixels = _unpacked(bytes(data), format)
    if encoding.startswith("bayer_") and pixels.ndim == 2:
        return decode_image(pixels, encoding, *pixels.shape, pixels.strides[0], sys.byteorder == "big")
    # image_transport hands its pixels to a writer of BGR. "compressed bgr8" says that they were; all else, that they were
    # not, so that the file has red and blue in each other's place.
    colour = encoding.startswith(("rgb", "bgr"))
    if pixels.ndim == 3 and semicolon and colour and "compressed bgr" not in of_file:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return pixels


def _unpacked(data: bytes, format: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            _require_size(*picture.size)
            if picture.format == "JPEG" and picture.mode in ("L", "RGB"):
                return _unpacked_jpeg(data, picture.mode)
            if picture.mode in ("1", "LA"):
                picture = picture.convert("L")
            elif picture.mode not in ("L", "I", "I;16", "I;16B", "I;16L"):
                picture = picture.convert("RGB")
            pixels = np.array(picture)
    except UnidentifiedImageError:
        raise FrameError(
            f"The image of the format {format[:40]!r} is no JPEG or PNG; send one of these."
        ) from None
    except Image.DecompressionBombError:
        raise FrameError(
            f"The image has more than {MAX_SIDE} pixels a side; send a smaller one, or a part of it."
        ) from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, TypeError) as error:
        raise FrameError(
            f"The image is damaged or cut short ({str(error).rstrip('.')}); send it whole."
        ) from None
    return pixels if pixels.dtype == np.uint8 else np.ascontiguousarray(pixels, np.uint16)


def _unpacked_jpeg(data: bytes, mode: str) -> np.ndarray:
    """By OpenCV, in a quarter of Pillow's time; raises ValueError for what is cut short, of which it says nothing."""
    # After the start of the last scan; what comes before may hold a whole thumbnail.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("it has no end")
    wanted = cv2.IMREAD_GRAYSCALE if mode == "L" else cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), wanted | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(error.err) from None
    if pixels is None:
        raise ValueError("it cannot be unpacked")
    return pixels if mode == "L" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def _require_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise FrameError(f"The image has {width} x {height} pixels; send one that is not empty.")
    if max(width, height) > MAX_SIDE:
        raise FrameError(
            f"The image has {width} x {height} pixels; at most {MAX_SIDE} a side are taken: send a smaller one, or a part."
        )


def _demosaiced(mosaic: np.ndarray, conversion: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a mosaic of one colour a pixel, at least 2 x 2.

    OpenCV repeats at the border what lies beside it, and would lose the border's own values: it gets one more period of the
    mosaic, mirrored so that the colours stay in order.
    """
    wider = cv2.copyMakeBorder(mosaic, 2, 2, 2, 2, cv2.BORDER_REFLECT_101)
    colour = cv2.cvtColor(wider, conversion)[2:-2, 2:-2]
    if colour.dtype == np.uint16:
        return cv2.convertScaleAbs(colour, alpha=_TO_8_BITS)
    return np.ascontiguousarray(colour)
