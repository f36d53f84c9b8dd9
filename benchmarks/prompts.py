# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Simulated clicks and boxes on volumes with labels: how good a model's masks are, and after how many clicks."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from samm_core.prompts import PixelPrompt

from .clicks import Click, first_click, next_click
from .labelled import LabelledSlice, find_pairs, slices_of

if TYPE_CHECKING:
    from samm_core.models.base import Embedding, SegmentationModel

CLICKS, SHOWN_CLICKS, BOX_CLICKS = 8, 3, 3
_TILES, _TILE_COLUMNS = 18, 6
_SLICES, _FEW_SLICES = 6, 2
_MARGIN_PX = 2
# Below this mean Dice of its boxes, a structure is one that the model does not know.
MIN_BOX_DICE = 0.85


@dataclass
class Trial:
    """What a model makes of one structure on one slice.

    box: Dice of a box; None: the model takes none. box_and_click: of a box with a click in the middle. box_corrected: of
    a box that BOX_CLICKS clicks have corrected. clicks: Dice after each click without a box.
    kept: for all clicks at each count, whether the mask holds a positive click and leaves out a negative one.
    milliseconds: of each decode, by kind of prompt.
    placed, mask: the clicks, and the mask, (H, W) bool, after SHOWN_CLICKS of them, to look at.
    """

    labelled: LabelledSlice
    box: float | None = None
    box_and_click: float | None = None
    box_corrected: float | None = None
    clicks: list[float] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    placed: list[Click] = field(default_factory=list)
    mask: np.ndarray | None = None

    @property
    def name(self) -> tuple[str, str]:
        """The names of the volume's file and of the structure."""
        return self.labelled.volume, self.labelled.structure

    def figures(self) -> dict:
        """All but the pictures, for JSON."""
        shown = ("box", "box_and_click", "box_corrected", "clicks", "kept", "milliseconds")
        where = {"volume": self.name[0], "structure": self.name[1], "slice": self.labelled.index}
        return where | {key: getattr(self, key) for key in shown}


def main(args: argparse.Namespace) -> int:
    """Judge a model on a folder of volumes with labels; write a table, a picture and all figures."""
    from samm_core.allocator import keep_freed_memory
    from samm_core.models import load_model
    from samm_core.output import make_folder, make_new_folder

    from .measure import machine, show

    keep_freed_memory()
    pairs = find_pairs(args.prompts)
    named = Path(time.strftime("samm-prompts-%Y-%m-%d-%H-%M-%S"))
    output = make_folder(args.output) if args.output else make_new_folder(named)
    model = load_model(args.model, args.checkpoint, args.device)
    model.warm_up()
    trials: list[Trial] = []
    for number, pair in enumerate(pairs, 1):
        slices = slices_of(pair, _FEW_SLICES if args.quick else _SLICES)
        for done, trial in enumerate(judge(model, slices), 1):
            trials.append(trial)
            if sys.stderr.isatty():
                print(
                    f"\r{pair.image.name}, {number} of {len(pairs)}: {done}/{len(slices)} ",
                    end="",
                    file=sys.stderr,
                )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    title = f"{model.name}, {model.backend}; {machine()}"
    rows = table(trials)
    show(title, ("volume", "structure", "slices", *COLUMNS), rows)
    print("\n".join(summary(trials)))
    (output / "trials.json").write_text(json.dumps([trial.figures() for trial in trials], indent=1))
    draw_curves(trials, model.name, output / "clicks.png")
    draw_examples(trials, output / "examples.png")
    print(f"In {output}: clicks.png, examples.png, trials.json")
    return 0


def judge(model: SegmentationModel, slices: Iterable[LabelledSlice]) -> Iterator[Trial]:
    """A trial for each structure on slices of one volume, with the same first clicks in each run."""
    embeddings: dict[int, Embedding] = {}
    for labelled in slices:
        if labelled.index not in embeddings:
            (embeddings[labelled.index],) = model.encode([labelled.image])
        random = np.random.default_rng(labelled.index)
        yield judge_slice(model, embeddings[labelled.index], labelled, random)


