# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Stands before a ZeroMQ socket and answers what is HTTP at once: ZeroMQ itself would leave it without an answer.

SAMM 1.2 looks for its server on the port of SAMM 1.1 by `GET /health`. It copes with an HTTP error; after a time-out it
never asks again. Its thread passes bytes on and touches no state of the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading

# What ZMTP 3 begins with, and no HTTP method does: https://rfc.zeromq.org/spec/23.
_ZMTP = b"\xff"
_CHUNK = 1 << 16
_SILENT_S = 5.0
_SENTENCE = "This port speaks the protocol of SAMM 1.1 over ZeroMQ, not HTTP; SAMM 1.2 is not served here."


class Front:
    """Listens on an address from its construction to close(); raises OSError when that is taken. port: 0: any."""

    def __init__(self, address: str, port: int, behind_port: int) -> None:
        """behind_port: of the ZeroMQ socket, on 127.0.0.1."""
        self._behind_port = behind_port
        self._listener = socket.create_server((address, port))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up on all and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        # gather() of no tasks looks for it.
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._listener.close()
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await asyncio.wait_for(reader.read(1), _SILENT_S)
            if first == _ZMTP:
                await self._pass_on(first, reader, writer)
            elif first:
                await _refuse(reader, writer)
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _pass_on(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind_port)
        try:
            behind_writer.write(first)
            pumps = [
                asyncio.ensure_future(_pump(reader, behind_writer)),
                asyncio.ensure_future(_pump(behind_reader, writer)),
            ]
            # The side that hangs up first ends both.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            behind_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = json.dumps({"error": _SENTENCE}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    # Read first: closing on unread bytes would reset the connection before the answer is read.
    with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1.0)
    writer.write(head.encode() + body)
    await writer.drain()
