# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2's messages about tasks over many slices, on the doors' thread.

`segment_volume`, `cancel_volume`, `volume_mask`, `volume_progress` and `volume_ended`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from samm_core import ipp
from samm_core.cycle.request import MAX_CLIENTS
from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.prompts import Prompt, pixel_prompt
from samm_core.sources.base import not_loaded

from ...graph_actions import GraphActions, PaintedMask, TaskEnd, TaskProgress, TurnedBox, VolumeTask
from .clients import SlicerClient
from .prompt_messages import mask_fields

# Of a box's orientation, from 1: what is farther off is no rotation.
_NORM_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class _Asked:
    client: SlicerClient
    message: ipp.Message
    task: VolumeTask


class TaskMessages:
    """One task of a client at a time: a newer one waits until the one that runs, and is cancelled, has ended."""

    def __init__(self, graph: GraphActions) -> None:
        self._graph = graph
        # By the client's name: it may be back over a new connection before its old task has ended.
        self._running: dict[str, _Asked] = {}
        self._waiting: dict[str, _Asked] = {}

    def on_segment_volume(self, client: SlicerClient, message: ipp.Message) -> None:
        volume = self._graph.volumes.get(message["uid"])
        if volume is None:
            raise PromptError(not_loaded(message["uid"]))
        asked = _Asked(client, message, _task(client.name, message, volume.geometry))
        # A bridge that was restarted knows it from here.
        client.work_on(message["uid"])
        if client.name not in self._running and len(self._running) >= MAX_CLIENTS:
            raise PromptError(f"{MAX_CLIENTS} tasks are under way already; wait for one.")
        if client.name in self._running:
            self._drop_waiting(client.name, "A newer task took its place.")
            self._waiting[client.name] = asked
            self._graph.cancel_volume(client.name)
            return
        self._start(asked)

    def on_cancel_volume(self, client: SlicerClient, message: ipp.Message) -> None:
        """Of a task that has ended already, or was never begun, there is nothing to cancel."""
        waiting, running = self._waiting.get(client.name), self._running.get(client.name)
        if waiting and waiting.message["number"] == message["number"]:
            self._drop_waiting(client.name, "The task was cancelled before it began.")
        if running and running.message["number"] == message["number"]:
            self._graph.cancel_volume(client.name)
        client.reply(message, "done", text="Asked to stop.")

    def end_for(self, client: SlicerClient) -> None:
        """The client has left, or lost its connection: nobody waits for its task any more."""
        self._drop_waiting(client.name, "The connection was lost.")
        if client.name in self._running:
            self._graph.cancel_volume(client.name)

    def _start(self, asked: _Asked) -> None:
        self._running[asked.client.name] = asked
        self._graph.segment_volume(
            asked.task,
            lambda progress: _tell_progress(asked, progress),
            lambda end, why: self._ended(asked, end, why),
        )

    def _ended(self, asked: _Asked, end: TaskEnd | None, why: str) -> None:
        name = asked.client.name
        del self._running[name]
        if end is None:
            asked.client.refuse(asked.message, why)
        else:
            asked.client.reply(asked.message, "volume_ended", **_end_fields(asked.message["number"], end))
        if waiting := self._waiting.pop(name, None):
            self._start(waiting)

    def _drop_waiting(self, name: str, why: str) -> None:
        if asked := self._waiting.pop(name, None):
            asked.client.refuse(asked.message, why)


def _task(client_name: str, message: ipp.Message, geometry: VolumeGeometry) -> VolumeTask:
    """Raises PromptError for marks that do not fit the volume; of the rest, the graph says what is wrong."""
    plane = Plane(message["plane"])
    return VolumeTask(
        client_name,
        message["uid"],
        message["task"],
        plane,
        message["segment"],
        message["first"],
        message["last"],
        _masks(message, geometry.slice_shape(plane)),
        [_prompt(mark, plane) for mark in message["prompts"]],
        _box(message["box3d"]),
        message["frozen"],
    )


def _masks(message: ipp.Message, shape: tuple[int, int]) -> list[PaintedMask]:
    marks, data = message["masks"], message.buffer
    ends = list(accumulate(mark["size"] for mark in marks))
    if (ends[-1] if ends else 0) != len(data):
        raise PromptError(
            f"The marked masks are {ends[-1] if ends else 0} bytes by their sizes, but {len(data)} came; "
            "send them again."
        )
    for mark in marks:
        if tuple(mark["shape"]) != shape:
            raise PromptError(
                f"The mask on slice {mark['index']} has the shape {tuple(mark['shape'])}; the slices have {shape}."
            )
    return [
        PaintedMask(mark["index"], shape, data[end - mark["size"] : end])
        for mark, end in zip(marks, ends, strict=True)
    ]


def _prompt(mark: dict[str, Any], plane: Plane) -> Prompt:
    if len(mark["labels"]) != len(mark["points_xy"]):
        raise PromptError(
            f"There are {len(mark['labels'])} labels for {len(mark['points_xy'])} points on slice {mark['index']}; "
            "give one a point."
        )
    box = None if mark["box_xyxy"] is None else np.array(mark["box_xyxy"], np.float64)
    points, labels = np.array(mark["points_xy"], np.float64), np.array(mark["labels"], np.uint8)
    return pixel_prompt(plane, mark["index"], points, labels, box)


def _box(box: dict[str, Any] | None) -> TurnedBox | None:
    if box is None:
        return None
    if min(box["size_mm"]) <= 0:
        raise PromptError(f"The 3-D box is {box['size_mm']} mm large; each side must exceed 0.")
    if abs(np.linalg.norm(box["orientation_xyzw"]) - 1) > _NORM_TOLERANCE:
        raise PromptError(f"The 3-D box's orientation {box['orientation_xyzw']} is no unit quaternion.")
    return TurnedBox(tuple(box["centre_ras"]), tuple(box["size_mm"]), tuple(box["orientation_xyzw"]))


def _tell_progress(asked: _Asked, progress: TaskProgress) -> None:
    numbers = {"number": asked.message["number"], "done": progress.done, "total": progress.total}
    answer = progress.answer
    if answer is None:
        asked.client.tell("volume_progress", **numbers)
        return
    frames = ipp.pack(
        ipp.FROM_BRIDGE,
        "volume_mask",
        answer.data,
        **numbers,
        **mask_fields(answer),
    )
    asked.client.send(frames)


def _end_fields(number: int, end: TaskEnd) -> dict[str, Any]:
    return {
        "number": number,
        "success": end.success,
        "message": end.message[: ipp.MAX_TEXT],
        "stopped": [sentence[: ipp.MAX_REASON] for sentence in end.stopped[: ipp.MAX_STOPPED]],
        "slices": end.slices,
        "seconds": end.seconds,
    }
