# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A node's state on `/diagnostics`, once a second, as diagnostic_updater and the aggregator have it.

OK: it works. WARN: something was refused in the last seconds. ERROR: it cannot work until somebody does something.
STALE: a managed node that is not active, and so has nothing to say.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

from .. import topics
from .lifecycle import LifecycleNode
from .watch import Watch

PERIOD_S = 1.0
# One client's bad prompt is news for so long, not until somebody sends a good one.
PROBLEM_S = 10.0


class Diagnostics:
    """Counts what happens in a node and reports it. Thread-safe.

    values: further readings, asked for at each report.
    hardware: what the node runs on, beside the host: a device.
    """

    def __init__(
        self,
        node: Node,
        values: Callable[[], Mapping[str, object]] = dict,
        hardware: Callable[[], str] = str,
    ) -> None:
        self._node = node
        self._values = values
        self._hardware = hardware
        self._name = f"{node.get_fully_qualified_name().lstrip('/')}: state"
        self._counts: Counter[str] = Counter()
        self._problem, self._problem_at = "", 0.0
        self._failing = ""
        self._lock = threading.Lock()
        self._publisher = node.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
        _add(self)

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def problem(self, sentence: str) -> None:
        """Something was refused or went wrong: logged once, counted, and a warning until `solved`, or for PROBLEM_S."""
        with self._lock:
            self._counts["problems"] += 1
            is_new, self._problem = sentence != self._problem, sentence
            self._problem_at = time.monotonic()
        if is_new:
            self._node.get_logger().warning(sentence)

    def solved(self) -> None:
        with self._lock:
            self._problem = ""

    def failing(self, sentence: str) -> None:
        """The node cannot do its work: logged once, and an error until it is called with an empty sentence."""
        with self._lock:
            is_new, self._failing = sentence != self._failing, sentence
        if is_new and sentence:
            self._node.get_logger().error(sentence)

    def _level(self) -> tuple[bytes, str]:
        if self._failing:
            return DiagnosticStatus.ERROR, self._failing
        if isinstance(self._node, LifecycleNode) and not self._node.is_active:
            return DiagnosticStatus.STALE, self._node.state
        if self._problem and time.monotonic() - self._problem_at < PROBLEM_S:
            return DiagnosticStatus.WARN, self._problem
        return DiagnosticStatus.OK, "ok"

    def is_of(self, node: Node) -> bool:
        return self._node is node

    def report(self) -> None:
        """Publish, while the node is being served."""
        if self._node.executor is None:
            return
        with self._lock:
            (level, message), readings = self._level(), dict(self._counts)
        readings.update(self._values())
        status = DiagnosticStatus(
            level=level,
            name=self._name,
            message=message,
            hardware_id=" ".join(filter(None, (socket.gethostname(), self._hardware()))),
            values=[KeyValue(key=key, value=str(value)) for key, value in readings.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


# Those of all nodes of this process are reported together: one thread wakes, and no executor.
_all: weakref.WeakSet[Diagnostics] = weakref.WeakSet()
_lock = threading.Lock()
_reporting: Watch | None = None
# Held while a node is asked: its lifecycle's state machine must not be destroyed then.
_asking = threading.Lock()


def end(node: Node) -> None:
    """Report of a node no more; before it is destroyed."""
    with _asking, _lock:
        for each in [each for each in _all if each.is_of(node)]:
            _all.remove(each)


def _add(diagnostics: Diagnostics) -> None:
    global _reporting
    with _lock:
        _all.add(diagnostics)
        if _reporting is None:
            _reporting = Watch("diagnostics", PERIOD_S, _report_all)
    _reporting.begin()


def _report_all() -> bool:
    with _lock:
        every = list(_all)
    for each in every:
        # A node that is no lifecycle node may be destroyed meanwhile.
        with _asking, contextlib.suppress(rclpy_implementation.InvalidHandle, rclpy_implementation.RCLError):
            if each in _all:
                each.report()
    return bool(every)
