# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Exports: a segmentation as DICOM SEG, as a surface and as a table lies where it is in the patient."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import phantom
import pydicom
import pytest
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st
from vtk.util.numpy_support import vtk_to_numpy

from samm_core.errors import MaskError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.segmentation.segmentation import Segmentation
from samm_core.segmentation.writers import write_segmentation
from samm_core.sources.volume import read_here

DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[5] / "shared" / "data"))
LPS = np.diag([-1.0, -1.0, 1.0])
RADIUS = 6.3


def segmentation_of(geometry: VolumeGeometry, **voxels: np.ndarray) -> Segmentation:
    """voxels: (K, J, I) bool by segment."""
    segmentation = Segmentation(geometry)
    for name, content in voxels.items():
        for index in range(geometry.slice_count(Plane.AXIAL)):
            segmentation.apply(
                geometry.take_slice(content, Plane.AXIAL, index), Plane.AXIAL, index, name.replace("_", " ")
            )
    return segmentation


@st.composite
def balls(draw: st.DrawFn) -> tuple[VolumeGeometry, np.ndarray, np.ndarray]:
    """A volume turned, mirrored and sheared in any way, a ball in it (K, J, I), and the ball's centre, RAS.

    The ball is round in voxels, so that it is whole in any volume; in millimetres it is an ellipsoid.
    """
    angle = st.floats(-180, 180)
    axes = phantom.rotation(draw(st.tuples(angle, angle, angle))) * draw(
        st.tuples(*[st.sampled_from([-1, 1])] * 3)
    )
    shear = np.eye(3)
    shear[0, 2], shear[1, 2] = draw(st.floats(-0.4, 0.4)), draw(st.floats(-0.4, 0.4))
    spacing = draw(st.tuples(*[st.floats(0.3, 5)] * 3))
    matrix = phantom.placed(axes @ shear, spacing, draw(st.tuples(*[st.floats(-300, 300)] * 3)))
    sides = np.array(draw(st.tuples(*[st.integers(15, 18)] * 3)))
    centre_ijk = sides / 2 + draw(st.tuples(*[st.floats(-0.9, 0.9)] * 3))
    ijk = np.indices(sides[::-1])[::-1]
    inside = np.linalg.norm(ijk - centre_ijk[:, None, None, None], axis=0) < RADIUS
    geometry = VolumeGeometry(tuple(sides.tolist()), matrix)
    return geometry, inside, geometry.position_of(centre_ijk)[0]


