# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A file of work opens as it was saved, and a damaged or hostile one is refused in a sentence."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samm_core.errors import MaskError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.prompts import PixelPrompt
from samm_core.saved_work import MAX_PROMPTS, SavedWork, load_work
from samm_core.segmentation.segmentation import Segmentation
from samm_core.sources.window import Window

TILTED = np.array([[0.9, 0.1, 0, 5], [-0.1, 0.9, 0.1, 0], [0, -0.1, 2, -9], [0, 0, 0, 1.0]])
GEOMETRY = VolumeGeometry((9, 8, 7), TILTED)


def work_of(seed: int = 1, segments: int = 3) -> SavedWork:
    chance = np.random.default_rng(seed)
    segmentation = Segmentation(GEOMETRY)
    for number in range(segments):
        name = f"Niere {number} · 副腎"
        for plane in Plane:
            index = int(chance.integers(GEOMETRY.slice_count(plane)))
            mask = chance.random(GEOMETRY.slice_shape(plane)) < 0.4
            segmentation.apply(mask, plane, index, name)
        segmentation.recolor(name, (number / 7, 0.1, 1))
    volume = SimpleNamespace(
        uri="/data/ct é.nii.gz", uid="8a" * 16, geometry=GEOMETRY, window=Window(-160, 240)
    )
    prompts = [
        ("Niere 0 · 副腎", Plane.AXIAL, 3, PixelPrompt([[1.5, 2], [0, 0.1]], [1, 0])),
        ("Niere 0 · 副腎", Plane.CORONAL, 7, PixelPrompt([[1, 1]], [1], [0, 1, 4.25, 5], choice=2)),
    ]
    for prompt in prompts if segments else ():
        segmentation.note_prompt(*prompt)
    return SavedWork.of(volume, segmentation, "lite_medsam")


def volume_of(work: SavedWork) -> SimpleNamespace:
    return SimpleNamespace(
        uri=work.source_uri, uid=work.source_uid, geometry=work.geometry, window=work.window
    )


def content(work: SavedWork) -> tuple:
    """All of it, to compare."""
    return (
        (work.source_uri, work.source_uid, work.geometry, work.window, work.model),
        [(s.segment, s.frozen, s.voxels.shape, s.voxels.tobytes()) for s in work.segments],
        [
            (
                p.segment,
                p.plane,
                p.index,
                p.prompt.points_xy.tolist(),
                p.prompt.labels.tolist(),
                None if p.prompt.box_xyxy is None else p.prompt.box_xyxy.tolist(),
                p.prompt.choice,
            )
            for p in work.prompts
        ],
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "work.samm"
    work_of().save(path)
    return path.read_bytes()


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), segments=st.integers(0, 5))
def test_work_opens_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, seed: int, segments: int
) -> None:
    path = tmp_path_factory.mktemp("saved") / "work.samm"
    work = work_of(seed, segments)
    work.save(path)
    # A second save replaces the first.
    work.save(path)

    opened = load_work(path)

    assert content(opened) == content(work)
    assert list(path.parent.iterdir()) == [path]


def test_the_segmentation_is_the_same_again_and_one_undo_brings_back_what_was_there(tmp_path: Path) -> None:
    work_of().save(tmp_path / "work.samm")
    work = load_work(tmp_path / "work.samm")
    segmentation = Segmentation(GEOMETRY)

    work.restore(segmentation)

    for found, (segment, voxels) in zip(work.segments, segmentation.snapshot(), strict=True):
        assert found.segment == segment
        assert np.array_equal(found.voxels, voxels)
        assert segmentation.frozen(segment.name) == found.frozen != frozenset()
    assert len(work.prompts) == 2
    assert content(SavedWork.of(volume_of(work), segmentation, work.model)) == content(work)
    before = segmentation.labelmap()
    segmentation.remove(segmentation.segments()[0].name)
    there = segmentation.labelmap()
    work.restore(segmentation)
    assert np.array_equal(segmentation.labelmap() > 0, before > 0)
    assert segmentation.undo()
    assert np.array_equal(segmentation.labelmap(), there)
    with pytest.raises(MaskError, match="on another volume than this one; load /data/ct"):
        work.restore(Segmentation(VolumeGeometry((9, 8, 7), np.eye(4))))


