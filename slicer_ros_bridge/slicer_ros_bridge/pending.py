# SPDX-License-Identifier: Apache-2.0
"""The newest prompt of each client, sent to the graph until it is answered. Knows neither ROS nor sockets."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from samm_ros.cycle import Answer, CycleCounter
from samm_ros.prompts import Prompt

RESEND_AFTER_S = 0.5
# Cycles of a client whose late answers are still passed on, as those of a drag.
REMEMBERED = 64

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True, eq=False)
class Asked:
    """What goes out on `prompts`."""

    client_id: str
    volume_uid: str
    segment: str
    prompt: Prompt


@dataclass
class _Client:
    newest: Asked
    cycle: int
    sent_at: float
    answered: bool = False
    waiting: OrderedDict[int, OnAnswer] = field(default_factory=OrderedDict)


class PendingPrompts:
    """Best effort loses messages: a prompt is sent again until SND_INF has it, and with a new cycle when its mask was
    lost on the last stretch. Not thread-safe.

    send: puts a prompt with its cycle on `prompts`.
    """

    def __init__(self, send: Callable[[Asked, int], None]) -> None:
        self._send = send
        self._cycles = CycleCounter()
        self._clients: dict[str, _Client] = {}

    def ask(self, asked: Asked, on_answer: OnAnswer) -> int:
        """Send, instead of any older prompt of its client; the cycle. on_answer may come for older prompts too."""
        client = self._clients.get(asked.client_id)
        waiting = client.waiting if client else OrderedDict()
        client = self._clients[asked.client_id] = _Client(asked, 0, 0.0, False, waiting)
        return self._begin(client, on_answer)

    def forget(self, client_id: str) -> None:
        """Nobody waits for this client's answers any more."""
        self._clients.pop(client_id, None)

    def answered(self, answer: Answer) -> None:
        """The graph has answered some client's cycle: passed on, once, if it was asked for here."""
        client = self._clients.get(answer.client_id)
        on_answer = client and client.waiting.pop(answer.cycle, None)
        if on_answer is None:
            return
        client.answered = client.answered or answer.cycle == client.cycle
        on_answer(answer)

    def resend(self, cycles: Mapping[str, tuple[int, int]]) -> None:
        """Call often. cycles: by client, the newest cycle that the graph was asked for, and that it has settled."""
        now = time.monotonic()
        for client_id, client in self._clients.items():
            if client.answered or now - client.sent_at < RESEND_AFTER_S:
                continue
            requested, settled = cycles.get(client_id, (0, 0))
            if settled >= client.cycle or requested > client.cycle:
                # Beyond ours when this computer's clock was set back: an older number would be ignored for ever.
                self._cycles.newest = max(self._cycles.newest, requested)
                self._begin(client, client.waiting.pop(client.cycle))
            elif requested < client.cycle:
                client.sent_at = now
                self._send(client.newest, client.cycle)

    def _begin(self, client: _Client, on_answer: OnAnswer) -> int:
        client.cycle = self._cycles.next()
        client.sent_at = time.monotonic()
        client.waiting[client.cycle] = on_answer
        if len(client.waiting) > REMEMBERED:
            client.waiting.popitem(last=False)
        self._send(client.newest, client.cycle)
        return client.cycle
