# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm keys`: the keys with which 3D Slicer reaches the bridge from another computer: made, added and taken away.

A bridge that runs looks at the folder `allowed` again and again: who is taken away is out within a second or two.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

HELP = "make the CURVE keys with which 3D Slicer reaches the bridge from another computer, or take one away"

# Beside the server's key: the public keys that are let in, as slicer_ros_bridge/curve.py reads them, and those that
# were.
_ALLOWED, _REVOKED = "allowed", "revoked"
# What --add writes for a client.
_OF_A_CLIENT = ("client.key", "client.key_secret", "server.key")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="folder for the keys; new or empty, but with --add and --revoke"
    )
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--add", metavar="NAME", help="make keys for one more client, in FOLDER/NAME")
    change.add_argument("--revoke", metavar="NAME", help="let the client of this name in no more")


def main(args: argparse.Namespace) -> int:
    """0. Raises SetupError for a folder that is not fit for it, or cannot be written, and for a name that is none."""
    from samm_core.errors import SetupError

    folder: Path = args.folder
    try:
        if args.add is not None:
            return _add(folder, args.add)
        if args.revoke is not None:
            return _revoke(folder, args.revoke)
        return _make(folder)
    except OSError as error:
        raise SetupError(f"{folder} cannot be written ({error.strerror}); give another folder.") from None


def _make(folder: Path) -> int:
    import shutil

    from samm_core.errors import SetupError

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SetupError(f"{folder} is not empty; keys that are in use would be lost. Give a new folder.")
    for name in ("server", "client"):
        _certificates(folder, name)
    allowed = folder / _ALLOWED
    allowed.mkdir()
    shutil.copy(folder / "client.key", allowed)
    print(f"""Keys are in {folder}.
  the graph         ./samm up bridge_address:=IP bridge_keys:={folder.resolve()}
  3D Slicer         copy client.key_secret and server.key into a folder there; choose that folder in Slicer-IPP
  a further client  ./samm keys {folder} --add NAME
  to shut one out   ./samm keys {folder} --revoke NAME   (the first one's name is client)""")
    return 0


def _add(folder: Path, name: str) -> int:
    import shutil

    from samm_core.errors import SetupError

    allowed, own = _allowed(folder), folder / _checked(name)
    if own.exists() or (allowed / f"{name}.key").exists():
        raise SetupError(
            f"{folder} has keys or a folder of the name {name}; give another name, or --revoke it and remove {own}."
        )
    own.mkdir(mode=0o700)
    _certificates(own, "client")
    shutil.copy(folder / "server.key", own)
    shutil.copy(own / "client.key", allowed / f"{name}.key")
    print(
        f"{name} is let in. Copy client.key_secret and server.key from {own} into a folder of its computer."
    )
    return 0


def _revoke(folder: Path, name: str) -> int:
    from samm_core.errors import SetupError

    allowed, revoked = _allowed(folder), folder / _REVOKED
    keys = {path.stem: _public_key(path) for path in allowed.glob("*.key")}
    if name not in keys:
        raise SetupError(
            f"There is no client {name} in {allowed}; there are {', '.join(sorted(keys)) or 'none'}."
        )
    revoked.mkdir(mode=0o700, exist_ok=True)
    # The same key may lie there under other names.
    for same in (each for each, key in keys.items() if key == keys[name]):
        (allowed / f"{same}.key").replace(revoked / f"{same}.key")
    # Its name is free again, unless other files lie there.
    own = folder / name
    for key in _OF_A_CLIENT:
        (own / key).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        own.rmdir()
    print(
        f"{name} is let in no more; its public key lies in {revoked}. A bridge that runs hangs up on it within seconds."
    )
    return 0


def _certificates(folder: Path, name: str) -> None:
    import zmq.auth

    _, secret = zmq.auth.create_certificates(folder, name)
    Path(secret).chmod(0o600)


def _public_key(path: Path) -> bytes:
    """Empty for a file that holds none: it lets nobody in."""
    import zmq.auth

    try:
        return zmq.auth.load_certificate(path)[0]
    except ValueError:
        return b""


def _allowed(folder: Path) -> Path:
    from samm_core.errors import SetupError

    if not (folder / _ALLOWED).is_dir():
        raise SetupError(f"{folder} has no folder {_ALLOWED}; make keys first: ./samm keys {folder}.")
    return folder / _ALLOWED


def _checked(name: str) -> str:
    from samm_core.errors import SetupError

    taken = ("", ".", "..", "server", "client", _ALLOWED, _REVOKED)
    if name in taken or "/" in name or "\0" in name or not name.isprintable():
        raise SetupError(f"{name!r} cannot be a client's name; give another.")
    return name
