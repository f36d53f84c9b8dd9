# SPDX-License-Identifier: Apache-2.0
"""RCV_MSK, receive mask transmission: lets through what came over whole.

In:   masks (SliceMask, newest)
Out:  received_masks (SliceMask, newest), task_events
Parameters: trace
"""

from __future__ import annotations

import time

from rclpy.node import Node
from samm_msgs.msg import SliceMask

from ..errors import MaskError
from ..mask_codec import decode_mask
from ..trace import Task
from . import graph, process, wire
from .diagnostics import Diagnostics
from .direct import DirectSubscription
from .publishing import answer_publisher
from .tracing import TaskTracer


class RcvMsk(Node):
    """The client's gate. A damaged mask is dropped and counted; SND_INF asks for it again."""

    def __init__(self) -> None:
        super().__init__("rcv_msk")
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.RCV_MSK)
        self._received = answer_publisher(self, graph.RECEIVED_MASKS)
        DirectSubscription(self, SliceMask, graph.MASKS, self._on_mask, graph.NEWEST)

    def _on_mask(self, message: SliceMask) -> None:
        started_ns = time.monotonic_ns()
        try:
            answer = wire.answer_from_msg(message)
            if not answer.error:
                decode_mask(answer.data, answer.shape, answer.encoding)
        except MaskError as error:
            self._diagnostics.problem(str(error))
            return
        self._tracer.ended(answer, started_ns, self._received.publish(answer))
        self._diagnostics.count("received")
        self._diagnostics.solved()


def main() -> None:
    with process.ros():
        process.spin(RcvMsk())
