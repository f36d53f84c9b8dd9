# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Goals of actions, sent and cancelled from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future


class Goal:
    """A goal that was sent; `ended` is the future of its result message, None where the server did not accept it.

    rclpy notes a request after it has sent it, and drops a response that the executor takes in between. So all requests
    are made on the executor's own thread, which must be one: SingleThreadedExecutor, or process.spin.
    """

    def __init__(
        self,
        node: Node,
        client: ActionClient,
        request: Any,
        on_feedback: Callable[[Any], None] | None = None,
    ) -> None:
        """client: an action client of `node`. request: the action's Goal. on_feedback gets its Feedback."""
        self.ended = Future()
        self._node = node
        self._handle: Any = None
        self._cancelled = False

        def send() -> None:
            told = (lambda message: on_feedback(message.feedback)) if on_feedback else None
            client.send_goal_async(request, feedback_callback=told).add_done_callback(self._answered)

        node.executor.create_task(send)

    def cancel(self) -> None:
        """Ask the server to end the goal, once it has accepted it; `ended` still gets a result."""
        self._node.executor.create_task(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def _answered(self, response: Future) -> None:
        handle = response.result()
        if not handle.accepted:
            self.ended.set_result(None)
            return
        self._handle = handle
        handle.get_result_async().add_done_callback(
            lambda future: self.ended.set_result(future.result().result)
        )
        if self._cancelled:
            self._cancel()
