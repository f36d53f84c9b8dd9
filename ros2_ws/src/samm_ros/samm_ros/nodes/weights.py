# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Lists the models and whether their weights are on this host, and fetches published ones. Runs beside `embedding`.

Out:    weights (latched)
Action: fetch_weights
"""

from __future__ import annotations

import threading
import time

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from samm_msgs.action import FetchWeights
from samm_msgs.msg import ModelWeights, WeightsList

from samm_core.errors import ModelError
from samm_core.models import MODEL_NAMES
from samm_core.models.weights import WEIGHTS, download, weights_folder

from .. import topics
from ..support import process
from ..support.diagnostics import Diagnostics

# `./samm weights`, or a person, may bring files too.
LOOK_PERIOD_S = 5.0
_FEEDBACK_PERIOD_S = 0.2


class _CancelledError(Exception):
    """Nobody wants the download any more. What has come stays, and is gone on from next time."""


class WeightsNode(Node):
    """Each download runs in a thread of the executor: spin it aside of nodes that answer prompts."""

    def __init__(self) -> None:
        super().__init__("weights")
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._told: WeightsList | None = None
        self._diagnostics = Diagnostics(self)
        self._publisher = self.create_publisher(WeightsList, topics.WEIGHTS, topics.LATCHED)
        self._action = ActionServer(
            self,
            FetchWeights,
            topics.FETCH_WEIGHTS,
            self._fetch,
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        process.steady_timer(self, LOOK_PERIOD_S, self._tell)
        self._tell()

    def destroy_node(self) -> None:
        self._action.destroy()
        super().destroy_node()

    def _tell(self) -> None:
        """Publish what is here, if that has changed."""
        folder = weights_folder()
        models = [_weights_of(name) for name in MODEL_NAMES]
        message = WeightsList(folder=str(folder), models=models)
        if message != self._told:
            self._told = message
            self._publisher.publish(message)

    def _fetch(self, goal: ServerGoalHandle) -> FetchWeights.Result:
        name, result = goal.request.model, FetchWeights.Result()
        try:
            with self._lock:
                if name in self._under_way:
                    raise ModelError(f"{name} is being fetched already; wait for it.")
                self._under_way.add(name)
            try:
                result.path = str(download(name, progress=_Progress(goal)))
            finally:
                self._under_way.discard(name)
        except _CancelledError:
            result.message = (
                f"The download of {name} was cancelled; what has come stays, and is gone on from next time."
            )
            goal.canceled()
            return result
        except ModelError as error:
            result.message = str(error)
            self._diagnostics.problem(result.message)
            goal.abort()
            return result
        self._tell()
        self._diagnostics.solved()
        result.success = True
        goal.succeed()
        return result


class _Progress:
    """Feedback for a goal, some times a second."""

    def __init__(self, goal: ServerGoalHandle) -> None:
        self._goal = goal
        self._told_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Raises _CancelledError when the goal is to end."""
        if self._goal.is_cancel_requested:
            raise _CancelledError
        now = time.monotonic()
        if now - self._told_at >= _FEEDBACK_PERIOD_S or done == total:
            self._told_at = now
            self._goal.publish_feedback(FetchWeights.Feedback(done=done, total=total))


def _weights_of(name: str) -> ModelWeights:
    weights = WEIGHTS.get(name)
    if weights is None:
        return ModelWeights(model=name, here=True)
    return ModelWeights(
        model=name,
        file_name=weights.file_name,
        size=weights.size,
        here=(weights_folder() / weights.file_name).is_file(),
        fetchable=weights.url is not None,
        page=weights.page,
    )
