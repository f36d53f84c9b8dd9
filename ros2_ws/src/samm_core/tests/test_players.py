# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Recordings that are played as streams."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import IMAGES, PROBE, RED, REFERENCE, pictures, turned, write_dicom, write_plus, write_video

from samm_core.errors import FrameError, SammError
from samm_core.sources.readers import Content
from samm_core.sources.volume import volume_of
from samm_core.sources.window import Window
from samm_core.stream.play import SweepPath, open_player, played
from samm_core.stream.play.plus import TrackedUltrasound
from samm_core.stream.play.sweep import AXES, VolumeSweep

LIVE = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[4] / "../shared/data")) / "live"
needs_data = pytest.mark.skipif(
    not LIVE.is_dir(), reason=f"there are no streams in {LIVE}; set SAMM_TEST_DATA"
)
# --- a stream of any recording ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures whose names sort otherwise as text."""
    for number, picture in zip((2, 10, 1), pictures(3), strict=True):
        cv2.imwrite(str(tmp_path / f"Frame_{number}.png"), picture[..., ::-1])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_a_loop_goes_on_with_rising_stamps(folder: Path) -> None:
    player = open_player(folder)
    frames = list(itertools.islice(played(player, loop=True), 8))
    stamps = [frame.stamp_s for frame in frames]
    assert stamps[0] == 0 and np.allclose(np.diff(stamps), 0.1)
    assert (frames[3].pixels == frames[0].pixels).all()


def test_a_rate_takes_the_place_of_what_was_recorded(folder: Path) -> None:
    frames = list(itertools.islice(played(open_player(folder), rate=4, loop=True), 5))
    assert [frame.stamp_s for frame in frames] == [0, 0.25, 0.5, 0.75, 1.0]


def test_a_recording_may_begin_later(folder: Path) -> None:
    frames = list(played(open_player(folder), start=2))
    assert len(frames) == 1 and frames[0].stamp_s == 0
    for start in (3, -1):
        with pytest.raises(FrameError, match=f"There is no image {start} in .*; it has images 0 to 2"):
            next(played(open_player(folder), start=start))


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 1e6])
def test_a_rate_that_is_none_is_refused(folder: Path, rate: float) -> None:
    with pytest.raises(FrameError, match="images a second are not possible"):
        next(played(open_player(folder), rate=rate))


@pytest.mark.parametrize("name", ["missing.mp4", "x" * 300, "a.xyz"])
def test_what_cannot_be_played_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.xyz").write_text("text")
    with pytest.raises(FrameError, match="There is no file or folder|is of no known kind; give one of .mp4"):
        open_player(tmp_path / name)


# --- pictures ---


def test_pictures_come_by_their_numbers(folder: Path) -> None:
    player = open_player(folder)
    assert player.frame_count == 3 and "Frame_1.png to Frame_10.png" in player.kind
    wanted = pictures(3)
    for frame, expected in zip(player.frames(), (wanted[2], wanted[0], wanted[1]), strict=True):
        assert frame.pixels.dtype == np.uint8 and (frame.pixels == expected).all()
        assert frame.pose is None


def test_one_picture_in_sixteen_bits_is_a_stream_of_one(tmp_path: Path) -> None:
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    player = open_player(tmp_path / "a.png")
    (frame,) = player.frames()
    assert player.frame_count == 1 and frame.pixels.dtype == np.uint16 and (frame.pixels == deep).all()


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(FrameError, match="holds no picture; give one with .png"):
        open_player(tmp_path)


def test_a_damaged_picture_is_named(folder: Path) -> None:
    (folder / "Frame_3.png").write_bytes(b"no picture")
    with pytest.raises(SammError, match="Frame_3.png cannot be read"):
        list(open_player(folder).frames())


