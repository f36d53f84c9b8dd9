# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Whole structures of volumes with labels from one mark: by propagation, in a 3-D box, and in three planes.

`python -m benchmarks.volumes FOLDER`. All starts are simulated from the labels: a box, or a click that misses the middle,
on the middle slice; the label's 3-D bounding box. Figures are Dice in 3-D. Counted are the structures that the model knows:
a box on each slice reaches MIN_BOX_DICE.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from samm_core.embedding.engine import EncodedSlice
from samm_core.geometry import Plane
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId
from samm_core.sources.volume import Volume, read_volume
from samm_core.tasks.box3d import Box3D, segment_box
from samm_core.tasks.planes import across, fused, voxels_of
from samm_core.tasks.propagation import Mark, Propagated, Stopped, propagate
from samm_core.tasks.slices import PlaneSlices

from .clicks import first_click
from .labelled import find_pairs, read_labels
from .prompts import box_around, dice_of

if TYPE_CHECKING:
    from samm_core.models.base import SegmentationModel

# Mean over slices of a box's Dice from which the model knows a structure, and the least area of its middle slice in pixels.
MIN_BOX_DICE, MIN_PIXELS, LEAST_OF_LARGEST = 0.85, 100, 0.3
# Slices that a walk may end before or after the structure.
NEAR_END = 2
_CLICKS, _FEW_CLICKS = 5, 1
_MARGIN_PX = 2
COLUMNS = ("box each slice", "box walk", "propagated", "of click", "3-D box", "3 planes", "ends off by")


@dataclass
class Trial:
    """Figures of one structure: Dice in 3-D by way, how far walks ended off its ends, and milliseconds a slice."""

    volume: str
    structure: str
    dice: dict[str, float] = field(default_factory=dict)
    clicks: list[float] = field(default_factory=list)
    off: dict[str, list[int]] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)


class Embedder:
    """Embeds each slice of a volume once; a callable as PlaneSlices takes it."""

    def __init__(self, volume: Volume, model: SegmentationModel) -> None:
        self._volume, self._model = volume, model
        self._encoded: dict[tuple[Plane, int], EncodedSlice] = {}

    def __call__(self, image: ImageId) -> Future[EncodedSlice]:
        key = image.key.plane, image.key.index
        if key not in self._encoded:
            (embedding,) = self._model.encode([self._volume.image(image.key)])
            self._encoded[key] = EncodedSlice(embedding, self._model)
        future: Future[EncodedSlice] = Future()
        future.set_result(self._encoded[key])
        return future


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "volumes", metavar="FOLDER", type=Path, nargs="?", default=Path(), help="volumes with labels"
    )
    parser.add_argument("--model", default="lite_medsam", help="model (default: lite_medsam)")
    parser.add_argument("--checkpoint", help="file of its weights (default: the published one)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument("--quick", action="store_true", help="one click, and the axial plane alone")
    parser.add_argument("--output", type=Path, help="folder for volumes.json (default: none is written)")


def main(args: argparse.Namespace) -> int:
    """Judge a model on a folder of volumes with labels; print a table."""
    from samm_core.allocator import keep_freed_memory
    from samm_core.models import load_model
    from samm_core.output import make_folder

    from .measure import machine, show

    keep_freed_memory()
    pairs = find_pairs(args.volumes)
    model = load_model(args.model, args.checkpoint, args.device)
    model.warm_up()
    trials: list[Trial] = []
    for pair in pairs:
        volume = read_volume(pair.image)
        embed = Embedder(volume, model)
        labels = read_labels(pair.labels, volume)
        for number in (int(n) for n in np.unique(labels) if n):
            name = pair.names.get(number, f"label {number}")
            trial = judge(model, volume, labels == number, embed, name, args.quick)
            if trial:
                trials.append(trial)
                print(f"{trial.volume}, {name}: {trial.dice['propagated']:.3f}", flush=True)
    title = f"{model.name}, {model.backend}; {machine()}"
    show(title, ("volume", "structure", *COLUMNS), [row(trial) for trial in trials])
    print("\n".join(summary(trials)))
    if args.output:
        path = make_folder(args.output) / "volumes.json"
        path.write_text(json.dumps([vars(trial) for trial in trials], indent=1))
    return 0


def judge(
    model: SegmentationModel, volume: Volume, truth: np.ndarray, embed: Embedder, name: str, quick: bool
) -> Trial | None:
    """A trial of one structure, truth (K, J, I) bool; None for one that is small or that the model does not know."""
    geometry = volume.geometry
    slices = PlaneSlices(volume, Plane.AXIAL, model, embed)
    shown = {k: geometry.take_slice(truth, Plane.AXIAL, k) for k in range(slices.count)}
    shown = {k: each for k, each in shown.items() if each.any()}
    most = max(each.sum() for each in shown.values())
    if most < MIN_PIXELS:
        return None
    trial = Trial(volume.name, name)
    exact, seconds = {}, 0.0
    for index, each in shown.items():
        encoded = slices.encoded(index)
        began = time.perf_counter()
        exact[index] = model.decode(encoded.embedding, PixelPrompt(box_xyxy=box_around(each))).mask
        seconds += time.perf_counter() - began
    trial.milliseconds["decode"] = seconds * 1e3 / len(shown)
    large = [k for k, each in shown.items() if each.sum() > LEAST_OF_LARGEST * most]
    if np.mean([dice_of(exact[k], shown[k]) for k in large]) < MIN_BOX_DICE:
        return None

    def judged(way: str, masks: dict[int, np.ndarray]) -> float:
        trial.off[way] = [min(masks) - min(shown), max(masks) - max(shown)] if masks else []
        return dice_of(voxels_of(masks, geometry, Plane.AXIAL), truth)

    middle = list(shown)[len(shown) // 2]
    box = PixelPrompt(box_xyxy=box_around(shown[middle]))
    trial.dice["box each slice"] = judged("box each slice", exact)
    trial.dice["box walk"] = judged("box walk", dict(box_walk(slices, middle, box)))
    # All of them embedded, so that the time is that of the propagation.
    for index in range(slices.count):
        slices.encoded(index)
    began = time.perf_counter()
    found = masks_of(propagate(slices, [Mark(middle, prompt=box)]))
    trial.milliseconds["propagated"] = (time.perf_counter() - began) * 1e3 / len(found)
    trial.dice["propagated"] = judged("propagated", found)
    if model.takes_points:
        for seed in range(_FEW_CLICKS if quick else _CLICKS):
            click = first_click(shown[middle], np.random.default_rng(middle * 100 + seed))
            mark = Mark(middle, prompt=PixelPrompt([(click.x, click.y)], [1]))
            trial.clicks.append(judged(f"click {seed}", masks_of(propagate(slices, [mark]))))
    began = time.perf_counter()
    boxed = masks_of(segment_box(slices, box_of(truth, volume)))
    trial.milliseconds["3-D box"] = (time.perf_counter() - began) * 1e3 / max(len(boxed), 1)
    trial.dice["3-D box"] = judged("3-D box", boxed)
    if not quick:
        by_planes(trial, model, volume, truth, voxels_of(found, geometry, Plane.AXIAL), embed)
    return trial


def by_planes(
    trial: Trial,
    model: SegmentationModel,
    volume: Volume,
    truth: np.ndarray,
    axial: np.ndarray,
    embed: Embedder,
) -> None:
    """Judge the other planes, their vote, and STAPLE of all three."""
    others = []
    for plane in (Plane.CORONAL, Plane.SAGITTAL):
        masks = masks_of(across(PlaneSlices(volume, plane, model, embed), axial))
        others.append(voxels_of(masks, volume.geometry, plane))
        trial.dice[plane.name.lower()] = dice_of(others[-1], truth)
    trial.dice["3 planes"] = dice_of(fused(axial, others), truth)
    trial.dice["STAPLE"] = dice_of(staple([axial, *others]), truth)


def staple(masks: Iterable[np.ndarray]) -> np.ndarray:
    """The probable truth of several masks, (K, J, I) bool, by Warfield's expectation maximisation (2004)."""
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    return sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)) > 0.5


