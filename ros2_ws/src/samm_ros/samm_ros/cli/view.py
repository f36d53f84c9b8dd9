# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm view`: serves a page that segments a volume in a browser, and starts a graph for it where none runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..supervision.supervisor import Supervisor

HELP = "segment a volume in the browser; starts the node graph where none runs"

BRIDGE = "tcp://127.0.0.1:8800"

_CONNECT_LIMIT_S = 1.0
_LOOK_S = 0.5
# VTK without a graphics driver, even in software, ends its process.
_DRAW = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkRenderingCore import vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(1, 1)
window.Render()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "volume",
        nargs="?",
        type=Path,
        help="NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, BMP or DICOM file or folder; default: an MRI of a brain",
    )
    add("--bridge", default=BRIDGE, metavar="ADDRESS", help=f"the graph's bridge (default: {BRIDGE})")
    add("--keys", type=Path, metavar="FOLDER", help="client.key_secret and server.key, of a bridge with keys")
    add(
        "--root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="the page may open the volumes in DIR, as those in the folder of VOLUME; repeatable",
    )
    add("--no-browser", action="store_true", help="open no browser")
    page = parser.add_argument_group("who reaches the page")
    add = page.add_argument
    add("--port", type=int, default=8080, help="its port (default: 8080; 0: any that is free)")
    add("--address", default="127.0.0.1", help="IP address to listen on; 0.0.0.0: all (default: 127.0.0.1)")
    add(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which the page is reached, such as a proxy's; repeatable",
    )
    add("--certificate", type=Path, metavar="FILE", help="PEM file with a certificate: the page speaks TLS")
    add("--certificate-key", type=Path, metavar="FILE", help="PEM file with its key")
    add("--max-sessions", type=int, default=4, metavar="N", help="browsers at a time (default: 4)")
    add(
        "--max-upload",
        type=float,
        default=4.0,
        metavar="GB",
        help="sent files kept per browser (default: 4 GB)",
    )
    add(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long the work of a page that was closed is kept (default: 30)",
    )


def main(args: argparse.Namespace) -> int:
    """0: ended by Ctrl-C or SIGTERM; 1: the page's server ended by itself. Raises LaunchError and VolumeError."""
    session_words = ["--bridge", args.bridge, *_volume_words(args)]
    has_bridge = _something_listens(args.bridge)
    is_own_graph = not has_bridge and args.bridge == BRIDGE and args.keys is None
    if not has_bridge and not is_own_graph:
        raise _error(f"Nothing listens at {args.bridge}; start the graph there (./samm up), or see --bridge.")
    try:
        with _drawing() as drawing, _front(args, session_words) as front:
            said = _answer(drawing, front)
            with _graph() if is_own_graph else contextlib.nullcontext() as graph:
                _tell(args, said)
                if not args.no_browser:
                    _open_browser(said["url_for_once"])
                return _wait(front, graph)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0


def _volume_words(args: argparse.Namespace) -> list[str]:
    """Options of the session. Raises VolumeError and LaunchError for what is not there."""
    from samm_core.errors import VolumeError
    from samm_core.sources.sample import mni_volume

    roots = [root.resolve() for root in args.root]
    volume = args.volume.resolve() if args.volume else mni_volume()
    if not volume.exists():
        raise VolumeError(f"There is no {args.volume}; give a file, or a folder of DICOM files.")
    if args.volume:
        roots.insert(0, volume if volume.is_dir() else volume.parent)
    if absent := [folder for folder in (*roots, *filter(None, [args.keys])) if not folder.is_dir()]:
        raise _error(f"{absent[0]} is no folder; give one that is there.")
    words = ["--volume", str(volume)]
    for root in roots:
        words += ["--root", str(root)]
    return words + (["--keys", str(args.keys.resolve())] if args.keys else [])


def _something_listens(address: str) -> bool:
    """At tcp://HOST:PORT. Raises LaunchError for what is no such address."""
    import socket
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "tcp":
        raise _error(f'"{address}" is no address of a bridge; write it as {BRIDGE}.')
    try:
        socket.create_connection((host, port), _CONNECT_LIMIT_S).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _drawing() -> Iterator[subprocess.Popen]:
    """A process that tries to draw: it ends with status 0 when it can."""
    nowhere = subprocess.DEVNULL
    trial = subprocess.Popen(
        [sys.executable, "-c", _DRAW], env=_environment(), stdout=nowhere, stderr=nowhere
    )
    try:
        yield trial
    finally:
        trial.kill()
        trial.wait()


