# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Volumes: what is read from each kind of file, and one sentence for each file that is refused."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from samm_core.errors import VolumeError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.sources.base import SliceKey
from samm_core.sources.volume import WINDOW_PRESETS, Volume, Window, automatic_window, read_here

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[4] / "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test volumes in {DATA}; set SAMM_TEST_DATA")
VOXELS = np.random.default_rng(0).integers(1, 1000, (4, 5, 6)).astype(np.int16)
MEDICAL = [".nii", ".nii.gz", ".nrrd", ".mha"]
# Where a NIfTI-1 header keeps the second side and the first side's spacing.
NIFTI_DIM_1, NIFTI_PIXDIM_1 = 42, 80


def write(path: Path, voxels: np.ndarray, *, vector: bool = False) -> Path:
    image = sitk.GetImageFromArray(voxels, isVector=vector)
    if image.GetDimension() == 3:
        image.SetSpacing((0.8, 1.1, 6.5))
        image.SetOrigin((-12.5, 40.25, 7.0))
    sitk.WriteImage(image, str(path))
    return path


def write_dicom(folder: Path, series: str = "1.2.826.0.1", heights: tuple[float, ...] = (0, 3, 6, 9)) -> Path:
    """A CT series, a file a slice; file names do not tell the order."""
    folder.mkdir(exist_ok=True)
    for k, height in enumerate(heights):
        image = sitk.GetImageFromArray(VOXELS[k % len(VOXELS)])
        image.SetSpacing((0.8, 1.1))
        tags = {
            "0008|0018": f"{series}.{k + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.826.0.9",
            "0020|000e": series,
            "0020|0013": str(k),
            "0020|0032": f"-12.5\\40.25\\{height}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{series}-{97 * (k + 3) % 11}.dcm"))
        writer.Execute(image)
    return folder


