# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Subscriptions for the cycle's topics, served past rclpy's executor.

An executor of rclpy builds anew, for every message, a wait on all that all of its nodes have: timers, services, parameters,
QoS events. With three nodes that is a millisecond a hop, and a cycle has five. Here a thread waits for one subscription.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

# The thread is told when its context is shut down, and of its own end; it looks so often all the same.
_CHECK_NS = 5_000_000_000
_LONGEST_WAIT_NS = 1_000_000_000


class _NotTheExecutors(CallbackGroup):
    """A group whose callbacks no executor takes, because a DirectSubscription does."""

    def __init__(self, subscription: DirectSubscription) -> None:
        super().__init__()
        self.subscription = subscription

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
        overridable: bool = False,
    ) -> None:
        """overridable: whether parameters of ROS, qos_overrides, may say another QoS."""
        self._node = node
        self._callback = callback
        self._closed = False
        self._depth = qos.depth
        with node.context.handle:
            self._wake = rclpy_implementation.GuardCondition(node.context.handle)
        self._subscription = node.create_subscription(
            message_type,
            topic,
            callback,
            qos,
            callback_group=_NotTheExecutors(self),
            qos_overriding_options=QoSOverridingOptions.with_default_policies() if overridable else None,
        )
        node.context.on_shutdown(self._wake_up)
        self._thread = threading.Thread(target=self._serve, name=topic, daemon=True)
        self._thread.start()

    def destroy(self) -> None:
        """No callback is running or will run after this, unless it is called from one."""
        if self._closed:
            return
        self._closed = True
        self._wake_up()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._node.destroy_subscription(self._subscription)
        self._wake.destroy_when_not_in_use()

    @property
    def publishers(self) -> int:
        """How many have been discovered."""
        return self._subscription.get_publisher_count()

    def _wake_up(self) -> None:
        with contextlib.suppress(rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            self._wake.trigger_guard_condition()

    def _serve(self) -> None:
        context, handle = self._node.context, self._subscription.handle
        try:
            with context.handle:
                wait_set = rclpy_implementation.WaitSet(1, 1, 0, 0, 0, 0, context.handle)
            while not self._closed and context.ok():
                with context.handle, handle, self._wake:
                    wait_set.clear_entities()
                    wait_set.add_subscription(handle)
                    wait_set.add_guard_condition(self._wake)
                    wait_set.wait(_CHECK_NS)
                    taken = self._take(handle)
                # Nothing, where the time ran out.
                if taken and not self._closed:
                    self._call(taken, self._callback)
        except (rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            # A destroyed node's handle, or a context that is shut down, ends the thread; anything else must be noticed.
            if not self._closed and context.ok():
                raise

    def _take(self, handle: object) -> object:
        taken = handle.take_message(self._subscription.msg_type, False)
        return taken and taken[0]

    def _call(self, taken: object, callback: Callable[[object], None]) -> None:
        try:
            callback(taken)
        except Exception as error:
            if self._node.context.ok():
                self._node.get_logger().error(f"{self._thread.name}: {type(error).__name__}: {error}")


class BytesSubscription(DirectSubscription):
    """A DirectSubscription that reads no message: its callback is called with itself, and takes what it wants.

    apart_s: how long it lets messages gather after each call, so that a flood costs no wake a message.
    """

    def __init__(self, *arguments: Any, apart_s: float, **options: Any) -> None:
        self._apart_s = apart_s
        self._ended = threading.Event()
        super().__init__(*arguments, **options)

    def destroy(self) -> None:
        self._ended.set()
        super().destroy()

    def take_all(self) -> list[tuple[bytes, int]]:
        """What has come since the last call, the oldest first, and when it came, ns of CLOCK_MONOTONIC; from any thread."""
        taken: list[tuple[bytes, int]] = []
        now, wall = time.monotonic_ns(), time.time_ns()
        handle, message_type = self._subscription.handle, self._subscription.msg_type
        # Nothing, once it is destroyed.
        with contextlib.suppress(rclpy_implementation.InvalidHandle), handle:
            # No more than fits, or a flood would never be worked on.
            while len(taken) < self._depth and (message := handle.take_message(message_type, True)):
                data, info = message
                # The wall clock, which DDS has, may have been set meanwhile; 0: this DDS does not tell.
                waited_ns = wall - (info["received_timestamp"] or wall)
                taken.append((data, now - min(max(0, waited_ns), _LONGEST_WAIT_NS)))
        return taken

    def _take(self, handle: object) -> object:
        return self

    def _call(self, taken: object, callback: Callable[[object], None]) -> None:
        super()._call(taken, callback)
        self._ended.wait(self._apart_s)


class CountingSubscription(DirectSubscription):
    """A DirectSubscription that counts what its publisher sent and it never got, for a newer message was there or it was lost.

    Of one publisher at a time: another one, or the same started again, is counted from its first message here.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.missed = 0
        self._newest = 0
        super().__init__(*arguments, **options)

    def _take(self, handle: object) -> object:
        taken = handle.take_message(self._subscription.msg_type, False)
        if not taken:
            return None
        message, info = taken
        number = info["publication_sequence_number"] or 0
        if 0 < self._newest < number:
            self.missed += number - self._newest - 1
        self._newest = number
        return message


def close_all(node: Node) -> None:
    """Destroy the DirectSubscriptions of a node, before the node itself: their threads wait for it in C++."""
    for subscription in list(node.subscriptions):
        group = subscription.callback_group
        if isinstance(group, _NotTheExecutors):
            group.subscription.destroy()


def exclusive(method: Callable) -> Callable:
    """A method that runs under its object's `_lock`: one at a time of those that share state."""

    @functools.wraps(method)
    def locked(self: object, *arguments: object) -> object:
        with self._lock:
            return method(self, *arguments)

    return locked
