# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's files on a real scene: the segmentation exported, saved by itself, and brought back."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import phantom
import pydicom
import pytest
import SimpleITK as sitk
from slicer_scene import SlicerScene, vtk_matrix
from SlicerIPPLib import autosave
from SlicerIPPLib.export import KINDS, missing_package
from SlicerIPPLib.nodes import voxel_stamp
from SlicerIPPLib.state import GraphVolume, SentVolume

from samm_core.geometry import Plane, VolumeGeometry
from samm_core.segmentation import writers
from samm_core.segmentation.segmentation import Segmentation

IJK_TO_RAS = np.array([[0.0, 2.0, 0.0, 10.0], [-1.0, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, -5.0], [0, 0, 0, 1]])
SHAPE = (8, 10, 12)


@pytest.fixture
def scene() -> Iterator[SlicerScene]:
    """A volume, and two segments that overlap."""
    with SlicerScene() as scene:
        scene.add_volume(np.zeros(SHAPE, np.int16), IJK_TO_RAS, (0, 1))
        for name, color, first in (("liver", (1.0, 0.0, 0.0), 2), ("Niere, links", (0.0, 0.0, 1.0), 3)):
            segment_id = scene.logic.add_segment(name, color)
            for index in range(first, first + 3):
                scene.logic.segments.write(segment_id, 2, index, block(first))
        yield scene


def block(first: int) -> np.ndarray:
    mask = np.zeros(SHAPE[1:], bool)
    mask[first : first + 3, 4:7] = True
    return mask


def voxels(first: int) -> np.ndarray:
    """(K, J, I) bool of the segment that begins on this slice."""
    held = np.zeros(SHAPE, bool)
    held[first : first + 3] = block(first)
    return held


def export(scene: SlicerScene, path: Path, **fields: Path) -> str:
    """How it ended: empty, or why there is no file."""
    ended: list[str] = []
    scene.logic.export(path, done=ended.append, **fields)
    scene.spin_until(lambda: ended)
    return ended[0]


def lies_in_the_graph(scene: SlicerScene, uid: str) -> None:
    """As after load_volume()."""
    volume = scene.parameters.volume
    scene.state.graph_volume = GraphVolume(uid, VolumeGeometry(SHAPE[::-1], IJK_TO_RAS), (0, 1), ())
    scene.state.sent_volume = SentVolume(uid, volume.GetID(), voxel_stamp(volume))


def test_each_kind_is_one_that_a_writer_writes() -> None:
    assert set(KINDS) < set(writers.SUFFIXES)
    assert not any(missing_package(f"x{suffix}") for suffix in KINDS)


def test_what_is_exported_lies_on_the_volume_as_it_was_read(scene: SlicerScene, tmp_path: Path) -> None:
    moved = scene.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved.SetMatrixTransformToParent(vtk_matrix(np.diag([-1.0, 1.0, 1.0, 1.0])))
    for node in (scene.parameters.volume, scene.parameters.segmentation):
        node.SetAndObserveTransformNodeID(moved.GetID())
    assert export(scene, tmp_path / "s.nii.gz") == ""
    image = nibabel.load(tmp_path / "s.nii.gz")
    np.testing.assert_allclose(image.affine, IJK_TO_RAS, atol=1e-5)
    expected = np.where(voxels(3), 2, voxels(2))
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, expected)
    assert scene.state.log[-1] == f"Saved as {tmp_path / 's.nii.gz'}."


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nrrd", ".stl", ".ply", ".csv"])
def test_the_same_file_is_written_as_the_graph_writes(
    scene: SlicerScene, tmp_path: Path, suffix: str
) -> None:
    assert export(scene, tmp_path / f"here{suffix}") == ""
    in_graph = Segmentation(VolumeGeometry(SHAPE[::-1], IJK_TO_RAS))
    across_k = next(plane for plane in Plane if in_graph.geometry.axis(plane) == 2)
    for name, color, first in (("liver", (1.0, 0.0, 0.0), 2), ("Niere, links", (0.0, 0.0, 1.0), 3)):
        in_graph.add(name, color)
        for index in range(first, first + 3):
            in_graph.apply(block(first), across_k, index, name)
    writers.write_segmentation(in_graph, tmp_path / f"graph{suffix}")
    assert (tmp_path / f"here{suffix}").read_bytes() == (tmp_path / f"graph{suffix}").read_bytes()


def test_dicom_seg_refers_to_the_series_that_the_volume_was_read_from(
    scene: SlicerScene, tmp_path: Path
) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    slices = phantom.dicom_slices(np.zeros(SHAPE, np.int16), IJK_TO_RAS)
    phantom.write_dicom(folder, slices)
    assert export(scene, tmp_path / "s.dcm", source=folder) == ""
    saved = pydicom.dcmread(tmp_path / "s.dcm")
    assert [each.SegmentLabel for each in saved.SegmentSequence] == ["liver", "Niere, links"]
    assert saved.StudyInstanceUID == slices[0].StudyInstanceUID


