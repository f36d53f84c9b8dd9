# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The segmentation that masks are applied to: segments in layers of their own, with undo."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MaskError
from ..geometry import Plane, VolumeGeometry
from ..mask_codec import decode_mask, encode_mask
from ..prompts import MAX_NAME, PixelPrompt, segment_name_error
from .colors import segment_color
from .journal import LIST_PLANE, Step, VolumeJournal
from .segment_list import (
    MAX_SEGMENTS,
    Color,
    ListedSegment,
    Segment,
    SegmentList,
    checked_color,
    decode_list,
    encode_list,
)
from .slice_edit import UNDO_STEPS, SavedPixels, bounding_box

__all__ = ["DEFAULT_SEGMENT", "MAX_SEGMENTS", "Segment", "Segmentation"]

DEFAULT_SEGMENT = "Segment_1"


@dataclass(frozen=True, eq=False)
class _Pixels:
    """What a box of a segment's slice held before, and whether the slice was frozen then."""

    key: str
    plane: Plane
    index: int
    before: SavedPixels
    frozen: bool


@dataclass(frozen=True, eq=False)
class _Listing:
    """The list of segments before and after."""

    before: SegmentList
    after: SegmentList


@dataclass(frozen=True, eq=False)
class _Undo:
    """Changes that are taken back together, the last one first. group: whose next mask joins them; None: nobody's."""

    changes: list[_Pixels | _Listing]
    group: Hashable = None


