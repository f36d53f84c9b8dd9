# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reading: a ball is found where the file puts it, or the file is refused; nothing a file says harms who reads it."""

from __future__ import annotations

import bz2
import gzip
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantom
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from samm_core.errors import VolumeError
from samm_core.geometry import Plane
from samm_core.sources.readers import isolated
from samm_core.sources.volume import WINDOW_PRESETS, Window, automatic_window, read_here, read_volume

CENTRE = (11, 8, 7)
STRAIGHT = phantom.placed(np.diag([-1.0, -1.0, 1.0]), (1.5, 1.25, 2.5), (14, 11, -20))
FILES: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    ".nii": phantom.write_nifti,
    ".nii.gz": phantom.write_nifti,
    ".nrrd": phantom.write_nrrd,
    ".mha": phantom.write_meta,
}

angles = st.floats(-180, 180, allow_nan=False)
spacings = st.floats(0.3, 8)
centres = st.tuples(st.integers(5, 14), st.integers(5, 12), st.integers(4, 9))


@st.composite
def placements(draw: st.DrawFn, shear: bool = True) -> np.ndarray:
    """Oblique, flipped, of any spacing; with a shear of slices against each other as a tilted gantry makes it."""
    axes = phantom.rotation([draw(angles) for _ in range(3)]) @ np.diag(
        [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    )
    if shear:
        tilt = np.tan(np.deg2rad(draw(st.floats(-30, 30))))
        axes[:, 2] += tilt * axes[:, draw(st.integers(0, 1))]
    origin = [draw(st.floats(-300, 300)) for _ in range(3)]
    return phantom.placed(axes, [draw(spacings) for _ in range(3)], origin)


def assert_found(path: Path, centre_ijk: tuple[int, ...], ijk_to_ras: np.ndarray) -> None:
    """The ball is where it was put: in the voxels, and where a click in RAS lands, in every plane."""
    volume = read_here(path)
    expected = (ijk_to_ras @ [*centre_ijk, 1])[:3]
    bright = volume.voxels > (phantom.BALL + phantom.BODY) / 2
    half_a_voxel = np.linalg.norm(ijk_to_ras[:3, :3], axis=0).min() / 2
    found = phantom.centre_ras(bright, volume.geometry.ijk_to_ras)
    assert np.linalg.norm(found - expected) < half_a_voxel, f"the ball is at {found}, not at {expected}"
    for plane in Plane:
        index = volume.geometry.slice_at(expected, plane)
        ((x, y),) = volume.geometry.to_slice(expected[None], plane, index)
        assert volume.geometry.take_slice(bright, plane, index)[round(y), round(x)], f"missed in {plane.name}"


@pytest.mark.parametrize("suffix", FILES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(placement=placements(), centre=centres)
def test_a_ball_is_found_where_the_file_puts_it(
    suffix: str, placement: np.ndarray, centre: tuple[int, ...], tmp_path: Path
) -> None:
    path = FILES[suffix](tmp_path / f"ball{suffix}", phantom.ball(centre), placement)
    assert_found(path, centre, placement)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(placement=placements(), centre=centres, data=st.data())
def test_a_ball_is_found_where_a_dicom_series_puts_it(
    placement: np.ndarray, centre: tuple[int, ...], data: st.DataObject, tmp_path: Path
) -> None:
    """Oblique, tilted, flipped, its files in any order, each with a slope of its own."""
    folder = tmp_path / "series"
    shutil.rmtree(folder, ignore_errors=True)
    slopes = data.draw(
        st.none() | st.lists(st.floats(0.02, 0.9), min_size=phantom.SIDES[2], max_size=phantom.SIDES[2])
    )
    order = data.draw(st.permutations(range(phantom.SIDES[2])))
    slices = phantom.dicom_slices(phantom.ball(centre), placement, slopes=slopes)
    phantom.write_dicom(folder, slices, [f"{n:03}.dcm" for n in order])

    assert_found(folder, centre, placement)
    volume = read_here(folder)
    assert (
        np.abs(np.unique(np.rint(volume.voxels / 10)) * 10 - [phantom.AIR, phantom.BODY, phantom.BALL]).max()
        < 1
    )


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(placement=placements(), centre=centres, order=st.permutations(range(phantom.SIDES[2])))
def test_a_ball_is_found_where_an_enhanced_image_puts_it(
    placement: np.ndarray, centre: tuple[int, ...], order: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "enhanced.dcm"
    phantom.enhanced(phantom.ball(centre), placement, order).save_as(path, enforce_file_format=True)
    assert_found(path, centre, placement)


def test_a_tilted_gantry_is_told(tmp_path: Path) -> None:
    axes = np.diag([-1.0, -1.0, 1.0])
    axes[1, 2] = np.tan(np.deg2rad(20))
    tilted = phantom.placed(axes, (1.5, 1.5, 2.5), (0, 0, 0))
    folder = phantom.write_dicom(tmp_path / "ct", phantom.dicom_slices(phantom.ball(CENTRE), tilted))

    (warning,) = read_here(folder).warnings

    assert "tilt of 20.0°" in warning


def drop(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    return slices[:5] + slices[6:]


def double(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[6].ImagePositionPatient = slices[5].ImagePositionPatient
    return slices


def unequal(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    x, y, z = slices[6].ImagePositionPatient
    slices[6].ImagePositionPatient = [x, y, z + 1.0]
    return slices


def aside(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    x, y, z = slices[6].ImagePositionPatient
    slices[6].ImagePositionPatient = [x + 12.0, y, z]
    return slices


def turned(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[6].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return slices


def skewed(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for dataset in slices:
        dataset.ImageOrientationPatient = [1, 0, 0, 0.5, 0.8660254, 0]
    return slices


def other_spacing(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[6].PixelSpacing = ["2.0", "2.0"]
    return slices


def silent(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    del slices[6].ImagePositionPatient
    return slices


def placeless(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    for dataset in slices:
        del dataset.ImagePositionPatient
    return slices


def smaller(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[6].Rows = 9
    return slices


def drifting(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """Each distance is within a tenth of the others', and they add up."""
    for k, dataset in enumerate(slices):
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, 2.0 * k + 0.18 * max(0, k - 7)]
    return slices


def first_without_spacing(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    del slices[0].PixelSpacing
    return slices


def slope_of_0(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[6].RescaleSlope = "0"
    return slices


def two_series(slices: list[pydicom.Dataset]) -> list[pydicom.Dataset]:
    slices[6].SeriesInstanceUID = "1.2.3"
    return slices


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop, r"2\.50 to 5\.00 mm apart at 005\.dcm"),
        (double, r"0\.00 to 5\.00 mm apart"),
        (unequal, r"1\.50 to 3\.50 mm apart"),
        (aside, r"006\.dcm in .* lies 12\.0 mm beside"),
        (turned, r"006\.dcm in .* is turned by 90\.0° against 000\.dcm"),
        (skewed, r"000\.dcm has the orientation .* no right angle"),
        (other_spacing, r"006\.dcm has pixels of \(2\.0, 2\.0\) mm, but 000\.dcm"),
        (silent, r"006\.dcm in .* does not say where it lies"),
        (placeless, r"\.dcm in .* does not say where it lies"),
        (smaller, r"006\.dcm has Rows 9, but 000\.dcm 18"),
        (two_series, r"holds 2 series"),
        (drifting, r"007\.dcm in .* lies 0\.6 mm off its place in slices of one distance"),
        (
            first_without_spacing,
            r"001\.dcm has pixels of .* mm, but 000\.dcm of a size that it does not tell",
        ),
        (slope_of_0, r"006\.dcm has the rescale slope 0"),
    ],
)
def test_a_series_that_is_no_volume_is_refused_by_its_slice(
    change: Callable[[list[pydicom.Dataset]], list[pydicom.Dataset]], sentence: str, tmp_path: Path
) -> None:
    slices = change(phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT))
    folder = phantom.write_dicom(tmp_path / "ct", slices)
    with pytest.raises(VolumeError, match=sentence):
        read_here(folder)


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagerPixelSpacing"])
def test_an_x_ray_has_the_spacing_that_it_tells(tag: str, tmp_path: Path) -> None:
    (picture,) = phantom.dicom_slices(
        phantom.ball(CENTRE)[:1], STRAIGHT, sop_class="1.2.840.10008.5.1.4.1.1.12.1", modality="XA"
    )
    for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(picture, name)
    setattr(picture, tag, ["0.3", "0.2"])
    folder = phantom.write_dicom(tmp_path / "xa", [picture])

    volume = read_here(folder)

    assert volume.geometry.spacing[:2] == pytest.approx([0.2, 0.3])
    assert any("does not tell how it lies" in warning for warning in volume.warnings)
    assert any("on the detector alone" in warning for warning in volume.warnings) == (
        tag == "ImagerPixelSpacing"
    )


def test_a_single_slice_is_as_thick_as_it_tells(tmp_path: Path) -> None:
    (picture,) = phantom.dicom_slices(phantom.ball(CENTRE)[7:8], STRAIGHT)
    picture.SliceThickness = "5"
    assert read_here(phantom.write_dicom(tmp_path / "ct", [picture])).geometry.spacing[2] == pytest.approx(5)


def test_enhanced_images_of_one_frame_are_a_series(tmp_path: Path) -> None:
    """Their places are in the functional groups, as in those of many frames."""
    frames = [phantom.enhanced(phantom.ball(CENTRE), STRAIGHT, [k]) for k in range(phantom.SIDES[2])]
    for dataset in frames:
        dataset.SeriesInstanceUID = "1.2.3"
    assert_found(phantom.write_dicom(tmp_path / "ct", frames), CENTRE, STRAIGHT)


def test_values_by_a_table_are_the_table_s(tmp_path: Path) -> None:
    slices = phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [phantom.BALL - phantom.AIR + 1, 0, 16], "US"
    table.add_new("LUTData", "OW", (np.arange(phantom.BALL - phantom.AIR + 1, dtype="<u2") * 3).tobytes())
    for dataset in slices:
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.ModalityLUTSequence = [table]
    volume = read_here(phantom.write_dicom(tmp_path / "ct", slices))
    assert np.unique(volume.voxels).tolist() == [
        0,
        3 * (phantom.BODY - phantom.AIR),
        3 * (phantom.BALL - phantom.AIR),
    ]


def test_slopes_of_no_whole_number_type_are_floats(tmp_path: Path) -> None:
    slices = phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT)
    for dataset in slices:
        dataset.RescaleSlope, dataset.RescaleIntercept = "1e15", "0"
    volume = read_here(phantom.write_dicom(tmp_path / "ct", slices))
    assert volume.voxels.max() == pytest.approx(1e15 * (phantom.BALL - phantom.AIR))


def test_white_padding_is_no_part_of_the_picture(tmp_path: Path) -> None:
    slices = phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT, modality="MR")
    for dataset in slices:
        stored = np.frombuffer(dataset.PixelData, "<u2").copy()
        stored[:40] = 65535
        dataset.PixelData, dataset.PixelPaddingValue = stored.tobytes(), 65535
    volume = read_here(phantom.write_dicom(tmp_path / "mr", slices))
    assert (volume.voxels.min(), volume.voxels.max()) == (phantom.AIR, phantom.BALL)
    assert volume.window.upper <= phantom.BALL


def test_pixels_that_are_floats_are_read(tmp_path: Path) -> None:
    slices = phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT)
    for k, dataset in enumerate(slices):
        stored = phantom.ball(CENTRE)[k].astype("<f4") + 0.25
        dataset.FloatPixelData, dataset.BitsAllocated, dataset.RescaleIntercept = stored.tobytes(), 32, "0"
        del dataset.PixelData
    volume = read_here(phantom.write_dicom(tmp_path / "ct", slices))
    assert np.array_equal(volume.voxels, phantom.ball(CENTRE) + np.float32(0.25))


@pytest.mark.parametrize("kind", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless"])
def test_encodings_of_one_image_are_one_volume(kind: str) -> None:
    """Of pydicom's own test files, which come with the package."""
    plain, encoded = (
        read_here(Path(get_testdata_file(name, download=False)))
        for name in ("MR_small.dcm", f"MR_small_{kind}.dcm")
    )
    assert encoded.uid == plain.uid


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("SC_rgb_rle.dcm", (255, 0, 0)),
        ("SC_ybr_full_422_uncompressed.dcm", (254, 0, 0)),
        ("SC_rgb_jpeg_gdcm.dcm", (255, 0, 0)),
    ],
)
def test_colours_of_every_interpretation_are_rgb(name: str, colour: tuple[int, int, int]) -> None:
    volume = read_here(Path(get_testdata_file(name, download=False)))
    assert np.abs(volume.voxels[0, 5, 50].astype(int) - colour).max() <= 2


def test_a_film_is_refused_as_one(tmp_path: Path) -> None:
    film = phantom.enhanced(phantom.ball(CENTRE), STRAIGHT, range(6), sop_class=phantom.CINE)
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(VolumeError, match=r"film\.dcm is multi-frame, a film of 6 frames"):
        read_here(tmp_path / "film.dcm")


def test_frames_of_several_times_are_refused(tmp_path: Path) -> None:
    twice = phantom.enhanced(phantom.ball(CENTRE), STRAIGHT, [*range(6), *range(6)])
    twice.save_as(tmp_path / "twice.dcm", enforce_file_format=True)
    with pytest.raises(VolumeError, match=r"0\.00 to 2\.50 mm apart at Frame"):
        read_here(tmp_path / "twice.dcm")


def test_white_as_the_least_value_is_inverted_and_told(tmp_path: Path) -> None:
    slices = phantom.dicom_slices(-phantom.ball(CENTRE), STRAIGHT)
    for dataset in slices:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.RescaleIntercept = "0"
    volume = read_here(phantom.write_dicom(tmp_path / "ct", slices))

    assert np.argwhere(volume.voxels == volume.voxels.max()).mean(axis=0) == pytest.approx(
        CENTRE[::-1], abs=0.6
    )
    assert any("MONOCHROME1" in warning for warning in volume.warnings)


def test_two_placements_of_a_nifti_file_are_told(tmp_path: Path) -> None:
    other = STRAIGHT.copy()
    other[0, 3] += 30
    path = phantom.write_nifti(tmp_path / "two.nii.gz", phantom.ball(CENTRE), STRAIGHT, other)

    assert_found(path, CENTRE, STRAIGHT)
    (warning,) = read_here(path).warnings
    assert "30.0 mm apart" in warning and "sform" in warning


def test_a_qform_that_is_the_sform_but_for_rounding_is_not_told(tmp_path: Path) -> None:
    oblique = phantom.placed(phantom.rotation([12, -31, 77]), (0.7, 0.9, 3.1), (-80.3, 12.7, 900.1))
    path = phantom.write_nifti(tmp_path / "both.nii", phantom.ball(CENTRE), oblique, oblique)
    assert read_here(path).warnings == ()


def test_micrometres_are_read_in_millimetres_and_told(tmp_path: Path) -> None:
    nifti = phantom.write_nifti(tmp_path / "um.nii", phantom.ball(CENTRE), STRAIGHT)
    data = bytearray(nifti.read_bytes())
    data[123] = 3  # xyzt_units
    nifti.write_bytes(data)
    nrrd = phantom.write_nrrd(tmp_path / "um.nrrd", phantom.ball(CENTRE), STRAIGHT)
    units = b'space units: "um" "um" "um"\nencoding:'
    nrrd.write_bytes(nrrd.read_bytes().replace(b"encoding:", units, 1))
    for path in nifti, nrrd:
        volume = read_here(path)
        assert volume.geometry.spacing == pytest.approx(np.array([1.5, 1.25, 2.5]) / 1000, rel=1e-6)
        assert volume.geometry.ijk_to_ras[:3, 3] == pytest.approx(STRAIGHT[:3, 3] / 1000, rel=1e-6)
        assert "um; it was read in mm" in volume.warnings[0]


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    path = phantom.write_nrrd(tmp_path / "v.nrrd", phantom.ball(CENTRE), STRAIGHT)
    units = b'space units: "furlong" "furlong" "furlong"\nencoding:'
    path.write_bytes(path.read_bytes().replace(b"encoding:", units, 1))
    with pytest.raises(VolumeError, match=r"v\.nrrd measures in 'furlong'; export it in mm"):
        read_here(path)


def test_sizes_of_voxels_that_a_nifti_file_says_twice_are_told(tmp_path: Path) -> None:
    path = phantom.write_nifti(tmp_path / "v.nii", phantom.ball(CENTRE), STRAIGHT)
    data = bytearray(path.read_bytes())
    struct.pack_into("<3f", data, 80, 3, 3, 3)  # pixdim
    path.write_bytes(data)
    assert_found(path, CENTRE, STRAIGHT)
    (warning,) = read_here(path).warnings
    assert "1.5×1.25×2.5 mm by its sform, 3×3×3 by its pixdim" in warning


def test_a_slice_in_any_direction_is_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "coronal.nrrd"
    head = (
        b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nspace: right-anterior-superior\n"
        b"space directions: (2,0,0) (0,0,3)\nspace origin: (5,6,7)\nencoding: raw\n\n"
    )
    path.write_bytes(head + bytes(range(16)))
    geometry = read_here(path).geometry
    assert geometry.slice_count(Plane.CORONAL) == 1
    assert geometry.position_of([1, 1, 0])[0] == pytest.approx([7, 6, 10])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (b"BinaryData = False\n", r"v\.mha holds its voxels as text"),
        (b"TransformMatrix = 5 0 0 0 1 0 0 0 1\n", r"v\.mha has axes of the lengths \[5\.0, 1\.0, 1\.0\]"),
        (b"ElementSpacing = 1e-9 1 1\n", r"correct the spacing and origin"),
        (b"ElementSpacing = -1 1 1\n", r"v\.mha has the spacing"),
        (b"Offset = 1e12 0 0\n", r"correct the spacing and origin"),
    ],
)
def test_a_meta_image_that_says_what_cannot_be_is_refused(
    words: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.mha"
    path.write_bytes(META.replace(b"ElementDataFile", words + b"ElementDataFile") + b"LOCAL\n" + bytes(64))
    with pytest.raises(VolumeError, match=sentence):
        read_here(path)


# Hostile files. Each is answered with a sentence, soon, and the next file is read.

META = b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\nElementDataFile = "
NRRD = (
    b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nspace: left-posterior-superior\n"
    b"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
)


def hostile_files(folder: Path) -> list[Path]:
    secret = folder.parent / "secret.raw"
    secret.write_bytes(bytes(64))
    contents = {
        "pattern.mha": META + b"x%s%s%s%s%n.raw 1 6 1\n",
        "wide.mhd": META + b"%99999999d 1 6 1\n",
        "list.mha": META + b"LIST\nsecret.raw\n",
        "absolute.mha": META + f"{secret}\n".encode(),
        "above.mhd": META + b"../secret.raw\n",
        "linked.mhd": META + b"link.raw\n",
        "fifo.mhd": META + b"fifo.raw\n",
        "absolute.nhdr": NRRD + f"encoding: raw\ndata file: {secret}\n\n".encode(),
        "above.nrrd": NRRD + b"encoding: raw\ndata file: ../secret.raw\n\n",
        "list.nhdr": NRRD + b"encoding: raw\ndata file: LIST\n../secret.raw\n\n",
        "many.nhdr": NRRD + b"encoding: raw\ndata file: a%03d.raw 1 9 1\n\n",
        "skip.nrrd": NRRD + b"encoding: gzip\nbyte skip: 3000000000\n\n" + gzip.compress(bytes(64)),
        "back.nrrd": NRRD + b"encoding: raw\nbyte skip: -7\n\n" + bytes(64),
        "lines.nrrd": NRRD + b"encoding: raw\nline skip: 2000000000\n\n" + bytes(64),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "link.raw").symlink_to(secret)
    os.mkfifo(folder / "fifo.raw")
    os.mkfifo(folder / "fifo.nii")
    server = socket.socket(socket.AF_UNIX)
    # A socket's address is short; its folder's path may not be.
    here = os.open(folder, os.O_RDONLY)
    server.bind(f"/proc/self/fd/{here}/socket.nrrd")
    server.close()
    os.close(here)
    (folder / "device.mha").symlink_to("/dev/zero")
    return [
        *(folder / name for name in contents),
        folder / "fifo.nii",
        folder / "socket.nrrd",
        folder / "device.mha",
    ]


def test_no_file_reads_another_or_waits(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for path in hostile_files(folder):
        with pytest.raises(VolumeError, match=rf"^{path.stem}\.\w+ .*; .*\.$"):
            read_here(path)


def deflated(path: Path, mebibytes: int) -> Path:
    """A DICOM file whose elements unpack to so many MiB of zeros."""
    dataset = phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT)[0]
    dataset.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    body = data.index(b"\x08\x00\x16\x00UI")
    meta = data[:body].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    element = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, mebibytes << 20)
    packed = stream.compress(data[body:] + element) + stream.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands alone.
    block = stream.compress(bytes(1 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(meta + packed + mebibytes * block + stream.flush())
    return path


READ_AND_MEASURE = """
import resource, sys
from pathlib import Path
from samm_core.errors import VolumeError
from samm_core.sources.volume import read_volume
try:
    read_volume(Path(sys.argv[1]))
except VolumeError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_a_reading_process_holds_no_more_than_the_file_accounts_for(tmp_path: Path) -> None:
    """2 GiB in a deflated DICOM file of some MB; and an element that claims 2 GiB."""
    claims = bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 0x80000000) + bytes(800)
    for name, write in (
        ("deflated", lambda path: deflated(path, 2048)),
        ("claims", lambda path: path.write_bytes(claims)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        write(folder / "a.dcm")
        done = subprocess.run(
            [sys.executable, "-c", READ_AND_MEASURE, str(folder)], capture_output=True, text=True, check=True
        )
        sentence, kibibytes = done.stdout.splitlines()
        assert sentence.startswith("a.dcm ") or name in sentence
        assert int(kibibytes) < 1 << 20, f"{name} took {kibibytes} KiB"


def test_a_picture_is_bounded_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("L", (64, 64)).save(path)
    data = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    with pytest.raises(VolumeError, match=r"huge\.png (has 1,600,000,000 voxels|cannot be read)"):
        read_here(path)


def test_packed_voxels_are_unpacked_only_as_far_as_their_header_says(tmp_path: Path) -> None:
    for encoding, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress)):
        path = tmp_path / f"{encoding}.nrrd"
        path.write_bytes(NRRD + f"encoding: {encoding}\n\n".encode() + pack(bytes(1 << 24)))
        assert read_here(path).voxels.shape == (4, 4, 4)
    path = tmp_path / "packed.mha"
    head = META.replace(b"ElementDataFile", b"CompressedData = True\nElementDataFile")
    path.write_bytes(head + b"LOCAL\n" + zlib.compress(bytes(1 << 24)))
    assert read_here(path).voxels.shape == (4, 4, 4)


@pytest.mark.parametrize("link", [True, False], ids=["link", "file"])
def test_a_folder_does_not_lead_out_of_itself(link: bool, tmp_path: Path) -> None:
    slices = phantom.dicom_slices(phantom.ball(CENTRE), STRAIGHT)
    elsewhere = phantom.write_dicom(tmp_path / "elsewhere", slices[:1])
    folder = phantom.write_dicom(tmp_path / "ct", slices[1:])
    if link:
        (folder / "z.dcm").symlink_to(elsewhere / "000.dcm")
        with pytest.raises(VolumeError, match=r"z\.dcm in .* is a link to another folder"):
            read_here(folder)
    else:
        shutil.copy(elsewhere / "000.dcm", folder / "z.dcm")
        assert_found(folder, CENTRE, STRAIGHT)


def test_a_reader_that_dies_or_hangs_is_told_and_the_next_file_is_read(tmp_path: Path) -> None:
    path = phantom.write_nrrd(tmp_path / "ball.nrrd", phantom.ball(CENTRE), STRAIGHT)
    with pytest.raises(VolumeError, match=r"ball\.nrrd was not read within 0\.001 s"):
        isolated.read_isolated(path, limit_s=0.001)
    isolated.start_ahead()
    # As the kernel ends it where memory runs out.
    isolated._ready.kill()
    os.waitid(os.P_PID, isolated._ready.pid, os.WEXITED | os.WNOWAIT)
    assert read_volume(path).geometry.dimensions == phantom.SIDES


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    for name in ("a" * 5000 + ".nii", "nul\0.nii", str(tmp_path / "file" / "below.nii")):
        (tmp_path / "file").touch()
        with pytest.raises(VolumeError, match="There is no file or folder"):
            read_volume(Path(name))


def test_a_reading_process_ends_with_the_process_that_it_reads_for(tmp_path: Path) -> None:
    program = "import os\nfrom samm_core.sources.readers import isolated\nisolated.start_ahead()\nprint(isolated._ready.pid, flush=True)\nos.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        reader = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{reader}/cmdline").exists() and _is_alive(reader):
        assert time.monotonic() < deadline, "the reading process outlived its parent"
        os.sched_yield()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_processes_read_the_same(tmp_path: Path) -> None:
    for suffix in (".nii.gz", ".nrrd"):
        path = FILES[suffix](tmp_path / f"ball{suffix}", phantom.ball(CENTRE), STRAIGHT)
        here, there = read_here(path), read_volume(path)
        assert (here.uid, here.window, here.warnings) == (there.uid, there.window, there.warnings)
        assert not there.voxels.flags.writeable


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_refused_or_read(tmp_path: Path) -> None:
    """Bytes changed, cut out, doubled: each file is read or refused in a sentence, by whatever reader."""
    chance = random.Random(0)
    voxels = phantom.ball(CENTRE)
    originals = [write(tmp_path / f"original{suffix}", voxels, STRAIGHT) for suffix, write in FILES.items()]
    phantom.enhanced(voxels, STRAIGHT, range(6)).save_as(tmp_path / "e.dcm", enforce_file_format=True)
    phantom.dicom_slices(voxels, STRAIGHT)[0].save_as(tmp_path / "c.dcm", enforce_file_format=True)
    Image.fromarray((voxels[7] > 0).astype(np.uint8) * 200).save(tmp_path / "p.png")
    Image.fromarray((voxels[7] > 0).astype(np.uint8) * 200).save(tmp_path / "p.jpg")
    originals += [tmp_path / name for name in ("e.dcm", "c.dcm", "p.png", "p.jpg")]
    read = refused = 0
    for original in originals:
        content = original.read_bytes()
        path = original.with_name(f"mutated{''.join(original.suffixes)}")
        for _ in range(int(os.environ.get("SAMM_FUZZ", "60"))):
            path.write_bytes(mutated(content, chance))
            try:
                volume = read_here(path, max_voxels=1 << 20)
            except VolumeError as error:
                assert str(error).endswith("."), error
                refused += 1
                continue
            assert np.isfinite(volume.voxels).all() and volume.window.lower < volume.window.upper
            read += 1
    assert read and refused


def mutated(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        # Most of what matters is at the front.
        at = int(len(data) * chance.random() ** 3)
        kind = chance.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at : at + chance.randint(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 64)]
        else:
            data[at : at + 4] = struct.pack(
                "<i", chance.choice([-1, 0, 1, 0x7FFFFFFF, -0x80000000, 0x10000000])
            )
    return bytes(data) or b"\0"


# Windows.


@pytest.mark.parametrize(
    ("voxels", "modality", "window"),
    [
        ([0] * 900 + [1] * 100, "", (0, 1)),
        ([1] * 900 + [2] * 100, "", (1, 2)),
        ([255] * 900 + [510] * 100, "", (255, 510)),
        ([0] * 800 + [1] * 60 + [2] * 60 + [3] * 80, "", (0, 3)),
        ([-1000] * 500 + [20] * 400 + [220] * 100, "", (-160, 240)),
        ([-1024] * 80 + [0] * 400 + [900] * 400 + [2700] * 120, "", (0, 2700)),
        ([-1024] * 80 + [0] * 500 + [90] * 300 + [270] * 120, "", (0, 270)),
        ([-1000] * 500 + [20] * 500, "MR", (-1000, 20)),
        ([30] * 500 + [60] * 500, "CT", (-160, 240)),
        ([0.0] * 500 + [0.1] * 300 + [0.8] * 200, "PT", (0, 0.8)),
    ],
    ids=[
        "mask",
        "1 and 2",
        "255 and 510",
        "labels",
        "ct",
        "padded mr",
        "dim padded mr",
        "mr",
        "ct inside",
        "pet",
    ],
)
def test_a_window_shows_what_there_is(
    voxels: list[float], modality: str, window: tuple[float, float]
) -> None:
    dtype = np.int16 if all(isinstance(value, int) for value in voxels) else np.float32
    chosen, why = automatic_window(np.array(voxels, dtype).reshape(10, 10, 10), modality)
    assert (chosen.lower, chosen.upper) == pytest.approx(window)
    assert why.endswith(".")


def test_a_phase_picture_shows_both_signs() -> None:
    phase = np.random.default_rng(0).integers(-4096, 4096, (10, 20, 20)).astype(np.int16)
    window, _ = automatic_window(phase)
    assert window.lower < -3900 and window.upper > 3900


@given(st.lists(st.integers(-2000, 3000), min_size=2, max_size=40, unique=True), st.booleans())
def test_every_window_shows_a_difference(values: list[int], floats: bool) -> None:
    voxels = np.array(values, np.float32 if floats else np.int16).repeat(25).reshape(1, -1, 25)
    window, _ = automatic_window(voxels)
    if window != WINDOW_PRESETS["ct_abdomen"]:
        assert np.unique(window.to_uint8(voxels)).size > 1


def test_colours_have_a_window_of_their_own() -> None:
    assert automatic_window(np.zeros((1, 2, 2, 3), np.uint8))[0] == Window(0, 255)
