# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Masks: a codec that hostile bytes do not hurt, a segmentation held against a naive model, and files read back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from samm_core.errors import MaskError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.mask_codec import MaskEncoding, decode_mask, encode_mask
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation
from samm_core.sources.volume import read_volume

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[1] / "../shared/data"))
ENCODINGS = st.sampled_from(MaskEncoding)
# A coronal acquisition, tilted and flipped, so that no axis is where it usually is.
TILTED = np.array([[0.98, 0, -0.4, -3], [0.1, 0, 3.9, 8], [0, -0.7, 0.1, 5], [0, 0, 0, 1]])
# Orthonormal, as files can hold it.
OBLIQUE = np.array([[0.8, 0, -1.8, -3], [0, -0.7, 0, 8], [0.6, 0, 2.4, 5], [0, 0, 0, 1]])


def blob(side: int) -> np.ndarray:
    """(side, side) bool, as an organ with a wavy border."""
    y, x = np.mgrid[:side, :side] - side / 2
    angle = np.arctan2(y, x)
    return np.hypot(y, x) < side * (0.3 + 0.04 * np.sin(5 * angle) + 0.015 * np.sin(23 * angle))


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70)), ENCODINGS)
def test_any_mask_comes_back_as_it_was(mask: np.ndarray, encoding: MaskEncoding) -> None:
    decoded = decode_mask(encode_mask(mask, encoding), mask.shape, encoding)

    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask)


def test_masks_of_0_and_1_and_views_are_encoded_too() -> None:
    mask = blob(64)
    assert encode_mask(mask.astype(np.uint8)[:, ::2]) == encode_mask(np.ascontiguousarray(mask[:, ::2]))


def test_the_mask_of_an_organ_on_1024_by_1024_pixels_takes_4_kb_at_most() -> None:
    assert len(encode_mask(blob(1024))) <= 4096


@given(st.binary(max_size=200), st.tuples(st.integers(1, 40), st.integers(1, 40)), ENCODINGS)
def test_random_bytes_are_refused_or_are_a_mask(
    data: bytes, shape: tuple[int, int], encoding: MaskEncoding
) -> None:
    try:
        mask = decode_mask(data, shape, encoding)
    except MaskError:
        return
    assert np.array_equal(decode_mask(encode_mask(mask), shape), mask)


@given(st.data())
def test_a_damaged_mask_is_refused_and_never_another_mask(data: st.DataObject) -> None:
    mask = blob(48)
    good = bytearray(encode_mask(mask))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))

    try:
        decoded = decode_mask(bytes(good), mask.shape)
    except MaskError:
        return
    # A bit of the header that says how hard the sender tried.
    assert np.array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("data", "encoding", "sentence"),
    [
        (encode_mask(blob(16))[:-1], 1, "does not unpack to 16×16"),
        (encode_mask(blob(16)) + b"x", 1, "does not unpack to 16×16"),
        (encode_mask(blob(17)), 1, "does not unpack to 16×16"),
        (encode_mask(blob(15)), 1, "does not unpack to 16×16"),
        (b"", 1, "does not unpack"),
        (b"no zlib", 1, "no zlib stream"),
        (b"\1" * 255, 0, "not 16×16 bytes of 0 and 1"),
        (b"\1" * 257, 0, "not 16×16 bytes of 0 and 1"),
        (b"\2" * 256, 0, "not 16×16 bytes of 0 and 1"),
        (b"\1" * 256, 2, "no mask encoding 2"),
    ],
)
def test_what_is_not_this_mask_is_refused(data: bytes, encoding: int, sentence: str) -> None:
    with pytest.raises(MaskError, match=sentence):
        decode_mask(data, (16, 16), encoding)


@pytest.mark.parametrize("shape", [(0, 5), (5, -1), (16385, 1), (2**40, 2**40)])
def test_impossible_sizes_are_refused_before_anything_is_held(shape: tuple[int, int]) -> None:
    with pytest.raises(MaskError, match="each side is 1 to 16384"):
        decode_mask(encode_mask(blob(16)), shape)


