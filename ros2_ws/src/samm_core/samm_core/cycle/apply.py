# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""APL_MSK without ROS: which answers are applied to what is shown, undone, and kept across a restart."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from ..errors import MaskError
from ..geometry import VolumeGeometry
from ..latency.events import Outcome
from ..mask_codec import MaskEncoding, decode_mask
from ..segmentation.journal import Journal, Row, State
from ..segmentation.segmentation import Segmentation
from ..sources.base import not_loaded
from .request import REMEMBERED_CLIENTS, Answer, ApplyRule, Request


@dataclass
class Counts:
    """Answers by how they ended."""

    applied: int = 0
    refused: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class ClientState:
    """The newest cycle that a client asked for, the newest that is settled, 0 for none, and why that has no mask."""

    requested: int
    settled: int
    error: str


@dataclass(frozen=True)
class Ending:
    """How an answer ended, and why in one sentence when it was not applied; is_problem: somebody should know of it."""

    outcome: Outcome
    why: str = ""
    is_problem: bool = True


class ApplySession:
    """The segmentations of all volumes that were loaded, one a volume: loading another volume loses none.

    What becomes of an answer, and who is told:

    - It is applied to its volume, whole. That settles the cycle.
    - It is refused, when its client would get the same again: it is an error sentence, or it answers what the client asked
      for and the mask does not fit there (its data, its shape, the segment's name, one segment too many). That settles the
      cycle too; the sentence is `last_error` and the client's `error`.
    - It is dropped and counted without a word, when another answer is there or on its way: it is the second to a request that
      was sent again, or older than the client's newest request for another place; or its volume is not known yet.
    - It is dropped as a problem of the node, and settles nothing, when nobody is known to have asked for it: it is damaged
      or forged. SND_INF asks again for what is not settled.

    Segments are edited on the segmentations themselves; the journal keeps that too. They are also told the prompts of the
    masks that are applied. last_error: the newest sentence; empty: none. models: by uid, the name of the model that made
    the newest mask. Not thread-safe: one thread applies and
    edits. The segmentations may be read from others.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.counts = Counts()
        self.last_error = ""
        self.models: dict[str, str] = {}
        self._journal = journal
        # By uid, the volume that was loaded last at the end.
        self._segmentations: dict[str, Segmentation] = {}
        self._rule = ApplyRule()
        # By client, pruned to those that the rule remembers: since when it waits (monotonic), and why its newest settled
        # cycle has no mask.
        self._waiting_since: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        # By client and cycle, those that are not settled: whose prompt a mask answers.
        self._asked: dict[tuple[str, int], Request] = {}

    @property
    def segmentations(self) -> dict[str, Segmentation]:
        """By the uid of their volume; that of the volume that was loaded last comes last."""
        return dict(self._segmentations)

    def segmentation(self, volume_uid: str = "") -> Segmentation | None:
        """Of a volume; empty: of the one that was loaded last. None where it is not known."""
        uid = volume_uid or next(reversed(self._segmentations), "")
        return self._segmentations.get(uid)

    @property
    def journal_error(self) -> str:
        """Why what is applied is not being kept, one sentence; empty: it is, or no journal was asked for."""
        return self._journal.error if self._journal else ""

    def retry_journal(self) -> None:
        """Write what the journal could not take before; cheap while there is nothing."""
        if self._journal:
            self._journal.retry()

    def fold_journal(self) -> None:
        """Make the journal one file, before the process ends."""
        if self._journal:
            self._journal.fold()

    def load(self, volume_uid: str, geometry: VolumeGeometry) -> str:
        """This volume was loaded last. What was applied to it before, in this run or the last, is back.

        Returns what of the journal did not fit, one sentence; empty: all did.
        """
        if known := self._segmentations.pop(volume_uid, None):
            self._segmentations[volume_uid] = known
            return ""
        self._segmentations[volume_uid] = segmentation = Segmentation(geometry)
        if self._journal is None:
            return ""
        rows = self._journal.rows(volume_uid)
        misfits = _replay(segmentation, rows)
        # Whoever edits the segmentation from now on, it is kept.
        segmentation.journal = self._journal.of(volume_uid)
        if not misfits:
            return ""
        self._journal.leave_out(list(misfits))
        why = next(iter(misfits.values()))
        self.last_error = f"{len(misfits)} of {len(rows)} entries of the journal {self._journal.path} for this volume were left out: {why}"
        return self.last_error

    def forget(self, volume_uid: str) -> None:
        """What was applied to this volume is no longer held; a journal has it still, for when it is loaded again."""
        self._segmentations.pop(volume_uid, None)
        self.models.pop(volume_uid, None)

    def requested(self, request: Request) -> None:
        """A client has asked for a mask."""
        self._rule.requested(request)
        self._asked.setdefault((request.client_id, request.cycle), request)
        if len(self._asked) > REMEMBERED_CLIENTS:
            del self._asked[next(iter(self._asked))]
        self._wait(request.client_id)

    def clients(self) -> dict[str, ClientState]:
        """How far the prompts of each client have come."""
        cycles = self._rule.cycles()
        for client_id in self._errors.keys() - cycles.keys():
            del self._errors[client_id]
        return {
            client_id: ClientState(requested, settled, self._errors.get(client_id, ""))
            for client_id, (requested, settled) in cycles.items()
        }

    @property
    def is_awaiting(self) -> bool:
        """Whether a client waits for an answer."""
        return bool(self._rule.waiting())

    def stale(self, after_s: float) -> bool:
        """Whether a client waits longer than this: since its last answer, or since it first asked after that."""
        waiting = {request.client_id for request in self._rule.waiting()}
        self._waiting_since = {c: since for c, since in self._waiting_since.items() if c in waiting}
        now = time.monotonic()
        return any(now - since >= after_s for since in self._waiting_since.values())

    def apply(self, answer: Answer) -> Ending:
        """Apply the answer's mask whole, or nothing."""
        if self._rule.is_settled(answer):
            return self._drop(f"Cycle {answer.cycle} is answered already.", is_problem=False)
        if answer.error:
            return self._refuse(answer, answer.error)
        uid, key = answer.image.source, answer.image.key
        segmentation = self._segmentations.get(uid)
        if segmentation is None:
            return self._drop(
                f"The mask is for the volume {uid[:8]}, which is not known yet.", is_problem=False
            )
        newest = next((r for r in self._rule.waiting() if r.client_id == answer.client_id), None)
        if error := self._rule.error(answer, segmentation.geometry):
            if newest and answer.cycle < newest.cycle:
                return self._drop(error, is_problem=False)
            if newest and (answer.cycle, answer.image, answer.segment) == (
                newest.cycle,
                newest.image,
                newest.segment,
            ):
                return self._refuse(answer, error)
            return self._drop(error)
        try:
            mask = decode_mask(answer.data, answer.shape, answer.encoding)
            # What is as the journal has it need not be packed again.
            encoded = answer.data if answer.encoding == MaskEncoding.BITS_ZLIB else None
            segment = segmentation.apply(mask, key.plane, key.index, answer.segment or None, encoded)
        except MaskError as error:
            # The cycle of an answer that nobody is known to have asked for may be any number.
            if newest and answer.cycle <= newest.cycle:
                return self._refuse(answer, str(error))
            return self._drop(str(error))
        asked = self._asked.get((answer.client_id, answer.cycle))
        if asked and asked.image == answer.image:
            with contextlib.suppress(MaskError):  # a prompt off its slice, which no server answers
                segmentation.note_prompt(segment, key.plane, key.index, asked.prompt)
        self.models[uid] = answer.model
        self._settle(answer)
        self.counts.applied += 1
        self.last_error = ""
        return Ending(Outcome.COMPLETED)

    def apply_in_group(self, answer: Answer, group: str) -> Ending:
        """Apply a mask that a task over the whole volume made, beside the clients' cycles: each task's masks are one undo.

        group: names the run of the task, as in Segmentation.apply_in_group. DROPPED without a problem: the slice is frozen.
        """
        uid, key = answer.image.source, answer.image.key
        segmentation = self._segmentations.get(uid)
        try:
            if segmentation is None:
                raise MaskError(not_loaded(uid))
            applied = segmentation.apply_in_group(
                answer.mask, key.plane, key.index, answer.segment or None, group
            )
        except MaskError as error:
            self.counts.refused += 1
            self.last_error = str(error)
            return Ending(Outcome.REFUSED, str(error))
        if not applied:
            return self._drop(
                f"The {key} of {answer.segment or segmentation.active} is frozen.", is_problem=False
            )
        self.models[uid] = answer.model
        self.counts.applied += 1
        return Ending(Outcome.COMPLETED)

    def undo(self, volume_uid: str = "") -> bool:
        """Take back the last step of a volume (empty: the one loaded last); False when there is none."""
        segmentation = self.segmentation(volume_uid)
        return segmentation is not None and segmentation.undo()

    def redo(self, volume_uid: str = "") -> bool:
        """Make the step of a volume again that was taken back last; False when there is none."""
        segmentation = self.segmentation(volume_uid)
        return segmentation is not None and segmentation.redo()

    def _wait(self, client_id: str) -> None:
        """From now on, if something is asked for and the client is not waiting already."""
        if any(request.client_id == client_id for request in self._rule.waiting()):
            self._waiting_since.setdefault(client_id, time.monotonic())

    def _settle(self, answer: Answer, error: str = "") -> None:
        self._rule.settled(answer.client_id, answer.cycle, error)
        self._errors[answer.client_id] = error
        for client_id, cycle in list(self._asked):
            if client_id == answer.client_id and cycle <= answer.cycle:
                del self._asked[client_id, cycle]
        self._waiting_since.pop(answer.client_id, None)
        self._wait(answer.client_id)

    def _refuse(self, answer: Answer, why: str) -> Ending:
        self._settle(answer, why)
        self.counts.refused += 1
        self.last_error = why
        return Ending(Outcome.REFUSED, why)

    def _drop(self, why: str, is_problem: bool = True) -> Ending:
        self.counts.dropped += 1
        return Ending(Outcome.DROPPED, why, is_problem)


def _replay(segmentation: Segmentation, rows: list[Row]) -> dict[int, str]:
    """Bring a new segmentation to where the rows lead; by number, why a row could not be followed."""
    misfits: dict[int, str] = {}
    undone: set[int] = set()
    for row in rows:
        try:
            if row.step is None:
                raise MaskError("it is damaged.")
            if row.state == State.SEGMENT:
                segmentation.repeat_added(row.step)
                continue
            segmentation.repeat(row.step)
        except (MaskError, ValueError) as error:
            misfits[row.number] = str(error)
            continue
        if row.state == State.FIXED:
            segmentation.forget_changes()
        if row.state == State.UNDONE:
            undone.add(row.step.group or row.number)
    for _ in undone:
        segmentation.undo()
    return misfits
