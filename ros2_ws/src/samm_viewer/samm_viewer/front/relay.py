# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Passes requests and the WebSocket of a page on to its session, and back what that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

import aiohttp
from aiohttp import web
from yarl import URL

from samm_core.errors import NotReadyError

from .sessions import Session

# trame's pictures and states are of some MB; a message is in memory here once.
MAX_MESSAGE_BYTES = 64 << 20
# A browser that was lost without a word is noticed by its silence.
HEARTBEAT_S = 20.0
_CLOSE_LIMIT_S = 2.0

# Only what static files need: cookies and the key are no business of the session.
_OF_REQUESTS = ("Accept", "Accept-Encoding", "If-Modified-Since", "If-None-Match", "Range")
_OF_ANSWERS = (
    "Accept-Ranges",
    "Cache-Control",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "ETag",
    "Last-Modified",
    "Location",
)


def client_of_sessions() -> aiohttp.ClientSession:
    """Connections to sessions: as many as are needed, with no limit of time, and bodies as they are."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=None),
    )


async def relay_request(
    request: web.Request, session: Session, client: aiohttp.ClientSession
) -> web.StreamResponse:
    """The session's answer to a GET or HEAD. Raises NotReadyError when it has ended, and HTTPNotFound."""
    url = _url(session, request.rel_url.raw_path, request.rel_url.raw_query_string)
    headers = _picked(request.headers, _OF_REQUESTS)
    with _loss_is_told():
        asked = client.request(request.method, url, headers=headers, allow_redirects=False)
        async with asked as answer:
            if answer.status == 404:
                raise web.HTTPNotFound(text="There is no such page.")
            response = web.StreamResponse(status=answer.status, headers=_picked(answer.headers, _OF_ANSWERS))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def relay_socket(
    request: web.Request, session: Session, client: aiohttp.ClientSession
) -> web.WebSocketResponse:
    """Connect a page with its session until one of them leaves. Raises NotReadyError when the session has ended."""
    # Not compressed: most of it is pictures that are.
    to_page = web.WebSocketResponse(
        compress=False, max_msg_size=MAX_MESSAGE_BYTES, heartbeat=HEARTBEAT_S, timeout=_CLOSE_LIMIT_S
    )
    if not to_page.can_prepare(request):
        raise web.HTTPBadRequest(text="This address is for the page's WebSocket.")
    with _loss_is_told():
        to_session = await client.ws_connect(
            _url(session, "/ws"), compress=0, max_msg_size=MAX_MESSAGE_BYTES, autoclose=False
        )
    async with to_session:
        await to_page.prepare(request)
        pumps = [
            asyncio.ensure_future(_pump(to_page, to_session)),
            asyncio.ensure_future(_pump(to_session, to_page)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        if not to_page.closed:
            await to_page.close(
                code=aiohttp.WSCloseCode.INTERNAL_ERROR, message=b"The session has ended; reload the page."
            )
    return to_page


async def _pump(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    """Pass messages on until one side is closed; what is sent is waited for, so that a slow reader slows the writer."""
    with contextlib.suppress(ConnectionError):
        async for message in source:
            if message.type is aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)


@contextlib.contextmanager
def _loss_is_told() -> Iterable[None]:
    try:
        yield
    except aiohttp.ClientError as error:
        raise NotReadyError("The session has ended; reload the page.") from error


def _url(session: Session, path: str, query: str = "") -> URL:
    return URL.build(
        scheme="http", host="127.0.0.1", port=session.port, path=path, query_string=query, encoded=True
    )


def _picked(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}
