# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SND_INF, send inference request: brings a prompt to the pixels of its slice and sends it to the server.

In:   prompts (Prompt), picture_prompts (PicturePrompt), received_masks (SliceMask), volumes, model_info, segmentation_status (latched)
Out:  slice_requests (SliceRequest), masks (SliceMask: refusals), task_events
Uses: load_picture, for pictures that come with their prompts; load_volume and load_picture, when a server comes back
without what was loaded
Parameters: client_id, trace; resend_after, which can be set while it runs
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace

from rclpy.node import Node
from samm_msgs.msg import ModelInfo, PicturePrompt, Prompt, SegmentationStatus, SliceMask

from samm_core.cycle.newest import NOTHING_LOADED, Outbox
from samm_core.cycle.request import Answer, ClientPrompt, Request, UnreadPrompt
from samm_core.errors import PromptError, SammError
from samm_core.latency.events import Outcome, Task
from samm_core.sources.picture import PICTURE
from samm_core.sources.volume import LoadedVolume

from .. import conversions, topics
from ..support import parameters, process
from ..support.diagnostics import Diagnostics
from ..support.direct import BytesSubscription, DirectSubscription, exclusive
from ..support.intra_process import ValueSubscription
from ..support.pictures import PictureLoader, Pictures
from ..support.publishing import answer_publisher, request_publisher
from ..support.reload import VolumeReloader
from ..support.tracing import TaskTracer
from ..support.unread import unread_prompt
from ..support.watch import Watch

TICK_S = 0.05
# Prompts gather for so long, as a mouse moves 120 times per second: those that others overtake cost no wake each.
GATHER_S = 0.008


