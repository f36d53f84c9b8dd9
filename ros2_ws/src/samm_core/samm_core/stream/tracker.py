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
from .flow import Motion, Shown, brought, likeness, similarity
from .frames import KEPT_NS, Frame

MAX_OBJECTS = 32
# Where noise is that strong, likeness says nothing any more.
_LEAST_USUAL = 0.5
# Around a mark, in pixels of the small frame: what moves with it.
_NEAR_PX = 4
_UNLIKE = "It does not look as it did."
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

    Likeness is that of an object on two frames (see flow.likeness), as a share of what it usually is a frame later: noise
    makes it less than 1.

    sure_likeness, least_likeness: below the first an object is uncertain. Below the second it is lost after gone_s.
    sure_agreement, least_agreement: Dice of a keyframe's mask with the one carried there, from which it is accepted: the
        first where its likeness is not sure, or where it was found again.
    least_area, most_area: beyond which it has left the view, or is something else. least_found_area, most_found_area:
        within which it is found again.
    gone_s, uncertain_s: for how long it is drawn where it is not like itself, and where its likeness is not sure.
    stale_s: it is lost where no keyframe has been accepted for so long. seek_again_s: it is sought again so long after the
        model has not confirmed that it was found.
    kept_s: how old a marked frame may be.
    """

    sure_likeness: float = 0.8
    least_likeness: float = 0.65
    sure_agreement: float = 0.75
    least_agreement: float = 0.6
    least_area: float = 0.2
    most_area: float = 3.0
    least_found_area: float = 0.6
    most_found_area: float = 1.6
    gone_s: float = 0.15
    uncertain_s: float = 1.0
    stale_s: float = 4.0
    seek_again_s: float = 2.0
    kept_s: float = KEPT_NS / 1e9


@dataclass(frozen=True, eq=False)
class Tracked:
    """One object at one frame; Track.msg describes the fields.

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

    soft: its mask on the small frame, (h, w) uint8, 255 inside. usual: its likeness a frame later.
    """

    shown: Shown
    soft: np.ndarray
    usual: float


@dataclass(frozen=True, eq=False)
class Target:
    """One object, as a keyframe looks for it.

    prompt: the user's, in pixels of the keyframe; None where it is answered already. moved: whether it was made on another
        frame, and moved here by flow. revision: of the object's prompts, so that an answer to an older one is known.
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
    # Since when it is not like itself, and since when that is not sure: stamps.
    unlike_ns: int | None = None
    unsure_ns: int | None = None
    # What it looked like when it was marked, and on the last keyframe that was accepted.
    marked: Memory | None = None
    last: Memory | None = None

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
        # From the job's frame to the frames that were followed when it was chosen.
        self._job_flows: dict[int, np.ndarray] = {}
        self._jobs = 0
        self._encoded = self._turn = 0
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
            self._newest = frame
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
        """Mark a new object, or correct one, on a frame that `step` has had and that is still kept.

        Raises PromptError.
        """
        with self._lock:
            if error := segment_name_error(name):
                raise PromptError(error)
            if not name:
                raise PromptError("The object has no name; give one.")
            if self._motion.shown(frame.number) is None:
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
            if marked.base is None:
                marked.state, marked.cause = State.PROMPTED, ""
            marked.revision += 1
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
            marked = [each.prompt_frame for each in self._objects.values() if each.prompt is not None]
            marked = [each for each in marked if self._motion.shown(each.number)]
            if marked:
                frame = max(marked, key=lambda each: each.number)
            elif frame.number == self._encoded:
                return None
            self._jobs += 1
            self._job = KeyframeJob(self._jobs, frame)
            self._job_flows = self._motion.flows() if frame is self._newest else {}
            return self._job

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
            self._job, self._job_flows = None, {}
            if error:
                for each in self._objects.values():
                    if each.prompt is not None:
                        each.error = error
                return
            self._encoded = job.frame.number
            shown = self._motion.shown(job.frame.number)
            if shown is None:
                return
            objects = {(each.name, each.revision): each for each in self._objects.values()}
            for each in found:
                if known := objects.get((each.target.name, each.target.revision)):
                    self._take(known, each, shown)
            self._follow()

    def _take(self, known: _Object, found: Found, shown: Shown) -> None:
        if found.target.prompt is not None:
            self._take_mark(known, found, shown)
            return
        if known.base is None:
            return
        known.score, known.agreement = found.score, found.agreement
        known.refused = self._refusal(known, found)
        if not known.refused:
            self._accept(known, found, shown)
        elif known.found:
            self._lose(known, known.cause)
            known.seek_ns = self._newest.stamp_ns + int(self.settings.seek_again_s * 1e9)

    def _take_mark(self, known: _Object, found: Found, shown: Shown) -> None:
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
            known.marked = self._accept(known, found, shown)

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

    def _accept(self, known: _Object, found: Found, shown: Shown) -> Memory:
        soft = _shrunk(found.mask, shown.small.shape)
        usual = max(self._usual(shown, soft), known.last.usual if known.last else 0.0)
        memory = Memory(shown, soft, usual)
        known.base, known.last = _Base(found.mask, memory), memory
        known.state, known.cause = State.TRACKING, ""
        known.unlike_ns = known.unsure_ns = None
        known.refused, known.found = "", False
        known.seen_ns = self._newest.stamp_ns
        return memory

    def _usual(self, shown: Shown, soft: np.ndarray) -> float:
        """The likeness of an object, whose mask is `soft` on a frame, with itself on the next one."""
        after = self._motion.after(shown.number)
        back = None if after is None else self._motion.back(shown.number, after.number)
        if back is None:
            return _LEAST_USUAL
        return max(_LEAST_USUAL, likeness(shown, after, back, brought(soft, back)))

    def _follow(self) -> None:
        self._motion.follow({each.base.number for each in self._objects.values() if each.base})

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
        back = self._job_flows.get(known.base.number)
        if back is None:
            back = self._motion.back(known.base.number, frame.number)
        if back is None:
            return None
        soft, alike, _ = _carried_to(known.base.memory, self._motion.shown(frame.number), back)
        if alike < self.settings.least_likeness:
            return None
        return replace(target, expected=grown(soft, frame.shape), likeness=alike)

    def _moved(self, prompt: PixelPrompt, marked: Frame, frame: Frame) -> PixelPrompt | None:
        """A prompt on another frame; None where it is not on it any more."""
        older, newer = sorted((marked.number, frame.number))
        back = self._motion.back(older, newer)
        if back is None:
            return None
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
            soft, alike, area = _carried_to(base.memory, self._motion.newest, self._motion.back(base.number))
            self._judge(known, alike, area)
            if known.state is not State.LOST:
                mask = grown(soft, frame.shape)
        return Tracked(
            known.name,
            known.label,
            known.state,
            known.cause,
            encoded=base is not None and base.number == frame.number,
            age_s=max(0.0, (frame.stamp_ns - base.stamp_ns) / 1e9) if base else 0.0,
            score=known.score,
            agreement=known.agreement,
            client_id=known.answered[0],
            cycle=known.answered[1],
            error=known.error,
            mask=mask,
        )

    def _judge(self, known: _Object, alike: float, area: float) -> None:
        """The state of an object whose mask was carried to the newest frame."""
        settings, now_ns = self.settings, self._newest.stamp_ns
        if area < settings.least_area:
            self._lose(known, "It has left the view.")
            return
        unlike = alike < settings.least_likeness or area > settings.most_area
        known.unlike_ns = (known.unlike_ns or now_ns) if unlike else None
        unsure = unlike or alike < settings.sure_likeness
        known.unsure_ns = (known.unsure_ns or now_ns) if unsure else None
        if (unlike and now_ns - known.unlike_ns >= settings.gone_s * 1e9) or (
            unsure and now_ns - known.unsure_ns >= settings.uncertain_s * 1e9
        ):
            self._lose(known, _UNLIKE)
        elif now_ns - known.seen_ns > settings.stale_s * 1e9:
            self._lose(known, known.refused or "The model has not seen it for too long.")
        elif unsure or known.refused or known.found:
            known.state = State.UNCERTAIN
            known.cause = _UNLIKE if unsure else known.refused or _FOUND
        else:
            known.state, known.cause = State.TRACKING, ""

    def _lose(self, known: _Object, cause: str) -> None:
        if known.base is not None or known.state is State.LOST:
            known.state, known.cause = State.LOST, cause
        known.base, known.refused, known.found = None, "", False
        known.unlike_ns = known.unsure_ns = None
        self._follow()

    def _seek(self) -> None:
        """Look on the newest frame for one of the objects that are lost, each in turn."""
        settings, newest = self.settings, self._motion.newest
        lost = [
            each
            for each in self._objects.values()
            if each.state is State.LOST and each.memory and newest.stamp_ns >= each.seek_ns
        ]
        if not lost:
            return
        self._turn += 1
        known = lost[self._turn % len(lost)]
        memory = known.memory[self._turn // len(lost) % len(known.memory)]
        back = sought(memory.shown, memory.soft, newest)
        if back is None:
            return
        soft, alike, area = _carried_to(memory, newest, back)
        if alike < settings.sure_likeness or not settings.least_found_area < area < settings.most_found_area:
            return
        self._motion.take_up(memory.shown, back)
        known.base, known.found = _Base(grown(memory.soft, self._newest.shape), memory), True
        known.seen_ns = newest.stamp_ns

    def _free_label(self) -> int:
        taken = {each.label for each in self._objects.values()}
        return next(label for label in range(1, MAX_OBJECTS + 1) if label not in taken)

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


def _carried_to(memory: Memory, shown: Shown, back: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The mask of a memory on a later frame, (h, w) uint8, the object's likeness there, and its share of the area."""
    soft = brought(memory.soft, back)
    area = float(soft.sum()) / max(float(memory.soft.sum()), 1.0)
    return soft, likeness(memory.shown, shown, back, soft) / memory.usual, area


def _shrunk(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
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
