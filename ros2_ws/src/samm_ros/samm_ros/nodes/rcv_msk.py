# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""RCV_MSK, receive mask transmission: lets through what came over whole.

In:   masks (SliceMask)
Out:  received_masks (SliceMask), task_events
Parameters: trace
"""

from __future__ import annotations

import time

from rclpy.node import Node
from samm_msgs.msg import SliceMask

from samm_core.errors import MaskError
from samm_core.latency.events import Task
from samm_core.mask_codec import decode_mask

from .. import conversions, topics
from ..support import process
from ..support.diagnostics import Diagnostics
from ..support.direct import DirectSubscription
from ..support.publishing import answer_publisher
from ..support.tracing import TaskTracer


class RcvMsk(Node):
    """Lets no damaged mask through: it is dropped and counted, and SND_INF sends the request again."""

    def __init__(self) -> None:
        super().__init__("rcv_msk")
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.RCV_MSK)
        self._received = answer_publisher(self, topics.RECEIVED_MASKS)
        DirectSubscription(self, SliceMask, topics.MASKS, self._on_mask, topics.OF_ALL_CLIENTS)

    def _on_mask(self, message: SliceMask) -> None:
        started_ns = time.monotonic_ns()
        try:
            answer = conversions.answer_from_msg(message)
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
