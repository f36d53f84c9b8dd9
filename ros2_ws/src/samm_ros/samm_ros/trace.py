# SPDX-License-Identifier: Apache-2.0
"""The five tasks of a cycle and how each ends: what `task_events` carries, without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .cycle import SliceId


class Task(IntEnum):
    """In the order of a cycle; the names are the paper's."""

    SND_INF = 0
    RCV_INF = 1
    CPL_INF = 2
    RCV_MSK = 3
    APL_MSK = 4


class Outcome(IntEnum):
    """How a task ended."""

    COMPLETED = 0
    SUPERSEDED = 1
    REFUSED = 2
    DROPPED = 3


@dataclass(frozen=True)
class Completion:
    """What CPL_INF's time went to: nanoseconds of its host's CLOCK_MONOTONIC, in this order.

    embedding_hit: the slice was in the cache when the request came.
    """

    embedding_hit: bool
    received_ns: int
    embedded_ns: int
    decode_started_ns: int
    decode_ended_ns: int
    packed_ns: int


@dataclass(frozen=True)
class TaskEvent:
    """One task of one cycle has ended; stamps are nanoseconds of CLOCK_MONOTONIC of the node's host.

    completion: of CPL_INF, where it decoded a mask.
    overtaken: of SND_INF: the prompts before this one that were never sent, as it took their place.
    """

    task: Task
    outcome: Outcome
    cycle: int
    client_id: str
    slice: SliceId
    node: str
    started_ns: int
    ended_ns: int
    completion: Completion | None = None
    overtaken: int = 0