@contextlib.contextmanager
def _front(args: argparse.Namespace, session_words: list[str]) -> Iterator[subprocess.Popen]:
    """The page's server."""
    words = ["--port", str(args.port), "--address", args.address, "--max-sessions", str(args.max_sessions)]
    words += ["--max-upload", str(args.max_upload), "--grace", str(args.grace)]
    for name in args.host_name:
        words += ["--host-name", name]
    for option, file in (("--certificate", args.certificate), ("--certificate-key", args.certificate_key)):
        words += [option, str(file)] if file else []
    front = subprocess.Popen(
        [sys.executable, "-m", "samm_viewer.front", *words, "--", *session_words],
        env=_environment(),
        # It ends when this is closed, as it is when we are killed.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A Ctrl-C is for us: we end it.
        start_new_session=True,
    )
    try:
        yield front
    finally:
        front.terminate()
        front.wait()


@contextlib.contextmanager
def _graph() -> Iterator[Supervisor]:
    """A graph as `samm up` runs it, of which only problems are printed."""
    import re

    from ..supervision.supervisor import launch
    from .up import new_log_folder, print_line

    def print_problem(name: str, line: str) -> None:
        if re.search(r"\[(WARN|ERROR|FATAL)\]|Traceback ", line):
            print_line(name, line)

    folder = new_log_folder()
    print(f"The graph is starting; its logs are in {folder}", flush=True)
    with launch({}, folder, print_problem) as supervisor:
        yield supervisor


def _answer(drawing: subprocess.Popen, front: subprocess.Popen) -> dict:
    """What the page's server says when it serves. Raises LaunchError when it cannot, or nothing can be drawn."""
    said = json.loads(front.stdout.readline() or "{}")
    if "url" not in said:
        raise _error(said.get("error", "The page's server ended at its start; what it said is above."))
    if drawing.wait():
        raise _error(
            "Nothing can be drawn here, as there is neither EGL nor OSMesa; on Debian and Ubuntu: "
            "sudo apt install libegl1 libgl1-mesa-dri libopengl0"
        )
    return said


def _environment() -> dict[str, str]:
    """Without a display: nothing is drawn on one, and one that cannot be reached would end the session."""
    return {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}


def _tell(args: argparse.Namespace, said: dict) -> None:
    import getpass
    import ipaddress
    from urllib.parse import urlsplit

    print(f"The page is at {said['url']}", flush=True)
    address = ipaddress.ip_address(args.address)
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if address.is_unspecified:
        print("From another computer, put this one's address in the place of 127.0.0.1.")
    if not address.is_loopback and not args.certificate:
        print(
            "What passes is not encrypted: give --certificate and --certificate-key, or see docs/use/view.md."
        )
    if address.is_loopback and connection:
        way = f"{said['port']}:{urlsplit(said['url']).netloc}"
        port = "" if connection[3] == "22" else f" -p {connection[3]}"
        print(
            "To open it on your computer, run this there first: "
            f"ssh -N -L {way} {getpass.getuser()}@{connection[2]}{port}"
        )
    print("Ctrl-C stops it", flush=True)


def _open_browser(url: str) -> None:
    """Where a person sits before this computer."""
    import threading
    import webbrowser

    if {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys() and "SSH_CONNECTION" not in os.environ:
        # Some browsers return when they are closed.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _wait(front: subprocess.Popen, graph: Supervisor | None) -> int:
    """Return when the page's server has ended. Raises LaunchError when the graph cannot be started."""
    is_told = graph is None
    while True:
        if graph is not None:
            graph.check()
        if not is_told and _something_listens(BRIDGE):
            print("The graph is ready", flush=True)
            is_told = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            front.wait(_LOOK_S)
            print("The page's server has ended; what it said is above.", file=sys.stderr)
            return 1


def _error(sentence: str) -> Exception:
    from samm_core.errors import LaunchError

    return LaunchError(sentence)
