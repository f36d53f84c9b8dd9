# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One structure segmented in several planes, and what they say together.

A mask that was made in one plane, slice by slice, is cut by the slices of the other planes. Three of those cuts are marks,
from which the structure is propagated there. Then each voxel is what most planes say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..errors import PromptError
from ..geometry import Plane, VolumeGeometry
from .propagation import Mark, Propagated, Stopped, dice, propagate
from .slices import PlaneSlices

# Where the marks lie: at these shares of the structure's voxels.
_MARKS = (0.2, 0.5, 0.8)
# Dice with the first plane's mask below which a plane does not vote: it shows something else. Thin slabs, seen from the side,
# are strips of a few rows.
LEAST_DICE = 0.8


def across(slices: PlaneSlices, mask: np.ndarray) -> Iterator[Propagated | Stopped]:
    """The structure in another plane, from its mask, (K, J, I) bool: on the slices of this plane that the mask reaches.

    Raises PromptError for an empty mask and one of another shape.
    """
    geometry, plane = slices.volume.geometry, slices.plane
    _check(mask, geometry)
    axis = 2 - geometry.axis(plane)
    areas = mask.sum(axis=tuple(each for each in range(3) if each != axis))
    reached = np.flatnonzero(areas)
    so_far = np.cumsum(areas) / areas.sum()
    indices = sorted({int(np.searchsorted(so_far, share)) for share in _MARKS})
    marks = [Mark(index, geometry.take_slice(mask, plane, index).copy()) for index in indices]
    return propagate(slices, marks, between=(int(reached[0]), int(reached[-1])))


def voxels_of(masks: Mapping[int, np.ndarray], geometry: VolumeGeometry, plane: Plane) -> np.ndarray:
    """Masks of slices, (H, W) bool by index, as one of the volume, (K, J, I) bool."""
    voxels = np.zeros(geometry.dimensions[::-1], bool)
    for index, mask in masks.items():
        geometry.take_slice(voxels, plane, index)[:] = mask
    return voxels


def fused(first: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """What most planes say, (K, J, I) bool; the first decides where they are as many for as against.

    first: of the plane that was marked; others: of the rest; all (K, J, I) bool. A plane with a Dice of less than LEAST_DICE
    with the first does not vote.
    """
    voting = [first, *(other for other in others if dice(first, other) >= LEAST_DICE)]
    votes = np.sum(voting, axis=0, dtype=np.int8)
    return (2 * votes > len(voting)) | ((2 * votes == len(voting)) & first)


def _check(mask: np.ndarray, geometry: VolumeGeometry) -> None:
    if mask.shape != geometry.dimensions[::-1]:
        raise PromptError(f"The mask has the shape {mask.shape}; the volume has {geometry.dimensions[::-1]}.")
    if not mask.any():
        raise PromptError("The mask is empty; segment the structure in one plane first.")
