# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One structure in a 3-D box: its mask on each slice that the box crosses.

The box is much too large on most slices: it fits where the structure is widest. So a few slices are tried, the one whose
mask is the surest is the start, and the structure is followed from there as in propagation.py, never out of the box.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import PromptError
from ..geometry import Plane, VolumeGeometry
from ..prompts import PixelPrompt
from .carry import Grid, Source, carried
from .propagation import (
    AHEAD,
    MEMORY,
    Propagated,
    best_shares,
    dice,
    follow,
    prompts_around,
    within,
)
from .slices import PlaneSlices, decode_all

# Slices that are tried as the start, as shares of the box's extent across the plane.
_TRIED = (0.5, 0.3, 0.7, 0.1, 0.9)
# Confidence below which a slice is looked at again from both its neighbours.
SECOND_LOOK = 0.8
# 64 of 64×64 cells with 256 channels are 256 MiB.
_GRIDS = 64
# In slices.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Box3D:
    """A box in millimetres RAS.

    centre_ras: (3,). axes_ras: (3, 3), its unit axes in columns; they need not be the volume's. half_lengths_mm: (3,), along
    each axis. Raises PromptError for what is not finite, flat, or whose axes do not span space.
    """

    centre_ras: np.ndarray
    axes_ras: np.ndarray
    half_lengths_mm: np.ndarray

    def __post_init__(self) -> None:
        for name, shape in (("centre_ras", (3,)), ("axes_ras", (3, 3)), ("half_lengths_mm", (3,))):
            array = np.array(getattr(self, name), np.float64)
            if array.shape != shape or not np.isfinite(array).all():
                raise PromptError(f"The 3-D box's {name} is {array.tolist()}; give {shape} finite numbers.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.half_lengths_mm.min() <= 0:
            raise PromptError(
                f"The 3-D box is flat: its half lengths are {self.half_lengths_mm.tolist()} mm; each must exceed 0."
            )
        if not np.allclose(self.axes_ras.T @ self.axes_ras, np.eye(3), atol=1e-3):
            raise PromptError("The 3-D box's axes are not at right angles and of length 1; give a rotation.")

    @classmethod
    def between(cls, corner_ras: np.ndarray, opposite_ras: np.ndarray) -> Box3D:
        """The box along R, A and S between two opposite corners, (3,) mm."""
        corners = np.array([corner_ras, opposite_ras], np.float64)
        return cls(corners.mean(axis=0), np.eye(3), np.abs(corners[1] - corners[0]) / 2)

    @property
    def corners_ras(self) -> np.ndarray:
        """(8, 3) mm; two of them share an edge where their numbers differ in one bit."""
        signs = np.array([[(n >> axis & 1) * 2 - 1 for axis in range(3)] for n in range(8)])
        return self.centre_ras + (signs * self.half_lengths_mm) @ self.axes_ras.T


_EDGES = [(a, b) for a, b in combinations(range(8), 2) if (a ^ b).bit_count() == 1]


def cross_sections(box: Box3D, geometry: VolumeGeometry, plane: Plane) -> dict[int, np.ndarray]:
    """The pixels' bounding box, (4,) float64 x min, y min, x max, y max, of the box's polygon on each slice it crosses.

    A box that lies between two slices counts to the nearer one. What reaches out of the slices is cut off.
    Raises PromptError for a box outside the volume.
    """
    across, pixels = geometry.pixel_of(geometry.index_of(box.corners_ras), plane)
    rows, columns = geometry.slice_shape(plane)
    count = geometry.slice_count(plane)
    low, high = across.min(), across.max()
    # A box that ends on a slice ends there, whatever rounding says.
    first, last = int(np.ceil(low - _ROUNDING)), int(np.floor(high + _ROUNDING))
    positions = {k: min(max(float(k), low), high) for k in range(max(first, 0), min(last, count - 1) + 1)}
    middle = (low + high) / 2
    if not positions and -0.5 <= middle <= count - 0.5:
        positions = {min(max(round(middle), 0), count - 1): middle}
    sections = {}
    for index, position in positions.items():
        points = _crossing(across, pixels, position)
        least = np.maximum(points.min(axis=0), -0.5)
        most = np.minimum(points.max(axis=0), (columns - 0.5, rows - 0.5))
        if (least < most).all():
            sections[index] = np.concatenate([least, most])
    if not sections:
        raise PromptError(
            f"The 3-D box around {np.round(box.centre_ras, 1).tolist()} mm RAS lies outside the volume; move it inside."
        )
    return sections


def _crossing(across: np.ndarray, pixels: np.ndarray, position: float) -> np.ndarray:
    """(N, 2) pixels where the edges of a box cross a slice: the corners of its polygon.

    across: (8,), the corners' places across the slices. pixels: (8, 2). A linear map takes edges to edges, so this is exact
    for volumes that are oblique or sheared.
    """
    points = []
    for a, b in _EDGES:
        low, high = sorted((across[a], across[b]))
        if not low - _ROUNDING <= position <= high + _ROUNDING:
            continue
        # An edge that lies on the slice lies there whole, whatever rounding says.
        if high - low <= 2 * _ROUNDING:
            points += [pixels[a], pixels[b]]
        else:
            share = np.clip((position - across[a]) / (across[b] - across[a]), 0, 1)
            points.append(pixels[a] + share * (pixels[b] - pixels[a]))
    return np.array(points)


def segment_box(slices: PlaneSlices, box: Box3D) -> Iterator[Propagated]:
    """The structure in the box, slice by slice, from where it is surest; at last those that a second look made better.

    A slice may come twice: the later mask counts. Slices of the box that show nothing of the structure are left out.
    Raises PromptError for a box outside the volume, and for a model that takes no box.
    """
    sections = cross_sections(box, slices.volume.geometry, slices.plane)
    slices.model.check_prompt(PixelPrompt(box_xyxy=next(iter(sections.values()))))
    return _segment_box(slices, sections)


def _segment_box(slices: PlaneSlices, sections: dict[int, np.ndarray]) -> Iterator[Propagated]:
    try:
        grids = _Grids(slices)
        start = _start(grids, sections)
        if start is None:
            return
        yield start
        found = {start.index: start}
        for step in (1, -1):
            index = start.index + step
            while index in sections:
                slices.ask(k for n in range(AHEAD + 1) if (k := index + n * step) in sections)
                behind = [found[k] for n in range(1, MEMORY + 1) if (k := index - n * step) in found]
                given = _followed(grids, index, behind, sections[index])
                # A box says where the structure ends: disagreement does not.
                if given is None:
                    break
                found[index] = given
                yield given
                index += step
        yield from _second_look(grids, found, sections)
    finally:
        slices.close()


class _Grids:
    """The features of the slices that were seen last; the cache of embeddings has the rest."""

    def __init__(self, slices: PlaneSlices) -> None:
        self.slices = slices
        self._last: OrderedDict[int, Grid] = OrderedDict()

    def __getitem__(self, index: int) -> Grid:
        grid = self._last.pop(index, None) or Grid(self.slices.encoded(index))
        self._last[index] = grid
        if len(self._last) > _GRIDS:
            self._last.popitem(last=False)
        return grid

    def source(self, index: int, mask: np.ndarray) -> Source:
        return self[index].features, self[index].coverage(mask)


def _followed(
    grids: _Grids, index: int, others: Sequence[Propagated], limit: np.ndarray
) -> Propagated | None:
    """The structure on a slice, from its masks on others."""
    followed = follow(grids[index], [grids.source(other.index, other.mask) for other in others], limit)
    return followed and Propagated(index, followed.mask, followed.score, followed.agreement)


def _start(grids: _Grids, sections: dict[int, np.ndarray]) -> Propagated | None:
    """Of a few slices' masks the one that fits best when it is carried through the box.

    A mask of something else, or of several things, ends before the box does, does not reach its sides, or is not what the
    decoder sees on the other slices. Carrying costs a sixth of decoding, so the decoder is asked on the tried slices alone.
    """
    indices = sorted(sections)
    tried = list(dict.fromkeys(indices[round(share * (len(indices) - 1))] for share in _TRIED))
    grids.slices.ask(indices)
    best, most = None, 0.0
    for index in tried:
        given = _decoded(grids[index], index, sections[index])
        if given is None:
            continue
        fit = given.score * given.confidence * _fit_elsewhere(grids, given, sections, tried)
        if fit > most:
            best, most = given, fit
    return best


def _decoded(grid: Grid, index: int, section: np.ndarray) -> Propagated | None:
    """What a box shows that may be too large: the mean of its mask and of that of the box around this mask."""
    (first,) = decode_all(grid.encoded, [PixelPrompt(box_xyxy=section)])
    mask = within(first.mask, section)
    prompts = prompts_around(mask, grid.encoded.model, section)
    if not prompts:
        return None
    again = decode_all(grid.encoded, prompts)
    agreement = dice(within(np.any([each.mask for each in again], axis=0), section), mask)
    shares = (best_shares([first]) + best_shares(again)) / 2
    mask = within(grid.mask_of(shares), section)
    return Propagated(index, mask, min(each.score for each in again), agreement) if mask.any() else None


def _fit_elsewhere(
    grids: _Grids, start: Propagated, sections: dict[int, np.ndarray], tried: Sequence[int]
) -> float:
    """How well a mask fits when it is carried through the box, 0 to 1.

    It is how much of the box's length, width and height is reached, times the decoder's mean agreement, with its score, on
    the slices of `tried`.
    """
    carried_to = {start.index: start.mask}
    for step in (1, -1):
        sources = [grids.source(start.index, start.mask)]
        index = start.index + step
        while index in sections:
            grid = grids[index]
            coverage = carried(sources, grid.features)
            mask = within(grid.mask_of(grid.logits_of(coverage)), sections[index])
            if not mask.any():
                break
            carried_to[index] = mask
            sources = [(grid.features, coverage), *sources[: MEMORY - 1]]
            index += step
    rows, columns = np.nonzero(np.any(list(carried_to.values()), axis=0))
    limits = np.array(list(sections.values()))
    whole = limits[:, 2:].max(axis=0) - limits[:, :2].min(axis=0)
    reached = np.array([np.ptp(columns) + 1, np.ptp(rows) + 1]) / whole
    agreed = [
        _agreed(grids[index], carried_to[index], sections[index]) if index in carried_to else 0.0
        for index in tried
        if index != start.index
    ]
    return len(carried_to) / len(sections) * float(reached.prod()) * float(np.mean(agreed or [1.0]))


def _agreed(grid: Grid, mask: np.ndarray, limit: np.ndarray) -> float:
    """Dice of a mask and the decoder's in the box around it, times the decoder's score."""
    results = decode_all(grid.encoded, prompts_around(mask, grid.encoded.model, limit))
    seen = within(np.any([each.mask for each in results], axis=0), limit)
    return dice(seen, mask) * min(each.score for each in results)


def _second_look(
    grids: _Grids, found: dict[int, Propagated], sections: dict[int, np.ndarray]
) -> Iterator[Propagated]:
    """Anew, from both neighbours, the slices with the least confidence: those that come out with more."""
    doubtful = sorted((f.confidence, index) for index, f in found.items() if f.confidence < SECOND_LOOK)
    for confidence, index in doubtful:
        beside = [found[k] for k in (index - 1, index + 1) if k in found]
        again = _followed(grids, index, beside, sections[index]) if beside else None
        if again and again.confidence > confidence:
            found[index] = again
            yield again