def damaged(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def patched(data: bytes, form: str, offset: int, *values: float) -> bytes:
    patch = bytearray(data)
    struct.pack_into(form, patch, offset, *values)
    return bytes(patch)


@pytest.mark.parametrize("suffix", [*MEDICAL, ".mhd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_are_read_as_they_were_written(tmp_path: Path, suffix: str, dtype: type) -> None:
    path = write(tmp_path / f"volume{suffix}", VOXELS.astype(dtype))

    volume = read_here(path)

    assert volume.voxels.dtype == dtype
    assert np.array_equal(volume.voxels, VOXELS.astype(dtype))
    assert volume.geometry.dimensions == (6, 5, 4)
    assert volume.geometry.position_of([0, 0, 0])[0] == pytest.approx([12.5, -40.25, 7.0])
    assert (volume.name, volume.uri) == (path.name, str(path.resolve()))
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1


def test_a_dicom_folder_is_read_in_the_order_of_its_positions(tmp_path: Path) -> None:
    volume = read_here(write_dicom(tmp_path / "ct"))

    assert np.array_equal(volume.voxels, VOXELS)
    assert volume.geometry.spacing == pytest.approx([0.8, 1.1, 3.0])
    assert volume.geometry.position_of([0, 0, 3])[0] == pytest.approx([12.5, -40.25, 9.0])


def test_other_files_beside_a_dicom_series_do_not_matter(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "ct")
    (folder / "notes.txt").write_text("no image")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")

    assert np.array_equal(read_here(folder).voxels, VOXELS)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg"])
def test_pictures_are_volumes_of_one_slice(tmp_path: Path, suffix: str) -> None:
    grey = np.tile(np.arange(40, dtype=np.uint8), (30, 1))
    color = np.stack([grey, grey // 2, 255 - grey], axis=-1)

    grey_volume = read_here(write(tmp_path / f"grey{suffix}", grey))
    color_volume = read_here(write(tmp_path / f"color{suffix}", color, vector=True))

    assert grey_volume.voxels.shape == (1, 30, 40)
    assert color_volume.voxels.shape == (1, 30, 40, 3)
    assert color_volume.window == Window(0, 255)
    assert color_volume.geometry.slice_shape(Plane.AXIAL) == (30, 40)
    image = color_volume.slice_image(Plane.AXIAL, 0)
    assert np.abs(image.astype(int) - color).max() <= (0 if suffix == ".png" else 30)


def test_alpha_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "rgba.png", np.full((3, 4, 4), 7, np.uint8), vector=True)
    assert read_here(path).voxels.shape == (1, 3, 4, 3)


@pytest.mark.parametrize("suffix", MEDICAL)
def test_colour_volumes_are_read(tmp_path: Path, suffix: str) -> None:
    colors = np.random.default_rng(1).integers(0, 255, (3, 4, 5, 3)).astype(np.uint8)

    volume = read_here(write(tmp_path / f"rgb{suffix}", colors, vector=True))

    assert np.array_equal(volume.voxels, colors)
    assert np.array_equal(volume.slice_image(Plane.AXIAL, 1), colors[1])


@pytest.mark.parametrize("suffix", MEDICAL)
def test_one_time_point_is_a_volume(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"4d{suffix}", VOXELS[None].astype(np.float32))
    assert np.array_equal(read_here(path).voxels, VOXELS)


@pytest.mark.parametrize("suffix", MEDICAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_single_voxels_that_are_not_finite_become_the_smallest(
    tmp_path: Path, suffix: str, dtype: type
) -> None:
    voxels = VOXELS.astype(dtype)
    voxels[0, 0, 0], voxels[1, 2, 3], voxels[3, 4, 5] = np.nan, np.inf, -np.inf
    smallest = voxels[np.isfinite(voxels)].min()

    volume = read_here(write(tmp_path / f"volume{suffix}", voxels))

    assert volume.voxels[[0, 1, 3], [0, 2, 4], [0, 3, 5]].tolist() == [smallest] * 3
    assert np.count_nonzero(volume.voxels != VOXELS) == 3
    assert volume.voxels.dtype == dtype


def test_big_endian_nifti_is_read(tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    header = patched(bytes(352), ">i", 0, 348)
    header = patched(header, ">8h", 40, 3, 6, 5, 4, 1, 1, 1, 1)
    header = patched(header, ">2h", 70, 16, 32)
    header = patched(header, ">8f", 76, 1, 0.8, 1.1, 6.5, 0, 0, 0, 0)
    header = patched(header, ">f", 108, 352)
    header = patched(header, ">h", 252, 1)
    path = tmp_path / "big.nii"
    path.write_bytes(header[:344] + b"n+1\0" + header[348:] + voxels.astype(">f4").tobytes())

    volume = read_here(path)

    assert volume.geometry.spacing == pytest.approx([0.8, 1.1, 6.5])
    assert volume.voxels[0, 0, 0] == VOXELS.flat[1:].min()
    assert np.array_equal(volume.voxels.flat[1:], VOXELS.flat[1:])


@pytest.mark.parametrize("suffix", [*MEDICAL, ".mhd", ".png", ".jpg"])
def test_good_files_are_read_without_a_word(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    read_here(write(tmp_path / f"v{suffix}", VOXELS[0].astype(np.uint8) if suffix in ".png.jpg" else VOXELS))
    read_here(write_dicom(tmp_path / "ct"))

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", MEDICAL)
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"volume{suffix}", VOXELS)

    for kept in 0.95, 0.6:
        damaged(path, lambda data, kept=kept: data[: int(len(data) * kept)])
        with pytest.raises(VolumeError, match=r"volume\S+ (cannot be read|is cut short).*export it again"):
            read_here(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_that_is_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 60)).astype(np.uint8)
    path = damaged(write(tmp_path / f"p{suffix}", noise), lambda data: data[: len(data) * 2 // 3])
    with pytest.raises(VolumeError, match="export it again"):
        read_here(path)


@pytest.mark.parametrize("suffix", [*MEDICAL, ".mhd", ".png", ".jpg"])
@pytest.mark.parametrize("content", [b"", b"no image at all\n" * 50], ids=["empty", "text"])
def test_a_file_of_another_content_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"volume{suffix}"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match="cannot be read"):
        read_here(path)


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"no file or folder .*absent\.nii; check the path"):
        read_here(tmp_path / "absent.nii")
    (tmp_path / "volume.docx").write_bytes(b"PK")
    with pytest.raises(VolumeError, match=r"volume\.docx is of no known kind; give one of \.nii, "):
        read_here(tmp_path / "volume.docx")


@pytest.mark.parametrize("suffix", MEDICAL)
def test_time_series_and_vectors_are_refused(tmp_path: Path, suffix: str) -> None:
    for voxels, vector, sentence in (
        (np.zeros((3, 4, 5, 6), np.float32), False, r"4 dimensions \(6, 5, 4, 3\); give one time point"),
        (np.zeros((4, 5, 6, 3), np.float32), True, "3 components a voxel; give grey, or 8-bit RGB"),
        (np.zeros((4, 5, 6, 2), np.uint8), True, "2 components a voxel; give grey, or 8-bit RGB"),
        (np.zeros((4, 5, 6), np.complex64), False, "2 components a voxel; give grey, or 8-bit RGB"),
    ):
        path = write(tmp_path / f"volume{suffix}", voxels, vector=vector)
        with pytest.raises(VolumeError, match=sentence):
            read_here(path)


@pytest.mark.parametrize("suffix", MEDICAL)
def test_a_volume_without_a_finite_voxel_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"volume{suffix}", np.full((4, 5, 6), np.nan, np.float32))
    with pytest.raises(VolumeError, match="holds no finite voxel; export it again"):
        read_here(path)


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        (".nii", lambda data: patched(data, "<f", NIFTI_PIXDIM_1, 0)),
        (".nii", lambda data: patched(data, "<f", NIFTI_PIXDIM_1, np.nan)),
        (".mha", lambda data: re.sub(rb"(ElementSpacing = )[\d.]+", rb"\g<1>0", data)),
        (".nrrd", lambda data: re.sub(rb"(directions: \()[\d.]+", rb"\g<1>0", data)),
    ],
)
def test_a_spacing_of_0_is_refused(tmp_path: Path, suffix: str, change: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / f"volume{suffix}", VOXELS)
    before = path.read_bytes()
    assert damaged(path, change).read_bytes() != before

    with pytest.raises(
        VolumeError, match=r"has the spacing [\[(](0\.0|nan), 1\.1.* mm; correct it in the header"
    ):
        read_here(path)


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        (".nii", lambda data: patched(data, "<3h", NIFTI_DIM_1, 32767, 32767, 32767)),
        (".mha", lambda data: data.replace(b"DimSize = 6 5 4", b"DimSize = 60000 50000 40000")),
        (".nrrd", lambda data: data.replace(b"sizes: 6 5 4", b"sizes: 60000 50000 40000")),
    ],
)
def test_a_header_that_promises_too_much_is_refused_before_anything_is_held(
    tmp_path: Path, suffix: str, change: Callable[[bytes], bytes]
) -> None:
    path = damaged(write(tmp_path / f"volume{suffix}", VOXELS), change)
    tracemalloc.start()
    try:
        with pytest.raises(
            VolumeError, match=r"has \d+(,\d{3}){4} voxels; at most 1,073,741,824 are read: crop"
        ):
            read_here(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


def test_a_header_that_claims_93_dimensions_is_refused_before_its_reader_sees_it(tmp_path: Path) -> None:
    path = damaged(
        write(tmp_path / "volume.mha", VOXELS), lambda data: data.replace(b"NDims = 3", b"NDims = 93")
    )
    with pytest.raises(VolumeError, match=r"volume\.mha has 93 dimensions; give one time point"):
        read_here(path)


def test_the_limit_holds_for_folders_too(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "ct")
    assert read_here(folder, max_voxels=120).voxels.size == 120
    with pytest.raises(VolumeError, match="ct has 120 voxels; at most 119 are read"):
        read_here(folder, max_voxels=119)


@pytest.mark.parametrize(
    ("suffix", "change", "sentence"),
    [
        (".nii", lambda data: patched(data, "<h", NIFTI_DIM_1, 0), "is empty: it has 0 voxels"),
        (
            ".mha",
            lambda data: data.replace(b"DimSize = 6 5 4", b"DimSize = 0 5 4"),
            "is empty: it has 0 voxels",
        ),
        (
            ".nrrd",
            lambda data: data.replace(b"sizes: 6 5 4", b"sizes: 0 5 4"),
            "is empty: its sizes are",
        ),
    ],
)
def test_an_empty_volume_is_refused(
    tmp_path: Path, suffix: str, change: Callable[[bytes], bytes], sentence: str
) -> None:
    path = damaged(write(tmp_path / f"volume{suffix}", VOXELS), change)
    with pytest.raises(VolumeError, match=sentence):
        read_here(path)


def test_a_folder_without_or_with_two_series_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    folder.mkdir()
    with pytest.raises(VolumeError, match="ct holds no DICOM series; give one that does"):
        read_here(folder)
    write_dicom(folder, "1.2.826.0.1")
    write_dicom(folder, "1.2.826.0.2")
    with pytest.raises(
        VolumeError, match=r"ct holds 2 series \(1\.2\.826\.0\.1, 1\.2\.826\.0\.2\); leave one"
    ):
        read_here(folder)


def test_a_dicom_series_with_a_gap_or_a_double_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"gap are 3\.00 to 6\.00 mm apart at .*; put in what is missing"):
        read_here(write_dicom(tmp_path / "gap", heights=(0, 3, 6, 12)))
    with pytest.raises(VolumeError, match=r"double are 0\.00 to 3\.00 mm apart"):
        read_here(write_dicom(tmp_path / "double", heights=(0, 3, 3, 6)))


