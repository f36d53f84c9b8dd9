# SPDX-License-Identifier: Apache-2.0
"""The newest prompt of each client, sent to the graph until it is answered. Knows neither ROS nor sockets."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from samm_core.cycle.request import Answer, CycleCounter
from samm_core.geometry import Plane
from samm_core.prompts import Prompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.window import Window

RESEND_AFTER_S = 0.5
# Cycles of a client whose late answers are still passed on, as those of a drag.
REMEMBERED = 64

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True, eq=False)
class ClientPrompt:
    """What goes out on `prompts`. segment: which its mask is for; empty: the active one. window: None: the volume's."""

    client_id: str
    volume_uid: str
    segment: str
    prompt: Prompt
    window: Window | None = None


@dataclass(frozen=True)
class CycleProgress:
    """How far a client's cycles have come, as ClientCycles. error: why the settled one has no mask; empty: it has."""

    requested: int = 0
    settled: int = 0
    error: str = ""


def pixel_prompt(
    plane: Plane,
    slice_index: int,
    points_xy: np.ndarray,
    labels: np.ndarray,
    box_xyxy: np.ndarray | None,
) -> Prompt:
    """A Prompt in pixels of a slice. points_xy: (N, 2). labels: (N,) 1 or 0. box_xyxy: (4,) or None.

    Nothing is checked but the shapes: SND_INF refuses what is no prompt.
    """

    def with_z(xy: np.ndarray) -> np.ndarray:
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        return np.hstack([xy, np.zeros((len(xy), 1))])

    return Prompt(
        plane=plane,
        slice_index=slice_index,
        in_ras=False,
        points=with_z(points_xy),
        labels=np.asarray(labels, np.uint8),
        box=None if box_xyxy is None else with_z(box_xyxy),
    )


@dataclass
class _Client:
    newest: ClientPrompt
    cycle: int
    sent_at: float
    on_answer: OnAnswer
    answered: bool = False
    # A sentence was passed on instead of a mask, or after it.
    refused: bool = False
    waiting: OrderedDict[int, OnAnswer] = field(default_factory=OrderedDict)


class PendingPrompts:
    """Best effort loses messages: a prompt is sent again until SND_INF has it, and with a new cycle when its mask was
    lost on the last stretch. Not thread-safe. An on_answer may ask and forget.

    send: puts a prompt with its cycle on `prompts`.
    """

    def __init__(self, send: Callable[[ClientPrompt, int], None]) -> None:
        self._send = send
        self._counter = CycleCounter()
        self._clients: dict[str, _Client] = {}

    def ask(self, prompt: ClientPrompt, on_answer: OnAnswer) -> int:
        """Send, instead of any older prompt of its client; the cycle. on_answer may come for older prompts too."""
        client = self._clients.get(prompt.client_id)
        waiting = client.waiting if client else OrderedDict()
        client = self._clients[prompt.client_id] = _Client(prompt, 0, 0.0, on_answer, waiting=waiting)
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
        client.refused = client.refused or (answer.cycle == client.cycle and bool(answer.error))
        on_answer(answer)

    def refused(self, cycles: Mapping[str, CycleProgress]) -> None:
        """APL_MSK has refused what it says: passed on, also where the mask itself was passed on before."""
        for client_id, client in list(self._clients.items()):
            progress = cycles.get(client_id, CycleProgress())
            if not progress.error or progress.settled != client.cycle or client.refused:
                continue
            client.refused = client.answered = True
            client.waiting.pop(client.cycle, None)
            newest = client.newest
            key = SliceKey(newest.prompt.plane, newest.prompt.slice_index, newest.window)
            image = ImageId(newest.volume_uid, key)
            client.on_answer(
                Answer(client.cycle, client_id, newest.segment, image, (0, 0), error=progress.error)
            )

    def resend(self, cycles: Mapping[str, CycleProgress]) -> None:
        """Send again what got lost; call some times a second."""
        now = time.monotonic()
        for client_id, client in self._clients.items():
            if client.answered or now - client.sent_at < RESEND_AFTER_S:
                continue
            progress = cycles.get(client_id, CycleProgress())
            requested = progress.requested
            if progress.settled >= client.cycle or requested > client.cycle:
                # Beyond ours when this computer's clock was set back: an older number would be ignored for ever.
                self._counter.newest = max(self._counter.newest, requested)
                self._begin(client, client.waiting.pop(client.cycle))
            elif requested < client.cycle:
                client.sent_at = now
                self._send(client.newest, client.cycle)

    def _begin(self, client: _Client, on_answer: OnAnswer) -> int:
        client.cycle = self._counter.next()
        client.sent_at = time.monotonic()
        client.waiting[client.cycle] = on_answer
        if len(client.waiting) > REMEMBERED:
            client.waiting.popitem(last=False)
        self._send(client.newest, client.cycle)
        return client.cycle
