# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm keys`: makes the keys with which 3D Slicer reaches the bridge from another computer."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make the CURVE keys with which 3D Slicer reaches the bridge from another computer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder for the keys; must be new or empty")


def main(args: argparse.Namespace) -> int:
    """0. Raises SetupError for a folder that is not empty, or cannot be written."""
    import shutil

    import zmq.auth

    from samm_core.errors import SetupError

    folder: Path = args.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SetupError(f"{folder} is not empty; keys that are in use would be lost. Give a new folder.")
        for name in ("server", "client"):
            _, secret = zmq.auth.create_certificates(folder, name)
            Path(secret).chmod(0o600)
        allowed = folder / "allowed"
        allowed.mkdir()
        shutil.copy(folder / "client.key", allowed)
    except OSError as error:
        raise SetupError(f"{folder} cannot be written ({error.strerror}); give another folder.") from None
    print(f"""Keys are in {folder}.
  the graph    ./samm up bridge_address:=IP bridge_keys:={folder.resolve()}
  3D Slicer    copy client.key_secret and server.key into a folder there; choose that folder in Slicer-IPP
  a further client has keys of its own: put its public key into {folder}/allowed; to shut it out, delete the key there""")
    return 0
