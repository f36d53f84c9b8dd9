# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The keys of a connection that is encrypted (CURVE): read from a folder, set on a socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
