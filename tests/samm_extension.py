# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Stands in for the published SAMM extension, byte for byte: a REQ socket per request, 10 s of patience."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import zmq

NO_BOX = (-404, -404, -404, -404)


class SammExtension:
    """A context manager."""

    def __init__(self, port: int) -> None:
        self._address = f"tcp://127.0.0.1:{port}"
        self._context = zmq.Context()

    def __enter__(self) -> SammExtension:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def request(self, command: int, payload: bytes) -> bytes:
        """Raises zmq.Again when there is no reply within 10 s, as the extension would."""
        return self.request_frames([struct.pack("<i", command), payload])

    def request_frames(self, frames: Sequence[bytes]) -> bytes:
        with self._context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.rcvtimeo = 10_000
            socket.connect(self._address)
            socket.send_multipart(frames)
            return socket.recv()

    def set_image_size(self, shape: Sequence[int]) -> bytes:
        return self.request(0, struct.pack("<3i", *shape))

    def set_nth_image(self, index: int, shape: Sequence[int], image: np.ndarray) -> bytes:
        return self.request(
            1, struct.pack("<6i", index, *shape, *image.shape) + image.astype(np.uint8).tobytes()
        )

    def calculate_embeddings(self, save_to_local: int = 0, load_local: int = 0) -> bytes:
        return self.request(2, struct.pack("<2i", save_to_local, load_local))

    def inference(
        self,
        index: int,
        view: int,
        box: Sequence[int] = NO_BOX,
        positive: Sequence[Sequence[int]] = (),
        negative: Sequence[Sequence[int]] = (),
    ) -> bytes:
        payload = struct.pack("<6i", index, view, *box)
        for points in (positive, negative):
            payload += struct.pack("<i", len(points)) + b"".join(
                struct.pack("<2i", *point) for point in points
            )
        return self.request(3, payload)

    def select_model(self, index: int) -> bytes:
        return self.request(4, struct.pack("<i", index))

    def auto_seg(self, smallest: Sequence[int], largest: Sequence[int], index: int) -> bytes:
        return self.request(5, struct.pack("<5i", *smallest, *largest, index))
