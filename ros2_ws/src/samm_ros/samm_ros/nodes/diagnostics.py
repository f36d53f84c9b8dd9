# SPDX-License-Identifier: Apache-2.0
"""A node's state on `/diagnostics`, once a second."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from . import graph

PERIOD_S = 1.0


class Diagnostics:
    """Counts what happens in a node and reports it; a problem is a warning until it is solved. Thread-safe.

    values: further readings, asked for at each report.
    """

    def __init__(self, node: Node, values: Callable[[], Mapping[str, object]] = dict) -> None:
        self._node = node
        self._values = values
        self._counts: Counter[str] = Counter()
        self._problem = ""
        self._lock = threading.Lock()
        self._publisher = node.create_publisher(DiagnosticArray, graph.DIAGNOSTICS, 10)
        node.create_timer(PERIOD_S, self._report)

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def problem(self, sentence: str) -> None:
        """Something was refused or went wrong: logged once, counted, and shown until `solved`."""
        with self._lock:
            self._counts["problems"] += 1
            is_new, self._problem = sentence != self._problem, sentence
        if is_new:
            self._node.get_logger().warning(sentence)

    def solved(self) -> None:
        with self._lock:
            self._problem = ""

    def _report(self) -> None:
        with self._lock:
            problem, readings = self._problem, dict(self._counts)
        readings.update(self._values())
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if problem else DiagnosticStatus.OK,
            name=self._node.get_fully_qualified_name(),
            message=problem or "ok",
            values=[KeyValue(key=key, value=str(value)) for key, value in readings.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