def surface_of(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """By VTK: vertices, (N, 3) LPS mm; triangles, (M, 3); and what the header says."""
    reader = vtk.vtkSTLReader() if path.suffix == ".stl" else vtk.vtkPLYReader()
    reader.SetFileName(str(path))
    reader.Update()
    mesh = reader.GetOutput()
    triangles = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    head = path.read_bytes()[:400].decode(errors="replace")
    return vtk_to_numpy(mesh.GetPoints().GetData()).astype(float), triangles, head


def volume_and_centre(vertices: np.ndarray, triangles: np.ndarray) -> tuple[float, np.ndarray]:
    """Of what a closed surface holds, by the divergence theorem; negative where its triangles turn inward."""
    origin = vertices.mean(axis=0)
    a, b, c = np.moveaxis(vertices[triangles] - origin, 1, 0)
    pieces = np.einsum("ni,ni->n", a, np.cross(b, c)) / 6
    return pieces.sum(), origin + (pieces[:, None] * (a + b + c) / 4).sum(axis=0) / pieces.sum()


@pytest.mark.parametrize("suffix", [".stl", ".ply"])
@settings(max_examples=40)
@given(case=balls())
def test_the_surface_of_a_ball_lies_where_the_ball_is(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, case: tuple
) -> None:
    geometry, ball, centre_ras = case
    path = tmp_path_factory.mktemp("saved") / f"ball{suffix}"

    write_segmentation(segmentation_of(geometry, ball=ball), path)

    vertices, triangles, head = surface_of(path)
    volume, centre = volume_and_centre(vertices, triangles)
    assert "SPACE=LPS" in head and "samm segmentation" in head
    assert np.abs(LPS @ centre - centre_ras).max() < 0.15 * geometry.spacing.max()
    exact = 4 / 3 * np.pi * RADIUS**3 * abs(np.linalg.det(geometry.ijk_to_ras[:3, :3]))
    assert abs(volume / exact - 1) < 0.08
    # Nothing lies beyond half a voxel around the ball.
    ijk = geometry.index_of(vertices @ LPS)
    assert np.linalg.norm(ijk - geometry.index_of(centre_ras), axis=1).max() < RADIUS + 0.5


@settings(max_examples=40)
@given(case=balls())
def test_the_table_says_how_large_a_ball_is_and_where(
    tmp_path_factory: pytest.TempPathFactory, case: tuple
) -> None:
    geometry, ball, centre_ras = case
    path = tmp_path_factory.mktemp("saved") / "sizes.csv"

    write_segmentation(segmentation_of(geometry, ball=ball, empty=ball & False), path)

    with path.open(encoding="utf-8", newline="") as file:
        found, empty = csv.DictReader(file)
    exact = 4 / 3 * np.pi * RADIUS**3 * abs(np.linalg.det(geometry.ijk_to_ras[:3, :3])) / 1000
    assert int(found["voxels"]) == ball.sum()
    assert abs(float(found["volume_ml"]) / exact - 1) < 0.05
    # An ellipsoid reaches from its centre, along R, A and S, by the length of the matrix's rows.
    reach = RADIUS * np.linalg.norm(geometry.ijk_to_ras[:3, :3], axis=1)
    half_voxel = np.abs(geometry.ijk_to_ras[:3, :3]).sum(axis=1)
    for axis, letter in enumerate("ras"):
        low, high = (float(found[f"{letter}_{end}_mm"]) for end in ("min", "max"))
        assert abs(low - (centre_ras - reach)[axis]) < half_voxel[axis]
        assert abs(high - (centre_ras + reach)[axis]) < half_voxel[axis]
    for axis, letter in enumerate("ijk"):
        indices = np.argwhere(ball)[:, 2 - axis]
        assert int(found[f"{letter}_min"]) == indices.min()
        assert int(found[f"{letter}_max"]) == indices.max()
    assert (empty["segment"], empty["voxels"], empty["i_min"], empty["s_max_mm"]) == ("empty", "0", "", "")


def test_each_segment_has_its_row_and_its_surface_and_names_in_any_script(tmp_path: Path) -> None:
    geometry = VolumeGeometry((9, 8, 7), np.diag([2.0, 1.0, 3.0, 1.0]))
    voxels = np.zeros((7, 8, 9), bool)
    voxels[2:4, 2:5, 3:7] = True
    segmentation = segmentation_of(geometry, a=voxels, b=np.roll(voxels, 2, axis=0))
    segmentation.rename("a", 'Nebenniere "re", 副腎')

    for suffix in ".csv", ".ply", ".stl":
        write_segmentation(segmentation, tmp_path / f"out{suffix}")
        # A file of ours is written over, and nothing else.
        write_segmentation(segmentation, tmp_path / f"out{suffix}")
        (tmp_path / f"theirs{suffix}").write_text("solid theirs\n")
        with pytest.raises(MaskError, match="is there already"):
            write_segmentation(segmentation, tmp_path / f"theirs{suffix}")

    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["segment"], float(row["volume_ml"])) for row in rows] == [
        ('Nebenniere "re", 副腎', 0.144),
        ("b", 0.144),
    ]
    vertices, triangles, _ = surface_of(tmp_path / "out.ply")
    head = (tmp_path / "out.ply").read_bytes().split(b"end_header\n")[0].decode()
    counts = [int(line.split()[3]) for line in head.splitlines() if line.startswith("comment segment")]
    assert "副腎" in head and sum(counts) == len(vertices)
    of_first = (triangles < counts[0]).all(axis=1)
    for of_segment, middle_ras in (of_first, (9, 3, 7.5)), (~of_first, (9, 3, 13.5)):
        volume, centre = volume_and_centre(vertices, triangles[of_segment])
        assert LPS @ centre == pytest.approx(middle_ras)
        # Marching cubes cut off the edges of what is this small.
        assert 110 < volume < 144
    assert len(surface_of(tmp_path / "out.stl")[1]) == len(triangles)


def test_a_mask_on_one_slice_at_the_border_has_a_closed_surface(tmp_path: Path) -> None:
    geometry = VolumeGeometry((6, 6, 1), np.diag([1.0, 1.0, 4.0, 1.0]))
    write_segmentation(segmentation_of(geometry, all=np.ones((1, 6, 6), bool)), tmp_path / "all.ply")

    vertices, triangles, _ = surface_of(tmp_path / "all.ply")

    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert np.ptp(vertices, axis=0) == pytest.approx((6, 6, 4))


def test_what_stl_cannot_hold_is_refused_and_ply_holds_it(tmp_path: Path) -> None:
    matrix = np.diag([0.01, 0.01, 0.01, 1.0])
    matrix[:3, 3] = 1e4 + 1 / 3
    segmentation = segmentation_of(VolumeGeometry((4, 4, 4), matrix), a=np.ones((4, 4, 4), bool))
    with pytest.raises(MaskError, match=r"mm beside the volume; \.ply holds it"):
        write_segmentation(segmentation, tmp_path / "out.stl")
    assert list(tmp_path.iterdir()) == []
    write_segmentation(segmentation, tmp_path / "out.ply")


