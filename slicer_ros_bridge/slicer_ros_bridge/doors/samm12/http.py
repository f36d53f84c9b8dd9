# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SAMM 1.2's transport: HTTP with JSON objects, by aiohttp. On the front's thread; requests are posted to the doors'.

Every reply is a JSON object, errors too: SAMM reads nothing else. A web page that is open on this computer gets
nothing: what carries an Origin, or names another host than this one, is refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ...graph_actions import Post
from .payloads import Refused
from .server import Request, Route, Samm12Server

# A slice of 3,500 × 3,500 in three channels and base64.
MAX_BODY_BYTES = 48 << 20
BODY_WITHIN_S = 30.0
# SAMM waits for 600 s, and a model that is exported takes minutes.
REPLY_WITHIN_S = 590.0
_HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


def application(server: Samm12Server, post: Post) -> web.Application:
    """Answers by the server's routes, whose handlers are posted. For one event loop."""
    app = web.Application(middlewares=[_in_json, _from_this_computer], client_max_size=MAX_BODY_BYTES)
    for route in server.routes:
        app.router.add_route(route.method, route.path, _handler(server, route, post))
    return app


def _handler(server: Samm12Server, route: Route, post: Post) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        fields = _fields_of(await asyncio.wait_for(request.read(), BODY_WITHIN_S))
        asked = Request(dict(request.match_info), dict(request.query), route.read(fields))
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[tuple[int, dict[str, Any]]] = loop.create_future()

        def reply(status: int, fields: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(answer, status, fields)

        def answer(status: int, fields: dict[str, Any]) -> None:
            # It may be given up by now.
            if not answered.done():
                answered.set_result((status, fields))

        post(lambda: server.handle(route, asked, reply))
        return _response(*await asyncio.wait_for(answered, REPLY_WITHIN_S))

    return handle


@web.middleware
async def _in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong, the reply says it in a JSON object."""
    try:
        return await handler(request)
    except Refused as error:
        return _response(error.status, error.fields)
    except web.HTTPException as error:
        return _response(error.status, {"error": f"{error.reason}: {request.method} {request.path[:200]}"})
    except asyncio.TimeoutError:
        return _response(
            408, {"error": "It took too long; see the bridge's log and those of the graph's nodes."}
        )
    except ConnectionError:
        # Who asked has hung up: there is nobody to tell.
        raise
    except Exception as error:
        logger.exception("A request of SAMM 1.2 could not be read")
        return _response(500, {"error": f"The bridge failed at this request: {error}"})


@web.middleware
async def _from_this_computer(request: web.Request, handler: Handler) -> web.StreamResponse:
    # Any page may send to this computer; its browser says so. A name that leads here may be anybody's (DNS rebinding).
    if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
        raise Refused(403, "Web pages are not served here; use 3D Slicer.")
    if not _HOSTS.fullmatch(request.headers.get("Host", "")):
        raise Refused(403, "This server is 127.0.0.1 or localhost; ask for it by that name.")
    return await handler(request)


def _fields_of(body: bytes) -> dict[str, Any]:
    """Raises Refused for what is no JSON object; nothing is an empty one."""
    try:
        fields = json.loads(body, parse_constant=_no_number) if body else {}
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise Refused(400, "The body has to be a JSON object.")
    return fields


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _response(status: int, fields: dict[str, Any]) -> web.Response:
    # A mask becomes text here, where no other client of the bridge waits for it.
    return web.Response(
        body=json.dumps(fields, default=str).encode(), status=status, content_type="application/json"
    )
