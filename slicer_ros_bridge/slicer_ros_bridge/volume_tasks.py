# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Goals of segment_volume that always end: with the graph's result, or with a sentence that the graph was lost.

In:   task_masks, segmentation_status (heard by node_graph.py)
Uses: segment_volume
"""

from __future__ import annotations

import time
import uuid
from array import array
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from geometry_msgs.msg import Point, Quaternion, Vector3
from rclpy.action import ActionClient
from rclpy.node import Node
from samm_msgs import msg
from samm_msgs.action import SegmentVolume

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.sources.base import not_loaded
from samm_ros import conversions, topics
from samm_ros.support.goals import Goal

from .graph_actions import Done, Post, TaskEnd, TaskProgress, VolumeTask
from .service_calls import AWAY_AFTER_S, is_away
from .undo import TASK_MARK

# The last masks may come after the result, on their own topic, and are then applied: so long that is waited for.
LAST_MASKS_S = 2.0
# Tasks whose end was heard before their result, of all clients of the graph.
_REMEMBERED_ENDS = 64
_KINDS = {
    "propagate": SegmentVolume.Goal.PROPAGATE,
    "box": SegmentVolume.Goal.BOX,
    "automatic": SegmentVolume.Goal.AUTOMATIC,
}


@dataclass(frozen=True, eq=False)
class TaskMessage:
    """A message of task_masks. answer: None: the task has ended."""

    id: str
    answer: Answer | None


@dataclass(eq=False)
class _Run:
    """name: the goal's client in the graph.

    due_at: until when the action is waited for, then the last masks; monotonic. goal: None until it is sent. written: segment and slice of each mask that came.
    """

    task: VolumeTask
    name: str
    on_progress: Callable[[TaskProgress], None]
    done: Done[TaskEnd]
    due_at: float
    goal: Goal | None = None
    total: int = 0
    written: set[tuple[str, int]] = field(default_factory=set)
    result: SegmentVolume.Result | None = None


class VolumeTasks:
    """All calls on the doors' thread; what the executor's thread hears is posted.

    The masks come by task_masks, which is reliable and deep: an action's feedback may be lost when many come at once.
    Each goal has a client of its own in the graph: masks of a task of an earlier bridge are not taken for those of a
    new one.
    """

    def __init__(self, node: Node, post: Post) -> None:
        self._node, self._post = node, post
        self._action = ActionClient(node, SegmentVolume, topics.SEGMENT_VOLUME)
        # By name.
        self._runs: dict[str, _Run] = {}
        # Tasks whose last mask has come; and those whose masks APL_MSK has applied, by its own word.
        self._ended: deque[str] = deque(maxlen=_REMEMBERED_ENDS)
        self._applied: Collection[str] = ()

    def start(
        self, task: VolumeTask, on_progress: Callable[[TaskProgress], None], done: Done[TaskEnd]
    ) -> None:
        name = f"{task.client_id}{TASK_MARK}{uuid.uuid4().hex[:8]}"
        run = _Run(task, name, on_progress, done, time.monotonic() + AWAY_AFTER_S)
        self._runs[name] = run
        self._send(run)

    def cancel(self, client_id: str) -> None:
        for run in list(self._runs.values()):
            if run.task.client_id != client_id:
                continue
            if run.goal is None:
                self._end(run, None, "The task was cancelled before it began.")
            else:
                run.goal.cancel()

    def heard(self, message: TaskMessage) -> None:
        """A message of task_masks has come, of any client's task."""
        if message.answer is None:
            self._ended.append(message.id)
            self.tick()
        elif run := self._runs.get(message.answer.client_id):
            run.written.add((message.answer.segment, message.answer.image.key.index))
            run.on_progress(TaskProgress(message.answer, len(run.written), run.total))

    def on_applied(self, task_ids: Collection[str]) -> None:
        """segmentation_status has come: APL_MSK has applied all of these tasks."""
        self._applied = task_ids
        if self._runs:
            self.tick()

    def server_restarted(self) -> None:
        """The server is another one: it knows nothing of what was begun."""
        for run in list(self._runs.values()):
            if run.goal is not None and run.result is None:
                self._end(run, None, "The graph's server was restarted; start again.")

    def on_volumes(self, volume_uids: set[str]) -> None:
        """The graph holds these volumes now."""
        for run in list(self._runs.values()):
            if run.result is None and run.task.volume_uid not in volume_uids:
                if run.goal is not None:
                    run.goal.cancel()
                self._end(run, None, not_loaded(run.task.volume_uid))

    def tick(self) -> None:
        """End what waited too long; call some times a second."""
        for run in list(self._runs.values()):
            if run.goal is None:
                self._send(run)
            elif run.result is None:
                if not self._action.server_is_ready():
                    self._end(run, None, is_away(topics.SEGMENT_VOLUME))
            elif self._is_applied(run.result.id) or time.monotonic() >= run.due_at:
                self._end(run, _end_of(run), "")

    def _is_applied(self, task_id: str) -> bool:
        return task_id in self._ended and task_id in self._applied

    def _send(self, run: _Run) -> None:
        if not (self._action.server_is_ready() and self._node.count_publishers(topics.TASK_MASKS)):
            if time.monotonic() >= run.due_at:
                self._end(run, None, is_away(topics.SEGMENT_VOLUME))
            return

        def told(feedback: SegmentVolume.Feedback) -> None:
            # Of a mask, task_masks tells.
            if not feedback.mask.client_id:
                self._post(lambda: self._progressed(run, feedback.done, feedback.total))

        goal = _goal_of(run)
        goal.client_node = self._node.get_fully_qualified_name()
        run.goal = Goal(self._node, self._action, goal, told)
        run.goal.ended.add_done_callback(
            lambda future: self._post(lambda: self._result_came(run, future.result()))
        )

    def _progressed(self, run: _Run, done: int, total: int) -> None:
        if run.name in self._runs:
            run.total = total
            run.on_progress(TaskProgress(None, done, total))

    def _result_came(self, run: _Run, result: SegmentVolume.Result | None) -> None:
        if run.name not in self._runs:
            return
        if result is None:
            self._end(run, None, "The server does not take tasks now; see its log.")
            return
        run.result, run.due_at = result, time.monotonic() + LAST_MASKS_S
        self.tick()

    def _end(self, run: _Run, end: TaskEnd | None, why: str) -> None:
        del self._runs[run.name]
        run.done(end, why)


