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

from .cycle import MAX_CLIENTS, Answer, Request, refusal
from .embedding.engine import EmbeddingSource, EncodedSlice
from .errors import NotReadyError, SammError
from .mask_codec import MaskEncoding, encode_mask
from .trace import Completion, Outcome

if TYPE_CHECKING:
    from .models.base import Embedding, MaskResult, SegmentationModel

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
    A request sent again is answered again, not decoded again.
    """

    def __init__(self, source: EmbeddingSource, on_ended: OnEnded) -> None:
        self._source = source
        self._on_ended = on_ended
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._ready: dict[str, Future[EncodedSlice]] = {}
        self._closed = False
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
                    # Else it keeps its turn: a hand that moves on must not wait longer than one that rests.
                    self._clients.move_to_end(request.client_id)
                self._ready.pop(request.client_id, None)
                self._forget_idle_clients()
        if again:
            # Either it is still being worked on, or its mask was lost on the way.
            if former.answer:
                self._on_ended(Ended(request, former.answer, now, _outcome(former.answer)))
            return
        if former and not former.taken:
            self._on_ended(Ended(former.request, None, now, Outcome.SUPERSEDED))
        embedding = self._source.request(request.slice)
        client.embedding_hit = embedding.done()
        embedding.add_done_callback(lambda future: self._embedded(client, future))

    def close(self) -> None:
        """End the thread after the request under way."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _forget_idle_clients(self) -> None:
        for client_id in [c for c, client in self._clients.items() if client.answer]:
            if len(self._clients) <= MAX_CLIENTS:
                return
            del self._clients[client_id]

    def _embedded(self, client: _Client, future: Future[EncodedSlice]) -> None:
        client_id = client.request.client_id
        with self._wake:
            if self._clients.get(client_id) is client:
                client.embedded_ns = time.monotonic_ns()
                self._ready[client_id] = future
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    return
                together = {self._clients[c]: self._ready.pop(c) for c in self._next()}
                for client in together:
                    client.taken = True
            started_ns = time.monotonic_ns()
            for client, answer, completion in self._answer(together):
                client.answer = answer
                if answer is None:
                    with self._wake:
                        # Unknown again, so that the same cycle, sent again, is begun again.
                        if self._clients.get(client.request.client_id) is client:
                            del self._clients[client.request.client_id]
                    self._on_ended(Ended(client.request, None, started_ns, Outcome.DROPPED))
                    continue
                self._on_ended(Ended(client.request, answer, started_ns, _outcome(answer), completion))

    def _next(self) -> list[str]:
        """The client that has waited longest; with it, where that is faster, those who wait for the same slice."""
        first = next(c for c in self._clients if c in self._ready)
        future, slice_id = self._ready[first], self._clients[first].request.slice
        if future.exception() or not future.result().model.decodes_in_batch:
            return [first]
        return [c for c in self._ready if self._clients[c].request.slice == slice_id]

    @staticmethod
    def _answer(
        together: dict[_Client, Future[EncodedSlice]],
    ) -> Iterator[tuple[_Client, Answer | None, Completion | None]]:
        """An answer for each client, None where the source is not ready; prompts on one embedding in one batch."""
        batches: dict[Embedding, tuple[SegmentationModel, list[_Client]]] = {}
        for client, future in together.items():
            try:
                encoded = future.result()
                encoded.model.check_prompt(client.request.prompt)
                batches.setdefault(encoded.embedding, (encoded.model, []))[1].append(client)
            except NotReadyError:
                yield client, None, None
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
        request.slice,
        request.shape,
        model,
        MaskEncoding.BITS_ZLIB,
        encode_mask(result.mask, MaskEncoding.BITS_ZLIB),
        result.score,
    )