def test_a_zlib_bomb_is_not_unpacked() -> None:
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(MaskError, match="does not unpack"):
            decode_mask(bomb, (512, 512))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 512 * 512, f"{peak:,} bytes were held for a bomb of 64 MiB"


class AgainstNumPy(RuleBasedStateMachine):
    """A Segmentation against whole arrays that are copied at each step."""

    @initialize()
    def start(self) -> None:
        self.segmentation = Segmentation(VolumeGeometry((5, 4, 3), TILTED))
        self.names: list[str] = []
        self.arrays: list[np.ndarray] = []
        self.active: str | None = None
        self.undone: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.done: list[tuple[int, np.ndarray, np.ndarray]] = []

    def _add(self, name: str) -> None:
        self.names.append(name)
        self.arrays.append(np.zeros((3, 4, 5), bool))
        self.active = self.active or name

    @rule(name=st.sampled_from("abcd"))
    def add(self, name: str) -> None:
        if name in self.names:
            with pytest.raises(MaskError, match="not taken"):
                self.segmentation.add(name)
            return
        assert self.segmentation.add(name).label == len(self.names) + 1
        self._add(name)

    @rule(
        plane=st.sampled_from(Plane),
        index=st.integers(0, 2),
        name=st.sampled_from((None, *"abcd")),
        bits=st.integers(0, 2**20 - 1),
    )
    def apply(self, plane: Plane, index: int, name: str | None, bits: int) -> None:
        geometry = self.segmentation.geometry
        shape = geometry.slice_shape(plane)
        mask = np.array([bits >> n & 1 for n in range(shape[0] * shape[1])], bool).reshape(shape)

        applied_to = self.segmentation.apply(mask, plane, index, name)

        name = name or self.active or "Segment_1"
        assert applied_to == name
        if name not in self.names:
            self._add(name)
        number = self.names.index(name)
        before = self.arrays[number]
        after = before.copy()
        geometry.take_slice(after, plane, index)[...] = mask
        self.arrays[number] = after
        self.done.append((number, before, after))
        self.undone.clear()

    @rule(plane=st.sampled_from(Plane), index=st.sampled_from((-1, 5, 100)))
    def apply_off_the_volume(self, plane: Plane, index: int) -> None:
        with pytest.raises(MaskError, match="slices 0 to"):
            self.segmentation.apply(
                np.ones(self.segmentation.geometry.slice_shape(plane), bool), plane, index
            )

    @rule(plane=st.sampled_from(Plane))
    def apply_another_shape(self, plane: Plane) -> None:
        with pytest.raises(MaskError, match="but the slice is"):
            self.segmentation.apply(np.ones((7, 7), bool), plane, 0, "new")

    @rule()
    def apply_to_another_plane(self) -> None:
        with pytest.raises(MaskError, match="no plane 3"):
            self.segmentation.apply(np.ones((4, 5), bool), 3, 0)

    @rule()
    def undo(self) -> None:
        assert self.segmentation.undo() == bool(self.done)
        if self.done:
            number, before, after = self.done.pop()
            self.arrays[number] = before
            self.undone.append((number, before, after))

    @rule()
    def redo(self) -> None:
        assert self.segmentation.redo() == bool(self.undone)
        if self.undone:
            number, before, after = self.undone.pop()
            self.arrays[number] = after
            self.done.append((number, before, after))

    @precondition(lambda self: self.names)
    @rule(data=st.data(), new=st.sampled_from("abcdxyz"))
    def rename(self, data: st.DataObject, new: str) -> None:
        old = data.draw(st.sampled_from(self.names))
        if new in self.names:
            with pytest.raises(MaskError, match="not taken"):
                self.segmentation.rename(old, new)
            return
        self.segmentation.rename(old, new)
        # A step of undo itself, which test_segments.py of the core looks at.
        self.segmentation.forget_changes()
        self.done, self.undone = [], []
        self.names[self.names.index(old)] = new
        self.active = new if self.active == old else self.active

    @rule(name=st.sampled_from("abcdxyz"))
    def set_active(self, name: str) -> None:
        if name not in self.names:
            with pytest.raises(MaskError, match="no segment"):
                self.segmentation.set_active(name)
            return
        self.segmentation.set_active(name)
        self.active = name

    @rule()
    def clear(self) -> None:
        self.segmentation.clear()
        self.names, self.arrays, self.active, self.done, self.undone = [], [], None, [], []

    @invariant()
    def is_the_same(self) -> None:
        found = self.segmentation
        assert [segment.name for segment in found.segments()] == self.names
        assert found.active == self.active
        assert (found.undo_steps, found.redo_steps) == (len(self.done), len(self.undone))
        labels = np.zeros((3, 4, 5), np.uint8)
        for number, (name, array) in enumerate(zip(self.names, self.arrays, strict=True)):
            assert np.array_equal(found.layer(name), array)
            assert found.voxels(name) == np.count_nonzero(array)
            labels[array] = number + 1
        assert np.array_equal(found.labelmap(), labels)
        for plane in Plane:
            expected = found.geometry.take_slice(labels, plane, 1)
            assert np.array_equal(found.slice_labels(plane, 1), expected)


