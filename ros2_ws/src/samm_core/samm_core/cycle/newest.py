# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SND_INF without ROS: the newest prompt of each client, when it is sent, and what its client is told meanwhile.

A prompt that names a volume which is not loaded yet waits VOLUME_WAIT_S for it, and is then refused. A request that got no
answer is sent again every `resend_after` seconds, until APL_MSK has settled its cycle. After UNANSWERED_S without an answer
its client is told once what is being waited for, in a refusal that begins with STILL_WAITING. It is sent again all the
same, and its mask, should it come, is applied.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import PromptError
from ..sources.base import ImageId, SliceKey, not_loaded
from .request import (
    REMEMBERED_CLIENTS,
    STILL_WAITING,
    Answer,
    ClientPrompt,
    CycleCounter,
    Request,
    UnreadPrompt,
    refusal,
)

if TYPE_CHECKING:
    from ..sources.volume import LoadedVolume

# A prompt is held no longer for the answer to the one before it: that may be lost, or be waiting for its slice.
HOLD_S = 0.25
# A client that prompts faster than masks can be made has so many seconds between its requests, whatever they are for.
APART_S = 0.02
# volume_info may come later than the answer of load_volume, after which a client prompts.
VOLUME_WAIT_S = 5.0
# A server that was restarted is back by then, with its model and the volume.
UNANSWERED_S = 30.0
# APL_MSK says what it settled in an earlier life of SND_INF within this time, or is not there.
STATUS_WAIT_S = 5.0

NOTHING_LOADED = "There is nothing to segment; load a volume first."


# Sends a message; with what came in when it is sent for the first time, and None when it is sent again.
Send = Callable[[Request | Answer, ClientPrompt | None], None]


@dataclass(eq=False)
class _Client:
    """sent: its newest request or refusal. waiting: its newest prompt, while that cannot be sent.

    sent_target, waiting_target: UnreadPrompt.target of the two.
    """

    client_id: str
    sent: Request | Answer | None = None
    sent_target: tuple[object, ...] = ()
    begun_at: float = 0.0
    sent_at: float = 0.0
    answered: int = 0
    told: bool = False
    waiting: ClientPrompt | UnreadPrompt | None = None
    waiting_target: tuple[object, ...] = ()
    request: Request | None = None
    waits_since: float = 0.0
    hindered: bool = False
    # Since when the volume of what was sent is not loaded.
    gone_at: float | None = None

    @property
    def newest(self) -> int:
        return max(self.sent.cycle if self.sent else 0, self.waiting.cycle if self.waiting else 0)


