# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures: every kind of file gives the pixels that a viewer shows, and arrays are the same pictures as files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import phantom
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from samm_core.batch import work
from samm_core.batch.table import DONE, REFUSED, Outcome, Row
from samm_core.errors import MaskError, VolumeError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.models.parity import dice_of
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation
from samm_core.sources.picture import MAX_PIXELS, PICTURE, picture_plane, picture_volume
from samm_core.sources.volume import Volume, Window, read_here, read_volume

ROWS, COLUMNS = 5, 7
CHANCE = np.random.default_rng(0)
GREY = CHANCE.integers(0, 256, (ROWS, COLUMNS), np.uint8)
GREY16 = CHANCE.integers(0, 1 << 16, (ROWS, COLUMNS), np.uint16)
RGB = CHANCE.integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)
RGB16 = CHANCE.integers(0, 1 << 16, (ROWS, COLUMNS, 3), np.uint16)
ALPHA = CHANCE.integers(0, 256, (ROWS, COLUMNS), np.uint8)


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, ALPHA])


def as_palette() -> Image.Image:
    return Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE)


def as_png(samples: np.ndarray, colour_type: int) -> bytes:
    """samples: (H, W, …) uint16, big-endian in the file, as Pillow does not write it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


PALETTE = as_palette()
# By file name: what is written, and the pixels that are to be read.
LOSSLESS: dict[str, tuple[Callable[[Path], object], np.ndarray]] = {
    "grey.png": (Image.fromarray(GREY).save, GREY),
    "grey.bmp": (Image.fromarray(GREY).save, GREY),
    "grey.tif": (Image.fromarray(GREY).save, GREY),
    "packed.tiff": (lambda path: Image.fromarray(GREY).save(path, compression="tiff_lzw"), GREY),
    # Pillow inverts 8 bits as it writes them, and not 16.
    "white-least.tif": (lambda path: Image.fromarray(GREY).save(path, tiffinfo={262: 0}), GREY),
    "grey16.png": (Image.fromarray(GREY16).save, GREY16),
    "grey16.tif": (Image.fromarray(GREY16).save, GREY16),
    "white-least-16.tif": (lambda path: Image.fromarray(~GREY16).save(path, tiffinfo={262: 0}), GREY16),
    "grey-alpha.png": (Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA))).save, GREY),
    "grey16-alpha.png": (
        lambda path: path.write_bytes(as_png(np.dstack([GREY16, GREY16 // 3]), 4)),
        (GREY16 >> 8).astype(np.uint8),
    ),
    "one-bit.png": (Image.fromarray(GREY > 99).save, (GREY > 99).astype(np.uint8) * 255),
    "rgb.png": (Image.fromarray(RGB).save, RGB),
    "rgb.bmp": (Image.fromarray(RGB).save, RGB),
    "rgb.tif": (Image.fromarray(RGB).save, RGB),
    "rgba.png": (Image.fromarray(with_alpha(RGB)).save, RGB),
    "rgb16.png": (lambda path: path.write_bytes(as_png(RGB16, 2)), (RGB16 >> 8).astype(np.uint8)),
    "palette.png": (PALETTE.save, np.array(PALETTE.convert("RGB"))),
    "palette-clear.png": (lambda path: PALETTE.save(path, transparency=3), np.array(PALETTE.convert("RGB"))),
    "float.tif": (Image.fromarray(GREY.astype(np.float32) / 7).save, GREY.astype(np.float32) / 7),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_file_gives_the_pixels_that_are_in_it(name: str, tmp_path: Path) -> None:
    write, pixels = LOSSLESS[name]
    write(tmp_path / name)

    volume = read_here(tmp_path / name)

    assert np.array_equal(volume.voxels[0], pixels) and volume.voxels.dtype == pixels.dtype
    assert volume.geometry.dimensions == (COLUMNS, ROWS, 1)
    assert np.array_equal(volume.geometry.spacing, (1, 1, 1))
    assert any("16 bits a colour" in each for each in volume.warnings) == (
        "16" in name and pixels.dtype == np.uint8
    )
    # The same pixels in memory are the same picture.
    in_memory = picture_volume(pixels)
    assert (in_memory.uid, in_memory.window) == (volume.uid, volume.window)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_close_to_what_was_saved(mode: str, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :80]
    smooth = np.dstack([x * 2, y * 3, 200 - x - y]).astype(np.uint8)
    saved = Image.fromarray(smooth).convert(mode)
    saved.save(tmp_path / "p.jpg", quality=100, subsampling=0)

    read = read_here(tmp_path / "p.jpg").voxels[0]

    expected = np.array(saved if mode == "L" else saved.convert("RGB"))
    assert read.shape == expected.shape and np.abs(read.astype(int) - expected).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(orientation: int, tmp_path: Path) -> None:
    """One corner is bright: where it goes is what EXIF says of each orientation."""
    pixels = np.zeros((40, 64), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "p.jpg", exif=exif, quality=100)

    volume = read_here(tmp_path / "p.jpg")

    read = volume.voxels[0] > 128
    # Of each orientation: whether rows and columns change places, and the corner that the first pixel comes to.
    turned, bottom, right = {
        1: (False, 0, 0), 2: (False, 0, 1), 3: (False, 1, 1), 4: (False, 1, 0),
        5: (True, 0, 0), 6: (True, 0, 1), 7: (True, 1, 1), 8: (True, 1, 0),
    }[orientation]  # fmt: skip
    assert read.shape == ((64, 40) if turned else (40, 64))
    assert read[-3 if bottom else 2, -3 if right else 2] and 50 <= read.sum() <= 80
    assert any("turned upright" in each for each in volume.warnings) == (orientation != 1)


def test_what_is_no_single_picture_is_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(~GREY)
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    with pytest.raises(VolumeError, match=r"pages\.tif holds 2 pictures; save one of them\."):
        read_here(tmp_path / "pages.tif")
    first.save(tmp_path / "p.gif")
    with pytest.raises(VolumeError, match=r"p\.gif is of no known kind; give one of .*\.tif"):
        read_here(tmp_path / "p.gif")
    (tmp_path / "p.gif").rename(tmp_path / "p.png")
    with pytest.raises(VolumeError, match=r"p\.png cannot be read \(it is no PNG, JPEG, TIFF or BMP\)"):
        read_here(tmp_path / "p.png")
    # A photograph with a second picture behind it, as telephones write them, is that photograph.
    first.save(tmp_path / "p.jpg", "MPO", save_all=True, append_images=[second], quality=100)
    assert np.abs(read_here(tmp_path / "p.jpg").voxels[0].astype(int) - GREY).max() <= 3


# DICOM. The colours of pydicom's SC_rgb files, by row, at column 50.
STRIPES = {5: (255, 0, 0), 25: (0, 255, 0), 45: (0, 0, 255), 65: (0, 0, 0), 75: (64, 64, 64), 95: (255, 255, 255)}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_rle_16bit.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", 0),
        ("SC_rgb_dcmtk_+eb+cr.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 5),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", 5),
        ("SC_ybr_full_422_uncompressed.dcm", 5),
    ],
    ids=["RGB", "RGB 16 bit", "RGB lossless", "RGB JPEG", "YBR_FULL", "YBR_FULL_422", "YBR_FULL_422 raw"],
)
def test_dicom_colours_are_rgb(name: str, error: int) -> None:
    volume = read_here(Path(get_testdata_file(name, download=False)))
    assert volume.voxels.shape == (1, 100, 100, 3) and volume.voxels.dtype == np.uint8
    for row, colour in STRIPES.items():
        assert np.abs(volume.voxels[0, row, 50].astype(int) - colour).max() <= error, row


def test_a_dicom_palette_is_shown_in_its_colours() -> None:
    path = Path(get_testdata_file("examples_palette.dcm", download=False))
    header = pydicom.dcmread(path)
    tables = [
        np.frombuffer(getattr(header, f"{name}PaletteColorLookupTableData"), "<u2")
        for name in ("Red", "Green", "Blue")
    ]
    index = int(header.pixel_array[300, 400])

    volume = read_here(path)

    assert volume.voxels.shape == (1, 350, 800, 3)
    assert volume.voxels[0, 300, 400].tolist() == [int(table[index]) >> 8 for table in tables]
    # Sound has no place in a patient that the file would know of, and here no scale: a pixel counts as 1 mm.
    assert np.array_equal(volume.geometry.spacing, (1, 1, 1))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_grey_shows_bone_white(photometric: str, tmp_path: Path) -> None:
    stored = (GREY16 >> 4).astype(np.uint16)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.PhotometricInterpretation = "DX", photometric
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = ROWS, COLUMNS, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.PixelData = 0, stored.tobytes()
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)

    volume = read_here(tmp_path / "x.dcm")

    shown = volume.voxels[0].astype(int)
    expected = stored if photometric == "MONOCHROME2" else stored.max() - (stored - stored.min())
    assert np.array_equal(shown, expected)
    assert np.array_equal(volume.geometry.spacing, (1, 1, 1))
    assert any("1 mm was taken" in each for each in volume.warnings)


def test_a_film_is_sent_to_samm_stream() -> None:
    with pytest.raises(VolumeError, match=r"a film of 30 frames .* play it with \./samm stream"):
        read_here(Path(get_testdata_file("examples_ybr_color.dcm", download=False)))


# In memory.


def image(volume: Volume) -> np.ndarray:
    return volume.image(PICTURE)


def test_an_array_is_a_picture(tmp_path: Path) -> None:
    volume = picture_volume(RGB, "frame 12")
    assert np.array_equal(image(volume), RGB)
    assert (volume.name, volume.uri) == ("frame 12", "")
    assert volume.shape(PICTURE) == (ROWS, COLUMNS) and not volume.problem(PICTURE)
    assert picture_volume(with_alpha(RGB)).uid == volume.uid
    assert picture_volume(RGB[:, ::-1]).uid != volume.uid
    assert np.array_equal(image(picture_volume(RGB16)), RGB16 >> 8)
    cv2.imwrite(str(tmp_path / "p.png"), RGB[..., ::-1])
    assert read_volume(tmp_path / "p.png").uid == volume.uid


def test_grey_is_shown_in_its_window() -> None:
    ramp = np.array([[0, 1000, 2000, 3000]], np.uint16)
    volume = picture_volume(ramp, window=Window(1000, 3000))
    assert image(volume)[0, :, 0].tolist() == [0, 0, 128, 255]
    assert picture_volume(ramp.astype(">u2")).uid == volume.uid
    assert picture_volume(ramp > 999).voxels.tolist() == [[[0, 255, 255, 255]]]


def test_whoever_gave_an_array_may_draw_on_it() -> None:
    pixels = GREY.copy()
    volume = picture_volume(pixels)
    pixels[:] = 0
    assert np.array_equal(volume.voxels[0], GREY)


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.zeros((2, 3, 2), np.uint8), r"shape \(2, 3, 2\); give rows × columns"),
        (np.zeros(7, np.uint8), r"shape \(7,\)"),
        (np.zeros((2, 3, 3), np.float32), "type float32; give 8 or 16 bits without sign"),
        (np.zeros((2, 3), np.complex64), "type complex64; give real numbers"),
        (np.zeros((0, 3), np.uint8), "still is empty"),
        (np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1000 + 1, 1000)), "at most 89,478,485 are read"),
        (np.full((2, 3), np.nan), "holds no finite voxel"),
    ],
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray, sentence: str) -> None:
    with pytest.raises(VolumeError, match=sentence):
        picture_volume(pixels, "still")


@given(
    st_numpy.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float16, np.float32, bool, ">u2"]),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
    )
)
def test_every_grey_array_is_a_picture_or_refused(pixels: np.ndarray) -> None:
    try:
        shown = image(picture_volume(pixels))
    except VolumeError:
        return
    assert shown.shape == (*pixels.shape, 3) and shown.dtype == np.uint8


def test_a_volume_of_one_slice_is_a_picture_in_its_own_plane() -> None:
    assert picture_plane(picture_volume(GREY).geometry) == Plane.AXIAL
    coronal = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    assert picture_plane(VolumeGeometry((7, 5, 1), coronal)) == Plane.CORONAL
    assert picture_plane(VolumeGeometry((7, 5, 2), coronal)) is None


# `samm segment` on a picture.

DISC = np.hypot(*(np.mgrid[:96, :128] - np.array([44, 70]).reshape(2, 1, 1))) < 22


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A red disc on brown, with noise."""
    noise = np.random.default_rng(1).normal(0, 6, (*DISC.shape, 3))
    pixels = np.where(DISC[..., None], (200, 60, 50), (90, 80, 60)) + noise
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def segmented(path: Path, **row: object) -> tuple[list[Outcome], Path]:
    folder = path.parent / "out"
    job = work.Job(str(path), (Row(str(path), **row),), str(folder), work.stem_of(str(path)))
    return work.segment_volume(job, work.Settings(device="cpu")), folder


