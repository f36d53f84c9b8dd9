# SPDX-License-Identifier: Apache-2.0
"""RCV_INF, receive inference request: lets through what can be answered, refuses the rest in a sentence.

In:   slice_requests (SliceRequest, newest), volume_info (VolumeInfo, latched), model_info (ModelInfo, latched)
Out:  accepted_requests (SliceRequest, newest), masks (SliceMask, newest: refusals), task_events
Parameters: autostart, trace
"""

from __future__ import annotations

import time

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from samm_msgs.msg import ModelInfo, SliceRequest, VolumeInfo

from ..cycle import Request, refusal, request_objection
from ..errors import PromptError, VolumeError
from ..prompts import kind_objection
from ..trace import Outcome, Task
from . import graph, process, wire
from .diagnostics import Diagnostics
from .direct import DirectSubscription
from .publishing import answer_publisher, request_publisher
from .tracing import TaskTracer


class RcvInf(LifecycleNode):
    """The server's gate. While no volume or model is loaded it stays silent: the client sends again."""

    def __init__(self) -> None:
        super().__init__("rcv_inf")
        process.declare_autostart(self)
        self._volume: wire.LoadedVolume | None = None
        self._model: ModelInfo | None = None
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.RCV_INF)
        self._accepted = request_publisher(self, graph.ACCEPTED_REQUESTS)
        self._refusals = answer_publisher(self, graph.MASKS)
        self.create_subscription(VolumeInfo, graph.VOLUME_INFO, self._on_volume, graph.LATCHED)
        self.create_subscription(ModelInfo, graph.MODEL_INFO, self._on_model, graph.LATCHED)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._requests = DirectSubscription(
            self, SliceRequest, graph.SLICE_REQUESTS, self._on_request, graph.NEWEST
        )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._requests.destroy()
        return super().on_deactivate(state)

    def _on_request(self, message: SliceRequest) -> None:
        started_ns = time.monotonic_ns()
        try:
            request = wire.request_from_msg(message)
        except PromptError as error:
            # Damaged: whose it is cannot be trusted, so nobody is answered; the client sends again.
            self._diagnostics.problem(str(error))
            return
        volume, model = self._volume, self._model
        if volume is None or model is None:
            self._diagnostics.count("waiting for a volume and a model")
            self._tracer.ended(request, started_ns, time.monotonic_ns(), Outcome.DROPPED)
        elif objection := self._objection(request, volume, model):
            ended_ns = self._refusals.publish(refusal(request, objection))
            self._tracer.ended(request, started_ns, ended_ns, Outcome.REFUSED)
            self._diagnostics.problem(objection)
        else:
            self._tracer.ended(request, started_ns, self._accepted.publish(request))
            self._diagnostics.count("accepted")
            self._diagnostics.solved()

    @staticmethod
    def _objection(request: Request, volume: wire.LoadedVolume, model: ModelInfo) -> str:
        return request_objection(request, volume.uid, volume.geometry) or kind_objection(
            request.prompt, model.name, model.takes_points, model.takes_box
        )

    def _on_volume(self, message: VolumeInfo) -> None:
        try:
            self._volume = wire.volume_from_msg(message)
        except VolumeError as error:
            self._diagnostics.problem(str(error))

    def _on_model(self, message: ModelInfo) -> None:
        self._model = message if message.name else None


def main() -> None:
    with process.ros():
        node = RcvInf()
        process.autostart(node)
        process.spin(node)
