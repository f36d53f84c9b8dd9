# SPDX-License-Identifier: Apache-2.0
"""Subscriptions for the cycle's topics, served past rclpy's executor.

An executor of rclpy builds anew, for every message, a wait on all that all of its nodes have: timers, services, parameters,
QoS events. With three nodes that is a millisecond a hop, and a cycle has five. Here a thread waits for one subscription.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile

# How late the thread may notice that it is no longer needed.
_CHECK_NS = 500_000_000


class _NotTheExecutors(CallbackGroup):
    """A group whose callbacks no executor takes."""

    def can_execute(self, entity: object) -> bool:
        return False

    def begin_execution(self, entity: object) -> bool:
        return False

    def end_execution(self, entity: object) -> None:
        return


class DirectSubscription:
    """Calls `callback` with each message, on a thread of its own: what it shares with other callbacks needs a lock.

    An exception of the callback is logged, and the next message served.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[object], None],
        qos: QoSProfile,
    ) -> None:
        self._node = node
        self._callback = callback
        self._closed = False
        self._subscription = node.create_subscription(
            message_type, topic, callback, qos, callback_group=_NotTheExecutors()
        )
        self._thread = threading.Thread(target=self._serve, name=topic, daemon=True)
        self._thread.start()

    def destroy(self) -> None:
        """No callback is running or will run after this, unless it is called from one."""
        self._closed = True
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._node.destroy_subscription(self._subscription)

    def _serve(self) -> None:
        context, handle = self._node.context, self._subscription.handle
        # A destroyed node's handle, or a context that is shut down, ends the thread.
        with contextlib.suppress(rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            with context.handle:
                wait_set = rclpy_implementation.WaitSet(1, 0, 0, 0, 0, 0, context.handle)
            while not self._closed and context.ok():
                with context.handle, handle:
                    wait_set.clear_entities()
                    wait_set.add_subscription(handle)
                    wait_set.wait(_CHECK_NS)
                    # Nothing, where the time ran out.
                    taken = handle.take_message(self._subscription.msg_type, False)
                if taken and not self._closed:
                    self._call(taken[0])

    def _call(self, message: object) -> None:
        try:
            self._callback(message)
        except Exception as error:
            if self._node.context.ok():
                self._node.get_logger().error(f"{self._thread.name}: {type(error).__name__}: {error}")


def exclusive(method: Callable) -> Callable:
    """A method that runs under its object's `_lock`: one at a time of those that share state."""

    @functools.wraps(method)
    def locked(self: object, *arguments: object) -> object:
        with self._lock:
            return method(self, *arguments)

    return locked
