# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pixels as sensor_msgs/Image and CompressedImage, and back.

Not by cv_bridge: the Python wheels of ROS lack it, it trusts the numbers of a message, and images would then be read by one
code where ROS is installed and by another one where it is not.
"""

from __future__ import annotations

from array import array

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from samm_core.errors import FrameError
from samm_core.stream.pixels import decode_compressed, decode_image

COMPRESSIONS = ("jpeg", "png")
# Of 100; what image_transport takes by default.
_JPEG_QUALITY = 95


def image_to_msg(picture: np.ndarray) -> Image:
    """picture: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16. The header is left to the caller."""
    picture = np.ascontiguousarray(picture)
    height, width = picture.shape[:2]
    return Image(
        height=height,
        width=width,
        encoding=_encoding(picture),
        is_bigendian=picture.dtype.newbyteorder("=").str.startswith(">"),
        step=picture.strides[0],
        # Of bytes, an array is taken as it is; of a list, rclpy would look at every value.
        data=array("B", picture.tobytes()),
    )


def compressed_to_msg(picture: np.ndarray, compression: str) -> CompressedImage:
    """As image_to_msg, in one of COMPRESSIONS. Raises FrameError for 16 bits in JPEG, which has 8."""
    encoding = _encoding(picture)
    if encoding == "mono16" and compression == "jpeg":
        raise FrameError("An image in 16 bits does not fit into JPEG; send it as png, or uncompressed.")
    in_file = "bgr8" if encoding == "rgb8" else encoding
    written = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if encoding == "rgb8" else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if compression == "jpeg" else []
    done, data = cv2.imencode(f".{compression}", written, options)
    if not done:
        raise FrameError(f"The image of {picture.shape} cannot be written as {compression}.")
    return CompressedImage(
        format=f"{encoding}; {compression} compressed {in_file}", data=array("B", data.tobytes())
    )


def array_from_image(message: Image) -> np.ndarray:
    """(H, W) uint8 or uint16, or (H, W, 3) uint8 RGB; it may share the message's memory. Raises FrameError."""
    return decode_image(
        message.data,
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
    )


def array_from_compressed(message: CompressedImage) -> np.ndarray:
    """(H, W) uint8 or uint16, or (H, W, 3) uint8 RGB. Raises FrameError."""
    return decode_compressed(message.data, message.format)


def _encoding(picture: np.ndarray) -> str:
    if picture.ndim == 3:
        return "rgb8"
    return "mono16" if picture.dtype == np.uint16 else "mono8"
