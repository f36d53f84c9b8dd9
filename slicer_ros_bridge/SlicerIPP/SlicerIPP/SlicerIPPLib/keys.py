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


def next_event(monitor: zmq.Socket) -> tuple[int, int]:
    """The number and the value of a socket's next event. The value of EVENT_CONNECTED is a file descriptor."""
    number, value = struct.unpack("=Hi", monitor.recv_multipart()[0])
    return number, value


def token_for(connection: int, address: str) -> str:
    """The token to show at the other end of a connection; empty: that is another computer, or this user has none.

    connection: file descriptor of ZeroMQ's socket. It is looked up who is at the other end of this very connection:
    another program may have begun to listen at the address just before ZeroMQ connected. address: for the sentence.

    Raises ValueError with a sentence for another user's program, to which nothing at all may be sent, and
    ConnectionError where the connection is gone, or it cannot be told whose program is there.
    """
    if not tells_owners():
        return ""
    try:
        # ZeroMQ closes it when it likes, and the number may be another file's by now.
        with socket.fromfd(connection, socket.AF_INET, socket.SOCK_STREAM) as ours:
            if ours.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != socket.AF_INET:
                raise ConnectionError
            local, remote = ours.getsockname(), ours.getpeername()
    except OSError as error:
        raise ConnectionError from error
    if not ipaddress.IPv4Address(remote[0]).is_loopback:
        return ""
    owner = owner_of_connection(local, remote)
    if owner is None:
        raise ConnectionError
    if owner != os.getuid():
        raise ValueError(
            _(
                "The program that listens at {address} is another user's, so nothing is sent to it; start a graph of your "
                "own on another port (./samm up bridge_port:=8801), or connect with keys."
            ).format(address=address)
        )
    return read_token()