def test_a_labelmap_on_another_grid_is_laid_over_the_volume_and_stays_as_it_is(
    scene: SlicerScene, tmp_path: Path
) -> None:
    node = scene.parameters.segmentation
    image = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    # Half as large and beside the volume's voxels: what it holds reaches beyond.
    image.SetImageToWorldMatrix(vtk_matrix(IJK_TO_RAS @ np.diag([0.5, 0.5, 0.5, 1.0])))
    before = image.GetExtent(), image.GetMTime()
    assert export(scene, tmp_path / "s.nrrd") == ""
    assert (image.GetExtent(), image.GetMTime()) == before
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "s.nrrd")))
    places = np.argwhere(labels == 1)
    assert places.min(axis=0).tolist() == [1, 1, 2]
    assert places.max(axis=0).tolist() == [2, 2, 3]


def test_what_lies_beyond_the_volume_is_named(scene: SlicerScene, tmp_path: Path) -> None:
    image = (
        scene.parameters.segmentation.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    )
    beside = IJK_TO_RAS.copy()
    beside[:3, 3] = (IJK_TO_RAS @ [0, 0, 5, 1])[:3]
    image.SetImageToWorldMatrix(vtk_matrix(beside))
    assert export(scene, tmp_path / "s.nrrd") == ""
    assert "What liver holds outside of the volume is not in the file." in scene.state.log
    assert not any("Niere" in line for line in scene.state.log)


def test_what_cannot_be_written_is_a_sentence_and_no_file(scene: SlicerScene, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.nrrd"
    theirs.write_bytes(b"all that there is")
    assert "is there already" in export(scene, theirs)
    assert theirs.read_bytes() == b"all that there is"
    assert "no known suffix" in export(scene, tmp_path / "s.obj")
    assert "does not exist" in export(scene, tmp_path / "absent" / "s.nrrd")
    assert "DICOM" in export(scene, tmp_path / "s.dcm")
    scene.parameters.segmentation.GetSegmentation().GetNthSegment(0).RemoveAllRepresentations()
    assert "liver has no labelmap" in export(scene, tmp_path / "s.nrrd")
    scene.parameters.segmentation = None
    assert "no segmentation yet" in export(scene, tmp_path / "s.nrrd")
    assert scene.logic.reasons()["export"].startswith("There is no segmentation yet")
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.nrrd"]
    assert scene.state.log[-1].startswith("There is no segmentation yet")


def test_what_was_saved_by_itself_comes_back(
    scene: SlicerScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.logic.autosave._rest, "_seconds", 0.05)
    scene.parameters.autosave, scene.parameters.autosave_folder = True, str(tmp_path / "saved")
    lies_in_the_graph(scene, "a" * 32)
    assert "Nothing was saved" in scene.logic.reasons()["restore"]
    first = scene.parameters.segmentation
    segment_id = first.GetSegmentation().GetNthSegmentID(0)
    scene.logic.segments.write(segment_id, 2, 2, block(2))
    scene.spin_until(lambda: scene.state.autosaved_at)
    [saved] = (tmp_path / "saved").iterdir()
    assert re.fullmatch(r"a{32}\.[0-9a-f]{8}\.seg\.nrrd", saved.name)
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o700

    scene.scene.RemoveNode(first)
    assert scene.logic.reasons()["restore"] == ""
    scene.logic.restore_autosave()
    assert scene.parameters.segmentation is not first
    assert [(row.name, row.color) for row in scene.logic.segment_rows()] == [
        ("liver", (1.0, 0.0, 0.0)),
        ("Niere, links", (0.0, 0.0, 1.0)),
    ]
    assert [round(row.volume_ml, 6) for row in scene.logic.segment_rows()] == [0.162, 0.162]
    # Masks go on where they were.
    segment_id = scene.logic.segment_rows()[0].id
    scene.logic.choose_segment(segment_id)
    scene.logic.segments.write(segment_id, 2, 2, np.zeros(SHAPE[1:], bool))
    assert round(scene.logic.segment_rows()[0].volume_ml, 6) == 0.108


def test_what_was_not_saved_yet_is_saved_when_slicer_ends(scene: SlicerScene, tmp_path: Path) -> None:
    scene.parameters.autosave, scene.parameters.autosave_folder = True, str(tmp_path)
    lies_in_the_graph(scene, "b" * 32)
    segment_id = scene.parameters.segment_id
    scene.logic.segments.write(segment_id, 2, 3, block(3))
    scene.logic.segments.write(segment_id, 2, 4, block(3))
    scene.logic.process_events()
    assert not list(tmp_path.iterdir()), "not before a minute has passed"
    scene.logic.close()
    assert [file.name[:33] for file in tmp_path.iterdir()] == [f"{'b' * 32}."]


def saved_voxels(folder: Path) -> list[int]:
    """How many voxels are marked in each file that was saved by itself, in order of their numbers."""
    files = folder.glob("*.seg.nrrd")
    return sorted(np.count_nonzero(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))) for file in files)