def test_only_a_file_of_work_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "work.samm"
    path.write_text("PK\3\4 Patient 12: come back on Tuesday.\n")
    for name, sentence in (
        ("work.samm", "no work of samm; write elsewhere"),
        ("work.zip", r"end it in \.samm"),
        ("absent/work.samm", "absent does not exist; make it first"),
    ):
        with pytest.raises(MaskError, match=sentence):
            work_of().save(tmp_path / name)
    assert path.read_text().endswith("Tuesday.\n")


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path: Path, saved: bytes) -> None:
    path = tmp_path / "work.samm"
    path.write_bytes(saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(MaskError, match="could not be written .*; make room or write elsewhere"):
            work_of(2, 5).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [path]


def require_refused_or_the_same(path: Path, damaged: bytes, expected: tuple) -> bool:
    """Whether it was refused."""
    path.write_bytes(damaged)
    try:
        opened = load_work(path)
    except MaskError as error:
        assert "\n" not in str(error)
        assert path.name in str(error)
        return True
    assert content(opened) == expected
    return False


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, saved: bytes) -> None:
    expected = content(work_of())
    for cut in np.linspace(0, len(saved) - 1, 200).astype(int):
        assert require_refused_or_the_same(tmp_path / "cut.samm", saved[:cut], expected), cut


def test_flipped_bytes_are_refused_or_change_nothing(tmp_path: Path, saved: bytes) -> None:
    expected, chance, refused = content(work_of()), random.Random(1), 0
    for position in range(len(saved)):
        damaged = bytearray(saved)
        damaged[position] ^= 1 << chance.randrange(8)
        refused += require_refused_or_the_same(tmp_path / "flipped.samm", bytes(damaged), expected)
    # What is left says when a member was written, and by which program.
    assert refused > 0.8 * len(saved)


@settings(max_examples=150)
@given(noise=st.binary(max_size=300), at=st.integers(0, 10**6), cuts=st.booleans())
def test_noise_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, saved: bytes, noise: bytes, at: int, cuts: bool
) -> None:
    path = tmp_path_factory.mktemp("noise") / "noise.samm"
    at %= len(saved)
    damaged = noise if cuts else saved[:at] + noise + saved[at + len(noise) :]
    require_refused_or_the_same(path, damaged, content(work_of()))


def hostile(path: Path, change: object, arrays: dict[str, bytes] | None = None) -> Path:
    """A file whose zip is whole, and whose words are changed."""
    work_of(1, 1).save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    words = json.loads(members["work.json"])
    change(words)
    members["work.json"] = json.dumps(words).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in {**members, **(arrays or {})}.items():
            file.writestr(name, data)
    return path


def setting(*keys: object, to: object) -> object:
    def change(words: dict) -> None:
        for key in keys[:-1]:
            words = words[key]
        words[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        setting("format", to="another"),
        setting("version", to=2),
        setting("source", to="/etc/passwd"),
        setting("source", "uri", to=["a"]),
        setting("source", "uid", to="a\nb"),
        setting("dimensions", to=[9, 8]),
        setting("dimensions", to=[9, 8, True]),
        setting("dimensions", to=[9, 8, -7]),
        setting("dimensions", to=[9, 8, 6]),
        setting("dimensions", to=[2**40, 2**40, 2**40]),
        setting("dimensions", to=[10**400, 1, 1]),
        setting("ijk_to_ras", to=[0] * 16),
        setting("ijk_to_ras", to=[float("nan")] * 16),
        setting("ijk_to_ras", 0, to=10**400),
        setting("window", to=[5, 5]),
        setting("window", to=["0", 1]),
        setting("model", to=5),
        setting("segments", to={}),
        setting("segments", to=[]),
        setting("segments", 0, to=[1, 2]),
        setting("segments", 0, "name", to=""),
        setting("segments", 0, "name", to="a\nb"),
        setting("segments", 0, "name", to="a" * 256),
        setting("segments", 0, "label", to=0),
        setting("segments", 0, "label", to=256),
        setting("segments", 0, "label", to="1"),
        setting("segments", 0, "color", to=[0, 0, 2]),
        setting("segments", 0, "color", to="red"),
        setting("segments", 0, "frozen", to=[[0, 99]]),
        setting("segments", 0, "frozen", to=[[3, 0]]),
        setting("segments", 0, "frozen", to=[[0]]),
        setting("segments", 0, "frozen", to=[[0, 0]] * 100),
        setting("prompts", to=[{}] * 10_001),
        setting("prompts", 0, "plane", to=None),
        setting("prompts", 0, "index", to=1.5),
        setting("prompts", 0, "points", to=[[1, 2, 3]]),
        setting("prompts", 0, "points", to=[[1e39, 2], [0, 0]]),
        setting("prompts", 0, "points", to=[[100, 2], [0, 0]]),
        setting("prompts", 0, "labels", to=[1]),
        setting("prompts", 0, "labels", to=[2, 0]),
        setting("prompts", 1, "box", to=[0, 0, 0, 0]),
        setting("prompts", 1, "points", to=[[1, 1], [2, 2]]),
        setting("prompts", 1, "choice", to=256),
        setting("prompts", 1, "choice", to="0"),
        lambda words: words.clear(),
    ],
)
def test_words_that_cannot_be_are_refused_in_a_sentence(tmp_path: Path, change: object) -> None:
    with pytest.raises(MaskError, match=r"work\.samm is damaged or no work of samm") as caught:
        load_work(hostile(tmp_path / "work.samm", change))
    assert "\n" not in str(caught.value)


