# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A tracked sweep: frames and their masks, each with its place, become a volume and its segmentation.

Pixels are put into the voxel that they lie in. A voxel takes the mean of their grey, and the label of most of them. Holes
that no frame went through are filled from around them where they are small. PLUS' volume reconstruction does the same with
"nearest neighbor" interpolation, "mean" compounding and its hole filling.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ..errors import MaskError, OutputError, PoseError, VolumeError
from ..geometry import VolumeGeometry
from ..segmentation.colors import segment_color
from ..segmentation.segment_list import Color, Segment
from ..segmentation.segmentation import Segmentation
from ..segmentation.writers import write_segmentation
from ..segmentation.writers.nrrd import write_volume
from ..sources.readers import Content
from ..sources.volume import Volume, volume_of

MIB = 1 << 20
# A minute of 400 × 400 at 25 Hz, with masks.
MAX_BYTES = 512 * MIB
# 320 along each side; compounding holds about 20 bytes a voxel.
MAX_VOXELS = 1 << 25
HOLES_MM = 3.0
# Passes of the hole filling, each of which fills a voxel deep from all sides.
_MOST_PASSES = 8
# Of the sum of a neighbourhood's weights, which are thirds of whole numbers: what rounding leaves of none.
_NONE = 1e-4


@dataclass(frozen=True, eq=False)
class _Frame:
    pixels: np.ndarray
    labels: np.ndarray
    image_to_world: np.ndarray


@dataclass(frozen=True, eq=False)
class Compounded:
    """volume: grey, uint8; what no frame went through is 0. labels: (K, J, I) uint8, as its voxels. geometry: of both."""

    volume: Volume
    labels: np.ndarray
    geometry: VolumeGeometry

    def __iter__(self) -> Iterator[object]:
        return iter((self.volume, self.labels, self.geometry))


