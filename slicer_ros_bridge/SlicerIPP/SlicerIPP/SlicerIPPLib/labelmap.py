# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The labelmaps of segments: where one lies beside a volume, and how it is made to cover the volume."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from samm_core.errors import MaskError

from .i18n import tr as _
from .nodes import matrix_of

if TYPE_CHECKING:
    import slicer

LABELMAP = "Binary labelmap"
# Of a labelmap that reaches beyond the volume: a few voxels far away must not take all the memory.
MAX_VOXELS = 1 << 30
# Voxels by which two grids may differ and still be one.
_SAME_GRID = 0.01


def grid_offset(image: slicer.vtkOrientedImageData, ijk_to_local: np.ndarray) -> np.ndarray | None:
    """The volume's first voxel as IJK of a labelmap whose grid goes on in the volume's; None: it is on another grid."""
    to_image = np.linalg.inv(_matrix(image)) @ ijk_to_local
    offset = np.rint(to_image[:3, 3])
    aligned = np.eye(4)
    aligned[:3, 3] = offset
    # As far as the labelmap reaches, a small turn grows.
    reach = max(1, *np.abs(image.GetExtent()))
    difference = np.abs(to_image - aligned)
    if difference[:3, 3].max() > _SAME_GRID or difference[:3, :3].max() * reach > _SAME_GRID:
        return None
    return offset.astype(int)


def covers(image: slicer.vtkOrientedImageData, dimensions: tuple[int, int, int], offset: np.ndarray) -> bool:
    """Whether a labelmap reaches over the whole volume. offset: as grid_offset gives it."""
    first, last = np.array(image.GetExtent()).reshape(3, 2).T
    return bool((first <= offset).all() and (offset + dimensions - 1 <= last).all())


def part_of(
    image: slicer.vtkOrientedImageData, dimensions: tuple[int, int, int], offset: np.ndarray
) -> np.ndarray:
    """The volume's voxels in a labelmap that covers it, a (K, J, I) view."""
    i, j, k = offset - image.GetExtent()[::2]
    width, height, depth = dimensions
    return _array(image)[k : k + depth, j : j + height, i : i + width]


def holds_voxels(image: slicer.vtkOrientedImageData) -> bool:
    return image.GetNumberOfPoints() > 0 and image.GetPointData().GetScalars() is not None


class VoxelCounts:
    """How many voxels of labelmaps have a label; they are counted again only when a labelmap was changed by somebody else."""

    def __init__(self) -> None:
        # By segment: its labelmap, when that was modified, and the count then.
        self._known: dict[str, tuple[slicer.vtkOrientedImageData, int, int]] = {}

    def of(self, segment_id: str, image: slicer.vtkOrientedImageData, label: int) -> int:
        """Counting takes about 10 ms for 30 million voxels."""
        if not self._is_known(segment_id, image, image.GetMTime()):
            count = int(np.count_nonzero(_array(image) == label)) if holds_voxels(image) else 0
            self._known[segment_id] = image, image.GetMTime(), count
        return self._known[segment_id][2]

    def gained(self, segment_id: str, image: slicer.vtkOrientedImageData, before: int, voxels: int) -> None:
        """The labelmap, which was modified at `before`, has got so many more voxels, or fewer, since."""
        if self._is_known(segment_id, image, before):
            self._known[segment_id] = image, image.GetMTime(), self._known[segment_id][2] + voxels

    def keep(self, segment_ids: list[str]) -> None:
        """Forget all others."""
        self._known = {name: self._known[name] for name in segment_ids if name in self._known}

    def _is_known(self, segment_id: str, image: slicer.vtkOrientedImageData, modified: int) -> bool:
        known = self._known.get(segment_id)
        return known is not None and known[0] is image and known[1] == modified


def voxel_volume(image: slicer.vtkOrientedImageData) -> float:
    """Of one voxel, cubic millimetres."""
    return abs(float(np.linalg.det(_matrix(image)[:3, :3])))


def cover(
    image: slicer.vtkOrientedImageData,
    dimensions: tuple[int, int, int],
    ijk_to_local: np.ndarray,
    offset: np.ndarray | None,
) -> np.ndarray:
    """Make a labelmap cover the volume as well as what it holds; all of that stays where it is.

    offset: as grid_offset gives it. On a grid of its own it is laid over the volume's. Returns the offset from now on. Raises
    MaskError and changes nothing when that would take too much memory.
    """
    held = _held_extent(image) if holds_voxels(image) else None
    if offset is None:
        grid, offset = ijk_to_local, np.zeros(3, int)
        held = held and _extent_on(held, np.linalg.inv(ijk_to_local) @ _matrix(image))
    else:
        grid = _matrix(image)
    first, last = offset, offset + dimensions - 1
    if held and (held[1] < held[0]).any():
        # Too thin for the volume's voxels.
        held = None
    if held:
        first, last = np.minimum(first, held[0]), np.maximum(last, held[1])
    whole = np.prod(last - first + 1, dtype=float)
    if whole > max(MAX_VOXELS, np.prod(dimensions, dtype=float)):
        raise MaskError(
            _(
                "The segment reaches so far beyond the volume that both take {count} voxels; choose another segment, or add "
                "one."
            ).format(count=f"{whole:,.0f}")
        )
    grown = type(image)()
    matrix = matrix_of(grid)
    grown.SetExtent(*np.stack([first, last], axis=1).ravel().tolist())
    grown.SetImageToWorldMatrix(matrix)
    grown.AllocateScalars(image.GetScalarType() if holds_voxels(image) else vtk.VTK_UNSIGNED_CHAR, 1)
    grown.GetPointData().GetScalars().Fill(0)
    if held:
        _copy(image, grown, grid, held)
    image.ShallowCopy(grown)
    return offset


