# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a demo run leaves behind: the montage, the cycles as JSON, the table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from samm_core.cycle.request import Answer
from samm_core.latency.cycles import Cycle, percentiles
from samm_core.latency.events import Task
from samm_core.mask_codec import decode_mask
from samm_core.prompts import Prompt
from samm_core.sources.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The paper's: 352×352×240 voxels, RTX 3090 (arXiv 2304.05622, section 3).
PAPER_FIRST_MASK_S = 162.9
PAPER_CYCLE_S = 0.612
MARGIN_PX = 6


@dataclass(frozen=True, eq=False)
class Shot:
    """One prompt of the session and the last mask that answered it."""

    segment: str
    prompt: Prompt
    slice_index: int
    answer: Answer

    @property
    def mask(self) -> np.ndarray:
        return decode_mask(self.answer.data, self.answer.shape, self.answer.encoding)


@dataclass(frozen=True)
class Summary:
    """The figures of a session; seconds, milliseconds, slices a second."""

    model: str
    device: str
    volume: str
    masks: int
    empty_masks: int
    load_s: float
    first_mask_s: float
    slices_per_second: float
    cold: Sequence[Cycle]
    warm: Sequence[Cycle]


def write_montage(path: Path, volume: Volume, shots: Sequence[Shot]) -> None:
    """A PNG of every shot's slice, upright, with the mask's outline and the prompt."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    columns = min(6, len(shots))
    rows = math.ceil(len(shots) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(2.6 * columns, 2.9 * rows), squeeze=False, facecolor="black"
    )
    for axis in axes.flat:
        axis.axis("off")
    segments = list(dict.fromkeys(shot.segment for shot in shots))
    for axis, shot in zip(axes.flat, shots, strict=False):
        geometry, plane = volume.geometry, shot.prompt.plane
        sx, sy = geometry.spacing_xy(plane)
        color = pyplot.get_cmap("tab10")(segments.index(shot.segment) % 10)
        picture = geometry.show_upright(volume.slice_image(plane, shot.slice_index), plane)
        axis.imshow(picture, aspect=sy / sx)
        _look_at(axis, picture)
        upright = geometry.show_upright(shot.mask, plane)
        if upright.any():
            axis.contour(upright, [0.5], colors=[color], linewidths=1.4)
        index, pixels = shot.prompt.on_slice(geometry)
        if pixels.has_box:
            corners = geometry.upright_xy(pixels.box_xyxy.reshape(2, 2), plane)
            (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="yellow", lw=0.8, ls="--"))
        if pixels.has_points:
            for (x, y), label in zip(
                geometry.upright_xy(pixels.points_xy, plane), pixels.labels, strict=True
            ):
                axis.plot(x, y, "+" if label else "x", color="lime" if label else "red", ms=8)
        axis.set_title(
            f"{shot.segment}\n{plane.name.lower()} {index}, score {shot.answer.score:.2f}",
            color="white",
            fontsize=8,
        )
    figure.suptitle(f"{volume.name}: mask (solid) and prompt (dashed)", color="white")
    figure.tight_layout()
    figure.savefig(path, dpi=110, facecolor="black")
    pyplot.close(figure)


def _look_at(axis: Axes, picture: np.ndarray) -> None:
    """Leave out the dark margin around the anatomy."""
    rows, columns = (np.flatnonzero(picture.any(axis=(1 - side, 2))) for side in (0, 1))
    if rows.size:
        axis.set_xlim(columns[0] - MARGIN_PX, columns[-1] + MARGIN_PX)
        axis.set_ylim(rows[-1] + MARGIN_PX, rows[0] - MARGIN_PX)


def write_cycles(path: Path, summary: Summary, shots: Sequence[Shot]) -> None:
    """The summary, every shot and every cycle, as JSON."""
    cold = {cycle.cycle for cycle in summary.cold}
    document = {
        "volume": summary.volume,
        "model": summary.model,
        "device": summary.device,
        "load_s": summary.load_s,
        "first_mask_s": summary.first_mask_s,
        "slices_per_second": summary.slices_per_second,
        "masks": [
            {
                "segment": shot.segment,
                "plane": shot.prompt.plane.name.lower(),
                "slice": shot.slice_index,
                "pixels": int(shot.mask.sum()),
                "score": shot.answer.score,
            }
            for shot in shots
        ],
        "cycles": [
            {
                "cycle": cycle.cycle,
                "plane": cycle.image.key.plane.name.lower(),
                "slice": cycle.image.key.index,
                "slice_was_embedded": cycle.cycle not in cold,
                "started_ns": cycle.started_ns,
                "ended_ns": {task.name: ended for task, ended in cycle.ended_ns.items()},
                "total_ms": cycle.total_ms,
            }
            for cycle in sorted([*summary.cold, *summary.warm], key=lambda c: c.started_ns)
        ],
    }
    path.write_text(json.dumps(document, indent=1))


def print_table(console: Console, summary: Summary) -> None:
    """The session in a few lines, beside the paper's figures."""
    table = Table(title=f"{summary.volume}, {summary.model} on {summary.device}", title_justify="left")
    table.add_column("")
    table.add_column("p50", justify="right")
    table.add_column("p99", justify="right")
    table.add_column("")
    first = summary.first_mask_s
    table.add_row(
        "first mask after load",
        f"{first:.2f} s",
        "",
        f"the paper {PAPER_FIRST_MASK_S} s: {PAPER_FIRST_MASK_S / first:.0f}×",
    )
    _add_cycles(table, "cycle, slice embedded", summary.warm, PAPER_CYCLE_S)
    _add_cycles(table, "cycle, slice new", summary.cold, None)
    for task in Task:
        p50, p99 = percentiles([cycle.interval_ms(task) for cycle in summary.warm])
        table.add_row(f"  {task.name}", f"{p50:.1f} ms", f"{p99:.1f} ms", "")
    table.add_row("embedding", f"{summary.slices_per_second:.2f} slices/s", "", "")
    table.add_row(
        "masks", str(summary.masks), "", f"{summary.empty_masks} empty" if summary.empty_masks else ""
    )
    console.print(table)


def _add_cycles(table: Table, name: str, cycles: Sequence[Cycle], paper_s: float | None) -> None:
    p50, p99 = percentiles([cycle.total_ms for cycle in cycles])
    beside = f"{len(cycles)} cycles"
    if paper_s and cycles:
        beside += f"; the paper {paper_s * 1e3:.0f} ms: {paper_s * 1e3 / p50:.1f}×"
    table.add_row(name, f"{p50:.0f} ms", f"{p99:.0f} ms", beside)
