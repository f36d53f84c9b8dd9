# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Embeds images of several sources with one model: what is requested at once, the rest of a volume as time allows."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import CacheError, NotReadyError, PromptError, SammError
from ..geometry import Plane
from ..sources.base import ImageId, ImageSource, SliceKey, not_loaded
from ..sources.volume import Volume
from .cache import GIB, EmbeddingCache, EmbeddingKey, EmbeddingStore, RecentEmbeddings, scope_of
from .schedule import SweepOrder

if TYPE_CHECKING:
    from ..models.base import Embedding, SegmentationModel

# The sweep begins no slice so soon after a prompt: where priorities do not decide (a GPU), it is then out of the way.
SWEEP_PAUSE_S = 0.25
_RATE_WINDOW = 32

_SUSPENDED = "The embedding node is not active."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodedSlice:
    """An embedding and the model that made it: only that model's decoder may read it."""

    embedding: Embedding
    model: SegmentationModel


class EmbeddingSource(Protocol):
    """Where CPL_INF gets embeddings from: the engine in its own process, or another process."""

    def request(self, image: ImageId) -> Future[EncodedSlice]:
        """The image's embedding, encoded first when it has to be.

        The future raises NotReadyError for now, another SammError when there is none.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """Which slices of the volume that was loaded last are embedded, by plane. total: how many there are."""

    volume_uid: str
    model: str
    device: str
    embedded: dict[Plane, set[int]]
    total: dict[Plane, int]
    rate: float
    sweeping: bool

    @property
    def done(self) -> dict[Plane, int]:
        """How many are embedded."""
        return {plane: len(indices) for plane, indices in self.embedded.items()}


class EmbeddingEngine:
    """The encoder, its cache and its order of work. Thread-safe.

    It holds several volumes at once, whose embeddings share the cache's budget. One thread encodes what is requested; as
    many as the model wants embed ahead, of the volume that was loaded last.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        store: EmbeddingStore | None = None,
        on_progress: Callable[[], None] = lambda: None,
        volume_budget: int = 4 * GIB,
        recent: RecentEmbeddings | None = None,
    ) -> None:
        """on_progress is called from its threads after every slice; it must return at once.

        recent: where those that were asked for last outlive this process; None: nowhere.

        volume_budget: bytes of voxels. Beyond it the volumes that were used least recently are let go of, never the one
        that was loaded last.
        """
        self.cache = cache
        self.on_progress = on_progress
        self._volume_budget = volume_budget
        self._store = store
        self._recent = recent
        self._model: SegmentationModel | None = None
        # By uid: the one that was used least recently first.
        self._volumes: OrderedDict[str, Volume] = OrderedDict()
        self._loaded: list[str] = []  # uids, the one that was loaded last at the end
        self._wanted: dict[ImageId, list[Future[EncodedSlice]]] = {}
        self._newest_first = True
        # Images of no volume, the one that waits longest first.
        self._loose: deque[tuple[np.ndarray, Future[EncodedSlice]]] = deque()
        self._loose_first = True
        self._sweep: SweepOrder | None = None
        self._finished_at: deque[float] = deque(maxlen=_RATE_WINDOW)
        self._last_wanted = 0.0
        self._asked = False
        self._in_flight = 0
        self._suspended = False
        self._closed = False
        self._wake = threading.Condition()
        self._threads = [threading.Thread(target=self._answer, name="embedding", daemon=True)]
        self._threads[0].start()

    @property
    def model(self) -> SegmentationModel | None:
        return self._model

    @property
    def volume(self) -> Volume | None:
        """The one that was loaded last."""
        with self._wake:
            return self._volumes[self._loaded[-1]] if self._loaded else None

    @property
    def volumes(self) -> list[Volume]:
        """All that are held, the one that was loaded last first."""
        with self._wake:
            return [self._volumes[uid] for uid in reversed(self._loaded)]

    @property
    def scope(self) -> str:
        """Of what is embedded ahead (see scope_of); empty while there is no volume or model."""
        with self._wake:
            volume, model = self.volume, self._model
            return scope_of(volume.uid, volume.window, model.fingerprint) if volume and model else ""

    def set_model(self, model: SegmentationModel) -> None:
        """Answer with this model from now on; the embeddings of the former one are dropped."""
        self.cache.clear()
        with self._wake:
            self._model = model
            self._start_anew(NotReadyError("The model was changed before the slice was embedded."))
        while len(self._threads) <= model.sweepers:
            thread = threading.Thread(
                target=self._embed_ahead, args=(len(self._threads),), name="sweep", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def load(self, volume: Volume) -> None:
        """Answer on this volume too; it is the one that was loaded last. Loaded again, it has the window that it brings."""
        with self._wake:
            self._volumes[volume.uid] = volume
            self._volumes.move_to_end(volume.uid)
            self._loaded = [uid for uid in self._loaded if uid != volume.uid] + [volume.uid]
            self._let_go_beyond_budget()
            self._start_anew()

    def let_go(self, uid: str) -> None:
        """Hold this volume no longer, unless it is the one that was loaded last; its embeddings stay."""
        with self._wake:
            if uid in self._volumes and uid != self._loaded[-1]:
                self._let_go(uid)

    @property
    def is_suspended(self) -> bool:
        return self._suspended

    def suspend(self) -> None:
        """Embed nothing until `resume`, and tell whoever waits to ask again; volume, model and embeddings stay."""
        with self._wake:
            self._suspended = True
            self._sweep = None
            self._refuse_waiting(NotReadyError(_SUSPENDED))

    def resume(self) -> None:
        """Embed again what is asked for."""
        with self._wake:
            self._suspended = False

    def release(self) -> None:
        """Let go of the volumes, the model and all embeddings; the engine can be given others."""
        with self._wake:
            self._volumes.clear()
            self._loaded.clear()
            self._model = None
            self._start_anew(PromptError("The volume was let go of before the slice was embedded."))
        self.cache.clear()

    def request(self, image: ImageId) -> Future[EncodedSlice]:
        """The image's embedding, before anything that nobody waits for; cancel the future to wait for it no longer.

        The future raises PromptError when there is none, and NotReadyError when the same request may be answered later.
        """
        future: Future[EncodedSlice] = Future()
        with self._wake:
            self._last_wanted = time.monotonic()
            if self._suspended:
                future.set_exception(NotReadyError(_SUSPENDED))
                return future
            if problem := self._problem(image):
                future.set_exception(PromptError(problem))
                return future
            volume, model = self._volumes[image.source], self._model
            self._volumes.move_to_end(image.source)
            image = image.in_window(volume.window)
            if self._sweep and volume is self.volume:
                self._sweep.focus(image.key.plane, image.key.index)
            if embedding := self.cache.get(_key(image, model)):
                self._note(image, embedding, model)
                future.set_result(EncodedSlice(embedding, model))
                return future
            others = self._wanted.pop(image, [])
            self._wanted[image] = [*(f for f in others if not f.cancelled()), future]
            self._wake.notify_all()
            return future

    def encode(self, image: np.ndarray) -> Future[EncodedSlice]:
        """The embedding of an image, (H, W, 3) uint8, of no volume, such as a live frame. It is not kept.

        It takes turns with what is requested. The future raises as that of `request` does.
        """
        future: Future[EncodedSlice] = Future()
        with self._wake:
            if self._suspended:
                future.set_exception(NotReadyError(_SUSPENDED))
            elif self._model is None:
                future.set_exception(NotReadyError("No model is loaded yet."))
            else:
                self._last_wanted = time.monotonic()
                self._loose.append((image, future))
                self._wake.notify_all()
        return future

    def sweep(self, planes: Iterable[Plane]) -> None:
        """Embed all slices of these planes as time allows, of the volume loaded last; replaces a sweep under way."""
        with self._wake:
            volume = self.volume
            if volume is None or self._model is None:
                raise PromptError("There is nothing to embed; load a volume first.")
            counts = {plane: volume.geometry.slice_count(plane) for plane in sorted(set(planes))}
            self._sweep = SweepOrder(counts)
            for plane in counts:
                for index in self.cache.indices(self.scope, plane):
                    self._sweep.discard(plane, index)
            self._wake.notify_all()

    def cancel_sweep(self) -> None:
        """Stop after the slice under way; what is embedded stays."""
        with self._wake:
            self._sweep = None

    def progress(self) -> Progress | None:
        """How far the volume that was loaded last is; None while there is no volume or model."""
        with self._wake:
            volume, model, scope = self.volume, self._model, self.scope
            sweeping = bool(self._sweep) or self._in_flight > 0
            finished = list(self._finished_at)
        if volume is None or model is None:
            return None
        embedded = {plane: self.cache.indices(scope, plane) for plane in Plane}
        total = {plane: volume.geometry.slice_count(plane) for plane in Plane}
        recent = [t for t in finished if time.monotonic() - t < 10]
        rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        return Progress(volume.uid, model.name, str(model.device), embedded, total, rate, sweeping)

    def close(self, timeout_s: float | None = None) -> bool:
        """End the threads; what waits is refused.

        Whether they ended within `timeout_s` (None: they are waited for): a slice under way cannot be
        interrupted.
        """
        with self._wake:
            self._closed = True
            self._sweep = None
            self._refuse_waiting(NotReadyError("The embedding engine is shutting down."))
            self._wake.notify_all()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start_anew(self, refuse: SammError | None = None) -> None:
        """Another volume or model is there: what is embedded ahead is of another kind, and who waits may be refused."""
        # Whoever loads a volume prompts next: the sweep must not be at a slice of its own by then.
        self._last_wanted = time.monotonic()
        self._sweep = None
        self._finished_at.clear()
        if refuse:
            self._refuse_waiting(refuse)
        self._wake.notify_all()

    def _let_go_beyond_budget(self) -> None:
        held = sum(volume.voxels.nbytes for volume in self._volumes.values())
        for uid in list(self._volumes):
            if held <= self._volume_budget or uid == self._loaded[-1]:
                continue
            held -= self._volumes[uid].voxels.nbytes
            self._let_go(uid)

    def _let_go(self, uid: str) -> None:
        del self._volumes[uid]
        self._loaded.remove(uid)
        for image in [image for image in self._wanted if image.source == uid]:
            _fail(self._wanted.pop(image), PromptError(not_loaded(uid)))

    def _refuse_waiting(self, error: SammError) -> None:
        waiting, self._wanted = self._wanted, {}
        loose, self._loose = self._loose, deque()
        for futures in (*waiting.values(), [future for _, future in loose]):
            _fail(futures, error)

    def _problem(self, image: ImageId) -> str:
        if self._model is None or not self._volumes:
            return "There is nothing to segment; load a volume first."
        volume = self._volumes.get(image.source)
        return volume.problem(image.key) if volume else not_loaded(image.source)

    def _answer(self) -> None:
        """Encode what is requested, on a thread of its own.

        The newest request, which its user has just made, and the one that has waited longest take turns, so that nobody
        waits for ever behind somebody who requests slice after slice.
        """
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """Encode what comes next; False when the engine was closed. On return, nothing here holds a volume or model."""
        with self._wake:
            self._wake.wait_for(lambda: self._wanted or self._loose or self._closed)
            if self._closed:
                return False
            self._loose_first = not self._loose_first
            is_loose = bool(self._loose) and (self._loose_first or not self._wanted)
        if is_loose:
            self._encode_loose()
        else:
            self._answer_requested()
        return True

    def _encode_loose(self) -> None:
        """Encode the image of no volume that has waited longest."""
        with self._wake:
            if not self._loose:
                return
            (image, future), model = self._loose.popleft(), self._model
            self._asked = True
        try:
            if future.set_running_or_notify_cancel():
                model = model.in_background()
                future.set_result(EncodedSlice(model.encode([image])[0], model))
        except Exception as error:  # the thread must outlive whatever one image does
            logger.exception("Embedding an image failed")
            _fail([future], PromptError(f"The image could not be embedded: {error}"))
        finally:
            with self._wake:
                self._asked = False
                self._last_wanted = time.monotonic()
                self._wake.notify_all()

    def _answer_requested(self) -> None:
        """Encode the slice whose turn it is."""
        with self._wake:
            if not self._wanted:
                return
            image = next(reversed(self._wanted) if self._newest_first else iter(self._wanted))
            futures = [f for f in self._wanted.pop(image) if f.set_running_or_notify_cancel()]
            if not futures:
                return
            volume, model = self._volumes[image.source], self._model
            self._newest_first = not self._newest_first
            self._asked = True
            if self._sweep and volume is self.volume and image.key.window == volume.window:
                self._sweep.discard(image.key.plane, image.key.index)
        try:
            self._finish(model, [image], self._embed(volume, model, [image]), futures)
        except Exception as error:  # the thread must outlive whatever one slice does
            logger.exception("Embedding %s failed", image)
            _fail(futures, PromptError(f"The slice could not be embedded: {error}"))
        finally:
            with self._wake:
                self._asked = False
                self._wake.notify_all()

    def _embed_ahead(self, number: int) -> None:
        """A thread of the sweep: encodes what nobody waits for, whenever nobody waits."""
        while self._embed_next(number):
            pass

    def _embed_next(self, number: int) -> bool:
        """Encode what comes next in the sweep; False when the engine was closed."""
        with self._wake:
            while not (images := self._images_ahead(number)):
                if self._closed:
                    return False
                self._wake.wait(self._pause() or None if self._sweep else None)
            volume, model = self.volume, self._model
            self._in_flight += len(images)
        embeddings: list[Embedding] = []
        try:
            embeddings = self._embed(volume, model, images, ahead=True)
        except Exception:
            logger.exception("Embedding %d slices ahead failed", len(images))
        with self._wake:
            self._in_flight -= len(images)
        self._finish(model, images[: len(embeddings)], embeddings)
        return True

    def _finish(
        self,
        model: SegmentationModel,
        images: list[ImageId],
        embeddings: list[Embedding],
        futures: Sequence[Future[EncodedSlice]] = (),
    ) -> None:
        answered: list[tuple[Future[EncodedSlice], ImageId, Embedding]] = []
        with self._wake:
            self._finished_at.extend([time.monotonic()] * len(images))
            is_overtaken = model is not self._model
            if is_overtaken:
                # What was finished after its model was let go of must not stay in memory.
                self.cache.remove(_key(image, model) for image in images)
            else:
                answered = [(future, images[0], embeddings[0]) for future in futures]
                # It may have been requested while it was worked on: by the sweep, or for an earlier prompt of a drag.
                for image, embedding in zip(images, embeddings, strict=True):
                    waiting = self._wanted.pop(image, [])
                    answered += [(f, image, embedding) for f in waiting if f.set_running_or_notify_cancel()]
            if answered:
                # Its decoding and its user's next prompt come now.
                self._last_wanted = time.monotonic()
        if is_overtaken:
            _fail(futures, NotReadyError("The model was changed before the slice was embedded."))
        for waiting, image, embedding in answered:
            waiting.set_result(EncodedSlice(embedding, model))
            self._note(image, embedding, model)
        self.on_progress()

    def _pause(self) -> float:
        return max(0.0, self._last_wanted + SWEEP_PAUSE_S - time.monotonic())

    def _images_ahead(self, number: int) -> list[ImageId]:
        """What thread `number` of the sweep encodes next, up to a batch; nothing while somebody waits."""
        volume, model = self.volume, self._model
        if self._closed or volume is None or model is None or number > model.sweepers or not self._sweep:
            return []
        if self._wanted or self._loose or self._asked or self._pause() > 0:
            return []
        images = []
        while len(images) < model.batch and (place := self._sweep.pop()):
            images.append(ImageId(volume.uid, SliceKey(*place, volume.window)))
        if not images or not self._has_room(len(images) + self._in_flight):
            # Going on would push out the very slices that the sweep began with.
            self._sweep = None
            self.on_progress()
            return []
        return images

    def _has_room(self, slices: int) -> bool:
        held = len(self.cache)
        return not held or self.cache.has_room(slices * self.cache.nbytes // held)

    def _embed(
        self, source: ImageSource, model: SegmentationModel, images: list[ImageId], ahead: bool = False
    ) -> list[Embedding]:
        """The embeddings of these images, read from disk or else encoded, in the cache."""
        embeddings = [self._saved(image, model) for image in images]
        missing = [i for i, embedding in enumerate(embeddings) if embedding is None]
        pixels = [source.image(images[i].key) for i in missing]
        for i, embedding in zip(missing, model.encode(pixels, ahead), strict=True):
            self._save(_key(images[i], model), embedding)
            embeddings[i] = embedding
        keys = [_key(image, model) for image in images]
        return [self.cache.put(key, embedding) for key, embedding in zip(keys, embeddings, strict=True)]

    def _note(self, image: ImageId, embedding: Embedding, model: SegmentationModel) -> None:
        if self._recent:
            self._recent.note(_key(image, model), embedding)

    def _saved(self, image: ImageId, model: SegmentationModel) -> Embedding | None:
        if self._recent and (embedding := self._recent.load(_key(image, model), model)):
            return embedding
        if not self._store:
            return None
        # A saved embedding is named as now, or by an earlier release with the same encoder.
        for fingerprint in (model.fingerprint, *model.former_fingerprints):
            try:
                if embedding := self._store.load(_key_of(image, fingerprint), model):
                    return embedding
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


def _key(image: ImageId, model: SegmentationModel) -> EmbeddingKey:
    return _key_of(image, model.fingerprint)


def _key_of(image: ImageId, fingerprint: str) -> EmbeddingKey:
    """image: its key names a window."""
    scope = scope_of(image.source, image.key.window, fingerprint)
    return EmbeddingKey(scope, image.key.plane, image.key.index)


def _fail(futures: Iterable[Future[EncodedSlice]], error: SammError) -> None:
    for future in futures:
        if future.running() or (not future.done() and future.set_running_or_notify_cancel()):
            future.set_exception(error)
