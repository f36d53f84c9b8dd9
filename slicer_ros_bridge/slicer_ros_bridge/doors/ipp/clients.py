# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The clients of IPP/2: who is connected, what is known of each, and how it is told something."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from samm_core import ipp
from samm_core.cycle.request import MAX_CLIENTS
from samm_core.sources.base import ImageId
from samm_core.sources.window import Window

from ...clock import ClockOffset
from ...graph_actions import Done
from ...volumes import VolumeDescription

# Takes an identity and the frames for it.
Send = Callable[[bytes, list[bytes]], None]


@dataclass(eq=False)
class Recipient:
    """Where messages go: to one identity of the ROUTER. problem: gets the sentence of each error that is told."""

    identity: bytes
    send_frames: Send
    problem: Callable[[str], None]

    def send(self, frames: list[bytes]) -> None:
        self.send_frames(self.identity, frames)

    def tell(self, kind: str, **fields: Any) -> None:
        self.send(ipp.pack(ipp.FROM_BRIDGE, kind, **fields))

    def reply(self, request: ipp.Message, kind: str, **fields: Any) -> None:
        """Tell it, as the reply to `request` if that wants one."""
        self.tell(kind, re=request.get("id"), **fields)

    def refuse(self, request: ipp.Message | None, why: str) -> None:
        """Reply with an error. request: None when it is not known what was asked."""
        why = why[: ipp.MAX_TEXT]
        self.problem(why)
        self.tell("error", re=request.get("id") if request else None, message=why)

    def done(self, request: ipp.Message, text: str = "") -> Done[Any]:
        """Replies `done` or the error. text: of the `done`; empty: the value itself."""

        def done(value: Any, why: str) -> None:
            if value is None:
                self.refuse(request, why)
            else:
                self.reply(request, "done", text=text or value)

        return done


@dataclass(frozen=True, eq=False)
class Upload:
    """A volume on its way over the wire. request: the message that described it."""

    description: VolumeDescription
    window: Window | None
    request: ipp.Message


@dataclass(eq=False)
class SlicerClient(Recipient):
    """One Slicer that said hello. Over a reconnection it stays the same, with another identity.

    heard_at: time.monotonic(). numbers, answers: by stream, the newest prompt's number and the frames of its answer.
    images: by stream and cycle, what was prompted on there. volume_uid, window: of the volume that it loaded last, and
    how it looks at it; empty and None before. volume_server: the start of the server that held that volume last.
    told_volume: what its last message `volume` said.
    wants_weights: it asked for the list of weights, and is told when that changes.
    """

    name: str
    heard_at: float
    clock: ClockOffset = field(default_factory=ClockOffset)
    numbers: dict[int, int] = field(default_factory=dict)
    answers: dict[int, list[bytes]] = field(default_factory=dict)
    images: OrderedDict[tuple[int, int], ImageId] = field(default_factory=OrderedDict)
    volume_uid: str = ""
    window: Window | None = None
    volume_server: str = ""
    told_volume: dict[str, Any] = field(default_factory=dict)
    wants_weights: bool = False
    upload: Upload | None = None

    def work_on(self, volume_uid: str, window: Window | None = None) -> None:
        """It works on this volume from now on, whatever others load.

        window: None: it keeps the one that it has there.
        """
        if window or volume_uid != self.volume_uid:
            self.window = window
        self.volume_uid = volume_uid

    def graph_name(self, stream: int) -> str:
        """The client id in the graph: streams must not supersede each other there either."""
        return f"{self.name}/{stream}" if stream else self.name

    @property
    def graph_names(self) -> list[str]:
        return [self.graph_name(stream) for stream in range(ipp.STREAMS)]


class SlicerClients:
    """The clients by identity. left: called with each client that leaves, or is found to have gone."""

    def __init__(
        self, send: Send, problem: Callable[[str], None], left: Callable[[SlicerClient], None]
    ) -> None:
        self._send, self._problem, self._on_left = send, problem, left
        self._clients: dict[bytes, SlicerClient] = {}
        # By name, what those who left worked on: a Slicer that comes back goes on there.
        self._left: OrderedDict[str, tuple[str, Window | None]] = OrderedDict()

    def __iter__(self) -> Iterator[SlicerClient]:
        return iter(list(self._clients.values()))

    def get(self, identity: bytes) -> SlicerClient | None:
        return self._clients.get(identity)

    def recipient(self, identity: bytes) -> Recipient:
        """To somebody who may not have said hello."""
        return Recipient(identity, self._send, self._problem)

    def hello(self, identity: bytes, name: str) -> SlicerClient:
        """The client of that name, now at `identity`.

        Raises ProtocolError for a name with a slash, and beyond MAX_CLIENTS.
        """
        if "/" in name:
            raise ipp.ProtocolError(f"A client cannot be named {name!r}: its streams are told by a slash.")
        client = self._clients.get(identity)
        if client and client.name != name:
            self.drop(client)
            client = None
        for other in self:
            if other.name == name and other.identity != identity:
                # The same Slicer over a new connection: it goes on where it was.
                client = self._clients.pop(other.identity)
        if client is None and len(self._clients) >= MAX_CLIENTS:
            raise ipp.ProtocolError(f"{MAX_CLIENTS} Slicers are connected already; close one.")
        if client is None:
            client = SlicerClient(identity, self._send, self._problem, name, 0.0)
            client.volume_uid, client.window = self._left.pop(name, ("", None))
        client.identity, client.heard_at = identity, time.monotonic()
        self._clients[identity] = client
        return client

    def drop(self, client: SlicerClient) -> None:
        """The client has left."""
        del self._clients[client.identity]
        self._left[client.name] = client.volume_uid, client.window
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        self._on_left(client)

    def drop_silent(self) -> None:
        """A client that is silent for ipp.TIMEOUT_S is forgotten."""
        now = time.monotonic()
        for client in self:
            if now - client.heard_at > ipp.TIMEOUT_S:
                self.drop(client)