def test_slices_that_are_rounded_to_a_tenth_of_a_millimetre_are_no_gap(tmp_path: Path) -> None:
    assert read_here(write_dicom(tmp_path / "ct", heights=(0, 1.3, 2.5, 3.8))).voxels.shape == (4, 5, 6)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) * 2 // 3],
        lambda data: data[:200],
        # GDCM allocates what the file's second element claims.
        lambda data: patched(data, "<I", 152, 0xF0000000),
        # An odd kind of value there.
        lambda data: patched(data, "2s", 148, b"ZZ"),
    ],
    ids=["cut", "beheaded", "4 GB", "unknown kind"],
)
def test_a_damaged_slice_of_a_dicom_series_is_named(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    folder = write_dicom(tmp_path / "ct")
    last = damaged(max(folder.iterdir()), change)

    with pytest.raises(VolumeError, match=f"{last.name} in .*ct is damaged, cut short or no image"):
        read_here(folder)


def test_a_dicom_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "ct")
    (folder / "a.dcm").write_bytes(bytes(128) + b"DICM")

    with pytest.raises(
        VolumeError, match=r"a\.dcm in .*ct is damaged, cut short or no image; copy it again or take it out"
    ):
        read_here(folder)


def test_a_slice_that_lies_nowhere_is_refused(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "ct", heights=(1.25, 2.5, 3.75, 5.0))
    for path in folder.iterdir():
        damaged(path, lambda data: data.replace(b"\\40.25\\", b"\\40x25\\"))

    with pytest.raises(VolumeError, match=r"\.dcm has the position .*40x25.*, not 3 numbers"):
        read_here(folder)