@pytest.fixture
def alone(scene: SlicerScene, tmp_path: Path) -> Iterator[tuple[SlicerScene, threading.Event]]:
    """A segment of 9 voxels that is saved in tmp_path at the first look, and an event until which nothing is written."""
    scene.logic.choose_segment(scene.logic.segment_rows()[0].id)
    scene.logic.remove_segment(scene.logic.segment_rows()[1].id)
    for index in (3, 4):
        scene.logic.segments.write(scene.parameters.segment_id, 2, index, np.zeros(SHAPE[1:], bool))
    scene.logic.process_events()
    scene.parameters.autosave, scene.parameters.autosave_folder = True, str(tmp_path)
    lies_in_the_graph(scene, "a" * 32)
    may_write = threading.Event()
    scene.logic._background.do(may_write.wait, lambda _why: None)
    yield scene, may_write
    may_write.set()


def test_what_changes_while_a_file_is_written_is_saved_after_it(
    alone: tuple[SlicerScene, threading.Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, may_write = alone
    monkeypatch.setattr(scene.logic.autosave._rest, "_seconds", 0.0)
    scene.logic.autosave.save()
    scene.logic.segments.write(scene.parameters.segment_id, 2, 3, block(3))
    scene.logic.process_events()
    may_write.set()
    scene.spin_until(lambda: saved_voxels(tmp_path) == [18])


def test_what_changes_waits_while_the_graph_has_lost_the_volume(
    alone: tuple[SlicerScene, threading.Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, may_write = alone
    may_write.set()
    monkeypatch.setattr(scene.logic.autosave._rest, "_seconds", 0.0)
    scene.logic.segments.write(scene.parameters.segment_id, 2, 3, block(3))
    scene.state.graph_volume = None
    scene.logic.process_events()
    lies_in_the_graph(scene, "a" * 32)
    scene.spin_until(lambda: saved_voxels(tmp_path) == [18])


def test_what_was_not_saved_yet_is_copied_before_its_nodes_go(
    alone: tuple[SlicerScene, threading.Event], tmp_path: Path
) -> None:
    scene, may_write = alone
    scene.logic.autosave.save()
    scene.logic.segments.write(scene.parameters.segment_id, 2, 3, block(3))
    scene.logic.autosave.close()
    for node in (scene.parameters.segmentation, scene.parameters.volume):
        scene.scene.RemoveNode(node)
    may_write.set()
    scene.logic.close()
    assert saved_voxels(tmp_path) == [18]


def test_sessions_on_the_same_volume_keep_each_their_own_work(
    alone: tuple[SlicerScene, threading.Event], tmp_path: Path
) -> None:
    scene, may_write = alone
    may_write.set()
    scene.logic.autosave.save()
    scene.spin_until(lambda: scene.state.autosaved_at)
    with SlicerScene() as other:
        other.parameters.volume = scene.parameters.volume
        other.parameters.autosave_folder = str(tmp_path)
        other.logic.observe()
        lies_in_the_graph(other, "a" * 32)
        other.logic.segments.write(other.logic.add_segment("other"), 2, 5, np.ones(SHAPE[1:], bool))
        other.logic.autosave.save()
        other.spin_until(lambda: other.state.autosaved_at)
        assert saved_voxels(tmp_path) == [9, 120]
        # What it saved itself is what it has; it wants the other one's.
        other.logic.restore_autosave()
        assert [row.name for row in other.logic.segment_rows()] == ["liver"]
        # What is done from now on is of a third file.
        other.logic.autosave.save()
        other.spin_until(lambda: saved_voxels(tmp_path) == [9, 9, 120])


def test_an_empty_segmentation_takes_no_others_place_and_the_oldest_goes(
    scene: SlicerScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autosave, "KEPT", 2)
    scene.parameters.autosave, scene.parameters.autosave_folder = True, str(tmp_path)
    # The folder is the user's, who has files of the same kind in it.
    theirs = [f"my liver{n}.seg.nrrd" for n in range(3)]
    for name in theirs:
        (tmp_path / name).write_bytes(b"all that there is")
    # As one that another session removes meanwhile.
    (tmp_path / f"{'0' * 32}.{'0' * 8}.seg.nrrd").symlink_to(tmp_path / "absent")
    for uid in "cde":
        lies_in_the_graph(scene, uid * 32)
        before = scene.state.autosaved_at
        scene.logic.autosave.save()
        scene.spin_until(lambda before=before: scene.state.autosaved_at != before)
    assert not any("not saved" in line for line in scene.state.log)
    assert sorted(file.name[0] for file in tmp_path.iterdir()) == ["0", "d", "e", "m", "m", "m"]
    [saved] = tmp_path.glob("e*")
    content = saved.read_bytes()
    for row in scene.logic.segment_rows():
        scene.logic.remove_segment(row.id)
    scene.logic.autosave.save()
    scene.logic.close()
    assert saved.read_bytes() == content