class Sweep:
    """Gathers frames, up to `max_bytes` of them. Not thread-safe.

    The world's axes are taken for R, A and S, as 3D Slicer takes those of PLUS' Reference.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._frames: list[_Frame] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def nbytes(self) -> int:
        return self._bytes

    def add(self, pixels: np.ndarray, labels: np.ndarray, image_to_world: ArrayLike) -> None:
        """One frame.

        pixels: (H, W) or (H, W, 3) RGB, uint8; colours are kept as grey. labels: (H, W) uint8, 0 is none. image_to_world:
        (4, 4), pixels (x, y, 0, 1) to millimetres, as ImageGeometry.in_world gives it. Both arrays are copied.

        Raises MaskError for arrays that do not fit each other, PoseError for a matrix that is none, and VolumeError where
        the sweep has its most bytes already.
        """
        pixels, labels = np.asarray(pixels), np.asarray(labels)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or (pixels.ndim == 3 and pixels.shape[2] != 3)
        ):
            raise MaskError(
                f"A frame is {pixels.shape} {pixels.dtype}; give rows × columns of grey or RGB, uint8."
            )
        if labels.shape != pixels.shape[:2] or labels.dtype != np.uint8:
            raise MaskError(
                f"The labels are {labels.shape} {labels.dtype}, the frame {pixels.shape[:2]}; give its own, uint8."
            )
        matrix = np.array(image_to_world, np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not matrix[:3, :2].any(axis=0).all():
            raise PoseError(
                "A frame of the sweep has no place: its matrix is not 4×4, finite and with a scale."
            )
        size = 2 * labels.nbytes
        if self._bytes + size > self._max_bytes:
            raise VolumeError(
                f"The sweep has {len(self)} frames, {self._bytes / MIB:.0f} MiB of at most {self._max_bytes / MIB:.0f}; save it "
                "and start another one."
            )
        grey = pixels.copy() if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        self._frames.append(_Frame(grey, labels.copy(), matrix))
        self._bytes += size

    def clear(self) -> None:
        self._frames, self._bytes = [], 0

    def pixel_mm(self) -> float:
        """Millimetres of a pixel: the smaller side, the median of all frames; 0.0: there are none."""
        sides = [np.linalg.norm(frame.image_to_world[:3, :2], axis=0).min() for frame in self._frames]
        return float(np.median(sides)) if sides else 0.0

    def compound(
        self,
        spacing_mm: float = 0.0,
        holes_mm: float = HOLES_MM,
        progress: Callable[[float], None] = lambda share: None,
        name: str = "sweep",
        max_voxels: int = MAX_VOXELS,
    ) -> Compounded:
        """The volume and its labels, in RAS: a box around all frames' corners, its axes R, A and S.

        spacing_mm: of the voxels; 0: as the pixels'. holes_mm: gaps up to so wide between filled voxels are filled, at most
        2 × 8 voxels; 0: none. progress: called with the share that is done, from 0 to 1.

        Raises VolumeError for a sweep without frames, for spacings and gaps that are none, and, before anything is held, for
        a box of more than `max_voxels`.
        """
        if not self._frames:
            raise VolumeError("The sweep has no frames; gather some, with poses, before it is saved.")
        spacing = spacing_mm or self.pixel_mm()
        if not (math.isfinite(spacing) and spacing > 0 and math.isfinite(holes_mm) and holes_mm >= 0):
            raise VolumeError(
                f"A spacing of {spacing:g} mm and gaps of {holes_mm:g} mm make no volume; give more than 0."
            )
        low, high = self._box_ras()
        passes = min(_MOST_PASSES, math.ceil(holes_mm / (2 * spacing)))
        sides = _sides(high - low, spacing, max_voxels)
        # From a margin, holes are told from what lies outside.
        origin = low - passes * spacing
        grid = VolumeGeometry(tuple(sides + 2 * passes), _placed(spacing, origin))
        steps = _Progress(progress, len(self._frames) * 2 + passes)
        grey, count = self._mean(grid, steps)
        labels = self._majority(grid, count, steps)
        _fill_holes(grey, labels, count > 0, passes, steps)
        inner = tuple(slice(passes, n - passes) for n in grey.shape)
        voxels = np.rint(grey[inner]).astype(np.uint8)
        geometry = VolumeGeometry(tuple(sides), _placed(spacing, low))
        volume = volume_of(Content(voxels, geometry.ijk_to_ras.copy()), Path(name))
        progress(1.0)
        return Compounded(replace(volume, name=name, uri=""), np.ascontiguousarray(labels[inner]), geometry)

    def _box_ras(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest corner, (3,) mm, of all frames' pixels' centres."""
        corners = []
        for frame in self._frames:
            rows, columns = frame.labels.shape
            xy = np.array([(x, y) for x in (0, columns - 1) for y in (0, rows - 1)], np.float64)
            corners.append(_positions(xy, frame.image_to_world))
        every = np.concatenate(corners)
        return every.min(axis=0), every.max(axis=0)

    def _mean(self, grid: VolumeGeometry, steps: _Progress) -> tuple[np.ndarray, np.ndarray]:
        """(K, J, I) float32: the mean of the pixels in each voxel, 0 without any; and uint32: how many there are."""
        shape = grid.dimensions[::-1]
        total, count = np.zeros(math.prod(shape), np.float32), np.zeros(math.prod(shape), np.uint32)
        for frame in self._frames:
            rows, columns = np.indices(frame.labels.shape, np.int32)
            within, counts, sums = _by_voxel(grid, frame, rows.ravel(), columns.ravel(), frame.pixels.ravel())
            count[within] += counts
            total[within] += sums
            steps.one()
        np.divide(total, count, out=total, where=count > 0)
        return total.reshape(shape), count.reshape(shape)

    def _majority(self, grid: VolumeGeometry, count: np.ndarray, steps: _Progress) -> np.ndarray:
        """(K, J, I) uint8: the label of most pixels in each voxel; where as many have none, the label."""
        best, winner = np.zeros(count.size, np.uint32), np.zeros(count.size, np.uint8)
        marked = np.zeros(count.size, np.uint32)
        labels = np.unique(np.concatenate([np.unique(frame.labels) for frame in self._frames]))
        for label in labels[labels > 0]:
            votes = np.zeros(count.size, np.uint32)
            for frame in self._frames:
                rows, columns = np.nonzero(frame.labels == label)
                if len(rows):
                    within, counts, _ = _by_voxel(grid, frame, rows, columns)
                    votes[within] += counts
            winner[votes > best] = label
            np.maximum(best, votes, out=best)
            marked += votes
        steps.some(len(self._frames))
        winner[count.ravel() - marked > best] = 0
        return winner.reshape(count.shape)

    def save(
        self,
        path: Path,
        names: Mapping[int, str] | None = None,
        colors: Mapping[int, Color] | None = None,
        spacing_mm: float = 0.0,
        progress: Callable[[float], None] = lambda share: None,
    ) -> list[Path]:
        """Compound, and write the volume as `path`, .nrrd, and its segmentation beside it, .seg.nrrd; returns both.

        names, colors: of the labels; "segment N" and Slicer's colours without. Raises OutputError for a path that has another
        suffix, no folder, or a file already, VolumeError as `compound` does, and MaskError for what the disk refuses.
        """
        path = Path(path)
        stem = path.name.removesuffix(".nrrd")
        if stem == path.name or not stem or stem.endswith(".seg"):
            raise OutputError(f"{path.name} is no name for a volume; end it in .nrrd, and not in .seg.nrrd.")
        segments = path.with_name(f"{stem}.seg.nrrd")
        if not path.parent.is_dir():
            raise OutputError(f"The folder {path.parent} does not exist; make it first.")
        for file in (path, segments):
            if os.path.lexists(file):
                raise OutputError(f"{file} is there already; give another name.")
        volume, labels, geometry = self.compound(spacing_mm, progress=progress, name=path.name)
        segmentation = _segmentation(labels, geometry, names or {}, colors or {})
        try:
            with tempfile.TemporaryDirectory(prefix=".samm-", dir=path.parent) as folder:
                part = Path(folder) / "part.nrrd"
                write_volume(volume.voxels, geometry, part)
                os.replace(part, path)
        except OSError as error:
            reason = (error.strerror or str(error)).rstrip(".")
            raise OutputError(
                f"{path} could not be written ({reason}); make room or write elsewhere."
            ) from None
        write_segmentation(segmentation, segments, [path])
        return [path, segments]


