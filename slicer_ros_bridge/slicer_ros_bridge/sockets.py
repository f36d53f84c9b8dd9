# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The bridge's sockets, all served by one thread, the doors' thread. Knows no ROS.

Its loop polls by hand: zmq.asyncio was tried, and an echo of 300 bytes over loopback took 0.23 ms instead of 0.16
(median of 3,000, three times each, on two cores), at half the rate. Only start(), close() and post() may be called from
other threads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from samm_core.private import private_folder

from . import curve
from .front import Front

if TYPE_CHECKING:
    from aiohttp import web

TICK_S = 0.1
BIND_AGAIN_S = 1.0
# How often the bridge looks for public keys that were taken away.
KEYS_CHECK_S = 1.0
_BINDING_S = 60.0
# Messages taken from one socket before the others, and what was posted, have their turn.
AT_ONCE = 64
# Of a socket's path, in bytes; see unix(7).
_MAX_PATH = 107
_PORT_IS_TAKEN = " Is another graph running? Then give this one other ports, or bridge:=false."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """A ROUTER. port: 0: any. max_bytes: of a frame; the sender of a longer one is hung up on.

    handle: gets the identity and the frames after it.
    http: makes what answers the clients that speak HTTP there; see front.py. For an address without keys.
    """

    name: str
    address: str
    port: int
    keys_folder: str
    max_bytes: int
    handle: Callable[[bytes, Sequence[bytes]], None]
    http: Callable[[], web.Application] | None = None


