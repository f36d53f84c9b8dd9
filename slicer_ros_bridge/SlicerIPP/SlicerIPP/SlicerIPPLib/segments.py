# SPDX-License-Identifier: Apache-2.0
"""Writes masks into the segments of a vtkMRMLSegmentationNode, a slice's bounding box at a time, and takes them back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .shared.errors import MaskError

UNDO_STEPS = 200
_LABELMAP = "Binary labelmap"


@dataclass(frozen=True)
class _Change:
    """What a box of a segment's slice held before: packed bits of (y1 − y0) × (x1 − x0)."""

    node_id: str
    segment_id: str
    axis: int
    index: int
    box: tuple[int, int, int, int]
    packed: bytes


class SegmentWriter:
    """Nothing but the box is written: not other segments, nor other slices, nor what the user made elsewhere."""

    def __init__(self, scene: object) -> None:
        self._scene = scene
        self._undo: deque[_Change] = deque(maxlen=UNDO_STEPS)
        self._redo: list[_Change] = []

    @property
    def can_undo(self) -> bool:
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        return bool(self._redo)

    def forget(self) -> None:
        """Nothing can be undone any more."""
        self._undo.clear()
        self._redo.clear()

    def write(
        self,
        node: object,
        segment_id: str,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
        axis: int,
        index: int,
        mask: np.ndarray,
    ) -> None:
        """Make `mask`, (rows, columns) bool, what the segment holds on a slice.

        dimensions, ijk_to_local: the volume's voxels along I, J, K and their (4, 4) place in the node's own space.
        axis, index: the slice, on the IJK axis across it. Raises MaskError and changes nothing when the segment cannot be
        written or the mask does not fit.
        """
        layer, label, image = self._layer(node, segment_id, dimensions, ijk_to_local)
        plane = _take(layer, axis, index)
        if plane.shape != mask.shape:
            raise MaskError(
                f"The mask is {mask.shape} pixels, but the slice is {plane.shape}; load the volume again."
            )
        box = _bounding_box((plane == label) | mask)
        y0, y1, x0, x1 = box
        change = _Change(node.GetID(), segment_id, axis, index, box, _packed(plane[y0:y1, x0:x1] == label))
        plane[y0:y1, x0:x1] = np.where(mask[y0:y1, x0:x1], label, 0)
        _modified(node, segment_id, image)
        self._undo.append(change)
        self._redo.clear()

    def mask(
        self,
        node: object,
        segment_id: str,
        dimensions: tuple[int, int, int],
        ijk_to_local: np.ndarray,
        axis: int,
        index: int,
    ) -> np.ndarray:
        """What the segment holds on a slice, (rows, columns) bool."""
        layer, label, _ = self._layer(node, segment_id, dimensions, ijk_to_local)
        return _take(layer, axis, index) == label

    def undo(self) -> bool:
        """Take back the last mask that still can be; False when there is none."""
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """Write the mask again that was taken back last; False when there is none."""
        return self._step(self._redo, self._undo)

    def _step(self, changes: deque[_Change] | list[_Change], back: deque[_Change] | list[_Change]) -> bool:
        while changes:
            change = changes.pop()
            node = self._scene.GetNodeByID(change.node_id)
            segment = node and node.GetSegmentation().GetSegment(change.segment_id)
            image = segment and segment.GetRepresentation(_LABELMAP)
            if not image:
                # The user deleted it: what was in it went with it.
                continue
            layer = _array(image)
            y0, y1, x0, x1 = change.box
            if min(image.GetExtent()[::2]) != 0 or change.index >= layer.shape[2 - change.axis]:
                continue
            plane = _take(layer, change.axis, change.index)
            if y1 > plane.shape[0] or x1 > plane.shape[1]:
                continue
            label = segment.GetLabelValue()
            pixels = plane[y0:y1, x0:x1]
            back.append(
                _Change(
                    *(getattr(change, n) for n in ("node_id", "segment_id", "axis", "index", "box")),
                    _packed(pixels == label),
                )
            )
            bits = np.unpackbits(np.frombuffer(change.packed, np.uint8), count=pixels.size).reshape(
                pixels.shape
            )
            pixels[...] = np.where(bits, label, 0)
            _modified(node, change.segment_id, image)
            return True
        return False

    def _layer(
        self, node: object, segment_id: str, dimensions: tuple[int, int, int], ijk_to_local: np.ndarray
    ) -> tuple[np.ndarray, int, object]:
        """The segment's own labelmap over the whole volume: a (K, J, I) view of it, its label, and the image."""
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(segment_id)
        if segment is None:
            raise MaskError("The segment was deleted; choose another one, or add one.")
        image = segment.GetRepresentation(_LABELMAP)
        if image is None and segmentation.CreateRepresentation(_LABELMAP):
            image = segment.GetRepresentation(_LABELMAP)
        if image is None:
            raise MaskError(
                "The segmentation holds no labelmaps; make a binary labelmap its source in Slicer's Segmentations."
            )
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        others = [segmentation.GetSegment(i).GetRepresentation(_LABELMAP) for i in ids if i != segment_id]
        if any(other is image for other in others):
            # Segments that share a labelmap cannot overlap: a mask would eat its neighbours.
            segmentation.SeparateSegmentLabelmap(segment_id)
            image = segment.GetRepresentation(_LABELMAP)
        if not _covers(image, dimensions, ijk_to_local):
            _grow(image, dimensions, ijk_to_local)
        return _array(image), segment.GetLabelValue(), image


