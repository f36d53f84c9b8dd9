# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The client of slicer_bridge (IPP/2, docs/ipp.md): one thread that owns the socket. Knows neither Qt nor MRML."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from samm_core import ipp
from samm_core.errors import SammError
from samm_core.mask_codec import decode_mask

from .client_events import (
    BridgeState,
    ClientEvent,
    ImageReceived,
    MaskReceived,
    MessageReceived,
    OnReply,
    ProblemFound,
    ReplyReceived,
    RoundTripMeasured,
    StateChanged,
)
from .frames import decode_image
from .i18n import tr as _
from .keys import Link, read_keys, token_for, use_keys
from .mailbox import Mailbox
from .upload import Upload

if TYPE_CHECKING:
    import zmq

HELLO_AGAIN_S = 0.3
# A connection that has just been made may not be listed yet.
OWNER_TOLD_S = 3.0


class IppClient:
    """No call waits. What comes in lies ready for take() once `wake` was called, from the client's thread."""

    def __init__(self, address: str, name: str, keys_folder: str, wake: Callable[[], None]) -> None:
        """name: of this Slicer, the same over its reconnections. Raises ValueError for keys that cannot be read."""
        import zmq

        self._zmq = zmq
        self._name = name
        self._address = address
        self._wake_reader = wake
        self._keys = read_keys(keys_folder)
        self._ids = itertools.count(1)
        self._commands: deque[Callable[[], None]] = deque()
        self._events: deque[ClientEvent] = deque()
        # The newest image of the live stream that was not taken yet: a slow reader finds no older one.
        self._image: deque[ImageReceived] = deque(maxlen=1)
        self._mailbox = Mailbox()
        self._replies: dict[int, OnReply] = {}
        # By stream: number and frames of the newest prompt.
        self._unanswered: dict[int, tuple[int, list[bytes]]] = {}
        self._upload: Upload | None = None
        # Of the volume that was loaded last: a bridge that was restarted is told.
        self._volume_uid = ""
        self._folder: str | None = None
        self._pong: tuple[int, int] | None = None
        self._next_hello = 0.0
        self._is_welcome = False
        self._closed = False
        # Why there is no welcome: told once, though hello is said again and again.
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="Slicer-IPP", daemon=True)
        self._thread.start()

    def take(self) -> list[ClientEvent]:
        """The events since the last call."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        with contextlib.suppress(IndexError):
            events.append(self._image.popleft())
        return events

    def close(self) -> None:
        """Say goodbye and end the thread."""
        self._post(self._leave)
        self._thread.join(timeout=2.0)
        self._mailbox.close()

    def request(self, kind: str, on_reply: OnReply, buffer: bytes = b"", **fields: Any) -> None:
        """Send; on_reply comes with the event of the reply, an `error` when the bridge was lost meanwhile."""

        def send() -> None:
            if not self._is_welcome:
                self._put(ReplyReceived(on_reply, _error(_("The bridge is not connected."))))
                return
            request = next(self._ids)
            try:
                frames = ipp.pack(ipp.FROM_SLICER, kind, buffer, id=request, **fields)
            except ipp.ProtocolError as error:
                self._put(ReplyReceived(on_reply, _error(str(error))))
                return
            self._replies[request] = on_reply
            self._send(frames)

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
        """voxels: (K, J, I) or (K, J, I, 3), C order, not to be changed until the reply.

        fields: all but key and file.
        """

        def send() -> None:
            request = next(self._ids)
            upload = Upload(request, voxels, fields)
            self._drop_file()
            self._replies[request] = on_reply
            self._upload = upload
            if self._is_welcome:
                self._send(upload.describe(self._folder))

        self._post(send)

    # On the thread.

    def _run(self) -> None:
        zmq = self._zmq
        context = zmq.Context()
        dealer = self._dealer = context.socket(zmq.DEALER)
        dealer.linger = 200
        # What is sent while nobody is there is dropped: all of it is sent anew after the welcome.
        dealer.immediate = 1
        dealer.reconnect_ivl, dealer.reconnect_ivl_max = 100, 500
        dealer.maxmsgsize = ipp.MAX_IMAGE_BYTES
        use_keys(dealer, self._keys)
        monitor = dealer.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._link = Link(monitor)
        try:
            dealer.connect(self._address)
            self._serve(dealer, monitor)
        except zmq.ZMQError as error:
            sentence = _("{address} cannot be connected to ({reason}); write it as tcp://HOST:8800.")
            self._put(ProblemFound(sentence.format(address=self._address, reason=error.strerror)))
            self._put(StateChanged(BridgeState.DISCONNECTED))
        finally:
            self._drop_file()
            dealer.disable_monitor()
            monitor.close()
            # The goodbye gets a moment to leave.
            context.destroy(linger=200)

    def _serve(self, dealer: zmq.Socket, monitor: zmq.Socket) -> None:
        zmq = self._zmq
        poller = zmq.Poller()
        for each in (dealer, monitor, self._mailbox.fileno()):
            poller.register(each, zmq.POLLIN)
        heard_at = next_ping = time.monotonic()
        while not self._closed:
            ready = dict(poller.poll(100))
            now = time.monotonic()
            self._follow()
            if self._mailbox.fileno() in ready:
                self._mailbox.empty()
            while self._commands:
                self._try(self._commands.popleft())
            # Nothing that came on an older connection is left when hello is said.
            while dealer.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                heard_at = now
                self._follow()
                frames = dealer.recv_multipart()
                if self._link.has_said_hello:
                    self._try(lambda frames=frames: self._receive(frames))
            if self._is_welcome and now - heard_at > ipp.TIMEOUT_S:
                self._lose()
            connection = self._link.connection
            if connection is not None and not self._is_welcome and now >= self._next_hello:
                self._next_hello = now + HELLO_AGAIN_S
                self._send_hello(connection)
            if self._is_welcome and now >= next_ping:
                next_ping = now + ipp.HEARTBEAT_S
                self._send_ping()

    def _follow(self) -> None:
        """Learn of a connection that was lost or made, also meanwhile: a command or the reader may take long."""
        for event in self._link.update():
            if event == self._zmq.EVENT_DISCONNECTED:
                self._lose()
            elif event == self._zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._next_hello = 0.0

    def _try(self, call: Callable[[], None]) -> None:
        """One bad message or file must not end the thread."""
        try:
            call()
        except (ipp.ProtocolError, SammError, OSError) as error:
            self._put(ProblemFound(str(error)))

    def _receive(self, frames: list[bytes]) -> None:
        message = ipp.unpack(ipp.FROM_BRIDGE, frames)
        if message.type == "welcome":
            self._welcomed(message)
        elif message.type == "pong":
            now_ns = time.monotonic_ns()
            self._pong = message["bridge_ns"], now_ns
            self._put(RoundTripMeasured((now_ns - message["sent_ns"]) / 1e6))
        elif message.type == "volume_wanted":
            piece = self._upload and self._upload.piece(message["key"], message["offset"])
            if piece:
                self._send(piece)
        elif message.type == "error" and not self._is_welcome:
            self._unwelcome(message["message"])
        elif message.type in ("mask", "refused"):
            self._prompt_answered(message)
        elif message.type == "volume_mask":
            self._put(MaskReceived(message, _mask_of(message)))
        elif message.type == "stream_image":
            self._image.append(ImageReceived(message, *decode_image(message)))
            self._wake_reader()
        else:
            self._replied(message)

    def _prompt_answered(self, message: ipp.Message) -> None:
        newest = self._unanswered.get(message["stream"])
        if newest and message["number"] >= newest[0]:
            del self._unanswered[message["stream"]]
        if message.type == "mask":
            self._put(MaskReceived(message, _mask_of(message)))
        else:
            self._put(MessageReceived(message))

    def _replied(self, message: ipp.Message) -> None:
        request = message.get("re")
        upload = self._upload
        if upload and request == upload.request:
            upload.drop_file()
            if message.type == "error" and upload.may_share:
                # The folder is another computer's of the same name, or full: over the wire then.
                upload.may_share = False
                self._send(upload.describe(self._folder))
                return
            self._upload = None
            self._volume_uid = message.get("uid", self._volume_uid)
        on_reply = self._replies.pop(request, None)
        if on_reply:
            self._put(ReplyReceived(on_reply, message))
        if on_reply is None or message.type in ("volume", "model"):
            self._put(MessageReceived(message))

    def _welcomed(self, message: ipp.Message) -> None:
        if self._is_welcome:
            return
        self._is_welcome, self._refusal = True, ""
        self._folder = message["folder"]
        self._put(MessageReceived(message))
        self._put(StateChanged(BridgeState.CONNECTED))
        if self._upload:
            self._send(self._upload.describe(self._folder))
        for _number, frames in list(self._unanswered.values()):
            self._send(frames)

    def _lose(self) -> None:
        if not self._is_welcome:
            return
        self._is_welcome = False
        self._pong = None
        # A volume on its way is sent again after the welcome.
        waits = {self._upload.request} if self._upload else set()
        for request in [request for request in self._replies if request not in waits]:
            lost = _error(_("The bridge was lost before it answered."))
            self._put(ReplyReceived(self._replies.pop(request), lost))
        self._put(StateChanged(BridgeState.LOST))

    def _send_hello(self, connection: int) -> None:
        """Say hello, if the program at the other end may have it."""
        hello = {"version": ipp.VERSION, "client": self._name, "software": "Slicer-IPP 0.1.0"}
        if self._volume_uid:
            hello["uid"] = self._volume_uid
        # With keys, the handshake has shown who is there.
        if self._keys is None:
            try:
                hello["token"] = token_for(connection, self._address)
            except ConnectionError as error:
                if time.monotonic() - self._link.since > OWNER_TOLD_S:
                    self._unwelcome(str(error))
                return
            except ValueError as error:
                self._unwelcome(str(error))
                return
        self._link.has_said_hello = True
        self._send_now(ipp.pack(ipp.FROM_SLICER, "hello", **hello))

    def _unwelcome(self, why: str) -> None:
        if why != self._refusal:
            self._refusal = why
            self._put(ProblemFound(why))

    def _send_ping(self) -> None:
        echo = {} if self._pong is None else {"bridge_ns": self._pong[0], "received_ns": self._pong[1]}
        self._send(ipp.pack(ipp.FROM_SLICER, "ping", sent_ns=time.monotonic_ns(), **echo))

    def _drop_file(self) -> None:
        if self._upload:
            self._upload.drop_file()

    def _send(self, frames: list[bytes]) -> None:
        """Until the welcome nothing but hello is sent."""
        if self._is_welcome:
            self._send_now(frames)

    def _send_now(self, frames: list[bytes]) -> None:
        self._follow()
        if self._link.has_said_hello:
            with contextlib.suppress(self._zmq.Again):
                self._dealer.send_multipart(frames, self._zmq.DONTWAIT)

    def _leave(self) -> None:
        if self._is_welcome:
            self._send(ipp.pack(ipp.FROM_SLICER, "bye"))
        self._closed = True

    def _put(self, event: ClientEvent) -> None:
        self._events.append(event)
        self._wake_reader()

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._mailbox.wake()


def _mask_of(message: ipp.Message) -> np.ndarray:
    """(rows, columns) bool. Raises MaskError for data that is no mask."""
    return decode_mask(message.buffer, tuple(message["shape"]))


def _error(sentence: str) -> ipp.Message:
    return ipp.Message("error", {"message": sentence})