@pytest.mark.parametrize("suffix", [".stl", ".ply", ".dcm"])
def test_nothing_to_show_is_refused_in_a_sentence(tmp_path: Path, suffix: str) -> None:
    volume = phantom.write_dicom(tmp_path / "ct", phantom.dicom_slices(phantom.ball((9, 9, 7)), np.eye(4)))
    segmentation = Segmentation(read_here(volume).geometry)
    segmentation.add("empty")
    with pytest.raises(MaskError, match=r"No segment has a voxel.*; segment something first"):
        write_segmentation(segmentation, tmp_path / f"out{suffix}", source=volume)


@pytest.mark.parametrize("suffix", [".csv", ".stl", ".ply", ".dcm"])
def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path: Path, suffix: str) -> None:
    source = phantom.write_dicom(tmp_path / "ct", phantom.dicom_slices(phantom.ball((9, 9, 7)), np.eye(4)))
    volume = read_here(source)
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / f"saved{suffix}"
    write_segmentation(segmentation_of(volume.geometry, a=volume.voxels > 100), path, source=source)
    before = path.read_bytes()
    # As much as the system takes from this process.
    program = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from samm_core.errors import MaskError
        from samm_core.geometry import Plane
        from samm_core.segmentation.segmentation import Segmentation
        from samm_core.segmentation.writers import write_segmentation
        from samm_core.sources.volume import read_here

        source, path = Path(sys.argv[1]), Path(sys.argv[2])
        volume = read_here(source)
        segmentation = Segmentation(volume.geometry)
        shape = volume.geometry.slice_shape(Plane.AXIAL)
        for n in range(9):
            segmentation.apply(np.random.default_rng(n).random(shape) < 0.5, Plane.AXIAL, n, f"{n}" * 60)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        try:
            write_segmentation(segmentation, path, source=source)
        except MaskError as error:
            print(error)
    """

    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(source), str(path)],
        capture_output=True,
        text=True,
    )

    assert "could not be written" in run.stdout, run.stdout + run.stderr
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def seg_of(path: Path) -> tuple[dict[str, np.ndarray], pydicom.Dataset]:
    """By the standard's words: RAS mm of the centre of each pixel that is set, (N, 3), of each segment."""
    dataset = pydicom.dcmread(path)
    labels = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
    points: dict[str, list[np.ndarray]] = {label: [] for label in labels.values()}
    size = dataset.Rows * dataset.Columns
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        pixels = bits[number * size : (number + 1) * size].reshape(dataset.Rows, dataset.Columns)
        rows, columns = np.nonzero(pixels)
        orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        lps = (
            origin
            + columns[:, None] * between_columns * orientation[:3]
            + rows[:, None] * between_rows * orientation[3:]
        )
        of_segment = groups if "SegmentIdentificationSequence" in groups else shared
        label = labels[int(of_segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        points[label].append(lps @ LPS)
    return {label: np.concatenate(each) for label, each in points.items()}, dataset


def require_same_points(found: np.ndarray, geometry: VolumeGeometry, voxels: np.ndarray) -> None:
    expected = geometry.position_of(np.argwhere(voxels)[:, ::-1])
    assert found.shape == expected.shape
    ijk = geometry.index_of(found)
    assert np.abs(ijk - np.rint(ijk)).max() < 0.01
    assert {tuple(each) for each in np.rint(ijk).astype(int)} == {
        tuple(each[::-1]) for each in np.argwhere(voxels)
    }


@settings(max_examples=12)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    tilt=st.sampled_from([0.0, 0.0, 12.0]),
    shuffled=st.permutations(range(14)),
    is_enhanced=st.booleans(),
)
def test_dicom_seg_lies_on_its_series_however_that_lies(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple,
    tilt: float,
    shuffled: list[int],
    is_enhanced: bool,
) -> None:
    """Turned, tilted, in files or frames of any order; segments overlap."""
    folder = tmp_path_factory.mktemp("dicom")
    axes = phantom.rotation(angles)
    axes[:, 2] += np.tan(np.deg2rad(tilt)) * axes[:, 1]
    matrix = phantom.placed(axes, (0.8, 1.1, 2.5), (-40, 60, 15))
    ball = phantom.ball((9, 8, 7))
    if is_enhanced:
        datasets = [phantom.enhanced(ball, matrix, shuffled)]
        datasets[0].FrameOfReferenceUID = datasets[0].SeriesInstanceUID
        datasets[0].StudyInstanceUID = datasets[0].SeriesInstanceUID
    else:
        datasets = phantom.dicom_slices(ball, matrix)
        datasets = [datasets[k] for k in shuffled]
    source = phantom.write_dicom(folder / "series", datasets)
    volume = read_here(source)
    inside, half = volume.voxels > 100, volume.voxels > 100
    half[:7] = False
    segmentation = segmentation_of(volume.geometry, ball=inside, upper_half=half)

    write_segmentation(segmentation, folder / "out.seg.dcm", [source], source)

    found, dataset = seg_of(folder / "out.seg.dcm")
    require_same_points(found["ball"], volume.geometry, inside)
    require_same_points(found["upper half"], volume.geometry, half)
    centre = (matrix @ [9, 8, 7, 1])[:3]
    assert np.linalg.norm(found["ball"].mean(axis=0) - centre) < 0.5
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    for word in "FrameOfReferenceUID", "StudyInstanceUID", "PatientID":
        assert dataset[word].value == datasets[0][word].value
    assert dataset.SeriesInstanceUID != datasets[0].SeriesInstanceUID
    referenced = dataset.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == datasets[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} <= {
        each.SOPInstanceUID for each in datasets
    }


def test_dicom_seg_holds_names_and_colours(tmp_path: Path) -> None:
    source = phantom.write_dicom(tmp_path / "ct", phantom.dicom_slices(phantom.ball((9, 9, 7)), np.eye(4)))
    volume = read_here(source)
    segmentation = segmentation_of(volume.geometry, a=volume.voxels > 100)
    segmentation.rename("a", "Nebenniere · 副腎 \\n")
    segmentation.recolor("Nebenniere · 副腎 \\n", (1.0, 1.0, 1.0))

    for _ in range(2):
        write_segmentation(segmentation, tmp_path / "out.dcm", source=source)

    segment = pydicom.dcmread(tmp_path / "out.dcm").SegmentSequence[0]
    # DICOM separates values by a backslash.
    assert segment.SegmentLabel == "Nebenniere · 副腎 /n"
    lightness, *tint = segment.RecommendedDisplayCIELabValue
    assert lightness == 65535
    assert np.abs(np.array(tint) - 0x8080).max() < 300


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no test volumes in {DATA}; set SAMM_TEST_DATA")
def test_the_liver_of_a_real_series_is_where_dcmqi_has_it(tmp_path: Path) -> None:
    source = tmp_path / "ct"
    source.mkdir()
    for name in "01.dcm", "02.dcm", "03.dcm":
        (source / name).write_bytes((DATA / "dicom_seg" / name).read_bytes())
    volume = read_here(source)
    theirs, _ = seg_of(DATA / "dicom_seg" / "liver_SEG.dcm")
    (liver,) = theirs.values()
    voxels = np.zeros(volume.voxels.shape, bool)
    voxels[tuple(np.rint(volume.geometry.index_of(liver)).astype(int)[:, ::-1].T)] = True

    write_segmentation(
        segmentation_of(volume.geometry, liver=voxels), tmp_path / "out.seg.dcm", source=source
    )

    found, ours = seg_of(tmp_path / "out.seg.dcm")
    require_same_points(found["liver"], volume.geometry, voxels)
    assert ours.FrameOfReferenceUID == pydicom.dcmread(source / "01.dcm").FrameOfReferenceUID


def test_dicom_seg_is_refused_for_what_is_not_the_volumes_series(tmp_path: Path) -> None:
    datasets = phantom.dicom_slices(phantom.ball((9, 9, 7)), np.eye(4))
    source = phantom.write_dicom(tmp_path / "ct", datasets)
    volume = read_here(source)
    segmentation = segmentation_of(volume.geometry, a=volume.voxels > 100)
    nifti = phantom.write_nifti(tmp_path / "v.nii.gz", volume.voxels, np.eye(4))
    moved = phantom.write_dicom(
        tmp_path / "moved",
        phantom.dicom_slices(phantom.ball((9, 9, 7)), phantom.placed(np.eye(3), (1, 1, 1), (3, 0, 0))),
    )
    fewer = phantom.write_dicom(tmp_path / "fewer", datasets[:-1])
    for dataset in datasets:
        del dataset.FrameOfReferenceUID
    without = phantom.write_dicom(tmp_path / "without", datasets)
    for given_source, sentence in (
        (None, r"for volumes that were read from DICOM, and this one is not there; write \.seg\.nrrd"),
        (tmp_path / "absent", "absent is not there"),
        (nifti, r"read from DICOM, and v\.nii\.gz is none; write \.seg\.nrrd"),
        (moved, "moved is not what the volume was read from any more; load it again"),
        (fewer, "fewer is not what"),
        (without, "has no FrameOfReferenceUID, which DICOM SEG refers to"),
    ):
        with pytest.raises(MaskError, match=sentence):
            write_segmentation(segmentation, tmp_path / "out.seg.dcm", source=given_source)
    with pytest.raises(MaskError, match="is the volume that was loaded, or a part of it"):
        write_segmentation(segmentation, source / "000.dcm", source=source)
    assert not (tmp_path / "out.seg.dcm").exists()
