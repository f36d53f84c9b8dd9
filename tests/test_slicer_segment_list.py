# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's list of segments on a real scene: what it shows, how it is changed and taken back, and Show 3D."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from slicer_scene import SlicerScene, vtk_matrix

SURFACE = "Closed surface"


@pytest.fixture
def scene() -> Iterator[SlicerScene]:
    """A volume of 2 mm³ voxels, and two segments: a block of 8 voxels, and nothing."""
    with SlicerScene() as scene:
        scene.add_volume(np.zeros((12, 14, 16), np.int16), np.diag([1.0, 1.0, 2.0, 1.0]), (0, 1))
        block = scene.logic.add_segment("block", (1.0, 0.0, 0.0))
        scene.logic.add_segment("nothing")
        mask = np.zeros((14, 16), bool)
        mask[3:5, 4:6] = True
        for index in (5, 6):
            scene.logic.segments.write(block, 2, index, mask)
        scene.logic.process_events()
        yield scene


def rows(scene: SlicerScene) -> list[tuple[str, tuple[float, float, float], bool, float, bool]]:
    return [
        (row.name, row.color, row.visible, round(row.volume_ml, 6), row.is_active)
        for row in scene.logic.segment_rows()
    ]


def names(scene: SlicerScene) -> list[str]:
    return [row.name for row in scene.logic.segment_rows()]


def first_id(scene: SlicerScene) -> str:
    return scene.logic.segment_rows()[0].id


def test_a_row_says_what_a_segment_is_and_how_large(scene: SlicerScene) -> None:
    block, nothing = rows(scene)
    assert block == ("block", (1.0, 0.0, 0.0), True, 0.016, False)
    assert nothing[0] == "nothing" and nothing[2:] == (True, 0.0, True)
    scene.logic.segments.write(first_id(scene), 2, 6, np.zeros((14, 16), bool))
    assert rows(scene)[0][3] == 0.008
    larger = scene.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    larger.SetMatrixTransformToParent(vtk_matrix(np.diag([2.0, 2.0, 2.0, 1.0])))
    scene.parameters.segmentation.SetAndObserveTransformNodeID(larger.GetID())
    assert rows(scene)[0][3] == 0.064, "a volume is what it is in the world"


def test_a_segment_without_a_labelmap_has_no_volume(scene: SlicerScene) -> None:
    scene.parameters.segmentation.GetSegmentation().GetSegment(first_id(scene)).RemoveAllRepresentations()
    assert math.isnan(scene.logic.segment_rows()[0].volume_ml)


def test_a_change_of_a_segment_is_told_of_and_taken_back(scene: SlicerScene) -> None:
    told: list[str] = []
    scene.logic.events.segment_rows.connect(lambda: told.append("rows"))
    segment_id = first_id(scene)
    before = rows(scene)
    scene.logic.rename_segment(segment_id, "  liver\n")
    scene.logic.recolor_segment(segment_id, (0.0, 0.5, 1.0))
    scene.logic.choose_segment(segment_id)
    scene.logic.set_segment_visible(segment_id, False)
    scene.logic.process_events()
    assert rows(scene)[0] == ("liver", (0.0, 0.5, 1.0), False, 0.016, True)
    assert told
    scene.logic.set_segment_visible(segment_id, True)
    scene.logic.undo()
    assert rows(scene)[0][:2] == ("liver", (1.0, 0.0, 0.0))
    scene.logic.undo()
    assert rows(scene)[0][:4] == before[0][:4]
    scene.logic.redo()
    scene.logic.redo()
    assert rows(scene)[0][:2] == ("liver", (0.0, 0.5, 1.0))


def test_a_removed_segment_comes_back_to_its_place_with_its_voxels(scene: SlicerScene) -> None:
    before = rows(scene)
    scene.logic.remove_segment(first_id(scene))
    assert names(scene) == ["nothing"]
    scene.logic.undo()
    assert rows(scene) == before
    scene.logic.redo()
    assert names(scene) == ["nothing"]


