# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Calls of services: from another thread than the executor's, and of a server that was restarted."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.client import Client
from rclpy.node import Node

AGAIN_S = 10.0


def response_to(client: Client, request: Any, timeout_s: float) -> Any | None:
    """The response to a request that may be made twice, such as to load or to save; None when there is none in time.

    It is made again every AGAIN_S. A server that has not discovered the client yet drops its response: rmw_fastrtps gives
    up after 100 ms ("client will not receive response"), and the client cannot know.
    """
    answered = threading.Condition()
    responses: list[Any] = []

    def on_response(future: Any) -> None:
        with answered:
            responses.append(future.result())
            answered.notify_all()

    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        client.call_async(request).add_done_callback(on_response)
        with answered:
            if answered.wait_for(lambda: responses, min(left, AGAIN_S)):
                return responses[0]
    return None


class RestartedServer:
    """Says when a service's newest server can be called.

    DDS takes a server that was killed for alive until its lease ends, and so `service_is_ready` says yes. The new one may
    be heard of before its service is discovered: a request then goes to the dead one alone, and is lost in silence.
    """

    def __init__(self, node: Node, client: Client) -> None:
        self._node, self.client = node, client
        # The name of the topic of its requests in Fast DDS.
        self._topic = f"rq{client.service_name}Request"
        # What takes requests, by its global id: what was there when the server spoke last, and what is of dead ones.
        self._seen: frozenset[bytes] = frozenset()
        self._dead: frozenset[bytes] = frozenset()

    def heard(self, is_new: bool) -> None:
        """The server has spoken on a topic. is_new: it is another one than that which spoke before."""
        if is_new:
            self._dead |= self._seen
        self._seen = self._readers()

    def is_ready(self) -> bool:
        """Whether a request would reach it."""
        readers = self._readers()
        # None: another middleware has another name for the topic.
        return self.client.service_is_ready() and (not readers or not readers <= self._dead)

    def _readers(self) -> frozenset[bytes]:
        infos = self._node.get_subscriptions_info_by_topic(self._topic, no_mangle=True)
        return frozenset(bytes(info.endpoint_gid) for info in infos)
