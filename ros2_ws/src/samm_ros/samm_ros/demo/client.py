# SPDX-License-Identifier: Apache-2.0
"""A program that uses the graph as any other would: loads a volume, prompts, waits for masks, reads the trace."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from samm_msgs import msg
from samm_msgs.action import EmbedVolume
from samm_msgs.srv import LoadVolume, SaveSegmentation

from ..cycle import Answer
from ..errors import LaunchError, MaskError, PromptError, SammError, VolumeError
from ..geometry import Plane
from ..nodes import graph, wire
from ..prompts import Prompt
from ..trace import Task, TaskEvent

# Prompts are best effort: one that SND_INF did not get, as it was still starting, is published again.
REPEAT_PROMPT_S = 1.0
REPEAT_UNANSWERED_S = 15.0
CHECK_S = 0.5


class GraphClient:
    """Talks to a running graph in `namespace`; a context manager. Every wait has a limit and raises LaunchError at it."""

    def __init__(self, namespace: str, client_id: str, check: Callable[[], None] = lambda: None) -> None:
        """check: called while waiting; raises when the graph cannot be waited for any more."""
        self.client_id = client_id
        self._check = check
        self.events: list[TaskEvent] = []
        self.status: msg.EmbeddingStatus | None = None
        self.segmentation: msg.SegmentationStatus | None = None
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = Node("demo", namespace=namespace, context=self._context)
        self._prompts = self._node.create_publisher(msg.Prompt, graph.PROMPTS, graph.NEWEST)
        self._load = self._node.create_client(LoadVolume, graph.LOAD_VOLUME)
        self._save = self._node.create_client(SaveSegmentation, graph.SAVE_SEGMENTATION)
        self._embed = ActionClient(self._node, EmbedVolume, graph.EMBED_VOLUME)
        subscribe = self._node.create_subscription
        subscribe(msg.SliceMask, graph.RECEIVED_MASKS, self._on_answer, graph.NEWEST)
        subscribe(msg.TaskEvent, graph.TASK_EVENTS, self._on_event, graph.EVENTS)
        subscribe(msg.EmbeddingStatus, graph.EMBEDDING_STATUS, self._on_status, graph.LATCHED)
        subscribe(msg.SegmentationStatus, graph.SEGMENTATION_STATUS, self._on_segmentation, graph.LATCHED)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(timeout=1.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def load(self, path: Path, window_preset: str = "", timeout_s: float = 120.0) -> wire.LoadedVolume:
        """Make the graph load a volume and wait until its client side shows it; raises VolumeError when refused."""
        deadline = time.monotonic() + timeout_s
        while not self._load.wait_for_service(CHECK_S):
            self._check()
            self._wait(time.monotonic() < deadline, "the server to come up")
        response = self._call(
            self._load, LoadVolume.Request(path=str(path), window_preset=window_preset), timeout_s
        )
        if not response.success:
            raise VolumeError(response.message)
        volume = wire.volume_from_msg(response.volume)
        self.wait_for(
            lambda: self.segmentation is not None and self.segmentation.volume_uid == volume.uid,
            "the client nodes to show the volume",
            timeout_s,
        )
        return volume

    def prompt(self, prompt: Prompt, segment: str = "", timeout_s: float = 120.0) -> Answer:
        """Publish a prompt and wait for its answer; raises PromptError with the graph's sentence when refused."""
        message = wire.prompt_to_msg(prompt, client_id=self.client_id, segment=segment)
        before = len(self.events)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._start_cycle(message, len(self.events))
            # The answer may be applied and yet be lost on its way to us: then only a new cycle brings another.
            if answer := self._answer_since(before, min(deadline, time.monotonic() + REPEAT_UNANSWERED_S)):
                if answer.error:
                    raise PromptError(answer.error)
                return answer
        raise LaunchError(f"There was no mask within {timeout_s:g} s; see the logs of the nodes.")

    def _answer_since(self, before: int, deadline: float) -> Answer | None:
        """The answer to a cycle that was begun after the first `before` events; None when there is none in time."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._answers.get(timeout=min(left, CHECK_S))
            except queue.Empty:
                self._check()
                continue
            if answer.cycle in self._cycles_since(before):
                return answer
        return None

    def _start_cycle(self, message: msg.Prompt, before: int, timeout_s: float = 20.0) -> None:
        """Publish until SND_INF says that it has begun a cycle for it."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while time.monotonic() < deadline:
                message.header.stamp = self._node.get_clock().now().to_msg()
                self._prompts.publish(message)
                if self._changed.wait_for(lambda: self._cycles_since(before), REPEAT_PROMPT_S):
                    return
                self._check()
        raise LaunchError(f"SND_INF took no prompt within {timeout_s:g} s; see its log.")

    def _cycles_since(self, before: int) -> set[int]:
        """Of the events after the first `before`, the cycles that SND_INF has begun for this client."""
        mine = (e for e in self.events[before:] if e.client_id == self.client_id)
        return {e.cycle for e in mine if e.task == Task.SND_INF}

    def embed(
        self, planes: list[Plane], on_status: Callable[[msg.EmbeddingStatus], None], limit_s: float
    ) -> None:
        """Embed whole planes, for at most `limit_s`; what is embedded by then stays. Raises PromptError when refused."""
        goal = EmbedVolume.Goal(planes=[int(plane) for plane in planes])
        self._wait(self._embed.wait_for_server(limit_s), "the embedding action")
        sent = self._embed.send_goal_async(goal, feedback_callback=lambda f: on_status(f.feedback.status))
        handle = self._result(sent, 10.0)
        finished = handle.get_result_async()
        try:
            result = self._result(finished, limit_s).result
        except LaunchError:
            self._result(handle.cancel_goal_async(), 10.0)
            self._result(finished, 30.0)
            return
        if not result.success:
            raise PromptError(result.message)

    def save(self, path: Path) -> None:
        """Raises MaskError when the graph refuses."""
        response = self._call(self._save, SaveSegmentation.Request(path=str(path)), 60.0)
        if not response.success:
            raise MaskError(response.message)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until a message made `condition` true."""
        with self._changed:
            self._wait(self._changed.wait_for(condition, timeout_s), what)

    def _call(self, client: object, request: object, timeout_s: float) -> object:
        self._wait(client.wait_for_service(timeout_s), client.srv_name)
        return self._result(client.call_async(request), timeout_s)

    def _result(self, future: object, timeout_s: float) -> object:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        self._wait(done.wait(timeout_s), "an answer")
        return future.result()

    @staticmethod
    def _wait(happened: bool, what: str) -> None:
        if not happened:
            raise LaunchError(f"Waited in vain for {what}; see the logs of the nodes.")

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_answer(self, message: msg.SliceMask) -> None:
        if message.client_id == self.client_id:
            try:
                self._answers.put(wire.answer_from_msg(message))
            except SammError as error:
                self._node.get_logger().warning(str(error))

    def _on_event(self, message: msg.TaskEvent) -> None:
        with self._changed:
            self.events.append(wire.event_from_msg(message))
            self._changed.notify_all()

    def _on_status(self, message: msg.EmbeddingStatus) -> None:
        with self._changed:
            self.status = message
            self._changed.notify_all()

    def _on_segmentation(self, message: msg.SegmentationStatus) -> None:
        with self._changed:
            self.segmentation = message
            self._changed.notify_all()