# --- videos ---


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.MKV", "mp4v")])
def test_a_video_keeps_colours_order_and_times(tmp_path: Path, name: str, codec: str) -> None:
    wanted = pictures(6)
    player = open_player(write_video(tmp_path / name, codec, wanted))
    assert player.rate == pytest.approx(20) and "video (" in player.kind and "64 x 48" in player.kind
    frames = list(player.frames())
    assert len(frames) == 6 and player.frame_count == 6
    assert [frame.stamp_s for frame in frames] == pytest.approx([k / 20 for k in range(6)], abs=1e-3)
    for frame, expected in zip(frames, wanted, strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 12
    (last,) = player.frames(start=5)
    assert (last.pixels == frames[5].pixels).all()
    assert not list(player.frames(start=9))


def test_a_video_that_is_cut_short_ends_where_its_pictures_end(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.avi", "MJPG", list(noise))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 0 < len(list(open_player(path).frames())) < 20


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty and no video"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
            "is text and no video",
        ),
        (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "is text and no video"),
        (bytes(range(256)) * 20, "cannot be decoded as a video"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(FrameError, match=sentence):
        open_player(tmp_path / "a.mp4")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(SammError, match="no regular file"):
        open_player(tmp_path / "a.mp4")


# --- DICOM ---


def test_colours_of_a_cine(tmp_path: Path) -> None:
    wanted = np.stack(pictures(4))
    player = open_player(write_dicom(tmp_path / "a.dcm", wanted, "RGB", FrameTime="40"))
    assert player.rate == pytest.approx(25) and player.frame_count == 4 and "US, RGB, 64 x 48" in player.kind
    frames = list(player.frames())
    assert (np.stack([frame.pixels for frame in frames]) == wanted).all()
    assert [frame.stamp_s for frame in frames] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert (next(player.frames(start=3)).pixels == wanted[3]).all()


@pytest.mark.parametrize(
    ("elements", "stamps"),
    [
        ({"FrameTimeVector": ["0", "10", "30"]}, [0, 0.01, 0.04]),
        ({"FrameTimeVector": ["0", "10"], "FrameTime": "2000"}, [0, 2, 4]),
        ({"CineRate": "50"}, [0, 0.02, 0.04]),
        ({"RecommendedDisplayFrameRate": "10", "FrameTime": "0"}, [0, 0.1, 0.2]),
        ({}, [0, 0.04, 0.08]),
    ],
)
def test_times_of_a_cine(tmp_path: Path, elements: dict, stamps: list[float]) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((3, 4, 6), np.uint8), "MONOCHROME2", **elements)
    assert [frame.stamp_s for frame in open_player(path).frames()] == pytest.approx(stamps)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_grey_of_a_cine(tmp_path: Path, photometric: str, kind: type) -> None:
    stored = np.arange(24).reshape(1, 4, 6).astype(kind) * (10 if kind == np.uint8 else 1000)
    stored = stored - 12_000 if kind == np.int16 else stored
    (frame,) = open_player(write_dicom(tmp_path / "no_suffix", stored, photometric)).frames()
    wanted = stored[0].astype(int) + (32_768 if kind == np.int16 else 0)
    if photometric == "MONOCHROME1":
        wanted = (255 if kind == np.uint8 else 65_535) - wanted
    assert frame.pixels.dtype == (np.uint8 if kind == np.uint8 else np.uint16)
    assert (frame.pixels == wanted).all()


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    indices = np.array([[[0, 1], [2, 1]]], np.uint8)
    tables = {}
    for name, values in {"Red": (255, 0, 10), "Green": (0, 255, 20), "Blue": (0, 0, 30)}.items():
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = (np.array(values, "<u2") * 257).tobytes()
    (frame,) = open_player(write_dicom(tmp_path / "a.dcm", indices, "PALETTE COLOR", **tables)).frames()
    assert frame.pixels.tolist() == [[[255, 0, 0], [0, 255, 0]], [[10, 20, 30], [0, 255, 0]]]


def test_a_damaged_cine_is_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((3, 40, 60), np.uint8), "MONOCHROME2")
    data = path.read_bytes()
    path.write_bytes(data[:300])
    with pytest.raises(FrameError, match="damaged, cut short or no DICOM image"):
        open_player(path)
    path.write_bytes(data[:-3000])
    with pytest.raises(FrameError, match="a.dcm"):
        list(open_player(path).frames())
    path.write_bytes(b"no dicom")
    with pytest.raises(FrameError, match="no DICOM image"):
        open_player(path)