def judge_slice(
    model: SegmentationModel, embedding: Embedding, labelled: LabelledSlice, random: np.random.Generator
) -> Trial:
    trial = Trial(labelled)
    truth = labelled.truth

    def decoded(kind: str, clicks: list[Click], box: np.ndarray | None = None) -> np.ndarray:
        prompt = prompt_of(clicks, box)
        began = time.perf_counter()
        mask = model.decode(embedding, prompt).mask
        trial.milliseconds.setdefault(kind, []).append((time.perf_counter() - began) * 1e3)
        return mask

    start = first_click(truth, random)
    if model.takes_box:
        box = box_around(truth)
        mask = decoded("box", [], box)
        trial.box = dice_of(mask, truth)
        if model.takes_points:
            trial.box_and_click = dice_of(decoded("box and click", [start], box), truth)
            clicks: list[Click] = []
            while len(clicks) < BOX_CLICKS and (click := next_click(truth, mask, random)):
                clicks = [*clicks, click]
                mask = decoded("box and correcting clicks", clicks, box)
            trial.box_corrected = dice_of(mask, truth)
    if model.takes_points:
        clicks = [start]
        for _ in range(CLICKS):
            mask = decoded("clicks", clicks)
            trial.clicks.append(dice_of(mask, truth))
            if len(clicks) <= SHOWN_CLICKS:
                trial.mask, trial.placed = mask, clicks
            trial.kept += [bool(mask[int(c.y), int(c.x)]) == c.positive for c in clicks]
            click = next_click(truth, mask, random)
            if click is None:
                break
            clicks = [*clicks, click]
        # A mask without an error needs no further click.
        trial.clicks += trial.clicks[-1:] * (CLICKS - len(trial.clicks))
    return trial


def prompt_of(clicks: list[Click], box: np.ndarray | None = None) -> PixelPrompt:
    """box: (4,) x min, y min, x max, y max in pixels."""
    return PixelPrompt([(c.x, c.y) for c in clicks], [int(c.positive) for c in clicks], box)


def box_around(truth: np.ndarray) -> np.ndarray:
    """The bounding box of a mask, (4,), two pixels wider on each side, within the slice."""
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    last = np.array(truth.shape[::-1]) - 1
    low = np.array([columns[0], rows[0]]) - _MARGIN_PX
    high = np.array([columns[-1], rows[-1]]) + _MARGIN_PX
    return np.concatenate([low.clip(0), np.minimum(high, last)]).astype(np.float32)


