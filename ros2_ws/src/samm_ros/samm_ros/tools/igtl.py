# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Images and transforms of an OpenIGTLink server, such as PLUS or 3D Slicer, as a stream.

Its messages are unpacked by pyigtl. The connection is made here: pyigtl's client does not notice a server that has gone, and
takes whatever size a message claims.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pyigtl.messages import MessageBase

from samm_core.errors import FrameError, LaunchError
from samm_core.stream.pixels import MAX_SIDE
from samm_core.stream.play.base import as_pixels

from .player import StreamPublisher, split_pose

IMAGE, TRANSFORM = "IMAGE", "TRANSFORM"
DEFAULT_PORT = 18944
# How long the server may take to accept; how often it is looked whether to end; and how long until it is tried again.
_CONNECT_S, _LOOK_S, _AGAIN_S = 2.0, 0.2, 0.5
# The largest image that is taken, in 16 bits, and something for its header.
_MOST_BYTES = 2 * MAX_SIDE**2 + (1 << 20)
_CHUNK = 1 << 20
# Of what PLUS and 3D Slicer say of a transform, what does not forbid its use.
_GOOD = ("OK", "UNKNOWN")
# The last time that ROS can tell, in 2038; a later one is no time.
_LAST_NS = (1 << 31) * 1_000_000_000 - 1
# Off 1: what a transform of float32 may stretch.
_SCALE = 0.01


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, or HOST alone, with OpenIGTLink's own port. Raises LaunchError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or text.strip().endswith("]"):
        host, port = text.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535 or any(c.isspace() for c in host):
        raise LaunchError(f'"{text[:80]}" is no HOST:PORT; give such as localhost:{DEFAULT_PORT}.')
    return host, int(port)


class IgtlReceiver:
    """Keeps the newest message of each device of a server, and connects again where the server went; a context manager.

    said: is told, in sentences, when a connection comes and goes. Raises LaunchError for a host that is not known.
    """

    def __init__(self, host: str, port: int, said: Callable[[str], None]) -> None:
        self._address = host, port
        self._name = f"{host}:{port}"
        self._said = said
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", "") or "no name"
            raise LaunchError(f"There is no computer {host} ({reason}); check HOST:PORT.") from None
        self._newest: dict[tuple[str, str], tuple[dict, bytes]] = {}
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="igtl", daemon=True)

    def __enter__(self) -> IgtlReceiver:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def take(self, timeout_s: float) -> list[MessageBase]:
        """The newest message of each device that sent one since the last call; waits for one; empty: none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest, timeout_s)
            taken, self._newest = self._newest, {}
        messages = []
        for (kind, device), (header, body) in taken.items():
            message = MessageBase.create_message(kind)
            try:
                message.unpack(header, body)
            except Exception as error:  # pyigtl's own, of any kind, for what is damaged
                self._said(f"A message of {device} cannot be read ({type(error).__name__}: {error}).")
                continue
            messages.append(message)
        return messages

    def _run(self) -> None:
        told = ""
        while not self._ended.is_set():
            try:
                with socket.create_connection(self._address, _CONNECT_S) as connection:
                    self._said(f"Connected to {self._name}")
                    told = ""
                    connection.settimeout(_LOOK_S)
                    _keep_alive(connection)
                    self._receive(connection)
                reason = f"{self._name} closed the connection"
            except _NoIgtl as error:
                reason = f"{self._name} does not speak OpenIGTLink ({error})"
            except OSError as error:
                reason = f"There is no OpenIGTLink server at {self._name} ({error.strerror or error})"
            if reason != told and not self._ended.is_set():
                self._said(f"{reason}; it is tried again until it answers.")
                told = reason
            self._ended.wait(_AGAIN_S)

    def _receive(self, connection: socket.socket) -> None:
        """Until the server, or we, end it. Raises OSError or _NoIgtl."""
        while head := self._read(connection, MessageBase.IGTL_HEADER_SIZE):
            try:
                header = MessageBase.parse_header(head)
            except UnicodeDecodeError:
                raise _NoIgtl("a header has no names") from None
            kind, size = header["message_type"], header["body_size"]
            if not 1 <= int.from_bytes(head[:2], "big") <= 4 or not kind.isprintable():
                raise _NoIgtl("a header has no version")
            if size > _MOST_BYTES:
                raise _NoIgtl(f"a message claims {size} bytes, at most {_MOST_BYTES} are taken")
            body = self._read(connection, size)
            if body is None:
                return
            if kind in (IMAGE, TRANSFORM):
                with self._changed:
                    self._newest[kind, header["device_name"]] = header, body
                    self._changed.notify_all()

    def _read(self, connection: socket.socket, size: int) -> bytes | None:
        """`size` bytes; None: the connection ended, or we do."""
        data = bytearray()
        while len(data) < size:
            if self._ended.is_set():
                return None
            try:
                part = connection.recv(min(_CHUNK, size - len(data)))
            except TimeoutError:
                continue
            if not part:
                return None
            data += part
        return bytes(data)


class _NoIgtl(Exception):
    """What comes is no OpenIGTLink."""


def _keep_alive(connection: socket.socket) -> None:
    """Notice within seconds a server whose computer or cable went: it says no more, as one does that has nothing to send."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        with contextlib.suppress(AttributeError, OSError):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@dataclass