class Segmentation:
    """Named segments over one volume. Thread-safe, but for its journal: with one, one thread makes the changes.

    Each segment has a layer of its own, so that segments may overlap, and a mask that bloats while its prompt is dragged
    never eats a neighbour.

    Each of `apply`, `rename`, `recolor`, `remove`, `reorder`, `freeze` and `unfreeze` is one step of undo. So are the masks
    of a group that follow one another, such as those of a task over the whole volume: it can be cancelled after any mask,
    what is done stays, and one undo takes it back. Something else in between ends the step; the rest of the group is the next.

    It remembers the last prompt of each slice of a segment, see `note_prompt`.

    A slice of a segment is *frozen* once the user has applied a mask to it, or by `freeze`, until `unfreeze`. A group never
    changes a voxel on a frozen slice, in whichever plane.
    """

    def __init__(self, geometry: VolumeGeometry) -> None:
        self.geometry = geometry
        # Where what is done from now on is written down; None: nowhere.
        self.journal: VolumeJournal | None = None
        self._list: SegmentList = {}
        self._layers: dict[str, np.ndarray] = {}
        self._voxels: dict[str, int] = {}
        # Layers of segments that are removed, which undo or redo can bring back: packed bits, zlib.
        self._removed: dict[str, bytes] = {}
        # By segment and slice, also of removed segments; the newest last.
        self._prompts: dict[tuple[str, Plane, int], PixelPrompt] = {}
        self._active: str | None = None
        self._undo: deque[_Undo] = deque(maxlen=UNDO_STEPS)
        self._redo: list[_Undo] = []
        self._lock = threading.RLock()

    @property
    def active(self) -> str | None:
        """The segment that a mask without a name goes to; None while there is no segment."""
        with self._lock:
            return self._list[self._active].segment.name if self._active is not None else None

    @property
    def undo_steps(self) -> int:
        return len(self._undo)

    @property
    def redo_steps(self) -> int:
        return len(self._redo)

    def segments(self) -> list[Segment]:
        """In order, new ones last; of two that overlap, the later lies on top."""
        with self._lock:
            return [listed.segment for listed in self._list.values()]

    def add(self, name: str, color: Color | None = None) -> Segment:
        """A new, empty segment; the first one is active. No step of undo: an empty segment hides nothing.

        Raises MaskError for a name that is taken or no text.
        """
        with self._lock:
            key, segment = self._new(name, color)
            self._show({**self._list, key: ListedSegment(segment)})
            if self.journal:
                self.journal.add(Step(key, data=encode_list({key: self._list[key]})))
            return segment

    def rename(self, name: str, new_name: str) -> None:
        """Raises MaskError when there is no such segment, or the new name is taken or no text."""
        with self._lock:
            key = self._key(name)
            self._require_free(new_name)
            self._relist({**self._list, key: _renamed(self._list[key], name=new_name)})

    def recolor(self, name: str, color: Color) -> None:
        """Raises MaskError when there is no such segment, or for a color that is not three numbers from 0 to 1."""
        with self._lock:
            key = self._key(name)
            self._relist({**self._list, key: _renamed(self._list[key], color=checked_color(color))})

    def remove(self, name: str) -> None:
        """The segment with all its voxels. Raises MaskError when there is no such segment."""
        with self._lock:
            removed = self._key(name)
            self._relist({key: listed for key, listed in self._list.items() if key != removed})

    def reorder(self, names: Sequence[str]) -> None:
        """names: of all segments, in their new order. Raises MaskError for anything else."""
        with self._lock:
            keys = {listed.segment.name: key for key, listed in self._list.items()}
            if sorted(names) != sorted(keys):
                raise MaskError(
                    f"The order {', '.join(names) or 'of none'} is not one of {', '.join(keys) or 'no segments'}; name each once."
                )
            self._relist({keys[name]: self._list[keys[name]] for name in names})

    def freeze(self, name: str, plane: Plane, slice_index: int) -> None:
        """From now on no group writes to this slice of the segment. Raises MaskError when there is none."""
        self._set_frozen(name, plane, slice_index, frozenset.union)

    def unfreeze(self, name: str, plane: Plane, slice_index: int) -> None:
        """Groups may write to this slice of the segment again. Raises MaskError when there is none."""
        self._set_frozen(name, plane, slice_index, frozenset.difference)

    def frozen(self, name: str) -> frozenset[tuple[Plane, int]]:
        """The slices of a segment that no group writes to. Raises MaskError when there is no such segment."""
        with self._lock:
            return self._list[self._key(name)].frozen

    def set_active(self, name: str) -> None:
        """Raises MaskError when there is no such segment."""
        with self._lock:
            self._active = self._key(name)

    def clear(self) -> None:
        """Remove all segments and all that could be undone. A journal is not told: it is for a segmentation that has none."""
        with self._lock:
            for state in (
                self._list,
                self._layers,
                self._voxels,
                self._removed,
                self._prompts,
                self._undo,
                self._redo,
            ):
                state.clear()
            self._active = None

    def note_prompt(self, name: str, plane: Plane, slice_index: int, prompt: PixelPrompt) -> None:
        """Remember what was marked for the mask that a slice of a segment got. Undo takes back the mask, not this.

        Raises MaskError when there is no such segment or slice, or the prompt lies off the slice.
        """
        plane = self._check_slice(plane, slice_index)
        if outside := prompt.outside(*self.geometry.slice_shape(plane)):
            raise MaskError(
                f"{outside} the {plane.name.lower()} slice {slice_index}; move it onto the slice."
            )
        with self._lock:
            place = self._key(name), plane, slice_index
            self._prompts.pop(place, None)
            self._prompts[place] = prompt

    def prompts(self, name: str | None = None) -> list[tuple[str, Plane, int, PixelPrompt]]:
        """The last prompt of each slice of a segment, None: of all, with the segment's name; the newest last.

        Raises MaskError when there is no such segment.
        """
        with self._lock:
            keys = self._list if name is None else [self._key(name)]
            return [
                (self._list[key].segment.name, plane, index, prompt)
                for (key, plane, index), prompt in self._prompts.items()
                if key in keys
            ]

    def snapshot(self) -> list[tuple[Segment, np.ndarray]]:
        """All segments at one moment, each with a copy of its voxels, (K, J, I) bool."""
        with self._lock:
            return [(listed.segment, self._layers[key].copy()) for key, listed in self._list.items()]

    def layer(self, name: str) -> np.ndarray:
        """A copy of a segment's voxels, (K, J, I) bool."""
        with self._lock:
            return self._layers[self._key(name)].copy()

    def voxels(self, name: str) -> int:
        """How many voxels a segment has."""
        with self._lock:
            return self._voxels[self._key(name)]

    def apply(
        self,
        mask: np.ndarray,
        plane: Plane,
        slice_index: int,
        segment: str | None = None,
        encoded: bytes | None = None,
    ) -> str:
        """Make `mask`, (H, W) bool, what the segment holds on that slice, which is frozen then; the segment's name.

        segment: made when there is none of that name; None is the active one. encoded: encode_mask's bytes of the mask, where
        they are at hand. Only the box around what was and what comes is written. Raises MaskError for a mask or slice that does
        not fit, and then changes nothing.
        """
        mask, plane = self._checked(mask, plane, slice_index)
        with self._lock:
            key, name = self._named(segment)
            if key is None:
                self.add(name)
                key = self._key(name)
            self._put(key, mask, plane, slice_index, encoded=encoded)
            return name

    def apply_in_group(
        self, mask: np.ndarray, plane: Plane, slice_index: int, segment: str | None, group: Hashable
    ) -> bool:
        """As `apply`, for a mask that a task made: frozen slices stay as they are. False: all of this slice is frozen.

        group: names the task's run; another run has another name. A segment that it makes goes with the step's undo.
        """
        mask, plane = self._checked(mask, plane, slice_index)
        with self._lock:
            key, name = self._named(segment)
            if key is not None:
                frozen = self._frozen_pixels(key, plane, slice_index)
                if frozen.all():
                    return False
                held = self.geometry.take_slice(self._layers[key], plane, slice_index)
                mask = np.where(frozen, held, mask)
            if key is None:
                key, made = self._new(name)
                self._relist({**self._list, key: ListedSegment(made)}, group)
            self._put(key, mask, plane, slice_index, group)
            return True

    def restore(self, segments: Sequence[tuple[Segment, np.ndarray, Collection[tuple[Plane, int]]]]) -> None:
        """Make these the segments, in place of all others, as one step of undo.

        segments: each with its voxels, (K, J, I) bool, and its frozen slices. A label is another one where undo needs it.
        Raises MaskError for what does not fit, and then changes nothing.
        """
        names = [segment.name for segment, _, _ in segments]
        for segment, voxels, frozen in segments:
            if voxels.shape != self.geometry.dimensions[::-1]:
                raise MaskError(
                    f"{segment.name} has {voxels.shape[::-1]} voxels, but the volume {self.geometry.dimensions}; load its volume."
                )
            if error := segment_name_error(segment.name):
                raise MaskError(error)
            if not segment.name or names.count(segment.name) > 1:
                raise MaskError(
                    f"{names.count(segment.name)} segments are named {segment.name!r}; name each alone."
                )
            checked_color(segment.color)
            for plane, index in frozen:
                self._check_slice(plane, index)
        across_k = next(plane for plane in Plane if self.geometry.axis(plane) == 2)
        with self._lock:
            self._free_labels(len(segments))
            group = object()
            self._relist({}, group)
            for segment, voxels, frozen in segments:
                key, made = self._new(segment.name, segment.color, segment.label)
                self._relist({**self._list, key: ListedSegment(made, frozenset(frozen))}, group)
                for k in np.flatnonzero(voxels.any(axis=(1, 2))).tolist():
                    self._put(key, np.asarray(voxels[k], bool), across_k, k, group)

    def undo(self) -> bool:
        """Take back the last step; False when there is none."""
        with self._lock:
            if not self._undo:
                return False
            self._redo.append(self._revert(self._undo.pop()))
            if self.journal:
                self.journal.undo()
            return True

    def redo(self) -> bool:
        """Make the step again that was taken back last; False when there is none."""
        with self._lock:
            if not self._redo:
                return False
            self._undo.append(self._revert(self._redo.pop()))
            if self.journal:
                self.journal.redo()
            return True

    def forget_changes(self) -> None:
        """Nothing that was done until now can be undone or redone any more. A journal is not told."""
        with self._lock:
            self._undo.clear()
            self._redo.clear()
            self._forget_removed()

    def repeat_added(self, step: Step) -> None:
        """Add the segment of a journal's row once more. Raises MaskError for a row that holds none."""
        # The row of an earlier release says no more than the name.
        added = next(iter(decode_list(step.data).values()), None) if step.data else None
        with self._lock:
            self._add_again(step.segment, added)

    def repeat(self, step: Step) -> None:
        """Do once more what a journal's row says: a list of segments or a mask. Raises MaskError for what does not fit."""
        # No group of this run, whatever its name.
        group = ("journal", step.group) if step.group else None
        with self._lock:
            if step.plane == LIST_PLANE:
                listed = decode_list(step.data)
                self._check_list(listed)
                self._relist(listed, group)
                return
            mask, plane = self._checked(decode_mask(step.data, step.shape), step.plane, step.index)
            if not step.segment:
                raise MaskError("It names no segment.")
            if step.segment not in self._list:
                # A group made it, whose list follows.
                self._add_again(step.segment)
            self._put(step.segment, mask, plane, step.index, group)

    def slice_labels(self, plane: Plane, slice_index: int) -> np.ndarray:
        """(H, W) uint8 labels of one slice."""
        with self._lock:
            labels = np.zeros(self.geometry.slice_shape(plane), np.uint8)
            for key, listed in self._list.items():
                view = self.geometry.take_slice(self._layers[key], plane, slice_index)
                labels[view] = listed.segment.label
            return labels

    def labelmap(self) -> np.ndarray:
        """(K, J, I) uint8 labels."""
        with self._lock:
            labels = np.zeros(self.geometry.dimensions[::-1], np.uint8)
            for key, listed in self._list.items():
                labels[self._layers[key]] = listed.segment.label
            return labels

    def _find(self, name: str) -> str | None:
        return next((key for key, listed in self._list.items() if listed.segment.name == name), None)

    def _key(self, name: str) -> str:
        key = self._find(name)
        if key is None:
            raise MaskError(
                f"There is no segment {name!r}; there are {', '.join(s.name for s in self.segments()) or 'none'}."
            )
        return key

    def _named(self, segment: str | None) -> tuple[str | None, str]:
        """The key, None where there is none yet, and the name of a segment; None is the active one."""
        name = segment or self.active or DEFAULT_SEGMENT
        return self._find(name), name

    def _require_free(self, name: str) -> None:
        if error := segment_name_error(name):
            raise MaskError(error)
        if not name or self._find(name) is not None:
            raise MaskError(f"A segment cannot be named {name!r}; give a printable name that is not taken.")

    def _new(self, name: str, color: Color | None = None, wanted: int = 0) -> tuple[str, Segment]:
        """A key and a segment of a name that is free. Both key and label are no segment's, and none's that undo brings back.

        wanted: the label, where it is free; else the smallest that is.
        """
        self._require_free(name)
        keys = {*self._list, *self._removed}
        # A name is printable, so no name is another one's key.
        key = next(k for n in range(len(keys) + 1) if (k := f"{name}\0{n}" if n else name) not in keys)
        labels = self._free_labels()
        label = wanted if wanted in labels else labels[0]
        return key, Segment(name, label, checked_color(color or segment_color(label - 1)))

    def _free_labels(self, count: int = 1) -> list[int]:
        """No segment's, and none's that undo brings back. Raises MaskError when there are fewer than `count`."""
        used = [*self._list.values(), *(each for listing in self._listings() for each in listing.values())]
        labels = {listed.segment.label for listed in used}
        free = [n for n in range(1, MAX_SEGMENTS + 1) if n not in labels]
        if len(free) < count:
            raise MaskError(
                f"There are {len(labels)} segments already, those that undo can bring back included; a labelmap holds "
                f"{MAX_SEGMENTS}."
            )
        return free

    def _add_again(self, key: str, added: ListedSegment | None = None) -> None:
        """Add the segment of this key, unless it is there.

        A list that follows says what it is really called: a name or label that another segment has by now gives way.
        """
        if key in self._list:
            return
        name = _free_name(added.segment.name if added else key.partition("\0")[0], self._list)
        if error := segment_name_error(name):
            raise MaskError(error)
        labels = {segment.label for segment in self.segments()}
        label = added.segment.label if added and added.segment.label not in labels else self._free_labels()[0]
        color = added.segment.color if added else segment_color(label - 1)
        self._show({**self._list, key: ListedSegment(Segment(name, label, color))})

    def _checked(self, mask: np.ndarray, plane: Plane | int, slice_index: int) -> tuple[np.ndarray, Plane]:
        mask = np.asarray(mask, bool)
        plane = self._check_slice(plane, slice_index)
        if mask.shape != self.geometry.slice_shape(plane):
            expected = self.geometry.slice_shape(plane)
            raise MaskError(
                f"The mask is {mask.shape} pixels, but the slice is {expected}; send the slice's own."
            )
        return mask, plane

    def _check_slice(self, plane: Plane | int, slice_index: int) -> Plane:
        if plane not in tuple(Plane):
            raise MaskError(f"There is no plane {plane}; give 0 (axial), 1 (coronal) or 2 (sagittal).")
        plane = Plane(plane)
        if not self.geometry.contains_slice(plane, slice_index):
            last = self.geometry.slice_count(plane) - 1
            raise MaskError(
                f"There is no {plane.name.lower()} slice {slice_index}; there are slices 0 to {last}."
            )
        return plane

    def _check_list(self, listed: SegmentList) -> None:
        """Raises MaskError for a list of segments, from a journal, that no segmentation of this volume can have."""
        segments = [each.segment for each in listed.values()]
        if len({s.name for s in segments}) < len(segments) or len({s.label for s in segments}) < len(
            segments
        ):
            raise MaskError("Two segments of the list have one name or label; it is left out.")
        for each in listed.values():
            for plane, index in each.frozen:
                self._check_slice(plane, index)

    def _set_frozen(self, name: str, plane: Plane, slice_index: int, change: Callable) -> None:
        plane = self._check_slice(plane, slice_index)
        with self._lock:
            key = self._key(name)
            listed = self._list[key]
            frozen = change(listed.frozen, [(plane, slice_index)])
            if frozen != listed.frozen:
                self._relist({**self._list, key: replace(listed, frozen=frozen)})

    def _frozen_pixels(self, key: str, plane: Plane, slice_index: int) -> np.ndarray:
        """(H, W) bool: where a slice meets the segment's frozen ones."""
        pixels = np.zeros(self.geometry.slice_shape(plane), bool)
        for other, index in self._list[key].frozen:
            axis = 2 - self.geometry.axis(other)
            shape = [-1 if n == axis else 1 for n in range(3)]
            places = np.arange(self.geometry.slice_count(other)).reshape(shape)
            everywhere = np.broadcast_to(places, self.geometry.dimensions[::-1])
            pixels |= self.geometry.take_slice(everywhere, plane, slice_index) == index
        return pixels

    def _put(
        self,
        key: str,
        mask: np.ndarray,
        plane: Plane,
        index: int,
        group: Hashable = None,
        encoded: bytes | None = None,
    ) -> None:
        """Make a mask, (H, W) bool, what a slice holds, as a step of undo or a part of one."""
        # Packed where somebody writes it down.
        data = (encoded or encode_mask(mask)) if self.journal else b""
        change = self._write(key, plane, index, mask, freezes=group is None)
        self._push(change, group, Step(key, int(plane), index, mask.shape, data))

    def _write(self, key: str, plane: Plane, index: int, mask: np.ndarray, freezes: bool) -> _Pixels:
        """Write a mask, (H, W) bool, into a slice; the change that takes it back."""
        view = self.geometry.take_slice(self._layers[key], plane, index)
        box = y0, y1, x0, x1 = bounding_box(view | mask)
        frozen = freezes or (plane, index) in self._list[key].frozen
        return self._fill(key, plane, index, box, mask[y0:y1, x0:x1], frozen)

    def _fill(
        self,
        key: str,
        plane: Plane,
        index: int,
        box: tuple[int, int, int, int],
        pixels: np.ndarray,
        frozen: bool,
    ) -> _Pixels:
        """Write pixels into a box of a slice, which is frozen from then on or not; the change that takes it back."""
        y0, y1, x0, x1 = box
        view = self.geometry.take_slice(self._layers[key], plane, index)[y0:y1, x0:x1]
        listed, place = self._list[key], (plane, index)
        before = _Pixels(key, plane, index, SavedPixels.of(view, box), place in listed.frozen)
        self._voxels[key] += int(np.count_nonzero(pixels)) - int(np.count_nonzero(view))
        view[...] = pixels
        if frozen != before.frozen:
            self._list = {**self._list, key: replace(listed, frozen=listed.frozen ^ {place})}
        return before

    def _relist(self, listed: SegmentList, group: Hashable = None) -> None:
        """Make this the list of segments, as a step of undo or a part of one."""
        change = _Listing(self._list, listed)
        self._show(listed)
        data = encode_list(listed) if self.journal else b""
        self._push(change, group, Step("", LIST_PLANE, data=data))

    def _show(self, listed: SegmentList) -> None:
        """Make this the list of segments, and lay aside or bring back what that takes."""
        for key in self._list.keys() - listed.keys():
            self._removed[key] = zlib.compress(np.packbits(self._layers.pop(key)).tobytes(), 1)
            del self._voxels[key]
        shape = self.geometry.dimensions[::-1]
        for key in listed.keys() - self._list.keys():
            if packed := self._removed.pop(key, None):
                bits = np.frombuffer(zlib.decompress(packed), np.uint8)
                self._layers[key] = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).view(bool)
            else:
                self._layers[key] = np.zeros(shape, bool)
            self._voxels[key] = int(np.count_nonzero(self._layers[key]))
        self._list = listed
        if self._active not in listed:
            self._active = next(iter(listed), None)

    def _push(self, change: _Pixels | _Listing, group: Hashable, row: Step) -> None:
        """This was done, a step or a part of one; `row` is how a journal says it."""
        self._redo.clear()
        # The step before is of the same group.
        joins = group is not None and bool(self._undo) and self._undo[-1].group == group
        drops = not joins and len(self._undo) == UNDO_STEPS
        if joins:
            self._undo[-1].changes.append(change)
        else:
            self._undo.append(_Undo([change], group))
            self._forget_removed()
        if self.journal:
            self.journal.apply(row, group is not None, joins, drops)

    def _revert(self, step: _Undo) -> _Undo:
        """Take a step back; the step that does it again."""
        return _Undo([self._revert_one(change) for change in reversed(step.changes)])

    def _revert_one(self, change: _Pixels | _Listing) -> _Pixels | _Listing:
        if isinstance(change, _Listing):
            # Segments that were added since are no part of the change: they stay, under another name if need be.
            before, after = dict(change.before), self._list
            for key, listed in self._list.items():
                if key not in change.after:
                    name = _free_name(listed.segment.name, before)
                    before[key] = replace(listed, segment=replace(listed.segment, name=name))
            self._show(before)
            return _Listing(after, before)
        saved = change.before
        return self._fill(change.key, change.plane, change.index, saved.box, saved.unpack(), change.frozen)

    def _listings(self) -> Iterator[SegmentList]:
        """The lists of segments that undo and redo lead to."""
        for step in (*self._undo, *self._redo):
            for change in step.changes:
                if isinstance(change, _Listing):
                    yield change.before
                    yield change.after

    def _forget_removed(self) -> None:
        """Let go of the layers of segments that nothing brings back."""
        if self._removed:
            reachable = {key for listing in self._listings() for key in listing}
            self._removed = {key: packed for key, packed in self._removed.items() if key in reachable}
            known = {*self._list, *self._removed}
            self._prompts = {place: prompt for place, prompt in self._prompts.items() if place[0] in known}


def _renamed(listed: ListedSegment, **changes: object) -> ListedSegment:
    return replace(listed, segment=replace(listed.segment, **changes))


def _free_name(name: str, listed: SegmentList) -> str:
    """This name, or the first with a number behind it that no segment of the list has."""
    taken = {each.segment.name for each in listed.values()}
    numbered = (f"{name[: MAX_NAME - 4]} {number}" for number in range(2, len(taken) + 3))
    return next(n for n in (name, *numbered) if n not in taken)