def dice_of(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of two (H, W) bool masks, of which `truth` is not empty."""
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


COLUMNS = ("box", "box+click", f"box+{BOX_CLICKS}", "1 click", "2", "3", "5", "8")


def table(trials: list[Trial]) -> list[tuple[str, ...]]:
    """A row of mean Dice for each structure of each volume."""
    return [
        (*name, str(len(of)), *(_shown(value) for value in means(of)))
        for name, of in by_structure(trials).items()
    ]


def by_structure(trials: list[Trial]) -> dict[tuple[str, str], list[Trial]]:
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.name, []).append(trial)
    return groups


def means(trials: list[Trial]) -> list[float | None]:
    """Mean Dice in the order of COLUMNS; None where the model takes no such prompts."""
    picked = [
        [t.box for t in trials],
        [t.box_and_click for t in trials],
        [t.box_corrected for t in trials],
        *([t.clicks[count - 1] if t.clicks else None for t in trials] for count in (1, 2, 3, 5, 8)),
    ]
    return [None if None in each or not each else float(np.mean(each)) for each in picked]


def summary(trials: list[Trial]) -> list[str]:
    """Lines of text: Dice over all structures and over those that boxes fit; clicks that masks agree with; times."""
    lines = []
    well = [t for t in trials if _structure_mean(trials, t) >= MIN_BOX_DICE]
    for name, chosen in (("all structures", trials), (f"where a box reaches {MIN_BOX_DICE}", well)):
        if chosen:
            values = zip(COLUMNS, means(chosen), strict=True)
            lines.append(f"{name}: " + ", ".join(f"{column} {_shown(value)}" for column, value in values))
    kept = [k for t in trials for k in t.kept]
    if kept:
        lines.append(f"{np.mean(kept):.1%} of clicks lie on their side of the mask")
    kinds = {kind for t in trials for kind in t.milliseconds}
    for kind in sorted(kinds):
        taken = [ms for t in trials for ms in t.milliseconds.get(kind, ())]
        lines.append(
            f"{kind}: p50 {np.median(taken):.1f} ms, p99 {np.percentile(taken, 99):.1f} ms, {len(taken)} decodes"
        )
    return lines


def _structure_mean(trials: list[Trial], of: Trial) -> float:
    boxes = [t.box for t in trials if t.name == of.name]
    return 1.0 if None in boxes else float(np.mean(boxes))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def draw_curves(trials: list[Trial], model: str, path: Path) -> None:
    """Write a PNG: for each structure its Dice against the number of clicks, and its box as a dash."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    colours = pyplot.get_cmap("tab20")
    for number, ((volume, structure), of) in enumerate(by_structure(trials).items()):
        colour = colours(number % 20)
        if all(t.clicks for t in of):
            label = f"{structure}, {volume.split('.')[0]}"
            mean = np.mean([t.clicks for t in of], axis=0)
            axes.plot(range(1, CLICKS + 1), mean, color=colour, lw=1, label=label)
        if all(t.box is not None for t in of):
            axes.plot([0.4, 0.7], [np.mean([t.box for t in of])] * 2, color=colour, lw=2)
    if all(t.clicks for t in trials):
        mean = np.mean([t.clicks for t in trials], axis=0)
        axes.plot(range(1, CLICKS + 1), mean, color="black", lw=3, label="mean")
    axes.set(
        xlabel="clicks (left: a box)", ylabel="Dice", ylim=(0, 1), title=f"{model}: masks after each click"
    )
    axes.set_xticks([0.55, *range(1, CLICKS + 1)], ["box", *map(str, range(1, CLICKS + 1))])
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5), ncols=2)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_examples(trials: list[Trial], path: Path) -> None:
    """Write a PNG of each structure's slice with the lowest Dice after SHOWN_CLICKS: clicks, mask and label."""
    worst = [
        min((t for t in of if t.mask is not None), key=_after_shown, default=None)
        for of in by_structure(trials).values()
    ]
    worst = sorted(filter(None, worst), key=_after_shown)[:_TILES]
    if not worst:
        return
    pyplot = _pyplot()
    rows = -(-len(worst) // _TILE_COLUMNS)
    figure, axes = pyplot.subplots(
        rows, _TILE_COLUMNS, figsize=(2.2 * _TILE_COLUMNS, 2.5 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, trial in zip(axes.flat, worst, strict=False):
        axis.imshow(trial.labelled.image)
        axis.contour(trial.labelled.truth, [0.5], colors="yellow", linewidths=1)
        if trial.mask.any():
            axis.contour(trial.mask, [0.5], colors="cyan", linewidths=1)
        for click in trial.placed:
            axis.plot(
                click.x, click.y, "+" if click.positive else "x", color="lime" if click.positive else "red"
            )
        axis.set_title(
            f"{trial.name[1]}, {trial.name[0].split('.')[0]}: {_after_shown(trial):.2f}", fontsize=7
        )
    figure.suptitle(
        f"after {SHOWN_CLICKS} clicks, each structure's worst slice: mask cyan, label yellow", fontsize=9
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _after_shown(trial: Trial) -> float:
    return trial.clicks[SHOWN_CLICKS - 1]


def _pyplot() -> ModuleType:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