@pytest.mark.parametrize("elements", [{"Rows": 9000}, {"NumberOfFrames": 2_000_000}])
def test_a_cine_that_claims_too_much_is_refused(tmp_path: Path, elements: dict) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((1, 4, 6), np.uint8), "MONOCHROME2", **elements)
    with pytest.raises(FrameError, match="are played"):
        open_player(path)


@needs_data
def test_a_real_echocardiogram() -> None:
    player = open_player(LIVE / "pydicom_us_cine_ybr.dcm")
    frames = list(player.frames())
    assert player.frame_count == len(frames) == 30 and player.rate == pytest.approx(30, abs=0.1)
    truth = pydicom.pixels.pixel_array(LIVE / "pydicom_us_cine_ybr.dcm")
    assert (np.stack([frame.pixels for frame in frames]) == truth).all()
    # The mark of the probe's side is green, and the buttons below are blue.
    red, green, blue = frames[0].pixels[18:24, 186:194].reshape(-1, 3).max(axis=0).astype(int)
    assert green > red + 20


# --- tracked ultrasound ---


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("detached", [True, False])
def test_images_poses_and_times_of_plus(tmp_path: Path, compressed: bool, detached: bool) -> None:
    name = "a.mhd" if detached else "a.igs.mha"
    player = open_player(write_plus(tmp_path / name, compressed=compressed, detached=detached))
    assert "poses ProbeToReference" in player.kind and player.frame_id == "reference" and not player.remarks
    assert player.frame_count == 3 and player.rate == pytest.approx(2 / 0.4)
    frames = list(player.frames())
    assert (np.stack([frame.pixels for frame in frames]) == IMAGES).all()
    assert [frame.stamp_s for frame in frames] == pytest.approx([0, 0.1, 0.4])
    for frame, probe, reference in zip(frames, PROBE, REFERENCE, strict=True):
        assert frame.status_ok and np.allclose(frame.pose, np.linalg.inv(reference) @ probe)
    assert (next(player.frames(start=2)).pixels == IMAGES[2]).all()


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.astype(np.uint16) * 1000,
        np.stack([IMAGES, IMAGES + 1, IMAGES + 2], axis=-1),
        IMAGES.astype(np.int16) * 100 - 3000,
    ],
    ids=["16 bits", "colour", "signed"],
)
def test_types_of_plus(tmp_path: Path, images: np.ndarray) -> None:
    frames = list(TrackedUltrasound(write_plus(tmp_path / "a.mha", images)).frames())
    shift = 32_768 if images.dtype == np.int16 else 0
    assert (np.stack([frame.pixels for frame in frames]) == images.astype(int) + shift).all()
    assert frames[0].pixels.dtype == (np.uint8 if images.ndim == 4 else np.uint16)


def test_big_endian_of_plus(tmp_path: Path) -> None:
    images = IMAGES.astype(np.uint16) * 1000
    path = write_plus(tmp_path / "a.mha", images, changes={"BinaryDataByteOrderMSB": "True"})
    assert (next(TrackedUltrasound(path).frames()).pixels == images[0].byteswap()).all()


@pytest.mark.parametrize(
    ("orientation", "back"),
    [
        ("MF", lambda image: image),
        ("MFA", lambda image: image),
        ("UF", lambda image: image[:, ::-1]),
        ("MN", lambda image: image[::-1]),
        ("UNA", lambda image: image[::-1, ::-1]),
        ("FM", lambda image: image.T),
        ("FU", lambda image: image.T[:, ::-1]),
        ("NM", lambda image: image.T[::-1]),
        ("NU", lambda image: image.T[::-1, ::-1]),
    ],
)
def test_images_of_plus_are_turned_to_mf(tmp_path: Path, orientation: str, back: object) -> None:
    player = TrackedUltrasound(write_plus(tmp_path / "a.mha", orientation=orientation))
    assert (next(player.frames()).pixels == back(IMAGES[0])).all() and not player.remarks


