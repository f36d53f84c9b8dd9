# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Masks written into a real vtkMRMLSegmentationNode: what is written, what is left alone, what can be taken back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st
from slicer_scene import numpy_matrix, slicer_app, vtk_matrix
from SlicerIPPLib.segment_writer import SegmentWriter
from vtk.util.numpy_support import vtk_to_numpy

from samm_core.errors import MaskError

DIMENSIONS = (7, 6, 5)
IJK_TO_RAS = np.array([[0.0, 2.0, 0.0, 10.0], [-1.0, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, -5.0], [0, 0, 0, 1]])


@pytest.fixture
def node() -> Iterator[slicer.vtkMRMLSegmentationNode]:
    scene = slicer_app().scene
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    yield node
    scene.Clear(False)


@pytest.fixture
def writer() -> SegmentWriter:
    return SegmentWriter(slicer_app().scene)


def add(node: slicer.vtkMRMLSegmentationNode, name: str) -> str:
    return node.GetSegmentation().AddEmptySegment("", name, (1.0, 0.0, 0.0))


def image_of(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> slicer.vtkOrientedImageData:
    return node.GetSegmentation().GetSegment(segment_id).GetRepresentation("Binary labelmap")


def places(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> set[tuple[int, int, int]]:
    """IJK in the volume's grid of the segment's voxels, also of those beyond the volume."""
    image = image_of(node, segment_id)
    label = node.GetSegmentation().GetSegment(segment_id).GetLabelValue()
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    if x1 < x0:
        return set()
    layer = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    to_volume = np.linalg.inv(IJK_TO_RAS) @ numpy_matrix(matrix)
    ijk = np.argwhere(layer == label)[:, ::-1] + (x0, y0, z0)
    return {tuple(p) for p in np.rint(ijk @ to_volume[:3, :3].T + to_volume[:3, 3]).astype(int).tolist()}


def voxels_of_segment(node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> np.ndarray:
    """(K, J, I) bool over the whole volume."""
    whole = np.zeros(DIMENSIONS[::-1], bool)
    for i, j, k in places(node, segment_id):
        whole[k, j, i] = True
    return whole


def moved(matrix: np.ndarray, *ijk: float) -> np.ndarray:
    """The grid that begins at a position of another one."""
    result = matrix.copy()
    result[:3, 3] = (matrix @ [*ijk, 1])[:3]
    return result


def slice_shape(axis: int) -> tuple[int, int]:
    x, y = [DIMENSIONS[a] for a in range(3) if a != axis]
    return y, x


def take(array_kji: np.ndarray, axis: int, index: int) -> np.ndarray:
    return np.take(array_kji, index, axis=2 - axis)


def put(array_kji: np.ndarray, axis: int, index: int, mask: np.ndarray) -> None:
    selection: list = [slice(None)] * 3
    selection[2 - axis] = index
    array_kji[tuple(selection)] = mask


steps = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 1), st.integers(0, 2**32 - 1)),
        st.sampled_from(["undo", "redo"]),
    ),
    max_size=12,
)


@given(steps)
@settings(max_examples=40)
def test_masks_undo_and_redo_do_to_two_segments_what_they_do_to_two_arrays(steps: list) -> None:
    scene = slicer_app().scene
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    writer = SegmentWriter(scene)
    ids = [add(node, "a"), add(node, "b")]
    states = [[np.zeros(DIMENSIONS[::-1], bool) for _ in ids]]
    at = 0
    for step in steps:
        if step == "undo":
            assert writer.undo() == (at > 0)
            at = max(at - 1, 0)
        elif step == "redo":
            assert writer.redo() == (at < len(states) - 1)
            at = min(at + 1, len(states) - 1)
        else:
            axis, index, which, seed = step
            mask = np.random.default_rng(seed).random(slice_shape(axis)) > 0.6
            writer.write(node, ids[which], DIMENSIONS, IJK_TO_RAS, axis, index, mask)
            state = [layer.copy() for layer in states[at]]
            put(state[which], axis, index, mask)
            states[at + 1 :] = [state]
            at += 1
        for segment_id, expected in zip(ids, states[at], strict=True):
            np.testing.assert_array_equal(voxels_of_segment(node, segment_id), expected)
    scene.Clear(False)


def test_a_segment_that_shares_its_labelmap_gets_its_own_and_its_neighbour_keeps_every_voxel(
    node, writer
) -> None:
    one, two = add(node, "one"), add(node, "two")
    assert image_of(node, one) is image_of(node, two), "Slicer's empty segments share a labelmap"
    mask = np.ones(slice_shape(2), bool)
    writer.write(node, one, DIMENSIONS, IJK_TO_RAS, 2, 1, mask)
    writer.write(node, two, DIMENSIONS, IJK_TO_RAS, 2, 1, mask)
    assert image_of(node, one) is not image_of(node, two)
    for segment_id in (one, two):
        assert voxels_of_segment(node, segment_id).sum() == mask.sum()


def test_what_the_user_painted_stays_where_it_was(node, writer) -> None:
    """Slicer keeps labelmaps cut to what they hold; another grid, as of another volume, is laid over anew."""
    segment_id = add(node, "painted")
    image = image_of(node, segment_id)
    image.SetExtent(2, 4, 1, 2, 3, 3)
    image.SetImageToWorldMatrix(vtk_matrix(IJK_TO_RAS))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(1)
    expected = np.zeros(DIMENSIONS[::-1], bool)
    expected[3, 1:3, 2:5] = True

    mask = np.zeros(slice_shape(2), bool)
    mask[0, 0] = True
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 0, mask)

    expected[0, 0, 0] = True
    np.testing.assert_array_equal(voxels_of_segment(node, segment_id), expected)


