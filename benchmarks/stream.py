# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Live streams with truth: how good the masks are over time, what is drawn that is false, what is lost and found again.

`python -m benchmarks.stream FOLDER`. The streams are those of streams_with_truth.py. Time is simulated: a keyframe takes
LATENCY_S of the stream whatever this machine needs, so that Dice is the same everywhere. What a frame costs is measured,
beside an encoder that is never idle.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from samm_core.embedding.engine import EncodedSlice
from samm_core.prompts import PixelPrompt
from samm_core.stream.flow import Motion
from samm_core.stream.frames import Frame
from samm_core.stream.keyframes import look
from samm_core.stream.tracker import Found, State, Tracker, grown, shrunk
from samm_core.tasks.propagation import dice

from .prompts import box_around
from .streams_with_truth import PLANS, RATE_HZ, UNSEEN, Stream, streams

if TYPE_CHECKING:
    from samm_core.models.base import SegmentationModel

# What an encoding and a decoding take on two cores.
LATENCY_S = 0.6
# A mask below it shows something else.
FALSE_DICE = 0.5
# When a mark is made in mid-stream, and how old its frame is then: frames.
_MARKED_AT, _MARK_IS_OLD = 160, 9
_MARK = "marked late"
_WAYS = ("truth's box", "tracked", "flow alone", "keyframes alone", "first box")
# In the order of _WAYS; short, as the table is wide.
_SHORT = ("truth", "tracked", "flow", "keyfr.", "box")
COLUMNS = ("stream", "object", *_SHORT, "false", "unsure", "lost", "drawn", "back")
_COLOURS = ((90, 220, 90), (60, 160, 255), (230, 120, 200))
_TILES, _TILE_PX = 7, 140
# In the picture.
_SHOWN = ("CT sweep", "CT breathing", "MR breathing", "brain, out and back", "CT, across and back")


@dataclass
class Trial:
    """One object of one stream.

    dice: by way, (frames,) with NaN where it is not judged: before the first mask, and out of view.
    states: (frames,), −1 before the first mask. false: of frames shown as TRACKING, those with Dice below FALSE_DICE.
    lost_after: seconds from the last frame in view to LOST, None: it stays in view. drawn_after, back_after: seconds from
        the first frame in view again until it is drawn, and until it is TRACKING. keyframes: of those, until TRACKING.
    mark_after: frames from a mark in mid-stream to its mask, None: no mark was made.
    """

    stream: str
    structure: str
    dice: dict[str, np.ndarray] = field(default_factory=dict)
    states: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    false: int = 0
    false_uncertain: int = 0
    lost_after: float | None = None
    drawn_after: float | None = None
    back_after: float | None = None
    keyframes: int | None = None
    mark_after: int | None = None

    def mean(self, way: str) -> float:
        return float(np.nanmean(self.dice[way]))

    def share(self, state: State) -> float:
        """Of the frames since the first mask."""
        return float((self.states == state).sum() / max((self.states >= 0).sum(), 1))


class Encoder:
    """Encodes each frame of a stream once."""

    def __init__(self, model: SegmentationModel, stream: Stream) -> None:
        self.model, self._stream = model, stream
        self._encoded: dict[int, EncodedSlice] = {}

    def __call__(self, frame: Frame) -> EncodedSlice:
        if frame.number not in self._encoded:
            (embedding,) = self.model.encode([frame.image])
            self._encoded[frame.number] = EncodedSlice(embedding, self.model)
        return self._encoded[frame.number]

    def mask(self, frame: Frame, box_xyxy: np.ndarray) -> np.ndarray:
        return self.model.decode(self(frame).embedding, PixelPrompt(box_xyxy=box_xyxy)).mask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "stream", metavar="FOLDER", type=Path, nargs="?", default=Path(), help="volumes with labels"
    )
    parser.add_argument("--model", default="lite_medsam", help="model (default: lite_medsam)")
    parser.add_argument("--checkpoint", help="file of its weights (default: the published one)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument(
        "--latency",
        type=float,
        default=LATENCY_S,
        help=f"seconds of the stream that a keyframe takes (default: {LATENCY_S})",
    )
    parser.add_argument("--quick", action="store_true", help="three streams alone")
    parser.add_argument("--output", type=Path, help="folder for stream.json and pictures (default: none)")


