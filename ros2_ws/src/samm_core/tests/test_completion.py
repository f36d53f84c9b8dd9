# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CPL_INF without ROS, on the real model: whose request is decoded, on which embedding, and when its client is told."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from samm_core.cycle import completion
from samm_core.cycle.completion import CompletionLoop, Ended
from samm_core.cycle.request import REMEMBERED_CLIENTS, STILL_WAITING, Request
from samm_core.embedding.cache import EmbeddingCache
from samm_core.embedding.engine import EmbeddingEngine, EncodedSlice
from samm_core.errors import NotReadyError
from samm_core.geometry import Plane
from samm_core.latency.events import Outcome
from samm_core.mask_codec import decode_mask
from samm_core.models.base import Embedding
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import Volume, Window

LIMIT_S = 60
BOX = PixelPrompt(box_xyxy=np.array([36, 110, 82, 162]))


@pytest.fixture
def engine(lite_medsam, mni: Volume) -> Iterator[EmbeddingEngine]:
    engine = EmbeddingEngine(EmbeddingCache(2**30))
    engine.set_model(lite_medsam)
    engine.load(mni)
    yield engine
    engine.close()


class Doorstep:
    """Lets the encoder of a model through one slice at a time; a slice that an earlier test has encoded, at once."""

    _made: ClassVar[dict[bytes, Embedding]] = {}

    def __init__(self, model: object, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = threading.Semaphore(0)
        self.through = threading.Semaphore(0)
        self.images: list[np.ndarray] = []
        encode = model.encode

        def wait_and_encode(images: list[np.ndarray], ahead: bool = False) -> list:
            self.images += images
            self.encoding.release()
            assert self.through.acquire(timeout=LIMIT_S)
            for image in images:
                if image.tobytes() not in self._made:
                    (self._made[image.tobytes()],) = encode([image], ahead)
            return [self._made[image.tobytes()] for image in images]

        monkeypatch.setattr(model, "encode", wait_and_encode)


@pytest.fixture
def doorstep(lite_medsam, monkeypatch: pytest.MonkeyPatch) -> Doorstep:
    return Doorstep(lite_medsam, monkeypatch)


@pytest.fixture
def ended() -> queue.SimpleQueue[Ended]:
    return queue.SimpleQueue()


@pytest.fixture
def loop(engine: EmbeddingEngine, ended: queue.SimpleQueue[Ended]) -> Iterator[CompletionLoop]:
    loop = CompletionLoop(engine, ended.put)
    yield loop
    loop.close()


def request(volume: Volume, cycle: int, client_id: str = "a", index: int = 35) -> Request:
    shape = volume.geometry.slice_shape(Plane.AXIAL)
    return Request(cycle, client_id, "", ImageId(volume.uid, SliceKey(Plane.AXIAL, index)), shape, BOX)


def mask_of(ended: Ended) -> np.ndarray:
    return decode_mask(ended.answer.data, ended.answer.shape, ended.answer.encoding)


def test_each_request_is_answered_in_the_window_that_was_set_when_it_came(
    loop: CompletionLoop, engine: EmbeddingEngine, doorstep: Doorstep, ended, mni: Volume, lite_medsam
) -> None:
    loop.submit(request(mni, 1))
    assert doorstep.encoding.acquire(timeout=LIMIT_S)
    other = replace(mni, window=Window(mni.window.lower + 20, mni.window.lower + 30))
    engine.load(other)
    loop.submit(request(mni, 1, "b"))
    doorstep.through.release(9)
    answered = {each.request.client_id: each for each in (ended.get(timeout=LIMIT_S) for _ in range(2))}
    for client_id, volume in ("a", mni), ("b", other):
        (embedding,) = lite_medsam.encode([volume.slice_image(Plane.AXIAL, 35)])
        expected = lite_medsam.decode(embedding, BOX).mask
        assert np.array_equal(mask_of(answered[client_id]), expected)
    assert not np.array_equal(doorstep.images[0], doorstep.images[1])


def test_slices_that_a_client_has_left_behind_are_not_encoded(
    loop: CompletionLoop, doorstep: Doorstep, ended, mni: Volume
) -> None:
    for index in range(20):
        loop.submit(request(mni, index + 1, index=30 + index))
        if index == 0:
            assert doorstep.encoding.acquire(timeout=LIMIT_S)
    doorstep.through.release(20)
    outcomes = [ended.get(timeout=LIMIT_S) for _ in range(20)]
    assert [e.outcome for e in outcomes] == [*[Outcome.SUPERSEDED] * 19, Outcome.COMPLETED]
    assert outcomes[-1].request.image.key.index == 49
    assert len(doorstep.images) == 2


def test_a_slice_that_two_clients_wait_for_is_encoded_though_one_goes_on(
    loop: CompletionLoop, doorstep: Doorstep, ended, mni: Volume
) -> None:
    loop.submit(request(mni, 1, "first", index=10))
    assert doorstep.encoding.acquire(timeout=LIMIT_S)
    loop.submit(request(mni, 1, "goes on", index=20))
    loop.submit(request(mni, 1, "stays", index=20))
    loop.submit(request(mni, 2, "goes on", index=30))
    doorstep.through.release(10)
    results = [ended.get(timeout=LIMIT_S) for _ in range(4)]
    completed = {(e.request.client_id, e.request.image.key.index) for e in results if e.answer}
    assert completed == {("first", 10), ("stays", 20), ("goes on", 30)}


def test_nobody_waits_for_ever_behind_somebody_who_asks_for_slice_after_slice(
    engine: EmbeddingEngine, doorstep: Doorstep, mni: Volume
) -> None:
    indices = itertools.count(40)
    engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, next(indices))))
    assert doorstep.encoding.acquire(timeout=LIMIT_S)
    patient = engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, 10)))
    for _ in range(3):
        # Two new ones for each that is encoded.
        for _ in range(2):
            engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, next(indices))))
        doorstep.through.release()
        assert doorstep.encoding.acquire(timeout=LIMIT_S)
    doorstep.through.release(10)
    assert patient.result(timeout=LIMIT_S)
    waiting = [np.array_equal(image, mni.slice_image(Plane.AXIAL, 10)) for image in doorstep.images]
    assert waiting.index(True) <= 3


