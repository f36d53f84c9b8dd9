# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One structure in three planes, and their vote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structures import Embedder, discs, pictured, slices_of

from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.models.base import SegmentationModel
from samm_core.tasks.planes import across, fused, voxels_of
from samm_core.tasks.propagation import Propagated, dice

SLICES = 32


def bar() -> np.ndarray:
    """(SLICES, SIDE, SIDE) bool: a rounded bar along the slices, of 8 columns, so that few sagittal slices show it."""
    radii = [4.5 if 4 <= k < 28 else 0 for k in range(SLICES)]
    return discs([[(32, 26, r), (32, 32, r)] if r else [] for r in radii])


def random_masks(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    first = random.random((4, 5, 6)) < 0.5
    return [first, *(first ^ (random.random(first.shape) < 0.05) for _ in range(2))]


@given(seed=st.integers(0, 999))
def test_two_of_three_planes_decide(seed: int) -> None:
    first, *others = random_masks(seed)
    if min(dice(first, other) for other in others) < 0.8:
        return
    np.testing.assert_array_equal(fused(first, others), first.astype(int) + others[0] + others[1] >= 2)


@given(seed=st.integers(0, 999))
def test_a_plane_that_shows_something_else_has_no_vote_and_the_first_breaks_a_tie(seed: int) -> None:
    first, other, _ = random_masks(seed)
    np.testing.assert_array_equal(fused(first, [~first, ~first]), first)
    np.testing.assert_array_equal(fused(first, [other, ~first]), first)


@given(plane=st.sampled_from(list(Plane)), seed=st.integers(0, 99))
def test_masks_of_all_slices_are_the_volume(plane: Plane, seed: int) -> None:
    geometry = VolumeGeometry((6, 5, 4), np.diag([-1.0, 2.0, 3.0, 1.0]))
    mask = np.random.default_rng(seed).random((4, 5, 6)) < 0.5
    slices = {index: geometry.take_slice(mask, plane, index) for index in range(geometry.slice_count(plane))}
    np.testing.assert_array_equal(voxels_of(slices, geometry, plane), mask)


def test_a_mask_of_the_axial_plane_leads_to_the_structure_in_the_sagittal_one(
    lite_medsam: SegmentationModel,
) -> None:
    truth = bar()
    embedder = Embedder(pictured(truth), lite_medsam)
    given = list(across(slices_of(embedder, Plane.SAGITTAL), truth))
    masks = {each.index: each.mask for each in given if isinstance(each, Propagated)}
    assert set(masks) <= set(range(28, 37)), "only slices that the mask reaches"
    found = voxels_of(masks, embedder.volume.geometry, Plane.SAGITTAL)
    assert dice(found, truth) > 0.8
    assert dice(fused(truth, [found, found]), truth) > 0.8


def test_an_empty_mask_and_one_of_another_volume_are_refused(lite_medsam: SegmentationModel) -> None:
    embedder = Embedder(pictured(bar()), lite_medsam)
    slices = slices_of(embedder, Plane.CORONAL)
    with pytest.raises(PromptError, match="empty"):
        across(slices, np.zeros((SLICES, 64, 64), bool))
    with pytest.raises(PromptError, match="shape"):
        across(slices, np.ones((3, 3, 3), bool))
