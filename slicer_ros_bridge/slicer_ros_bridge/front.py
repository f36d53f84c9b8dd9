# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One port for both releases of the SAMM extension: 1.1 speaks ZeroMQ there, 1.2 HTTP.

The first byte of a connection tells which. ZeroMQ's bytes are passed on to its socket. An HTTP connection is handed to
aiohttp's server, in this thread and without another socket. The thread touches no state of the bridge.

The published extension sends no token: who connects is served if its socket is this user's, which /proc tells.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from samm_core.private import owner_of_connection

if TYPE_CHECKING:
    from aiohttp import web

# What ZMTP 3 begins with, and no HTTP method does: https://rfc.zeromq.org/spec/23.
_ZMTP = b"\xff"
_CHUNK = 1 << 16
_SILENT_S = 5.0
# From the first byte of an HTTP request to the end of its head; then between two requests of a connection.
_HEAD_S = 10.0
# What is left of a body that was refused is read for so long: a reset could overtake the reply.
_LINGER_S = 1.0
# Of HTTP, at a time: SAMM 1.2 makes one for each request, and waits for its reply.
MAX_CONNECTIONS = 64
_OF_ANOTHER_USER = (
    "Another user's program was refused: this port serves the user who started the graph alone."
)
_NO_HTTP = (
    "SAMM 1.2 is not served at port %d, SAMM 1.1 alone is: what answers HTTP cannot be made (%s: %s); "
    "run ./samm setup."
)

logger = logging.getLogger(__name__)


class Front:
    """Listens on an address from its construction to close(); raises OSError when that is taken. port: 0: any."""

    def __init__(
        self, address: str, port: int, behind: str, application: Callable[[], web.Application]
    ) -> None:
        """behind: path of the ZeroMQ socket, which this user alone can reach. application: makes what answers HTTP."""
        self.behind, self._application = behind, application
        self._listener = socket.create_server((address, port))
        self.port: int = self._listener.getsockname()[1]
        # None: not made yet, or it could not be made.
        self._http: web.Server | None = None
        self._has_refused = False
        # All that are open. A weak set, for whatever protocol has taken one over does not say that it has ended.
        self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        # Ends an HTTP connection whose first request's head does not come.
        self._heads: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up on all and end the thread."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._listener.close()

    async def _serve(self) -> None:
        try:
            self._http = await self._http_server()
        except Exception as error:
            logger.exception(_NO_HTTP, self.port, type(error).__name__, error)
        server = await self._loop.create_server(self._opening, sock=self._listener)
        await self._closing.wait()
        server.close()
        for transport in list(self._transports):
            transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The loop closes what was aborted in its next turn.
        await asyncio.sleep(0)

    async def _http_server(self) -> web.Server:
        """Raises whatever the application or aiohttp raises."""
        # It takes a third of a second of processor time: beside the bridge's start. Who connects meanwhile waits.
        from aiohttp import web

        @web.middleware
        async def head_came(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if timer := self._heads.pop(request.transport, None):
                timer.cancel()
            return await handler(request)

        application = self._application()
        application.middlewares.insert(0, head_came)
        # aiohttp writes a traceback for each head that is none: a log that anybody could fill.
        quiet = logging.getLogger(f"{__name__}.http")
        quiet.setLevel(logging.CRITICAL + 1)
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=quiet,
            keepalive_timeout=_HEAD_S,
            lingering_time=_LINGER_S,
        )
        await runner.setup()
        return runner.server

    def _opening(self) -> _Opening:
        return _Opening(self._is_served, self._protocol)

    def _is_served(self, transport: asyncio.Transport) -> bool:
        """Whether a new connection is this user's: it is then among those that close() hangs up on."""
        ends = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        owner = owner_of_connection(*ends)
        if owner == os.getuid():
            self._transports.add(transport)
            return True
        # None: who connected has hung up already, as what looks whether the port is open.
        if owner is not None and not self._has_refused:
            self._has_refused = True
            logger.warning(_OF_ANOTHER_USER)
        return False

    def _protocol(self, first: bytes, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """What speaks the language of a connection that begins with `first`; None: it is not served."""
        if first.startswith(_ZMTP):
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._pass_on)
        if self._http is None or len(self._http.connections) >= MAX_CONNECTIONS:
            return None
        self._heads[transport] = self._loop.call_later(_HEAD_S, self._no_head_came, transport)
        return self._http()

    def _no_head_came(self, transport: asyncio.Transport) -> None:
        del self._heads[transport]
        transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind_reader, behind_writer = await asyncio.open_unix_connection(self.behind)
            try:
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
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


class _Opening(asyncio.Protocol):
    """A connection of which nothing has come yet: its first bytes say which protocol takes it over.

    is_served: whether it may speak at all.
    """

    def __init__(
        self,
        is_served: Callable[[asyncio.Transport], bool],
        protocol_of: Callable[[bytes, asyncio.Transport], asyncio.Protocol | None],
    ) -> None:
        self._is_served, self._protocol_of = is_served, protocol_of

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._silence = asyncio.get_running_loop().call_later(_SILENT_S, transport.abort)
        if not self._is_served(transport):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._silence.cancel()
        protocol = self._protocol_of(data, self._transport)
        if protocol is None:
            self._transport.abort()
            return
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._silence.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
