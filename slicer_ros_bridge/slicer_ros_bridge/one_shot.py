# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prompts as one request and one reply, for protocols whose clients wait for each answer. Knows no ROS."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.mask_codec import decode_mask
from samm_core.prompts import Prompt

from .graph_actions import Done, GraphActions

# Requests at a time, each under a client id of its own in the graph: none may supersede another.
AT_A_TIME = 16


@dataclass(frozen=True, eq=False)
class _Waiting:
    due_at: float
    done: Done[np.ndarray]


class OneShotPrompts:
    """Each prompt gets one mask or one sentence, in time. All calls are made on the doors' thread.

    name: of the door; the client ids in the graph are `name/0` to `name/15`.
    """

    def __init__(self, graph: GraphActions, name: str) -> None:
        self._graph = graph
        self._client_ids = tuple(f"{name}/{number}" for number in range(AT_A_TIME))
        self._waiting: dict[str, _Waiting] = {}

    def ask(self, volume_uid: str, prompt: Prompt, due_at: float, done: Done[np.ndarray]) -> None:
        """done gets the mask, (H, W) bool, or None and why. due_at: time.monotonic() by which it is called."""
        client_id = next((name for name in self._client_ids if name not in self._waiting), None)
        if client_id is None:
            done(None, f"{AT_A_TIME} prompts are being answered already; wait for one.")
            return
        self._waiting[client_id] = _Waiting(due_at, done)
        client_prompt = ClientPrompt.of(prompt, client_id, volume_uid=volume_uid)
        self._graph.prompt(client_prompt, lambda answer: self._answered(client_id, answer))

    def tick(self) -> None:
        """Ends what waited too long; call some times a second."""
        now = time.monotonic()
        for client_id in [name for name, waiting in self._waiting.items() if waiting.due_at <= now]:
            self._graph.forget(client_id)
            self._waiting.pop(client_id).done(
                None, "The graph gave no mask in time; see the logs of its nodes."
            )

    def _answered(self, client_id: str, answer: Answer) -> None:
        waiting = self._waiting.pop(client_id, None)
        if waiting is None:
            return
        self._graph.forget(client_id)
        if answer.error:
            waiting.done(None, answer.error)
        else:
            waiting.done(decode_mask(answer.data, answer.shape, answer.encoding), "")
