# SPDX-License-Identifier: Apache-2.0
"""From a bag to a report: the task events in it, and what its sequence numbers say was lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import BagError, PromptError
from ..nodes import wire
from ..trace import TaskEvent
from .analysis import Report, analyse, losses_of
from .bag import BagReader

# By the last part of their names.
EVENTS = "task_events"
NUMBERED = (EVENTS, "slice_requests", "accepted_requests", "masks", "received_masks")


@dataclass(frozen=True)
class Session:
    """cut: the bag was not finished. unreadable: messages with fields that cannot be."""

    path: Path
    report: Report
    cut: bool
    unreadable: int


def read_session(path: Path) -> Session:
    """Raises BagError for a bag that is none or holds no task events."""
    reader = BagReader(path)
    events: list[TaskEvent] = []
    heard: list[tuple[str, str, int]] = []
    unreadable = 0
    for recorded in reader.messages(*NUMBERED):
        try:
            publisher = ""
            if recorded.topic.rpartition("/")[2] == EVENTS:
                event = wire.event_from_msg(recorded.message)
                publisher = event.node
                events.append(event)
            heard.append((recorded.topic, publisher, int(recorded.message.sequence)))
        except (ValueError, AttributeError, PromptError):
            unreadable += 1
    if not events:
        why = "it was cut before the first" if reader.cut else "were they recorded?"
        raise BagError(f"{path} holds no task events; {why}")
    return Session(path, analyse(events, losses_of(heard)), reader.cut, unreadable)
