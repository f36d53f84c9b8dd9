# SPDX-License-Identifier: Apache-2.0
"""The segmentation that masks are applied to, and its files."""

from __future__ import annotations

import gzip
import os
import tempfile
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import MaskError, VolumeError
from .geometry import Plane, VolumeGeometry
from .volume import read_volume

MAX_SEGMENTS = 255
UNDO_STEPS = 200
DEFAULT_SEGMENT = "Segment_1"

# 3D Slicer's first generic colours, so that a segment keeps its look there.
_COLORS = (
    (0.502, 0.682, 0.502),
    (0.945, 0.839, 0.569),
    (0.694, 0.478, 0.396),
    (0.435, 0.722, 0.824),
    (0.847, 0.396, 0.310),
    (0.867, 0.510, 0.396),
    (0.565, 0.933, 0.565),
    (0.753, 0.408, 0.345),
)


@dataclass(frozen=True)
class Segment:
    """name; label: its value in a labelmap, 1 to 255; color: red, green, blue, 0 to 1."""

    name: str
    label: int
    color: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Change:
    """What a box of a segment's slice held before: pixels are packed bits of (y1 − y0) × (x1 − x0)."""

    segment: str
    plane: Plane
    index: int
    box: tuple[int, int, int, int]
    packed: bytes


