# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Segments whole structures: the action segment_volume, beside the encoder whose embeddings it decodes.

Out:    task_masks (TaskMask), task_events
Action: segment_volume
Parameters: trace
"""

from __future__ import annotations

import contextlib
import time
import traceback
import uuid
from collections.abc import Callable, Iterator

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from samm_msgs.action import SegmentVolume
from samm_msgs.msg import TaskMask

from samm_core.cycle.request import Answer, CycleCounter
from samm_core.embedding.engine import EmbeddingEngine
from samm_core.errors import NotReadyError, PromptError, SammError
from samm_core.latency.events import Task
from samm_core.mask_codec import encode_mask
from samm_core.sources.base import ImageId, SliceKey, not_loaded
from samm_core.sources.volume import Volume
from samm_core.tasks.automatic import Progress
from samm_core.tasks.propagation import Stopped
from samm_core.tasks.volume_task import SegmentedSlice, segment

from .. import conversions, topics
from ..support.diagnostics import Diagnostics
from ..support.tracing import TaskTracer
from ..support.volume_tasks import volume_request_from_msg

# Prompts on single slices go first. A drag that never rests must not stop a task for good.
MAKE_WAY_S = 0.25
LOOK_AGAIN_S = 0.002
# To which each client of the action subscribes.
FEEDBACK = f"{topics.SEGMENT_VOLUME}/_action/feedback"


class SegmentVolumeNode(Node):
    """Each goal runs in a thread of the executor: spin it aside of nodes that answer prompts.

    engine: of the embedding node in this process. is_prompted: whether a prompt waits for the decoder.
    """

    def __init__(self, engine: EmbeddingEngine, is_prompted: Callable[[], bool] = lambda: False) -> None:
        super().__init__("segment_volume")
        self._engine, self._is_prompted = engine, is_prompted
        self._cycles = CycleCounter()
        self._diagnostics = Diagnostics(self)
        self._tracer = TaskTracer(self, Task.CPL_INF)
        self._masks = self.create_publisher(TaskMask, topics.TASK_MASKS, topics.TASKS)
        self._action = ActionServer(
            self,
            SegmentVolume,
            topics.SEGMENT_VOLUME,
            self._run,
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def destroy_node(self) -> None:
        self._action.destroy()
        super().destroy_node()

    def _run(self, goal: ServerGoalHandle) -> SegmentVolume.Result:
        started, result = time.monotonic(), SegmentVolume.Result(id=uuid.uuid4().hex)
        try:
            volume = self._volume(goal.request.volume_uid)
            request = volume_request_from_msg(goal.request, volume.geometry)
            model = self._engine.model
            if model is None or self._engine.is_suspended:
                raise NotReadyError(
                    "The server has no model at work; see model_info, or activate the embedding node."
                )
            found = segment(request, volume, model, self._engine.request, self._make_way)
            with contextlib.closing(found):
                self._follow(goal, volume, model.name, found, result)
        except SammError as error:
            result.message = str(error)
        except Exception as error:  # of a driver or a model: the client is told, and the node serves on
            result.message = f"The task failed ({type(error).__name__}: {error}); see the server's log."
            self.get_logger().error(traceback.format_exc())
        finally:
            # Also where it fails: what was sent is one step of undo, and the step is over.
            self._masks.publish(TaskMask(id=result.id, ended=True))
        if result.message:
            self._diagnostics.problem(result.message)
        result.seconds = time.monotonic() - started
        if goal.is_cancel_requested:
            goal.canceled()
        elif result.message:
            goal.abort()
        else:
            result.success = True
            goal.succeed()
            self._diagnostics.solved()
        return result

    def _follow(
        self,
        goal: ServerGoalHandle,
        volume: Volume,
        model: str,
        found: Iterator[SegmentedSlice | Stopped | Progress],
        result: SegmentVolume.Result,
    ) -> None:
        """Send each mask as it comes, until the task ends or nobody wants more."""
        began_ns = time.monotonic_ns()
        sent = 0
        written: set[tuple[str, int]] = set()
        client_is_gone = self._watch(goal.request.client_node)
        for each in found:
            if isinstance(each, Stopped):
                result.stopped.append(str(each))
                continue
            if isinstance(each, Progress):
                feedback = SegmentVolume.Feedback(done=each.done, total=each.total)
            else:
                answer = self._answer(goal.request.client_id, volume, model, each)
                sent += 1
                mask = conversions.answer_to_msg(answer, sent, self.get_clock().now().to_msg())
                mask.header.frame_id = topics.FRAME_ID
                self._masks.publish(TaskMask(id=result.id, mask=mask))
                self._tracer.ended(answer, began_ns, time.monotonic_ns())
                written.add((each.segment, each.index))
                result.slices = len(written)
                feedback = SegmentVolume.Feedback(mask=mask, done=result.slices)
            goal.publish_feedback(feedback)
            if goal.is_cancel_requested:
                result.message = f"Cancelled after {result.slices} slices; they stay."
                return
            if client_is_gone():
                raise PromptError(
                    f"{goal.request.client_node} is gone; the {result.slices} slices that were done stay."
                )
            if self._engine.is_suspended:
                raise NotReadyError(
                    f"The embedding node was deactivated after {result.slices} slices; they stay."
                )
            began_ns = time.monotonic_ns()

    def _watch(self, node: str) -> Callable[[], bool]:
        """Whether the node that asks for a task is gone, also one that was killed; empty: nobody is watched.

        It is known by its subscription to the feedback: one of the same name that was started since is another.
        """
        asker: set[bytes] = set()

        def is_gone() -> bool:
            there = {
                bytes(each.endpoint_gid)
                for each in self.get_subscriptions_info_by_topic(FEEDBACK)
                if f"{each.node_namespace.rstrip('/')}/{each.node_name}" == node
            }
            if not asker:
                asker.update(there)
            return bool(asker) and asker.isdisjoint(there)

        return is_gone if node else lambda: False

    def _answer(self, client_id: str, volume: Volume, model: str, each: SegmentedSlice) -> Answer:
        image = ImageId(volume.uid, SliceKey(each.plane, each.index, volume.window))
        return Answer(
            self._cycles.next(),
            client_id,
            each.segment,
            image,
            each.mask.shape,
            model,
            data=encode_mask(each.mask),
            score=each.score,
        )

    def _volume(self, uid: str) -> Volume:
        volumes = self._engine.volumes
        if not volumes:
            raise PromptError("There is nothing to segment; load a volume first.")
        volume = next((each for each in volumes if each.uid == uid), None) if uid else volumes[0]
        if volume is None:
            raise PromptError(not_loaded(uid))
        return volume

    def _make_way(self) -> None:
        deadline = time.monotonic() + MAKE_WAY_S
        while self._is_prompted() and time.monotonic() < deadline:
            time.sleep(LOOK_AGAIN_S)
