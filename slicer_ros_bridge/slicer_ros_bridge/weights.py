# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Goals of fetch_weights, which always end: with the graph's result, or with a sentence that nobody serves them.

Uses: fetch_weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.action import ActionClient
from rclpy.node import Node
from samm_msgs import msg
from samm_msgs.action import FetchWeights

from samm_ros import topics
from samm_ros.support.goals import Goal

from .graph_actions import Done, ModelWeights, Post, WeightsState
from .service_calls import is_away


@dataclass(eq=False)
class _Fetch:
    owner: str
    done: Done[str]
    goal: Goal


class WeightsGoals:
    """All calls on the doors' thread; what the executor's thread hears is posted."""

    def __init__(self, node: Node, post: Post) -> None:
        self._node, self._post = node, post
        self._action = ActionClient(node, FetchWeights, topics.FETCH_WEIGHTS)
        self._fetches: list[_Fetch] = []

    def fetch(self, name: str, owner: str, on_progress: Callable[[int, int], None], done: Done[str]) -> None:
        if not self._action.server_is_ready():
            done(None, is_away(topics.FETCH_WEIGHTS))
            return

        def told(feedback: FetchWeights.Feedback) -> None:
            self._post(lambda: on_progress(int(feedback.done), int(feedback.total)))

        goal = Goal(self._node, self._action, FetchWeights.Goal(model=name), told)
        fetch = _Fetch(owner, done, goal)
        self._fetches.append(fetch)
        goal.ended.add_done_callback(lambda future: self._post(lambda: self._ended(fetch, future.result())))

    def cancel(self, owner: str) -> None:
        for fetch in self._fetches:
            if fetch.owner == owner:
                fetch.goal.cancel()

    def tick(self) -> None:
        """End what nobody serves any more; call some times a second."""
        if self._fetches and not self._action.server_is_ready():
            for fetch in list(self._fetches):
                self._fetches.remove(fetch)
                fetch.done(None, is_away(topics.FETCH_WEIGHTS))

    def _ended(self, fetch: _Fetch, result: FetchWeights.Result | None) -> None:
        if fetch not in self._fetches:
            return
        self._fetches.remove(fetch)
        if result is None:
            fetch.done(None, "The graph fetches no weights now; see its log.")
        elif result.success:
            fetch.done(f"The weights are in {result.path}.", "")
        else:
            fetch.done(None, result.message)


def weights_state(message: msg.WeightsList) -> WeightsState:
    models = (
        ModelWeights(m.model, m.file_name, int(m.size), m.here, m.fetchable, m.page) for m in message.models
    )
    return WeightsState(message.folder, tuple(models))
