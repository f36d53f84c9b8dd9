# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CURVE keys: encryption, and a list of the clients that are allowed. See https://rfc.zeromq.org/spec/26."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from samm_core.errors import SammError

# As `samm keys` writes them.
SERVER_SECRET, ALLOWED = "server.key_secret", "allowed"


class SecurityError(SammError):
    """An address or keys that would leave the bridge open."""


def require_safe(address: str, keys_folder: str) -> None:
    """Raises SecurityError for an address beyond this computer without keys, and for keys that are not there."""
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise SecurityError(
            f"{address!r} is no IP address; give one of this computer's, e.g. 127.0.0.1."
        ) from None
    if not keys_folder:
        if not loopback:
            raise SecurityError(
                f"Beyond this computer ({address}) the bridge needs keys: make some with ./samm keys FOLDER and give "
                "bridge_keys:=FOLDER."
            )
        return
    folder = Path(keys_folder)
    if not (folder / SERVER_SECRET).is_file() or not (folder / ALLOWED).is_dir():
        raise SecurityError(
            f"{folder} lacks {SERVER_SECRET} or the folder {ALLOWED}; make them with ./samm keys {folder}."
        )
    _server_keys(folder)
    if (folder / SERVER_SECRET).stat().st_mode & 0o077:
        raise SecurityError(f"Others can read {folder / SERVER_SECRET}; chmod 600 it, or make new keys.")


def _server_keys(folder: Path) -> tuple[bytes, bytes]:
    """Public and secret key; raises SecurityError for a file that holds none."""
    path = folder / SERVER_SECRET
    try:
        public, secret = zmq.auth.load_certificate(path)
        if secret is None or zmq.curve_public(secret) != public:
            raise ValueError
    except (OSError, ValueError, zmq.ZMQError):
        raise SecurityError(
            f"{path} is damaged: it holds no pair of CURVE keys. Copy it back, or make new keys with "
            "./samm keys FOLDER."
        ) from None
    return public, secret


def allowed_keys(keys_folder: str) -> frozenset[bytes]:
    """The public keys in the folder `allowed`, as they lie there now; a file that holds none lets nobody in."""
    keys = set()
    for path in (Path(keys_folder) / ALLOWED).glob("*.key"):
        with suppress(OSError, ValueError):
            keys.add(zmq.auth.load_certificate(path)[0])
    return frozenset(keys)


class _Allowed:
    """pyzmq's credentials provider: called at each handshake, on the authenticator's thread."""

    def __init__(self, keys_folder: str) -> None:
        self._folder = keys_folder

    def callback(self, domain: str, key: bytes) -> bool:
        return key in allowed_keys(self._folder)


@contextmanager
def allowing(context: zmq.Context, keys_folder: str) -> Iterator[None]:
    """While it lasts, the context's CURVE servers let in the clients whose public keys lie in the folder `allowed`."""
    if not keys_folder:
        yield
        return
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    try:
        authenticator.configure_curve_callback(domain="*", credentials_provider=_Allowed(keys_folder))
        yield
    finally:
        authenticator.stop()


def secure(server: zmq.Socket, keys_folder: str) -> None:
    """Make a socket, not yet bound, a CURVE server."""
    if keys_folder:
        server.curve_publickey, server.curve_secretkey = _server_keys(Path(keys_folder))
        server.curve_server = True