class SndInf(Node):
    """One cycle a prompt.

    While a client's mask is worked on, only its newest prompt is kept, and sent when that is there.

    What APL_MSK has not settled is sent again: best effort loses messages, and servers restart. See samm_core/cycle/newest.py.
    """

    def __init__(self) -> None:
        super().__init__("snd_inf")
        client_id = parameters.declare(
            self, "client_id", "", "Client of prompts that name none; empty: host name and process id."
        )
        self._client_id = client_id or f"{socket.gethostname()}-{os.getpid()}"
        resend_after = parameters.declare_number(
            self,
            "resend_after",
            0.5,
            "Seconds without an answer after which a request is sent again.",
            (0.05, 60.0),
            on_set=self._set_resend_after,
        )
        self._lock = threading.RLock()
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.SND_INF)
        self._requests = request_publisher(self, topics.SLICE_REQUESTS)
        self._refusals = answer_publisher(self, topics.MASKS)
        self._outbox = Outbox(self._send, resend_after, self._server_is_there)
        self._pictures = Pictures()
        self._loader = PictureLoader(self, self._pictures, self._diagnostics.problem)
        self._reloader = VolumeReloader(
            self, self._on_volumes, self._on_none, self._diagnostics.problem, self._pictures.image
        )
        self.create_subscription(ModelInfo, topics.MODEL_INFO, self._on_model, topics.LATCHED)
        # ROS time may stand still, or not run at all.
        self._loading = process.steady_timer(self, TICK_S, self._on_loading)
        self._loading.cancel()
        self._sending = Watch("snd_inf", TICK_S, self._on_sending)
        DirectSubscription(
            self, SegmentationStatus, topics.SEGMENTATION_STATUS, self._on_status, topics.LATCHED
        )
        with self._lock:
            self._prompts = BytesSubscription(
                self, Prompt, topics.PROMPTS, self._on_prompts, topics.OF_ALL_CLIENTS, apart_s=GATHER_S
            )
        DirectSubscription(
            self, PicturePrompt, topics.PICTURE_PROMPTS, self._on_picture_prompt, topics.PICTURES
        )
        ValueSubscription(
            self,
            SliceMask,
            topics.RECEIVED_MASKS,
            self._on_answer,
            topics.OF_ALL_CLIENTS,
            conversions.answer_from_msg,
            # APL_MSK tells of a damaged mask; the request is sent again.
            on_damaged=lambda message, error: None,
        )

    def destroy_node(self) -> None:
        self._sending.close()
        super().destroy_node()

    @exclusive
    def _on_prompts(self, _: BytesSubscription) -> None:
        self._take_prompts()

    def _take_prompts(self) -> None:
        newest: dict[str, UnreadPrompt] = {}
        for data, came_ns in self._prompts.take_all():
            prompt = unread_prompt(data, self._client_id, came_ns)
            former = newest.get(prompt.client_id)
            if former and prompt.cycle and prompt.cycle <= former.cycle:
                continue
            # No prompt overtakes the prompts of others: it is the client that has its turn.
            newest[prompt.client_id] = replace(prompt, overtaken=former.overtaken + 1) if former else prompt
        for prompt in newest.values():
            self._outbox.put(prompt)
        if newest:
            self._sending.begin()

    @exclusive
    def _on_picture_prompt(self, message: PicturePrompt) -> None:
        came_ns = time.monotonic_ns()
        image = message.prompt.image
        image.source, image.plane, image.index = "", int(PICTURE.plane), PICTURE.index
        prompt = conversions.prompt_from_msg(message.prompt, self._client_id, came_ns)
        try:
            if message.prompt.coordinates != Prompt.PIXEL:
                raise PromptError(
                    "A picture has no place in a patient; give the prompt's coordinates in PIXEL."
                )
            uid = self._pictures.take(message.picture).uid
        except SammError as error:
            prompt = replace(prompt, problem=prompt.problem or str(error))
        else:
            prompt = replace(prompt, image=replace(prompt.image, source=uid))
            self._loader.want(uid, prompt.image.key.window)
            self._look_after_loading()
        self._outbox.put(prompt)
        self._sending.begin()

    @exclusive
    def _set_resend_after(self, seconds: float) -> None:
        self._outbox.resend_after = seconds

    def _server_is_there(self) -> bool:
        return self.count_publishers(topics.ACCEPTED_REQUESTS) > 0

    def _send(self, message: Request | Answer, prompt: ClientPrompt | None) -> None:
        is_request = isinstance(message, Request)
        ended_ns = (self._requests if is_request else self._refusals).publish(message)
        self._diagnostics.count("sent" if prompt else "sent again")
        if not is_request:
            self._diagnostics.problem(message.error)
        elif prompt:
            self._diagnostics.solved()
        if prompt:
            outcome = Outcome.COMPLETED if is_request else Outcome.REFUSED
            self._tracer.ended(message, prompt.came_ns, ended_ns, outcome, overtaken=prompt.overtaken)

    @exclusive
    def _on_answer(self, answer: Answer) -> None:
        # What is sent next is the newest that there is.
        self._take_prompts()
        self._outbox.answered(answer.client_id, answer.cycle, answer.error)

    @exclusive
    def _on_status(self, message: SegmentationStatus) -> None:
        self._outbox.settled({c.client_id: (c.requested, c.settled) for c in message.clients})
        # An APL_MSK that was started again knows less than the former one.
        self._sending.begin()

    @exclusive
    def _on_sending(self) -> bool:
        self._outbox.tick()
        return self._outbox.is_busy

    @exclusive
    def _on_loading(self) -> None:
        self._loader.tick()
        self._reloader.tick()
        if not (self._loader.is_waiting or self._reloader.is_waiting):
            self._loading.cancel()

    def _look_after_loading(self) -> None:
        if self._loading.is_canceled():
            self._loading.reset()

    @exclusive
    def _on_volumes(self, volumes: list[LoadedVolume], lost: list[LoadedVolume], last: str) -> None:
        self._loader.held([volume.uid for volume in (*volumes, *lost)])
        self._outbox.load(volumes, lost, last)
        self._look_after_loading()
        self._sending.begin()

    @exclusive
    def _on_none(self, why: str) -> None:
        self._loader.held([])
        self._outbox.unload(why or NOTHING_LOADED)
        self._look_after_loading()
        self._sending.begin()

    @exclusive
    def _on_model(self, message: ModelInfo) -> None:
        self._outbox.lack_model("" if message.name else message.error)
        self._sending.begin()


def main() -> None:
    with process.ros():
        process.spin(SndInf())