class _Progress:
    def __init__(self, tell: Callable[[float], None], steps: int) -> None:
        self._tell, self._steps, self._done = tell, steps, 0

    def one(self) -> None:
        self.some(1)

    def some(self, steps: int) -> None:
        self._done += steps
        self._tell(min(self._done / self._steps, 1.0))


def _sides(extent_mm: np.ndarray, spacing: float, max_voxels: int) -> np.ndarray:
    """Voxels along R, A, S. Raises VolumeError for more than `max_voxels`."""
    # A whole number of voxels stays one where rounding puts its last pixel beyond it.
    sides = np.ceil(extent_mm / spacing - 1e-6) + 1
    if sides.prod() > max_voxels:
        text = " × ".join(f"{side:.0f}" for side in extent_mm)
        least = spacing * (sides.prod() / max_voxels) ** (1 / 3)
        raise VolumeError(
            f"The sweep spans {text} mm, which is {sides.prod():,.0f} voxels of {spacing:g} mm; at most {max_voxels:,} are made: "
            f"give a spacing of about {math.ceil(least * 100) / 100:g} mm."
        )
    return sides.astype(int)


def _placed(spacing: float, origin: np.ndarray) -> np.ndarray:
    matrix = np.diag([spacing, spacing, spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def _positions(points_xy: np.ndarray, image_to_world: np.ndarray) -> np.ndarray:
    return points_xy @ image_to_world[:3, :2].T + image_to_world[:3, 3]


def _by_voxel(
    grid: VolumeGeometry,
    frame: _Frame,
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of some pixels of a frame, by voxel: the flat indices of the voxels, how many pixels each has, and their sum."""
    to_voxel = grid.ras_to_ijk @ frame.image_to_world
    i, j, k = (
        np.rint(columns * to_voxel[axis, 0] + rows * to_voxel[axis, 1] + to_voxel[axis, 3]).astype(np.int64)
        for axis in range(3)
    )
    width, height, _ = grid.dimensions
    flat = (k * height + j) * width + i
    # Of a frame, voxels are few: an image's worth.
    first = int(flat.min())
    if int(flat.max()) - first < 16 * len(flat):
        counts = np.bincount(flat - first)
        voxels = np.flatnonzero(counts)
        sums = None if values is None else np.bincount(flat - first, values)[voxels]
        return voxels + first, counts[voxels].astype(np.uint32), sums
    voxels, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    sums = None if values is None else np.bincount(inverse, values)
    return voxels, counts.astype(np.uint32), sums


def _fill_holes(
    grey: np.ndarray, labels: np.ndarray, known: np.ndarray, passes: int, steps: _Progress
) -> None:
    """In place: voxels that a closing by `passes` adds to those that are known, from the known ones beside each.

    grey: float32; labels: uint8; known: bool; all (K, J, I). Pass by pass, a voxel takes the mean of the grey around it, and
    the label of most.
    """
    # Comes with scikit-image.
    from scipy import ndimage

    if not passes or known.all():
        return
    around = np.ones((3, 3, 3), bool)
    closed = ndimage.binary_closing(known, around, passes)
    present = np.unique(labels[known])

    def mean(of: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(of, 3, mode="constant") * 27

    for _ in range(passes):
        weight = mean(known.astype(np.float32))
        next_ones = closed & ~known & (weight > 0.5)
        if not next_ones.any():
            break
        total = mean(np.where(known, grey, 0).astype(np.float32))
        grey[next_ones] = np.clip(total[next_ones] / weight[next_ones], 0, 255)
        most = np.zeros(int(next_ones.sum()), np.float32)
        winner = np.zeros(len(most), np.uint8)
        # The background last: a label wins where both have as many.
        for label in (*present[present > 0], *present[present == 0]):
            votes = mean(((labels == label) & known).astype(np.float32))[next_ones]
            better = votes > most + _NONE
            winner[better], most[better] = label, votes[better]
        labels[next_ones] = winner
        known |= next_ones
        steps.one()


def _segmentation(
    labels: np.ndarray, geometry: VolumeGeometry, names: Mapping[int, str], colors: Mapping[int, Color]
) -> Segmentation:
    """The segments that names name, and those that have a voxel. Raises MaskError for two of one name."""
    segmentation = Segmentation(geometry)
    present = {int(label) for label in np.unique(labels) if label}
    segments = [
        Segment(names.get(label, f"segment {label}"), label, colors.get(label, segment_color(number)))
        for number, label in enumerate(sorted(present | set(names)))
    ]
    segmentation.restore([(each, labels == each.label, frozenset()) for each in segments])
    return segmentation
