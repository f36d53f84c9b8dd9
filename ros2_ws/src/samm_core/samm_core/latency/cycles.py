# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Puts task events together to cycles, by client and cycle id, and sums up how long they took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..sources.base import ImageId
from .events import Completion, Outcome, Task, TaskEvent

# Of a cycle: waiting for the embedding, waiting for the decoder, decoding, packing the mask; the overhead is the whole
# cycle without the first and the third.
PARTS = ("embedding", "queue", "decode", "pack", "overhead")


@dataclass(frozen=True)
class Cycle:
    """A cycle that ran to its end: when it began and when each task ended, ns of one host's CLOCK_MONOTONIC."""

    cycle: int
    client_id: str
    image: ImageId
    started_ns: int
    ended_ns: dict[Task, int]
    completion: Completion | None = None

    @property
    def total_ms(self) -> float:
        """From the prompt's arrival at SND_INF to the mask applied."""
        return (self.ended_ns[Task.APL_MSK] - self.started_ns) / 1e6

    def interval_ms(self, task: Task) -> float:
        """From the end of the task before (for SND_INF: the prompt's arrival) to this task's end."""
        before = self.started_ns if task == Task.SND_INF else self.ended_ns[Task(task - 1)]
        return (self.ended_ns[task] - before) / 1e6

    @property
    def parts_ms(self) -> dict[str, float]:
        """What the cycle's time went to, by PARTS; empty where CPL_INF did not say."""
        if not (c := self.completion):
            return {}
        wait, decode = c.embedded_ns - c.received_ns, c.decode_ended_ns - c.decode_started_ns
        spans = wait, c.decode_started_ns - c.embedded_ns, decode, c.packed_ns - c.decode_ended_ns
        parts = [span / 1e6 for span in spans]
        return dict(zip(PARTS, (*parts, self.total_ms - (wait + decode) / 1e6), strict=True))


def complete_cycles(events: Iterable[TaskEvent]) -> list[Cycle]:
    """The cycles all of whose tasks completed, in the order in which they began; others are left out.

    A request sent again makes events again; the first of each task counts. Stamps out of order, as clocks of two hosts
    give, leave a cycle out as well.
    """
    by_cycle: dict[tuple[str, int], dict[Task, TaskEvent]] = defaultdict(dict)
    for event in sorted(events, key=lambda e: e.ended_ns):
        if event.outcome == Outcome.COMPLETED:
            by_cycle[event.client_id, event.cycle].setdefault(event.task, event)
    cycles = []
    for (client_id, cycle), tasks in by_cycle.items():
        if len(tasks) < len(Task) or any(tasks[a].ended_ns > tasks[b].ended_ns for a, b in pairwise(Task)):
            continue
        first = tasks[Task.SND_INF]
        ended_ns = {task: tasks[task].ended_ns for task in Task}
        completion = tasks[Task.CPL_INF].completion
        cycles.append(Cycle(cycle, client_id, first.image, first.started_ns, ended_ns, completion))
    return sorted(cycles, key=lambda c: c.started_ns)


def percentiles(values_ms: Sequence[float], wanted: Sequence[float] = (50, 99)) -> list[float]:
    """The wanted percentiles of the values, linearly interpolated; NaN when there are none."""
    return [float(np.percentile(values_ms, p)) if len(values_ms) else float("nan") for p in wanted]
