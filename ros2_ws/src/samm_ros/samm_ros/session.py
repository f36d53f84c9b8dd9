# SPDX-License-Identifier: Apache-2.0
"""APL_MSK without ROS: which answers are applied to what is shown, undone, and kept across a restart."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .cycle import Answer, ApplyRule, Request
from .errors import MaskError
from .geometry import Plane, VolumeGeometry
from .journal import COMPACT_AFTER, Journal, Step
from .mask_codec import MaskEncoding, decode_mask, encode_mask
from .masks import Segmentation
from .trace import Outcome


@dataclass
class Counts:
    """Answers by how they ended."""

    applied: int = 0
    refused: int = 0
    dropped: int = 0


class ApplySession:
    """The segmentations of the volumes that were shown, one a volume: showing another volume loses none.

    Not thread-safe: one thread applies. The segmentations themselves may be read from others.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.counts = Counts()
        self.last_error = ""
        self.volume_uid = ""
        self._journal = journal
        self._segmentations: dict[str, Segmentation] = {}
        self._rule = ApplyRule()
        self._first_asked: dict[str, tuple[int, float]] = {}

    @property
    def segmentation(self) -> Segmentation | None:
        """Of the volume that is shown; None while none is."""
        return self._segmentations.get(self.volume_uid)

    def show(self, volume_uid: str, geometry: VolumeGeometry) -> None:
        """This volume is shown from now on; what was applied to it before, in this run or the last, is back."""
        self.volume_uid = volume_uid
        if volume_uid not in self._segmentations:
            self._segmentations[volume_uid] = segmentation = Segmentation(geometry)
            for step in self._journal.steps if self._journal else ():
                if step.volume_uid == volume_uid:
                    _replay(segmentation, step)

    def requested(self, request: Request) -> None:
        """A client has asked for a mask."""
        self._rule.requested(request)
        cycle, _ = self._first_asked.get(request.client_id, (0, 0.0))
        if request.cycle > cycle:
            self._first_asked[request.client_id] = (request.cycle, time.monotonic())

    def cycles(self) -> dict[str, tuple[int, int]]:
        """By client: the newest cycle it asked for, and the newest that was applied or refused."""
        return self._rule.cycles()

    def stale(self, after_s: float) -> bool:
        """Whether a client's newest request has waited longer than this for its answer."""
        waiting = list(self._rule.waiting())
        self._first_asked = {r.client_id: self._first_asked[r.client_id] for r in waiting}
        now = time.monotonic()
        return any(now - asked >= after_s for _, asked in self._first_asked.values())

    def apply(self, answer: Answer) -> tuple[Outcome, str]:
        """Apply the answer's mask whole, or nothing; how it ended, and why in one sentence when not COMPLETED."""
        if answer.error:
            self._rule.settled(answer.client_id, answer.cycle)
            self.counts.refused += 1
            self.last_error = answer.error
            return Outcome.REFUSED, answer.error
        segmentation = self.segmentation
        if segmentation is None:
            return self._drop("The mask has no volume to be shown on; load a volume first.")
        if objection := self._rule.objection(answer, self.volume_uid, segmentation.geometry):
            return self._drop(objection)
        try:
            mask = decode_mask(answer.data, answer.shape, answer.encoding)
            segment = segmentation.apply(mask, answer.slice.plane, answer.slice.index, answer.segment or None)
        except MaskError as error:
            return self._drop(str(error))
        self._rule.settled(answer.client_id, answer.cycle)
        self.counts.applied += 1
        self.last_error = ""
        data = answer.data if answer.encoding == MaskEncoding.BITS_ZLIB else encode_mask(mask)
        self._record(
            Step(
                self.volume_uid,
                "apply",
                segment,
                int(answer.slice.plane),
                answer.slice.index,
                answer.shape,
                data,
            )
        )
        return Outcome.COMPLETED, ""

    def undo(self) -> bool:
        """Take back the last change; False when there is none."""
        return self._step_back("undo")

    def redo(self) -> bool:
        """Make the change again that was taken back last; False when there is none."""
        return self._step_back("redo")

    def _step_back(self, kind: str) -> bool:
        done = self.segmentation is not None and getattr(self.segmentation, kind)()
        if done and self._journal and self.volume_uid in self._journal.compacted:
            # Replayed, the step would go back over what the compaction made one.
            self._journal.compact(self.volume_uid, _state(self.volume_uid, self.segmentation))
        elif done:
            self._record(Step(self.volume_uid, kind))
        return done

    def _drop(self, why: str) -> tuple[Outcome, str]:
        self.counts.dropped += 1
        return Outcome.DROPPED, why

    def _record(self, step: Step) -> None:
        if not self._journal:
            return
        self._journal.append(step)
        if self._journal.count(self.volume_uid) > COMPACT_AFTER:
            self._journal.compact(self.volume_uid, _state(self.volume_uid, self.segmentation))


def _replay(segmentation: Segmentation, step: Step) -> None:
    if step.kind == "apply":
        mask = decode_mask(step.data, step.shape, MaskEncoding.BITS_ZLIB)
        segmentation.apply(mask, Plane(step.plane), step.index, step.segment)
    elif step.kind == "undo":
        segmentation.undo()
    else:
        segmentation.redo()


def _state(volume_uid: str, segmentation: Segmentation) -> list[Step]:
    """One step a segment and axial slice that holds something."""
    steps = []
    for segment in segmentation.segments():
        layer = segmentation.layer(segment.name)
        for index in range(segmentation.geometry.slice_count(Plane.AXIAL)):
            mask = segmentation.geometry.take_slice(layer, Plane.AXIAL, index)
            if mask.any():
                data = encode_mask(mask)
                steps.append(
                    Step(volume_uid, "apply", segment.name, int(Plane.AXIAL), index, mask.shape, data)
                )
    return steps
