# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node graph's topics, services and action, as GraphActions: what speaks ROS for the doors.

In:   received_masks, segmentation_status, volumes, model_info, embedding_status, weights, task_masks, task_events
Out:  prompts (Prompt, newest), picture_prompts (PicturePrompt), task_events (APL_MSK of Slicers)
Uses: load_volume, select_model, edit_segments, undo, redo, save_segmentation, embed_volume,
      segment_volume (volume_tasks.py), fetch_weights (weights.py)
The live stream: live_stream.py
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from samm_msgs import msg
from samm_msgs.action import EmbedVolume
from samm_msgs.srv import EditSegments, LoadVolume, SaveSegmentation, SelectModel, UndoChange
from std_msgs.msg import ColorRGBA

from samm_core import ipp
from samm_core.cycle.pending import CycleProgress, PendingPrompts
from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.errors import SammError
from samm_core.latency.events import TaskEvent, event_of
from samm_core.sources.volume import LoadedVolume, Window
from samm_ros import conversions, topics
from samm_ros.support.goals import Goal
from samm_ros.support.images import image_to_msg
from samm_ros.support.publishing import NumberedPublisher, stamped
from samm_ros.support.services import RestartedServer

from . import undo
from .graph_actions import (
    Done,
    EmbeddingState,
    GraphListener,
    ModelState,
    Post,
    SegmentEdit,
    StreamImage,
    TaskEnd,
    TaskProgress,
    VolumeTask,
    WeightsState,
)
from .live_stream import LiveStream
from .service_calls import ServiceCalls, is_away
from .volume_tasks import TaskMessage, VolumeTasks, task_message
from .weights import WeightsGoals, weights_state

_EDITS = {
    "rename": EditSegments.Request.RENAME,
    "recolor": EditSegments.Request.RECOLOR,
    "remove": EditSegments.Request.REMOVE,
}