def main(args: argparse.Namespace) -> int:
    """Judge the tracker on streams from a folder of volumes with labels; print a table."""
    from samm_core.allocator import keep_freed_memory
    from samm_core.models import load_model
    from samm_core.output import make_folder

    from .measure import machine, show

    keep_freed_memory()
    output = make_folder(args.output) if args.output else None
    model = load_model(args.model, args.checkpoint, args.device)
    model.warm_up()
    trials: list[Trial] = []
    strips: list[np.ndarray] = []
    costs: dict[tuple[int, bool], np.ndarray] = {}
    for stream in streams(args.stream, PLANS[1:12:4] if args.quick else PLANS + UNSEEN):
        encoder = Encoder(model, stream)
        judged, strip = judge(stream, encoder, args.latency)
        trials += judged
        if stream.plan.name in _SHOWN:
            strips.append(strip)
        for trial in judged:
            print(f"{trial.stream}, {trial.structure}: {trial.mean('tracked'):.3f}", flush=True)
        if not costs:
            costs = {
                (count, beside): step_seconds(model if beside else None, stream, count)
                for count in (1, 8)
                for beside in (False, True)
            }
    show(f"{model.name}, {model.backend}; {machine()}", COLUMNS, [row(trial) for trial in trials])
    unseen = {plan.name for plan in UNSEEN}
    for title, group in (
        ("Streams that the limits were chosen on", [each for each in trials if each.stream not in unseen]),
        ("Other streams", [each for each in trials if each.stream in unseen]),
    ):
        if group:
            print("\n".join([title, *summary(group)]))
    print("\n".join(costs_in_words(costs)))
    if output:
        write(output, trials, strips)
    return 0


def judge(stream: Stream, encoder: Encoder, latency: float) -> tuple[list[Trial], np.ndarray]:
    """A trial of each object, and a strip of pictures, (h, w, 3) uint8 BGR."""
    delay = max(1, round(latency * RATE_HZ))
    trials = {name: Trial(stream.plan.name, name) for name in stream.truth}
    shown: list[dict[str, np.ndarray | None]] = []
    tracked(stream, encoder, delay, trials, shown)
    for name, trial in trials.items():
        truth, in_view = stream.truth[name], stream.in_view(name)
        first = int(np.argmax(trial.states >= 0))
        masks = {
            "tracked": [each.get(name) for each in shown],
            "flow alone": flow_alone(stream, encoder, delay, name),
            "keyframes alone": keyframes_alone(stream, encoder, delay, name, follow=True),
            "first box": keyframes_alone(stream, encoder, delay, name, follow=False),
        }
        judged = [i >= first and in_view[i] for i in range(len(truth))]
        for way, given in masks.items():
            trial.dice[way] = np.array(
                [
                    (0.0 if given[i] is None else dice(given[i], truth[i])) if judged[i] else np.nan
                    for i in range(len(truth))
                ]
            )
        trial.dice["truth's box"] = np.full(len(truth), np.nan)
        for i in range(delay, len(truth), delay):
            if judged[i]:
                mask = encoder.mask(stream.frames[i], box_around(truth[i]))
                trial.dice["truth's box"][i] = dice(mask, truth[i])
        for i, mask in enumerate(masks["tracked"]):
            wrong = mask is not None and dice(mask, truth[i]) < FALSE_DICE
            trial.false += wrong and trial.states[i] == State.TRACKING
            trial.false_uncertain += wrong and trial.states[i] == State.UNCERTAIN
        lost_and_back(trial, in_view, delay)
    return list(trials.values()), strip_of(stream, shown)


def tracked(
    stream: Stream,
    encoder: Encoder,
    delay: int,
    trials: dict[str, Trial],
    shown: list[dict[str, np.ndarray | None]],
) -> None:
    """The tracker, with keyframes that take `delay` frames; fills in the trials' states, and the masks by frame."""
    tracker, job, due = Tracker(), None, 0
    count = len(stream.frames)
    stays = all(stream.in_view(name).all() for name in trials)
    for trial in trials.values():
        trial.states = np.full(count, -1)
    first = next(iter(trials))
    for i, frame in enumerate(stream.frames):
        if job and i >= due:
            targets = tracker.targets(job)
            tracker.answer(job, look(encoder(job.frame), targets))
            job = None
        objects = {each.name: each for each in tracker.step(frame)}
        if i == 0:
            for name in trials:
                tracker.prompt(name, PixelPrompt(box_xyxy=box_around(stream.truth[name][0])), frame)
        if i == _MARKED_AT and stays:
            old = i - _MARK_IS_OLD
            box = PixelPrompt(box_xyxy=box_around(stream.truth[first][old]))
            tracker.prompt(_MARK, box, stream.frames[old], cycle=1)
        if job is None and (job := tracker.job()):
            due = i + delay
        late = objects.pop(_MARK, None)
        if late and late.cycle and trials[first].mark_after is None:
            trials[first].mark_after = i - _MARKED_AT
        shown.append({name: each.mask for name, each in objects.items()})
        for name, each in objects.items():
            if each.state != State.PROMPTED:
                trials[name].states[i] = each.state


