# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The objects of a live stream: each is marked once and followed from frame to frame.

Optical flow carries the mask of each object to every frame (see flow.py). As often as the encoder is free, a keyframe is
encoded and decoded (see keyframes.py). Its masks come late, and are brought forward to the newest frame. What is shown as
TRACKING has to look as it did on its keyframe; what does not is UNCERTAIN, and soon LOST, which is never drawn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import cv2
import numpy as np

from ..errors import PromptError
from ..prompts import PixelPrompt, segment_name_error
from .flow import Motion, Passage, Shown, similarity, sought, through
from .frames import KEPT_NS, Frame

MAX_OBJECTS = 32
# Where noise is that strong, likeness says nothing any more.
_LEAST_USUAL = 0.5
# What is usual falls no faster from keyframe to keyframe.
_USUAL_FALL = 0.9
# Around a mark, in pixels of the small frame: what moves with it.
_NEAR_PX = 4
_UNLIKE = "It does not look as it did."
_UNSEEN = "The model has not seen it for too long."
_FOUND = "It was found again, and the model has not confirmed it yet."


class State(IntEnum):
    """Of an object, as Track.msg has it."""

    PROMPTED = 0
    TRACKING = 1
    UNCERTAIN = 2
    LOST = 3


@dataclass(frozen=True)
class TrackerSettings:
    """The limits of the states. Seconds are of the frames' stamps; areas are shares of the last accepted mask's.

    Likeness is that of an object on two frames (see Passage.likeness), as a share of what it usually is a frame later: noise
    makes it less than 1.

    same_likeness: from which the mask of an earlier keyframe goes on being carried, once the model has confirmed it: each
        new mask would be a little less like what the user marked.
    sure_likeness, least_likeness: below the first an object is uncertain. Below the second it is lost after gone_s.
    least_recent, moment_s: it is lost after gone_s, too, where its likeness is not sure, and that with what it looked like up to
        twice moment_s ago is less. What changes its shape is soon unlike its keyframe, and hardly unlike itself a moment ago;
        what is gone is both.
    sure_agreement, least_agreement: Dice of a keyframe's mask with the one carried there, from which it is accepted: the
        first where its likeness is not sure, or where it was found again.
    least_area, most_area: beyond which it has left the view, or is something else. least_found_area, most_found_area:
        within which it is found again.
    gone_s, uncertain_s: for how long it is drawn where it is not like itself, and where its likeness is not sure; the latter
        until the model has looked at it, for up to stale_s.
    stale_s: it is lost where no keyframe has been accepted for so long. blind_s: where none was answered at all, as the computer
        is busy; it is uncertain from stale_s on. seek_again_s: it is sought again so long after the
        model has not confirmed that it was found.
    keyframe_s: between keyframes that nobody asked for, at least. A mask that is renewed at every frame follows what slowly
        takes its object's place: where a GPU did so, 5 % of what was shown as TRACKING was false.
    kept_s: how old a marked frame may be. wait_s: for how long a mark waits for its keyframe.
    """

    same_likeness: float = 0.95
    sure_likeness: float = 0.8
    least_likeness: float = 0.45
    least_recent: float = 0.65
    moment_s: float = 0.5
    sure_agreement: float = 0.8
    least_agreement: float = 0.75
    least_area: float = 0.2
    most_area: float = 3.0
    least_found_area: float = 0.6
    most_found_area: float = 1.6
    gone_s: float = 0.15
    uncertain_s: float = 1.0
    stale_s: float = 4.0
    blind_s: float = 20.0
    seek_again_s: float = 2.0
    keyframe_s: float = 0.5
    kept_s: float = KEPT_NS / 1e9
    wait_s: float = 30.0


@dataclass(frozen=True, eq=False)
class Tracked:
    """One object at one frame; Track.msg describes the fields.

    encoded: the model saw this very frame. age_s: since the last frame that it saw and confirmed.
    mask: (H, W) bool of the frame's size; None where there is none yet, and where the object is lost.
    """

    name: str
    label: int
    state: State
    cause: str = ""
    encoded: bool = False
    age_s: float = 0.0
    score: float = 0.0
    agreement: float = 0.0
    client_id: str = ""
    cycle: int = 0
    error: str = ""
    mask: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class KeyframeJob:
    """What to encode next: one frame. What to decode on it is asked for when it is encoded (Tracker.targets)."""

    number: int
    frame: Frame


