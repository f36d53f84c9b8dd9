# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Publishes how each task of each cycle ended."""

from __future__ import annotations

from rclpy.node import Node
from samm_msgs.msg import TaskEvent as TaskEventMsg

from samm_core.cycle.request import Answer, Request
from samm_core.latency.events import Completion, Outcome, Task, TaskEvent

from .. import conversions, topics
from . import parameters
from .publishing import NumberedPublisher


class TaskTracer:
    """The `task_events` of one node; thread-safe."""

    def __init__(self, node: Node, task: Task) -> None:
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
        if self._publisher is None:
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
        self._publisher.publish(event)
