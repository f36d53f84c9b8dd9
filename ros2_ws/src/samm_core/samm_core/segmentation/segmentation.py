# SPDX-License-Identifier: Apache-2.0
"""The segmentation that masks are applied to: segments in layers of their own, with undo."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MaskError
from ..geometry import Plane, VolumeGeometry
from ..prompts import segment_name_error
from .colors import segment_color
from .slice_edit import UNDO_STEPS, SavedPixels, bounding_box

MAX_SEGMENTS = 255
DEFAULT_SEGMENT = "Segment_1"


@dataclass(frozen=True)
class Segment:
    """name; label: its value in a labelmap, 1 to 255; color: red, green, blue, 0 to 1."""

    name: str
    label: int
    color: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class _Change:
    """What a box of a segment's slice held before."""

    segment: str
    plane: Plane
    index: int
    before: SavedPixels


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
            segment = Segment(name, label, color or segment_color(label - 1))
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
            box = bounding_box(view | mask)
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

    def forget_changes(self) -> None:
        """Nothing that was done until now can be undone or redone any more."""
        with self._lock:
            self._undo.clear()
            self._redo.clear()

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
        if error := segment_name_error(name):
            raise MaskError(error)
        if not name or name in self._segments:
            raise MaskError(f"A segment cannot be named {name!r}; give a printable name that is not taken.")

    def _write(
        self, name: str, plane: Plane, index: int, box: tuple[int, int, int, int], pixels: np.ndarray
    ) -> _Change:
        """Write pixels into a box of a slice; the change that takes it back."""
        y0, y1, x0, x1 = box
        view = self.geometry.take_slice(self._layers[name], plane, index)[y0:y1, x0:x1]
        before = _Change(name, plane, index, SavedPixels.of(view, box))
        self._voxels[name] += int(np.count_nonzero(pixels)) - int(np.count_nonzero(view))
        view[...] = pixels
        return before

    def _revert(self, change: _Change) -> _Change:
        before = change.before
        return self._write(change.segment, change.plane, change.index, before.box, before.unpack())
