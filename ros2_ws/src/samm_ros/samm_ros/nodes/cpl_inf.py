# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CPL_INF, complete SAM inference: decodes the newest request of each client on its slice's embedding.

In:   accepted_requests (SliceRequest)
Out:  masks (SliceMask), task_events
Uses: the embedding engine of its own process (samm_server), or another's (alone: embedding_requests, embeddings)
Parameters: autostart, trace; alone also device, checkpoint and cache_gib
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from samm_msgs.msg import SliceRequest

from samm_core.cycle.completion import CompletionLoop, Ended
from samm_core.embedding.engine import EmbeddingSource
from samm_core.latency.events import Outcome, Task

from .. import conversions, topics
from ..support import process
from ..support.diagnostics import Diagnostics
from ..support.intra_process import ValueSubscription
from ..support.lifecycle import LifecycleNode
from ..support.publishing import answer_publisher
from ..support.remote_embeddings import RemoteEmbeddings
from ..support.tracing import TaskTracer


class CplInf(LifecycleNode):
    """Requests come in on RCV_INF's thread or, of another process, their subscription's; masks leave from the loop's own."""

    def __init__(self, make_source: Callable[[Node], EmbeddingSource]) -> None:
        super().__init__("cpl_inf")
        process.declare_autostart(self)
        self._loop: CompletionLoop | None = None
        self._accepted: ValueSubscription | None = None
        self._source = make_source(self)
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.CPL_INF)
        self._masks = answer_publisher(self, topics.MASKS)

    def activate(self) -> None:
        self._loop = CompletionLoop(self._source, self._on_ended)
        self._accepted = ValueSubscription(
            self,
            SliceRequest,
            topics.ACCEPTED_REQUESTS,
            self._loop.submit,
            topics.OF_ALL_CLIENTS,
            conversions.request_from_msg,
            lambda message, error: self._diagnostics.problem(str(error)),
        )
        self._diagnostics.failing("")

    def deactivate(self) -> None:
        if self._accepted:
            self._accepted.destroy()
            self._accepted = None
        if self._loop:
            self._loop.close()
            self._loop = None

    def is_prompted(self) -> bool:
        """Whether a prompt waits for the decoder, or is being decoded."""
        loop = self._loop
        return loop is not None and loop.is_busy

    def transition_failed(self, sentence: str) -> None:
        self._diagnostics.failing(sentence)

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
