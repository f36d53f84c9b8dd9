# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Races this graph against the SAMM paper's design: same machine, volume, model, decoder, threads and prompts, in one run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .design import Design, Spot, Timed
    from .ours import Ours

# The left temporal pole on the MNI brain: pixels of a 233×197 slice.
_INDEX, _BOX = 38, (76.0, 90.0, 122.0, 124.0)
_SIZES = (64, 128, 256, 512, 1024)
_DEPTHS = (8, 64, 256, 512)
_CLIENTS = (1, 2, 4, 8)
_POINTS = (1, 4, 16, 64)
_REFERENCE, _FEW_SLICES = 256, 8
# Prompts in a row before the other's turn: what disturbs the machine disturbs both.
_TURN = 20
# A difference of a percent is smaller than the noise of hundreds.
_TRACE_PAIRS = 1500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the figures (default: samm-race-DATE-TIME, samm-prompts-DATE-TIME)",
    )


def main(args: argparse.Namespace) -> int:
    """Takes about a quarter of an hour."""
    import shutil
    import tempfile

    import psutil

    from samm_core.allocator import keep_freed_memory
    from samm_core.output import make_folder, make_new_folder

    keep_freed_memory()
    named = Path(time.strftime("samm-race-%Y-%m-%d-%H-%M-%S"))
    output = make_folder(args.output) if args.output else make_new_folder(named)
    folder = Path(tempfile.mkdtemp())
    try:
        results = _race(folder, args.quick)
    finally:
        shutil.rmtree(folder)
    results["memory_gib"] = round(psutil.virtual_memory().total / 2**30)
    (output / "results.json").write_text(json.dumps(results, indent=1))
    _print(results)
    print(f"All figures are in {output / 'results.json'}")
    return 0


