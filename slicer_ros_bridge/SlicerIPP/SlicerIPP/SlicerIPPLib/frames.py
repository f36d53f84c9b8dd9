# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The images of a live stream, as they come over the wire. Knows neither Qt nor MRML."""

from __future__ import annotations

import zlib

import numpy as np

from samm_core import ipp


def decode_image(message: ipp.Message) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a `stream_image`, (H, W) or (H, W, 3) RGB, and its labels, (H, W); uint8.

    Raises ProtocolError for what is not as the message says, and never holds more than that for it.
    """
    shape, components = tuple(message["shape"]), message["components"]
    if components not in (1, 3):
        raise ipp.ProtocolError(f"An image of {components} values a pixel cannot be; send 1 or 3.")
    size = shape[0] * shape[1]
    buffer = memoryview(message.buffer)
    if len(buffer) < size * components:
        raise ipp.ProtocolError(
            f"The image is {shape[0]}×{shape[1]} of {components}, but has {len(buffer)} bytes alone; send it again."
        )
    pixels = np.frombuffer(buffer, np.uint8, size * components)
    stream = zlib.decompressobj()
    try:
        labels = stream.decompress(buffer[size * components :], size + 1)
    except zlib.error as error:
        raise ipp.ProtocolError(f"The image's labels are no zlib stream ({error}); send it again.") from None
    if len(labels) != size or not stream.eof or stream.unused_data:
        raise ipp.ProtocolError(f"The image's labels do not unpack to {shape[0]}×{shape[1]}; send it again.")
    return (
        pixels.reshape(shape if components == 1 else (*shape, components)),
        np.frombuffer(labels, np.uint8).reshape(shape),
    )