@dataclass
class Outbox:
    """Not thread-safe. Clients beyond REMEMBERED_CLIENTS push out the one that has been silent longest.

    resend_after: seconds. server_is_there: whether anybody takes requests. clock: seconds, steady.
    """

    send: Send
    resend_after: float
    server_is_there: Callable[[], bool] = lambda: True
    clock: Callable[[], float] = time.monotonic
    _clients: OrderedDict[str, _Client] = field(default_factory=OrderedDict)
    _counter: CycleCounter = field(default_factory=CycleCounter)
    _settled: dict[str, tuple[int, int]] | None = None
    _volumes: dict[str, LoadedVolume] = field(default_factory=dict)
    _loaded_last: str = ""
    _no_volume: str = ""
    _no_model: str = ""
    # By uid, what is said of a volume that is being loaded again.
    _lost: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def is_busy(self) -> bool:
        """Whether there is anything for `tick` to do, now or later."""
        return any(
            client.waiting is not None or (client.sent is not None and self._is_pending(client))
            for client in self._clients.values()
        )

    def put(self, prompt: ClientPrompt | UnreadPrompt) -> None:
        """Send `prompt` as soon as it can be answered, instead of any older prompt of its client."""
        client = self._clients.setdefault(prompt.client_id, _Client(prompt.client_id))
        self._clients.move_to_end(prompt.client_id)
        if len(self._clients) > REMEMBERED_CLIENTS:
            self._clients.popitem(last=False)
        if prompt.cycle and prompt.cycle <= client.newest:
            # Sent again by a client that could not know of its arrival, or overtaken by a newer one.
            return
        if former := client.waiting:
            prompt = replace(prompt, overtaken=prompt.overtaken + former.overtaken + 1)
        if not (former and client.hindered):
            # Whoever drags a prompt for a volume that does not come is told, though each waits but a moment.
            client.waits_since = self.clock()
        client.waiting, client.request = prompt, None
        client.waiting_target = prompt.target if isinstance(prompt, UnreadPrompt) else ()
        self._advance(client)

    def answered(self, client_id: str, cycle: int, error: str) -> None:
        """The answer to a client's cycle went by, on its way to APL_MSK."""
        client = self._clients.get(client_id)
        if not client or not client.sent or cycle < client.sent.cycle:
            return
        if error.startswith(STILL_WAITING):
            client.told = True
            return
        client.answered = cycle
        client.sent_at = self.clock()  # APL_MSK has as long to settle it
        self._advance(client)

    def settled(self, cycles: Mapping[str, tuple[int, int]]) -> None:
        """By client, the newest cycle that APL_MSK heard of and the newest that it has applied or refused.

        Its word counts, not the mask's passing by: a mask lost on its last hop is sent again too.
        """
        self._settled = dict(cycles)

    def load(
        self, volumes: Sequence[LoadedVolume], lost: Sequence[LoadedVolume] = (), loaded_last: str = ""
    ) -> None:
        """The server answers on these volumes now.

        lost: those that a server which was restarted is loading again; what is for them is held. loaded_last: uid of the
        one that prompts are for which name none; empty: the first of `volumes`.
        """
        self._volumes = {volume.uid: volume for volume in volumes}
        self._lost = {
            volume.uid: f"{volume.name} is being loaded again on a server that was restarted."
            for volume in lost
        }
        self._loaded_last, self._no_volume = loaded_last or volumes[0].uid, ""
        self._note_gone()
        for client in self._clients.values():
            # A prompt that names no volume is for another now.
            client.request, client.sent_target = None, ()
            self._advance(client)

    def unload(self, why: str) -> None:
        """The server has no volume; why, in a sentence."""
        self._volumes, self._lost, self._loaded_last, self._no_volume = {}, {}, "", why
        self._note_gone()

    def _note_gone(self) -> None:
        """Since when each client's request is for a volume that the server does not have."""
        for client in self._clients.values():
            gone = isinstance(client.sent, Request) and client.sent.image.source not in self._volumes
            client.gone_at = (client.gone_at or self.clock()) if gone else None

    def lack_model(self, why: str) -> None:
        """The server has no model; why, in a sentence. Empty: it has one, or one is on its way."""
        self._no_model = why

    def tick(self) -> None:
        """Call often while `is_busy`."""
        for client in list(self._clients.values()):
            self._advance(client)
            if client.sent and self._is_pending(client):
                self._look_after(client, client.sent)

    def _advance(self, client: _Client) -> None:
        """Send what waits, or refuse it, or leave it waiting."""
        prompt, sent, now = client.waiting, client.sent, self.clock()
        if prompt is None or (sent and sent.cycle > client.answered and now - client.begun_at < APART_S):
            return
        if client.waiting_target and client.waiting_target == client.sent_target and self._is_awaited(client):
            return
        if isinstance(prompt, UnreadPrompt):
            # What cannot be read is refused to whom it was known to be of.
            known = {"client_id": prompt.client_id, "cycle": prompt.cycle, "overtaken": prompt.overtaken}
            prompt = client.waiting = replace(prompt.read(), **known)
        if why := prompt.error():
            self._refuse(client, why)
            return
        patience_s, why = self._hindrance(prompt)
        client.hindered = patience_s > 0
        if client.hindered and now - client.waits_since < patience_s:
            return
        if why:
            self._refuse(client, why)
            return
        try:
            client.request = client.request or self._request(prompt)
        except PromptError as error:
            self._refuse(client, str(error))
            return
        if not self._is_worked_on(client, client.request):
            self._begin(client, replace(client.request, cycle=self._number(client)))

    def _hindrance(self, prompt: ClientPrompt) -> tuple[float, str]:
        """How long `prompt` waits, seconds, and why it is refused then; nothing: it can be sent."""
        if self._no_model:
            return 0.0, self._no_model
        if why := self._lost.get(prompt.image.source or self._loaded_last):
            return UNANSWERED_S, why
        if not self._volumes:
            if self._no_volume:
                # One that is named is on its way: its client knows it already.
                return VOLUME_WAIT_S if prompt.image.source else 0.0, self._no_volume
            if self.server_is_there():
                return VOLUME_WAIT_S, "The server is still loading its model; prompt again, or see its log."
            return VOLUME_WAIT_S, "No server has said yet which volume is loaded; is one running?"
        if prompt.image.source and prompt.image.source not in self._volumes:
            return VOLUME_WAIT_S, not_loaded(prompt.image.source)
        if not prompt.cycle and self._settled is None and self.clock() - self._started < STATUS_WAIT_S:
            # A number below what APL_MSK has settled would never be applied.
            return STATUS_WAIT_S, ""
        return 0.0, ""

    def _request(self, prompt: ClientPrompt) -> Request:
        """Raises PromptError for a prompt that is not on its volume."""
        volume = self._volumes[prompt.image.source or self._loaded_last]
        index, pixels = prompt.prompt.on_slice(volume.geometry)
        plane = prompt.prompt.plane
        image = ImageId(volume.uid, SliceKey(plane, index, prompt.image.key.window or volume.window))
        shape = volume.geometry.slice_shape(plane)
        return Request(prompt.cycle, prompt.client_id, prompt.segment, image, shape, pixels)

    def _is_worked_on(self, client: _Client, request: Request) -> bool:
        """Whether the server is about to answer this client's last request, for the same mask as `request`.

        Then sending would only cost processor time, which the decoder could use: the answer calls for the next.
        """
        sent = client.sent
        return (
            isinstance(sent, Request)
            and (sent.image, sent.segment) == (request.image, request.segment)
            and self._is_awaited(client)
        )

    def _is_awaited(self, client: _Client) -> bool:
        """Whether the answer to this client's last request may come any moment."""
        sent = client.sent
        return (
            isinstance(sent, Request)
            and sent.cycle > max(client.answered, self._cycles_of(client)[1])
            and self.clock() - client.sent_at < HOLD_S
        )

    def _number(self, client: _Client) -> int:
        """The client's own number, or one beyond all of its own: also where the clock was set back since the last start."""
        beyond = max(client.newest, *self._cycles_of(client)) + 1
        return client.waiting.cycle or min(max(self._counter.next(), beyond), 2**64 - 1)

    def _refuse(self, client: _Client, why: str) -> None:
        prompt = client.waiting
        image = replace(prompt.image, source=prompt.image.source or self._loaded_last)
        number = self._number(client)
        self._begin(client, Answer(number, prompt.client_id, prompt.segment, image, (0, 0), error=why))

    def _begin(self, client: _Client, message: Request | Answer) -> None:
        """Send the client's newest; what was sent before it is no longer waited for."""
        prompt, client.waiting, client.request = client.waiting, None, None
        client.sent, client.told, client.hindered = message, False, False
        client.sent_target = client.waiting_target
        client.begun_at = client.sent_at = self.clock()
        client.gone_at = None
        self.send(message, prompt)

    def _cycles_of(self, client: _Client) -> tuple[int, int]:
        return (self._settled or {}).get(client.client_id, (0, 0))

    def _is_pending(self, client: _Client) -> bool:
        # What settled a cycle whose client was told is that telling, until its mask goes by.
        done = client.answered if client.told else self._cycles_of(client)[1]
        return client.sent.cycle > done

    def _look_after(self, client: _Client, sent: Request | Answer) -> None:
        """What was sent and is not settled is sent again, refused, or its client told what it waits for."""
        now = self.clock()
        lost = sent.image.source in self._lost
        if isinstance(sent, Request) and sent.image.source not in self._volumes and not lost:
            # Its volume was let go.
            if now - (client.gone_at or now) >= VOLUME_WAIT_S:
                client.sent, client.told = (
                    refusal(sent, self._no_volume or not_loaded(sent.image.source)),
                    False,
                )
                self._resend(client)
            return
        unanswered = isinstance(sent, Request) and sent.cycle > client.answered and not client.told
        if unanswered and now - client.begun_at >= UNANSWERED_S:
            client.told = True
            self.send(refusal(sent, f"{STILL_WAITING} {self._waited_for(sent)}"), None)
        if not lost and now - client.sent_at >= self.resend_after:
            self._resend(client)

    def _resend(self, client: _Client) -> None:
        client.sent_at = self.clock()
        self.send(client.sent, None)

    def _waited_for(self, sent: Request) -> str:
        if why := self._lost.get(sent.image.source) or self._no_model:
            return why
        if not self.server_is_there():
            return "No server takes requests: it is starting, or see its log."
        return f"The server has not answered for {UNANSWERED_S:g} s; see its log."
