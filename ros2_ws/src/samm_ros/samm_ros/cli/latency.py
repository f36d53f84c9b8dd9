# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm latency`: tables, pictures and a page of one recorded session, or of two side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from samm_core.latency.analysis import Report, Row

HELP = "analyse the latency of a recorded session, or compare two"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="a recording of `samm record` or `ros2 bag record`")
    parser.add_argument("other", type=Path, nargs="?", help="another one, to compare with")
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="folder for JSON, pictures and page (default: beside the bag)",
    )


def main(args: argparse.Namespace) -> int:
    """0. Raises BagError."""
    import json

    from rich.console import Console

    from samm_core.errors import BagError
    from samm_core.latency.analysis import as_json
    from samm_core.latency.figure import write_page, write_pictures
    from samm_core.latency.session import read_session

    console = Console(soft_wrap=True)
    sessions = [read_session(path) for path in (args.bag, args.other) if path is not None]
    output = args.output or args.bag.parent / f"{args.bag.stem}-latency"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BagError(
            f"{output} cannot be made ({error.strerror}); give another folder with --output."
        ) from None
    reports = [session.report for session in sessions]
    names = [session.path.name for session in sessions]
    notes = []
    for session in sessions:
        if session.cut:
            notes.append(
                f"{session.path.name} was cut before its end; the figures are of the part that is there."
            )
        if session.unreadable:
            notes.append(f"{session.path.name} has {session.unreadable} messages that cannot be read.")
        if session.unnamed:
            notes.append(
                f"{session.path.name} does not say who published on {', '.join(session.unnamed)}: "
                "if several nodes did, the losses counted there are none."
            )
        if session.report.skewed:
            notes.append(
                f"{session.path.name} has {session.report.skewed} cycles whose stamps come from clocks that "
                "disagree; they are left out."
            )
        _print(console, session.path.name, session.report)
    if len(reports) == 2:
        _print_ratios(console, reports)
    for note in notes:
        console.print(note)
    try:
        (output / "latency.json").write_text(json.dumps([as_json(report) for report in reports], indent=1))
        write_pictures(output, reports, names)
        write_page(output / "latency.html", reports, names, notes)
    except OSError as error:
        raise BagError(
            f"{output} cannot be written ({error.strerror}); give another folder with --output."
        ) from None
    console.print(f"In {output}: latency.html, latency.json, events.png, cycles.png, and as SVG")
    return 0


def _print(console: Console, name: str, report: Report) -> None:
    from rich.table import Table

    from samm_core.latency.analysis import PERCENTILES, describe, describe_followed

    for phase in report.phases:
        title = f"{name}, {phase.name}: {describe(phase)}"
        table = Table(
            "ms", *(f"p{p}" for p in PERCENTILES), "max", "count", title=title, title_justify="left"
        )
        for row in phase.rows:
            table.add_row(*_cells(row))
        table.add_section()
        for row in phase.parts:
            table.add_row(*_cells(row), style="dim")
        console.print(table)
    table = Table("client", "begun", "applied", "refused", "superseded", "dropped", "unanswered")
    for client in report.clients:
        table.add_row(*map(str, vars(client).values()))
    console.print(table)
    lossy = [loss for loss in report.losses if loss.lost or loss.duplicates or loss.reordered]
    if lossy:
        table = Table("topic", "publisher", "sent", "delivered", "lost", "twice", "out of order")
        for loss in lossy:
            numbers = (loss.sent, loss.delivered, loss.lost, loss.duplicates, loss.reordered)
            table.add_row(loss.topic, loss.publisher, *map(str, numbers))
        console.print(table)
    else:
        console.print(f"No message was lost on {len(report.losses)} topics and publishers.")
    if report.followed:
        console.print(describe_followed(report.followed))
    if report.outliers:
        named = ", ".join(f"{cycle.cycle} ({cycle.total_ms:.0f} ms)" for cycle in report.outliers[:10])
        console.print(f"Outliers: {named}{' …' if len(report.outliers) > 10 else ''}")


def _cells(row: Row) -> tuple[str, ...]:
    return row.name, *(f"{value:.2f}" for value in (*row.percentiles, row.most)), str(row.count)


def _print_ratios(console: Console, reports: list[Report]) -> None:
    from rich.table import Table

    from samm_core.latency.analysis import ratio_of_medians
    from samm_core.latency.events import Task

    one, other = (report.stable.cycles for report in reports)
    if not one or not other:
        console.print("One of the two bags has no complete cycle: there is nothing to compare.")
        return
    table = Table(
        "median, first ÷ second", "ratio", "95 % interval", title="Side by side", title_justify="left"
    )
    values = {task.name: lambda cycle, task=task: cycle.interval_ms(task) for task in Task}
    values["cycle"] = lambda cycle: cycle.total_ms
    for name, value in values.items():
        ratio, low, high = ratio_of_medians([value(c) for c in one], [value(c) for c in other])
        table.add_row(name, f"{ratio:.2f}", f"{low:.2f} – {high:.2f}")
    console.print(table)
