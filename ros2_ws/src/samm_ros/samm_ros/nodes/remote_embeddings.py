# SPDX-License-Identifier: Apache-2.0
"""Embeddings for a CPL_INF in another process or host than the encoder: each is fetched once and kept."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.node import Node
from samm_msgs.msg import EmbeddingRequest, ModelInfo, SliceEmbedding, VolumeInfo

from ..cycle import SliceId
from ..embedding.cache import GIB, EmbeddingCache, EmbeddingKey
from ..embedding.engine import EncodedSlice
from ..errors import ModelError, NotReadyError, PromptError
from ..models import BACKEND_NAMES, load_model
from . import graph, parameters, wire

if TYPE_CHECKING:
    from ..models.base import SegmentationModel

# A wish is told again so often: an embedding node that was restarted has forgotten it.
_REMIND_S = 0.5


class RemoteEmbeddings:
    """An EmbeddingSource that asks the embedding node, with a decoder of the same model in this process.

    In: embeddings, model_info, volume_info (latched). Out: embedding_requests.
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
        self._waiting: dict[tuple[SliceId, str], Future[EncodedSlice]] = {}
        self._wishes = node.create_publisher(EmbeddingRequest, graph.EMBEDDING_REQUESTS, graph.EMBEDDING)
        node.create_subscription(SliceEmbedding, graph.EMBEDDINGS, self._on_embedding, graph.EMBEDDING)
        node.create_timer(_REMIND_S, self._remind)
        node.create_subscription(ModelInfo, graph.MODEL_INFO, self._on_model, graph.LATCHED)
        # Another volume, or the same one in another window.
        node.create_subscription(VolumeInfo, graph.VOLUME_INFO, lambda _: self._cache.clear(), graph.LATCHED)

    def request(self, slice_id: SliceId) -> Future[EncodedSlice]:
        future: Future[EncodedSlice] = Future()
        model = self._model
        if model is None:
            future.set_exception(NotReadyError("The decoder's model is not loaded yet."))
            return future
        if embedding := self._cache.get(_key(slice_id, model)):
            future.set_result(EncodedSlice(embedding, model))
            return future
        if self._is_alone():
            future.set_exception(NotReadyError("The embedding node is away."))
            return future
        with self._lock:
            future = self._waiting.setdefault((slice_id, model.name), future)
        self._ask(slice_id, model.name)
        return future

    def _is_alone(self) -> bool:
        return self._wishes.get_subscription_count() == 0

    def _ask(self, slice_id: SliceId, model: str) -> None:
        self._wishes.publish(EmbeddingRequest(slice=wire.slice_to_msg(slice_id), model=model))

    def _on_embedding(self, message: SliceEmbedding) -> None:
        try:
            slice_id = wire.slice_from_msg(message.slice)
        except PromptError:
            return  # nobody here asked for a plane that there is not
        with self._lock:
            future = self._waiting.pop((slice_id, message.model), None)
        model = self._model
        if future is None:
            return
        try:
            if model is None or model.name != message.model:
                raise PromptError("The model was changed before the slice was embedded.")
            embedding = self._cache.put(_key(slice_id, model), model.adopt(*wire.embedding_from_msg(message)))
        except PromptError as error:
            future.set_exception(error)
            return
        future.set_result(EncodedSlice(embedding, model))

    def _remind(self) -> None:
        alone = self._is_alone()
        with self._lock:
            waiting = dict(self._waiting)
            if alone:
                self._waiting.clear()
        for (slice_id, model), future in waiting.items():
            if alone:
                future.set_exception(NotReadyError("The embedding node died before it answered."))
            else:
                self._ask(slice_id, model)

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


def _key(slice_id: SliceId, model: SegmentationModel) -> EmbeddingKey:
    return EmbeddingKey(f"{slice_id.volume_uid} {model.fingerprint}", slice_id.plane, slice_id.index)