def test_a_box_on_a_picture_gives_its_mask_as_a_picture(photograph: Path) -> None:
    (outcome,), folder = segmented(photograph, segment="disc", box_xyxy=(46, 20, 94, 68))

    assert (outcome.status, outcome.ml) == (DONE, 0.0)
    assert {each.name for each in folder.iterdir()} == {
        "manifest.json",
        "overlay.png",
        "photograph.mask.png",
        "photograph.seg.nrrd",
    }
    mask = Image.open(folder / "photograph.mask.png")
    labels = np.array(mask)
    assert labels.dtype == np.uint8 and labels.shape == DISC.shape and set(np.unique(labels)) == {0, 1}
    assert dice_of(labels == 1, DISC) > 0.95
    # A viewer shows the segment's colour on black.
    assert np.array_equal(np.array(mask.convert("L")) > 0, labels > 0)
    overlay = np.array(Image.open(folder / "overlay.png"))
    changed = (overlay != np.array(Image.open(photograph))).any(axis=2)
    # The fill, and an outline of its own pixels.
    assert np.array_equal(changed, labels == 1)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"box_xyxy": (46, 20, 94, 68), "propagate": True}, "no other slices to propagate to"),
        ({"box_ras": (0, 0, 0, 9, 9, 9)}, "no third side for a 3-D box"),
        ({"box_xyxy": (46, 20, 94, 68), "plane": "coronal"}, "is axial, not coronal"),
        ({"box_xyxy": (46, 20, 94, 68), "slice_index": 1}, "There is no axial slice 1"),
        ({"points_xy": ((128, 5),)}, r"The point (128, 5) lies outside"),
    ],
)
def test_what_a_picture_has_no_room_for_is_refused(
    photograph: Path, row: dict[str, object], sentence: str
) -> None:
    (outcome,), folder = segmented(photograph, **row)
    assert outcome.status == REFUSED and sentence in outcome.sentence and outcome.sentence.endswith(".")
    assert not folder.exists()


