# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A decoder in another process than the encoder: it takes no embedding of another volume, window or model than it works on."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from peer import Peer
from samm_msgs.msg import EmbeddingRequest, ModelInfo, SliceEmbedding

from samm_core.embedding.engine import EncodedSlice
from samm_core.errors import NotReadyError, PromptError
from samm_core.geometry import Plane
from samm_core.models.base import FEATURES, Embedding
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.window import Window
from samm_ros import conversions, topics
from samm_ros.support.remote_embeddings import RemoteEmbeddings

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(200)]

LIMIT_S = 60


def image_of(index: int, upper: float = 100) -> ImageId:
    return ImageId("x", SliceKey(Plane.AXIAL, index, Window(0, upper)))


class Encoder:
    """An embedding node, as its decoder sees it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        model = peer.node.create_publisher(ModelInfo, topics.MODEL_INFO, topics.LATCHED)
        model.publish(ModelInfo(name="lite_medsam"))
        peer.listen(EmbeddingRequest, topics.EMBEDDING_REQUESTS, topics.EMBEDDING)
        self._embeddings = peer.publisher(SliceEmbedding, topics.EMBEDDINGS, topics.EMBEDDING)

    def requested(self, image: ImageId) -> EmbeddingRequest:
        """The request for this image."""
        wanted = conversions.image_to_msg(image)
        return self._peer.wait_for(topics.EMBEDDING_REQUESTS, lambda r: r.image == wanted, LIMIT_S)

    def answer(self, request: EmbeddingRequest, value: float, **changes: object) -> None:
        tensors = {FEATURES: np.full((256, 64, 64), value, np.float16)}
        message = conversions.embedding_to_msg(request, Embedding(tensors, (40, 30), (256, 192)))
        for name, change in changes.items():
            setattr(message, name, change)
        self._embeddings.publish(message)


@pytest.fixture(scope="module")
def namespace() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def decoder(namespace: str) -> Iterator[tuple[RemoteEmbeddings, Peer]]:
    """With a model, which takes seconds to load: each test has slices of its own."""
    with Peer(namespace) as peer:
        yield RemoteEmbeddings(peer.node), peer


@pytest.fixture(scope="module")
def encoder(namespace: str, decoder: tuple) -> Iterator[Encoder]:
    with Peer(namespace) as peer:
        yield Encoder(peer)


def request(decoder: tuple[RemoteEmbeddings, Peer], image: ImageId) -> Future[EncodedSlice]:
    """Request until the decoder has its model, as SND_INF does."""
    embeddings, peer = decoder
    futures: list[Future[EncodedSlice]] = []

    def requests() -> bool:
        futures.append(embeddings.request(image))
        return not (futures[-1].done() and isinstance(futures[-1].exception(), NotReadyError))

    peer.wait_until(requests, "request of an embedding", LIMIT_S)
    return futures[-1]


def value_of(future: Future[EncodedSlice]) -> float:
    return float(future.result(timeout=LIMIT_S).embedding.as_arrays()[FEATURES][0, 0, 0])


def test_each_window_has_an_embedding_of_its_own(decoder, encoder: Encoder) -> None:
    first, second = image_of(3), image_of(3, 50)
    wide, narrow = request(decoder, first), request(decoder, second)
    encoder.answer(encoder.requested(second), 2.0)
    assert value_of(narrow) == 2.0
    assert not wide.done()
    encoder.answer(encoder.requested(first), 1.0)
    assert value_of(wide) == 1.0
    assert value_of(decoder[0].request(second)) == 2.0, "it is kept"


def test_the_checksum_of_an_embedding_is_the_one_that_its_message_describes() -> None:
    wanted = EmbeddingRequest(image=conversions.image_to_msg(image_of(3)), model="m")
    first, second = np.arange(8, dtype=np.float16).reshape(2, 2, 2), np.ones((1, 3, 1), np.float32)
    embedding = Embedding({"features": first, "fine": second}, (40, 30), (256, 192))
    numbers = struct.pack("<BiddII", 0, 3, 0.0, 100.0, 40, 30)
    parts = [b"x", numbers, b"m"]
    parts += [b"features", b"float16", bytes([2, 0, 0, 0] * 3), first.tobytes()]
    parts += [b"fine", b"float32", bytes([1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]), second.tobytes()]
    described = b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    message = conversions.embedding_to_msg(wanted, embedding)
    assert message.checksum == zlib.crc32(described)
    tensors, size = conversions.embedding_from_msg(message)
    assert list(tensors) == ["features", "fine"] and size == (40, 30)
    assert np.array_equal(tensors["features"], first) and np.array_equal(tensors["fine"], second)


@pytest.mark.parametrize(("change", "index"), [("image", 10), ("model", 11), ("data", 12)])
def test_an_embedding_of_anything_else_than_was_requested_is_not_taken(
    decoder, encoder: Encoder, change: str, index: int
) -> None:
    future = request(decoder, image_of(index))
    wanted = encoder.requested(image_of(index))
    if change == "data":
        encoder.answer(wanted, 1.0, checksum=1)
        with pytest.raises(PromptError, match="damaged"):
            future.result(timeout=LIMIT_S)
        return
    other = conversions.image_to_msg(image_of(index, 50)) if change == "image" else "other"
    encoder.answer(wanted, 1.0, **{change: other})
    encoder.answer(wanted, 2.0)
    assert value_of(future) == 2.0
