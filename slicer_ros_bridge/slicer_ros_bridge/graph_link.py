# SPDX-License-Identifier: Apache-2.0
"""The graph as the bridge sees it.

In:   received_masks, segmentation_status, volume_info, model_info, embedding_status, task_events
Out:  prompts (Prompt, newest), task_events (Slicer's own APL_MSK)
Uses: load_volume, select_model, undo, redo, save_segmentation, embed_volume
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from samm_msgs import msg
from samm_msgs.action import EmbedVolume
from samm_msgs.srv import LoadVolume, SaveSegmentation, SelectModel
from std_srvs.srv import Trigger

from samm_ros.cycle import Answer
from samm_ros.errors import SammError
from samm_ros.nodes import graph, wire
from samm_ros.nodes.publishing import NumberedPublisher
from samm_ros.trace import TaskEvent
from samm_ros.volume import Window

from .pending import Asked

ALIVE_CHECK_S = 0.25
# A service may be known a moment after it is wanted, as by a bridge that was just started.
AWAY_AFTER_S = 3.0

# A service's answer: what it says, or None and a sentence.
Done = Callable[[Any, str], None]


class Listener(Protocol):
    """Is told what the graph says, on the executor's thread."""

    def on_answer(self, answer: Answer) -> None: ...
    def on_cycles(self, cycles: dict[str, tuple[int, int]]) -> None: ...
    def on_volume(self, volume: wire.LoadedVolume | None) -> None: ...
    def on_model(self, model: msg.ModelInfo) -> None: ...
    def on_embedding(self, status: msg.EmbeddingStatus) -> None: ...
    def on_event(self, event: TaskEvent) -> None: ...


