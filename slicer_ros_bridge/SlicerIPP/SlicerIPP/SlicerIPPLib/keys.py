# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who this Slicer is: the keys of a connection that is encrypted (CURVE), or the token of this computer's user.

The token is for that user's programs alone, so that who is at the other end is looked up first.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core.private import owner_of_connection, read_token, tells_owners

from .i18n import tr as _

if TYPE_CHECKING:
    import zmq


@dataclass(frozen=True)
class Keys:
    """public, secret: this Slicer's. server: the bridge's public key."""

    public: bytes
    secret: bytes
    server: bytes


def read_keys(folder: str) -> Keys | None:
    """None without a folder. Raises ValueError with a sentence for keys that cannot be read."""
    if not folder:
        return None
    import zmq.auth

    try:
        public, secret = zmq.auth.load_certificate(Path(folder) / "client.key_secret")
        server = zmq.auth.load_certificate(Path(folder) / "server.key")[0]
    except (OSError, ValueError) as error:
        raise ValueError(
            _(
                "{folder} lacks client.key_secret or server.key ({error}); copy them there from ./samm keys."
            ).format(folder=folder, error=error)
        ) from None
    return Keys(public, secret or b"", server)


def use_keys(dealer: zmq.Socket, keys: Keys | None) -> None:
    if keys:
        dealer.curve_publickey, dealer.curve_secretkey, dealer.curve_serverkey = (
            keys.public,
            keys.secret,
            keys.server,
        )


class Link:
    """The connection that a socket has by now. ZeroMQ reconnects unasked, and who answers may be another program then.

    Who was not spoken to has nothing to say: before each message that comes or goes, update() is called and
    has_said_hello looked at.

    connection: file descriptor, once its handshake has succeeded; else None. since: when that was, in seconds of
    time.monotonic(). has_said_hello: on this connection; set by the owner.
    """

    def __init__(self, monitor: zmq.Socket) -> None:
        self.connection: int | None = None
        self.since = 0.0
        self.has_said_hello = False
        self._monitor = monitor
        self._made: int | None = None

    def update(self) -> list[int]:
        """Take in all that has happened: the numbers of ZeroMQ's events since the last call."""
        import zmq

        events = []
        while self._monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            event, value = struct.unpack("=Hi", self._monitor.recv_multipart()[0])
            if event == zmq.EVENT_CONNECTED:
                self._made = value
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connection, self.since = self._made, time.monotonic()
            elif event == zmq.EVENT_DISCONNECTED:
                self.connection, self.has_said_hello = None, False
            events.append(event)
        return events


def token_for(connection: int, address: str) -> str:
    """The token to show at the other end of a connection; empty: that is another computer, or this user has none.

    connection: file descriptor of ZeroMQ's socket. It is looked up who is at the other end of this very connection:
    another program may have begun to listen at the address just before ZeroMQ connected. address: for the sentence.

    Raises ValueError with a sentence for another user's program, to which nothing at all may be sent, and
    ConnectionError with one where it cannot be told whose program is there, maybe because the connection is gone.
    """
    if not tells_owners():
        return ""
    untold = _(
        "This computer does not tell whose program listens at {address}, so nothing is sent to it; connect with keys "
        "(./samm keys makes them)."
    ).format(address=address)
    try:
        # ZeroMQ closes it when it likes, and the number may be another file's by now.
        with socket.fromfd(connection, socket.AF_INET, socket.SOCK_STREAM) as ours:
            if ours.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != socket.AF_INET:
                raise ConnectionError(untold)
            local, remote = ours.getsockname(), ours.getpeername()
    except OSError as error:
        raise ConnectionError(untold) from error
    if not ipaddress.IPv4Address(remote[0]).is_loopback:
        return ""
    owner = owner_of_connection(local, remote)
    if owner is None:
        raise ConnectionError(untold)
    if owner != os.getuid():
        raise ValueError(
            _(
                "The program that listens at {address} is another user's, so nothing is sent to it; start a graph of your "
                "own on another port (./samm up bridge_port:=8801), or connect with keys."
            ).format(address=address)
        )
    return read_token()
