# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CPL_INF without ROS: decodes the newest request of each client as soon as its slice is embedded."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..embedding.engine import EmbeddingSource, EncodedSlice
from ..errors import NotReadyError, SammError
from ..latency.events import Completion, Outcome
from ..mask_codec import MaskEncoding, encode_mask
from .request import REMEMBERED_CLIENTS, STILL_WAITING, Answer, Request, refusal, remember

if TYPE_CHECKING:
    from ..models.base import Embedding, MaskResult, SegmentationModel

# A decoder's model is loaded by then, and an embedding node that was restarted is back.
NOT_READY_S = 20.0

logger = logging.getLogger(__name__)

# Called from the loop's thread, or the submitting one, with the request and how it ended.
OnEnded = Callable[["Ended"], None]


@dataclass(frozen=True, eq=False)
class Ended:
    """How a request ended. started_ns: CLOCK_MONOTONIC when work on it began. completion: where a mask was decoded."""

    request: Request
    answer: Answer | None
    started_ns: int
    outcome: Outcome
    completion: Completion | None = None


@dataclass(eq=False)
class _Client:
    """A client's newest request; taken once it is being decoded, and then its answer."""

    request: Request
    received_ns: int
    embedding: Future[EncodedSlice] | None = None
    embedding_hit: bool = False
    embedded_ns: int = 0
    taken: bool = False
    answer: Answer | None = None

    def completion(self, decode_started_ns: int, decode_ended_ns: int) -> Completion:
        """Of a mask that has just been packed."""
        return Completion(
            self.embedding_hit,
            self.received_ns,
            self.embedded_ns,
            decode_started_ns,
            decode_ended_ns,
            time.monotonic_ns(),
        )


def _outcome(answer: Answer) -> Outcome:
    return Outcome.REFUSED if answer.error else Outcome.COMPLETED