@dataclass(frozen=True, eq=False)
class Memory:
    """What an object looked like on one keyframe.

    soft: its mask on the small frame, (h, w) uint8, 255 inside. usual: its likeness a frame later; None: not known yet.
    """

    shown: Shown
    soft: np.ndarray
    usual: float | None


@dataclass(frozen=True, eq=False)
class Target:
    """One object, as a keyframe looks for it.

    prompt: the user's, in pixels of the keyframe; None where it is answered already. moved: whether it was made on another
        frame, and moved here by flow. revision: the number of the object's newest mark, of all marks: its answer goes to none
        other, whatever the object is named by then.
    expected: without a prompt, the mask as flow carries it to the keyframe, (H, W) bool. likeness: of the object there.
    """

    name: str
    revision: int
    prompt: PixelPrompt | None = None
    moved: bool = False
    expected: np.ndarray | None = None
    likeness: float = 0.0


@dataclass(frozen=True, eq=False)
class Found:
    """What a keyframe shows of a target.

    mask: (H, W) bool; None: the object is not there. score: the model's own. agreement: Dice with what was expected; 1 for a
    user's prompt. error: why there is no answer, one sentence.
    """

    target: Target
    mask: np.ndarray | None = None
    score: float = 0.0
    agreement: float = 0.0
    error: str = ""


@dataclass(frozen=True, eq=False)
class _Base:
    """The mask that is carried. exact: (H, W) bool, on its keyframe. memory: what the object looks like there."""

    exact: np.ndarray
    memory: Memory

    @property
    def number(self) -> int:
        return self.memory.shown.number

    @property
    def stamp_ns(self) -> int:
        return self.memory.shown.stamp_ns


@dataclass(frozen=True, eq=False)
class _Keyframe:
    """A keyframe that is answered, and the passage to the frame after it; None: there was none yet."""

    shown: Shown
    next: Passage | None

    def usual(self, soft: np.ndarray, former: float | None) -> float | None:
        """The likeness of an object, whose mask is `soft`, (h, w) uint8, with itself on the next frame.

        former: what it was before. Noise hardly changes: where it is much less now, the object moves too fast to tell.
        """
        if self.next is None:
            return former
        now = self.next.likeness(self.next.brought(soft))
        return max(now, _LEAST_USUAL, _USUAL_FALL * (former or 0.0))


@dataclass(eq=False)
class _Object:
    name: str
    label: int
    # The newest mark, until it is answered on its own frame.
    prompt: PixelPrompt | None = None
    prompt_frame: Frame | None = None
    revision: int = 0
    client_id: str = ""
    cycle: int = 0
    # Client and cycle of the newest mark that has a mask.
    answered: tuple[str, int] = ("", 0)
    error: str = ""
    state: State = State.PROMPTED
    cause: str = ""
    base: _Base | None = None
    score: float = 0.0
    agreement: float = 0.0
    # Why the last keyframe was not accepted.
    refused: str = ""
    # It was found again by its looks alone, and the model has not confirmed it.
    found: bool = False
    # When it was accepted or found last, and when it may be sought again: stamps.
    seen_ns: int = 0
    seek_ns: int = 0
    # The last keyframe on which the model confirmed it.
    seen: Shown | None = None
    # Since when it is not like itself, and since when that is not sure: stamps.
    unlike_ns: int | None = None
    unsure_ns: int | None = None
    # What it looked like when it was marked, and on the last keyframe that was accepted.
    marked: Memory | None = None
    last: Memory | None = None
    # What it looked like a moment ago, which no keyframe has confirmed.
    recent: Memory | None = None
    # Whether it looked on the newest frame as on its keyframe.
    is_sure: bool = True

    @property
    def memory(self) -> tuple[Memory, ...]:
        known = (self.last, self.marked) if self.last is not self.marked else (self.last,)
        return tuple(each for each in known if each is not None)


