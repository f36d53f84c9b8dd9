# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Calls of the graph's services that always end: with the answer, or with a sentence that the service is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.client import Client
from rclpy.task import Future

from samm_core.errors import SammError
from samm_ros.support.watch import Watch

from .graph_actions import Done, Post

ALIVE_CHECK_S = 0.25
# A service may be discovered a moment after it is called, as by a bridge that was just started.
AWAY_AFTER_S = 3.0


@dataclass(frozen=True, eq=False)
class _Unsent:
    """A call whose service was not there yet. due_at: time.monotonic() at which it is given up."""

    due_at: float
    client: Client
    is_ready: Callable[[], bool]
    send: Callable[[], None]
    done: Done[Any]


class ServiceCalls:
    """call() may be called from any thread; each `done` is posted.

    The executor's thread takes the answers, and one of its own looks after the calls, while there are any. `_lock` guards
    the two collections that these share with the callers, and is never held while a `done`, or anything of rclpy, is
    called.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._lock = threading.Lock()
        # Calls that a service has yet to answer; one that died never does.
        self._sent: dict[Future, tuple[Client, Done[Any]]] = {}
        self._unsent: list[_Unsent] = []
        self._watch = Watch("service calls", ALIVE_CHECK_S, self._look_after_calls)

    def call(
        self,
        client: Client,
        request: Any,
        convert: Callable[[Any], Any],
        done: Done[Any],
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        """Send `request`, once its service is there.

        done: gets what `convert` makes of a response whose `success` is true, else its `message`. is_ready: whether it is;
        None: as the client says.
        """
        is_ready = is_ready or client.service_is_ready

        def send() -> None:
            future = client.call_async(request)
            with self._lock:
                self._sent[future] = client, done
            future.add_done_callback(lambda future: self._answered(future, convert, done))

        if is_ready():
            send()
        else:
            with self._lock:
                self._unsent.append(_Unsent(time.monotonic() + AWAY_AFTER_S, client, is_ready, send, done))
        self._watch.begin()

    def _answered(self, future: Future, convert: Callable[[Any], Any], done: Done[Any]) -> None:
        if not self._end(future):
            return
        response = future.result()
        try:
            value = convert(response) if response.success else None
        except SammError as error:
            self._tell(done, None, str(error))
            return
        self._tell(done, value, "" if response.success else response.message)

    def _end(self, future: Future) -> bool:
        """Whether the call ends with this, and was not ended already."""
        with self._lock:
            return self._sent.pop(future, None) is not None

    def _look_after_calls(self) -> bool:
        """Send what waits for its service, and give up on services that are away or died. Whether calls are left."""
        now = time.monotonic()
        with self._lock:
            sent = list(self._sent.items())
            unsent, self._unsent = self._unsent, []
        for entry in unsent:
            if entry.is_ready():
                entry.send()
            elif now >= entry.due_at:
                self._tell(entry.done, None, is_away(entry.client.srv_name))
            else:
                with self._lock:
                    self._unsent.append(entry)
        for future, (client, done) in sent:
            if not client.service_is_ready() and self._end(future):
                self._tell(done, None, is_away(client.srv_name))
        with self._lock:
            return bool(self._sent or self._unsent)

    def _tell(self, done: Done[Any], value: Any, why: str) -> None:
        self._post(lambda: done(value, why))


def is_away(name: str) -> str:
    """The sentence for a service or action that nobody serves."""
    return f"The graph's {name.rpartition('/')[2]} is away; it is starting, or see the logs of its nodes."
