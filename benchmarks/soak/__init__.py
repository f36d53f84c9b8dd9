# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is required of samm_ros over time and in trouble, measured on this machine and put beside the requirement.

Each requirement is a generator of rows. See `./samm soak --help`.
"""

from __future__ import annotations

import argparse
import inspect
import os
import textwrap
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Graph
    from .row import Row, Run

_MINUTES = 60.0
_PAGE = Path("docs", "measure", "requirements.md")
_WIDTH = 118

# Generators of rows, in the order in which they run, by module. These share a graph.
_ON_A_GRAPH = {
    "losses": "losses",
    "overload": "overload",
    "stale": "stale",
    "recordings": "recordings",
    "reader": "endurance.bag_reader",
    "bridge": "kills.bridge",
    "kills": "kills",
}
# This one has a graph of its own.
_SOAK = "soak"
_NAMES = (*_ON_A_GRAPH, _SOAK)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes",
        type=float,
        default=_MINUTES,
        metavar="N",
        help="how long the soak itself takes; with fewer than 60 there are fewer kills and the like too (default: 60)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=_NAMES, metavar="NAME", help=f"of {', '.join(_NAMES)} (default: all)"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write the table and how it was measured to {_PAGE}"
    )


def main(args: argparse.Namespace) -> int:
    """0: nothing was missed; 1: something was, or could not be measured to its end; 130: interrupted.

    Prints the table of what was measured by then. Rows that were not judged say why, and leave it at 0.
    """
    import psutil
    from rich.markup import escape

    from samm_core.errors import LaunchError
    from samm_ros.cli.up import new_log_folder

    from ..measure import console, machine
    from .row import JUDGED_MINUTES, Run, Size

    if not 0 < args.minutes < float("inf"):
        raise LaunchError(f"--minutes has to be a number above 0, not {args.minutes:g}.")
    if args.write and args.minutes < JUDGED_MINUTES:
        raise LaunchError(
            f"--write takes a run of {JUDGED_MINUTES:g} minutes or more, not of {args.minutes:g}: give more, or leave it out."
        )
    began = time.monotonic()

    def say(text: str) -> None:
        seconds = int(time.monotonic() - began)
        console.print(f"[dim]{seconds // 60:02}:{seconds % 60:02}[/dim] {escape(text)}", highlight=False)

    def busy() -> float:
        """How many cores other programs use now."""
        return psutil.cpu_percent(1.0) * psutil.cpu_count() / 100

    run = Run(Size.of(args.minutes), say)
    rows: list[Row] = []
    try:
        with run.interruptible():
            before = busy()
            logs = new_log_folder()
            for row in measured(run, args.only or _NAMES, logs):
                rows.append(row)
                say(f"{_judged(row)}: {row.name}, {row.measured}")
    finally:
        # Hours of measuring outlive any error.
        if rows:
            after = busy()
            where = (
                f"{machine()}; other programs used {before:.1f} cores at the start and {after:.1f} at the end"
            )
            _show(where, rows)
            console.print(f"The logs of the graphs are in {logs}.")
    if not rows:
        console.print("Nothing was measured.")
        return 130 if run.interrupted else 1
    if args.write:
        if run.interrupted or args.only:
            console.print(f"{_PAGE} is left as it was: it is written by a whole run alone.")
        else:
            (Path(os.environ.get("SAMM_ROOT", ".")) / _PAGE).write_text(page(where, args.minutes, rows))
            console.print(f"{_PAGE} is written.")
    if run.interrupted:
        return 130
    return int(run.failed or any(row.met is False for row in rows))


def measured(run: Run, names: Sequence[str], logs: Path) -> Iterator[Row]:
    """The rows of these requirements, as they are measured. logs: gets a folder for each graph."""
    from samm_core.errors import SammError

    from .endurance import CACHE_GIB
    from .graph import Graph
    from .row import Row

    graphs = (
        ("graph", {}, tuple(_ON_A_GRAPH)),
        ("a-process-a-node", {"composed": False}, ("kills",)),
        ("small-cache", {"cache_gib": CACHE_GIB, "sweep": True}, (_SOAK,)),
    )
    for folder, arguments, requirements in graphs:
        wanted = [name for name in requirements if name in names]
        if not wanted or run.interrupted:
            continue
        run.say(f"a graph starts: {folder}")
        try:
            with Graph(logs / folder, **arguments) as graph:
                for name in wanted:
                    yield from _of(run, name, requirement(name)(run, graph))
        except SammError as error:
            run.failed = True
            yield Row(f"{', '.join(wanted)}: {folder}", "", f"could not be measured: {error}", None)


def requirement(name: str) -> Callable[[Run, Graph], Iterator[Row]]:
    """The generator of a requirement's rows, whose docstring says how it is measured."""
    module, _, function = _ON_A_GRAPH.get(name, "endurance").partition(".")
    return getattr(import_module(f".{module}", __name__), function or module)


def _of(run: Run, name: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; one that says why, where it cannot be measured. None once the user has had enough."""
    from samm_core.errors import SammError

    from .row import Row

    if run.interrupted:
        return
    run.say(name)
    try:
        yield from rows
    except SammError as error:
        run.failed = True
        yield Row(f"{name}, the rest of it", "", f"could not be measured: {error}", None)


def _judged(row: Row) -> str:
    return {True: "met", False: "missed", None: "not judged"}[row.met]


def _show(where: str, rows: list[Row]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..measure import console

    table = Table("requirement", "required", "measured", "", title=escape(where), title_justify="left")
    for row in rows:
        table.add_row(*map(escape, (row.name, row.required, row.measured, _judged(row))))
    console.print(table)


def page(where: str, minutes: float, rows: list[Row]) -> str:
    """The page of figures, Markdown."""

    def prose(text: str) -> str:
        return textwrap.fill(" ".join(text.split()), _WIDTH, break_long_words=False, break_on_hyphens=False)

    def line(row: Row) -> str:
        cells = row.name, row.required, row.measured, _judged(row)
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    lines = [
        "# What is required, and what was measured",
        "",
        prose(
            "samm_ros has requirements for trouble and for long use: when processes die, when more is asked than it can "
            "do, and after hours of work. This page is written by the command that measures it."
        ),
        "",
        "```",
        "./samm soak                # two hours or more; prints the table for your machine",
        "./samm soak --minutes 5    # fewer kills, a shorter soak: to see that it works",
        "```",
        "",
        prose(
            f"Figures of samm_ros {_version()}, `./samm soak --minutes {minutes:g}`, on {where}. Where other "
            "programs use the cores, times are longer than they would be."
        ),
        "",
        prose(
            "*not judged* is what this run could not tell: the reason stands beside the figure, or nothing was required."
        ),
        "",
        "| requirement | required | measured | |",
        "| --- | --- | --- | --- |",
        *map(line, rows),
        "",
        "## How each is measured",
        prose(
            "Each run starts graphs of its own, with volumes of 64 axial slices of the MNI brain. `--only` takes the names "
            "in bold."
        ),
        "",
    ]
    for name in _NAMES:
        first, *rest = (inspect.getdoc(requirement(name)) or "").split("\n\n")
        lines += [prose(f"**{name}**: {first}"), "", *(line for each in rest for line in (prose(each), ""))]
    return "\n".join(lines).rstrip() + "\n"


def _version() -> str:
    from ament_index_python.packages import get_package_share_directory

    package = Path(get_package_share_directory("samm_ros"), "package.xml")
    return xml.etree.ElementTree.parse(package).findtext("version", "")