AgainstNumPy.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSegmentationIsWhatANaiveModelIs = AgainstNumPy.TestCase


def test_a_mask_that_bloats_and_shrinks_eats_no_neighbour() -> None:
    segmentation = Segmentation(VolumeGeometry((8, 8, 1), np.eye(4)))
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    segmentation.apply(left, Plane.AXIAL, 0, "left")

    segmentation.apply(np.ones((8, 8), bool), Plane.AXIAL, 0, "right")
    segmentation.apply(~left, Plane.AXIAL, 0, "right")

    assert np.array_equal(segmentation.layer("left")[0], left)
    assert np.array_equal(segmentation.layer("right")[0], ~left)


def test_the_last_200_changes_can_be_undone() -> None:
    segmentation = Segmentation(VolumeGeometry((16, 16, 1), np.eye(4)))
    for n in range(256):
        segmentation.apply(np.arange(256).reshape(16, 16) <= n, Plane.AXIAL, 0)

    assert segmentation.undo_steps == 200
    assert [segmentation.undo() for _ in range(201)] == [True] * 200 + [False]
    assert segmentation.voxels("Segment_1") == 56
    assert [segmentation.redo() for _ in range(201)] == [True] * 200 + [False]
    assert segmentation.voxels("Segment_1") == 256


def test_there_are_255_segments_at_most() -> None:
    segmentation = Segmentation(VolumeGeometry((2, 2, 1), np.eye(4)))
    for n in range(255):
        segmentation.add(str(n))

    with pytest.raises(MaskError, match="255 segments already"):
        segmentation.apply(np.ones((2, 2), bool), Plane.AXIAL, 0, "one more")
    assert segmentation.segments()[-1].label == 255


@pytest.mark.parametrize("name", ["", "a\nSegment9_Name:=b", "a\0", "\ud800"])
def test_a_name_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(MaskError, match="printable name"):
        Segmentation(VolumeGeometry((2, 2, 1), np.eye(4))).add(name)


def test_threads_that_apply_and_undo_leave_the_counts_right() -> None:
    segmentation = Segmentation(VolumeGeometry((20, 20, 4), np.eye(4)))

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(100):
            segmentation.apply(random.random((20, 20)) < 0.5, Plane.AXIAL, seed, str(seed % 2))
            segmentation.undo()
            segmentation.redo()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for segment, voxels in segmentation.snapshot():
        assert segmentation.voxels(segment.name) == np.count_nonzero(voxels)


def segmentation_of_three(*, overlapping: bool) -> Segmentation:
    segmentation = Segmentation(VolumeGeometry((6, 5, 4), OBLIQUE))
    masks = np.zeros((3, *segmentation.geometry.slice_shape(Plane.SAGITTAL)), bool)
    masks[0, :2], masks[1, 2], masks[2, 3] = True, True, True
    masks[2, :, 1:3] = overlapping
    for name, mask in zip(("liver", "left kidney", "spleen"), masks, strict=True):
        segmentation.apply(mask, Plane.SAGITTAL, 2, name)
    return segmentation


