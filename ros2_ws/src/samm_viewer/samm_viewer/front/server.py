# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The server that people talk to: what each address does, and what each request has to show before that."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from samm_core.errors import NotReadyError, SammError

from .access import Access
from .files import download
from .pages import page, page_that_leads_to
from .relay import client_of_sessions, relay_request, relay_socket
from .sessions import Session, Sessions

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_NO_KEY = (
    "This page opens with the address that ./samm view prints, key and all. Its key is a new one each time that "
    "./samm view is started."
)
# Vue compiles templates in the browser. A page of ours connects to ours alone, whatever its address says.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "connect-src 'self' ws://{host} wss://{host}; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)


class Front:
    """The server's addresses, over its sessions.

    /?key=KEY                 a session of this browser's own; with &session=ID, the one that somebody shares
    /                         the page of the session
    /ws                       its WebSocket
    /upload/NAME              POST: the body becomes a file of the session
    /download/NAME            a file that the session has made
    /link                     the address to share the session by
    """

    def __init__(self, access: Access, sessions: Sessions, port: int, secure: bool) -> None:
        """port: that is listened on. secure: whether TLS is spoken."""
        self._access, self._sessions, self._secure = access, sessions, secure
        # Browsers do not tell the cookies of two ports of a host apart.
        self._cookie = f"samm_view_{port}"
        self._client: aiohttp.ClientSession
        # It starts with the server, as whoever started that comes at once; it ends as others do when nobody comes.
        self._next_id = _new_id()

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._check])
        application.cleanup_ctx.append(self._connections)
        application.on_shutdown.append(lambda _: self._sessions.close())
        application.on_response_prepare.append(_add_headers)
        application.router.add_get("/", self._page)
        application.router.add_get("/index.html", self._page)
        application.router.add_get("/ws", self._socket)
        application.router.add_get("/link", self._link)
        application.router.add_post(r"/upload/{name:[\s\S]+}", self._upload)
        application.router.add_get(r"/download/{name:[\s\S]+}", self._download)
        application.router.add_get("/{path:.*}", self._file_of_page)
        return application

    async def _connections(self, application: web.Application) -> None:
        first = asyncio.create_task(self._sessions.open(self._next_id))
        async with client_of_sessions() as self._client:
            yield
        # Why it did not start was said to whoever came.
        await asyncio.gather(first, return_exceptions=True)

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in what comes by one of our names, and from one of our pages; say each refusal in a sentence."""
        try:
            if not self._access.knows_host(request.host):
                raise web.HTTPForbidden(
                    text="This server is not asked for by that name; --host-name NAME lets one in."
                )
            asks_more = request.method not in ("GET", "HEAD") or "Upgrade" in request.headers
            if asks_more and not self._access.is_own_origin(request.headers.get("Origin"), request.host):
                raise web.HTTPForbidden(text="Another site's page may not ask this of the server.")
            return await handler(request)
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            if isinstance(error, web.HTTPMethodNotAllowed):
                error.text = "That cannot be done with this address."
            return _refusal(request, error.text or error.reason, error.status)
        except NotReadyError as error:
            return _refusal(request, str(error), 503)
        except SammError as error:
            return _refusal(request, str(error), 500)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "key" in request.query:
            return await self._enter(request)
        session = await self._sessions.open(self._session_id(request))
        # trame's page takes settings from its address, of which it shall have this one alone.
        if list(request.query.items()) != [("secret", session.secret)]:
            raise web.HTTPSeeOther(_path(session))
        return await relay_request(request, session, self._client)

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        if not self._access.opens(request.query["key"]):
            raise web.HTTPForbidden(text=f"That key is not this server's. {_NO_KEY}")
        own = self._access.session_of(request.cookies.get(self._cookie, ""))
        session_id = request.query.get("session") or own
        if session_id is None:
            session_id, self._next_id = self._next_id, _new_id()
        elif session_id != own and not self._sessions.running(session_id):
            raise web.HTTPNotFound(
                text="The session that was shared has ended; ask for a new address, or leave out &session=."
            )
        session = await self._sessions.open(session_id)
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            response: web.StreamResponse = page_that_leads_to(_path(session))
        else:
            response = web.HTTPSeeOther(_path(session))
        response.set_cookie(
            self._cookie,
            self._access.cookie_of(session.id),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._secure,
        )
        if isinstance(response, web.HTTPException):
            raise response
        return response

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        session = self._running(request)
        with self._sessions.connected(session):
            return await relay_socket(request, session, self._client)

    async def _file_of_page(self, request: web.Request) -> web.StreamResponse:
        return await relay_request(request, self._running(request), self._client)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        size = await self._running(request).uploads.receive(request, name)
        return web.json_response({"name": name, "bytes": size}, status=201)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        return download(self._running(request).folder, request.match_info["name"])

    async def _link(self, request: web.Request) -> web.StreamResponse:
        session = self._running(request)
        is_proxy_secure = request.headers.get("X-Forwarded-Proto", "").startswith("https")
        scheme = "https" if is_proxy_secure else request.scheme
        address = f"{scheme}://{request.host}/?key={self._access.key}&session={session.id}"
        return page(f"Whoever opens this address works in this session with you: {address}")

    def _session_id(self, request: web.Request) -> str:
        """Of the session that the cookie is for. Raises HTTPForbidden when there is none."""
        session_id = self._access.session_of(request.cookies.get(self._cookie, ""))
        if session_id is None:
            raise web.HTTPForbidden(text=_NO_KEY)
        return session_id

    def _running(self, request: web.Request) -> Session:
        """The session that the cookie is for. Raises HTTPForbidden, and NotReadyError when it has ended."""
        session = self._sessions.running(self._session_id(request))
        if session is None:
            raise NotReadyError("The session has ended; reload the page.")
        return session


def _refusal(request: web.Request, sentence: str, status: int) -> web.Response:
    """A page for a person; for a program of a page, the sentence to show."""
    if "text/html" in request.headers.get("Accept", ""):
        return page(sentence, status)
    return web.Response(text=sentence, status=status)


def _new_id() -> str:
    return secrets.token_hex(4)


def _path(session: Session) -> str:
    return f"/?secret={session.secret}"


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    headers["Content-Security-Policy"] = _POLICY.format(host=request.host)
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Referrer-Policy"] = "no-referrer"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Server"] = "samm"
    if response.content_type == "text/html":
        headers["Cache-Control"] = "no-store"
