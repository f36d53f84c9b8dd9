# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a session: the paper's event plot (its Figure 4) and the distribution of the cycles; one HTML page with all."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from .analysis import PERCENTILES, Report, describe, describe_followed  # noqa: E402
from .cycles import Cycle  # noqa: E402
from .events import Task  # noqa: E402

# Okabe and Ito's colours, told apart by everybody.
_COLORS = ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
_SHOWN_CYCLES, _ZOOMED_CYCLES = 60, 3


def event_plot(report: Report) -> plt.Figure:
    """Five rows of events over time, then the beginning and a stretch of the stable phase from near."""
    cycles = report.cycles
    figure, (above, left, right) = _axes()
    shown = cycles[:_SHOWN_CYCLES]
    _events(above, shown, f"The first {len(shown)} of {len(cycles)} cycles")
    for cycle in shown:
        above.axvspan(*_seconds(cycle, shown[0]), color="0.92", zorder=0)
    _events(left, cycles[:_ZOOMED_CYCLES], "From near: the beginning")
    stable = report.stable.cycles
    middle = max(0, len(stable) // 2 - _ZOOMED_CYCLES // 2)
    _events(right, stable[middle : middle + _ZOOMED_CYCLES], "From near: the stable phase")
    right.set_yticklabels([])
    return figure


def distribution_plot(reports: Sequence[Report], names: Sequence[str]) -> plt.Figure:
    """The stable phase's cycles, as a distribution, and what they are made of."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for report, name, color in zip(reports, names, ("#0072B2", "#D55E00"), strict=False):
        totals = np.sort([cycle.total_ms for cycle in report.stable.cycles])
        if totals.size:
            left.step(
                totals, np.arange(1, totals.size + 1) / totals.size, where="post", color=color, label=name
            )
            left.axvline(float(np.median(totals)), color=color, linestyle=":", linewidth=1)
    left.set(
        xlabel="cycle, ms", ylabel="share of the cycles", title="Cycles of the stable phase (dotted: median)"
    )
    left.set_xscale("log")
    left.legend()
    height = 0.8 / len(reports)
    for number, report in enumerate(reports):
        begin = 0.0
        for task, color in zip(Task, _COLORS, strict=True):
            row = next(row for row in report.stable.rows if row.name == task.name)
            width = row.percentiles[0] if row.count else 0.0
            right.barh(
                number, width, height, left=begin, color=color, label=task.name if not number else None
            )
            begin += width
    right.set(yticks=range(len(names)), yticklabels=list(names), xlabel="ms", title="Median of each task")
    right.invert_yaxis()
    figure.legend(
        *right.get_legend_handles_labels(), ncols=len(Task), loc="outside lower right", fontsize="small"
    )
    return figure


def write_pictures(folder: Path, reports: Sequence[Report], names: Sequence[str]) -> list[Path]:
    """PNG and SVG of each picture; the files."""
    written = []
    figures = {"events": event_plot(reports[0]), "cycles": distribution_plot(reports, names)}
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            written.append(folder / f"{name}.{suffix}")
            figure.savefig(written[-1], dpi=140)
        plt.close(figure)
    return written


def write_page(path: Path, reports: Sequence[Report], names: Sequence[str], notes: Sequence[str]) -> None:
    """One HTML page that needs nothing else: pictures inside, tables, no script."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Latency</title><style>body{font:16px sans-serif;margin:2em auto;max-width:1100px}"
    ]
    parts.append(
        "table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:.2em .8em;text-align:right}"
    )
    parts.append(
        "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}</style><h1>Latency</h1>"
    )
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    for report, name in zip(reports, names, strict=True):
        parts.append(f"<h2>{html.escape(name)}</h2>")
        for phase in report.phases:
            parts.append(f"<h3>{phase.name}: {describe(phase)}</h3>")
            head = "".join(f"<th>p{p}</th>" for p in PERCENTILES)
            parts.append(f"<table><tr><th>ms</th>{head}<th>max</th><th>count</th></tr>")
            for row in (*phase.rows, *phase.parts):
                cells = "".join(f"<td>{value:.2f}</td>" for value in (*row.percentiles, row.most))
                parts.append(f"<tr><td>{row.name}</td>{cells}<td>{row.count}</td></tr>")
            parts.append("</table>")
        if report.followed:
            parts.append(f"<p>{describe_followed(report.followed)}.</p>")
        parts.append(_svg(event_plot(report)))
    parts.append(_svg(distribution_plot(reports, names)))
    path.write_text("\n".join(parts))


def _axes() -> tuple[plt.Figure, tuple[plt.Axes, plt.Axes, plt.Axes]]:
    figure = plt.figure(figsize=(11, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.2, 1))
    return figure, (
        figure.add_subplot(grid[0, :]),
        figure.add_subplot(grid[1, 0]),
        figure.add_subplot(grid[1, 1]),
    )


def _events(axes: plt.Axes, cycles: Sequence[Cycle], title: str) -> None:
    for row, (task, color) in enumerate(zip(Task, _COLORS, strict=True)):
        stamps = [(cycle.ended_ns[task] - cycles[0].started_ns) / 1e9 for cycle in cycles]
        axes.eventplot(stamps, lineoffsets=-row, linelengths=0.7, colors=color, linewidths=1.6)
    if len(cycles) <= _ZOOMED_CYCLES:
        for cycle in cycles:
            ends = [(cycle.ended_ns[task] - cycles[0].started_ns) / 1e9 for task in Task]
            axes.plot(ends, [-row for row in range(len(Task))], color="0.6", linewidth=0.8, zorder=0)
    axes.set_yticks([-row for row in range(len(Task))], [task.name for task in Task])
    axes.set(xlabel="seconds", title=title)


def _seconds(cycle: Cycle, first: Cycle) -> tuple[float, float]:
    return (cycle.started_ns - first.started_ns) / 1e9, (
        cycle.ended_ns[Task.APL_MSK] - first.started_ns
    ) / 1e9


def _svg(figure: plt.Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
