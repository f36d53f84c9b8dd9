# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prompts as one request and one reply, for protocols whose clients wait for each answer. Knows no ROS."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from samm_core.cycle.request import STILL_WAITING, Answer, ClientPrompt
from samm_core.mask_codec import decode_mask
from samm_core.prompts import Prompt
from samm_core.sources.base import not_loaded
from samm_core.sources.window import Window

from .graph_actions import Done, GraphActions

# Requests at a time, each under a client id of its own in the graph: none may supersede another.
AT_A_TIME = 16


@dataclass(frozen=True, eq=False)
class _Waiting:
    prompt: ClientPrompt
    due_at: float
    done: Done[np.ndarray]
    picture: np.ndarray | None


class OneShotPrompts:
    """Each prompt gets one mask or one sentence, in time. All calls are made on the doors' thread.

    name: of the door; the client ids in the graph are `name/0` to `name/15`. waits: until the mask is due, also where
    the graph says before what it waits for itself, as for a server that starts again.
    """

    def __init__(self, graph: GraphActions, name: str, waits: bool = False) -> None:
        self._graph, self._waits = graph, waits
        self._client_ids = tuple(f"{name}/{number}" for number in range(AT_A_TIME))
        self._waiting: dict[str, _Waiting] = {}

    def ask(
        self,
        volume_uid: str,
        prompt: Prompt,
        due_at: float,
        done: Done[np.ndarray],
        window: Window | None = None,
        picture: np.ndarray | None = None,
    ) -> None:
        """done gets the mask, (H, W) bool, or None and why. due_at: time.monotonic() by which it is called.

        window: None: the volume's. picture: as GraphActions.prompt takes it.
        """
        client_id = next((name for name in self._client_ids if name not in self._waiting), None)
        if client_id is None:
            done(None, f"{AT_A_TIME} prompts are being answered already; wait for one.")
            return
        client_prompt = ClientPrompt.of(prompt, client_id, volume_uid=volume_uid, window=window)
        self._waiting[client_id] = _Waiting(client_prompt, due_at, done, picture)
        self._send(client_id)

    def _send(self, client_id: str) -> None:
        waiting = self._waiting[client_id]
        self._graph.prompt(waiting.prompt, lambda answer: self._answered(client_id, answer), waiting.picture)

    def tick(self) -> None:
        """Ends what waited too long; call some times a second."""
        now = time.monotonic()
        for client_id in [name for name, waiting in self._waiting.items() if waiting.due_at <= now]:
            self._graph.forget(client_id)
            self._waiting.pop(client_id).done(
                None, "The graph gave no mask in time; see the logs of its nodes."
            )

    def _answered(self, client_id: str, answer: Answer) -> None:
        waiting = self._waiting.get(client_id)
        if waiting is None or (self._waits and answer.error.startswith(STILL_WAITING)):
            return
        source = waiting.prompt.image.source
        if waiting.picture is not None and answer.error == not_loaded(source):
            # The graph let go of it a moment before the prompt came: the door has heard of that by now.
            self._send(client_id)
            return
        del self._waiting[client_id]
        self._graph.forget(client_id)
        if answer.error:
            waiting.done(None, answer.error)
        else:
            waiting.done(decode_mask(answer.data, answer.shape, answer.encoding), "")
