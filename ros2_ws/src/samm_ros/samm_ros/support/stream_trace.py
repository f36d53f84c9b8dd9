# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The five tasks of a live stream's keyframes, as `task_events`: from the image that came in to the mask that is shown."""

from __future__ import annotations

import threading
import time

from rclpy.node import Node

from samm_core.cycle.request import Answer, CycleCounter
from samm_core.geometry import Plane
from samm_core.latency.events import Completion, Task
from samm_core.sources.base import ImageId, SliceKey
from samm_core.stream.frames import Frame
from samm_core.stream.session import Keyframe

from .tracing import TaskTracer

# The client and the source of a stream's cycles, in the trace.
STREAM = "stream"
_INDICES = 1 << 31


class StreamTrace:
    """Each keyframe is a cycle. Thread-safe.

    SND_INF: the image comes in and waits for its turn as a keyframe. RCV_INF: its pixels go to the encoder. CPL_INF: it is
    encoded, and each object decoded. RCV_MSK: the masks are there. APL_MSK: they are carried to the newest image and shown.
    """

    def __init__(self, node: Node) -> None:
        self._tracer = TaskTracer(node, Task.CPL_INF)
        self._cycles = CycleCounter()
        self._lock = threading.Lock()
        # The newest keyframe that nothing was published after, and when its masks were there.
        self._shown_next: tuple[Answer, int] | None = None

    def keyframe(self, keyframe: Keyframe) -> None:
        """A keyframe was answered."""
        if not keyframe.embedded_ns:
            return
        frame = keyframe.frame
        image = ImageId(STREAM, SliceKey(Plane.AXIAL, frame.number % _INDICES))
        answer = Answer(self._cycles.next(), STREAM, "", image, frame.shape)
        picked_ns, embedded_ns, answered_ns = keyframe.picked_ns, keyframe.embedded_ns, keyframe.answered_ns
        completion = Completion(keyframe.hit, picked_ns, embedded_ns, embedded_ns, answered_ns, answered_ns)
        there_ns = time.monotonic_ns()
        self._tracer.ended(answer, frame.received_ns, picked_ns, task=Task.SND_INF)
        self._tracer.ended(answer, picked_ns, picked_ns, task=Task.RCV_INF)
        self._tracer.ended(answer, picked_ns, answered_ns, completion=completion)
        self._tracer.ended(answer, answered_ns, there_ns, task=Task.RCV_MSK)
        with self._lock:
            self._shown_next = answer, there_ns

    def published(self, frame: Frame, published_ns: int) -> None:
        """What is followed at a frame was published."""
        with self._lock:
            shown, self._shown_next = self._shown_next, None
        if shown:
            self._tracer.ended(*shown, published_ns, task=Task.APL_MSK)