class Segmentation:
    """Named segments over one volume. Thread-safe.

    Each segment has a layer of its own, so that segments may overlap, and a mask that bloats while its prompt is dragged
    never eats a neighbour.
    """

    def __init__(self, geometry: VolumeGeometry) -> None:
        self.geometry = geometry
        self._segments: dict[str, Segment] = {}
        self._layers: dict[str, np.ndarray] = {}
        self._voxels: dict[str, int] = {}
        self._active: str | None = None
        self._undo: deque[_Change] = deque(maxlen=UNDO_STEPS)
        self._redo: list[_Change] = []
        self._lock = threading.RLock()

    @property
    def active(self) -> str | None:
        """The segment that a mask without a name goes to; None while there is no segment."""
        return self._active

    @property
    def undo_steps(self) -> int:
        return len(self._undo)

    @property
    def redo_steps(self) -> int:
        return len(self._redo)

    def segments(self) -> list[Segment]:
        """In the order in which they were added; of two that overlap, the later lies on top."""
        with self._lock:
            return list(self._segments.values())

    def add(self, name: str, color: tuple[float, float, float] | None = None) -> Segment:
        """A new, empty segment; the first one is active. Raises MaskError for a name that is taken or no text."""
        with self._lock:
            self._require_free(name)
            if len(self._segments) >= MAX_SEGMENTS:
                raise MaskError(f"There are {MAX_SEGMENTS} segments already; a labelmap holds no more.")
            label = len(self._segments) + 1
            segment = Segment(name, label, color or _COLORS[(label - 1) % len(_COLORS)])
            self._segments[name] = segment
            self._layers[name] = np.zeros(self.geometry.dimensions[::-1], bool)
            self._voxels[name] = 0
            self._active = self._active or name
            return segment

    def rename(self, name: str, new_name: str) -> None:
        """Raises MaskError when there is no such segment, or the new name is taken or no text."""
        with self._lock:
            self._require(name)
            self._require_free(new_name)
            self._segments = {
                (new_name if key == name else key): (
                    replace(segment, name=new_name) if key == name else segment
                )
                for key, segment in self._segments.items()
            }
            self._layers[new_name] = self._layers.pop(name)
            self._voxels[new_name] = self._voxels.pop(name)
            self._active = new_name if self._active == name else self._active
            renamed = [replace(c, segment=new_name) if c.segment == name else c for c in self._undo]
            self._undo = deque(renamed, maxlen=UNDO_STEPS)
            self._redo = [replace(c, segment=new_name) if c.segment == name else c for c in self._redo]

    def set_active(self, name: str) -> None:
        """Raises MaskError when there is no such segment."""
        with self._lock:
            self._require(name)
            self._active = name

    def clear(self) -> None:
        """Remove all segments and all that could be undone."""
        with self._lock:
            for state in self._segments, self._layers, self._voxels, self._undo, self._redo:
                state.clear()
            self._active = None

    def snapshot(self) -> list[tuple[Segment, np.ndarray]]:
        """All segments at one moment, each with a copy of its voxels, (K, J, I) bool."""
        with self._lock:
            return [(segment, self._layers[name].copy()) for name, segment in self._segments.items()]

    def layer(self, name: str) -> np.ndarray:
        """A copy of a segment's voxels, (K, J, I) bool."""
        with self._lock:
            self._require(name)
            return self._layers[name].copy()

    def voxels(self, name: str) -> int:
        """How many voxels a segment has."""
        with self._lock:
            self._require(name)
            return self._voxels[name]

    def apply(self, mask: np.ndarray, plane: Plane, slice_index: int, segment: str | None = None) -> str:
        """Make `mask`, (H, W) bool, what the segment holds on that slice; the name of the segment.

        segment: made when there is none of that name; None is the active one. Only the box around what was and what comes
        is written. Raises MaskError for a mask or slice that does not fit, and then changes nothing.
        """
        mask = np.asarray(mask, bool)
        if plane not in tuple(Plane):
            raise MaskError(f"There is no plane {plane}; give 0 (axial), 1 (coronal) or 2 (sagittal).")
        plane = Plane(plane)
        if not self.geometry.contains_slice(plane, slice_index):
            last = self.geometry.slice_count(plane) - 1
            raise MaskError(
                f"There is no {plane.name.lower()} slice {slice_index}; there are slices 0 to {last}."
            )
        if mask.shape != self.geometry.slice_shape(plane):
            expected = self.geometry.slice_shape(plane)
            raise MaskError(
                f"The mask is {mask.shape} pixels, but the slice is {expected}; send the slice's own."
            )
        with self._lock:
            name = segment or self._active or DEFAULT_SEGMENT
            if name not in self._segments:
                self.add(name)
            view = self.geometry.take_slice(self._layers[name], plane, slice_index)
            box = _bounding_box(view | mask)
            y0, y1, x0, x1 = box
            self._undo.append(self._write(name, plane, slice_index, box, mask[y0:y1, x0:x1]))
            self._redo.clear()
            return name

    def undo(self) -> bool:
        """Take back the last change; False when there is none."""
        with self._lock:
            if not self._undo:
                return False
            self._redo.append(self._revert(self._undo.pop()))
            return True

    def redo(self) -> bool:
        """Make the change again that was taken back last; False when there is none."""
        with self._lock:
            if not self._redo:
                return False
            self._undo.append(self._revert(self._redo.pop()))
            return True

    def slice_labels(self, plane: Plane, slice_index: int) -> np.ndarray:
        """(H, W) uint8 labels of one slice."""
        with self._lock:
            labels = np.zeros(self.geometry.slice_shape(plane), np.uint8)
            for name, segment in self._segments.items():
                labels[self.geometry.take_slice(self._layers[name], plane, slice_index)] = segment.label
            return labels

    def labelmap(self) -> np.ndarray:
        """(K, J, I) uint8 labels."""
        with self._lock:
            labels = np.zeros(self.geometry.dimensions[::-1], np.uint8)
            for name, segment in self._segments.items():
                labels[self._layers[name]] = segment.label
            return labels

    def _require(self, name: str) -> None:
        if name not in self._segments:
            raise MaskError(f"There is no segment {name!r}; there are {', '.join(self._segments) or 'none'}.")

    def _require_free(self, name: str) -> None:
        # Line ends would write keys of their own into the header of a file.
        if not name or not name.isprintable() or name in self._segments:
            raise MaskError(f"A segment cannot be named {name!r}; give a printable name that is not taken.")

    def _write(
        self, name: str, plane: Plane, index: int, box: tuple[int, int, int, int], pixels: np.ndarray
    ) -> _Change:
        """Write pixels into a box of a slice; the change that takes it back."""
        y0, y1, x0, x1 = box
        view = self.geometry.take_slice(self._layers[name], plane, index)[y0:y1, x0:x1]
        before = _Change(name, plane, index, box, np.packbits(view).tobytes())
        self._voxels[name] += int(np.count_nonzero(pixels)) - int(np.count_nonzero(view))
        view[...] = pixels
        return before

    def _revert(self, change: _Change) -> _Change:
        y0, y1, x0, x1 = change.box
        shape = (y1 - y0, x1 - x0)
        bits = np.unpackbits(np.frombuffer(change.packed, np.uint8), count=shape[0] * shape[1])
        return self._write(
            change.segment, change.plane, change.index, change.box, bits.reshape(shape).astype(bool)
        )


