# SPDX-License-Identifier: Apache-2.0
"""The client of slicer_bridge (IPP/2, docs/ipp.md): one thread that owns the socket. Knows neither Qt nor MRML."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .shared import ipp
from .shared.errors import SammError
from .shared.mask_codec import decode_mask

DISCONNECTED, CONNECTING, CONNECTED, LOST = "disconnected", "connecting", "connected", "lost"
HELLO_AGAIN_S = 0.3
DIAGNOSE_S = 3.0

OnReply = Callable[[ipp.Message], None]


class Mailbox:
    """Something that can be waited for with a poller or a socket notifier, and woken from any thread."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)

    def fileno(self) -> int:
        """Readable once woken."""
        return self._here.fileno()

    def wake(self) -> None:
        # Full: it will be read anyway. Closed: nobody waits.
        with contextlib.suppress(BlockingIOError, OSError):
            self._there.send(b"\0")

    def empty(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while self._here.recv(4096):
                pass

    def close(self) -> None:
        self._here.close()
        self._there.close()


class _Upload:
    """A volume on its way to the bridge."""

    def __init__(self, request: int, fields: dict[str, Any], voxels: np.ndarray, may_share: bool) -> None:
        self.request = request
        self.fields = fields
        self.voxels = voxels
        self.may_share = may_share
        self.file: Path | None = None


class IppClient:
    """No call waits. What comes in lies ready for take() once `wake` was called, from the client's thread.

    Events: ("state", state), ("round_trip", ms), ("message", Message), ("mask", Message, (H, W) bool),
    ("reply", on_reply, Message), ("problem", sentence).
    """

    def __init__(self, address: str, name: str, keys_folder: str, wake: Callable[[], None]) -> None:
        """name: of this Slicer, the same over its reconnections. Raises ValueError for keys that cannot be read."""
        import zmq

        self._zmq = zmq
        self._name = name
        self._address = address
        self._tell_gui = wake
        self._keys = _load_keys(keys_folder)
        self._ids = itertools.count(1)
        self._commands: deque[Callable[[], None]] = deque()
        self._events: deque[tuple] = deque()
        self._mailbox = Mailbox()
        self._replies: dict[int, OnReply] = {}
        self._unanswered: dict[int, tuple[int, list[bytes]]] = {}
        self._upload: _Upload | None = None
        self._folder: str | None = None
        self._pong: tuple[int, int] | None = None
        self._is_welcome = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="Slicer-IPP", daemon=True)
        self._thread.start()

    def take(self) -> list[tuple]:
        """The events since the last call."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def close(self) -> None:
        """Say goodbye and end the thread."""
        self._post(self._leave)
        self._thread.join(timeout=2.0)
        self._mailbox.close()

    def request(self, kind: str, on_reply: OnReply, **fields: Any) -> None:
        """Send; on_reply comes with the event of the reply, an `error` when the bridge was lost meanwhile."""

        def send() -> None:
            if not self._is_welcome:
                self._tell("reply", on_reply, _error("The bridge is not connected."))
                return
            request = next(self._ids)
            self._replies[request] = on_reply
            self._send(ipp.pack(ipp.FROM_SLICER, kind, id=request, **fields))

        self._post(send)

    def send(self, kind: str, **fields: Any) -> None:
        """Send what has no reply; while the bridge is away it is dropped."""
        self._post(lambda: self._send(ipp.pack(ipp.FROM_SLICER, kind, **fields)))

    def prompt(self, **fields: Any) -> None:
        """Send a prompt; again after a reconnection, if it is the newest of its stream and was not answered."""

        def send() -> None:
            frames = ipp.pack(ipp.FROM_SLICER, "prompt", **fields)
            self._unanswered[fields["stream"]] = fields["number"], frames
            self._send(frames)

        self._post(send)

    def send_volume(self, voxels: np.ndarray, fields: dict[str, Any], on_reply: OnReply) -> None:
        """voxels: (K, J, I) or (K, J, I, 3), C order, not to be changed until the reply. fields: all but key and file."""

        def send() -> None:
            little = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
            key = hashlib.blake2b(little.data, digest_size=16).hexdigest()
            self._drop_file()
            request = next(self._ids)
            self._replies[request] = on_reply
            self._upload = _Upload(request, {**fields, "key": key}, little, may_share=True)
            if self._is_welcome:
                self._describe_volume()

        self._post(send)

    # On the thread.

    def _run(self) -> None:
        zmq = self._zmq
        context = zmq.Context()
        dealer = self._dealer = context.socket(zmq.DEALER)
        dealer.linger = 200
        # What is sent while nobody is there is not kept: all is said anew after the welcome.
        dealer.immediate = 1
        dealer.reconnect_ivl, dealer.reconnect_ivl_max = 100, 500
        dealer.maxmsgsize = ipp.MAX_BUFFER_BYTES
        _secure(dealer, self._keys)
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            dealer.connect(self._address)
            self._serve(dealer, monitor)
        except zmq.ZMQError as error:
            self._tell(
                "problem",
                f"{self._address} cannot be connected to ({error.strerror}); write it as tcp://HOST:8800.",
            )
            self._tell("state", DISCONNECTED)
        finally:
            self._drop_file()
            dealer.disable_monitor()
            monitor.close()
            # The goodbye gets a moment to leave.
            context.destroy(linger=200)

    def _serve(self, dealer: Any, monitor: Any) -> None:
        zmq = self._zmq
        poller = zmq.Poller()
        for each in (dealer, monitor, self._mailbox.fileno()):
            poller.register(each, zmq.POLLIN)
        heard_at = next_ping = next_hello = time.monotonic()
        while not self._closed:
            ready = dict(poller.poll(100))
            now = time.monotonic()
            if monitor in ready:
                number = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
                if number == zmq.EVENT_DISCONNECTED:
                    self._lose()
                next_hello = now
            if self._mailbox.fileno() in ready:
                self._mailbox.empty()
            while self._commands:
                self._guard(self._commands.popleft())
            if dealer in ready:
                heard_at = now
                while dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    frames = dealer.recv_multipart()
                    self._guard(lambda frames=frames: self._receive(frames))
            if self._is_welcome and now - heard_at > ipp.TIMEOUT_S:
                self._lose()
            if not self._is_welcome and now >= next_hello:
                next_hello = now + HELLO_AGAIN_S
                self._send(
                    ipp.pack(
                        ipp.FROM_SLICER,
                        "hello",
                        version=ipp.VERSION,
                        client=self._name,
                        software="Slicer-IPP 0.1.0",
                    )
                )
            if self._is_welcome and now >= next_ping:
                next_ping = now + ipp.HEARTBEAT_S
                echo = (
                    {} if self._pong is None else {"bridge_ns": self._pong[0], "received_ns": self._pong[1]}
                )
                self._send(ipp.pack(ipp.FROM_SLICER, "ping", sent_ns=time.monotonic_ns(), **echo))

    def _guard(self, call: Callable[[], None]) -> None:
        """One bad message or file must not end the thread."""
        try:
            call()
        except (ipp.ProtocolError, SammError, OSError) as error:
            self._tell("problem", str(error))

    def _receive(self, frames: list[bytes]) -> None:
        message = ipp.unpack(ipp.FROM_BRIDGE, frames)
        if message.type == "welcome":
            self._welcomed(message)
        elif message.type == "pong":
            now_ns = time.monotonic_ns()
            self._pong = message["bridge_ns"], now_ns
            self._tell("round_trip", (now_ns - message["sent_ns"]) / 1e6)
        elif message.type == "volume_wanted":
            self._send_chunk(message)
        elif message.type in ("mask", "refused"):
            number, _ = self._unanswered.get(message["stream"], (-1, []))
            if message["number"] >= number:
                self._unanswered.pop(message["stream"], None)
            if message.type == "mask":
                self._tell("mask", message, decode_mask(message.buffer, tuple(message["shape"])))
            else:
                self._tell("message", message)
        else:
            self._answered(message)

    def _answered(self, message: ipp.Message) -> None:
        request = message.get("re")
        upload = self._upload
        if upload and request == upload.request:
            self._drop_file()
            if message.type == "error" and upload.may_share:
                # The folder is another computer's of the same name, or full: over the wire then.
                upload.may_share = False
                self._describe_volume()
                return
            self._upload = None
        on_reply = self._replies.pop(request, None)
        if on_reply:
            self._tell("reply", on_reply, message)
        if on_reply is None or message.type in ("volume", "model"):
            self._tell("message", message)

    def _welcomed(self, message: ipp.Message) -> None:
        if self._is_welcome:
            return
        self._is_welcome = True
        self._folder = message["folder"]
        self._tell("message", message)
        self._tell("state", CONNECTED)
        if self._upload:
            self._describe_volume()
        for _, frames in list(self._unanswered.values()):
            self._send(frames)

    def _lose(self) -> None:
        if not self._is_welcome:
            return
        self._is_welcome = False
        self._pong = None
        waiting = {self._upload.request} if self._upload else set()
        for request in [request for request in self._replies if request not in waiting]:
            self._tell("reply", self._replies.pop(request), _error("The bridge was lost before it answered."))
        self._tell("state", LOST)

    def _describe_volume(self) -> None:
        upload = self._upload
        file = None
        if upload.may_share and self._folder and os.access(self._folder, os.W_OK):
            with contextlib.suppress(OSError):
                file = Path(self._folder) / f"{upload.fields['key']}-{os.getpid()}-{upload.request}.raw"
                with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as voxels:
                    upload.file = file
                    voxels.write(upload.voxels.data)
        upload.may_share = upload.file is not None
        name = upload.file.name if upload.file else None
        self._send(ipp.pack(ipp.FROM_SLICER, "volume", id=upload.request, file=name, **upload.fields))

    def _send_chunk(self, message: ipp.Message) -> None:
        upload = self._upload
        if upload is None or message["key"] != upload.fields["key"]:
            return
        flat = memoryview(upload.voxels).cast("B")
        chunk = bytes(flat[message["offset"] : message["offset"] + ipp.CHUNK_BYTES])
        fields = {"key": message["key"], "offset": message["offset"], "crc32": zlib.crc32(chunk)}
        self._send(ipp.pack(ipp.FROM_SLICER, "chunk", chunk, **fields))

    def _drop_file(self) -> None:
        if self._upload and self._upload.file:
            self._upload.file.unlink(missing_ok=True)
            self._upload.file = None

    def _send(self, frames: list[bytes]) -> None:
        with contextlib.suppress(self._zmq.Again):
            self._dealer.send_multipart(frames, self._zmq.DONTWAIT)

    def _leave(self) -> None:
        if self._is_welcome:
            self._send(ipp.pack(ipp.FROM_SLICER, "bye"))
        self._closed = True

    def _tell(self, *event: Any) -> None:
        self._events.append(event)
        self._tell_gui()

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._mailbox.wake()


def diagnose(address: str, keys_folder: str = "") -> str:
    """Try the bridge at `address`; one sentence that says that all is well, or what is wrong and how to mend it. Takes
    up to some seconds."""
    import zmq

    try:
        keys = _load_keys(keys_folder)
    except ValueError as error:
        return str(error)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    _secure(dealer, keys)
    monitor = dealer.get_monitor_socket()
    seen: set[int] = set()
    try:
        dealer.connect(address)
        hello = {
            "version": ipp.VERSION,
            "client": f"test-{os.getpid()}-{time.monotonic_ns()}",
            "software": "Slicer-IPP",
        }
        dealer.send_multipart(ipp.pack(ipp.FROM_SLICER, "hello", **hello))
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        deadline = time.monotonic() + DIAGNOSE_S
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poller.poll(left * 1000))
            if monitor in ready:
                seen.add(int.from_bytes(monitor.recv_multipart()[0][:2], "little"))
            if dealer in ready:
                message = ipp.unpack(ipp.FROM_BRIDGE, dealer.recv_multipart())
                dealer.send_multipart(ipp.pack(ipp.FROM_SLICER, "bye"))
                if message.type == "welcome":
                    return f"All is well: {message['software']} answers at {address}."
                return f"The bridge at {address} answers: {message.get('message', message.type)}"
    except zmq.ZMQError as error:
        return f"{address} is no address ({error.strerror}); write it as tcp://HOST:8800."
    except ipp.ProtocolError:
        return f"What answers at {address} is no slicer_bridge; its port is 8800 unless bridge_port:= says otherwise."
    finally:
        dealer.disable_monitor()
        context.destroy(linger=0)
    if zmq.EVENT_CONNECTED not in seen:
        return f"Nothing listens at {address}: start the graph there (./samm up), and check the address and the firewall between."
    if zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen:
        return (
            f"{address} refuses this Slicer: it wants keys, or does not know these. Choose the folder with client.key_secret and "
            "server.key, and see that client.key lies in the bridge's folder `allowed`."
        )
    return f"{address} does not answer: is it slicer_bridge's port (8800)? The SAMM extension's is 8799."


def _load_keys(folder: str) -> tuple[bytes, bytes, bytes] | None:
    """The client's public and secret key and the server's public one; raises ValueError with a sentence."""
    if not folder:
        return None
    import zmq.auth

    try:
        public, secret = zmq.auth.load_certificate(Path(folder) / "client.key_secret")
        server, _ = zmq.auth.load_certificate(Path(folder) / "server.key")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} lacks client.key_secret or server.key ({error}); copy them there from ./samm keys."
        ) from None
    return public, secret, server


def _secure(dealer: Any, keys: tuple[bytes, bytes, bytes] | None) -> None:
    if keys:
        dealer.curve_publickey, dealer.curve_secretkey, dealer.curve_serverkey = keys


def _error(sentence: str) -> ipp.Message:
    return ipp.Message("error", {"message": sentence})
