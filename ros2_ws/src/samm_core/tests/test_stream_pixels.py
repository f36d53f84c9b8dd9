# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Image messages as pixels."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samm_core.errors import FrameError
from samm_core.stream.pixels import ENCODINGS, MAX_SIDE, decode_compressed, decode_image

COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 100, 50], [255, 255, 255]]], np.uint8
)


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("rgb8", COLOURS),
        ("bgr8", COLOURS[..., ::-1]),
        ("8UC3", COLOURS[..., ::-1]),
        ("rgba8", with_alpha(COLOURS)),
        ("bgra8", with_alpha(COLOURS[..., ::-1])),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_colours_are_the_same_in_each_encoding(encoding: str, sent: np.ndarray, padding: int) -> None:
    rows = sent.reshape(2, -1)
    padded = np.hstack([rows, np.full((2, padding), 99, np.uint8)])
    pixels = decode_image(padded.tobytes(), encoding, 2, 3, padded.shape[1])
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert (pixels == COLOURS).all()


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_grey_of_odd_size_without_the_padding_of_its_last_row(encoding: str, kind: type) -> None:
    data = kind(bytes([1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9]))
    assert decode_image(data, encoding, 3, 3, 4).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits_in_both_orders(encoding: str, big: bool) -> None:
    values = np.array([[1, 256, 65535], [0, 1000, 40000]])
    # A step of an odd number of bytes: no value lies where a 16-bit number would in memory.
    rows = [row.astype(">u2" if big else "<u2").tobytes() + b"x" for row in values]
    pixels = decode_image(b"".join(rows), encoding, 2, 3, 7, big)
    assert pixels.dtype == np.uint16 and pixels.dtype.isnative
    assert pixels.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("encoding", "first_luma"), [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)]
)
def test_yuv_422(encoding: str, first_luma: int) -> None:
    # A pair of pixels of BT.601: grey black to white, then a pure red.
    pairs = {"grey": (16, 128, 235, 128), "red": (82, 90, 82, 240)}
    data = bytearray()
    for y0, u, y1, v in pairs.values():
        data += bytes((u, y0, v, y1) if first_luma else (y0, u, y1, v))
    pixels = decode_image(data, encoding, 1, 4, 8)
    assert np.abs(pixels.astype(int) - [[[0] * 3, [255] * 3, [255, 0, 0], [255, 0, 0]]]).max() <= 2


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(2, 2), (6, 8), (5, 7)])
def test_bayer_keeps_a_colour_and_each_corner(pattern: str, bits: int, size: tuple[int, int]) -> None:
    height, width = size
    mosaic = np.empty(size, np.uint16)
    channels = np.array(["rgb".index(letter) for letter in pattern]).reshape(2, 2)
    for row in range(height):
        for column in range(width):
            mosaic[row, column] = (200, 100, 50)[channels[row % 2, column % 2]]
    corners = [(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1)]
    sent = (mosaic * 257).astype(">u2") if bits == 16 else mosaic.astype(np.uint8)
    pixels = decode_image(sent.tobytes(), f"bayer_{pattern}{bits}", height, width, width * bits // 8, True)
    assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8
    assert (pixels == (200, 100, 50)).all()
    # What a corner alone measured is there.
    for row, column in corners:
        changed = mosaic.astype(np.uint8)
        changed[row, column] = 240
        pixels = decode_image(changed.tobytes(), f"bayer_{pattern}8", height, width, width)
        assert pixels[row, column, channels[row % 2, column % 2]] == 240


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not known; send one of mono8, 8UC1, mono16"),
        ({"encoding": "x" * 1000}, "x' is not known"),
        ({"height": 0}, "4 x 0 pixels; send one that is not empty"),
        ({"width": 0}, "0 x 4 pixels"),
        ({"width": -1}, "-1 x 4 pixels"),
        ({"step": 11}, "step is 11 bytes, but a row of 4 pixels in rgb8 has 12"),
        ({"data": bytes(47)}, "47 bytes of its 48"),
        ({"data": b""}, "0 bytes of its 48"),
        ({"step": 2**32 - 1}, "48 bytes of its 12884901897"),
        ({"width": MAX_SIDE + 1, "step": 3 * MAX_SIDE + 3}, "at most 8192 a side"),
        ({"height": 2**32 - 1}, "at most 8192 a side"),
        ({"encoding": "yuyv", "width": 3}, "3 pixels wide, but yuyv has pairs"),
        ({"encoding": "bayer_rggb8", "width": 1}, "squares of 2 x 2"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, sentence: str) -> None:
    fields = {"data": bytes(48), "encoding": "rgb8", "height": 4, "width": 4, "step": 12} | change
    with pytest.raises(FrameError, match="; ") as refused:
        decode_image(**fields)
    assert sentence in str(refused.value)


@given(
    st.binary(max_size=300),
    st.sampled_from(ENCODINGS) | st.text(max_size=12),
    st.integers(0, 12) | st.integers(0, 2**32 - 1),
    st.integers(0, 12) | st.integers(0, 2**32 - 1),
    st.integers(0, 60) | st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_any_message_is_pixels_or_a_sentence(
    data: bytes, encoding: str, height: int, width: int, step: int, big: bool
) -> None:
    try:
        pixels = decode_image(data, encoding, height, width, step, big)
    except FrameError:
        return
    assert pixels.shape[:2] == (height, width)
    assert pixels.dtype == np.uint8 if pixels.ndim == 3 else pixels.dtype in (np.uint8, np.uint16)


def smooth_picture() -> np.ndarray:
    """(48, 64, 3) uint8 RGB, each channel another ramp."""
    rows, columns = np.mgrid[:48, :64]
    return np.dstack([columns * 4, rows * 5, 255 - columns * 2]).astype(np.uint8)


def file_of(pixels: np.ndarray, suffix: str) -> bytes:
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(suffix, np.ascontiguousarray(bgr))[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    "format", ["rgb8; {} compressed bgr8", "bgr8; {} compressed bgr8", "{}", "", "8UC3; {} compressed"]
)
def test_colours_of_a_file_as_they_are_in_it(suffix: str, format: str) -> None:
    picture = smooth_picture()
    name = "jpeg" if suffix == ".jpg" else "png"
    pixels = decode_compressed(file_of(picture, suffix), format.format(name))
    assert np.abs(pixels.astype(int) - picture).max() <= (12 if suffix == ".jpg" else 0)


@pytest.mark.parametrize(
    "format", ["rgb8; png compressed rgb8", "bgr8; png compressed ", "rgb8; png compressed"]
)
def test_a_file_with_red_and_blue_exchanged_says_so_in_its_format(format: str) -> None:
    picture = smooth_picture()
    assert (decode_compressed(file_of(picture[..., ::-1], ".png"), format) == picture).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_grey_file_is_grey(suffix: str) -> None:
    grey = smooth_picture()[..., 0]
    pixels = decode_compressed(file_of(grey, suffix), "mono8; x compressed ")
    assert pixels.shape == grey.shape and np.abs(pixels.astype(int) - grey).max() <= 3


def test_sixteen_bits_of_a_png() -> None:
    deep = smooth_picture()[..., 0].astype(np.uint16) * 256 + 3
    pixels = decode_compressed(file_of(deep, ".png"), "16UC1; png compressed ")
    assert pixels.dtype == np.uint16 and (pixels == deep).all()


def test_alpha_is_left_out() -> None:
    data = cv2.imencode(".png", np.full((4, 5, 4), (10, 20, 30, 40), np.uint8))[1].tobytes()
    assert (decode_compressed(data, "png") == (30, 20, 10)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_mosaic_in_a_png_becomes_colour(bits: int) -> None:
    mosaic = np.tile(np.array([[200, 100], [100, 50]], np.uint16), (4, 5))
    data = file_of(mosaic * 257 if bits == 16 else mosaic.astype(np.uint8), ".png")
    pixels = decode_compressed(data, f"bayer_rggb{bits}; png compressed ")
    assert pixels.shape == (8, 10, 3) and (pixels == (200, 100, 50)).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9])
def test_a_file_that_is_cut_short_is_refused(suffix: str, share: float) -> None:
    noisy = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    whole = file_of(noisy, suffix)
    with pytest.raises(FrameError, match="send"):
        decode_compressed(whole[: int(share * len(whole))], "jpeg")


def test_a_jpeg_without_its_end_is_refused() -> None:
    with pytest.raises(FrameError, match="cut short .*it has no end"):
        decode_compressed(file_of(smooth_picture(), ".jpg")[:-2], "jpeg")


def test_a_damaged_png_is_refused() -> None:
    data = bytearray(file_of(smooth_picture(), ".png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(FrameError, match="damaged or cut short"):
        decode_compressed(bytes(data), "png")


@pytest.mark.parametrize(
    ("data", "format", "sentence"),
    [
        (b"", "jpeg", "format 'jpeg' is no JPEG or PNG"),
        (b"\0\0\0\1hevc", "h265", "format 'h265' is no JPEG or PNG"),
        (b"GIF89a" + bytes(100), "gif", "no JPEG or PNG"),
        (file_of(smooth_picture()[..., 0], ".png"), "16UC1; compressedDepth png", "holds distances"),
    ],
)
def test_other_formats_are_refused(data: bytes, format: str, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        decode_compressed(data, format)


@pytest.mark.parametrize(
    ("width", "height"), [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (60_000, 60_000), (2**31 - 1,) * 2]
)
def test_a_png_that_claims_too_much_is_refused_before_it_is_unpacked(width: int, height: int) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))
    with pytest.raises(FrameError, match="at most 8192 a side|more than 8192 pixels a side"):
        decode_compressed(data, "png")


def test_a_jpeg_that_claims_too_much_is_refused_before_it_is_unpacked() -> None:
    data = bytearray(file_of(smooth_picture(), ".jpg"))
    # The frame's header: its marker, length and precision, then rows and columns.
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(FrameError, match="at most 8192 a side|more than 8192 pixels a side"):
        decode_compressed(bytes(data), "jpeg")


_FILES = [file_of(smooth_picture(), ".jpg"), file_of(smooth_picture(), ".png")]


@given(
    st.sampled_from(_FILES),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=6),
    st.integers(0, 2**16),
    st.sampled_from(["jpeg", "rgb8; jpeg compressed bgr8", "bayer_rggb8; png compressed ", "; ;"])
    | st.text(max_size=20),
)
@example(_FILES[0], [(2, 0)], 5, "jpeg")
def test_any_file_is_pixels_or_a_sentence(
    file: bytes, changes: list[tuple[int, int]], length: int, format: str
) -> None:
    data = bytearray(file)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        pixels = decode_compressed(bytes(data[: length or None]), format)
    except FrameError:
        return
    assert pixels.dtype in (np.uint8, np.uint16) and pixels.ndim in (2, 3)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_any_bytes_are_refused_in_a_sentence(data: bytes, format: str) -> None:
    with pytest.raises(FrameError):
        decode_compressed(data, format)
