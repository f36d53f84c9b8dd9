# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who this Slicer is: the keys of a connection that is encrypted (CURVE), or the token of this computer's user."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from samm_core.private import owner_of_listener, read_token

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


def token_for(address: str) -> str:
    """The token to show to a bridge on this computer; empty: it is elsewhere, or this user has none.

    Raises ValueError with a sentence where another user's program listens there: it must not learn the token.
    """
    try:
        parts = urlsplit(address)
        host = ipaddress.IPv4Address("127.0.0.1" if parts.hostname == "localhost" else parts.hostname)
        port = parts.port
    except ValueError:
        # A name, or no address.
        return ""
    token = read_token() if host.is_loopback and port else ""
    if not token:
        return ""
    owner = owner_of_listener(str(host), port)
    if owner not in (None, os.getuid()):
        raise ValueError(
            _(
                "The program that listens at {address} is another user's, so nothing is sent to it; start a graph of your own "
                "on another port (./samm up bridge_port:=8801), or connect with keys."
            ).format(address=address)
        )
    return token if owner is not None else ""
