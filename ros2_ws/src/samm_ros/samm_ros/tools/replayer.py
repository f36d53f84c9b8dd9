# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Feeds a recorded session's prompts into a running graph, with their timing, and records what comes of them.

Out:  prompts (Prompt, newest)
In:   received_masks (SliceMask), segmentation_status, volume_info (latched)
Uses: load_volume
"""

from __future__ import annotations

import functools
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_msgs.msg import Point
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from samm_msgs.msg import Prompt, SegmentationStatus, SliceMask, SliceRequest, VolumeInfo
from samm_msgs.srv import LoadVolume

from samm_core.cycle.pending import RESEND_AFTER_S, CycleProgress, PendingPrompts
from samm_core.cycle.request import STILL_WAITING, Answer, ClientPrompt
from samm_core.errors import BagError, LaunchError, SammError
from samm_core.latency.bag import BagReader
from samm_core.latency.definitions import unlike

from .. import conversions, topics
from ..support.publishing import stamped
from ..support.services import response_to
from .recorder import definition_here

ANSWER_S, SERVICE_S = 60.0, 60.0

_READ = topics.VOLUME_INFO, topics.VOLUMES, topics.PROMPTS, topics.SLICE_REQUESTS


@dataclass(frozen=True, eq=False)
class Script:
    """What a bag says was done.

    volumes: those that were prompted on, in the order in which they were loaded first. prompts: with the
    nanoseconds since the first, in order; each names its volume.
    """

    volumes: tuple[VolumeInfo, ...]
    prompts: tuple[tuple[int, Prompt], ...]


def read_script(path: Path) -> Script:
    """Raises BagError for a bag without a volume or without prompts; without `prompts`, slice requests stand for them.

    Raises it too for prompts of a release in which they had other fields: a prompt misread is one in another place.
    """
    volumes: dict[str, VolumeInfo] = {}
    loaded_last = ""
    prompts: list[tuple[int, Prompt]] = []
    requests: list[tuple[int, Prompt]] = []
    # A prompt's request may have been written before the prompt.
    sent: dict[type, set[tuple[str, int]]] = {Prompt: set(), SliceRequest: set()}
    read = functools.cache(functools.partial(_error, path))
    try:
        # Topics are written side by side.
        for recorded in sorted(BagReader(path).messages(*_READ), key=lambda each: each.log_ns):
            name = recorded.topic.rpartition("/")[2]
            if name in (topics.VOLUME_INFO, topics.VOLUMES):
                # What it takes from VolumeInfo has been the same in all releases.
                infos = recorded.message.volumes if name == topics.VOLUMES else [recorded.message]
                infos = [info for info in infos if info.uid]
                loaded_last = infos[0].uid if infos else loaded_last
                for info in reversed(infos):
                    volumes.setdefault(info.uid, _volume_of(info))
                continue
            kind = Prompt if name == topics.PROMPTS else SliceRequest
            if error := read(kind, recorded.definition):
                raise BagError(error)
            message = deserialize_message(recorded.data, kind)
            message.image.source = message.image.source or loaded_last
            key = message.client_id, message.cycle
            # Sent again, it is the same prompt.
            if message.cycle and key in sent[kind]:
                continue
            sent[kind].add(key)
            if kind is Prompt:
                prompts.append((recorded.log_ns, message))
            else:
                requests.append((recorded.log_ns, _prompt_of(message)))
    except (RuntimeError, ValueError, AttributeError) as error:
        raise BagError(f"{path} holds messages of another release ({error}); record it anew.") from None
    chosen = prompts or requests
    if not volumes or not chosen:
        lacking = "prompts" if volumes else "volume"
        raise BagError(
            f"{path} holds no {lacking}; record volume_info and prompts from before the volume is loaded."
        )
    first = chosen[0][0]
    for _, prompt in chosen:
        # What was prompted before the recording heard of a volume was for the first that it heard of.
        prompt.image.source = prompt.image.source or next(iter(volumes))
        if prompt.image.source not in volumes:
            raise BagError(
                f"{path} does not say where the volume {prompt.image.source[:8]} came from; record it anew, with volumes."
            )
    prompted = {prompt.image.source for _, prompt in chosen}
    needed = tuple(volume for uid, volume in volumes.items() if uid in prompted)
    return Script(needed, tuple((log_ns - first, prompt) for log_ns, prompt in chosen))


def _error(path: Path, kind: type, definition: str) -> str:
    """Why messages of this definition cannot be read as ours, one sentence; empty: they can."""
    type_name, ours = definition_here(kind)
    difference = unlike(definition, ours)
    return difference and f"{path} has another {type_name} than this release: {difference}; record it anew."


def _volume_of(info: Any) -> VolumeInfo:
    return VolumeInfo(
        uid=info.uid, uri=info.uri, window_lower=info.window_lower, window_upper=info.window_upper
    )


class Replayer(Node):
    """Plays a script; spin it on another thread."""

    def __init__(self, **node_arguments: object) -> None:
        super().__init__("replayer", **node_arguments)
        self._pending = PendingPrompts(self._publish)
        self._cycles: dict[str, CycleProgress] = {}
        # By client, its newest prompt; and those whose newest has an answer.
        self._newest: dict[str, Prompt] = {}
        self._answered: set[str] = set()
        self._known: set[str] = set()
        self._changed = threading.Condition()
        self._prompts = self.create_publisher(Prompt, topics.PROMPTS, topics.OF_ALL_CLIENTS)
        self._load = self.create_client(LoadVolume, topics.LOAD_VOLUME)
        self.create_subscription(SliceMask, topics.RECEIVED_MASKS, self._on_mask, topics.OF_ALL_CLIENTS)
        self.create_subscription(
            SegmentationStatus, topics.SEGMENTATION_STATUS, self._on_status, topics.LATCHED
        )

    def load(self, volume: VolumeInfo) -> None:
        """Load a volume of the script in its window, and wait until the client side knows it. Raises LaunchError or BagError."""
        if not self._load.wait_for_service(SERVICE_S):
            raise LaunchError(
                "There is no graph to replay to; start one with ./samm up, or give its --namespace."
            )
        request = LoadVolume.Request(
            path=volume.uri, window_lower=volume.window_lower, window_upper=volume.window_upper
        )
        answer = response_to(self._load, request, SERVICE_S)
        if answer is None:
            raise LaunchError("The graph did not load the volume; see the logs of its nodes.")
        if not answer.success:
            raise BagError(f"The recorded volume cannot be loaded: {answer.message}")
        if answer.volume.uid != volume.uid:
            raise BagError(
                f"{volume.uri} is not what was recorded (content {answer.volume.uid[:8]}, not {volume.uid[:8]}); put the file back."
            )
        with self._changed:
            if not self._changed.wait_for(lambda: volume.uid in self._known, SERVICE_S):
                raise LaunchError("The graph's client does not know the volume; see the logs of its nodes.")

    def play(self, script: Script, rate: float | None, said: Callable[[int], None]) -> int:
        """Publish the prompts; how many were answered. rate: of the original timing; None: each when the last is answered."""
        started = time.monotonic()
        sent: list[tuple[str, int]] = []
        for number, (at_ns, message) in enumerate(script.prompts):
            if rate:
                time.sleep(max(0.0, started + at_ns / 1e9 / rate - time.monotonic()))
            sent.append(self._put(message))
            if rate is None:
                client_id, _ = sent[-1]
                self._wait_until(lambda client_id=client_id: client_id in self._answered)
            said(number + 1)
        for client_id in {client_id for client_id, _ in sent}:
            self._wait_until(lambda c=client_id: self._settled(c) >= self._newest[c].cycle)
        return sum(cycle <= self._settled(client_id) for client_id, cycle in sent)

    def _put(self, message: Prompt) -> tuple[str, int]:
        """Publish a prompt until it is answered; its client and its cycle."""
        prompt = conversions.prompt_from_msg(message, "replay")
        message.client_id = client_id = prompt.client_id
        with self._changed:
            self._newest[client_id] = message
            self._answered.discard(client_id)
            # Beyond what this client has had, also where the clock was set back since.
            beyond = self._cycles.get(client_id, CycleProgress()).requested
            return client_id, self._pending.put(prompt, self._on_answer, beyond)

    def _publish(self, prompt: ClientPrompt) -> None:
        message = self._newest[prompt.client_id]
        message.cycle = prompt.cycle
        self._prompts.publish(stamped(self, message))

    def _on_answer(self, answer: Answer) -> None:
        if not answer.error.startswith(STILL_WAITING):
            self._answered.add(answer.client_id)

    def _settled(self, client_id: str) -> int:
        return self._cycles.get(client_id, CycleProgress()).settled

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + ANSWER_S
        with self._changed:
            while not self._changed.wait_for(condition, RESEND_AFTER_S) and time.monotonic() < deadline:
                self._pending.resend(self._cycles)

    def _on_mask(self, message: SliceMask) -> None:
        try:
            answer = conversions.answer_from_msg(message)
        except SammError as error:
            self.get_logger().warning(str(error))
            return
        with self._changed:
            self._pending.answered(answer)
            self._changed.notify_all()

    def _on_status(self, message: SegmentationStatus) -> None:
        with self._changed:
            self._cycles = conversions.cycles_from_msg(message)
            self._pending.refused(self._cycles)
            self._known = {each.volume_uid for each in message.volumes}
            self._changed.notify_all()


def _prompt_of(request: SliceRequest) -> Prompt:
    prompt = Prompt(client_id=request.client_id, segment=request.segment, image=request.image)
    prompt.coordinates = Prompt.PIXEL
    xy = request.points_xy
    prompt.points = [Point(x=float(x), y=float(y)) for x, y in zip(xy[::2], xy[1::2], strict=True)]
    prompt.labels = array("B", bytes(request.labels))
    prompt.has_box = request.has_box
    x0, y0, x1, y1 = (float(value) for value in request.box_xyxy)
    prompt.box_min, prompt.box_max = Point(x=x0, y=y0), Point(x=x1, y=y1)
    return prompt