def test_an_orientation_that_is_not_told_is_remarked(tmp_path: Path) -> None:
    player = TrackedUltrasound(write_plus(tmp_path / "a.mha", orientation="XX"))
    assert "does not tell how its images are turned" in player.remarks[0]
    assert (next(player.frames()).pixels == IMAGES[0]).all()


def test_another_pose_of_plus_and_its_calibration(tmp_path: Path) -> None:
    path = write_plus(tmp_path / "a.mha")
    calibration = np.diag([0.1, 0.2, 1, 1])
    player = TrackedUltrasound(path, "ProbeToTracker", calibration)
    assert player.frame_id == "tracker"
    assert np.allclose(next(player.frames(1)).pose, PROBE[1] @ calibration)
    player = TrackedUltrasound(path, "ReferenceToProbe")
    assert np.allclose(next(player.frames(1)).pose, np.linalg.inv(PROBE[1]) @ REFERENCE[1])
    stylus = next(TrackedUltrasound(path, "StylusToTracker").frames())
    assert stylus.pose is not None and not stylus.status_ok
    assert not next(TrackedUltrasound(path, "StylusToReferenceTransform").frames()).status_ok
    for wrong in ("ProbeToNowhere", "Probe", "probeToTracker"):
        with pytest.raises(
            FrameError, match=f"no transform {wrong}; it has ProbeToTracker, ReferenceToTracker"
        ):
            TrackedUltrasound(path, wrong)


@pytest.mark.parametrize(
    ("changes", "there", "ok"),
    [
        ({"Seq_Frame0001_ReferenceToTrackerTransformStatus": "INVALID"}, True, False),
        ({"Seq_Frame0001_ProbeToTrackerTransformStatus": "MISSING"}, True, False),
        ({"Seq_Frame0001_ProbeToTrackerTransformStatus": None}, True, True),
        ({"Seq_Frame0001_ProbeToTrackerTransform": None}, False, False),
        ({"Seq_Frame0001_ProbeToTrackerTransform": "1 2 3"}, False, False),
        ({"Seq_Frame0001_ProbeToTrackerTransform": "nan " * 16}, False, False),
        ({"Seq_Frame0001_ReferenceToTrackerTransform": "0 " * 16}, False, False),
    ],
)
def test_a_pose_that_was_not_measured_is_told(tmp_path: Path, changes: dict, there: bool, ok: bool) -> None:
    frames = list(TrackedUltrasound(write_plus(tmp_path / "a.mha", changes=changes)).frames())
    assert (frames[1].pose is not None, frames[1].status_ok) == (there, ok)
    assert frames[0].status_ok and frames[2].status_ok


def test_an_image_that_is_not_ok_is_left_out(tmp_path: Path) -> None:
    path = write_plus(tmp_path / "a.mha", changes={"Seq_Frame0001_ImageStatus": "INVALID"})
    player = TrackedUltrasound(path)
    assert [int(frame.pixels[0, 0]) for frame in player.frames()] == [0, 40]
    assert "not OK are left out: 1." in player.remarks[0]


@pytest.mark.parametrize("stamp", [None, "nan", "99", "x"])
def test_times_of_plus_that_do_not_rise_become_a_rate(tmp_path: Path, stamp: str | None) -> None:
    player = TrackedUltrasound(write_plus(tmp_path / "a.mha", changes={"Seq_Frame0001_Timestamp": stamp}))
    assert "it is played at 10 images a second" in player.remarks[0]
    assert [frame.stamp_s for frame in player.frames()] == pytest.approx([0, 0.1, 0.2])


