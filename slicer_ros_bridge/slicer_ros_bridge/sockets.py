# SPDX-License-Identifier: Apache-2.0
"""The bridge's sockets, all served by one thread. Knows no ROS."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from . import curve

TICK_S = 0.1
BIND_AGAIN_S = 1.0
# Taken from one socket before the others, and what was posted, have their turn.
AT_ONCE = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """A ROUTER. handle: gets the identity and the frames after it. port 0: any. max_bytes: of a frame; more hangs up on the sender."""

    name: str
    address: str
    port: int
    keys_folder: str
    max_bytes: int
    handle: Callable[[bytes, Sequence[bytes]], None]


class SocketThread:
    """Serves endpoints until it is closed. An address that is taken is tried again: nothing else has to wait for it.

    on_tick: called on the thread about every TICK_S. say: gets what a person should know.
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
        self.dropped = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
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
        """On the thread alone. Who is gone, or takes nothing for too long, is not waited for."""
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
            for router in self._sockets.values():
                router.close(linger=0)
            context.destroy(linger=0)

    def _serve(self, context: zmq.Context) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_here, zmq.POLLIN)
        unbound = list(self._endpoints)
        next_tick = next_bind = 0.0
        while not self._closed:
            now = time.monotonic()
            if unbound and now >= next_bind:
                unbound = [
                    endpoint
                    for endpoint in unbound
                    if not self._bind(context, poller, endpoint, next_bind == 0.0)
                ]
                next_bind = now + BIND_AGAIN_S
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
        # Without it a message for somebody who is gone would be dropped without a word.
        router.router_mandatory = 1
        curve.secure(router, endpoint.keys_folder)
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        router.ipv6 = ":" in endpoint.address
        try:
            router.bind(f"tcp://{host}:{endpoint.port or '*'}")
        except zmq.ZMQError as error:
            router.close()
            if is_first:
                self._say(
                    f"{endpoint.name} cannot listen on {host}:{endpoint.port} ({error.strerror}); it is tried again. "
                    "Is another graph running? Then give this one other ports, or bridge:=false."
                )
            return False
        self._sockets[endpoint.name] = router
        poller.register(router, zmq.POLLIN)
        self._say(f"{endpoint.name} listens on {router.last_endpoint.decode().rstrip(chr(0))}")
        return True

    @staticmethod
    def _guard(call: Callable[[], None]) -> None:
        """One message must not end the service of all others."""
        try:
            call()
        except Exception:
            logger.exception("A message could not be handled")
