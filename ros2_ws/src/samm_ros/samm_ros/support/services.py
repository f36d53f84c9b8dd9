# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Calls of services from another thread than the executor's."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.client import Client

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
