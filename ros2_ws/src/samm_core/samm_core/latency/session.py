# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From a bag to a report: the task events in it, and what its sequence numbers say was lost."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BagError
from .analysis import Report, analyse, followed_of, losses_of
from .bag import BagReader
from .events import TaskEvent, event_of

# By the last part of their names.
EVENTS = "task_events"
NUMBERED = (EVENTS, "slice_requests", "accepted_requests", "masks", "received_masks")
TRACKS = "tracks"


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
    unreadable, unnamed, starts, stream = 0, set(), _Starts(), _Stream()
    for recorded in reader.messages(*NUMBERED, TRACKS):
        try:
            if recorded.topic.rpartition("/")[2] == TRACKS:
                stream.put(recorded.message)
                continue
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
    followed = followed_of(list(stream.published_ns.items()), stream.dropped, stream.refused)
    report = analyse(events, losses_of(heard), followed)
    return Session(path, report, reader.cut, unreadable, tuple(sorted(unnamed)))


class _Stream:
    """The images of a live stream. published_ns: by when they came in, when their tracks were published first."""

    def __init__(self) -> None:
        self.published_ns: dict[int, int] = {}
        self._counts: tuple[int, int] | None = None
        self.dropped = self.refused = 0

    def put(self, tracks: Any) -> None:
        counts = int(tracks.dropped), int(tracks.refused)
        # A node that was started again counts from 0.
        dropped, refused = (
            max(0, now - then) for now, then in zip(counts, self._counts or counts, strict=True)
        )
        self._counts = counts
        self.dropped, self.refused = self.dropped + dropped, self.refused + refused
        # They are published again where they are stale, or the next image could not be read.
        if tracks.frame:
            self.published_ns.setdefault(int(tracks.received_ns), int(tracks.published_ns))


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