def voxels_on(
    image: slicer.vtkOrientedImageData, label: int, dimensions: tuple[int, int, int], ijk_to_local: np.ndarray
) -> np.ndarray:
    """What a labelmap, wherever it lies, holds on the volume's voxels, (K, J, I) bool; it stays as it is."""
    if not holds_voxels(image):
        return np.zeros(dimensions[::-1], bool)
    copy = type(image)()
    copy.ShallowCopy(image)
    offset = grid_offset(copy, ijk_to_local)
    if offset is None or not covers(copy, dimensions, offset):
        offset = cover(copy, dimensions, ijk_to_local, offset)
    return part_of(copy, dimensions, offset) == label


def reaches_beyond(
    image: slicer.vtkOrientedImageData, label: int, dimensions: tuple[int, int, int], ijk_to_local: np.ndarray
) -> bool:
    """Whether a labelmap has the label outside of the volume."""
    first, last = np.array(image.GetExtent()).reshape(3, 2).T
    corners = np.array(list(itertools.product(*np.stack([first, last], axis=1))))
    to_volume = np.linalg.inv(ijk_to_local) @ _matrix(image)
    if _are_inside(corners @ to_volume[:3, :3].T + to_volume[:3, 3], dimensions).all():
        return False
    if not holds_voxels(image):
        return False
    held_ijk = np.argwhere(_array(image) == label)[:, ::-1] + first
    return not _are_inside(held_ijk @ to_volume[:3, :3].T + to_volume[:3, 3], dimensions).all()


def _are_inside(positions_ijk: np.ndarray, dimensions: tuple[int, int, int]) -> np.ndarray:
    """(N,) bool; a voxel reaches half a voxel beyond its centre."""
    return ((positions_ijk > -0.51) & (positions_ijk < np.array(dimensions) - 0.49)).all(axis=1)


def _extent_on(extent: tuple[np.ndarray, np.ndarray], to_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last IJK on another grid that hold a whole extent of this one."""
    low, high = extent
    corners = np.array(list(itertools.product(*np.stack([low - 0.5, high + 0.5], axis=1))))
    corners = corners @ to_target[:3, :3].T + to_target[:3, 3]
    # Half a voxel is a voxel's border; nothing of it lies beyond.
    return np.ceil(corners.min(axis=0) - 1e-3).astype(int), np.floor(corners.max(axis=0) + 1e-3).astype(int)


def _copy(
    source: slicer.vtkOrientedImageData,
    target: slicer.vtkOrientedImageData,
    target_to_local: np.ndarray,
    extent: tuple[np.ndarray, np.ndarray],
) -> None:
    """What a labelmap holds into another one, nearest neighbour. extent: first and last IJK of it in the target."""
    to_source = np.linalg.inv(_matrix(source)) @ target_to_local
    first, last = extent
    plain = vtk.vtkImageData()
    plain.ShallowCopy(source)
    plain.SetOrigin(0, 0, 0)
    plain.SetSpacing(1, 1, 1)
    plain.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    axes = matrix_of(to_source)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(plain)
    reslice.SetResliceAxes(axes)
    reslice.SetInterpolationModeToNearestNeighbor()
    reslice.SetBackgroundLevel(0)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(*np.stack([first, last], axis=1).ravel().tolist())
    reslice.Update()
    part_of(target, last - first + 1, first)[...] = _array(reslice.GetOutput())


def _held_extent(image: slicer.vtkOrientedImageData) -> tuple[np.ndarray, np.ndarray] | None:
    """First and last IJK of what is not zero; None when all is."""
    held = _array(image) != 0
    kji = [np.flatnonzero(held.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not kji[0].size:
        return None
    start = np.array(image.GetExtent()[::2])
    return start + [side[0] for side in kji[::-1]], start + [side[-1] for side in kji[::-1]]


def _matrix(image: slicer.vtkOrientedImageData) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _array(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """A (K, J, I) view."""
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)


def slice_of(layer: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A view, (rows, columns), of one slice of a (K, J, I) array. axis: the IJK axis across it."""
    selection: list[int | slice] = [slice(None)] * 3
    selection[2 - axis] = index
    return layer[tuple(selection)]


def update_views(
    node: slicer.vtkMRMLSegmentationNode, segment_id: str, image: slicer.vtkOrientedImageData
) -> None:
    """Make the views draw the segment again, once."""
    segmentation = node.GetSegmentation()
    was_invoked: list[bool] = []
    observer = segmentation.AddObserver(
        segmentation.SourceRepresentationModified, lambda *_: was_invoked.append(True)
    )
    image.GetPointData().GetScalars().Modified()
    image.Modified()
    segmentation.RemoveObserver(observer)
    # Whether a segmentation listens to its labelmap depends on how the labelmap came into it.
    if not was_invoked:
        segmentation.InvokeEvent(segmentation.SourceRepresentationModified, segment_id)
    # Of these events the slice views draw nothing anew, and of a segment's first labelmap they take no notice.
    if node.GetDisplayNode():
        node.GetDisplayNode().Modified()