class SocketThread:
    """Serves endpoints until it is closed. An address that is in use is tried again every BIND_AGAIN_S.

    on_tick: called on the thread about every TICK_S. say: gets what a person should know. dropped: messages that no
    client took.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], on_tick: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self._endpoints, self._on_tick, self._say = endpoints, on_tick, say
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_here, self._wake_there = socket.socketpair()
        self._wake_here.setblocking(False)
        self._wake_there.setblocking(False)
        self._sockets: dict[str, zmq.Socket] = {}
        self._fronts: dict[str, Front] = {}
        self._ports = {endpoint.name: endpoint.port for endpoint in endpoints}
        self.dropped = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Hang up on all clients and end the thread."""
        self._closed = True
        self.post(lambda: None)
        self._thread.join(timeout=5.0)

    def post(self, call: Callable[[], None]) -> None:
        """Run a call on the thread, soon; from any thread."""
        self._posted.append(call)
        # Full: it is awake already.
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_there.send(b"\0")

    def send(self, name: str, identity: bytes, frames: Sequence[bytes]) -> None:
        """Send to one client; on the thread alone. What a client does not take at once is dropped and counted."""
        if name not in self._sockets:
            return
        try:
            self._sockets[name].send_multipart([identity, *frames], zmq.DONTWAIT)
        except zmq.ZMQError:
            self.dropped += 1

    def _run(self) -> None:
        context = zmq.Context()
        try:
            with contextlib.ExitStack() as stack:
                for folder in {endpoint.keys_folder for endpoint in self._endpoints} - {""}:
                    stack.enter_context(curve.allowing(context, folder))
                self._serve(context)
        finally:
            for name in list(self._sockets):
                self._unbind(name)
            context.destroy(linger=0)

    def _serve(self, context: zmq.Context) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_here, zmq.POLLIN)
        unbound = list(self._endpoints)
        next_tick = next_bind = next_check = 0.0
        allowed = {e.name: curve.allowed_keys(e.keys_folder) for e in self._endpoints if e.keys_folder}
        while not self._closed:
            now = time.monotonic()
            if unbound and now >= next_bind:
                is_first = next_bind == 0.0
                unbound = [e for e in unbound if not self._bind(context, poller, e, is_first)]
                next_bind = now + BIND_AGAIN_S
            if now >= next_check:
                unbound += self._hang_up_on_revoked(poller, allowed)
                next_check = now + KEYS_CHECK_S
            if now >= next_tick:
                self._guard(self._on_tick)
                next_tick = now + TICK_S
            ready = dict(poller.poll(max(0.0, next_tick - time.monotonic()) * 1000))
            if self._wake_here.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_here.recv(4096)
            while self._posted:
                self._guard(self._posted.popleft())
            for endpoint in self._endpoints:
                if self._sockets.get(endpoint.name) in ready:
                    self._receive(endpoint)

    def _hang_up_on_revoked(self, poller: zmq.Poller, allowed: dict[str, frozenset[bytes]]) -> list[Endpoint]:
        """Unbind the endpoints where a public key was taken away, and return them.

        allowed: by name of the endpoint, the keys until now; brought up to date.
        ZeroMQ cannot hang up on one client: all are hung up on, and those with a key come back by themselves.
        """
        revoked = []
        for endpoint in self._endpoints:
            if endpoint.name not in allowed or endpoint.name not in self._sockets:
                continue
            before = allowed[endpoint.name]
            allowed[endpoint.name] = curve.allowed_keys(endpoint.keys_folder)
            if before - allowed[endpoint.name]:
                self._say(f"A public key was taken away: {endpoint.name} lets its clients in anew.")
                self._unbind(endpoint.name, poller)
                revoked.append(endpoint)
        return revoked

    def _receive(self, endpoint: Endpoint) -> None:
        for _ in range(AT_ONCE):
            try:
                identity, *frames = self._sockets[endpoint.name].recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._guard(lambda identity=identity, frames=frames: endpoint.handle(identity, frames))

    def _bind(self, context: zmq.Context, poller: zmq.Poller, endpoint: Endpoint, is_first: bool) -> bool:
        router = context.socket(zmq.ROUTER)
        router.linger = 0
        router.maxmsgsize = endpoint.max_bytes
        # Without it a message for a client that is gone would be dropped without an error.
        router.router_mandatory = 1
        curve.secure(router, endpoint.keys_folder)
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        router.ipv6 = ":" in endpoint.address
        try:
            if endpoint.http:
                # First what may fail again and again: a bound socket's file stays.
                front = Front(endpoint.address, self._ports[endpoint.name], _path_behind(), endpoint.http)
                self._fronts[endpoint.name], self._ports[endpoint.name] = front, front.port
                router.bind(f"ipc://{front.behind}")
            else:
                router.bind(f"tcp://{host}:{self._ports[endpoint.name] or '*'}")
                self._ports[endpoint.name] = _port_of(router)
        except (zmq.ZMQError, OSError) as error:
            router.close()
            if front := self._fronts.pop(endpoint.name, None):
                front.close()
            if is_first:
                remedy = _PORT_IS_TAKEN if error.errno == errno.EADDRINUSE else ""
                self._say(
                    f"{endpoint.name} cannot listen on {host}:{endpoint.port} ({error.strerror or error}); "
                    f"it is tried again.{remedy}"
                )
            return False
        self._sockets[endpoint.name] = router
        poller.register(router, zmq.POLLIN)
        self._say(f"{endpoint.name} listens on tcp://{host}:{self._ports[endpoint.name]}")
        return True

    def _unbind(self, name: str, poller: zmq.Poller | None = None) -> None:
        router = self._sockets.pop(name)
        if poller:
            poller.unregister(router)
        if front := self._fronts.pop(name, None):
            front.close()
            # ZeroMQ leaves it.
            with contextlib.suppress(OSError):
                os.unlink(front.behind)
        router.close(linger=0)

    @staticmethod
    def _guard(call: Callable[[], None]) -> None:
        """One message must not end the service of all others."""
        try:
            call()
        except Exception:
            logger.exception("A message could not be handled")


def _path_behind() -> str:
    """A new path for a socket behind a front, in a folder that this user alone can enter: around the front there is no way.

    Sockets of bridges that were killed are removed from it. Raises OSError where there can be no such folder, and where
    its path is too long for a socket.
    """
    folder = private_folder()
    for left in folder.glob("door-*"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            # A bridge that lives but accepts nobody now must not be waited for.
            probe.setblocking(False)
            status = left.lstat()
            # A younger one may be about to listen.
            is_old = stat.S_ISSOCK(status.st_mode) and time.time() - status.st_mtime > _BINDING_S
            if is_old and probe.connect_ex(str(left)) == errno.ECONNREFUSED:
                left.unlink()
    path = str(folder / f"door-{uuid.uuid4().hex[:8]}")
    if len(os.fsencode(path)) > _MAX_PATH:
        raise OSError(
            errno.ENAMETOOLONG,
            f"{path} is longer than the {_MAX_PATH} bytes of a socket's path: set XDG_RUNTIME_DIR to a shorter folder",
        )
    return path


def _port_of(router: zmq.Socket) -> int:
    return int(router.last_endpoint.rstrip(b"\0").rpartition(b":")[2])
