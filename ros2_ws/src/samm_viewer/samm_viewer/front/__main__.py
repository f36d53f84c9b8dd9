# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`python -m samm_viewer.front [OPTION …] [-- OPTION OF SESSIONS …]`, as `./samm view` calls it.

It prints one line of JSON when it serves: "port", "url" and "url_for_once"; or "error", and ends with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Sequence

from aiohttp import web

from samm_core.errors import LaunchError

from .. import closed_pages
from .access import Access
from .folder import run_folder
from .server import Front
from .sessions import Sessions

SESSION = (sys.executable, "-m", "samm_viewer.session")

_SHUTDOWN_LIMIT_S = 1.0
_REMEDIES = {
    errno.EADDRINUSE: "another program listens there; give another --port, or 0 for any that is free",
    errno.EADDRNOTAVAIL: "it is no address of this computer; give one that is, or 0.0.0.0 for all",
    errno.EACCES: "ports below 1024 are the system's; give another --port",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="samm_viewer.front", allow_abbrev=False)
    add = made.add_argument
    add("--port", type=int, default=8080)
    add("--address", default="127.0.0.1")
    add("--host-name", action="append", default=[])
    add("--certificate")
    add("--certificate-key")
    add("--max-sessions", type=int, default=4)
    add("--max-upload", type=float, default=4.0, help="GB, of the files of a session that are there")
    add("--grace", type=float, default=30.0, help="seconds for which a session without a page goes on")
    add("session", nargs="*", help="options of each session, after --")
    return made


def main(arguments: Sequence[str], session: Sequence[str] = SESSION) -> int:
    """session: the command of a session. 0: ended by a signal or by the end of its stdin; 1: it cannot serve."""
    args = parser().parse_args(arguments)
    try:
        asyncio.run(_serve(args, session))
    except LaunchError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


async def _serve(args: argparse.Namespace, session: Sequence[str]) -> None:
    """Serve until a signal comes. Raises LaunchError."""
    if args.max_sessions < 1:
        raise LaunchError(f"--max-sessions is {args.max_sessions}; give 1 or more.")
    tls = _tls(args.certificate, args.certificate_key)
    is_over = _end_of_service()
    asyncio.get_running_loop().set_exception_handler(closed_pages.report)
    with run_folder() as folder, _listening_socket(args.address, args.port) as listening:
        port = listening.getsockname()[1]
        access = Access(args.address, args.host_name)
        max_upload = int(args.max_upload * 1e9)
        sessions = Sessions(session, args.session, folder, args.max_sessions, max_upload, args.grace)
        runner = web.AppRunner(
            Front(access, sessions, port, secure=tls is not None).application(),
            access_log=None,  # it would name files
            shutdown_timeout=_SHUTDOWN_LIMIT_S,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listening, ssl_context=tls).start()
            base = f"{'https' if tls else 'http'}://{_shown(args.address)}:{port}/?key="
            said = {"port": port, "url": base + access.key, "url_for_once": base + access.key_for_once()}
            print(json.dumps(said), flush=True)
            await is_over.wait()
        finally:
            await runner.cleanup()


def _end_of_service() -> asyncio.Event:
    """Set by SIGINT and SIGTERM, and when a stdin that is a pipe is closed: whoever started us is gone."""
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, is_over.set)

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            is_over.set()

    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            loop.add_reader(0, read)
    return is_over


def _listening_socket(address: str, port: int) -> socket.socket:
    """Raises LaunchError."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=128)
    except ValueError:
        raise LaunchError(f'"{address}" is no IP address; give one, such as 127.0.0.1.') from None
    except OverflowError:
        raise LaunchError(
            f"{port} is no port; give one from 1 to 65535, or 0 for any that is free."
        ) from None
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, error.strerror)
        raise LaunchError(f"The page cannot be served at {_shown(address)}:{port}: {remedy}.") from None


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Raises LaunchError."""
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise LaunchError("TLS needs two files; give both --certificate and --certificate-key.")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise LaunchError(
            f"{certificate} and {key} are no certificate and its key ({error.strerror or error}); give PEM files, the key "
            "without a password."
        ) from None
    return context


def _shown(address: str) -> str:
    """As it stands in a URL. All addresses of this computer: the one that is good on it."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return "127.0.0.1" if parsed.version == 4 else "[::1]"
    return f"[{parsed}]" if parsed.version == 6 else str(parsed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
