# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What of a stream's images is worked on, and the way back to the images."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samm_core.errors import FrameError
from samm_core.sources.window import Window
from samm_core.stream.play import open_player, played
from samm_core.stream.view import AUTO, LONGEST, LOOKED_AT, Region, StreamView, parse_region

LIVE = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[4] / "../shared/data")) / "live"
needs_data = pytest.mark.skipif(
    not LIVE.is_dir(), reason=f"there are no streams in {LIVE}; set SAMM_TEST_DATA"
)
RAMP = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)


def eight_bits(array: np.ndarray) -> np.ndarray:
    return (array % 256).astype(np.uint8)


def test_without_any_wish_an_image_stays_as_it_is() -> None:
    image = eight_bits(RAMP)
    shown = StreamView().prepare(image)
    assert (shown == image).all() and np.shares_memory(shown, image)
    colour = np.dstack([image] * 3)
    assert (StreamView().prepare(colour) == colour).all()


@given(
    st.integers(0, 10),
    st.integers(0, 8),
    st.integers(1, 20),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_points_and_masks_find_their_way_both_ways(
    x: int, y: int, width: int, height: int, flip_x: bool, flip_y: bool, colour: bool
) -> None:
    image = eight_bits(RAMP)
    image = np.dstack([image] * 3) if colour else image
    view = StreamView(Region(x, y, width, height), flip_x, flip_y)
    before = image.copy()
    shown = view.prepare(image)
    assert shown.shape[:2] == (height, width) and shown.flags.c_contiguous
    assert (image == before).all()
    rows, columns = np.indices((height, width)).reshape(2, -1)
    on_image = view.to_image(np.column_stack([columns, rows]))
    at = on_image.astype(int)
    assert (image[at[:, 1], at[:, 0]] == shown[rows, columns]).all()
    assert (view.to_view(on_image) == np.column_stack([columns, rows])).all()
    mask = shown > 100 if not colour else shown[..., 0] > 100
    whole = view.mask_to_image(mask, image.shape)
    assert whole.dtype == bool and whole.shape == (20, 30)
    assert (whole[at[:, 1], at[:, 0]] == mask[rows, columns]).all()
    assert whole.sum() == mask.sum()


def test_a_point_outside_the_region_is_outside_the_view() -> None:
    view = StreamView(Region(5, 5, 10, 10))
    view.prepare(eight_bits(RAMP))
    assert view.to_view(np.array([[4.0, 5.0], [15.0, 5.5]])).tolist() == [[-1, 0], [10, 0.5]]


def test_nothing_has_a_place_before_the_first_image() -> None:
    with pytest.raises(FrameError, match="no image yet"):
        StreamView().to_view(np.zeros((1, 2)))


def test_what_is_of_another_size_than_the_images_is_refused() -> None:
    view = StreamView(Region(0, 0, 10, 10))
    view.prepare(eight_bits(RAMP))
    with pytest.raises(FrameError, match="for an image of 5 x 5 pixels, but the stream's have now 30 x 20"):
        view.mask_to_image(np.zeros((10, 10), bool), (5, 5))
    with pytest.raises(FrameError, match="8 x 9 pixels, but the region's has now 10 x 10"):
        view.mask_to_image(np.zeros((9, 8), bool), (20, 30))


def test_a_region_that_the_images_do_not_have_is_refused() -> None:
    with pytest.raises(FrameError, match="The region 25,0,10,10 does not lie in images of 30 x 20 pixels"):
        StreamView(Region(25, 0, 10, 10)).prepare(eight_bits(RAMP))


def test_one_field_is_kept_and_the_other_one_interpolated() -> None:
    image = np.array([[10], [99], [20], [99], [40], [99]], np.uint8).repeat(3, axis=1)
    assert StreamView(deinterlace=True).prepare(image)[:, 0].tolist() == [10, 15, 20, 30, 40, 40]
    assert StreamView(deinterlace=True).prepare(image[:5])[:, 0].tolist() == [10, 15, 20, 30, 40]
    assert StreamView(deinterlace=True).prepare(image[:1])[:, 0].tolist() == [10]
    colour = np.dstack([image] * 3)
    assert StreamView(deinterlace=True).prepare(colour)[1].tolist() == [[15] * 3] * 3
    # The fields are the image's, wherever the region begins.
    assert StreamView(Region(0, 1, 3, 3), deinterlace=True).prepare(image)[:, 0].tolist() == [15, 20, 30]
    assert image[1, 0] == 99


def test_sixteen_bits_keep_the_window_of_the_first_image() -> None:
    view = StreamView()
    black = view.prepare(np.full((20, 30), 500, np.uint16))
    assert black.dtype == np.uint8 and (black == 0).all() and view.window is None
    first = view.prepare(RAMP)
    window = view.window
    assert first.min() == 0 and first.max() == 255 and 0 <= window.lower < 10 and 590 < window.upper < 600
    assert (view.prepare(RAMP // 2) == window.to_uint8(RAMP // 2)).all()
    assert view.window == window
    view.reset_window()
    assert view.prepare(RAMP // 2).max() == 255


def test_a_given_window_stays() -> None:
    view = StreamView(window=Window(100, 355))
    assert (view.prepare(RAMP)[5] == np.clip(RAMP[5].astype(int) - 100, 0, 255)).all()
    view.reset_window()
    assert view.window == Window(100, 355)


def test_images_of_another_size_begin_anew() -> None:
    view = StreamView()
    view.prepare(RAMP)
    assert view.prepare(RAMP[:10] + 1000).max() == 255


def drawn(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """An image (240, 320) with a grey shape and a line of text beside it, and where the shape is."""
    inside = np.zeros((240, 320), np.uint8)
    if shape == "circle":
        cv2.circle(inside, (170, 120), 100, 1, -1)
    elif shape == "fan":
        cv2.ellipse(inside, (160, 10), (200, 200), 90, -35, 35, 1, -1)
    else:
        inside[20:220, 60:260] = 1
    image = inside * 90
    # A dark structure inside it, and one at its edge.
    cv2.circle(image, (160, 130), 30, 0, -1)
    cv2.putText(image, "12:30", (3, 14), cv2.FONT_HERSHEY_PLAIN, 1, 255, 1)
    return image, inside.astype(bool)


@pytest.mark.parametrize("shape", ["circle", "fan", "rectangle"])
@pytest.mark.parametrize("colour", [False, True])
def test_the_picture_in_an_image_is_found_once(shape: str, colour: bool) -> None:
    image, inside = drawn(shape)
    image = np.dstack([image] * 3) if colour else image
    noise = np.random.default_rng(0)
    view = StreamView(AUTO, flip_x=True)
    for _ in range(LOOKED_AT - 1):
        assert view.prepare(image).shape == image.shape
        assert view.looks and not view.found
    shown = view.prepare(image)
    assert not view.looks and f"found at {view.region}" in view.found
    rows, columns = np.nonzero(inside)
    box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert (
        np.abs(np.subtract((view.region.x, view.region.y, view.region.width, view.region.height), box)).max()
        <= 8
    )
    assert shown.shape[:2] == (view.region.height, view.region.width)
    # All that is there is shown, and around it is black.
    bright = image if not colour else image[..., 0]
    back = view.mask_to_image(shown if not colour else shown[..., 0], image.shape)
    assert (back[inside] == bright[inside]).mean() > 0.99
    far = cv2.erode((~inside).astype(np.uint8), np.ones((21, 21))).astype(bool)
    assert (view.prepare(noise.integers(0, 256, image.shape, dtype=np.uint8)) > 0).any()
    assert (back[far] == 0).all()
    # What comes then is cut alike, whatever it is.
    white = view.prepare(np.full_like(image, 255))
    assert white.shape == shown.shape
    assert (white.reshape(-1).min() == 0) == (shape != "rectangle")


def test_an_image_that_its_picture_fills_is_taken_whole() -> None:
    view = StreamView(AUTO)
    image = np.full((100, 120, 3), 80, np.uint8)
    for _ in range(LOOKED_AT):
        shown = view.prepare(image)
    assert shown.shape == image.shape and "fills the image" in view.found


def test_an_image_without_a_picture_is_taken_whole() -> None:
    view = StreamView(AUTO)
    for _ in range(LOOKED_AT):
        shown = view.prepare(np.zeros((100, 120), np.uint8))
    assert shown.shape == (100, 120) and "No picture was found" in view.found


def test_a_picture_in_sixteen_bits_is_found() -> None:
    image, _ = drawn("circle")
    view = StreamView(AUTO)
    for _ in range(LOOKED_AT):
        shown = view.prepare(image.astype(np.uint16) * 300 + 1000)
    assert shown.dtype == np.uint8 and 195 <= view.region.width <= 210


@needs_data
@pytest.mark.parametrize(
    ("name", "box", "shape"),
    [
        ("scikitsurgery_laparoscopic_liver.jpg", (174, 0, 1410, 1079), "circle"),
        ("plus_BoneUltrasound_L14.igs.mha", (176, 0, 467, 616), "rectangle"),
        # Its gain is low: the near field, at the bottom, is all but black.
        ("plus_BKMedical_6frames.igs.mha", (161, 104, 434, 325), "fan"),
    ],
)
def test_real_pictures_are_found(name: str, box: tuple[int, int, int, int], shape: str) -> None:
    view = StreamView(AUTO)
    frames = played(open_player(LIVE / name), loop=True)
    for frame in itertools.islice(frames, LOOKED_AT):
        shown = view.prepare(frame.pixels)
    region = view.region
    assert np.abs(np.subtract((region.x, region.y, region.width, region.height), box)).max() <= 12
    white = view.prepare(np.full_like(frame.pixels, 255))
    share = (white > 0).mean()
    assert shown.shape == white.shape
    assert share == 1 if shape == "rectangle" else 0.6 < share < 0.95


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("", None),
        ("whole", None),
        (" Auto ", AUTO),
        ("1, 2,30,40", Region(1, 2, 30, 40)),
        ("0,0,1,1", Region(0, 0, 1, 1)),
    ],
)
def test_a_region_is_read(text: str, region: object) -> None:
    assert parse_region(text) == region


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1.5,0,2,2", "fan", "-1,0,5,5", "0,0,0,5"])
def test_a_text_that_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(FrameError, match=f'The region "{text}" is none; '):
        parse_region(text)


@pytest.mark.parametrize("flip_x", [False, True])
def test_a_large_image_is_worked_on_smaller_and_its_masks_come_back_in_its_own_pixels(flip_x: bool) -> None:
    image = np.zeros((1080, 1920), np.uint8)
    image[500:600, 300:500] = 255
    view = StreamView(Region(10, 20, 1800, 1000), flip_x=flip_x)
    prepared = view.prepare(image)
    assert prepared.shape == (569, LONGEST)
    back = view.mask_to_image(prepared > 127, image.shape)
    assert (back ^ (image > 0)).sum() < 0.02 * (image > 0).sum()
    corners = np.array([[300.0, 500.0], [499.0, 599.0]])
    assert np.allclose(view.to_image(view.to_view(corners)), corners)
    rows, columns = np.nonzero(prepared > 127)
    seen = view.to_image(np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]]))
    assert np.abs(np.sort(seen, axis=0) - corners).max() < 2
    labels = view.mask_to_image((prepared > 127).astype(np.uint8) * 7, image.shape)
    assert set(np.unique(labels)) == {0, 7}
