# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for samm_viewer.session, without VTK: serves a page, and a WebSocket that sends back what it gets.

As the session's process, it says its port in a line of JSON and ends when its stdin is closed. What it was started with
is at /started. A word on the WebSocket makes it misbehave: "crash".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from aiohttp import web


async def serve(args: argparse.Namespace) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if args.stubborn else over.set)
    loop.add_reader(0, lambda: os.read(0, 4096) or over.set())

    async def page(request: web.Request) -> web.Response:
        if request.path == "/":
            raise web.HTTPFound(f"index.html?{request.query_string}")
        return web.Response(text="the page", content_type="text/html")

    async def started(request: web.Request) -> web.Response:
        secret = Path(args.secret_file)
        modes = {str(path): path.stat().st_mode & 0o777 for path in (args.folder, secret)}
        return web.json_response(
            {
                "pid": os.getpid(),
                "id": args.id,
                "folder": str(args.folder),
                "secret": secret.read_text(),
                "modes": modes,
                "volume": args.volume,
                "headers": dict(request.headers),
            }
        )

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0, compress=False)
        await socket.prepare(request)
        async for message in socket:
            if message.data == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            await (socket.send_bytes if isinstance(message.data, bytes) else socket.send_str)(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/", page)
    application.router.add_get("/index.html", page)
    application.router.add_get("/started", started)
    application.router.add_get("/ws", echo)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("something else comes first", flush=True)
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await over.wait()
    await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser()
    for option in ("id", "secret-file", "volume"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--broken", help="the reason why it does not start")
    parser.add_argument("--stubborn", action="store_true", help="let SIGTERM pass")
    args = parser.parse_args()
    if args.broken:
        print(json.dumps({"error": args.broken}), flush=True)
        return 1
    asyncio.run(serve(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