def flow_alone(stream: Stream, encoder: Encoder, delay: int, name: str) -> list[np.ndarray | None]:
    """The first mask, carried from frame to frame and never looked at again."""
    first = stream.frames[0]
    soft = shrunk(encoder.mask(first, box_around(stream.truth[name][0])), first.small.shape)
    motion, masks = Motion(), []
    for i, frame in enumerate(stream.frames):
        motion.put(frame)
        motion.follow({first.number})
        masks.append(None if i < delay else grown(motion.passage(first.number).brought(soft), frame.shape))
    return masks


def keyframes_alone(
    stream: Stream, encoder: Encoder, delay: int, name: str, follow: bool
) -> list[np.ndarray | None]:
    """A mask as often as the encoder gives one, and held meanwhile.

    follow: its prompt is the box around the last mask; else the first box, unchanged.
    """
    box = box_around(stream.truth[name][0])
    masks: list[np.ndarray | None] = []
    mask, coming = None, None
    for i, frame in enumerate(stream.frames):
        if i % delay == 0:
            mask = coming
            if follow and mask is not None and mask.any():
                box = box_around(mask)
            coming = encoder.mask(frame, box)
        masks.append(mask)
    return masks


def lost_and_back(trial: Trial, in_view: np.ndarray, delay: int) -> None:
    """When an object was lost after it left the view, and followed again after it came back."""
    if in_view.all():
        return
    gone = int(np.argmin(in_view))
    back = len(in_view) - int(np.argmin(in_view[::-1]))

    def seconds(state: State, start: int, least: bool = False) -> float | None:
        after = trial.states[start:] <= state if least else trial.states[start:] == state
        return float(np.argmax(after)) / RATE_HZ if after.any() else None

    trial.lost_after = seconds(State.LOST, gone)
    trial.drawn_after = seconds(State.UNCERTAIN, back, least=True)
    trial.back_after = seconds(State.TRACKING, back)
    if trial.back_after is not None:
        trial.keyframes = int(np.ceil(trial.back_after * RATE_HZ / delay))


def step_seconds(
    model: SegmentationModel | None, stream: Stream, count: int, frames: int = 120
) -> np.ndarray:
    """Seconds of each step of a tracker with `count` objects, (frames,).

    model: another thread encodes with it meanwhile, without a pause; None: none does.
    """
    tracker, ended = Tracker(), threading.Event()
    first = stream.frames[0]
    (truth, *_) = stream.truth.values()
    tracker.step(first)
    for n in range(count):
        tracker.prompt(f"object {n}", PixelPrompt(box_xyxy=box_around(truth[0])), first)
    job = tracker.job()
    tracker.answer(job, [Found(each, truth[0], 1.0, 1.0) for each in tracker.targets(job)])

    def encode() -> None:
        # As the engine encodes keyframes.
        behind = model.in_background() if model else None
        while behind and not ended.is_set():
            behind.encode([first.image])

    thread = threading.Thread(target=encode)
    thread.start()
    taken = []
    try:
        for frame in stream.frames[1 : frames + 1]:
            # As a camera gives them: what is done for the first time with a frame is in the time.
            fresh = Frame(frame.number, frame.stamp_ns, frame.received_ns, frame.pixels)
            began = time.perf_counter()
            tracker.step(fresh)
            taken.append(time.perf_counter() - began)
            time.sleep(max(0.0, 1 / RATE_HZ - taken[-1]))
    finally:
        ended.set()
        thread.join()
    return np.array(taken)