def test_a_sequence_of_four_axes(tmp_path: Path) -> None:
    path = write_plus(tmp_path / "a.mha", changes={"NDims": "4", "DimSize": "5 4 1 3"})
    assert (np.stack([frame.pixels for frame in TrackedUltrasound(path).frames()]) == IMAGES).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"DimSize": "50000 50000 3"}, "50000 x 50000 pixels; 1 to 8192 a side are played"),
        ({"DimSize": "5 4 99999999999"}, "claims 99999999999 images"),
        ({"DimSize": "5 4 0"}, "claims 0 images"),
        ({"DimSize": "5 4"}, "images of the size"),
        ({"NDims": "4", "DimSize": "5 4 2 3"}, "flat ones over time"),
        ({"DimSize": "5 four 3"}, "damaged header"),
        ({"DimSize": None}, "has no DimSize in its header"),
        ({"ElementType": "MET_FLOAT"}, "values of the type MET_FLOAT a pixel"),
        ({"ElementNumberOfChannels": "2"}, "2 values of the type MET_UCHAR"),
        ({"ElementDataFile": None}, "no MetaImage, or its header is cut short"),
    ],
)
def test_a_header_of_plus_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict, sentence: str
) -> None:
    with pytest.raises(FrameError, match=sentence):
        TrackedUltrasound(write_plus(tmp_path / "a.mha", changes=changes))


@pytest.mark.parametrize("name", ["/etc/hostname", "../pixels.raw", "missing.raw"])
def test_a_header_of_plus_names_no_other_file(tmp_path: Path, name: str) -> None:
    path = write_plus(tmp_path / "a.mha", changes={"ElementDataFile": name})
    with pytest.raises(SammError, match="names the data file"):
        list(TrackedUltrasound(path).frames())


@pytest.mark.parametrize("compressed", [True, False])
def test_a_sequence_that_is_cut_short_is_refused_where_it_ends(tmp_path: Path, compressed: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    path = write_plus(tmp_path / "a.mha", noise, compressed)
    path.write_bytes(path.read_bytes()[:-2500])
    frames = TrackedUltrasound(path).frames()
    assert (next(frames).pixels == noise[0]).all()
    with pytest.raises(FrameError, match="is cut short after 1 of 3 images"):
        list(frames)


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    path = write_plus(tmp_path / "a.mha")
    head, _, _ = path.read_bytes().partition(b"LOCAL\n")
    path.write_bytes(head + b"LOCAL\n" + b"\xff" * 50)
    with pytest.raises(FrameError, match="is cut short after 0 of 3 images"):
        list(TrackedUltrasound(path).frames())


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8), st.integers(0, 6000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_of_plus_is_frames_or_a_sentence(
    tmp_path: Path, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(write_plus(tmp_path / "a.mha").read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    (tmp_path / "b.mha").write_bytes(data[: length or None])
    try:
        frames = list(TrackedUltrasound(tmp_path / "b.mha").frames())
    except SammError:
        return
    assert all(frame.pixels.ndim == 2 for frame in frames)


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "pose"),
    [
        ("plus_BoneUltrasound_L14", 21, "ProbeToReference"),
        ("plus_NwirePhantomFreehand", 97, "ProbeToReference"),
        ("plus_BKMedical_6frames", 6, "ToolToTracker"),
    ],
)
def test_real_sequences_of_plus(name: str, count: int, pose: str) -> None:
    path = LIVE / f"{name}.igs.mha"
    player = open_player(path)
    assert f"poses {pose}" in player.kind
    frames = list(player.frames())
    assert len(frames) == count
    assert (
        np.stack([frame.pixels for frame in frames]) == sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    ).all()
    for frame in frames:
        assert frame.status_ok
        assert np.allclose(frame.pose[:3, :3] @ frame.pose[:3, :3].T, np.eye(3), atol=1e-4)
    if name == "plus_NwirePhantomFreehand":
        assert not any(frame.status_ok for frame in open_player(path, "StylusToTracker").frames())


# --- sweeps through volumes ---

DIMENSIONS = (30, 24, 20)


def oblique() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = turned(25, (0, 0, 0))[:3, :3] @ np.diag([-2.0, -1.5, 3.0])
    matrix[:3, 3] = (40, 30, -50)
    return matrix


def field(points_ras: np.ndarray) -> np.ndarray:
    """What the volume holds at (..., 3): linear, so that interpolation loses nothing."""
    return points_ras @ (1.0, 2.0, -1.5) + 300


@pytest.fixture(scope="module")
def linear_volume() -> object:
    k, j, i = np.indices(DIMENSIONS[::-1])
    ras = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ oblique()[:3].T
    voxels = field(ras).astype(np.float32)
    return volume_of(Content(voxels, oblique()), Path("linear.nrrd"), Window(0, 510))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("tilt", [0, 30, -50])
def test_a_sweep_shows_the_volume_where_its_pose_says(linear_volume: object, axis: str, tilt: float) -> None:
    player = VolumeSweep(linear_volume, SweepPath(axis, tilt_deg=tilt, pixels=60, step_mm=7))
    frames = list(player.frames())
    assert len(frames) == player.frame_count > 5 and player.frame_id == "ras"
    inside_count = 0
    for frame in frames:
        rows, columns = np.indices(frame.pixels.shape)
        pixels = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1)
        ras = (pixels @ frame.pose.T)[..., :3]
        ijk = linear_volume.geometry.index_of(ras.reshape(-1, 3)).reshape(ras.shape)
        inside = ((ijk > 0.01) & (ijk < np.array(DIMENSIONS) - 1.01)).all(axis=-1)
        wanted = np.clip(field(ras) / 2, 0, 255)
        assert np.abs(frame.pixels - wanted)[inside].max(initial=0) <= 1
        assert (frame.pixels[((ijk < -1.01) | (ijk > np.array(DIMENSIONS) + 0.01)).any(axis=-1)] == 0).all()
        inside_count += inside.sum()
        # Right-handed, and pixels of one size.
        lengths = np.linalg.norm(frame.pose[:3, :2], axis=0)
        assert lengths[0] == pytest.approx(lengths[1], rel=0.02) and np.linalg.det(frame.pose[:3, :3]) > 0
    assert inside_count > 500
    along = np.array([frame.pose[:3, 3] for frame in frames])
    steps = np.diff(along, axis=0)
    assert np.allclose(steps, steps[0]) and np.linalg.norm(steps[0]) == pytest.approx(7)