def test_a_labelmap_on_another_grid_keeps_its_place_in_the_world(node, writer) -> None:
    segment_id = add(node, "elsewhere")
    image = image_of(node, segment_id)
    image.SetExtent(0, 1, 0, 1, 0, 1)
    image.SetImageToWorldMatrix(vtk_matrix(moved(IJK_TO_RAS, 1.2, 0, 0)))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.GetPointData().GetScalars().Fill(1)
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 4, np.zeros(slice_shape(2), bool))
    expected = np.zeros(DIMENSIONS[::-1], bool)
    expected[0:2, 0:2, 1:3] = True
    np.testing.assert_array_equal(voxels_of_segment(node, segment_id), expected)
    matrix = vtk.vtkMatrix4x4()
    image_of(node, segment_id).GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(numpy_matrix(matrix), IJK_TO_RAS)


@pytest.mark.parametrize("start", [(2, 1, 1), (2.3, 1.2, 1)], ids=["the same grid", "another grid"])
def test_a_mask_on_a_crop_keeps_what_the_segment_holds_outside_of_it(node, writer, start) -> None:
    segment_id = add(node, "tumour")
    everywhere = np.ones(slice_shape(2), bool)
    for k in (0, 2):
        writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, k, everywhere)
    before = places(node, segment_id)
    crop = moved(IJK_TO_RAS, *start)
    writer.write(node, segment_id, (3, 2, 2), crop, 2, 1, np.zeros((2, 3), bool))
    assert places(node, segment_id) == before - {(i, j, 2) for i in (2, 3, 4) for j in (1, 2)}
    # Back on the whole volume.
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 4, everywhere)
    assert len(places(node, segment_id)) == len(before) - 6 + everywhere.sum()
    assert voxels_of_segment(node, segment_id)[4].all()


def test_masks_on_a_volume_and_on_its_crop_are_undone_each_where_it_was_drawn(node, writer) -> None:
    segment_id = add(node, "tumour")
    writer.write(node, segment_id, (3, 2, 2), moved(IJK_TO_RAS, 2, 1, 1), 2, 1, np.ones((2, 3), bool))
    on_crop = places(node, segment_id)
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 0, np.ones(slice_shape(2), bool))
    assert writer.undo()
    assert places(node, segment_id) == on_crop == {(i, j, 2) for i in (2, 3, 4) for j in (1, 2)}
    assert writer.undo()
    assert not places(node, segment_id)
    assert writer.redo()
    assert places(node, segment_id) == on_crop


def test_a_segment_that_reaches_far_beyond_the_volume_is_refused_and_keeps_every_voxel(node, writer) -> None:
    segment_id = add(node, "far away")
    far = moved(IJK_TO_RAS, 20_000, 20_000, 20_000)
    writer.write(node, segment_id, DIMENSIONS, far, 2, 0, np.ones(slice_shape(2), bool))
    before = places(node, segment_id)
    with pytest.raises(MaskError, match="another segment"):
        writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 0, np.ones(slice_shape(2), bool))
    assert places(node, segment_id) == before


def test_the_same_labelmap_is_written_in_place_and_the_views_draw_it_once(node, writer) -> None:
    segment_id = add(node, "a")
    mask = np.ones(slice_shape(0), bool)
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 0, 1, mask)
    image = image_of(node, segment_id)
    before = image.GetPointData().GetScalars()
    events = []
    segmentation = node.GetSegmentation()
    segmentation.AddObserver(segmentation.SourceRepresentationModified, lambda *_: events.append(1))
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 0, 2, mask)
    assert image_of(node, segment_id) is image
    assert image.GetPointData().GetScalars() is before, "the labelmap was copied"
    assert events == [1]


def test_a_segment_that_is_gone_is_refused_and_its_masks_are_left_out_of_undo(node, writer) -> None:
    gone, stays = add(node, "gone"), add(node, "stays")
    mask = np.ones(slice_shape(2), bool)
    writer.write(node, stays, DIMENSIONS, IJK_TO_RAS, 2, 0, mask)
    writer.write(node, gone, DIMENSIONS, IJK_TO_RAS, 2, 0, mask)
    node.GetSegmentation().RemoveSegment(gone)
    with pytest.raises(MaskError, match="deleted"):
        writer.write(node, gone, DIMENSIONS, IJK_TO_RAS, 2, 0, mask)
    assert writer.undo()
    assert not voxels_of_segment(node, stays).any()
    assert not writer.undo()


def test_a_mask_of_another_size_changes_nothing(node, writer) -> None:
    segment_id = add(node, "a")
    with pytest.raises(MaskError, match="slice is"):
        writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 0, np.ones((3, 3), bool))
    assert not voxels_of_segment(node, segment_id).any()
    assert not writer.can_undo


def test_undo_after_the_node_is_deleted_is_no_crash(node, writer) -> None:
    segment_id = add(node, "a")
    writer.write(node, segment_id, DIMENSIONS, IJK_TO_RAS, 2, 0, np.ones(slice_shape(2), bool))
    slicer_app().scene.RemoveNode(node)
    assert not writer.undo()
