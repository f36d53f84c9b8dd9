# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Marks that move with the shown slice of a volume, and those that stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from slicer_scene import SlicerScene, positions, vtk_matrix
from SlicerIPPLib.marks import box_on
from SlicerIPPLib.markups import add_box
from SlicerIPPLib.nodes import placed_points, roi_corners

from samm_core.errors import PromptError

IJK_TO_RAS = np.array([[0.0, 2.0, 0.0, 10.0], [-1.0, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, -5.0], [0, 0, 0, 1]])


@pytest.fixture
def scene() -> Iterator[SlicerScene]:
    """Red shows slice 4, on which there are a point of each kind and a box; another point is on slice 7."""
    with SlicerScene() as scene:
        scene.add_volume(np.zeros((12, 14, 16), np.int16), IJK_TO_RAS, (0, 1))
        scene.show("Red", 2, 4, IJK_TO_RAS)
        p = scene.parameters
        p.positive = scene.add_points(positions(IJK_TO_RAS, [(3, 4, 4.2), (8, 9, 7)]))
        p.negative = scene.add_points(positions(IJK_TO_RAS, [(5, 6, 4)]))
        p.box = scene.add_roi((2, 3, 3.5), (8, 9, 4.5), IJK_TO_RAS)
        p.marks_follow = True
        scene.logic.observe()
        scene.logic.process_events()
        yield scene


def ijk(points_ras: list[np.ndarray]) -> list[list[float]]:
    return np.round(positions(np.linalg.inv(IJK_TO_RAS), points_ras), 3).tolist()


def marked(scene: SlicerScene) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """IJK of the positive points, of the negative ones, and of the box's middle."""
    p = scene.parameters
    positive, negative = ([ras for _name, ras in placed_points(node)] for node in (p.positive, p.negative))
    return ijk(positive), ijk(negative), ijk([roi_corners(p.box).mean(axis=0)])[0]


def scroll(scene: SlicerScene, index: int) -> None:
    scene.show("Red", 2, index, IJK_TO_RAS)
    scene.logic.process_events()


def test_marks_of_the_shown_slice_move_with_it_and_others_stay(scene: SlicerScene) -> None:
    scroll(scene, 6)
    assert marked(scene) == ([[3, 4, 6.2], [8, 9, 7]], [[5, 6, 6]], [5, 6, 6])
    # On their way they take up none of the marks that wait elsewhere before these are shown.
    scroll(scene, 3)
    assert marked(scene) == ([[3, 4, 3.2], [8, 9, 7]], [[5, 6, 3]], [5, 6, 3])


def test_marks_under_a_transform_move_in_the_world(scene: SlicerScene) -> None:
    turned = scene.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    turned.SetMatrixTransformToParent(
        vtk_matrix(np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    )
    before = marked(scene)
    scene.parameters.negative.SetAndObserveTransformNodeID(turned.GetID())
    scene.parameters.negative.SetNthControlPointPositionWorld(0, *positions(IJK_TO_RAS, [(5, 6, 4)])[0])
    scroll(scene, 5)
    assert marked(scene)[1] == [[5, 6, 5]]
    assert before[1] == [[5, 6, 4]]


def test_marks_stay_where_they_are_unless_that_is_wanted(scene: SlicerScene) -> None:
    scene.parameters.marks_follow = False
    before = marked(scene)
    scroll(scene, 6)
    assert marked(scene) == before
    # Turned on later, nothing jumps.
    scene.parameters.marks_follow = True
    scene.logic.observe()
    scene.logic.process_events()
    assert marked(scene) == before


def test_marks_wait_while_the_view_is_beside_the_volume_or_another_one_is_chosen(scene: SlicerScene) -> None:
    before = marked(scene)
    scroll(scene, 40)
    assert marked(scene) == before
    scroll(scene, 5)
    assert marked(scene)[2] == [5, 6, 5]
    scene.show("Yellow", 0, 3, IJK_TO_RAS)
    scene.parameters.view = "Yellow"
    scene.logic.observe()
    scene.logic.process_events()
    assert marked(scene)[2] == [5, 6, 5]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0)])
@pytest.mark.parametrize(("view", "axis"), [("Red", 2), ("Green", 1), ("Yellow", 0)])
def test_a_new_box_is_on_the_shown_slice_and_on_no_neighbour(
    spacing: tuple[float, float, float], view: str, axis: int
) -> None:
    with SlicerScene() as scene:
        ijk_to_ras = np.diag([*spacing, 1.0])
        ijk_to_ras[:3, 3] = 100, -200, 300
        volume = scene.add_volume(np.zeros((12, 14, 16), np.int16), ijk_to_ras, (0, 1))
        scene.parameters.view = view
        scene.show(view, axis, 5, ijk_to_ras)
        box = add_box(scene.scene, volume, scene.slices[view])
        place = scene.logic.shown_place()
        assert (place.axis, place.index) == (axis, 5)
        middle = box_on(place, box).reshape(2, 2).mean(axis=0)
        rows, columns = place.geometry.slice_shape(place.plane)
        np.testing.assert_allclose(middle, [(columns - 1) / 2, (rows - 1) / 2], atol=1e-3)
        for index in (4, 6):
            with pytest.raises(PromptError, match="not the shown slice"):
                box_on(place.at(index), box)
        # It stays where it is when the view is scrolled.
        scene.slices[view].SetSliceOffset(scene.slices[view].GetSliceOffset() + spacing[axis])
        assert abs(scene.logic.shown_place().index - 5) == 1
        assert box_on(place, box) is not None