class GraphLink:
    """Its methods may be called from any thread; a `done` comes on the executor's."""

    def __init__(self, node: Node, listener: Listener) -> None:
        self._node = node
        self._goal: Any = None
        # Calls that a service has yet to answer; one that died never does.
        self._waiting: dict[Future, tuple[Any, Done]] = {}
        self._held: list[tuple[float, Any, Callable[[], None], Done]] = []
        self._lock = threading.Lock()
        node.create_timer(ALIVE_CHECK_S, self._look_after_calls)
        self._prompts = node.create_publisher(msg.Prompt, graph.PROMPTS, graph.NEWEST)
        self._events = NumberedPublisher(
            node, msg.TaskEvent, graph.TASK_EVENTS, graph.EVENTS, wire.event_to_msg
        )
        self._load = node.create_client(LoadVolume, graph.LOAD_VOLUME)
        self._select = node.create_client(SelectModel, graph.SELECT_MODEL)
        self._undo = node.create_client(Trigger, graph.UNDO)
        self._redo = node.create_client(Trigger, graph.REDO)
        self._save = node.create_client(SaveSegmentation, graph.SAVE_SEGMENTATION)
        self._embed = ActionClient(node, EmbedVolume, graph.EMBED_VOLUME)

        def hear(
            kind: type, topic: str, qos: Any, convert: Callable[[Any], Any], tell: Callable[[Any], None]
        ) -> None:
            def heard(message: Any) -> None:
                try:
                    value = convert(message)
                except (SammError, ValueError) as error:
                    node.get_logger().warning(f"{topic}: {error}")
                    return
                tell(value)

            node.create_subscription(kind, topic, heard, qos)

        hear(
            msg.SliceMask,
            graph.RECEIVED_MASKS,
            graph.ANSWERS_OF_ALL,
            wire.answer_from_msg,
            listener.on_answer,
        )
        hear(msg.SegmentationStatus, graph.SEGMENTATION_STATUS, graph.LATCHED, _cycles, listener.on_cycles)
        hear(msg.VolumeInfo, graph.VOLUME_INFO, graph.LATCHED, wire.volume_from_msg, listener.on_volume)
        hear(msg.ModelInfo, graph.MODEL_INFO, graph.LATCHED, _as_it_is, listener.on_model)
        hear(msg.EmbeddingStatus, graph.EMBEDDING_STATUS, graph.LATCHED, _as_it_is, listener.on_embedding)
        hear(msg.TaskEvent, graph.TASK_EVENTS, graph.EVENTS, wire.event_from_msg, listener.on_event)

    def prompt(self, asked: Asked, cycle: int) -> None:
        message = wire.prompt_to_msg(
            asked.prompt, asked.volume_uid, asked.client_id, asked.segment, cycle=cycle
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._prompts.publish(message)

    def event(self, event: TaskEvent) -> None:
        """Publish a task's event of somebody who cannot."""
        self._events.publish(event)

    def load_volume(self, path: Path, window: Window | None, done: Done) -> None:
        """done gets the LoadedVolume."""
        request = LoadVolume.Request(path=str(path))
        if window:
            request.window_lower, request.window_upper = window.lower, window.upper
        self._call(self._load, request, lambda answer: wire.volume_from_msg(answer.volume), done)

    def select_model(self, name: str, done: Done) -> None:
        """done gets the ModelInfo."""
        self._call(self._select, SelectModel.Request(name=name), lambda answer: answer.model, done)

    def undo(self, done: Done) -> None:
        self._call(self._undo, Trigger.Request(), lambda answer: "Undone.", done)

    def redo(self, done: Done) -> None:
        self._call(self._redo, Trigger.Request(), lambda answer: "Done again.", done)

    def save(self, path: Path, done: Done) -> None:
        """done gets the path as text."""
        self._call(self._save, SaveSegmentation.Request(path=str(path)), lambda answer: str(path), done)

    def embed(self, planes: Sequence[int], done: Done) -> None:
        """Embed whole planes, none: all; done gets a sentence when that has ended."""
        if not self._embed.server_is_ready():
            done(None, _away("embed_volume"))
            return

        def ended(future: Future) -> None:
            result = future.result().result
            text = f"{result.embedded} slices are embedded, after {result.seconds:.0f} s."
            done(text if result.success else None, "" if result.success else result.message)

        def accepted(future: Future) -> None:
            self._goal = future.result()
            self._goal.get_result_async().add_done_callback(ended)

        self._embed.send_goal_async(EmbedVolume.Goal(planes=list(planes))).add_done_callback(accepted)

    def cancel_embed(self) -> None:
        if self._goal is not None:
            self._goal.cancel_goal_async()

    def _call(self, client: Any, request: Any, convert: Callable[[Any], Any], done: Done) -> None:
        def answered(future: Future) -> None:
            if not self._is_over(future):
                return
            answer = future.result()
            try:
                value = convert(answer) if answer.success else None
            except SammError as error:
                done(None, str(error))
                return
            done(value, "" if answer.success else answer.message)

        def send() -> None:
            future = client.call_async(request)
            with self._lock:
                self._waiting[future] = client, done
            future.add_done_callback(answered)

        if client.service_is_ready():
            send()
            return
        with self._lock:
            self._held.append((time.monotonic() + AWAY_AFTER_S, client, send, done))

    def _is_over(self, future: Future) -> bool:
        """Whether nobody else has ended this call already."""
        with self._lock:
            return self._waiting.pop(future, None) is not None

    def _look_after_calls(self) -> None:
        """Send what was held for its service, and give up on those that are away or died."""
        now = time.monotonic()
        with self._lock:
            waiting = list(self._waiting.items())
            held, self._held = self._held, []
        for entry in held:
            due_at, client, send, done = entry
            if client.service_is_ready():
                send()
            elif now >= due_at:
                done(None, _away(client.srv_name.rpartition("/")[2]))
            else:
                with self._lock:
                    self._held.append(entry)
        for future, (client, done) in waiting:
            if not client.service_is_ready() and self._is_over(future):
                done(None, _away(client.srv_name.rpartition("/")[2]))


def _away(name: str) -> str:
    return f"The graph's {name} is away; it is starting, or see the logs of its nodes."


def _as_it_is(message: Any) -> Any:
    return message


def _cycles(message: msg.SegmentationStatus) -> dict[str, tuple[int, int]]:
    return {client.client_id: (client.requested, client.settled) for client in message.clients}
