# SPDX-License-Identifier: Apache-2.0
"""Embeds slices of one volume with one model: what is asked for at once, the rest as time allows."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..cycle import SliceId
from ..errors import CacheError, PromptError
from ..geometry import Plane
from ..volume import Volume
from .cache import EmbeddingCache, EmbeddingKey, EmbeddingStore, scope_of
from .schedule import SweepOrder

if TYPE_CHECKING:
    from ..models.base import Embedding, SegmentationModel

# The sweep begins no slice so soon after a prompt: where priorities do not decide (a GPU), it is then out of the way.
SWEEP_PAUSE_S = 0.25
_RATE_WINDOW = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedSlice:
    """An embedding and the model that made it: only that model's decoder may read it."""

    embedding: Embedding
    model: SegmentationModel


class EmbeddingSource(Protocol):
    """Where CPL_INF gets embeddings from: the engine in its own process, or another process."""

    def request(self, slice_id: SliceId) -> Future[EncodedSlice]:
        """The slice's embedding, encoded first when it has to be.

        The future raises NotReadyError for now, another SammError when there is none.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """How much of the volume is embedded; done and total are by plane."""

    volume_uid: str
    model: str
    device: str
    done: dict[Plane, int]
    total: dict[Plane, int]
    rate: float
    sweeping: bool


@dataclass(frozen=True, eq=False)
class _Session:
    """What one embedding depends on. A new volume, window or model is a new session; work of an old one is dropped."""

    volume: Volume
    model: SegmentationModel
    scope: str

    def key(self, plane: Plane, index: int) -> EmbeddingKey:
        return EmbeddingKey(self.scope, plane, index)


class EmbeddingEngine:
    """The encoder, its cache and its order of work. Thread-safe.

    One thread encodes what is asked for; as many as the model wants embed ahead.
    on_progress is called from them after every slice; it must return at once.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        store: EmbeddingStore | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.cache = cache
        self.on_progress = on_progress
        self._store = store
        self._model: SegmentationModel | None = None
        self._volume: Volume | None = None
        self._session: _Session | None = None
        self._wanted: dict[tuple[Plane, int], Future[EncodedSlice]] = {}
        self._sweep: SweepOrder | None = None
        self._finished_at: deque[float] = deque(maxlen=_RATE_WINDOW)
        self._last_wanted = 0.0
        self._asked = False
        self._in_flight = 0
        self._closed = False
        self._wake = threading.Condition()
        self._threads = [threading.Thread(target=self._answer, name="embedding", daemon=True)]
        self._threads[0].start()

    @property
    def model(self) -> SegmentationModel | None:
        return self._model

    @property
    def volume(self) -> Volume | None:
        return self._volume

    def set_model(self, model: SegmentationModel) -> None:
        """Answer with this model from now on; the embeddings of the former one are dropped."""
        self.cache.clear()
        self._begin(self._volume, model)
        while len(self._threads) <= model.sweepers:
            thread = threading.Thread(
                target=self._embed_ahead, args=(len(self._threads),), name="sweep", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def set_volume(self, volume: Volume) -> None:
        """Answer on this volume from now on; embeddings of others stay while the budget holds them."""
        self._begin(volume, self._model)

    def request(self, slice_id: SliceId) -> Future[EncodedSlice]:
        """The slice's embedding, before anything else that waits. The future raises PromptError when there is none."""
        future: Future[EncodedSlice] = Future()
        with self._wake:
            session = self._session
            self._last_wanted = time.monotonic()
            if problem := self._objection(session, slice_id):
                future.set_exception(PromptError(problem))
                return future
            place = (slice_id.plane, slice_id.index)
            if self._sweep:
                self._sweep.focus(*place)
            if embedding := self.cache.get(session.key(*place)):
                future.set_result(EncodedSlice(embedding, session.model))
                return future
            # Put last = encoded first: the newest wish is the one its user is looking at.
            future = self._wanted.pop(place, future)
            self._wanted[place] = future
            self._wake.notify_all()
            return future

    def sweep(self, planes: Iterable[Plane]) -> None:
        """Embed all slices of these planes as time allows; replaces a sweep under way."""
        with self._wake:
            if self._session is None:
                raise PromptError("There is nothing to embed; load a volume first.")
            counts = {
                plane: self._session.volume.geometry.slice_count(plane) for plane in sorted(set(planes))
            }
            self._sweep = SweepOrder(counts)
            for plane in counts:
                for index in self.cache.indices(self._session.scope, plane):
                    self._sweep.discard(plane, index)
            self._wake.notify_all()

    def cancel_sweep(self) -> None:
        """Stop after the slice under way; what is embedded stays."""
        with self._wake:
            self._sweep = None

    def progress(self) -> Progress | None:
        """How far the volume is; None while there is no volume or model."""
        with self._wake:
            session, sweeping = self._session, bool(self._sweep) or self._in_flight > 0
            finished = list(self._finished_at)
        if session is None:
            return None
        done = {plane: len(self.cache.indices(session.scope, plane)) for plane in Plane}
        total = {plane: session.volume.geometry.slice_count(plane) for plane in Plane}
        recent = [t for t in finished if time.monotonic() - t < 10]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        return Progress(
            session.volume.uid, session.model.name, str(session.model.device), done, total, rate, sweeping
        )

    def close(self) -> None:
        """End the threads; what waits is refused."""
        with self._wake:
            self._closed = True
            self._refuse_waiting("The embedding engine is shutting down.")
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _begin(self, volume: Volume | None, model: SegmentationModel | None) -> None:
        with self._wake:
            self._volume, self._model = volume, model
            # Whoever loads a volume prompts next: the sweep must not be at a slice of its own by then.
            self._last_wanted = time.monotonic()
            self._sweep = None
            self._finished_at.clear()
            self._session = None
            if volume and model:
                self._session = _Session(
                    volume, model, scope_of(volume.uid, volume.window, model.fingerprint)
                )
            self._refuse_waiting("The volume or the model was changed before the slice was embedded.")
            self._wake.notify_all()

    def _refuse_waiting(self, why: str) -> None:
        waiting, self._wanted = self._wanted, {}
        for future in waiting.values():
            future.set_exception(PromptError(why))

    @staticmethod
    def _objection(session: _Session | None, slice_id: SliceId) -> str:
        if session is None:
            return "There is nothing to segment; load a volume first."
        if slice_id.volume_uid != session.volume.uid:
            return f"The volume {slice_id.volume_uid[:8]} is not loaded; {session.volume.uid[:8]} is."
        if not session.volume.geometry.contains_slice(slice_id.plane, slice_id.index):
            last = session.volume.geometry.slice_count(slice_id.plane) - 1
            return f"There is no {slice_id}; {session.volume.name} has slices 0 to {last} in that plane."
        return ""

    def _answer(self) -> None:
        """The thread that encodes what is asked for, the newest wish first."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                session = self._session
                place, future = self._wanted.popitem()
                self._asked = True
                if self._sweep:
                    self._sweep.discard(*place)
            try:
                self._finish(session, [place], self._embed(session, [place]), future)
            except Exception as error:  # the thread must outlive whatever one slice does
                logger.exception("Embedding %s slice %d failed", place[0].name.lower(), place[1])
                future.set_exception(PromptError(f"The slice could not be embedded: {error}"))
            finally:
                with self._wake:
                    self._asked = False
                    self._wake.notify_all()

    def _embed_ahead(self, number: int) -> None:
        """A thread of the sweep: encodes what nobody waits for, whenever nobody waits."""
        while True:
            with self._wake:
                while not (places := self._places_ahead(number)):
                    if self._closed:
                        return
                    self._wake.wait(self._pause() or None if self._sweep else None)
                session = self._session
                self._in_flight += len(places)
            embeddings: list[Embedding] = []
            try:
                embeddings = self._embed(session, places, ahead=True)
            except Exception:
                logger.exception("Embedding %d slices ahead failed", len(places))
            with self._wake:
                self._in_flight -= len(places)
            self._finish(session, places[: len(embeddings)], embeddings)

    def _finish(
        self,
        session: _Session,
        places: list[tuple[Plane, int]],
        embeddings: list[Embedding],
        future: Future[EncodedSlice] | None = None,
    ) -> None:
        answered = [(future, embeddings[0])] if future else []
        with self._wake:
            self._finished_at.extend([time.monotonic()] * len(places))
            # It may have been asked for while it was worked on: by the sweep, or for an earlier prompt of a drag.
            if session is self._session:
                for place, embedding in zip(places, embeddings, strict=True):
                    if waiting := self._wanted.pop(place, None):
                        answered.append((waiting, embedding))
            if answered:
                # Its decoding and its user's next prompt come now.
                self._last_wanted = time.monotonic()
        for waiting, embedding in answered:
            waiting.set_result(EncodedSlice(embedding, session.model))
        self.on_progress()

    def _pause(self) -> float:
        return max(0.0, self._last_wanted + SWEEP_PAUSE_S - time.monotonic())

    def _places_ahead(self, number: int) -> list[tuple[Plane, int]]:
        """What thread `number` of the sweep encodes next, up to a batch; nothing while somebody waits."""
        session = self._session
        if self._closed or session is None or number > session.model.sweepers or not self._sweep:
            return []
        if self._wanted or self._asked or self._pause() > 0:
            return []
        places = []
        while len(places) < session.model.batch and (place := self._sweep.pop()):
            places.append(place)
        if not places or not self._has_room(len(places) + self._in_flight):
            # Going on would push out the very slices that the sweep began with.
            self._sweep = None
            self.on_progress()
            return []
        return places

    def _has_room(self, slices: int) -> bool:
        held = len(self.cache)
        return not held or self.cache.has_room(slices * self.cache.nbytes // held)

    def _embed(
        self, session: _Session, places: list[tuple[Plane, int]], ahead: bool = False
    ) -> list[Embedding]:
        """The embeddings of these slices, read from disk or else encoded, in the cache."""
        keys = [session.key(*place) for place in places]
        embeddings = [self._load(key, session.model) for key in keys]
        missing = [i for i, embedding in enumerate(embeddings) if embedding is None]
        images = [session.volume.slice_image(*places[i]) for i in missing]
        for i, embedding in zip(missing, session.model.encode(images, ahead), strict=True):
            self._save(keys[i], embedding)
            embeddings[i] = embedding
        return [self.cache.put(key, embedding) for key, embedding in zip(keys, embeddings, strict=True)]

    def _load(self, key: EmbeddingKey, model: SegmentationModel) -> Embedding | None:
        if not self._store:
            return None
        try:
            return self._store.load(key, model)
        except CacheError as error:
            logger.warning("%s", error)
            return None

    def _save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        if not self._store:
            return
        try:
            self._store.save(key, embedding)
        except CacheError as error:
            # A full disk costs time on the next load, nothing now.
            logger.warning("%s", error)