def test_sequences_in_dicom_files_are_walked_over(tmp_path: Path) -> None:
    folder = write_dicom(tmp_path / "ct")
    unknown = b"\xff" * 4
    element = struct.pack("<HHI", 8, 0x1150, 4) + b"1.2\0"
    item = struct.pack("<HH", 0xFFFE, 0xE000) + unknown + element + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    sequence = struct.pack("<HH", 8, 0x1140) + unknown + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    study = struct.pack("<HH", 0x20, 0xD)
    for path in folder.iterdir():
        damaged(path, lambda data: data.replace(study, sequence + study, 1))

    assert np.array_equal(read_here(folder).voxels, VOXELS)


@given(st.data())
def test_a_damaged_file_is_refused_or_read_and_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(MEDICAL))
    path = write(tmp_path_factory.mktemp("damaged") / f"volume{suffix}", VOXELS.astype(np.float32))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)

    try:
        volume = read_here(path, max_voxels=1000)
    except VolumeError:
        return
    assert np.isfinite(volume.voxels.astype(np.float64)).all()


def test_a_uid_names_voxels_and_geometry_not_the_file(tmp_path: Path) -> None:
    one = read_here(write(tmp_path / "one.nrrd", VOXELS))
    same = read_here(write(tmp_path / "same.mha", VOXELS), Window(0, 7))
    brighter = read_here(write(tmp_path / "brighter.nrrd", VOXELS + np.int16(1)))
    wider = read_here(write(tmp_path / "wider.nrrd", VOXELS.astype(np.int32)))
    moved = sitk.ReadImage(str(tmp_path / "one.nrrd"))
    moved.SetOrigin((0, 0, 0))
    sitk.WriteImage(moved, str(tmp_path / "moved.nrrd"))

    assert len(one.uid) == 32 and int(one.uid, 16) >= 0
    assert one.uid == same.uid
    assert len({one.uid, brighter.uid, wider.uid, read_here(tmp_path / "moved.nrrd").uid}) == 4


@pytest.mark.parametrize("plane", Plane)
def test_slice_images_are_windowed_grey_three_times_over(tmp_path: Path, plane: Plane) -> None:
    volume = read_here(write(tmp_path / "volume.nrrd", VOXELS), Window(100, 600))

    image = volume.slice_image(plane, 1)

    pixels = volume.geometry.take_slice(VOXELS, plane, 1)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert image.shape == (*volume.geometry.slice_shape(plane), 3)
    expected = np.clip((pixels - 100) / 500 * 255, 0, 255)
    assert np.abs(image - expected[..., None]).max() <= 0.5001


