# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""RCV_INF, receive inference request: lets through what can be answered, refuses the rest in a sentence.

In:   slice_requests (SliceRequest), volumes (VolumeList, latched), model_info (ModelInfo, latched)
Out:  accepted_requests (SliceRequest), masks (SliceMask: refusals), task_events
Parameters: autostart, trace
"""

from __future__ import annotations

import time
from dataclasses import replace

from samm_msgs.msg import ModelInfo, SliceRequest, VolumeList

from samm_core.cycle.newest import VOLUME_WAIT_S
from samm_core.cycle.request import Request, refusal, remember, request_error
from samm_core.errors import PromptError, VolumeError
from samm_core.latency.events import Outcome, Task
from samm_core.prompts import prompt_kind_error
from samm_core.sources.volume import LoadedVolume

from .. import conversions, topics
from ..support import process
from ..support.diagnostics import Diagnostics
from ..support.direct import DirectSubscription
from ..support.lifecycle import LifecycleNode
from ..support.publishing import answer_publisher, request_publisher
from ..support.tracing import TaskTracer


class RcvInf(LifecycleNode):
    """Stands before the decoder. While no volume or model is loaded it stays silent: the client sends again.

    So it does for VOLUME_WAIT_S with a request for a volume that is not loaded, which may be on its way here.
    """

    def __init__(self) -> None:
        super().__init__("rcv_inf")
        process.declare_autostart(self)
        self._requests: DirectSubscription | None = None
        self._volumes: dict[str, LoadedVolume] = {}
        self._model: ModelInfo | None = None
        # By client, the request for a volume that is not loaded, and since when it sends that.
        self._unloaded: dict[str, tuple[int, float]] = {}
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.RCV_INF)
        self._accepted = request_publisher(self, topics.ACCEPTED_REQUESTS)
        self._refusals = answer_publisher(self, topics.MASKS)
        self.create_subscription(VolumeList, topics.VOLUMES, self._on_volumes, topics.LATCHED)
        self.create_subscription(ModelInfo, topics.MODEL_INFO, self._on_model, topics.LATCHED)

    def activate(self) -> None:
        self._requests = DirectSubscription(
            self, SliceRequest, topics.SLICE_REQUESTS, self._on_request, topics.OF_ALL_CLIENTS
        )
        self._diagnostics.failing("")

    def deactivate(self) -> None:
        if self._requests:
            self._requests.destroy()
            self._requests = None

    def transition_failed(self, sentence: str) -> None:
        self._diagnostics.failing(sentence)

    def _on_request(self, message: SliceRequest) -> None:
        started_ns = time.monotonic_ns()
        try:
            request = conversions.request_from_msg(message)
        except PromptError as error:
            # Damaged: whose it is cannot be trusted, so nobody is answered; the client sends again.
            self._diagnostics.problem(str(error))
            return
        volumes, model = self._volumes, self._model
        if model and model.error:
            error = model.error
        elif not volumes or model is None or self._waits_for_its_volume(request):
            self._diagnostics.count("waiting for a volume and a model")
            self._tracer.ended(request, started_ns, time.monotonic_ns(), Outcome.DROPPED)
            return
        else:
            error = self._error(request, volumes, model)
        if error:
            ended_ns = self._refusals.publish(refusal(request, error))
            self._tracer.ended(request, started_ns, ended_ns, Outcome.REFUSED)
            self._diagnostics.problem(error)
        else:
            image = request.image.in_window(volumes[request.image.source].window)
            request = replace(request, image=image)
            self._tracer.ended(request, started_ns, self._accepted.publish(request))
            self._diagnostics.count("accepted")
            self._diagnostics.solved()

    def _waits_for_its_volume(self, request: Request) -> bool:
        if request.image.source in self._volumes:
            return False
        now = time.monotonic()
        cycle, since = self._unloaded.get(request.client_id, (0, 0.0))
        if cycle != request.cycle:
            since = now
        remember(self._unloaded, request.client_id, (request.cycle, since))
        return now - since < VOLUME_WAIT_S

    @staticmethod
    def _error(request: Request, volumes: dict[str, LoadedVolume], model: ModelInfo) -> str:
        return request_error(request, volumes) or prompt_kind_error(
            request.prompt, model.name, model.takes_points, model.takes_box
        )

    def _on_volumes(self, message: VolumeList) -> None:
        try:
            self._volumes = {volume.uid: volume for volume in conversions.volumes_from_msg(message)}
        except VolumeError as error:
            self._diagnostics.problem(str(error))

    def _on_model(self, message: ModelInfo) -> None:
        self._model = message if message.name or message.error else None


def main() -> None:
    with process.ros():
        node = RcvInf()
        process.autostart(node)
        process.spin(node)
