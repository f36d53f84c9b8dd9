# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From a bag to a report: the task events in it, and what its sequence numbers say was lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..errors import BagError
from .analysis import Report, analyse, losses_of
from .bag import BagReader
from .events import TaskEvent, event_of

# By the last part of their names.
EVENTS = "task_events"
NUMBERED = (EVENTS, "slice_requests", "accepted_requests", "masks", "received_masks")


@dataclass(frozen=True)
class Session:
    """cut: the bag was not finished. unreadable: messages with fields that cannot be.

    unnamed: topics whose messages do not name their publisher, as in bags of earlier releases.
    """

    path: Path
    report: Report
    cut: bool
    unreadable: int
    unnamed: tuple[str, ...] = ()


def read_session(path: Path) -> Session:
    """Raises BagError for a bag that is none or holds no task events."""
    reader = BagReader(path)
    events: list[TaskEvent] = []
    heard: list[tuple[str, str, int]] = []
    unreadable, unnamed, starts = 0, set(), _Starts()
    for recorded in reader.messages(*NUMBERED):
        try:
            sequence = int(recorded.message.sequence)
            if recorded.topic.rpartition("/")[2] == EVENTS:
                event = event_of(recorded.message)
                publisher = starts.publisher_of(event, sequence)
                events.append(event)
            elif not (publisher := getattr(recorded.message, "publisher", "")):
                unnamed.add(recorded.topic)
            heard.append((recorded.topic, publisher, sequence))
        except (ValueError, AttributeError):
            unreadable += 1
    if not events:
        why = "it was cut before the first" if reader.cut else "were they recorded?"
        raise BagError(f"{path} holds no task events; {why}")
    report = analyse(events, losses_of(heard))
    return Session(path, report, reader.cut, unreadable, tuple(sorted(unnamed)))


class _Starts:
    """Tells the starts of one node apart: each numbers its events from 1."""

    def __init__(self) -> None:
        self._heard: dict[str, dict[int, TaskEvent]] = defaultdict(dict)
        self._starts: Counter[str] = Counter()

    def publisher_of(self, event: TaskEvent, sequence: int) -> str:
        heard = self._heard[event.node]
        if heard.get(sequence, event) != event:
            self._starts[event.node] += 1
            heard.clear()
        heard[sequence] = event
        again = self._starts[event.node]
        return f"{event.node}, started again ({again})" if again else event.node