def task_message(message: msg.TaskMask) -> TaskMessage:
    """Raises MaskError for a mask that was damaged on the way."""
    return TaskMessage(message.id, None if message.ended else conversions.answer_from_msg(message.mask))


def _end_of(run: _Run) -> TaskEnd:
    result = run.result
    sentences = [result.message] if result.message else []
    if (missing := result.slices - len(run.written)) > 0:
        sentences.append(f"{missing} masks were lost on the way from the graph; start again on these slices.")
    return TaskEnd(
        result.success and not missing > 0,
        " ".join(sentences),
        tuple(result.stopped),
        int(result.slices),
        float(result.seconds),
    )


def _goal_of(run: _Run) -> SegmentVolume.Goal:
    task = run.task
    goal = SegmentVolume.Goal(
        task=_KINDS[task.kind],
        client_id=run.name,
        segment=task.segment,
        volume_uid=task.volume_uid,
        plane=int(task.plane),
        first=task.first,
        last=task.last,
        prompts=[conversions.prompt_to_msg(ClientPrompt.of(prompt)) for prompt in task.prompts],
        frozen=list(task.frozen),
    )
    for mark in task.masks:
        mask = msg.SliceMask(encoding=msg.SliceMask.BITS_ZLIB, data=array("B", mark.data))
        mask.height, mask.width = mark.shape
        mask.image.plane, mask.image.index = int(task.plane), mark.index
        goal.masks.append(mask)
    if task.box:
        goal.box_centre = Point(**_named(task.box.centre_ras))
        goal.box_size = Vector3(**_named(task.box.size_mm))
        goal.box_orientation = Quaternion(**_named(task.box.orientation_xyzw))
    return goal


def _named(values: tuple[float, ...]) -> dict[str, float]:
    return {name: float(value) for name, value in zip("xyzw", values, strict=False)}
