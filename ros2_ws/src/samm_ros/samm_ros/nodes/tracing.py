# SPDX-License-Identifier: Apache-2.0
"""Publishes how each task of each cycle ended."""

from __future__ import annotations

from rclpy.node import Node
from samm_msgs.msg import TaskEvent as TaskEventMsg

from ..cycle import Answer, Request
from ..trace import Completion, Outcome, Task, TaskEvent
from . import graph, parameters, wire
from .publishing import NumberedPublisher


class TaskTracer:
    """The `task_events` of one node; thread-safe."""

    def __init__(self, node: Node, task: Task) -> None:
        self._node_name = node.get_fully_qualified_name()
        self._task = task
        self._publisher = None
        if parameters.declare(node, "trace", True, "Publish task_events; false measures what that costs."):
            self._publisher = NumberedPublisher(
                node, TaskEventMsg, graph.TASK_EVENTS, graph.EVENTS, wire.event_to_msg
            )

    def ended(
        self,
        cycle_of: Request | Answer,
        started_ns: int,
        ended_ns: int,
        outcome: Outcome = Outcome.COMPLETED,
        completion: Completion | None = None,
        overtaken: int = 0,
    ) -> None:
        """The task ran from `started_ns` to `ended_ns` (CLOCK_MONOTONIC); call it when its result is on its way."""
        if self._publisher is None:
            return
        event = TaskEvent(
            self._task,
            outcome,
            cycle_of.cycle,
            cycle_of.client_id,
            cycle_of.slice,
            self._node_name,
            started_ns,
            ended_ns,
            completion,
            overtaken,
        )
        self._publisher.publish(event)