def box_walk(slices: PlaneSlices, start: int, prompt: PixelPrompt) -> Iterator[tuple[int, np.ndarray]]:
    """What propagation is compared with: on each slice the box around the last mask, two pixels wider."""
    first = slices.decode(start, prompt).mask
    yield start, first
    for step in (1, -1):
        index, mask = start + step, first
        while 0 <= index < slices.count and mask.any():
            mask = slices.decode(index, PixelPrompt(box_xyxy=box_around(mask))).mask
            if mask.any():
                yield index, mask
            index += step


def box_of(truth: np.ndarray, volume: Volume) -> Box3D:
    """A label's bounding box, wider in the axial plane as the boxes on slices are."""
    geometry = volume.geometry
    kji = np.argwhere(truth)
    low, high = kji.min(axis=0)[::-1] - 0.5, kji.max(axis=0)[::-1] + 0.5
    in_plane = [axis for axis in range(3) if axis != geometry.axis(Plane.AXIAL)]
    low[in_plane] -= _MARGIN_PX - 0.5
    high[in_plane] += _MARGIN_PX - 0.5
    centre = geometry.position_of([(low + high) / 2])[0]
    return Box3D(centre, geometry.ijk_to_ras[:3, :3] / geometry.spacing, (high - low) / 2 * geometry.spacing)


def masks_of(given: Iterable[Propagated | Stopped]) -> dict[int, np.ndarray]:
    """The last mask of each slice."""
    return {each.index: each.mask for each in given if isinstance(each, Propagated)}


def row(trial: Trial) -> list[str]:
    shown = [trial.dice.get(column) for column in COLUMNS[:-1]]
    shown[COLUMNS.index("of click")] = float(np.mean(trial.clicks)) if trial.clicks else None
    off = ", ".join(f"{each:+d}" for each in trial.off["propagated"])
    return [trial.volume, trial.structure, *("–" if each is None else f"{each:.3f}" for each in shown), off]


def summary(trials: list[Trial]) -> list[str]:
    """Lines of text: means and least Dice, ends, times."""
    lines = []
    ways: dict[str, Callable[[Trial], float | None]] = {
        name: lambda trial, name=name: trial.dice.get(name)
        for name in (
            "box each slice",
            "box walk",
            "propagated",
            "3-D box",
            "coronal",
            "sagittal",
            "3 planes",
            "STAPLE",
        )
    }
    ways["propagated, of a click"] = lambda trial: float(np.mean(trial.clicks)) if trial.clicks else None
    for name, of in ways.items():
        values = [value for trial in trials if (value := of(trial)) is not None]
        if values:
            lines.append(f"{name}: mean {np.mean(values):.3f}, least {min(values):.3f}")
    for name in ("box walk", "propagated"):
        off = [abs(each) for trial in trials for each in trial.off[name]]
        lines.append(f"{name}: {np.mean(np.array(off) <= NEAR_END):.0%} of ends within {NEAR_END} slices")
    times = {
        name: np.mean([t.milliseconds[name] for t in trials]) for name in ("decode", "propagated", "3-D box")
    }
    lines.append(
        f"ms a slice: {times['decode']:.1f} decoder alone, {times['propagated']:.1f} propagated "
        f"({times['propagated'] / times['decode']:.2f} times), {times['3-D box']:.1f} 3-D box"
    )
    return lines


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    add_arguments(arguments)
    raise SystemExit(main(arguments.parse_args()))