class CompletionLoop:
    """One thread that decodes; at most one request of a client waits, the newest. Thread-safe.

    on_ended gets every request: with its answer (COMPLETED, or REFUSED with the answer's error), or with None
    (SUPERSEDED by a newer request of the same client, or DROPPED when the source is not ready: the client sends again).
    A request sent again is answered again, not decoded again. One that was dropped for NOT_READY_S is told why, once.
    """

    def __init__(self, source: EmbeddingSource, on_ended: OnEnded) -> None:
        self._source = source
        self._on_ended = on_ended
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._ready: dict[str, Future[EncodedSlice]] = {}
        # By client, the cycle that was dropped last, since when it is, and whether its client was told.
        self._not_ready: dict[str, tuple[int, float, bool]] = {}
        self._closed = self._decodes = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="completion", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Answer `request` soon, instead of any older one of its client."""
        now = time.monotonic_ns()
        with self._wake:
            former = self._clients.get(request.client_id)
            if former and request.cycle < former.request.cycle:
                return
            again = former is not None and request.cycle == former.request.cycle
            if not again:
                client = self._clients[request.client_id] = _Client(request, now)
                if former is None or former.taken:
                    # Else it keeps its turn: a client that moves on must not wait longer than one that rests.
                    self._clients.move_to_end(request.client_id)
                self._ready.pop(request.client_id, None)
                forgotten = self._forget_clients()
        if again:
            # Either it is still being worked on, or its mask was lost on the way.
            if former.answer:
                self._on_ended(Ended(request, former.answer, now, _outcome(former.answer)))
            return
        if former and not former.taken:
            self._withdraw(former, Outcome.SUPERSEDED)
        for other in forgotten:
            self._withdraw(other, Outcome.DROPPED)
        client.embedding = self._source.request(request.image)
        client.embedding_hit = client.embedding.done()
        client.embedding.add_done_callback(lambda future: self._embedded(client, future))

    @property
    def is_busy(self) -> bool:
        """Whether a request whose slice is embedded waits, or is being decoded."""
        return bool(self._ready) or self._decodes

    def close(self) -> None:
        """End the thread after the request under way."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _withdraw(self, client: _Client, outcome: Outcome) -> None:
        """Nobody waits for this client's request, or for its slice on its account, any more."""
        if client.embedding:
            client.embedding.cancel()
        self._on_ended(Ended(client.request, None, time.monotonic_ns(), outcome))

    def _forget_clients(self) -> list[_Client]:
        """Forget the oldest beyond REMEMBERED_CLIENTS, those that are answered first; the others of them."""
        idle = [c for c, client in self._clients.items() if client.taken]
        others = [c for c, client in self._clients.items() if not client.taken]
        forgotten = [*idle, *others][: max(0, len(self._clients) - REMEMBERED_CLIENTS)]
        for client_id in forgotten:
            self._ready.pop(client_id, None)
        return [client for client in map(self._clients.pop, forgotten) if not client.taken]

    def _embedded(self, client: _Client, future: Future[EncodedSlice]) -> None:
        client_id = client.request.client_id
        with self._wake:
            if self._clients.get(client_id) is client and not future.cancelled():
                client.embedded_ns = time.monotonic_ns()
                self._ready[client_id] = future
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._decodes = False
                self._wake.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    return
                self._decodes = True
                together = {self._clients[c]: self._ready.pop(c) for c in self._next()}
                for client in together:
                    client.taken = True
            started_ns = time.monotonic_ns()
            for client, answer, completion in self._answer(together):
                if isinstance(answer, NotReadyError):
                    self._drop(client, answer, started_ns)
                    continue
                client.answer = answer
                self._on_ended(Ended(client.request, answer, started_ns, _outcome(answer), completion))
            # It holds the model, which may be let go of while this thread waits.
            together.clear()

    def _drop(self, client: _Client, error: NotReadyError, started_ns: int) -> None:
        request, now = client.request, time.monotonic()
        with self._wake:
            # Unknown again, so that the same cycle, sent again, is begun again.
            if self._clients.get(request.client_id) is client:
                del self._clients[request.client_id]
        cycle, since, told = self._not_ready.get(request.client_id, (0, now, False))
        if cycle != request.cycle:
            since, told = now, False
        tells = not told and now - since >= NOT_READY_S
        remember(self._not_ready, request.client_id, (request.cycle, since, told or tells))
        answer = refusal(request, f"{STILL_WAITING} {error}") if tells else None
        self._on_ended(Ended(request, answer, started_ns, Outcome.REFUSED if tells else Outcome.DROPPED))

    def _next(self) -> list[str]:
        """The client that has waited longest; with it, where that is faster, those who wait for the same slice."""
        first = next(c for c in self._clients if c in self._ready)
        future, image = self._ready[first], self._clients[first].request.image
        if future.exception() or not future.result().model.decodes_in_batch:
            return [first]
        return [c for c in self._ready if self._clients[c].request.image == image]

    @staticmethod
    def _answer(
        together: dict[_Client, Future[EncodedSlice]],
    ) -> Iterator[tuple[_Client, Answer | NotReadyError, Completion | None]]:
        """An answer for each client, or why the source is not ready; prompts on one embedding in one batch."""
        batches: dict[Embedding, tuple[SegmentationModel, list[_Client]]] = {}
        for client, future in together.items():
            try:
                encoded = future.result()
                encoded.model.check_prompt(client.request.prompt)
                batches.setdefault(encoded.embedding, (encoded.model, []))[1].append(client)
            except NotReadyError as error:
                yield client, error, None
            except Exception as error:
                yield client, _failure(client.request, error), None
        for embedding, (model, clients) in batches.items():
            began_ns = time.monotonic_ns()
            try:
                results = model.decode_all(embedding, [client.request.prompt for client in clients])
            except Exception as error:
                for client in clients:
                    yield client, _failure(client.request, error), None
                continue
            decoded_ns = time.monotonic_ns()
            for client, result in zip(clients, results, strict=True):
                answer = _answer_of(client.request, model.name, result)
                yield client, answer, client.completion(began_ns, decoded_ns)


def _failure(request: Request, error: Exception) -> Answer:
    """The loop must outlive whatever one request does."""
    if isinstance(error, SammError):
        return refusal(request, str(error))
    logger.error("Decoding cycle %d failed", request.cycle, exc_info=error)
    return refusal(request, f"The mask could not be computed: {error}")


def _answer_of(request: Request, model: str, result: MaskResult) -> Answer:
    return Answer(
        request.cycle,
        request.client_id,
        request.segment,
        request.image,
        request.shape,
        model,
        MaskEncoding.BITS_ZLIB,
        encode_mask(result.mask, MaskEncoding.BITS_ZLIB),
        result.score,
        choices=len(result.scores),
    )
