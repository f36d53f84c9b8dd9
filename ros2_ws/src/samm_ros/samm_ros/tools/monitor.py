# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the graph has done in the last seconds.

In: task_events, embedding_status (latched)
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque

from rclpy.node import Node
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from samm_msgs.msg import EmbeddingStatus
from samm_msgs.msg import TaskEvent as TaskEventMsg

from samm_core.errors import PromptError
from samm_core.latency.cycles import complete_cycles, percentiles
from samm_core.latency.events import Outcome, Task, TaskEvent, event_of

from .. import topics


class Monitor(Node):
    """Keeps the events of the last `window_s` seconds."""

    def __init__(self, window_s: float, **node_arguments: object) -> None:
        super().__init__("monitor", **node_arguments)
        self._window_s = window_s
        self._events: deque[tuple[float, TaskEvent]] = deque(maxlen=100_000)
        self._embedding: EmbeddingStatus | None = None
        self.create_subscription(TaskEventMsg, topics.TASK_EVENTS, self._on_event, topics.EVENTS)
        self.create_subscription(EmbeddingStatus, topics.EMBEDDING_STATUS, self._on_embedding, topics.LATCHED)

    def table(self) -> Group:
        """What `samm top` shows."""
        now = time.monotonic()
        while self._events and now - self._events[0][0] > self._window_s:
            self._events.popleft()
        events = [event for _, event in self._events]
        cycles = complete_cycles(events)
        table = Table("task", "a second", "p50 ms", "p99 ms", "superseded", "refused", "dropped")
        for task in Task:
            mine = [event for event in events if event.task == task]
            outcomes = Counter(event.outcome for event in mine)
            done = outcomes[Outcome.COMPLETED]
            others = (outcomes[o] for o in (Outcome.SUPERSEDED, Outcome.REFUSED, Outcome.DROPPED))
            times = percentiles([cycle.interval_ms(task) for cycle in cycles])
            table.add_row(task.name, f"{done / self._window_s:.1f}", *map(_number, times), *map(str, others))
        times = percentiles([cycle.total_ms for cycle in cycles])
        table.add_row("cycle", f"{len(cycles) / self._window_s:.1f}", *map(_number, times), "", "", "")
        return Group(table, *self._progress())

    def _progress(self) -> list[object]:
        status = self._embedding
        if status is None or not sum(status.total):
            return [Text("No volume is loaded.")]
        done, total = sum(status.done), sum(status.total)
        rate = f", {status.rate:.2f} a second" if status.sweeping else ""
        text = f"{done} of {total} slices are embedded by {status.model} on {status.device}{rate}"
        return [Text(text), ProgressBar(total=total, completed=done, width=60)]

    def _on_event(self, message: TaskEventMsg) -> None:
        # An event that cannot be is none.
        with contextlib.suppress(PromptError, ValueError):
            self._events.append((time.monotonic(), event_of(message)))

    def _on_embedding(self, message: EmbeddingStatus) -> None:
        self._embedding = message


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"
