# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Serves one page on a free port of 127.0.0.1, and says that port on standard output as a line of JSON.

It ends when its standard input is closed: whoever started it is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path


def main() -> int:
    """0; 1 where the page cannot be served: the line of JSON then says why."""
    args = _arguments()
    # wslink's own line on standard output, and a second compression of what is JPEG already.
    os.environ["WSLINK_READY_MSG"] = ""
    os.environ["WSLINK_WS_COMPRESS"] = "0"
    from samm_core.errors import SammError

    try:
        _serve(args)
    except SammError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="samm_viewer.session", description=__doc__)
    parser.add_argument("--bridge", required=True, help="the bridge's address, tcp://HOST:PORT")
    parser.add_argument("--keys", default="", help="folder of the keys for an encrypted bridge")
    parser.add_argument("--folder", type=Path, required=True, help="holds uploads/ and downloads/")
    parser.add_argument("--secret-file", required=True, help="what the page has to know to connect")
    parser.add_argument("--volume", type=Path, help="shown at the start")
    parser.add_argument(
        "--root", type=Path, action="append", default=[], help="volumes may be opened below it"
    )
    parser.add_argument("--id", default="", help="the session's name, for a link that shares it")
    return parser.parse_args()


def _serve(args: argparse.Namespace) -> None:
    from trame.app import get_server
    from trame_slicer.core import SlicerApp
    from vtkmodules.vtkCommonCore import vtkLogger

    from .. import closed_pages
    from .page import Page, limit_pixels, remote_views
    from .viewer import Viewer

    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    # trame reads the command line by itself.
    sys.argv[1:] = ["--authKeyFile", args.secret_file]
    server = get_server("samm_viewer", client_type="vue3")
    factories = remote_views(server)
    viewer = Viewer(SlicerApp(), factories)
    limit_pixels(factories)
    page = Page(server, viewer, args.folder, args.root, args.id)

    def ready(**_options: object) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(closed_pages.report)
        loop.add_reader(viewer.logic.fileno(), page.process_events)
        loop.add_reader(sys.stdin.fileno(), end_with_input)
        viewer.logic.connect(args.bridge, args.keys)
        if args.volume:
            page.open_path(args.volume, is_allowed=True)
        print(json.dumps({"port": server.port}), flush=True)

    def end_with_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            asyncio.ensure_future(server.stop())

    server.controller.on_server_ready.add(ready)
    try:
        server.start(
            port=0,
            host="127.0.0.1",
            timeout=0,
            open_browser=False,
            show_connection_info=False,
            disable_logging=True,
        )
    finally:
        viewer.close()


if __name__ == "__main__":
    sys.exit(main())
