# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Requests, answers and embeddings: over the wire and back unchanged, or refused."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rclpy.serialization import deserialize_message, serialize_message
from samm_msgs.msg import EmbeddingRequest, Prompt, SliceEmbedding, SliceMask, SliceRequest

from samm_core.cycle.request import Answer, CycleCounter, Request, request_error
from samm_core.errors import MaskError, PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.mask_codec import MaskEncoding
from samm_core.models.base import Embedding
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import LoadedVolume
from samm_core.sources.window import Window
from samm_ros import conversions

names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
windows = st.none() | st.builds(
    lambda lower, width: Window(lower, lower + width), st.integers(-2000, 2000), st.integers(1, 4000)
)
slices = st.builds(
    ImageId, names, st.builds(SliceKey, st.sampled_from(Plane), st.integers(-(2**31), 2**31 - 1), windows)
)
shapes = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
cycles = st.integers(0, 2**64 - 1)
pixel = st.floats(-1e4, 1e4, width=32)


@st.composite
def prompts(draw: st.DrawFn) -> PixelPrompt:
    points = draw(st.lists(st.tuples(pixel, pixel), max_size=5))
    labels = [draw(st.integers(0, 1)) for _ in points]
    x0, y0 = draw(pixel), draw(pixel)
    box = np.array([x0, y0, x0 + 10, y0 + 20], np.float32) if draw(st.booleans()) or not points else None
    choice = draw(st.integers(0, 255))
    points_xy = np.array(points, np.float32).reshape(-1, 2)
    return PixelPrompt(points_xy, np.array(labels, np.uint8), box, choice=choice)


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
    st.integers(0, 255),
)


@given(requests)
def test_a_request_comes_over_the_wire_unchanged(request: Request) -> None:
    raw = serialize_message(conversions.request_to_msg(request, 1, conversions.Time()))
    received = conversions.request_from_msg(deserialize_message(raw, SliceRequest))
    for field in dataclasses.fields(Request):
        if field.name != "prompt":
            assert getattr(received, field.name) == getattr(request, field.name)
    np.testing.assert_array_equal(received.prompt.points_xy, request.prompt.points_xy)
    np.testing.assert_array_equal(received.prompt.labels, request.prompt.labels)
    if request.prompt.has_box:
        np.testing.assert_array_equal(received.prompt.box_xyxy, request.prompt.box_xyxy)
    assert received.prompt.has_box == request.prompt.has_box
    assert received.prompt.choice == request.prompt.choice
    other = dataclasses.replace(request.prompt, choice=request.prompt.choice ^ 1)
    assert dataclasses.replace(request, prompt=other).checksum() != request.checksum()


@given(prompts(), slices.filter(lambda image: image.key.index >= 0))
def test_a_prompt_of_a_slice_comes_over_the_wire_unchanged(prompt: PixelPrompt, image: ImageId) -> None:
    raw = serialize_message(conversions.slice_prompt_to_msg("liver", image, prompt))
    received = conversions.prompt_from_msg(deserialize_message(raw, Prompt))
    assert (received.segment, received.image, received.problem) == ("liver", image, "")
    pixels = received.prompt.in_pixels()
    np.testing.assert_array_equal(pixels.points_xy, prompt.points_xy)
    np.testing.assert_array_equal(pixels.labels, prompt.labels)
    np.testing.assert_array_equal(pixels.box_xyxy, prompt.box_xyxy)
    assert (received.prompt.slice_index, pixels.choice) == (image.key.index, prompt.choice)


@given(answers)
def test_an_answer_comes_over_the_wire_unchanged(answer: Answer) -> None:
    raw = serialize_message(conversions.answer_to_msg(answer, 1, conversions.Time()))
    assert conversions.answer_from_msg(deserialize_message(raw, SliceMask)) == answer


@given(answers, answers)
def test_two_answers_that_differ_have_different_checksums(one: Answer, other: Answer) -> None:
    assert (one == other) == (one.checksum() == other.checksum())