def test_a_dicom_of_one_image_needs_no_slice_and_a_series_does(tmp_path: Path) -> None:
    slices = phantom.dicom_slices(phantom.ball((11, 8, 7)), phantom.placed(np.eye(3), (1, 1, 1), (0, 0, 0)))
    slices[7].save_as(tmp_path / "one.dcm", enforce_file_format=True)
    (outcome,), _ = segmented(tmp_path / "one.dcm", box_xyxy=(6, 3, 15, 12))
    assert outcome.status == DONE
    series = phantom.write_dicom(tmp_path / "series.dcm", slices)
    (outcome,), _ = segmented(series, box_xyxy=(6, 3, 15, 12))
    assert outcome.status == REFUSED and "The slice is missing; give its index" in outcome.sentence


def test_a_mask_picture_is_of_one_slice_and_never_written_over_a_picture(
    photograph: Path, tmp_path: Path
) -> None:
    volume = Segmentation(VolumeGeometry((7, 5, 2), np.eye(4)))
    with pytest.raises(MaskError, match="holds one slice, and the volume has 2"):
        write_segmentation(volume, tmp_path / "v.mask.png")
    picture = Segmentation(VolumeGeometry((7, 5, 1), np.eye(4)))
    name = picture.apply(GREY > 128, Plane.AXIAL, 0, "a")
    write_segmentation(picture, tmp_path / "p.mask.png")
    write_segmentation(picture, tmp_path / "p.mask.png")
    labels = np.array(Image.open(tmp_path / "p.mask.png"))
    assert np.array_equal(labels == 1, GREY > 128) and picture.voxels(name) == (GREY > 128).sum()
    photograph.rename(tmp_path / "q.mask.png")
    with pytest.raises(MaskError, match="no segmentation of samm"):
        write_segmentation(picture, tmp_path / "q.mask.png")