def test_what_slicers_own_table_changes_is_a_step_too(scene: SlicerScene) -> None:
    segmentation = scene.parameters.segmentation.GetSegmentation()
    segment_id = first_id(scene)
    segmentation.GetSegment(segment_id).SetName("spleen")
    scene.logic.process_events()
    segmentation.RemoveSegment(segment_id)
    scene.logic.process_events()
    assert names(scene) == ["nothing"]
    scene.logic.undo()
    assert names(scene) == ["spleen", "nothing"]
    assert rows(scene)[0][3] == 0.016
    scene.logic.undo()
    assert names(scene) == ["block", "nothing"]
    # A segment that was added a moment ago too.
    scene.logic.rename_segment(scene.logic.add_segment("new"), "newer")
    scene.logic.undo()
    assert names(scene) == ["block", "nothing", "new"]
    scene.logic.remove_segment(scene.parameters.segment_id)
    # What was changed a moment ago, and not looked at yet, is the newest step.
    segmentation.GetSegment(segment_id).SetName("kidney")
    scene.logic.undo()
    assert names(scene) == ["block", "nothing"]


def test_the_active_segment_that_is_removed_is_active_no_longer(scene: SlicerScene) -> None:
    assert not scene.logic.reasons()["edit_segment"]
    scene.logic.remove_segment(scene.parameters.segment_id)
    assert not scene.parameters.segment_id
    assert scene.logic.reasons()["edit_segment"] == "Choose a segment first."


def test_what_cannot_be_changed_is_said_and_changes_nothing(scene: SlicerScene) -> None:
    before = rows(scene)
    scene.logic.rename_segment(first_id(scene), " \n")
    assert scene.state.log[-1] == "A segment needs a name: write one."
    scene.logic.recolor_segment(first_id(scene), (0.0, 0.5, 2.0))
    assert "from 0 to 1" in scene.state.log[-1]
    scene.logic.remove_segment("none")
    assert "was deleted" in scene.state.log[-1]
    assert rows(scene) == before


def test_surfaces_are_shown_made_again_after_a_change_and_taken_away(scene: SlicerScene) -> None:
    node, segment_id = scene.parameters.segmentation, first_id(scene)
    segmentation = node.GetSegmentation()

    def height_mm() -> float:
        surface = segmentation.GetSegment(segment_id).GetRepresentation(SURFACE)
        return surface.GetBounds()[5] - surface.GetBounds()[4]

    scene.logic.show_3d(True)
    assert scene.state.show_3d
    before = height_mm()
    mask = np.zeros((14, 16), bool)
    mask[3:5, 4:6] = True
    scene.logic.segments.write(segment_id, 2, 7, mask)
    assert not segmentation.ContainsRepresentation(SURFACE), "Slicer drops what is of another time"
    scene.spin_until(lambda: segmentation.ContainsRepresentation(SURFACE))
    assert height_mm() > before + 1
    scene.logic.show_3d(False)
    assert not segmentation.ContainsRepresentation(SURFACE)
    assert not scene.state.show_3d


def test_another_segmentation_is_shown_as_it_is(scene: SlicerScene) -> None:
    scene.logic.show_3d(True)
    # None of its segments is taken for one that was removed here.
    scene.parameters.segmentation = scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    scene.logic.process_events()
    scene.logic.observe()
    scene.logic.process_events()
    assert not scene.state.show_3d
    first = scene.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    scene.logic.undo()
    scene.parameters.segmentation = first
    scene.logic.observe()
    assert round(scene.logic.segment_rows()[0].volume_ml, 6) == 0.008, (
        "the newest step is still the last mask"
    )
    scene.parameters.segmentation = None
    scene.logic.observe()
    assert not scene.state.show_3d
    assert scene.logic.segment_rows() == []
    assert scene.logic.reasons()["show_3d"].startswith("There is no segmentation yet")
    scene.logic.show_3d(True)
    assert scene.state.log[-1] == "There is no segmentation to show in 3D yet."
