# SPDX-License-Identifier: Apache-2.0
"""Runs over many slices: a mask propagated to its neighbours, and every slice of a 3-D box."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samm_core.errors import PromptError, SammError
from samm_core.prompts import PixelPrompt
from samm_core.segmentation.slice_edit import bounding_box

from .events import Events
from .i18n import tr as _
from .log import Log
from .marks import box_on
from .nodes import roi_corners
from .prompts import RUN, Prompts
from .segments import Segments
from .state import State
from .view import Place
from .volume import VolumeLoader

if TYPE_CHECKING:
    import slicer

# Pixels around the mask of one slice in which the next slice's is looked for.
PROPAGATE_MARGIN = 2


@dataclass(frozen=True, eq=False)
class _Step:
    """One slice. box: (4,) pixels; None: that of the mask before it, in the direction `toward` (1 or -1)."""

    place: Place
    box: np.ndarray | None
    toward: int = 0


class Runs:
    """One run at a time, one prompt on its way at a time: the next slice's is sent when a mask was applied."""

    def __init__(
        self,
        state: State,
        events: Events,
        log: Log,
        volume: VolumeLoader,
        prompts: Prompts,
        segments: Segments,
    ) -> None:
        self._state = state
        self._events = events
        self._log = log
        self._volume = volume
        self._prompts = prompts
        self._segments = segments
        self._steps: deque[_Step] = deque()
        self._step: _Step | None = None
        self._boxes: dict[int, np.ndarray | None] = {}

    def propagate(self, place: Place, slices: int) -> None:
        """Segment up to so many slices on each side: each is looked for in the box of the mask before it."""
        box = _box_around(self._segments.mask_on(place), place)
        if box is None:
            self._log.warn(_("The shown slice has no mask to propagate; segment it first."))
            return
        steps = [
            _Step(place.at(place.index + toward * n), None, toward)
            for toward in (1, -1)
            for n in range(1, slices + 1)
            if place.geometry.contains_slice(place.plane, place.index + toward * n)
        ]
        self._boxes = {1: box, -1: box}
        self._start(steps)

    def fill_box(self, place: Place, roi: slicer.vtkMRMLMarkupsROINode) -> None:
        """Segment every slice of the place's plane that the ROI crosses, with its cross-section as the box."""
        steps = _cross_sections(place, roi)
        if not steps:
            self._log.warn(_("The ROI crosses no slice of this view's plane; move it into the volume."))
            return
        self._start(steps)

    def advance(self, mask: np.ndarray) -> None:
        """The mask of the slice that the run waits for was applied."""
        if self._step is None:
            return
        if self._step.toward:
            # Where the structure has ended, so has this direction.
            self._boxes[self._step.toward] = _box_around(mask, self._step.place)
        self._count_step()
        self._next()

    def end(self, why: str = "") -> None:
        """What is segmented stays."""
        was_running = self._state.is_running
        self._steps.clear()
        self._step = None
        self._state.is_running = False
        if was_running:
            if why:
                self._log.say(why)
            self._events.controls.emit()

    def _start(self, steps: list[_Step]) -> None:
        self._steps = deque(step for step in steps if step.place.key not in self._state.frozen)
        self._state.progress = (0, len(self._steps))
        self._state.is_running = True
        self._next()

    def _next(self) -> None:
        while self._steps:
            self._step = self._steps.popleft()
            box = self._boxes.get(self._step.toward) if self._step.box is None else self._step.box
            if box is None:
                self._count_step()
                continue
            if self._volume.has_changed():
                self.end(_("The volume has changed since it was loaded; press Load, then start again."))
                return
            try:
                self._prompts.send(RUN, self._step.place, PixelPrompt(box_xyxy=box))
            except SammError as error:
                self.end(str(error))
                return
            self._events.controls.emit()
            return
        self.end(_("Done."))

    def _count_step(self) -> None:
        done, count = self._state.progress
        self._state.progress = (done + 1, count)


def _cross_sections(place: Place, roi: slicer.vtkMRMLMarkupsROINode) -> list[_Step]:
    corners_ras = roi_corners(roi)
    if corners_ras is None:
        return []
    across, _pixels = place.geometry.pixel_of(place.geometry.index_of(corners_ras), place.plane)
    first = max(0, int(np.ceil(across.min())))
    last = min(place.geometry.slice_count(place.plane) - 1, int(np.floor(across.max())))
    steps = []
    for index in range(first, last + 1):
        try:
            box = box_on(place.at(index), roi)
        except PromptError:
            continue
        steps.append(_Step(place.at(index), box))
    return steps


def _box_around(mask: np.ndarray, place: Place) -> np.ndarray | None:
    """(4,) pixels x, y, x, y: the box around a mask with PROPAGATE_MARGIN, within the slice; None for an empty mask."""
    y0, y1, x0, x1 = bounding_box(mask)
    if y1 == y0:
        return None
    rows, columns = place.geometry.slice_shape(place.plane)
    low = np.maximum((x0 - PROPAGATE_MARGIN, y0 - PROPAGATE_MARGIN), 0)
    high = np.minimum((x1 - 1 + PROPAGATE_MARGIN, y1 - 1 + PROPAGATE_MARGIN), (columns - 1, rows - 1))
    return np.concatenate([low, high]).astype(float)
