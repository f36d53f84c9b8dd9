# SPDX-License-Identifier: Apache-2.0
"""CPL_INF, complete SAM inference: decodes the newest request of each client on its slice's embedding.

In:   accepted_requests (SliceRequest, newest)
Out:  masks (SliceMask, newest), task_events
Uses: the embedding engine of its own process (samm_server), or another's (alone: embedding_requests, embeddings)
Parameters: autostart, trace; alone also device, checkpoint and cache_gib
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from samm_msgs.msg import SliceRequest

from ..completion import CompletionLoop, Ended
from ..embedding.engine import EmbeddingSource
from ..errors import PromptError
from ..trace import Outcome, Task
from . import graph, process, wire
from .diagnostics import Diagnostics
from .direct import DirectSubscription
from .publishing import answer_publisher
from .remote_embeddings import RemoteEmbeddings
from .tracing import TaskTracer


class CplInf(LifecycleNode):
    """Requests come in on their subscription's thread; masks leave from the completion loop's own."""

    def __init__(self, make_source: Callable[[Node], EmbeddingSource]) -> None:
        super().__init__("cpl_inf")
        process.declare_autostart(self)
        self._source = make_source(self)
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.CPL_INF)
        self._masks = answer_publisher(self, graph.MASKS)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._loop = CompletionLoop(self._source, self._on_ended)
        self._accepted = DirectSubscription(
            self, SliceRequest, graph.ACCEPTED_REQUESTS, self._on_request, graph.NEWEST
        )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._accepted.destroy()
        self._loop.close()
        return super().on_deactivate(state)

    def _on_request(self, message: SliceRequest) -> None:
        try:
            self._loop.submit(wire.request_from_msg(message))
        except PromptError as error:
            self._diagnostics.problem(str(error))

    def _on_ended(self, ended: Ended) -> None:
        ended_ns = self._masks.publish(ended.answer) if ended.answer else time.monotonic_ns()
        self._tracer.ended(ended.request, ended.started_ns, ended_ns, ended.outcome, ended.completion)
        self._diagnostics.count(ended.outcome.name.lower())
        if ended.outcome == Outcome.REFUSED:
            self._diagnostics.problem(ended.answer.error)
        elif ended.outcome == Outcome.COMPLETED:
            self._diagnostics.solved()


def main() -> None:
    with process.ros_with_model():
        node = CplInf(RemoteEmbeddings)
        process.autostart(node)
        process.spin(node)