@given(st.data(), answers)
def test_a_mask_damaged_at_any_byte_is_refused_or_the_same(data: st.DataObject, answer: Answer) -> None:
    raw = bytearray(serialize_message(conversions.answer_to_msg(answer, 1, conversions.Time())))
    position = data.draw(st.integers(4, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        message = deserialize_message(bytes(raw), SliceMask)
    except (RuntimeError, UnicodeDecodeError):
        # DDS refused it before it could reach a node.
        return
    try:
        received = conversions.answer_from_msg(message)
    except MaskError:
        return
    # The header and the sequence number are no part of what is applied.
    assert received == answer


embeddings = st.builds(
    Embedding,
    hnp.arrays(
        st.sampled_from([np.float16, np.float32]),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    ).map(lambda features: {"features": features}),
    st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    st.just((256, 256)),
)


@given(st.data(), slices, names, embeddings)
def test_an_embedding_comes_over_the_wire_unchanged_or_is_refused(
    data: st.DataObject, image: ImageId, model: str, embedding: Embedding
) -> None:
    request = EmbeddingRequest(image=conversions.image_to_msg(image), model=model)
    raw = bytearray(serialize_message(conversions.embedding_to_msg(request, embedding)))
    tensors, size = conversions.embedding_from_msg(deserialize_message(bytes(raw), SliceEmbedding))
    features = tensors["features"]
    assert features.dtype == embedding.features.dtype
    assert (features.tobytes(), features.shape) == (embedding.features.tobytes(), embedding.features.shape)
    assert size == embedding.original_size

    raw[data.draw(st.integers(4, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        message = deserialize_message(bytes(raw), SliceEmbedding)
    except (RuntimeError, UnicodeDecodeError):
        return  # DDS refused it before it could reach a node
    try:
        tensors, size = conversions.embedding_from_msg(message)
    except PromptError:
        return
    # What was hit is padding.
    assert tensors["features"].tobytes() == embedding.features.tobytes()
    assert (size, message.image, message.model) == (embedding.original_size, request.image, model)


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
    message.image.plane = plane
    with pytest.raises(PromptError):
        conversions.request_from_msg(message)


def described(*parts: bytes) -> int:
    """The checksum as SliceRequest.msg tells a C++ programmer."""
    return zlib.crc32(b"".join(len(part).to_bytes(4, "little") + part for part in parts))


def test_checksums_are_those_that_their_messages_describe() -> None:
    image = ImageId("ä volume", SliceKey(Plane.CORONAL, 7, Window(-1.5, 80)))
    prompt = PixelPrompt(np.array([(1, 2)]), np.ones(1, np.uint8), np.array([0, 1, 2, 3]), choice=2)
    numbers = struct.pack("<QBiddII", 2**60, 1, 7, -1.5, 80.0, 40, 30)
    names = b"me", b"liver", "ä volume".encode()
    box = struct.pack("<4f", 0, 1, 2, 3)
    request = Request(2**60, "me", "liver", image, (40, 30), prompt)
    assert request.checksum() == described(numbers, *names, struct.pack("<2f", 1, 2), b"\x01", box, b"\x02")
    target = 2**60, "me", "liver", image, (40, 30)
    answer = Answer(*target, "m", MaskEncoding.BITS_ZLIB, b"mask", 0.5, "why", 3)
    scored = struct.pack("<BfB", MaskEncoding.BITS_ZLIB, 0.5, 3)
    assert answer.checksum() == described(numbers, *names, b"m", scored, b"why", b"mask")


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
    request = Request(1, "me", "", ImageId("uid", SliceKey(plane, index)), (rows, columns), prompt)
    fits = 0 <= index < geometry.slice_count(plane) and -0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5
    loaded = LoadedVolume("uid", "a volume", "", geometry, Window(0, 1))
    assert (request_error(request, {"uid": loaded}) == "") == fits
    assert "is not loaded" in request_error(request, {"other": loaded})
