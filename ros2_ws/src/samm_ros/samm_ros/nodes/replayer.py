# SPDX-License-Identifier: Apache-2.0
"""Feeds a recorded session's prompts into a running graph, with their timing, and records what comes of them.

Out:  prompts (Prompt, newest)
In:   received_masks (SliceMask), segmentation_status, volume_info (latched)
Uses: load_volume
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geometry_msgs.msg import Point
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from samm_msgs.msg import Prompt, SegmentationStatus, SliceMask, SliceRequest, VolumeInfo
from samm_msgs.srv import LoadVolume

from ..cycle import CycleCounter
from ..errors import BagError, LaunchError
from ..latency.bag import BagReader
from . import graph

ANSWER_S, SERVICE_S = 60.0, 60.0
RESEND_S = 1.0


@dataclass(frozen=True, eq=False)
class Script:
    """What a bag says was done. prompts: with the nanoseconds since the first, in order."""

    volume: VolumeInfo
    prompts: tuple[tuple[int, Prompt], ...]


def read_script(path: Path) -> Script:
    """Raises BagError for a bag without a volume or without prompts; without `prompts`, slice requests stand for them."""
    volume: VolumeInfo | None = None
    prompts: list[tuple[int, Prompt]] = []
    requests: list[tuple[int, Prompt]] = []
    sent: set[tuple[str, int]] = set()
    try:
        for recorded in BagReader(path).messages(graph.VOLUME_INFO, graph.PROMPTS, graph.SLICE_REQUESTS):
            name = recorded.topic.rpartition("/")[2]
            if name == graph.VOLUME_INFO:
                info = deserialize_message(recorded.data, VolumeInfo)
                volume = volume or (info if info.uid else None)
            elif name == graph.PROMPTS:
                prompt = deserialize_message(recorded.data, Prompt)
                if not prompt.cycle or (prompt.client_id, prompt.cycle) not in sent:
                    prompts.append((recorded.log_ns, prompt))
                sent.add((prompt.client_id, prompt.cycle))
            else:
                request = deserialize_message(recorded.data, SliceRequest)
                # Sent again, it is the same prompt.
                if (request.client_id, request.cycle) not in sent:
                    requests.append((recorded.log_ns, _prompt_of(request)))
                sent.add((request.client_id, request.cycle))
    except (RuntimeError, ValueError) as error:
        raise BagError(f"{path} holds messages of another release ({error}); record it anew.") from None
    chosen = prompts or requests
    if volume is None or not chosen:
        lacking = "volume" if volume is None else "prompts"
        raise BagError(
            f"{path} holds no {lacking}; record volume_info and prompts from before the volume is loaded."
        )
    first = chosen[0][0]
    return Script(volume, tuple((log_ns - first, prompt) for log_ns, prompt in chosen))


class Replayer(Node):
    """Plays a script; spin it on another thread."""

    def __init__(self, **node_arguments: object) -> None:
        super().__init__("replayer", **node_arguments)
        self._cycles = CycleCounter()
        # The newest cycle of each client: whose mask came by, and which APL_MSK has settled.
        self._answered: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        self._shown = ""
        self._changed = threading.Condition()
        self._prompts = self.create_publisher(Prompt, graph.PROMPTS, graph.NEWEST)
        self._load = self.create_client(LoadVolume, graph.LOAD_VOLUME)
        self.create_subscription(SliceMask, graph.RECEIVED_MASKS, self._on_mask, graph.ANSWERS_OF_ALL)
        self.create_subscription(
            SegmentationStatus, graph.SEGMENTATION_STATUS, self._on_status, graph.LATCHED
        )

    def load(self, volume: VolumeInfo) -> None:
        """Load the script's volume in its window, and wait until it is shown. Raises LaunchError or BagError."""
        if not self._load.wait_for_service(SERVICE_S):
            raise LaunchError(
                "There is no graph to replay to; start one with ./samm up, or give its --namespace."
            )
        request = LoadVolume.Request(
            path=volume.uri, window_lower=volume.window_lower, window_upper=volume.window_upper
        )
        done = threading.Event()
        future = self._load.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(SERVICE_S):
            raise LaunchError("The graph did not load the volume; see the logs of its nodes.")
        answer = future.result()
        if not answer.success:
            raise BagError(f"The recorded volume cannot be loaded: {answer.message}")
        if answer.volume.uid != volume.uid:
            raise BagError(
                f"{volume.uri} is not what was recorded (content {answer.volume.uid[:8]}, not {volume.uid[:8]}); put the file back."
            )
        with self._changed:
            if not self._changed.wait_for(lambda: self._shown == volume.uid, SERVICE_S):
                raise LaunchError("The graph's client does not show the volume; see the logs of its nodes.")

    def play(self, script: Script, rate: float | None, said: Callable[[int], None]) -> int:
        """Publish the prompts; how many were answered. rate: of the original timing; None: each when the last is answered."""
        started = time.monotonic()
        sent: list[tuple[str, int]] = []
        for number, (at_ns, prompt) in enumerate(script.prompts):
            if rate:
                time.sleep(max(0.0, started + at_ns / 1e9 / rate - time.monotonic()))
            prompt.cycle = self._cycles.next()
            prompt.slice.volume_uid = script.volume.uid
            prompt.client_id = prompt.client_id or "replay"
            prompt.header.stamp = self.get_clock().now().to_msg()
            self._prompts.publish(prompt)
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
            self._shown = message.volume_uid
            self._changed.notify_all()


def _raise(cycles: dict[str, int], client_id: str, cycle: int) -> None:
    cycles[client_id] = max(cycle, cycles.get(client_id, 0))


def _prompt_of(request: SliceRequest) -> Prompt:
    prompt = Prompt(client_id=request.client_id, segment=request.segment, slice=request.slice)
    prompt.coordinates = Prompt.PIXEL
    xy = request.points_xy
    prompt.points = [Point(x=float(x), y=float(y)) for x, y in zip(xy[::2], xy[1::2], strict=True)]
    prompt.labels = array("B", bytes(request.labels))
    prompt.has_box = request.has_box
    x0, y0, x1, y1 = (float(value) for value in request.box_xyxy)
    prompt.box_min, prompt.box_max = Point(x=x0, y=y0), Point(x=x1, y=y1)
    return prompt
