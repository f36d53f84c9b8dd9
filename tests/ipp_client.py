# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A client of IPP/2 for tests, written from docs/understand/ipp.md: one socket, no threads, every wait with a limit."""

from __future__ import annotations

import hashlib
import itertools
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zmq

from samm_core import ipp
from samm_core.mask_codec import decode_mask
from samm_core.private import read_token
from samm_core.sources.volume import Volume


class Refused(Exception):
    """The bridge answered with an error."""


class BlockingIppClient:
    """One Slicer; a context manager. keys: the folder with client.key_secret and server.key."""

    def __init__(self, port: int, name: str, keys: Path | None = None, address: str = "127.0.0.1") -> None:
        self.name = name
        self.heard: list[ipp.Message] = []
        self._ids = itertools.count(1)
        self._numbers = itertools.count(time.time_ns() // 1000)
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = 50
        if keys:
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.auth.load_certificate(
                keys / "client.key_secret"
            )
            self.socket.curve_serverkey, _ = zmq.auth.load_certificate(keys / "server.key")
        self.socket.connect(f"tcp://{address}:{port}")

    def __enter__(self) -> BlockingIppClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def send(self, kind: str, buffer: bytes = b"", **fields: Any) -> None:
        self.socket.send_multipart(ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields))

    def wait(self, wanted: Callable[[ipp.Message], bool], timeout_s: float = 60.0) -> ipp.Message:
        """The first message from now on that is wanted. Pings meanwhile: the bridge forgets a silent client."""
        deadline = time.monotonic() + timeout_s
        next_ping = 0.0
        while (now := time.monotonic()) < deadline:
            if now >= next_ping and self.heard:
                self.ping()
                next_ping = now + 0.5
            if self.socket.poll(100):
                message = ipp.unpack(ipp.FROM_BRIDGE, self.socket.recv_multipart())
                self.heard.append(message)
                if wanted(message):
                    return message
        raise AssertionError(
            f"{self.name} waited {timeout_s} s in vain; heard {[m.type for m in self.heard]}, last {self.heard[-1:]}"
        )

    def ping(self) -> None:
        pong = next((m for m in reversed(self.heard) if m.type == "pong"), None)
        echo = {} if pong is None else {"bridge_ns": pong["bridge_ns"], "received_ns": time.monotonic_ns()}
        self.send("ping", sent_ns=time.monotonic_ns(), **echo)

    def ask(self, kind: str, timeout_s: float = 60.0, **fields: Any) -> ipp.Message:
        """Send a request; its reply. Raises Refused with the sentence of an error."""
        request = next(self._ids)
        self.send(kind, id=request, **fields)
        return self.reply(request, timeout_s)

    def reply(self, request: int, timeout_s: float = 60.0) -> ipp.Message:
        message = self.wait(lambda m: m.get("re") == request and m.type != "volume_wanted", timeout_s)
        if message.type == "error":
            raise Refused(message["message"])
        return message

    def hello(self, timeout_s: float = 60.0) -> ipp.Message:
        known = {"version": ipp.VERSION, "client": self.name, "software": "tests", "token": read_token()}
        return self.ask("hello", timeout_s, **known)

    def describe(self, volume: Volume, **changes: Any) -> dict[str, Any]:
        """The fields of the `volume` message for a volume that a file was read to."""
        voxels = np.ascontiguousarray(volume.voxels)
        description = {
            "key": hashlib.blake2b(voxels.data, digest_size=16).hexdigest(),
            "name": volume.name,
            "shape_kji": list(voxels.shape[:3]),
            "components": 3 if voxels.ndim == 4 else 1,
            "dtype": voxels.dtype.name,
            "ijk_to_ras": volume.geometry.ijk_to_ras.ravel().tolist(),
            "window": [volume.window.lower, volume.window.upper],
            "file": None,
        }
        return {**description, **changes}

    def send_volume(self, volume: Volume, stop_after: int | None = None) -> ipp.Message | None:
        """Over the wire, chunk by chunk; the `volume` reply, or None when stopped after so many chunks."""
        request = next(self._ids)
        data = np.ascontiguousarray(volume.voxels).tobytes()
        fields = self.describe(volume)
        self.send("volume", id=request, **fields)
        for number in itertools.count():
            message = self.wait(lambda m: m.get("re") == request or m.type == "error")
            if message.type == "error":
                raise Refused(message["message"])
            if message.type == "volume":
                return message
            if number == stop_after:
                return None
            chunk = data[message["offset"] : message["offset"] + ipp.CHUNK_BYTES]
            self.send("chunk", chunk, key=fields["key"], offset=message["offset"], crc32=zlib.crc32(chunk))

    def share_volume(self, volume: Volume, folder: Path, **changes: Any) -> ipp.Message:
        """Through the bridge's folder."""
        file = folder / f"{self.name}.raw"
        file.write_bytes(np.ascontiguousarray(volume.voxels).tobytes())
        return self.ask("volume", **self.describe(volume, **{"file": file.name, **changes}))

    def prompt(self, uid: str, plane: int, index: int, stream: int = 0, **fields: Any) -> int:
        """Send a prompt; its number."""
        number = next(self._numbers)
        prompt = {"segment": "", "points_xy": [], "labels": [], "box_xyxy": None, **fields}
        self.send("prompt", number=number, stream=stream, uid=uid, plane=plane, index=index, **prompt)
        return number

    def mask(self, number: int, timeout_s: float = 90.0) -> tuple[ipp.Message, np.ndarray]:
        """The answer to a prompt, (H, W) bool with its message; raises Refused with the sentence of a refusal."""
        message = self.wait(lambda m: m.get("number") == number, timeout_s)
        if message.type == "refused":
            raise Refused(message["message"])
        return message, decode_mask(message.buffer, tuple(message["shape"]))