class NodeGraph:
    """Is GraphActions. Made before the node spins; from then on all its state belongs to the doors' thread.

    What the executor's thread hears is converted there and posted, so that no lock is needed here.
    """

    def __init__(self, node: Node, post: Post) -> None:
        self.volumes: dict[str, LoadedVolume] = {}
        self.server = ""
        self.model: ModelState | None = None
        self.embedding: EmbeddingState | None = None
        self.weights: WeightsState | None = None
        self._node, self._post = node, post
        self._listeners: list[GraphListener] = []
        self._pending = PendingPrompts(self._publish_prompt)
        # By client, what its newest prompt is on, where that is a picture.
        self._pictures: dict[str, np.ndarray] = {}
        self._cycles: dict[str, CycleProgress] = {}
        self._owners = undo.StepOwners()
        self._goal: Goal | None = None

        self._prompts = node.create_publisher(msg.Prompt, topics.PROMPTS, topics.OF_ALL_CLIENTS)
        self._picture_prompts = node.create_publisher(
            msg.PicturePrompt, topics.PICTURE_PROMPTS, topics.PICTURES
        )
        self._events = NumberedPublisher(
            node, msg.TaskEvent, topics.TASK_EVENTS, topics.EVENTS, conversions.event_to_msg
        )
        self._calls = ServiceCalls(post)
        self._load = RestartedServer(node, node.create_client(LoadVolume, topics.LOAD_VOLUME))
        self._select = node.create_client(SelectModel, topics.SELECT_MODEL)
        self._edit = node.create_client(EditSegments, topics.EDIT_SEGMENTS)
        self._undo = node.create_client(UndoChange, topics.UNDO)
        self._redo = node.create_client(UndoChange, topics.REDO)
        self._save = node.create_client(SaveSegmentation, topics.SAVE_SEGMENTATION)
        self._embed = ActionClient(node, EmbedVolume, topics.EMBED_VOLUME)
        self._tasks = VolumeTasks(node, post)
        self._stream = LiveStream(node, post, self._calls)
        self._fetches = WeightsGoals(node, post)

        of_all, latched, events = topics.OF_ALL_CLIENTS, topics.LATCHED, topics.EVENTS
        self._hear(
            msg.SliceMask,
            topics.RECEIVED_MASKS,
            of_all,
            conversions.answer_from_msg,
            self._pending.answered,
        )
        self._hear(
            msg.SegmentationStatus,
            topics.SEGMENTATION_STATUS,
            latched,
            lambda message: (conversions.cycles_from_msg(message), tuple(message.ended_tasks)),
            lambda heard: self._on_status(*heard),
        )
        self._hear(msg.VolumeList, topics.VOLUMES, latched, _volumes, lambda heard: self._on_volumes(*heard))
        self._hear(msg.ModelInfo, topics.MODEL_INFO, latched, _model, self._on_model)
        self._hear(msg.EmbeddingStatus, topics.EMBEDDING_STATUS, latched, _embedding, self._on_embedding)
        self._hear(msg.WeightsList, topics.WEIGHTS, latched, weights_state, self._on_weights)
        # Before task_events: of two that lie ready the mask is taken first.
        self._hear(msg.TaskMask, topics.TASK_MASKS, topics.TASKS, task_message, self._on_task_mask)
        self._hear(msg.TaskEvent, topics.TASK_EVENTS, events, event_of, self._on_event)

    # What the doors ask.

    def listen(self, listener: GraphListener) -> None:
        self._listeners.append(listener)

    def prompt(
        self,
        prompt: ClientPrompt,
        on_answer: Callable[[Answer], None],
        picture: np.ndarray | None = None,
    ) -> int:
        # put() sends it.
        self._pictures.pop(prompt.client_id, None)
        if picture is not None:
            self._pictures[prompt.client_id] = picture
        return self._pending.put(prompt, on_answer)

    def forget(self, client_id: str) -> None:
        self._pending.forget(client_id)
        self._pictures.pop(client_id, None)

    def tick(self) -> None:
        """Send again what got lost; call some times a second, on the doors' thread."""
        self._pending.resend(self._cycles)
        self._tasks.tick()
        self._stream.tick()
        self._fetches.tick()

    def load_volume(self, path: Path, window: Window | None, done: Done[LoadedVolume]) -> None:
        request = LoadVolume.Request(path=str(path))
        if window:
            request.window_lower, request.window_upper = window.lower, window.upper
        # A Slicer sends its volume as soon as it hears that a server that was restarted lacks it.
        self._calls.call(
            self._load.client,
            request,
            lambda r: conversions.volume_from_msg(r.volume),
            done,
            self._load.is_ready,
        )

    def select_model(self, name: str, done: Done[ModelState]) -> None:
        self._calls.call(self._select, SelectModel.Request(name=name), lambda r: _model(r.model), done)

    def fetch_weights(
        self, name: str, owner: str, on_progress: Callable[[int, int], None], done: Done[str]
    ) -> None:
        self._fetches.fetch(name, owner, on_progress, done)

    def cancel_fetch(self, owner: str) -> None:
        self._fetches.cancel(owner)

    def edit_segment(self, edit: SegmentEdit, owner: str, volume_uid: str, done: Done[str]) -> None:
        def ended(text: str | None, why: str) -> None:
            if text is not None:
                self._owners.edited(owner, volume_uid)
            done(text, why)

        request = EditSegments.Request(
            edit=_EDITS[edit.kind], volume_uid=volume_uid, segment=edit.segment, new_name=edit.new_name
        )
        request.color = ColorRGBA(**dict(zip("rgb", edit.color, strict=True)), a=1.0)
        self._calls.call(self._edit, request, lambda r: "Done in the graph too.", ended)

    def undo(self, client_ids: Collection[str], volume_uid: str, done: Done[str]) -> None:
        if not self._owners.may_undo(client_ids, volume_uid):
            done(None, undo.NOT_YOURS)
            return

        def ended(text: str | None, why: str) -> None:
            if text is not None:
                self._owners.undone(volume_uid)
            done(text, why)

        request = UndoChange.Request(volume_uid=volume_uid)
        self._calls.call(self._undo, request, lambda r: "Undone.", ended)

    def redo(self, volume_uid: str, done: Done[str]) -> None:
        def ended(text: str | None, why: str) -> None:
            if text is not None:
                self._owners.redone(volume_uid)
            done(text, why)

        request = UndoChange.Request(volume_uid=volume_uid)
        self._calls.call(self._redo, request, lambda r: "Done again.", ended)

    def save(self, path: Path, volume_uid: str, done: Done[str]) -> None:
        request = SaveSegmentation.Request(path=str(path), volume_uid=volume_uid)
        self._calls.call(self._save, request, lambda r: str(path), done)

    def embed(self, planes: Sequence[int], volume_uid: str, done: Done[str]) -> None:
        if not self._embed.server_is_ready():
            done(None, is_away(topics.EMBED_VOLUME))
            return

        def ended(future: Future) -> None:
            result = future.result()
            if result is None:
                text, why = None, "The embedding node does not take goals now; see its state."
            elif result.success:
                text, why = f"{result.embedded} slices are embedded, after {result.seconds:.0f} s.", ""
            else:
                text, why = None, result.message
            self._post(lambda: done(text, why))

        self._goal = Goal(
            self._node, self._embed, EmbedVolume.Goal(planes=list(planes), volume_uid=volume_uid)
        )
        self._goal.ended.add_done_callback(ended)

    def cancel_embed(self) -> None:
        if self._goal is not None:
            self._goal.cancel()

    def segment_volume(
        self, task: VolumeTask, on_progress: Callable[[TaskProgress], None], done: Done[TaskEnd]
    ) -> None:
        self._tasks.start(task, on_progress, done)

    def cancel_volume(self, client_id: str) -> None:
        self._tasks.cancel(client_id)

    def watch_stream(self, on_image: Callable[[StreamImage], None] | None) -> None:
        self._stream.watch(on_image)

    def mark_track(self, prompt: ClientPrompt, stamp_ns: int, done: Done[str]) -> None:
        self._stream.prompt(prompt, stamp_ns, done)

    def rename_track(self, name: str, new_name: str, done: Done[str]) -> None:
        self._stream.rename(name, new_name, done)

    def remove_track(self, name: str, done: Done[str]) -> None:
        self._stream.remove(name, done)

    def publish_event(self, event: TaskEvent) -> None:
        self._events.publish(event)

    def _publish_prompt(self, prompt: ClientPrompt) -> None:
        message = stamped(self._node, conversions.prompt_to_msg(prompt))
        picture = self._pictures.get(prompt.client_id)
        if picture is None or prompt.image.source in self.volumes:
            self._prompts.publish(message)
        else:
            self._picture_prompts.publish(msg.PicturePrompt(picture=image_to_msg(picture), prompt=message))

    # What the graph says.

    def _hear(
        self,
        kind: type,
        topic: str,
        qos: QoSProfile,
        convert: Callable[[Any], Any],
        tell: Callable[[Any], None],
    ) -> None:
        """Call `tell` on the doors' thread with what `convert` makes of each message."""

        def heard(message: Any) -> None:
            try:
                value = convert(message)
            except (SammError, ValueError) as error:
                self._node.get_logger().warning(f"{topic}: {error}")
                return
            self._post(lambda: tell(value))

        self._node.create_subscription(kind, topic, heard, qos)

    def _on_status(self, cycles: dict[str, CycleProgress], ended_tasks: tuple[str, ...]) -> None:
        self._cycles = cycles
        self._pending.refused(cycles)
        self._tasks.on_applied(ended_tasks)

    def _on_volumes(self, server: str, volumes: list[LoadedVolume]) -> None:
        self._load.heard(is_new=server != self.server)
        if self.server not in ("", server):
            self._tasks.server_restarted()
        self.server = server
        self.volumes = {volume.uid: volume for volume in volumes}
        self._tasks.on_volumes(set(self.volumes))
        self._tell(lambda listener: listener.on_volumes())

    def _on_model(self, model: ModelState) -> None:
        self.model = model
        self._tell(lambda listener: listener.on_model(model))

    def _on_embedding(self, embedding: EmbeddingState) -> None:
        self.embedding = embedding
        self._tell(lambda listener: listener.on_embedding(embedding))

    def _on_weights(self, weights: WeightsState) -> None:
        self.weights = weights
        self._tell(lambda listener: listener.on_weights(weights))

    def _on_task_mask(self, message: TaskMessage) -> None:
        if message.answer:
            self._owners.note_task(message.answer.client_id, message.answer.cycle, message.id)
        self._tasks.heard(message)

    def _on_event(self, event: TaskEvent) -> None:
        self._owners.note(event)
        self._tell(lambda listener: listener.on_event(event))

    def _tell(self, tell: Callable[[GraphListener], None]) -> None:
        """Each by a posted call of its own: one that fails keeps nothing from the others."""
        for listener in self._listeners:
            self._post(lambda listener=listener: tell(listener))


def _volumes(message: msg.VolumeList) -> tuple[str, list[LoadedVolume]]:
    return message.server, conversions.volumes_from_msg(message)


def _model(message: msg.ModelInfo) -> ModelState:
    return ModelState(message.name, message.device, message.takes_points, message.takes_box)


def _embedding(message: msg.EmbeddingStatus) -> EmbeddingState:
    return EmbeddingState(
        message.volume_uid,
        tuple(map(int, message.done)),
        tuple(map(int, message.total)),
        float(message.rate),
        message.sweeping,
        int(message.bytes_used),
        embedded_runs(np.asarray(message.embedded, bool), message.total),
    )


def embedded_runs(embedded: np.ndarray, total: Sequence[int]) -> tuple[list[tuple[int, int]], ...]:
    """By plane, the first and the last of each run of slices that are embedded. embedded: as EmbeddingStatus has it."""
    result = []
    for flags in np.split(embedded, np.cumsum(total)[:2]):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
        result.append([(int(first), int(after) - 1) for first, after in edges.reshape(-1, 2)[: ipp.MAX_RUNS]])
    return tuple(result)
