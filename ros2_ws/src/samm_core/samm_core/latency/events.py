# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The five tasks of a cycle and how each ends: what `task_events` carries, without ROS."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

from ..geometry import Plane
from ..sources.base import ImageId, SliceKey


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
    image: ImageId
    node: str
    started_ns: int
    ended_ns: int
    completion: Completion | None = None
    overtaken: int = 0


def event_of(message: Any) -> TaskEvent:
    """The event in a `samm_msgs/TaskEvent`, which ROS or a bag's reader made.

    Raises ValueError for a task, outcome or plane that there is not.
    """
    return TaskEvent(
        Task(message.task),
        Outcome(message.outcome),
        message.cycle,
        message.client_id,
        _image_of(message),
        message.node,
        message.started_ns,
        message.ended_ns,
        Completion(*(getattr(message, name) for name in _COMPLETION)) if message.packed_ns else None,
        int(message.overtaken),
    )


def _image_of(message: Any) -> ImageId:
    if hasattr(message, "image"):
        image = message.image
        return ImageId(image.source, SliceKey(Plane(image.plane), image.index))
    # Bags of earlier releases.
    return ImageId(message.slice.volume_uid, SliceKey(Plane(message.slice.plane), message.slice.index))


_COMPLETION = tuple(field.name for field in fields(Completion))