def array_of(values: np.ndarray, allow_pickle: bool = False) -> bytes:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=allow_pickle)
    return content.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        b"",
        b"no array",
        array_of(np.zeros(62, np.uint8)),
        array_of(np.zeros(63, np.int8)),
        array_of(np.zeros((63, 1), np.uint8)),
        array_of(np.array([print], object), allow_pickle=True),
        array_of(np.zeros(63, np.uint8)) + b"more",
        array_of(np.zeros(63, np.uint8)).replace(b"(63,)", b"(9**9,)"),
        array_of(np.zeros(63, np.uint8)).replace(b"(63,)", b"(63_000_000_000,)"),
    ],
)
def test_arrays_that_cannot_be_are_refused(tmp_path: Path, array: bytes) -> None:
    path = hostile(tmp_path / "work.samm", lambda words: None, {"segment_0.npy": array})
    with pytest.raises(MaskError, match=r"work\.samm is damaged"):
        load_work(path)


@pytest.mark.parametrize("name", ["segment_1.npy", "../../escape.npy", "work.json/"])
def test_a_member_that_is_none_of_it_is_refused(tmp_path: Path, name: str) -> None:
    path = hostile(tmp_path / "work.samm", lambda words: None, {name: b""})
    with pytest.raises(MaskError, match="arrays are not those of its segments"):
        load_work(path)


@pytest.mark.parametrize("member", ["work.json", "segment_0.npy"])
def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, member: str) -> None:
    path = hostile(tmp_path / "work.samm", lambda words: None)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            with file.open(name, "w") as out:
                out.write(data)
                for _ in range(100 if name == member else 0):
                    out.write(bytes(1 << 20) if name == "segment_0.npy" else b" " * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(MaskError, match="is larger than"):
            load_work(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 << 20, f"{peak:,} bytes were held for a bomb of 100 MiB"


def test_many_large_segments_are_refused_before_they_are_held(tmp_path: Path) -> None:
    def claim(words: dict) -> None:
        words["dimensions"] = [1024, 1024, 1024]
        words["prompts"] = []
        first = words["segments"][0]
        words["segments"] = [{**first, "name": str(n), "label": n, "frozen": []} for n in range(1, 11)]

    arrays = {f"segment_{n}.npy": b"" for n in range(10)}
    with pytest.raises(MaskError, match="take more than 1,073,741,824 bytes"):
        load_work(hostile(tmp_path / "work.samm", claim, arrays))


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="cannot be read"):
        load_work(tmp_path / "absent.samm")
    with pytest.raises(MaskError, match="cannot be read"):
        load_work(tmp_path)
    os.mkfifo(tmp_path / "pipe.samm")
    with pytest.raises(MaskError, match="no regular file"):
        load_work(tmp_path / "pipe.samm")


def test_a_file_of_before_there_was_a_choice_opens(tmp_path: Path) -> None:
    def forget(words: dict) -> None:
        for prompt in words["prompts"]:
            del prompt["choice"]

    work = load_work(hostile(tmp_path / "work.samm", forget))
    assert [each.prompt.choice for each in work.prompts] == [0, 0]


def test_the_words_alone_are_read_without_the_voxels(tmp_path: Path) -> None:
    path = hostile(tmp_path / "work.samm", lambda words: None, {"segment_0.npy": b"no array"})
    words = load_work(path, with_voxels=False)
    assert content(words) == content(replace(work_of(1, 1), segments=()))
    with pytest.raises(MaskError, match="damaged"):
        load_work(path)


def test_of_too_many_prompts_the_newest_are_saved(tmp_path: Path) -> None:
    geometry = VolumeGeometry((1, 1, MAX_PROMPTS + 5), np.eye(4))
    segmentation = Segmentation(geometry)
    segmentation.add("liver")
    for index in range(MAX_PROMPTS + 5):
        segmentation.note_prompt("liver", Plane.AXIAL, index, PixelPrompt([[0, 0]], [1]))
    volume = SimpleNamespace(uri="/a", uid="b", geometry=geometry, window=Window(0, 1))
    SavedWork.of(volume, segmentation).save(tmp_path / "work.samm")
    saved = load_work(tmp_path / "work.samm").prompts
    assert [each.index for each in saved] == list(range(5, MAX_PROMPTS + 5))