def test_it_is_busy_while_a_prompt_is_decoded_and_at_rest_after_it(
    loop: CompletionLoop,
    ended: queue.SimpleQueue[Ended],
    lite_medsam,
    mni: Volume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task over the volume makes way by it."""
    decode_all, busy = lite_medsam.decode_all, []

    def decode(*arguments: object) -> list:
        busy.append(loop.is_busy)
        return decode_all(*arguments)

    monkeypatch.setattr(lite_medsam, "decode_all", decode)
    assert not loop.is_busy
    loop.submit(request(mni, 1))
    assert ended.get(timeout=LIMIT_S).answer and busy == [True]
    loop.close()
    assert not loop.is_busy


def test_clients_who_choose_differently_on_one_slice_get_each_their_mask(
    loop: CompletionLoop, ended, mni: Volume, lite_medsam
) -> None:
    (embedding,) = lite_medsam.encode([mni.slice_image(Plane.AXIAL, 35)])
    prompts = {str(choice): PixelPrompt([[60, 130]], [1], choice=choice) for choice in range(4)}
    for client_id, prompt in prompts.items():
        loop.submit(replace(request(mni, 1, client_id), prompt=prompt))
    answers = {each.request.client_id: each for each in (ended.get(timeout=LIMIT_S) for _ in prompts)}
    assert "has no choice 3; give 0 to 2" in answers.pop("3").answer.error
    for client_id, answer in answers.items():
        assert answer.answer.choices == 3
        assert np.array_equal(mask_of(answer), lite_medsam.decode(embedding, prompts[client_id]).mask)
    assert len({answer.answer.score for answer in answers.values()}) == 3


class NotReady:
    """A source whose embedding node is away."""

    def request(self, image: ImageId) -> Future[EncodedSlice]:
        future: Future[EncodedSlice] = Future()
        future.set_exception(NotReadyError("The embedding node is away."))
        return future


def test_a_client_whose_requests_are_dropped_for_long_is_told_why_once(
    ended, mni: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = CompletionLoop(NotReady(), ended.put)
    loop.submit(request(mni, 1))
    assert ended.get(timeout=LIMIT_S).outcome == Outcome.DROPPED
    monkeypatch.setattr(completion, "NOT_READY_S", 0.0)
    outcomes = []
    for _ in range(3):
        loop.submit(request(mni, 1))
        outcomes.append(ended.get(timeout=LIMIT_S))
    loop.close()
    assert [e.outcome for e in outcomes] == [Outcome.REFUSED, Outcome.DROPPED, Outcome.DROPPED]
    assert outcomes[0].answer.error == f"{STILL_WAITING} The embedding node is away."


class Never:
    """A source that is busy for ever."""

    def __init__(self) -> None:
        self.futures: list[Future[EncodedSlice]] = []

    def request(self, image: ImageId) -> Future[EncodedSlice]:
        self.futures.append(Future())
        return self.futures[-1]


def test_names_at_random_fill_neither_the_loop_nor_its_source(ended, mni: Volume) -> None:
    source = Never()
    loop = CompletionLoop(source, ended.put)
    for number in range(3 * REMEMBERED_CLIENTS):
        loop.submit(request(mni, 1, f"random {number}"))
    loop.close()
    dropped = [ended.get(timeout=LIMIT_S) for _ in range(2 * REMEMBERED_CLIENTS)]
    assert {e.outcome for e in dropped} == {Outcome.DROPPED}
    assert sum(not future.cancelled() for future in source.futures) == REMEMBERED_CLIENTS