class Tracker:
    """The objects of one stream. Thread-safe; it has no threads and no model of its own."""

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._motion = Motion(int(self.settings.kept_s * 1e9))
        self._objects: dict[str, _Object] = {}
        self._newest: Frame | None = None
        self._job: KeyframeJob | None = None
        # To the job's frame from the frames that were followed when it was chosen.
        self._job_passages: dict[int, Passage] = {}
        self._jobs = self._marks = self._turn = 0
        # The numbers of the newest frame, and of the last one that was a keyframe.
        self._came = self._encoded = self._encoded_ns = 0
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, on_work: Callable[[], None]) -> None:
        """Call `on_work` whenever `job` may have one: after a frame and after a mark. It must return at once."""
        self._listeners.append(on_work)

    def _tell(self) -> None:
        for on_work in self._listeners:
            on_work()

    @property
    def names(self) -> list[str]:
        """Of the objects, in the order in which they were first marked."""
        with self._lock:
            return list(self._objects)

    def step(self, frame: Frame) -> list[Tracked]:
        """Carry all objects to this frame, the newest. Call it once a frame, in order."""
        with self._lock:
            former = self._newest
            if former and frame.shape != former.shape:
                self.lose_all(f"The images have changed from {_size(former)} to {_size(frame)} pixels.")
            elif former and frame.stamp_ns < former.stamp_ns:
                self.lose_all("The images' stamps went back.")
            self._newest, self._came = frame, frame.number
            self._hold()
            self._motion.put(frame)
            self._seek()
            tracks = self.tracks()
        self._tell()
        return tracks

    def tracks(self) -> list[Tracked]:
        """All objects at the newest frame, with what keyframes have answered since `step` gave them."""
        with self._lock:
            if self._newest is None:
                return []
            return [self._carried(each) for each in self._objects.values()]

    def prompt(
        self, name: str, prompt: PixelPrompt, frame: Frame, client_id: str = "", cycle: int = 0
    ) -> None:
        """Mark a new object, or correct one, on a frame that is still kept, or that `step` is about to have.

        Raises PromptError.
        """
        with self._lock:
            if error := segment_name_error(name):
                raise PromptError(error)
            if not name:
                raise PromptError("The object has no name; give one.")
            if self._is_past(frame):
                raise PromptError("The marked image is no longer kept; mark a newer one.")
            rows, columns = frame.shape
            if outside := prompt.outside(rows, columns):
                raise PromptError(f"{outside} the image of {columns}x{rows} pixels; move it inside.")
            marked = self._objects.get(name)
            if marked is None:
                if len(self._objects) >= MAX_OBJECTS:
                    raise PromptError(f"{MAX_OBJECTS} objects are followed already; remove one first.")
                marked = self._objects[name] = _Object(name, self._free_label())
            marked.prompt, marked.prompt_frame = prompt, frame
            marked.client_id, marked.cycle, marked.error = client_id, cycle, ""
            self._marks += 1
            marked.revision = self._marks
        self._tell()

    def rename(self, old: str, new: str) -> None:
        """Raises PromptError for a name that is unknown, taken, or none."""
        with self._lock:
            self._check_known(old)
            if error := segment_name_error(new):
                raise PromptError(error)
            if not new or (new != old and new in self._objects):
                raise PromptError(f"The name {new!r} is {'taken' if new else 'empty'}; give another one.")
            self._objects[old].name = new
            self._objects = {each.name: each for each in self._objects.values()}

    def remove(self, name: str) -> None:
        """Follow an object no longer. Raises PromptError for an unknown name."""
        with self._lock:
            self._check_known(name)
            del self._objects[name]
            self._follow()

    def lose_all(self, cause: str) -> None:
        """What comes next is another picture: all objects are LOST, for a cause in one sentence.

        Marks on the images before are let go. What objects look like is kept: they may be found again.
        """
        with self._lock:
            self._motion.clear()
            self._newest = self._job = None
            self._job_passages, self._encoded_ns = {}, 0
            for each in self._objects.values():
                self._lose(each, cause)
                if each.prompt is not None:
                    each.prompt = each.prompt_frame = None
                    each.error = f"The mark has no answer: {cause[0].lower()}{cause[1:]}"

    def job(self) -> KeyframeJob | None:
        """The keyframe to encode next, and it is under way until it is answered; None: one is, or none is needed.

        It is the newest frame, or one that a user has marked. None is needed while all objects are lost.
        """
        with self._lock:
            if self._job or self._newest is None:
                return None
            if not any(each.base or each.prompt is not None for each in self._objects.values()):
                return None
            frame = self._newest
            for each in self._objects.values():
                if each.prompt is not None and self._is_past(each.prompt_frame):
                    each.prompt = each.prompt_frame = None
                    each.error = "The marked image was no longer kept when it was its turn; mark a newer one."
            marked = [each.prompt_frame for each in self._objects.values() if each.prompt is not None]
            marked = [each for each in marked if each.number <= frame.number]
            if marked:
                frame = max(marked, key=lambda each: each.number)
            elif not self._is_time_for(frame):
                return None
            self._jobs += 1
            self._job = KeyframeJob(self._jobs, frame)
            self._job_passages = self._motion.passages() if frame is self._newest else {}
            self._hold()
            return self._job

    def _hold(self) -> None:
        """Keep the frames since the keyframe under way, and since marks that wait for theirs."""
        since_ns = self._newest.stamp_ns - int(self.settings.wait_s * 1e9)
        needed = [each.prompt_frame for each in self._objects.values() if each.prompt is not None]
        needed = [each.number for each in needed if each.stamp_ns >= since_ns]
        if self._job:
            needed.append(self._job.frame.number)
        self._motion.held = min(needed, default=None)

    def _is_time_for(self, frame: Frame) -> bool:
        """Whether a frame is a keyframe that nobody asked for."""
        if frame.number == self._encoded:
            return False
        waited = frame.stamp_ns - self._encoded_ns >= self.settings.keyframe_s * 1e9
        return waited or any(each.found for each in self._objects.values())

    def targets(self, job: KeyframeJob) -> list[Target]:
        """What to look for on a job's frame, now that it is encoded; marks that came meanwhile are among it."""
        with self._lock:
            if job is not self._job or self._motion.shown(job.frame.number) is None:
                return []
            return [target for each in self._objects.values() if (target := self._target(each, job.frame))]

    def answer(self, job: KeyframeJob, found: Sequence[Found] = (), error: str = "") -> None:
        """End a job: with what its frame shows of its targets, or why it was not encoded, in one sentence."""
        with self._lock:
            if job is not self._job:
                return
            shown, later = self._motion.shown(job.frame.number), self._motion.after(job.frame.number)
        # What takes long is done while frames go on coming: the flow from here to the frame where it begins.
        wanted = bool(found) and shown is not None
        back = through(later, shown) if wanted else None
        following = Passage(shown, later[0], through(later[:1], shown)) if wanted and later else None
        with self._lock:
            if job is not self._job:
                return
            self._job, self._job_passages = None, {}
            self._hold()
            if error:
                for each in self._objects.values():
                    if each.prompt is not None:
                        each.error = error
                return
            self._encoded, self._encoded_ns = job.frame.number, job.frame.stamp_ns
            if not wanted:
                return
            newer = self._motion.after(later[-1].number if later else shown.number)
            newest = newer[-1] if newer else later[-1] if later else shown
            self._motion.take_up(Passage(shown, newest, through(newer, shown, back)))
            keyframe = _Keyframe(shown, following)
            objects = {each.revision: each for each in self._objects.values()}
            for each in found:
                if known := objects.get(each.target.revision):
                    self._take(known, each, keyframe)
            self._follow()

    def _take(self, known: _Object, found: Found, keyframe: _Keyframe) -> None:
        if found.target.prompt is not None:
            self._take_mark(known, found, keyframe)
            return
        if known.base is None:
            return
        known.score, known.agreement = found.score, found.agreement
        known.refused = self._refusal(known, found)
        if not known.refused and found.target.likeness >= self.settings.same_likeness:
            self._confirm(known, keyframe)
        elif not known.refused:
            self._accept(known, found, keyframe)
        elif known.found:
            self._lose(known, known.cause)
            known.seek_ns = self._newest.stamp_ns + int(self.settings.seek_again_s * 1e9)

    def _take_mark(self, known: _Object, found: Found, keyframe: _Keyframe) -> None:
        empty = found.mask is None or not found.mask.any()
        if not found.target.moved:
            # It is answered for good.
            known.prompt = known.prompt_frame = None
            known.error = found.error or (
                "The model finds nothing at this mark; mark it anew." if empty else ""
            )
        if not (found.error or empty):
            known.score, known.agreement = found.score, 1.0
            known.answered, known.error = (known.client_id, known.cycle), ""
            known.marked, known.recent = self._accept(known, found, keyframe), None

    def _refusal(self, known: _Object, found: Found) -> str:
        """Why a keyframe's mask is not accepted, in one sentence; empty: it is."""
        settings, target = self.settings, found.target
        if found.error:
            return found.error
        if found.mask is None or not found.mask.any():
            return "The model no longer finds it."
        sure = target.likeness >= settings.sure_likeness and not known.found
        if found.agreement < (settings.least_agreement if sure else settings.sure_agreement):
            return "The model's mask and the one that was carried there disagree."
        return ""

    def _accept(self, known: _Object, found: Found, keyframe: _Keyframe) -> Memory:
        soft = shrunk(found.mask, keyframe.shown.small.shape)
        memory = Memory(keyframe.shown, soft, keyframe.usual(soft, known.last and known.last.usual))
        known.base, known.last = _Base(found.mask, memory), memory
        self._confirm(known, keyframe)
        return memory

    def _confirm(self, known: _Object, keyframe: _Keyframe) -> None:
        """The model has seen an object on a keyframe, where its mask was carried."""
        known.seen = keyframe.shown
        known.state, known.cause = State.TRACKING, ""
        known.unlike_ns = known.unsure_ns = None
        known.refused, known.found = "", False
        known.seen_ns = self._newest.stamp_ns

    def _follow(self) -> None:
        followed = [each for each in self._objects.values() if each.base]
        recent = [each.recent for each in followed if each.recent and not each.is_sure]
        self._motion.follow({each.base.number for each in followed} | {each.shown.number for each in recent})

    def _target(self, known: _Object, frame: Frame) -> Target | None:
        """What to look for of an object on a frame; None: nothing."""
        target = Target(known.name, known.revision)
        if known.prompt is not None:
            moved = known.prompt_frame.number != frame.number
            prompt = self._moved(known.prompt, known.prompt_frame, frame) if moved else known.prompt
            if prompt is not None:
                return replace(target, prompt=prompt, moved=moved)
        if known.base is None or known.base.number >= frame.number:
            return None
        passage = self._job_passages.get(known.base.number) or self._motion.passage(
            known.base.number, frame.number
        )
        if passage is None:
            return None
        soft, alike, _ = _carried(known.base.memory, passage)
        if alike < self.settings.least_likeness:
            return None
        return replace(target, expected=grown(soft, frame.shape), likeness=alike)

    def _moved(self, prompt: PixelPrompt, marked: Frame, frame: Frame) -> PixelPrompt | None:
        """A prompt on another frame; None where it is not on it any more."""
        # None too where it was made on a frame that `step` has not had yet.
        older, newer = sorted((marked.number, frame.number))
        passage = self._motion.passage(older, newer)
        if passage is None:
            return None
        back = passage.back
        rows, columns = marked.shape
        scale = np.array([back.shape[1] / columns, back.shape[0] / rows])
        corners = prompt.points_xy if prompt.box_xyxy is None else prompt.box_xyxy.reshape(2, 2)
        low, high = corners.min(axis=0) * scale - _NEAR_PX, corners.max(axis=0) * scale + _NEAR_PX
        (x0, y0), (x1, y1) = np.maximum(low, 0).astype(int), np.maximum(high, 0).astype(int)
        region = np.zeros(back.shape[:2], bool)
        region[y0 : y1 + 1, x0 : x1 + 1] = True
        on_older = marked.number == older
        matrix = similarity(back, region, on_older)
        if matrix is None:
            return None
        moved = moved_prompt(prompt, matrix if on_older else cv2.invertAffineTransform(matrix), scale)
        return None if moved is None or moved.outside(rows, columns) else moved

    def _carried(self, known: _Object) -> Tracked:
        frame, base, mask = self._newest, known.base, None
        if base is not None and base.number == frame.number:
            mask = base.exact
        elif base is not None:
            passage = self._motion.passage(base.number)
            base = self._with_usual(known, base, passage)
            soft, alike, area = _carried(base.memory, passage)
            self._judge(known, alike, self._recently(known, soft, alike), area)
            if known.state is not State.LOST:
                mask = grown(soft, frame.shape)
        marked = base is None and known.prompt is not None
        return Tracked(
            known.name,
            known.label,
            State.PROMPTED if marked else known.state,
            "" if marked else known.cause,
            encoded=known.base is not None and known.seen.number == frame.number,
            age_s=max(0.0, (frame.stamp_ns - known.seen.stamp_ns) / 1e9) if known.base else 0.0,
            score=known.score,
            agreement=known.agreement,
            client_id=known.answered[0],
            cycle=known.answered[1],
            error=known.error,
            mask=mask,
        )

    @staticmethod
    def _with_usual(known: _Object, base: _Base, passage: Passage) -> _Base:
        """A base whose usual likeness is known: by the first frame after it, where it had none at its keyframe."""
        if base.memory.usual is None:
            alike = passage.likeness(passage.brought(base.memory.soft))
            memory = replace(base.memory, usual=max(alike, _LEAST_USUAL))
            if known.marked is base.memory:
                known.marked = memory
            known.last, known.base = memory, replace(base, memory=memory)
        return known.base

    def _recently(self, known: _Object, soft: np.ndarray, alike: float) -> float:
        """The likeness of an object with itself a moment ago; `alike`, that with its keyframe, where this one is sure.

        soft: its mask as it is carried to the newest frame.
        """
        settings, newest, recently = self.settings, self._motion.newest, alike
        known.is_sure = alike >= settings.sure_likeness
        if not known.is_sure:
            if known.recent is None or self._motion.shown(known.recent.shown.number) is None:
                known.recent = self._moment_ago(known.base.memory)
            passage = self._motion.passage(known.recent.shown.number)
            self._motion.take_up(passage)
            recently = max(alike, _carried(known.recent, passage)[1])
        moment_ns = int(settings.moment_s * 1e9)
        is_old = known.recent is None or newest.stamp_ns - known.recent.shown.stamp_ns >= moment_ns
        if is_old and recently >= settings.sure_likeness:
            known.recent = Memory(newest, soft, known.base.memory.usual)
            self._follow()
        return recently

    def _moment_ago(self, base: Memory) -> Memory:
        """What an object looked like a moment ago, by frames that are kept: it was marked before, and is answered now."""
        latest_ns = self._motion.newest.stamp_ns - int(self.settings.moment_s * 1e9)
        earlier = [each for each in self._motion.after(base.shown.number) if each.stamp_ns <= latest_ns]
        if not earlier:
            return base
        soft, alike, _ = _carried(base, self._motion.passage(base.shown.number, earlier[-1].number))
        return Memory(earlier[-1], soft, base.usual) if alike >= self.settings.least_recent else base

    def _judge(self, known: _Object, alike: float, recently: float, area: float) -> None:
        """The state of an object whose mask was carried to the newest frame."""
        settings, now_ns = self.settings, self._newest.stamp_ns
        if area < settings.least_area:
            self._lose(known, "It has left the view.")
            return
        unlike = (
            alike < settings.least_likeness or recently < settings.least_recent or area > settings.most_area
        )
        known.unlike_ns = _since(known.unlike_ns, now_ns) if unlike else None
        unsure = unlike or alike < settings.sure_likeness
        # Whether a keyframe was answered since it was seen last.
        looked = self._encoded_ns > known.seen_ns
        known.unsure_ns = _since(known.unsure_ns, now_ns) if unsure else None
        # A keyframe takes longer than uncertain_s on a busy computer: its answer is waited for.
        answered = unsure and self._encoded_ns >= known.unsure_ns
        unsure_s = settings.uncertain_s if answered else settings.stale_s
        if (unlike and now_ns - known.unlike_ns >= settings.gone_s * 1e9) or (
            unsure and now_ns - known.unsure_ns >= unsure_s * 1e9
        ):
            self._lose(known, _UNLIKE)
        elif now_ns - known.seen_ns > (settings.stale_s if looked else settings.blind_s) * 1e9:
            self._lose(known, known.refused or _UNSEEN)
        elif unsure or known.refused or known.found or now_ns - known.seen_ns > settings.stale_s * 1e9:
            known.state = State.UNCERTAIN
            known.cause = _UNLIKE if unsure else known.refused or (_FOUND if known.found else _UNSEEN)
        else:
            known.state, known.cause = State.TRACKING, ""

    def _lose(self, known: _Object, cause: str) -> None:
        if known.base is not None or known.memory:
            known.state, known.cause = State.LOST, cause
        known.base, known.recent, known.refused, known.found = None, None, "", False
        known.unlike_ns = known.unsure_ns = None
        self._follow()

    def _seek(self) -> None:
        """Look on the newest frame for one of the objects that are lost, each in turn."""
        settings, newest = self.settings, self._motion.newest
        lost = [
            each
            for each in self._objects.values()
            if each.state is State.LOST and each.prompt is None and newest.stamp_ns >= each.seek_ns
        ]
        if not lost:
            return
        self._turn += 1
        known = lost[self._turn % len(lost)]
        memory = known.memory[self._turn // len(lost) % len(known.memory)]
        passage = sought(memory.shown, memory.soft, newest)
        if passage is None:
            return
        _, alike, area = _carried(memory, passage)
        if alike < settings.sure_likeness or not settings.least_found_area < area < settings.most_found_area:
            return
        self._motion.take_up(passage)
        known.base, known.found = _Base(grown(memory.soft, self._newest.shape), memory), True
        known.seen_ns = newest.stamp_ns

    def _free_label(self) -> int:
        taken = {each.label for each in self._objects.values()}
        return next(label for label in range(1, MAX_OBJECTS + 1) if label not in taken)

    def _is_past(self, frame: Frame) -> bool:
        """Whether a frame was let go of."""
        return frame.number <= self._came and self._motion.shown(frame.number) is None

    def _check_known(self, name: str) -> None:
        if name not in self._objects:
            known = ", ".join(self._objects) or "none"
            raise PromptError(f"There is no object {name!r}; there are: {known}.")


def moved_prompt(prompt: PixelPrompt, matrix: np.ndarray, scale: np.ndarray) -> PixelPrompt | None:
    """A prompt under a similarity, (2, 3), in pixels of the small frame; scale: (2,) small pixels a pixel. None: no area."""

    def move(xy: np.ndarray) -> np.ndarray:
        small = (xy + 0.5) * scale - 0.5
        return (small @ matrix[:, :2].T + matrix[:, 2] + 0.5) / scale - 0.5

    box = None
    if prompt.box_xyxy is not None:
        # It stays upright: its middle moves and its sides grow.
        middle = move(prompt.box_xyxy.reshape(2, 2).astype(np.float64).mean(axis=0))
        half = np.diff(prompt.box_xyxy.reshape(2, 2), axis=0)[0] / 2 * np.sqrt(np.linalg.det(matrix[:, :2]))
        box = np.concatenate([middle - half, middle + half])
    points = move(prompt.points_xy.astype(np.float64)) if prompt.has_points else prompt.points_xy
    try:
        return replace(prompt, points_xy=points, box_xyxy=box, mask_input=None)
    except PromptError:
        return None


def _since(former_ns: int | None, now_ns: int) -> int:
    return now_ns if former_ns is None else former_ns


def _carried(memory: Memory, passage: Passage) -> tuple[np.ndarray, float, float]:
    """The mask of a memory on a later frame, (h, w) uint8, the object's likeness there, and its share of the area."""
    soft = passage.brought(memory.soft)
    area = float(soft.sum()) / max(float(memory.soft.sum()), 1.0)
    return soft, passage.likeness(soft) / (memory.usual or 1.0), area


def shrunk(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask, (H, W) bool, on the small frame: (h, w) uint8, 255 inside."""
    full = mask.astype(np.uint8) * 255
    return full if mask.shape == shape else cv2.resize(full, shape[::-1], interpolation=cv2.INTER_AREA)


def grown(soft: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask on the small frame, (h, w) uint8, as one of the frame, (H, W) bool."""
    if soft.shape != shape:
        soft = cv2.resize(soft, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return soft > 127


def _size(frame: Frame) -> str:
    rows, columns = frame.shape
    return f"{columns}x{rows}"