def ras_of(image: sitk.Image, index: tuple[int, ...]) -> np.ndarray:
    left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
    return np.array([-left, -posterior, superior])


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "out.nrrd"])
def test_a_labelmap_reads_back_voxel_by_voxel_where_it_was(tmp_path: Path, name: str) -> None:
    segmentation = segmentation_of_three(overlapping=True)

    write_segmentation(segmentation, tmp_path / name)

    image = sitk.ReadImage(str(tmp_path / name))
    assert np.array_equal(sitk.GetArrayFromImage(image), segmentation.labelmap())
    assert image.GetPixelID() == sitk.sitkUInt8
    for index in (0, 0, 0), (5, 4, 3), (1, 3, 2):
        assert ras_of(image, index) == pytest.approx(segmentation.geometry.position_of(index)[0], abs=1e-5)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("overlapping", [False, True], ids=["apart", "overlapping"])
def test_slicers_file_reads_back_with_names_colours_and_layers(tmp_path: Path, overlapping: bool) -> None:
    segmentation = segmentation_of_three(overlapping=overlapping)
    path = tmp_path / "out.seg.nrrd"

    write_segmentation(segmentation, path)

    voxels, header = nrrd.read(str(path))
    assert voxels.ndim == 3 + overlapping
    assert header["kinds"] == ["list"] * overlapping + ["domain"] * 3
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    for number, (segment, content) in enumerate(segmentation.snapshot()):
        prefix = next(f"Segment{n}_" for n in range(3) if header[f"Segment{n}_Name"] == segment.name)
        layer = voxels[int(header[f"{prefix}Layer"])] if overlapping else voxels
        assert np.array_equal((layer == int(header[f"{prefix}LabelValue"])).T, content)
        color = [float(value) for value in header[f"{prefix}Color"].split()]
        assert color == pytest.approx(segment.color)
        assert header[f"{prefix}ID"] == f"Segment_{number + 1}"
        assert header[f"{prefix}Extent"] == "0 5 0 4 0 3"
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == (6, 5, 4)
    assert image.GetNumberOfComponentsPerPixel() == (2 if overlapping else 1)
    for index in (0, 0, 0), (5, 4, 3), (1, 3, 2):
        assert ras_of(image, index) == pytest.approx(segmentation.geometry.position_of(index)[0], abs=1e-9)


