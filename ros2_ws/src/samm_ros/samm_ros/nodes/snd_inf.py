# SPDX-License-Identifier: Apache-2.0
"""SND_INF, send inference request: brings a prompt to the pixels of its slice and sends it to the server.

In:   prompts (Prompt, newest), received_masks (SliceMask), volume_info, segmentation_status (latched)
Out:  slice_requests (SliceRequest, newest), masks (SliceMask, newest: refusals), task_events
Uses: load_volume, when a server comes back without the volume that was being worked on
Parameters: client_id, resend_after, trace
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass

from rclpy.node import Node
from samm_msgs.msg import Prompt, SegmentationStatus, SliceMask, VolumeInfo
from samm_msgs.msg import SliceId as SliceIdMsg
from samm_msgs.srv import LoadVolume

from ..cycle import MAX_CLIENTS, Answer, CycleCounter, Request, SliceId
from ..errors import PromptError, VolumeError
from ..trace import Outcome, Task
from . import graph, parameters, process, wire
from .diagnostics import Diagnostics
from .direct import DirectSubscription, exclusive
from .publishing import answer_publisher, request_publisher
from .tracing import TaskTracer

RESEND_CHECK_S = 0.05
# A prompt is held no longer for the answer to the one before it: that may be lost, or be waiting for its slice.
HOLD_S = 0.25


@dataclass(frozen=True)
class _Held:
    """A prompt that waits, when it came (CLOCK_MONOTONIC, ns), and how many before it did so in vain."""

    request: Request
    started_ns: int
    overtaken: int


class SndInf(Node):
    """One cycle a prompt. While a client's mask is worked on, only its newest prompt is kept, and sent when that is there.

    What APL_MSK has not settled is sent again: best effort loses messages, and servers restart."""

    def __init__(self) -> None:
        super().__init__("snd_inf")
        self._client_id = parameters.declare(
            self, "client_id", "", "Client of prompts that name none; empty: host name and process id."
        )
        self._client_id = self._client_id or f"{socket.gethostname()}-{os.getpid()}"
        self._resend_after = parameters.declare_number(
            self,
            "resend_after",
            0.5,
            "Seconds without an answer after which a request is sent again.",
            (0.05, 60.0),
        )
        self._lock = threading.RLock()
        self._volume: wire.LoadedVolume | None = None
        self._cycles = CycleCounter()
        self._newest: dict[str, Request | Answer] = {}
        self._sent_at: dict[str, float] = {}
        self._answered: dict[str, int] = {}
        # Each client's newest prompt, while the one before it is answered.
        self._held: dict[str, _Held] = {}
        self._settled: dict[str, int] = {}
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.SND_INF)
        self._requests = request_publisher(self, graph.SLICE_REQUESTS)
        self._refusals = answer_publisher(self, graph.MASKS)
        self._load_volume = self.create_client(LoadVolume, graph.LOAD_VOLUME)
        self.create_subscription(VolumeInfo, graph.VOLUME_INFO, self._on_volume, graph.LATCHED)
        self.create_subscription(
            SegmentationStatus, graph.SEGMENTATION_STATUS, self._on_status, graph.LATCHED
        )
        DirectSubscription(self, Prompt, graph.PROMPTS, self._on_prompt, graph.NEWEST)
        DirectSubscription(self, SliceMask, graph.RECEIVED_MASKS, self._on_answer, graph.ANSWERS_OF_ALL)
        self.create_timer(RESEND_CHECK_S, self._resend)

    @exclusive
    def _on_prompt(self, message: Prompt) -> None:
        started_ns = time.monotonic_ns()
        client_id = message.client_id or self._client_id
        held = self._held.get(client_id)
        newest = held.request if held else self._newest.get(client_id)
        if message.cycle and newest and message.cycle <= newest.cycle:
            # Sent again by a client that could not know of its arrival, or overtaken by a newer one.
            return
        cycle = message.cycle or self._cycles.next()
        try:
            request = self._request(message, cycle, client_id)
        except PromptError as error:
            overtaken = self._overtake(client_id)
            refusal = self._refusal(message, cycle, client_id, str(error))
            ended_ns = self._begin(refusal)
            self._tracer.ended(refusal, started_ns, ended_ns, Outcome.REFUSED, overtaken=overtaken)
            self._diagnostics.problem(str(error))
            return
        self._held[client_id] = _Held(request, started_ns, self._overtake(client_id))
        if not self._is_worked_on(request):
            self._release(client_id)

    def _overtake(self, client_id: str) -> int:
        """What is held of this client is not sent any more; how many prompts that makes since the last that was."""
        held = self._held.pop(client_id, None)
        if held is None:
            return 0
        self._diagnostics.count("overtaken")
        return held.overtaken + 1

    def _release(self, client_id: str) -> None:
        held = self._held.pop(client_id)
        ended_ns = self._begin(held.request)
        self._tracer.ended(held.request, held.started_ns, ended_ns, overtaken=held.overtaken)
        self._diagnostics.solved()

    def _is_worked_on(self, request: Request) -> bool:
        """Whether the server is about to answer this client's last request, for the same mask as `request`.

        Then sending would only cost processor time, which the decoder could use: the answer calls for the next.
        """
        sent = self._newest.get(request.client_id)
        return (
            isinstance(sent, Request)
            and (sent.slice, sent.segment) == (request.slice, request.segment)
            and sent.cycle > max(self._answered.get(sent.client_id, 0), self._settled.get(sent.client_id, 0))
            and time.monotonic() - self._sent_at[sent.client_id] < HOLD_S
        )

    @exclusive
    def _on_answer(self, message: SliceMask) -> None:
        client_id = message.client_id
        sent = self._newest.get(client_id)
        if sent and message.cycle >= sent.cycle:
            self._answered[client_id] = message.cycle
            if client_id in self._held:
                self._release(client_id)

    def _request(self, message: Prompt, cycle: int, client_id: str) -> Request:
        if self._volume is None:
            raise PromptError("There is nothing to segment; load a volume first.")
        uid = message.slice.volume_uid or self._volume.uid
        if uid != self._volume.uid:
            raise PromptError(
                f"The prompt is for the volume {uid[:8]}, but {self._volume.uid[:8]} is loaded."
            )
        prompt = wire.prompt_from_msg(message)
        index, pixels = prompt.on_slice(self._volume.geometry)
        slice_id = SliceId(uid, prompt.plane, index)
        shape = self._volume.geometry.slice_shape(prompt.plane)
        return Request(cycle, client_id, message.segment, slice_id, shape, pixels)

    def _refusal(self, message: Prompt, cycle: int, client_id: str, error: str) -> Answer:
        # The plane itself may be what is wrong: an answer always names one that there is.
        message.slice.plane = min(message.slice.plane, SliceIdMsg.SAGITTAL)
        message.slice.volume_uid = message.slice.volume_uid or (self._volume.uid if self._volume else "")
        return Answer(
            cycle, client_id, message.segment, wire.slice_from_msg(message.slice), (0, 0), error=error
        )

    def _begin(self, message: Request | Answer) -> int:
        """Send the client's newest; what was sent before it is no longer waited for. When it was handed over, ns."""
        self._newest.pop(message.client_id, None)
        self._newest[message.client_id] = message
        if len(self._newest) > MAX_CLIENTS:
            forgotten = next(iter(self._newest))
            self._overtake(forgotten)
            for of_clients in (self._newest, self._sent_at, self._answered):
                of_clients.pop(forgotten, None)
        return self._send(message)

    def _send(self, message: Request | Answer) -> int:
        self._diagnostics.count("sent")
        self._sent_at[message.client_id] = time.monotonic()
        return (self._requests if isinstance(message, Request) else self._refusals).publish(message)

    @exclusive
    def _on_status(self, message: SegmentationStatus) -> None:
        # APL_MSK's word, not the mask's passing by: a mask lost on its last hop is sent again too.
        self._settled = {client.client_id: client.settled for client in message.clients}

    @exclusive
    def _resend(self) -> None:
        for client_id, held in list(self._held.items()):
            if not self._is_worked_on(held.request):
                self._release(client_id)
        now = time.monotonic()
        for client_id, message in self._newest.items():
            if (
                message.cycle <= self._settled.get(client_id, 0)
                or now - self._sent_at[client_id] < self._resend_after
            ):
                continue
            if isinstance(message, Request) and (
                self._volume is None or message.slice.volume_uid != self._volume.uid
            ):
                continue
            self._send(message)
            self._diagnostics.count("sent again")

    @exclusive
    def _on_volume(self, message: VolumeInfo) -> None:
        try:
            volume = wire.volume_from_msg(message)
        except VolumeError as error:
            self._diagnostics.problem(str(error))
            return
        if volume is None and self._volume:
            self._restore_volume()
            return
        self._volume = volume

    def _restore_volume(self) -> None:
        """A server that was restarted has forgotten the volume its clients are working on."""
        lost = self._volume
        self.get_logger().info(f"The server came back without a volume; asking it to load {lost.name} again")
        request = LoadVolume.Request(
            path=lost.uri, window_lower=lost.window.lower, window_upper=lost.window.upper
        )
        self._load_volume.call_async(request).add_done_callback(self._on_restored)

    def _on_restored(self, future: object) -> None:
        if not future.result().success:
            self._diagnostics.problem(future.result().message)


def main() -> None:
    with process.ros():
        process.spin(SndInf())