def test_another_window_shows_the_same_volume(tmp_path: Path) -> None:
    volume = read_here(write(tmp_path / "volume.nrrd", VOXELS))

    bone = volume.with_window(WINDOW_PRESETS["ct_bone"])

    assert isinstance(bone, Volume) and bone.uid == volume.uid
    assert bone.voxels is volume.voxels
    assert bone.window == Window(-500, 1300)
    with pytest.raises(FrozenInstanceError):
        volume.name = "other"


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (np.nan, 1), (0, np.inf), (-1.7e308, 1.7e308)])
def test_a_window_that_shows_nothing_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(VolumeError, match="shows nothing"):
        Window(*ends)


def test_a_window_is_linear_clipped_and_rounded() -> None:
    shown = Window(-100, 155).to_uint8(np.array([[-5000, -100, -99], [0, 155, 5000]], np.int16))

    assert shown.dtype == np.uint8
    assert shown.tolist() == [[0, 0, 1], [100, 255, 255]]
    assert Window(0, 255).to_uint8(np.arange(256, dtype=np.uint8)).tolist() == list(range(256))


def test_presets_are_those_of_radiology() -> None:
    assert WINDOW_PRESETS["ct_abdomen"] == Window(-160, 240)
    assert {"ct_lung", "ct_bone", "ct_brain", "ct_mediastinum"} <= WINDOW_PRESETS.keys()


def test_the_automatic_window_knows_ct_by_its_air() -> None:
    assert automatic_window(np.array([[[-1000, 40]]], np.int16))[0] == WINDOW_PRESETS["ct_abdomen"]


def test_the_automatic_window_leaves_out_the_background_and_the_extremes() -> None:
    voxels = np.zeros((10, 10, 20), np.float32)
    voxels.flat[:1000] = np.arange(1, 1001)

    window, why = automatic_window(voxels)

    assert (window.lower, window.upper) == pytest.approx((6, 995), abs=0.1)


@pytest.mark.parametrize("value", [0, 5, -3, 1e30])
def test_a_uniform_volume_has_a_window_too(value: float) -> None:
    window, why = automatic_window(np.full((2, 2, 2), value, np.float32))
    assert window.lower < window.upper


@needs_data
@pytest.mark.parametrize(
    ("name", "dimensions", "ct"),
    [
        ("ct_sm.nii.gz", (122, 101, 30), True),
        ("mr_sm.nii.gz", (117, 91, 20), False),
        ("brain1_image.nrrd", (256, 256, 25), False),
    ],
)
def test_real_volumes_are_read_where_simpleitk_sees_them(
    name: str, dimensions: tuple[int, ...], ct: bool
) -> None:
    volume = read_here(DATA / name)

    assert volume.geometry.dimensions == dimensions
    assert (volume.window == WINDOW_PRESETS["ct_abdomen"]) == ct
    left, posterior, superior = sitk.ReadImage(str(DATA / name)).TransformIndexToPhysicalPoint((10, 20, 5))
    assert volume.geometry.position_of([10, 20, 5])[0] == pytest.approx(
        [-left, -posterior, superior], abs=1e-6
    )
    middle = volume.slice_image(Plane.AXIAL, volume.geometry.slice_count(Plane.AXIAL) // 2)
    assert middle.std() > 20, "nothing can be seen in this window"


def test_a_window_of_whole_numbers_holds_floats() -> None:
    window = Window(0, 255)
    assert (type(window.lower), type(window.upper)) == (float, float)


@pytest.mark.parametrize("plane", Plane)
def test_an_images_pixels_lie_where_its_pose_says(plane: Plane) -> None:
    sheared = np.array([[0.8, 0.1, -1.8, -3], [0, -0.7, 0.4, 8], [0.6, 0, 2.4, 5], [0, 0, 0, 1]])
    geometry = VolumeGeometry((7, 6, 5), sheared)
    volume = Volume(np.zeros((5, 6, 7), np.uint8), geometry, Window(0, 1), "a", "a", "a")
    key = SliceKey(plane, 2)
    rows, columns = volume.shape(key)
    assert volume.image(key).shape == (rows, columns, 3)
    for x, y in ((0, 0), (columns - 1, 1), (1, rows - 1)):
        position = volume.pose(key) @ (x, y, 0, 1)
        assert position[:3] == pytest.approx(geometry.position_of(geometry.ijk_of([(x, y)], plane, 2))[0])
    one_slice_on = volume.pose(key) @ (0, 0, 1, 1)
    assert one_slice_on == pytest.approx(volume.pose(SliceKey(plane, 3)) @ (0, 0, 0, 1))
    assert "slices 0 to" in volume.problem(SliceKey(plane, 99)) and not volume.problem(key)
