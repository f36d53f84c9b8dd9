# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Publishes how each task of each cycle ended, on a thread of its own: what comes next in the cycle does not wait for it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.time import Time
from samm_msgs.msg import TaskEvent as TaskEventMsg

from samm_core.cycle.request import Answer, Request
from samm_core.latency.events import Completion, Outcome, Task, TaskEvent

from .. import conversions, topics
from . import parameters
from .publishing import NumberedPublisher
from .watch import Watch

# Events gather for so long, those of all nodes of this process.
GATHER_S = 0.02


class TaskTracer:
    """The `task_events` of one node; thread-safe."""

    def __init__(self, node: Node, task: Task) -> None:
        self._clock = node.get_clock()
        self._node_name = node.get_fully_qualified_name()
        self._task = task
        self._publisher = None
        if parameters.declare(node, "trace", True, "Publish task_events; false measures what that costs."):
            self._publisher = NumberedPublisher(
                node, TaskEventMsg, topics.TASK_EVENTS, topics.EVENTS, conversions.event_to_msg
            )

    def ended(
        self,
        cycle_of: Request | Answer,
        started_ns: int,
        ended_ns: int,
        outcome: Outcome = Outcome.COMPLETED,
        completion: Completion | None = None,
        overtaken: int = 0,
        task: Task | None = None,
    ) -> None:
        """The task ran from `started_ns` to `ended_ns` (CLOCK_MONOTONIC); call it when its result is on its way.

        task: of a node that does several; None: the one that the tracer was made for.
        """
        if self._publisher is None or not self._publisher.is_heard:
            return
        event = TaskEvent(
            self._task if task is None else task,
            outcome,
            cycle_of.cycle,
            cycle_of.client_id,
            cycle_of.image,
            self._node_name,
            started_ns,
            ended_ns,
            completion,
            overtaken,
        )
        _publish_soon(self._publisher, event, self._clock.now())


_events: deque[tuple[NumberedPublisher, TaskEvent, Time]] = deque()
_publishing: Watch | None = None
_lock = threading.Lock()


def _publish_soon(publisher: NumberedPublisher, event: TaskEvent, ended_at: Time) -> None:
    global _publishing
    _events.append((publisher, event, ended_at))
    if _publishing is None:
        with _lock:
            _publishing = _publishing or Watch("trace", 0.0, _publish_events, delay_s=GATHER_S)
    _publishing.begin()


def _publish_events() -> bool:
    while _events:
        publisher, event, ended_at = _events.popleft()
        # Its node may have ended meanwhile.
        with contextlib.suppress(rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            publisher.publish(event, ended_at)
    return False