def test_names_in_any_script_are_written_for_slicer_in_utf8(tmp_path: Path) -> None:
    segmentation = Segmentation(VolumeGeometry((2, 2, 2), np.eye(4)))
    segmentation.add("Nebenniere · 副腎 \\n")

    write_segmentation(segmentation, tmp_path / "out.seg.nrrd")

    # The format doubles a backslash.
    image = sitk.ReadImage(str(tmp_path / "out.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name").replace("\\\\", "\\") == "Nebenniere · 副腎 \\n"


@pytest.mark.parametrize("name", ["out.nii.gz", "out.seg.nrrd"])
def test_an_empty_segmentation_is_written_too(tmp_path: Path, name: str) -> None:
    write_segmentation(Segmentation(VolumeGeometry((4, 3, 2), OBLIQUE)), tmp_path / name)

    assert not read_volume(tmp_path / name).voxels.any()


def test_a_single_slice_stays_where_it_was(tmp_path: Path) -> None:
    geometry = VolumeGeometry((4, 3, 1), OBLIQUE)
    for name in "out.nii.gz", "out.nrrd":
        write_segmentation(Segmentation(geometry), tmp_path / name)

        assert read_volume(tmp_path / name).geometry.ijk_to_ras == pytest.approx(OBLIQUE, abs=1e-5)


def test_other_suffixes_and_absent_folders_are_refused(tmp_path: Path) -> None:
    segmentation = segmentation_of_three(overlapping=False)
    with pytest.raises(MaskError, match=r"out\.obj has no known suffix; end it in one of \.seg\.nrrd"):
        write_segmentation(segmentation, tmp_path / "out.obj")
    with pytest.raises(MaskError, match="absent does not exist; make it first"):
        write_segmentation(segmentation, tmp_path / "absent" / "out.nii")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(MaskError, match=r"folder\.nii is there already"):
        write_segmentation(segmentation, tmp_path / "folder.nii")


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "out.nrrd", "out.seg.nrrd"])
def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_segmentation(Segmentation(VolumeGeometry((4, 3, 2), OBLIQUE)), path)
    before = path.read_bytes()
    # A file of 2 kB is all that the system takes from this process.
    program = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from samm_core.errors import MaskError
        from samm_core.geometry import Plane, VolumeGeometry
        from samm_core.segmentation.segmentation import Segmentation
        from samm_core.segmentation.writers import write_segmentation

        segmentation = Segmentation(VolumeGeometry((300, 300, 1), np.eye(4)))
        segmentation.apply(np.random.default_rng(0).random((300, 300)) < 0.5, Plane.AXIAL, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            write_segmentation(segmentation, Path(sys.argv[1]))
        except MaskError as error:
            print(error)
    """

    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "could not be written" in run.stdout, run.stdout + run.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@st.composite
def geometries(draw: st.DrawFn, shears: st.SearchStrategy[float]) -> VolumeGeometry:
    """Turned in any way, flipped, of unequal spacing, and sheared by as much as the strategy says, per axis."""
    small = st.floats(-1, 1, allow_subnormal=False)
    turn = np.array([draw(st.tuples(small, small, small)) for _ in range(3)]) + 3 * np.eye(3)
    turn, _ = np.linalg.qr(turn[list(draw(st.permutations(range(3))))])
    turn *= draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    spacing = np.array(draw(st.tuples(*[st.floats(0.2, 5)] * 3)))
    shear = np.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = draw(shears), draw(shears), draw(shears)
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ shear * spacing
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return VolumeGeometry(draw(st.tuples(*[st.integers(9, 14)] * 3)), matrix)


def with_ball(geometry: VolumeGeometry) -> tuple[Segmentation, np.ndarray]:
    """A ball, applied slice by slice, and its centre, RAS; round in voxels, so that it is whole in any volume."""
    ijk = np.argwhere(np.ones(geometry.dimensions[::-1]))[:, ::-1]
    centre_ijk = (np.array(geometry.dimensions) - 1) * (0.55, 0.5, 0.45)
    inside = np.linalg.norm(ijk - centre_ijk, axis=1) < 3.3
    ball = inside.reshape(geometry.dimensions[::-1])
    segmentation = Segmentation(geometry)
    for index in range(geometry.slice_count(Plane.CORONAL)):
        segmentation.apply(geometry.take_slice(ball, Plane.CORONAL, index), Plane.CORONAL, index, "ball")
    return segmentation, geometry.position_of(ijk[inside]).mean(axis=0)


def by_simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K), and (4, 4) IJK to RAS."""
    image = sitk.ReadImage(str(path))
    matrix = np.column_stack(
        [ras_of(image, step) - ras_of(image, (0, 0, 0)) for step in np.eye(3, dtype=int).tolist()]
    )
    return sitk.GetArrayFromImage(image).T, np.vstack(
        [np.column_stack([matrix, ras_of(image, (0, 0, 0))]), (0, 0, 0, 1)]
    )


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def by_pynrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    voxels, header = nrrd.read(str(path))
    assert header["space"] == "left-posterior-superior"
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([header["space directions"].T, header["space origin"]])
    return voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def ball_of(voxels: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """The centre of what is set, RAS."""
    return ijk_to_ras[:3, :3] @ np.argwhere(voxels > 0).mean(axis=0) + ijk_to_ras[:3, 3]


READERS = {
    "out.nii": [by_nibabel, by_simpleitk],
    "out.nii.gz": [by_nibabel, by_simpleitk],
    "out.nrrd": [by_pynrrd, by_simpleitk],
    "out.seg.nrrd": [by_pynrrd, by_simpleitk],
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=30)
@given(geometry=geometries(st.just(0.0)))
def test_a_ball_is_where_it_was_for_every_reader(
    tmp_path_factory: pytest.TempPathFactory, name: str, geometry: VolumeGeometry
) -> None:
    path = tmp_path_factory.mktemp("saved") / name
    segmentation, centre = with_ball(geometry)

    write_segmentation(segmentation, path)

    for read in READERS[name]:
        off = np.linalg.norm(ball_of(*read(path)) - centre)
        assert off < geometry.spacing.min() / 10, f"{read.__name__}: {off:.3f} mm off"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=30)
@given(geometry=geometries(st.one_of(st.floats(-0.6, 0.6), st.floats(-0.01, 0.01), st.just(0.0))))
def test_a_ball_in_a_sheared_volume_is_where_it_was_or_the_reader_refuses_the_file(
    tmp_path_factory: pytest.TempPathFactory, name: str, geometry: VolumeGeometry
) -> None:
    """A tilted gantry. NIfTI's sform holds the shear; SimpleITK takes none in NIfTI, and says so."""
    path = tmp_path_factory.mktemp("saved") / name
    segmentation, centre = with_ball(geometry)

    write_segmentation(segmentation, path)

    first, *others = READERS[name]
    found = [ball_of(*first(path))]
    for read in others:
        try:
            found.append(ball_of(*read(path)))
        except RuntimeError as error:
            assert ".nii" in name
            assert "orthonormal" in str(error)
    for ball in found:
        off = np.linalg.norm(ball - centre)
        assert off < geometry.spacing.min() / 10, f"{off:.3f} mm off"


def test_a_sheared_nifti_has_no_qform_and_another_has_both(tmp_path: Path) -> None:
    sheared = OBLIQUE.copy()
    sheared[1, 2] += 1
    for matrix, codes in (OBLIQUE, (1, 1)), (sheared, (0, 1)):
        write_segmentation(Segmentation(VolumeGeometry((9, 9, 9), matrix)), tmp_path / "out.nii")
        header = nibabel.load(tmp_path / "out.nii").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == codes
        assert header.get_sform() == pytest.approx(matrix)
        assert header.get_zooms() == pytest.approx(np.linalg.norm(matrix[:3, :3], axis=0))


def test_a_placement_that_the_format_cannot_hold_is_refused_and_nrrd_holds_it(tmp_path: Path) -> None:
    """NIfTI's positions are 32-bit: here 1 km away and 0.01 mm apart."""
    matrix = np.diag([0.01, 0.01, 0.01, 1.0])
    matrix[:3, 3] = 1e6 + 1 / 3
    segmentation = Segmentation(VolumeGeometry((4, 4, 4), matrix))
    for name in "out.nii", "out.nii.gz":
        with pytest.raises(MaskError, match=r"mm beside the volume, .* sheared by .* mm; \.nrrd holds it"):
            write_segmentation(segmentation, tmp_path / name)
    assert list(tmp_path.iterdir()) == []

    write_segmentation(segmentation, tmp_path / "out.nrrd")

    assert by_pynrrd(tmp_path / "out.nrrd")[1] == pytest.approx(matrix, abs=1e-6)


def test_a_side_that_nifti_cannot_count_is_refused(tmp_path: Path) -> None:
    segmentation = Segmentation(VolumeGeometry((40_000, 1, 1), np.eye(4)))
    with pytest.raises(MaskError, match="32767 voxels a side"):
        write_segmentation(segmentation, tmp_path / "out.nii")
    write_segmentation(segmentation, tmp_path / "out.nrrd")


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    """A segmentation that was saved here and then loaded as a volume."""
    path = tmp_path / "input.nii.gz"
    write_segmentation(segmentation_of_three(overlapping=False), path)
    return path


def other_names(path: Path) -> dict[str, Path]:
    folder = path.parent
    (folder / "sub").mkdir()
    (folder / "link.nii.gz").symlink_to(path)
    (folder / "hard.nii.gz").hardlink_to(path)
    (folder / "linked").symlink_to(folder)
    return {
        "itself": path,
        "another spelling": folder / "sub" / ".." / path.name,
        "symbolic link": folder / "link.nii.gz",
        "hard link": folder / "hard.nii.gz",
        "by a linked folder": folder / "linked" / path.name,
    }


def test_the_volume_that_was_loaded_is_never_overwritten_by_any_name(volume_file: Path) -> None:
    before = volume_file.read_bytes()
    for how, name in other_names(volume_file).items():
        for loaded in volume_file, volume_file.parent / "link.nii.gz":
            with pytest.raises(MaskError, match="is the volume that was loaded, or a part of it"):
                write_segmentation(segmentation_of_three(overlapping=False), name, [Path("/absent"), loaded])
            assert volume_file.read_bytes() == before, how
            assert name.exists(), how


def test_no_file_of_a_series_that_was_loaded_is_overwritten(tmp_path: Path) -> None:
    """And a new file beside them is no part of it."""
    series = tmp_path / "series"
    (series / "deep").mkdir(parents=True)
    for name in "1.dcm", "deep/2.dcm":
        (series / name).write_bytes(b"a slice")
    (tmp_path / "out.nrrd").symlink_to(series / "1.dcm")
    (tmp_path / "out.nii").hardlink_to(series / "deep" / "2.dcm")
    segmentation = segmentation_of_three(overlapping=False)
    for name in "out.nrrd", "out.nii":
        with pytest.raises(MaskError, match="or a part of it; write to another file"):
            write_segmentation(segmentation, tmp_path / name, [series])
    assert (series / "1.dcm").read_bytes() == (series / "deep" / "2.dcm").read_bytes() == b"a slice"

    write_segmentation(segmentation, series / "out.nrrd", [series])


@pytest.mark.parametrize("name", READERS)
def test_only_what_was_written_here_is_written_over(tmp_path: Path, name: str) -> None:
    segmentation, path = segmentation_of_three(overlapping=True), tmp_path / name
    path.touch()
    # Nothing is lost with an empty file, nor with an earlier save.
    write_segmentation(segmentation, path)
    write_segmentation(segmentation, path)
    scan = sitk.GetImageFromArray(np.zeros((4, 4, 4), np.uint8))
    if not name.endswith(".seg.nrrd"):
        path.unlink()
        sitk.WriteImage(scan, str(path))
        with pytest.raises(MaskError, match="is there already and no segmentation of samm; write elsewhere"):
            write_segmentation(segmentation, path)
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).shape == (4, 4, 4)
    for content in b"a text", b"\x1f\x8bno gzip", b"\x1f\x8b":
        path.write_bytes(content)
        with pytest.raises(MaskError, match="is there already"):
            write_segmentation(segmentation, path)
        assert path.read_bytes() == content
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MaskError, match="is there already"):
        write_segmentation(segmentation, path)
    path.unlink()
    path.symlink_to(tmp_path / "absent")
    with pytest.raises(MaskError, match="is there already"):
        write_segmentation(segmentation, path)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no test volumes in {DATA}; set SAMM_TEST_DATA")
def test_organs_applied_slice_by_slice_and_saved_are_the_organs(tmp_path: Path) -> None:
    truth = read_volume(DATA / "ct_seg.nii.gz")
    segmentation = Segmentation(truth.geometry)
    for label, plane in (5, Plane.AXIAL), (1, Plane.CORONAL), (3, Plane.SAGITTAL):
        for index in range(truth.geometry.slice_count(plane)):
            mask = truth.geometry.take_slice(truth.voxels, plane, index) == label
            segmentation.apply(mask, plane, index, str(label))

    write_segmentation(segmentation, tmp_path / "out.nii.gz")

    saved = read_volume(tmp_path / "out.nii.gz")
    for segment in segmentation.segments():
        assert np.array_equal(saved.voxels == segment.label, truth.voxels == int(segment.name))
    assert saved.geometry.ijk_to_ras == pytest.approx(truth.geometry.ijk_to_ras, abs=1e-5)
