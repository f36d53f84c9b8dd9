# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2's messages about the live stream, on the doors' thread.

`stream`, `stream_image`, `image_taken`, `track_prompt`, `track_rename` and `track_remove`.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from samm_core import ipp
from samm_core.cycle.request import ClientPrompt
from samm_core.errors import FrameError
from samm_core.geometry import Plane
from samm_core.prompts import pixel_prompt

from ...graph_actions import GraphActions, StreamImage, StreamTrack
from ...worker import Worker
from .clients import SlicerClient

# Until the graph's images are listened to no longer, when nobody wants them any more: to begin and to end takes time.
LINGER_S = 2.0


@dataclass(eq=False)
class _Watcher:
    """A client that gets the stream.

    sent: the newest image that it was sent. sent_at: None: it has taken that, or has none.
    """

    client: SlicerClient
    sent: StreamImage | None = None
    sent_at: float | None = None


class StreamMessages:
    """Each client has one image on its way at a time, and the newest follows when it has taken that: nothing queues.

    worker: of this class alone. problem: gets the sentence of an image that could not be sent.
    """

    def __init__(self, graph: GraphActions, worker: Worker, problem: Callable[[str], None]) -> None:
        self._graph, self._worker, self._problem = graph, worker, problem
        self._watchers: dict[SlicerClient, _Watcher] = {}
        self._newest: StreamImage | None = None
        self._is_packing = self._is_watching = False
        # time.monotonic() at which the last client left.
        self._left_at = 0.0
        # Of the marks, in the graph: a later one is larger, over restarts of the bridge too.
        self._numbers = itertools.count(time.time_ns() // 1000)

    def on_stream(self, client: SlicerClient, message: ipp.Message) -> None:
        if message["on"]:
            self._watchers[client] = _Watcher(client)
            if not self._is_watching:
                self._is_watching = True
                self._graph.watch_stream(self._on_image)
            client.reply(message, "done", text="The live stream's images are sent.")
            self._send_newest()
        else:
            self.end_for(client)
            client.reply(message, "done", text="The live stream's images are sent no longer.")

    def on_image_taken(self, client: SlicerClient, message: ipp.Message) -> None:
        watcher = self._watchers.get(client)
        # Of an earlier one than the newest that is on its way, nothing follows.
        if watcher and watcher.sent and watcher.sent.number == message["number"]:
            watcher.sent_at = None
            self._send_newest()

    def on_track_prompt(self, client: SlicerClient, message: ipp.Message) -> None:
        if len(message["labels"]) != len(message["points_xy"]):
            raise ipp.ProtocolError(
                f"There are {len(message['labels'])} labels for {len(message['points_xy'])} points; give one a point."
            )
        box = None if message["box_xyxy"] is None else np.array(message["box_xyxy"], np.float64)
        points, labels = np.array(message["points_xy"], np.float64), np.array(message["labels"], np.uint8)
        prompt = ClientPrompt.of(
            pixel_prompt(Plane.AXIAL, 0, points, labels, box), client.name, message["name"]
        )
        prompt = replace(prompt, cycle=next(self._numbers))
        self._graph.mark_track(prompt, message["stamp_ns"], client.done(message))

    def on_track_rename(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.rename_track(message["name"], message["new_name"], client.done(message))

    def on_track_remove(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.remove_track(message["name"], client.done(message))

    def end_for(self, client: SlicerClient) -> None:
        """The client has left, lost its connection, or wants no more images."""
        if self._watchers.pop(client, None):
            self._left_at = time.monotonic()

    def tick(self) -> None:
        """Call some times a second."""
        now = time.monotonic()
        if self._is_watching and not self._watchers and now - self._left_at > LINGER_S:
            self._is_watching, self._newest = False, None
            self._graph.watch_stream(None)
        for watcher in self._watchers.values():
            # What nobody says to have taken was lost on the way.
            if watcher.sent_at is not None and now - watcher.sent_at > ipp.TIMEOUT_S:
                watcher.sent_at = None
        self._send_newest()

    def _on_image(self, image: StreamImage) -> None:
        self._newest = image
        self._send_newest()

    def _ready(self) -> list[_Watcher]:
        """Those who wait for the newest image."""
        watchers = self._watchers.values()
        return [each for each in watchers if each.sent_at is None and each.sent is not self._newest]

    def _send_newest(self) -> None:
        """Pack the newest image once, for all who wait for one; those who take longer get a later one."""
        image = self._newest
        if image is None or self._is_packing or not self._ready():
            return
        self._is_packing = True
        self._worker.do(lambda: _packed(image), lambda frames, why: self._packed(image, frames, why))

    def _packed(self, image: StreamImage, frames: list[bytes] | None, why: str) -> None:
        self._is_packing = False
        if frames is None:
            self._problem(why)
        for watcher in self._ready():
            if watcher.sent is image:
                continue
            # Of one that cannot be sent, nothing more is tried.
            watcher.sent = image
            if frames is not None:
                watcher.sent_at = time.monotonic()
                watcher.client.send(frames)
        self._send_newest()


def _packed(image: StreamImage) -> list[bytes]:
    """The message `stream_image`. Raises FrameError for an image that cannot be read, or does not fit into a message.

    The pixels are sent as they are: zlib took 8 ms for 640×480 in grey and 24 ms in colour, and saved a tenth at most
    of a noisy picture. JPEG takes 1 ms, but Slicer has one reader for it, VTK's, and that hangs on a damaged one.
    """
    pixels, labels = image.decode()
    try:
        return ipp.pack(
            ipp.FROM_BRIDGE,
            "stream_image",
            pixels.tobytes() + zlib.compress(labels.tobytes(), 1),
            number=image.number,
            stamp_ns=image.stamp_ns,
            shape=list(labels.shape),
            components=1 if pixels.ndim == 2 else 3,
            tracks=[_track_fields(track) for track in image.tracks[: ipp.MAX_TRACKS]],
            stale=image.stale,
            error=image.error[: ipp.MAX_TEXT],
        )
    except ipp.ProtocolError as error:
        raise FrameError(str(error)) from None


def _track_fields(track: StreamTrack) -> dict[str, Any]:
    cut = {"cause": track.cause[: ipp.MAX_REASON], "error": track.error[: ipp.MAX_REASON]}
    return {**asdict(track), **cut}
