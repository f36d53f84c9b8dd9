# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2's messages about prompts: `prompt`, `mask`, `refused`, `applied`, `cycle`. Runs on the doors' thread."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from samm_core import ipp
from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.geometry import Plane
from samm_core.latency.cycles import complete_cycles
from samm_core.latency.events import Outcome, Task, TaskEvent
from samm_core.prompts import pixel_prompt

from ...graph_actions import SLICER_NODE, GraphActions
from .clients import SlicerClient, SlicerClients

# Cycles whose events are collected until those of all five tasks are there.
REMEMBERED_CYCLES = 256


def mask_fields(answer: Answer) -> dict[str, Any]:
    """What a message with a mask says of it, beside its data."""
    return {
        "uid": answer.image.source,
        "plane": int(answer.image.key.plane),
        "index": answer.image.key.index,
        "shape": list(answer.shape),
        "segment": answer.segment,
        "score": float(answer.score),
    }


class PromptMessages:
    """A prompt becomes a cycle of the graph; its answer and its five tasks' times go back to the client."""

    def __init__(self, graph: GraphActions, clients: SlicerClients) -> None:
        self._graph, self._clients = graph, clients
        # By client id in the graph and cycle.
        self._events: OrderedDict[tuple[str, int], list[TaskEvent]] = OrderedDict()

    def on_prompt(self, client: SlicerClient, message: ipp.Message) -> None:
        stream, number = message["stream"], message["number"]
        if len(message["labels"]) != len(message["points_xy"]):
            raise ipp.ProtocolError(
                f"There are {len(message['labels'])} labels for {len(message['points_xy'])} points; give one a point."
            )
        newest = client.numbers.get(stream, -1)
        if number < newest:
            return
        if number == newest:
            # Sent again after a reconnection: its answer was lost with the old connection, or is still to come.
            if stream in client.answers:
                client.send(client.answers[stream])
            return
        client.numbers[stream] = number
        client.answers.pop(stream, None)
        box = None if message["box_xyxy"] is None else np.array(message["box_xyxy"], np.float64)
        prompt = pixel_prompt(
            Plane(message["plane"]),
            message["index"],
            np.array(message["points_xy"], np.float64),
            np.array(message["labels"], np.uint8),
            box,
        )
        # A bridge that was restarted knows it from here.
        client.work_on(message["uid"])
        self._graph.prompt(
            ClientPrompt.of(
                prompt, client.graph_name(stream), message["segment"], message["uid"], client.window
            ),
            lambda answer: self._answer(client, stream, number, answer),
        )

    def _answer(self, client: SlicerClient, stream: int, number: int, answer: Answer) -> None:
        common = {"number": number, "cycle": answer.cycle, "stream": stream}
        if answer.error:
            frames = ipp.pack(ipp.FROM_BRIDGE, "refused", **common, message=answer.error[: ipp.MAX_TEXT])
        else:
            frames = ipp.pack(
                ipp.FROM_BRIDGE,
                "mask",
                answer.data,
                **common,
                **mask_fields(answer),
                model=answer.model,
            )
            client.images[stream, answer.cycle] = answer.image
            if len(client.images) > REMEMBERED_CYCLES:
                client.images.popitem(last=False)
        if number == client.numbers.get(stream):
            client.answers[stream] = frames
        client.send(frames)

    def on_applied(self, client: SlicerClient, message: ipp.Message) -> None:
        """Slicer's own APL_MSK, for the trace; without a measured clock there is nothing to say."""
        image = client.images.pop((message["stream"], message["cycle"]), None)
        offset_ns = client.clock.offset_ns
        if image is None or offset_ns is None:
            return
        event = TaskEvent(
            Task.APL_MSK,
            Outcome.COMPLETED if message["completed"] else Outcome.DROPPED,
            message["cycle"],
            client.graph_name(message["stream"]),
            image,
            f"{SLICER_NODE}{client.name}",
            message["started_ns"] + offset_ns,
            message["ended_ns"] + offset_ns,
        )
        self._graph.publish_event(event)

    def on_event(self, event: TaskEvent) -> None:
        """A task of the graph has completed; with the last of a client's cycle, the client is told the times."""
        key = event.client_id, event.cycle
        self._events.setdefault(key, []).append(event)
        if len(self._events) > REMEMBERED_CYCLES:
            self._events.popitem(last=False)
        for client in self._clients:
            if event.client_id in client.graph_names:
                self._tell_cycle(client, client.graph_names.index(event.client_id), key)
                return

    def _tell_cycle(self, client: SlicerClient, stream: int, key: tuple[str, int]) -> None:
        for cycle in complete_cycles(self._events[key]):
            del self._events[key]
            client.tell(
                "cycle",
                cycle=cycle.cycle,
                stream=stream,
                intervals_ms={task.name: cycle.interval_ms(task) for task in Task},
                total_ms=cycle.total_ms,
            )
