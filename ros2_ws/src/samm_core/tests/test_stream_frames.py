# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The newest frames of a stream: found by their stamps, within a time and a number of bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from samm_core.stream.frames import FLOW_SIDE, Frame, FrameRing

MS = 1_000_000


def frame(number: int, stamp_ns: int = 0, shape: tuple[int, ...] = (10, 10)) -> Frame:
    return Frame(number, stamp_ns, 0, np.zeros(shape, np.uint8))


def test_a_frame_is_found_by_its_stamp_or_near_it_and_the_newest_by_zero() -> None:
    ring = FrameRing()
    frames = [frame(i, i * 33 * MS) for i in range(1, 5)]
    for each in frames:
        ring.put(each)
    assert ring.at(66 * MS) is frames[1]
    assert ring.at(0) is frames[-1] is ring.newest
    assert ring.at(70 * MS) is frames[1] and ring.at(95 * MS) is frames[2]
    assert ring.at(400 * MS) is None
    assert ring.frames == frames


def test_frames_leave_by_their_age_and_by_their_bytes_but_never_the_newest() -> None:
    by_age = FrameRing(kept_ns=100 * MS)
    for i in range(1, 6):
        by_age.put(frame(i, i * 50 * MS))
    assert [each.number for each in by_age.frames] == [3, 4, 5]

    by_bytes = FrameRing(kept_bytes=250)
    for i in range(1, 6):
        by_bytes.put(frame(i, i * MS))
    assert [each.number for each in by_bytes.frames] == [4, 5]
    by_bytes.put(frame(6, 6 * MS, (100, 100)))
    assert [each.number for each in by_bytes.frames] == [6]


def test_stamps_that_go_back_begin_anew() -> None:
    ring = FrameRing()
    ring.put(frame(1, 900 * MS))
    ring.put(frame(2, 100 * MS))
    assert ring.at(900 * MS) is None and ring.at(900 * MS + 1) is None and ring.frames == [ring.newest]


def test_without_a_frame_there_is_none() -> None:
    ring = FrameRing()
    assert ring.newest is None and ring.at(0) is None and ring.frames == []
    ring.put(frame(1))
    ring.clear()
    assert ring.newest is None


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 40)), max_size=60))
def test_whatever_comes_the_ring_is_bounded(arrivals: list[tuple[int, int]]) -> None:
    ring = FrameRing(kept_ns=3 * 10**8, kept_bytes=2000)
    for number, (stamp_ns, side) in enumerate(arrivals, start=1):
        ring.put(frame(number, stamp_ns, (side, side)))
        kept = ring.frames
        assert kept[-1].number == number
        assert len(kept) == 1 or sum(each.pixels.nbytes for each in kept) <= 2000
        stamps = [each.stamp_ns for each in kept]
        assert stamps == sorted(stamps) and stamps[-1] - stamps[0] <= 3 * 10**8


@given(st.integers(1, 2000), st.integers(1, 2000), st.booleans())
def test_the_small_picture_is_grey_and_keeps_the_sides_in_proportion(
    rows: int, columns: int, color: bool
) -> None:
    pixels = np.full((rows, columns, 3) if color else (rows, columns), 77, np.uint8)
    small = Frame(1, 0, 0, pixels).small
    assert small.ndim == 2 and (small == 77).all()
    assert max(small.shape) == min(FLOW_SIDE, max(rows, columns))
    scale = max(small.shape) / max(rows, columns)
    assert small.shape == (max(1, round(rows * scale)), max(1, round(columns * scale)))


def test_a_grey_frame_is_three_channels_for_a_model() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Frame(1, 0, 0, pixels).image
    assert image.shape == (3, 4, 3) and image.flags.c_contiguous
    assert (image == pixels[..., None]).all()
