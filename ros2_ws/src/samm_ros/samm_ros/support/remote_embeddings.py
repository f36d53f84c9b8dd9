# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Embeddings for a CPL_INF in another process or on another host than the encoder: each is fetched once and kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from samm_msgs.msg import EmbeddingRequest, ModelInfo, SliceEmbedding

from samm_core.embedding.cache import GIB, EmbeddingCache, EmbeddingKey, scope_of
from samm_core.embedding.engine import EncodedSlice
from samm_core.errors import ModelError, NotReadyError, PromptError, SammError
from samm_core.models import BACKEND_NAMES, load_model
from samm_core.sources.base import ImageId

from .. import conversions, topics
from . import parameters

if TYPE_CHECKING:
    from samm_core.models.base import SegmentationModel

# How often a request without an answer is sent again: an embedding node that was restarted no longer knows it.
_REPEAT_S = 0.5

_CHANGED = "The model was changed before the slice was embedded."

# What is requested: an image, for a model by its name.
_Requested = tuple[ImageId, str]


class RemoteEmbeddings:
    """An EmbeddingSource that requests embeddings from the embedding node. It loads the same model to decode them.

    In: embeddings (SliceEmbedding, reliable); model_info (ModelInfo, latched).
    Out: embedding_requests (EmbeddingRequest, reliable).
    Parameters: device, backend and checkpoint of the decoder's model; cache_gib, the memory for fetched embeddings.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._device = parameters.declare(node, "device", "auto", "Where to decode: auto, cpu or cuda.")
        self._checkpoint = parameters.declare(
            node, "checkpoint", "", "Path of the model's weights on this host."
        )
        cache_gib = parameters.declare_number(
            node, "cache_gib", 1.0, "Memory for fetched embeddings, GiB.", (0.01, 1024.0)
        )
        self._cache = EmbeddingCache(int(cache_gib * GIB))
        self._backend = parameters.declare(
            node, "backend", "auto", f"What decodes: {', '.join(BACKEND_NAMES)}."
        )
        self._model: SegmentationModel | None = None
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[_Requested, list[Future[EncodedSlice]]] = {}
        self._requests = node.create_publisher(EmbeddingRequest, topics.EMBEDDING_REQUESTS, topics.EMBEDDING)
        node.create_subscription(SliceEmbedding, topics.EMBEDDINGS, self._on_embedding, topics.EMBEDDING)
        # By the steady clock: ROS time may stand still.
        node.create_timer(_REPEAT_S, self._repeat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        node.create_subscription(ModelInfo, topics.MODEL_INFO, self._on_model, topics.LATCHED)

    def request(self, image: ImageId) -> Future[EncodedSlice]:
        """The image's embedding, as EmbeddingSource says."""
        future: Future[EncodedSlice] = Future()
        model = self._model
        if model is None:
            future.set_exception(NotReadyError("The decoder's model is not loaded yet."))
            return future
        if embedding := self._cache.get(_key(image, model)):
            future.set_result(EncodedSlice(embedding, model))
            return future
        if self._is_alone():
            future.set_exception(NotReadyError("The embedding node is away."))
            return future
        requested = image, model.name
        with self._lock:
            others = [f for f in self._waiting.get(requested, []) if not f.cancelled()]
            self._waiting[requested] = [*others, future]
        self._publish(*requested)
        return future

    def _is_alone(self) -> bool:
        return self._requests.get_subscription_count() == 0

    def _publish(self, image: ImageId, model: str) -> None:
        self._requests.publish(EmbeddingRequest(image=conversions.image_to_msg(image), model=model))

    def _on_embedding(self, message: SliceEmbedding) -> None:
        try:
            image = conversions.image_from_msg(message.image)
        except PromptError:
            return  # of a plane that nothing here requests
        with self._lock:
            futures = self._waiting.pop((image, message.model), [])
        if not futures:
            return
        model = self._model
        if model is None or model.name != message.model:
            _fail(futures, NotReadyError(_CHANGED))
            return
        try:
            fetched = model.restore(*conversions.embedding_from_msg(message))
        except SammError as error:
            _fail(futures, error)
            return
        embedding = self._cache.put(_key(image, model), fetched)
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_result(EncodedSlice(embedding, model))

    def _repeat(self) -> None:
        alone, model = self._is_alone(), self._model
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            for requested, futures in waiting.items():
                futures = [future for future in futures if not future.cancelled()]
                if alone:
                    _fail(futures, NotReadyError("The embedding node died before it answered."))
                elif model is None or requested[1] != model.name:
                    _fail(futures, NotReadyError(_CHANGED))
                elif futures:
                    self._waiting[requested] = futures
            remaining = list(self._waiting)
        for requested in remaining:
            self._publish(*requested)

    def _on_model(self, message: ModelInfo) -> None:
        if message.name and (self._model is None or self._model.name != message.name):
            threading.Thread(target=self._load, args=(message.name,), daemon=True).start()

    def _load(self, name: str) -> None:
        with self._loading:
            try:
                model = load_model(
                    name,
                    Path(self._checkpoint) if self._checkpoint else None,
                    self._device,
                    backend=self._backend,
                )
                for why in model.refused:
                    self._node.get_logger().warning(why)
                self._model = model
            except ModelError as error:
                self._node.get_logger().error(str(error))


def _key(image: ImageId, model: SegmentationModel) -> EmbeddingKey:
    scope = scope_of(image.source, image.key.window, model.fingerprint)
    return EmbeddingKey(scope, image.key.plane, image.key.index)


def _fail(futures: Iterable[Future[EncodedSlice]], error: SammError) -> None:
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