def _covers(image: object, dimensions: tuple[int, int, int], ijk_to_local: np.ndarray) -> bool:
    whole = tuple(value for side in dimensions for value in (0, side - 1))
    return tuple(image.GetExtent()) == whole and np.allclose(_matrix(image), ijk_to_local, atol=1e-4)


def _grow(image: object, dimensions: tuple[int, int, int], ijk_to_local: np.ndarray) -> None:
    """Lay a labelmap over the whole volume, once; what it holds stays where it is."""
    grown = type(image)()
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(ijk_to_local, float).ravel())
    grown.SetExtent(0, dimensions[0] - 1, 0, dimensions[1] - 1, 0, dimensions[2] - 1)
    grown.SetImageToWorldMatrix(matrix)
    holds = not image.IsEmpty() if hasattr(image, "IsEmpty") else image.GetNumberOfPoints() > 0
    grown.AllocateScalars(image.GetScalarType() if holds else vtk.VTK_UNSIGNED_CHAR, 1)
    voxels = _array(grown)
    voxels[...] = 0
    if holds:
        _copy(_array(image), np.array(image.GetExtent()[::2]), _matrix(image), voxels, ijk_to_local)
    image.DeepCopy(grown)


def _copy(
    source: np.ndarray,
    first_ijk: np.ndarray,
    source_to_local: np.ndarray,
    target: np.ndarray,
    target_to_local: np.ndarray,
) -> None:
    """Nearest neighbour; where the grids agree, voxel by voxel. first_ijk: of the source's first voxel."""
    to_source = np.linalg.inv(source_to_local) @ target_to_local
    for k in range(target.shape[0]):
        j, i = np.indices(target.shape[1:])
        points = np.stack([i.ravel(), j.ravel(), np.full(i.size, k), np.ones(i.size)])
        ijk = np.rint((to_source @ points)[:3].T - first_ijk).astype(int)
        inside = ((ijk >= 0) & (ijk < source.shape[::-1])).all(axis=1)
        if inside.any():
            i_in, j_in, k_in = ijk[inside].T
            target[k].reshape(-1)[inside] = source[k_in, j_in, i_in]


def _matrix(image: object) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _array(image: object) -> np.ndarray:
    """A (K, J, I) view."""
    x0, x1, y0, y1, z0, z1 = image.GetExtent()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)


def _take(layer: np.ndarray, axis: int, index: int) -> np.ndarray:
    selection: list[int | slice] = [slice(None)] * 3
    selection[2 - axis] = index
    return layer[tuple(selection)]


def _modified(node: object, segment_id: str, image: object) -> None:
    """Tell the views, once."""
    segmentation = node.GetSegmentation()
    told: list[bool] = []
    observer = segmentation.AddObserver(
        segmentation.SourceRepresentationModified, lambda *_: told.append(True)
    )
    image.GetPointData().GetScalars().Modified()
    image.Modified()
    segmentation.RemoveObserver(observer)
    # Whether a segmentation listens to its labelmap depends on how the labelmap came into it.
    if not told:
        segmentation.InvokeEvent(segmentation.SourceRepresentationModified, segment_id)


def _packed(mask: np.ndarray) -> bytes:
    return np.packbits(mask).tobytes()


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """y0, y1, x0, x1, ends excluded; empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