def row(trial: Trial) -> list[str]:
    def seconds(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    tracking = max(int((trial.states == State.TRACKING).sum()), 1)
    return [
        trial.stream,
        trial.structure,
        *(f"{trial.mean(way):.3f}" for way in _WAYS),
        f"{trial.false / tracking:.1%}",
        f"{trial.share(State.UNCERTAIN):.0%}",
        seconds(trial.lost_after),
        seconds(trial.drawn_after),
        seconds(trial.back_after),
    ]


def summary(trials: list[Trial]) -> list[str]:
    """Lines of text: means, false truth, lost and back, marks."""
    lines = []
    for way in _WAYS:
        values = [trial.mean(way) for trial in trials]
        lines.append(f"{way}: mean Dice {np.mean(values):.3f}, least {min(values):.3f}")
    tracking = sum(int((trial.states == State.TRACKING).sum()) for trial in trials)
    uncertain = sum(int((trial.states == State.UNCERTAIN).sum()) for trial in trials)
    false, doubted = sum(trial.false for trial in trials), sum(trial.false_uncertain for trial in trials)
    lines.append(f"shown as TRACKING with Dice < {FALSE_DICE}: {false} of {tracking} frames")
    lines.append(f"shown as UNCERTAIN with Dice < {FALSE_DICE}: {doubted} of {uncertain} frames")
    away = [trial for trial in trials if trial.lost_after is not None]
    if away:
        lines.append(
            f"lost {max(t.lost_after for t in away):.2f} s after the last frame in view, at most; drawn again after "
            f"{_most([t.drawn_after for t in away])}, TRACKING after {_most([t.back_after for t in away])} "
            f"({_most([t.keyframes for t in away], '')} keyframes)"
        )
    marks = [trial.mark_after for trial in trials if trial.mark_after is not None]
    if marks:
        lines.append(f"a mark in mid-stream has its mask after {max(marks)} frames, at most")
    return lines


def costs_in_words(costs: dict[tuple[int, bool], np.ndarray]) -> list[str]:
    """Lines of text: what a step takes, by the number of objects and whether the encoder runs beside it."""
    lines = []
    for (count, beside), taken in costs.items():
        p50, p95 = np.percentile(taken * 1e3, (50, 95))
        objects = f"{count} object{'s' * (count > 1)}"
        where = "beside the encoder" if beside else "alone"
        lines.append(f"a step with {objects}, {where}: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    return lines


def _most(values: list[float | None], unit: str = " s") -> str:
    return "never" if None in values else f"{max(values):.2f}{unit}" if unit else f"{max(values)}"


def strip_of(stream: Stream, shown: list[dict[str, np.ndarray | None]]) -> np.ndarray:
    """Frames of a stream side by side, (h, w, 3) uint8 BGR: the truth white, what is shown in colours."""
    tiles = []
    for i in np.linspace(20, len(stream.frames) - 1, _TILES).astype(int):
        picture = cv2.cvtColor(stream.frames[i].pixels, cv2.COLOR_GRAY2BGR)
        for colour, (name, truth) in zip(_COLOURS, stream.truth.items(), strict=False):
            for mask, drawn in ((truth[i], (255, 255, 255)), (shown[i].get(name), colour)):
                if mask is not None:
                    lines, _ = cv2.findContours(
                        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                    )
                    cv2.drawContours(picture, lines, -1, drawn, max(1, round(max(picture.shape) / 320)))
        rows, columns = picture.shape[:2]
        size = (_TILE_PX, round(_TILE_PX * rows / columns))
        tiles.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    return np.hstack(tiles)


def write(output: Path, trials: list[Trial], strips: list[np.ndarray]) -> None:
    """stream.json, stream_strip.png and stream_dice.png."""
    figures = [
        vars(trial) | {"dice": {way: trial.mean(way) for way in _WAYS}, "states": trial.states.tolist()}
        for trial in trials
    ]
    (output / "stream.json").write_text(json.dumps(figures, indent=1, default=int))
    if strips:
        cv2.imwrite(str(output / "stream_strip.png"), np.vstack(strips))
    plot(output / "stream_dice.png", trials)


def plot(path: Path, trials: list[Trial]) -> None:
    """Dice over time of each object, with its states below."""
    from matplotlib.figure import Figure

    columns = 3
    rows = -(-len(trials) // columns)
    figure = Figure(figsize=(12, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colours = {"tracked": "tab:green", "keyframes alone": "tab:orange", "flow alone": "tab:blue"}
    for axis in axes.ravel()[len(trials) :]:
        axis.set_visible(False)
    for axis, trial in zip(axes.ravel(), trials, strict=False):
        seconds = np.arange(len(trial.states)) / RATE_HZ
        for way, colour in colours.items():
            axis.plot(seconds, trial.dice[way], color=colour, linewidth=1, label=way)
        axis.plot(seconds, trial.dice["truth's box"], "k.", markersize=3, label="truth's box")
        for state, shade in ((State.UNCERTAIN, "gold"), (State.LOST, "lightgrey")):
            axis.fill_between(
                seconds,
                0,
                1,
                where=trial.states == state,
                color=shade,
                alpha=0.5,
                linewidth=0,
                label=state.name,
            )
        axis.set_title(f"{trial.stream}: {trial.structure}", fontsize=8)
        axis.set_ylim(0, 1)
    figure.supxlabel("seconds", fontsize=8)
    figure.supylabel("Dice", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    add_arguments(arguments)
    raise SystemExit(main(arguments.parse_args()))