def test_a_given_path_is_swept(linear_volume: object) -> None:
    path = SweepPath("superior", start_mm=10, end_mm=-20, step_mm=10, pixels=33, spacing_mm=2)
    frames = list(VolumeSweep(linear_volume, path).frames(start=1))
    assert [frame.pixels.shape for frame in frames] == [(33, 33)] * 3
    middles = [frame.pose @ (16, 16, 0, 1) for frame in frames]
    assert [middle[2] for middle in middles] == pytest.approx([0, -10, -20])
    assert np.linalg.norm(frames[0].pose[:3, 0]) == pytest.approx(2)


def test_a_sweep_in_colour() -> None:
    colour = np.zeros((6, 8, 10, 3), np.uint8)
    colour[:] = RED
    volume = volume_of(Content(colour, np.diag([-1.0, -1, 1, 1])), Path("a.nrrd"))
    frames = list(VolumeSweep(volume, SweepPath(pixels=10)).frames())
    assert (frames[3].pixels[3, 4] == RED).all()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (SweepPath("up"), "no axis 'up'; give one of superior, anterior, right"),
        (SweepPath(step_mm=0), "give steps and pixels above 0"),
        (SweepPath(tilt_deg=90), "a tilt below 90"),
        (SweepPath(spacing_mm=float("nan")), "not possible"),
        (SweepPath(step_mm=1e-9), "at most 100000 are played"),
        (SweepPath(pixels=10_000), "1 to 8192 a side"),
        (SweepPath(pixels=0, spacing_mm=1), "1 to 8192 a side"),
    ],
)
def test_a_path_that_is_none_is_refused(linear_volume: object, path: SweepPath, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        VolumeSweep(linear_volume, path)


def test_a_volume_is_opened_as_a_sweep(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (6, 20, 30)).astype(np.int16))
    image.SetSpacing((1, 1, 2.5))
    for name in ("a.nii.gz", "a.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        player = open_player(tmp_path / name)
        assert "sweep through a volume (superior" in player.kind
        assert player.frame_count == 16 and next(player.frames()).pixels.dtype == np.uint8
    player = open_player(tmp_path / "a.mha", path=SweepPath("right", step_mm=10))
    assert player.frame_count == 4
