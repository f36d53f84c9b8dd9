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

from samm_core.cycle.request import CycleCounter
from samm_core.errors import BagError, LaunchError
from samm_core.latency.bag import BagReader
from samm_core.latency.definitions import unlike

from .. import topics
from ..support.publishing import stamped
from ..support.services import response_to
from .recorder import definition_here

ANSWER_S, SERVICE_S = 60.0, 60.0
RESEND_S = 1.0


_READ = topics.VOLUME_INFO, topics.VOLUMES, topics.PROMPTS, topics.SLICE_REQUESTS


@dataclass(frozen=True, eq=False)
class Script:
    """What a bag says was done. volumes: those that were prompted on, in the order in which they were loaded first.
    prompts: with the nanoseconds since the first, in order; each names its volume."""

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
    sent: set[tuple[str, int]] = set()
    read = functools.cache(functools.partial(_error, path))
    try:
        for recorded in BagReader(path).messages(*_READ):
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
            if kind is Prompt:
                if not message.cycle or key not in sent:
                    prompts.append((recorded.log_ns, message))
            elif key not in sent:
                # Sent again, it is the same prompt.
                requests.append((recorded.log_ns, _prompt_of(message)))
            sent.add(key)
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
        self._cycles = CycleCounter()
        # The newest cycle of each client: whose mask came by, and which APL_MSK has settled.
        self._answered: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        self._requested: dict[str, int] = {}
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
        for number, (at_ns, prompt) in enumerate(script.prompts):
            if rate:
                time.sleep(max(0.0, started + at_ns / 1e9 / rate - time.monotonic()))
            prompt.client_id = prompt.client_id or "replay"
            # Beyond what this client has had, also where the clock was set back since.
            self._cycles.newest = max(self._cycles.newest, self._requested.get(prompt.client_id, 0))
            prompt.cycle = self._cycles.next()
            self._prompts.publish(stamped(self, prompt))
            sent.append((prompt.client_id, prompt.cycle))
            if rate is None:
                self._wait_for(prompt)
            said(number + 1)
        for client_id in {client_id for client_id, _ in sent}:
            newest = max(cycle for c, cycle in sent if c == client_id)
            with self._changed:
                self._changed.wait_for(lambda c=client_id, n=newest: self._settled.get(c, 0) >= n, ANSWER_S)
        return sum(cycle <= self._settled.get(client_id, 0) for client_id, cycle in sent)

    def _wait_for(self, prompt: Prompt) -> None:
        deadline = time.monotonic() + ANSWER_S
        with self._changed:
            while time.monotonic() < deadline:
                if self._changed.wait_for(
                    lambda: self._answered.get(prompt.client_id, 0) >= prompt.cycle, RESEND_S
                ):
                    return
                # Best effort: it may not have come through; the same cycle again is the same prompt.
                self._prompts.publish(prompt)

    def _on_mask(self, message: SliceMask) -> None:
        with self._changed:
            _raise(self._answered, message.client_id, message.cycle)
            self._changed.notify_all()

    def _on_status(self, message: SegmentationStatus) -> None:
        with self._changed:
            for client in message.clients:
                _raise(self._answered, client.client_id, client.settled)
                _raise(self._settled, client.client_id, client.settled)
                _raise(self._requested, client.client_id, client.requested)
            self._known = {each.volume_uid for each in message.volumes}
            self._changed.notify_all()


def _raise(cycles: dict[str, int], client_id: str, cycle: int) -> None:
    cycles[client_id] = max(cycle, cycles.get(client_id, 0))


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