def write_segmentation(segmentation: Segmentation, path: Path) -> None:
    """Write a file whole or not at all.

    .nii, .nii.gz, .nrrd: one labelmap, of overlapping segments the later. .seg.nrrd: 3D Slicer's format, with names and
    colours, overlapping segments in layers of their own. Raises MaskError for another suffix and for what the disk refuses.
    """
    path = Path(path)
    suffix = next((s for s in (".seg.nrrd", ".nii.gz", ".nii", ".nrrd") if path.name.endswith(s)), None)
    if suffix is None:
        raise MaskError(f"{path.name} has no known suffix; end it in .nii.gz, .nii, .nrrd or .seg.nrrd.")
    if not path.parent.is_dir():
        raise MaskError(f"The folder {path.parent} does not exist; make it first.")
    write = _write_slicer if suffix == ".seg.nrrd" else _write_labelmap
    try:
        with tempfile.TemporaryDirectory(prefix=".samm-", dir=path.parent) as folder:
            part = Path(folder) / f"part{suffix}"
            write(segmentation, part)
            os.replace(part, path)
    except (RuntimeError, OSError, VolumeError) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[-1].rstrip(".")
        raise MaskError(f"{path} could not be written ({reason}); make room or write elsewhere.") from None


def _write_labelmap(segmentation: Segmentation, path: Path) -> None:
    geometry = segmentation.geometry
    labels = segmentation.labelmap()
    image = sitk.GetImageFromArray(labels)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.ijk_to_ras
    image.SetOrigin(to_lps[:3, 3].tolist())
    image.SetSpacing(geometry.spacing.tolist())
    image.SetDirection((to_lps[:3, :3] / geometry.spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=path.suffix != ".nii")
    # SimpleITK writes half a NIfTI file to a full disk and says nothing.
    if not np.array_equal(read_volume(path).voxels, labels):
        raise OSError("it does not read back as it was written")


def _write_slicer(segmentation: Segmentation, path: Path) -> None:
    """The layout and keys that 3D Slicer's vtkMRMLSegmentationStorageNode writes and reads."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ segmentation.geometry.ijk_to_ras
    columns, rows, slices = segmentation.geometry.dimensions
    layers = _layers(segmentation.snapshot())
    # Layers are the fastest axis; with one of them the axis is left out, and the bytes are the same.
    listed = len(layers) > 1
    header = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {3 + listed}",
        "space: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' * listed}{columns} {rows} {slices}",
        f"space directions: {'none ' * listed}{' '.join(_vector(column) for column in to_lps.T[:3])}",
        f"kinds: {'list ' * listed}domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector(to_lps[:, 3])}",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    voxels = np.zeros((slices, rows, columns, len(layers)), np.uint8)
    for number, (layer, segment, content) in enumerate(
        (layer, segment, content) for layer, held in enumerate(layers) for segment, content in held
    ):
        voxels[content, layer] = segment.label
        keys = {
            "Color": " ".join(f"{value:.6g}" for value in segment.color),
            "ColorAutoGenerated": "0",
            "Extent": f"0 {columns - 1} 0 {rows - 1} 0 {slices - 1}",
            "ID": f"Segment_{segment.label}",
            "LabelValue": str(segment.label),
            "Layer": str(layer),
            "Name": segment.name.replace("\\", r"\\"),
            "NameAutoGenerated": "0",
        }
        header += [f"Segment{number}_{key}:={value}" for key, value in keys.items()]
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n\n").encode())
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file) as stream:
            stream.write(voxels.data)


def _layers(segments: list[tuple[Segment, np.ndarray]]) -> list[list[tuple[Segment, np.ndarray]]]:
    """The segments, spread over as few layers as greedy choice finds in which none overlaps another; one at least."""
    layers: list[list[tuple[Segment, np.ndarray]]] = [[]]
    for segment, voxels in segments:
        fits = (held for held in layers if not any((voxels & other).any() for _, other in held))
        layer = next(fits, None)
        if layer is None:
            layers.append(layer := [])
        layer.append((segment, voxels))
    return layers


def _vector(values_lps: np.ndarray) -> str:
    return "(" + ",".join(repr(float(value)) for value in values_lps[:3]) + ")"


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """y0, y1, x0, x1 around the set pixels, ends excluded; empty at 0 when none is set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
