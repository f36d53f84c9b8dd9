# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A client's side of the best-effort cycle without ROS: its newest prompt, sent until it is answered.

Every client uses this: the Python API, the bridge and replay. SND_INF does the same for the stretch behind it, see
newest.py. A client is in one of these states, by what it knows of its newest prompt:

sent      Published, and again every RESEND_AFTER_S under the same number until SND_INF has it. When APL_MSK has settled
          that number and no answer came, its mask was lost on the way back: it is published under a new number.
waiting   The graph has said what it waits for (STILL_WAITING). It is published again under the same number, and its mask
          may come yet.
answered  Its mask has come. APL_MSK may still refuse it.
refused   A sentence has come, which is the last.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from .request import STILL_WAITING, Answer, ClientPrompt, CycleCounter

RESEND_AFTER_S = 0.5
# Cycles of a client whose late answers are still passed on, as those of a drag.
REMEMBERED = 64

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True)
class CycleProgress:
    """How far a client's cycles have come, as ClientCycles. error: why the settled one has no mask; empty: it has."""

    requested: int = 0
    settled: int = 0
    error: str = ""


class _State(Enum):
    SENT = auto()
    WAITING = auto()
    ANSWERED = auto()
    REFUSED = auto()


@dataclass
class _Client:
    newest: ClientPrompt
    on_answer: OnAnswer
    sent_at: float = 0.0
    state: _State = _State.SENT
    # By cycle, who gets an answer that may still come.
    unanswered: OrderedDict[int, OnAnswer] = field(default_factory=OrderedDict)


class PendingPrompts:
    """The newest prompt of each client of this process. Not thread-safe. An on_answer may put and forget.

    send: puts a prompt, which has its cycle, on `prompts`.
    """

    def __init__(self, send: Callable[[ClientPrompt], None]) -> None:
        self._send = send
        self._counter = CycleCounter()
        self._clients: dict[str, _Client] = {}

    def put(self, prompt: ClientPrompt, on_answer: OnAnswer, beyond: int = 0) -> int:
        """Send, instead of any older prompt of its client; the cycle.

        on_answer may come for older prompts too; for a prompt that waits, with the sentence and again with its mask; and
        for one that APL_MSK refuses, with its mask and again with the sentence. beyond: a cycle that this client had in an
        earlier process.
        """
        former = self._clients.get(prompt.client_id)
        client = self._clients[prompt.client_id] = _Client(prompt, on_answer)
        client.unanswered = former.unanswered if former else OrderedDict()
        # An older number would be ignored for ever.
        self._counter.newest = max(self._counter.newest, beyond)
        return self._begin(client)

    def forget(self, client_id: str) -> None:
        """Nobody waits for this client's answers any more."""
        self._clients.pop(client_id, None)

    def answered(self, answer: Answer) -> None:
        """The graph has answered some client's cycle: passed on, once, if it was put here."""
        client = self._clients.get(answer.client_id)
        on_answer = client and client.unanswered.get(answer.cycle)
        if on_answer is None:
            return
        waits = answer.error.startswith(STILL_WAITING)
        is_newest = answer.cycle == client.newest.cycle
        if waits and not (is_newest and client.state is _State.SENT):
            return
        if not waits:
            del client.unanswered[answer.cycle]
        if is_newest:
            answered = _State.REFUSED if answer.error else _State.ANSWERED
            client.state = _State.WAITING if waits else answered
        on_answer(answer)

    def refused(self, cycles: Mapping[str, CycleProgress]) -> None:
        """APL_MSK has refused what it says: passed on, also where the mask itself was passed on before."""
        for client_id, client in list(self._clients.items()):
            progress = cycles.get(client_id, CycleProgress())
            newest = client.newest
            if not progress.error or progress.settled != newest.cycle or client.state is _State.REFUSED:
                continue
            if progress.error.startswith(STILL_WAITING) and client.state is not _State.SENT:
                continue
            refusal = Answer(
                newest.cycle, client_id, newest.segment, newest.image, (0, 0), error=progress.error
            )
            client.unanswered.setdefault(newest.cycle, client.on_answer)
            self.answered(refusal)

    def resend(self, cycles: Mapping[str, CycleProgress]) -> None:
        """Send again what got lost; call some times a second. cycles: by client, what APL_MSK says."""
        now = time.monotonic()
        for client_id, client in self._clients.items():
            if client.state not in (_State.SENT, _State.WAITING) or now - client.sent_at < RESEND_AFTER_S:
                continue
            progress = cycles.get(client_id, CycleProgress())
            cycle = client.newest.cycle
            if client.state is _State.SENT and max(progress.settled, progress.requested - 1) >= cycle:
                # Also when this computer's clock was set back, and the client had greater numbers before.
                client.unanswered.pop(cycle)
                self._counter.newest = max(self._counter.newest, progress.requested)
                self._begin(client)
            elif client.state is _State.WAITING or progress.requested < cycle:
                client.sent_at = now
                self._send(client.newest)

    def _begin(self, client: _Client) -> int:
        cycle = self._counter.next()
        client.newest = replace(client.newest, cycle=cycle)
        client.sent_at = time.monotonic()
        client.unanswered[cycle] = client.on_answer
        if len(client.unanswered) > REMEMBERED:
            client.unanswered.popitem(last=False)
        self._send(client.newest)
        return cycle
