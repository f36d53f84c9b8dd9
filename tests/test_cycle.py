# SPDX-License-Identifier: Apache-2.0
"""Requests, answers and embeddings: over the wire and back unchanged, or refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.serialization import deserialize_message, serialize_message
from samm_msgs.msg import EmbeddingRequest, SliceEmbedding, SliceMask, SliceRequest

from samm_ros.cycle import Answer, CycleCounter, Request, SliceId, request_objection
from samm_ros.errors import MaskError, PromptError
from samm_ros.geometry import Plane, VolumeGeometry
from samm_ros.mask_codec import MaskEncoding
from samm_ros.models.base import Embedding
from samm_ros.nodes import wire
from samm_ros.prompts import PixelPrompt

names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
slices = st.builds(SliceId, names, st.sampled_from(Plane), st.integers(-(2**31), 2**31 - 1))
shapes = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
cycles = st.integers(0, 2**64 - 1)
pixel = st.floats(-1e4, 1e4, width=32)


@st.composite
def prompts(draw: st.DrawFn) -> PixelPrompt:
    points = draw(st.lists(st.tuples(pixel, pixel), max_size=5))
    labels = [draw(st.integers(0, 1)) for _ in points]
    x0, y0 = draw(pixel), draw(pixel)
    box = np.array([x0, y0, x0 + 10, y0 + 20], np.float32) if draw(st.booleans()) or not points else None
    return PixelPrompt(np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.uint8), box)


requests = st.builds(Request, cycles, names, names, slices, shapes, prompts())
answers = st.builds(
    Answer,
    cycles,
    names,
    names,
    slices,
    shapes,
    names,
    st.sampled_from(MaskEncoding),
    st.binary(max_size=200),
    st.floats(0, 1, width=32),
    names,
)


@given(requests)
def test_a_request_comes_over_the_wire_unchanged(request: Request) -> None:
    raw = serialize_message(wire.request_to_msg(request, 1, wire.Time()))
    received = wire.request_from_msg(deserialize_message(raw, SliceRequest))
    for field in dataclasses.fields(Request):
        if field.name != "prompt":
            assert getattr(received, field.name) == getattr(request, field.name)
    np.testing.assert_array_equal(received.prompt.points_xy, request.prompt.points_xy)
    np.testing.assert_array_equal(received.prompt.labels, request.prompt.labels)
    if request.prompt.has_box:
        np.testing.assert_array_equal(received.prompt.box_xyxy, request.prompt.box_xyxy)
    assert received.prompt.has_box == request.prompt.has_box


@given(answers)
def test_an_answer_comes_over_the_wire_unchanged(answer: Answer) -> None:
    raw = serialize_message(wire.answer_to_msg(answer, 1, wire.Time()))
    assert wire.answer_from_msg(deserialize_message(raw, SliceMask)) == answer


@given(answers, answers)
def test_two_answers_that_differ_have_different_checksums(one: Answer, other: Answer) -> None:
    assert (one == other) == (one.checksum() == other.checksum())


@given(st.data(), answers)
def test_a_mask_damaged_at_any_byte_is_refused_or_the_same(data: st.DataObject, answer: Answer) -> None:
    raw = bytearray(serialize_message(wire.answer_to_msg(answer, 1, wire.Time())))
    position = data.draw(st.integers(4, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        message = deserialize_message(bytes(raw), SliceMask)
    except (RuntimeError, UnicodeDecodeError):
        # DDS refused it before it could reach a node.
        return
    try:
        received = wire.answer_from_msg(message)
    except MaskError:
        return
    # The header and the sequence number are no part of what is applied.
    assert received == answer


embeddings = st.builds(
    Embedding,
    hnp.arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    ),
    st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    st.just((256, 256)),
)


@given(st.data(), slices, names, embeddings)
def test_an_embedding_comes_over_the_wire_unchanged_or_is_refused(
    data: st.DataObject, slice_id: SliceId, model: str, embedding: Embedding
) -> None:
    wish = EmbeddingRequest(slice=wire.slice_to_msg(slice_id), model=model)
    raw = bytearray(serialize_message(wire.embedding_to_msg(wish, embedding)))
    features, size = wire.embedding_from_msg(deserialize_message(bytes(raw), SliceEmbedding))
    assert features.dtype == embedding.features.dtype
    assert (features.tobytes(), features.shape) == (embedding.features.tobytes(), embedding.features.shape)
    assert size == embedding.original_size

    raw[data.draw(st.integers(4, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        message = deserialize_message(bytes(raw), SliceEmbedding)
    except (RuntimeError, UnicodeDecodeError):
        return  # DDS refused it before it could reach a node
    try:
        features, size = wire.embedding_from_msg(message)
    except PromptError:
        return
    # What was hit is padding.
    assert features.tobytes() == embedding.features.tobytes()
    assert (size, message.slice, message.model) == (embedding.original_size, wish.slice, model)


@given(
    points=st.lists(st.floats(width=32), max_size=7),
    labels=st.lists(st.integers(0, 255), max_size=5),
    box=st.lists(st.floats(width=32), min_size=4, max_size=4),
    has_box=st.booleans(),
    plane=st.integers(0, 255),
)
def test_a_hostile_request_raises_nothing_but_a_sentence(
    points: list[float], labels: list[int], box: list[float], has_box: bool, plane: int
) -> None:
    message = SliceRequest(points_xy=points, labels=labels, box_xyxy=box, has_box=has_box)
    message.slice.plane = plane
    with pytest.raises(PromptError):
        wire.request_from_msg(message)


def test_cycles_grow_across_restarts() -> None:
    first = CycleCounter()
    numbers = [first.next() for _ in range(1000)]
    assert numbers == sorted(set(numbers))
    assert CycleCounter(first.newest - 1).next() <= first.newest < CycleCounter(first.newest).next()


@given(
    st.integers(-5, 15), st.sampled_from(Plane), st.floats(-30, 30, width=32), st.floats(-30, 30, width=32)
)
def test_a_request_off_the_volume_is_refused_and_no_other(
    index: int, plane: Plane, x: float, y: float
) -> None:
    geometry = VolumeGeometry((7, 8, 9), np.eye(4))
    rows, columns = geometry.slice_shape(plane)
    prompt = PixelPrompt(np.array([(x, y)]), np.ones(1, np.uint8))
    request = Request(1, "me", "", SliceId("uid", plane, index), (rows, columns), prompt)
    fits = 0 <= index < geometry.slice_count(plane) and -0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5
    assert (request_objection(request, "uid", geometry) == "") == fits
    assert request_objection(request, "other", geometry)
