# SPDX-License-Identifier: Apache-2.0
"""Embeddings for a CPL_INF in another process or host than the encoder: each is fetched once and kept."""

from __future__ import annotations

import threading
import zlib
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from samm_msgs.msg import ModelInfo, VolumeInfo
from samm_msgs.srv import GetEmbedding

from ..cycle import SliceId
from ..embedding.cache import GIB, EmbeddingCache, EmbeddingKey
from ..embedding.engine import EncodedSlice
from ..errors import ModelError, NotReadyError, PromptError
from ..models import BACKEND_NAMES, load_model
from . import graph, parameters, wire

if TYPE_CHECKING:
    from ..models.base import Embedding, SegmentationModel

ALIVE_CHECK_S = 0.5


class RemoteEmbeddings:
    """An EmbeddingSource that asks the embedding node, with a decoder of the same model in this process.

    In: model_info, volume_info (latched). Uses: get_embedding.
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
        self._waiting: set[Future[EncodedSlice]] = set()
        node.create_timer(ALIVE_CHECK_S, self._give_up_on_the_dead)
        self._client = node.create_client(GetEmbedding, graph.GET_EMBEDDING)
        node.create_subscription(ModelInfo, graph.MODEL_INFO, self._on_model, graph.LATCHED)
        # Another volume, or the same one in another window.
        node.create_subscription(VolumeInfo, graph.VOLUME_INFO, lambda _: self._cache.clear(), graph.LATCHED)

    def request(self, slice_id: SliceId) -> Future[EncodedSlice]:
        future: Future[EncodedSlice] = Future()
        model = self._model
        if model is None:
            future.set_exception(NotReadyError("The decoder's model is not loaded yet."))
            return future
        key = EmbeddingKey(f"{slice_id.volume_uid} {model.fingerprint}", slice_id.plane, slice_id.index)
        if embedding := self._cache.get(key):
            future.set_result(EncodedSlice(embedding, model))
            return future
        if not self._client.service_is_ready():
            future.set_exception(NotReadyError("The embedding node is away."))
            return future
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        asked = self._client.call_async(
            GetEmbedding.Request(slice=wire.slice_to_msg(slice_id), model=model.name)
        )
        asked.add_done_callback(lambda answered: self._received(answered.result(), key, model, future))
        return future

    def _received(
        self,
        response: GetEmbedding.Response,
        key: EmbeddingKey,
        model: SegmentationModel,
        future: Future[EncodedSlice],
    ) -> None:
        if future.done():
            return
        try:
            embedding = _embedding(response, model)
        except PromptError as error:
            future.set_exception(error)
            return
        self._cache.put(key, embedding)
        future.set_result(EncodedSlice(embedding, model))

    def _give_up_on_the_dead(self) -> None:
        """A service that died in mid-call never answers."""
        if not self._client.service_is_ready():
            for future in list(self._waiting):
                future.set_exception(NotReadyError("The embedding node died before it answered."))

    def _on_model(self, message: ModelInfo) -> None:
        if message.name and (self._model is None or self._model.name != message.name):
            threading.Thread(target=self._load, args=(message.name,), daemon=True).start()

    def _load(self, name: str) -> None:
        with self._loading:
            try:
                self._model = load_model(
                    name,
                    Path(self._checkpoint) if self._checkpoint else None,
                    self._device,
                    backend=self._backend,
                )
            except ModelError as error:
                self._node.get_logger().error(str(error))


def _embedding(response: GetEmbedding.Response, model: SegmentationModel) -> Embedding:
    """Raises PromptError for a refusal, and for an embedding that is damaged or of another shape."""
    if not response.success:
        raise PromptError(response.message)
    data = response.data.tobytes()
    dtype = {"float32": np.float32, "float16": np.float16}.get(response.dtype)
    shape = tuple(response.shape)
    if (
        dtype is None
        or len(shape) != 3
        or zlib.crc32(data) != response.checksum
        or len(data) != np.prod(shape, dtype=object) * np.dtype(dtype).itemsize
    ):
        raise PromptError("The embedding was damaged on the way; prompt again.")
    features = np.frombuffer(data, dtype).reshape(shape).copy()
    return model.adopt(features, tuple(map(int, response.original_size)))