class Counts:
    """What was sent on, and left out."""

    images: int = 0
    poses: int = 0
    left_out: int = 0


class IgtlAdapter:
    """Sends a server's messages on: those of one device that sends images, and of one that sends transforms.

    image_device, transform_device: empty: the first that is heard. said: is told, in sentences, what is left out.
    """

    def __init__(
        self,
        node: StreamPublisher,
        image_device: str,
        transform_device: str,
        said: Callable[[str], None],
    ) -> None:
        self._node = node
        self._devices = {IMAGE: image_device, TRANSFORM: transform_device}
        self._said = said
        self._told: set[str] = set()
        self.counts = Counts()

    def send(self, message: MessageBase) -> None:
        """Send one message on, unless it is another device's, or cannot be used."""
        kind, device = message._message_type, message.device_name
        chosen = self._devices[kind]
        if not chosen:
            self._devices[kind] = chosen = device
            self._said(f"{kind} of the device {device} is sent on")
        if device != chosen:
            option = "--image-device" if kind == IMAGE else "--transform-device"
            self._once(f"{kind} of the device {device} is left out; {option} {device} takes it instead.")
            return
        stamp_ns = round(message.timestamp * 1e9)
        if not 0 < stamp_ns <= _LAST_NS:
            stamp_ns = self._node.now_ns()
        try:
            if kind == IMAGE:
                self._node.send_image(image_of(message), stamp_ns)
                self.counts.images += 1
            elif problem := _problem(message):
                self.counts.left_out += 1
                self._once(f"The transform {device} is {problem}; such ones are not sent on.")
            else:
                rigid, sizes = split_pose(message.matrix)
                if not np.allclose(sizes, 1, atol=_SCALE):
                    self._once(
                        f"The transform {device} has pixels of {sizes[0]:.4g} x {sizes[1]:.4g} mm, which its pose leaves out."
                    )
                self._node.send_pose(rigid, stamp_ns, _parent(device))
                self.counts.poses += 1
        except FrameError as error:
            self.counts.left_out += 1
            self._once(str(error))

    def _once(self, sentence: str) -> None:
        if sentence not in self._told and len(self._told) < 1000:
            self._told.add(sentence)
            self._said(sentence)


def image_of(message: MessageBase) -> np.ndarray:
    """(H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, of an IMAGE message, whose voxels come as (k, j, i) or (k, j, i, 3).

    Signed numbers are raised by half their range. Raises FrameError for volumes and other types.
    """
    voxels = message.image
    # pyigtl sends a picture of two axes as one with a single column i, and others one with a single slice k.
    axis = next((axis for axis in (0, 2) if voxels.shape[axis] == 1), None)
    if axis is None or not voxels.size:
        raise FrameError(
            f"{message.device_name} sends voxels of the shape {voxels.shape}; send one slice at a time."
        )
    pixels = voxels.squeeze(axis)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8
    if max(pixels.shape[:2]) > MAX_SIDE or not (colour or pixels.ndim == 2):
        raise FrameError(
            f"{message.device_name} sends images of the shape {pixels.shape} and type {pixels.dtype}; send grey, or 8-bit RGB, "
            f"with at most {MAX_SIDE} pixels a side."
        )
    return np.ascontiguousarray(pixels[..., :3] if colour else as_pixels(pixels, message.device_name))


def _problem(message: MessageBase) -> str:
    """What its sender says against a transform, a word; empty: nothing."""
    metadata = getattr(message, "metadata", {})
    status = str(metadata.get("TransformStatus", metadata.get("Status", "OK"))).strip()
    return "" if status.upper() in _GOOD else status


def _parent(device: str) -> str:
    """The frame that a transform leads to, by its name: of ProbeToTracker, tracker."""
    return device.rpartition("To")[2].lower() or "world"