def _print(results: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    first, cycle, drag = results["first_mask"], results["cycle"], results["drag"]
    names = list(cycle)
    table = Table("", *names, title=f"{results['machine']}, {results['memory_gib']} GiB")
    rows = {
        "first mask, s": [first[name] for name in names],
        "cycle p50, ms": [cycle[name]["total_ms"]["p50"] for name in names],
        "cycle p99, ms": [cycle[name]["total_ms"]["p99"] for name in names],
        "overhead p50, ms": [cycle[name]["overhead_ms"]["p50"] for name in names],
        "overhead p99, ms": [cycle[name]["overhead_ms"]["p99"] for name in names],
        **{
            f"masks per second and client, {n} clients": [drag[name][n]["rate"] / n for name in names]
            for n in _CLIENTS
        },
        "resident after the first mask, MiB": [results["memory_mib"][name] for name in names],
    }
    for title, values in rows.items():
        table.add_row(title, *(f"{value:.1f}" for value in values))
    Console().print(table)


def _race(folder: Path, quick: bool) -> dict:
    from samm_core.sources.sample import mni_volume

    from .measure import machine
    from .ours import Ours
    from .paper_design import PaperDesign

    clicks = 2 * _TURN if quick else 10 * _TURN
    reference = volume_of(folder, _REFERENCE, _FEW_SLICES)
    results: dict = {"machine": machine(), "quick": quick, "clicks": clicks}

    with Ours(sweep=True) as ours:
        ours.load(*reference)
        _said("time to first mask")
        spot = _spot(_BOX)
        results["first_mask"] = {ours.name: ours.first_mask(mni_volume(), spot, _said)}
        results["memory_mib"] = {ours.name: ours.memory_mib()}
    with PaperDesign() as papers:
        # All of the brain takes minutes: to see that it works, a few slices do.
        whole = volume_of(folder, 16, _FEW_SLICES) if quick else (mni_volume(), spot)
        results["first_mask"][papers.name] = papers.first_mask(*whole, _said)
        results["memory_mib"][papers.name] = papers.memory_mib()

    with Ours() as ours, PaperDesign() as papers:
        both = ours, papers
        for design in both:
            design.load(*reference)
        _said("cycles")
        results["cycle"] = in_turns(both, reference[1], clicks)
        results["profile"] = _profile(ours, reference[1], clicks)
        results["drag"] = {design.name: {} for design in both}
        for count in _CLIENTS:
            for design in both:
                _said(f"{design.name}: {count} moving pointers")
                drag = design.drag(reference[1], count, 2.0 if quick else 8.0)
                results["drag"][design.name][count] = {
                    "rate": drag.rate,
                    "moves": drag.moves,
                    "answered": len(drag.answered),
                    "least_client": min(drag.by_client) / drag.seconds,
                    "cores": drag.cores,
                    "total_ms": percentiles_of([t.total_ms for t in drag.answered]),
                    "decode_ms": percentiles_of([t.decode_ms for t in drag.answered]),
                    "overhead_ms": percentiles_of([t.overhead_ms for t in drag.answered]),
                }
        for axis, values, make in (
            ("slice size", _SIZES, lambda size: volume_of(folder, size, _FEW_SLICES)),
            ("slices", _DEPTHS, lambda depth: volume_of(folder, _REFERENCE, depth)),
        ):
            results[axis] = {}
            for value in values[:3] if quick else values:
                _said(f"{axis} {value}")
                volume = make(value)
                for design in both:
                    design.load(*volume)
                results[axis][value] = in_turns(both, volume[1], clicks // 5)
    results["points"] = _points(folder, reference, clicks // 5)
    results["trace"] = _trace(reference, 3 * clicks if quick else _TRACE_PAIRS)
    return results


def _points(folder: Path, volume: tuple[Path, Spot], clicks: int) -> dict:
    """Clicks with more and more points, which MobileSAM takes; of random weights, as its cost does not depend on them."""
    import numpy as np
    import torch

    from samm_core.models.families.mobile_sam import build_mobile_sam

    from .design import Spot
    from .ours import Ours
    from .paper_design import PaperDesign

    torch.manual_seed(0)
    checkpoint = folder / "mobile_sam.pt"
    torch.save(build_mobile_sam().state_dict(), checkpoint)
    arguments = {"model": "mobile_sam", "checkpoint": str(checkpoint), "backend": "torch"}
    chance = np.random.default_rng(0)
    results = {}
    with Ours(**arguments) as ours, PaperDesign(**arguments) as papers:
        for count in _POINTS:
            _said(f"{count} points")
            points = chance.uniform(20, _REFERENCE - 20, (count, 2)).astype(np.float32)
            spot = Spot(volume[1].index, volume[1].box, points)
            for design in (ours, papers) if count == _POINTS[0] else ():
                design.load(volume[0], spot)
            results[count] = in_turns((ours, papers), spot, clicks)
    return results


def _trace(volume: tuple[Path, Spot], prompts: int) -> dict:
    """A prompt's way to the graph and back, with the trace on and off, in turn."""
    from samm_core.latency.analysis import ratio_of_medians

    from .ours import Ours

    _said("trace on and off")
    with Ours() as on, Ours(trace=False) as off:
        for graph in (on, off):
            graph.load_untraced(*volume)
        pairs = [(on.round_trip(volume[1]), off.round_trip(volume[1])) for _ in range(prompts)]
    with_trace, without = zip(*pairs, strict=True)
    ratio, low, high = ratio_of_medians(with_trace, without)
    return {
        "on_ms": percentiles_of(with_trace),
        "off_ms": percentiles_of(without),
        "ratio": ratio,
        "interval": [low, high],
    }


def _profile(ours: Ours, spot: Spot, clicks: int) -> dict[str, dict[str, float]]:
    """What our cycle is made of, ms."""
    from samm_core.latency.cycles import PARTS
    from samm_core.latency.events import Task

    cycles = ours.cycles([spot.moved(i / 60) for i in range(clicks)])
    profile = {task.name: percentiles_of([cycle.interval_ms(task) for cycle in cycles]) for task in Task}
    for part in PARTS:
        profile[part] = percentiles_of([cycle.parts_ms[part] for cycle in cycles])
    return profile


def in_turns(designs: Sequence[Design], spot: Spot, clicks: int) -> dict[str, dict]:
    """Each design's percentiles over `clicks` prompts on an embedded slice, and all the cycles' lengths."""
    timed: dict[str, list[Timed]] = {design.name: [] for design in designs}
    for first in range(0, clicks, _TURN):
        spots = [spot.moved(i / 60) for i in range(first, min(first + _TURN, clicks))]
        for design in designs:
            # The first of a turn finds cold caches, which are the other's doing.
            design.clicks(spots[:1])
            timed[design.name] += design.clicks(spots)
    return {
        name: {
            "total_ms": percentiles_of([t.total_ms for t in mine]),
            "decode_ms": percentiles_of([t.decode_ms for t in mine]),
            "overhead_ms": percentiles_of([t.overhead_ms for t in mine]),
            "cycles_ms": [round(t.total_ms, 3) for t in mine],
        }
        for name, mine in timed.items()
    }


def percentiles_of(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99."""
    from samm_core.latency.cycles import percentiles

    p50, p99 = percentiles(values)
    return {"p50": p50, "p99": p99}


def volume_of(folder: Path, size: int, slices: int) -> tuple[Path, Spot]:
    """A volume of axial slices of the MNI brain, resized to size×size, and a box in the middle one."""
    import cv2
    import numpy as np
    import SimpleITK as sitk

    from samm_core.geometry import Plane
    from samm_core.sources.sample import mni_volume
    from samm_core.sources.volume import read_volume

    path = folder / f"{size}x{size}x{slices}.nii"
    brain = read_volume(mni_volume())
    image = brain.slice_image(Plane.AXIAL, _INDEX)[..., 0]
    if not path.exists():
        middle = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        voxels = np.repeat(middle[None], slices, axis=0)
        # Of other content each, so that no two slices share an embedding.
        voxels[:, 0, 0] = np.arange(slices) % 256
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    rows, columns = image.shape
    scale = np.array([size / columns, size / rows] * 2)
    return path, _spot(np.array(_BOX) * scale, slices // 2)


def _spot(box: Sequence[float], index: int = _INDEX) -> Spot:
    import numpy as np

    from .design import Spot

    return Spot(index, np.array(box, np.float32))


def _said(text: str) -> None:
    from .measure import console

    console.print(f"[dim]{time.strftime('%H:%M:%S')} {text}[/dim]")
