# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm segment`: segments a structure of a volume, or a table of them over many volumes, without a node graph."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from samm_core.batch.table import Outcome, Row
    from samm_core.batch.work import Settings

HELP = "segment structures of a volume, or of many by a table; needs no node graph"

REPORT = "report.csv"
_EXAMPLES = """\
examples:
  samm segment liver.nii.gz --slice 42 --box 30 40 120 130 --propagate -o out
  samm segment liver.nii.gz --plane coronal --slice 90 --point 95 80 --negative 120 60 -o out
  samm segment liver.nii.gz --box3d -80 12 -40 20 90 60 -o out
  samm segment laparoscopy.png --point 640 360 -o out
  samm segment --from prompts.csv -o out

Pixels are x y, the column and the row of the slice. Millimetres are R A S. A picture needs no --slice.
The columns of the table are volume, segment, plane, slice, box, points, negative, propagate, box3d, auto, window.
"""
# Options that are columns of a table.
_OF_ONE_VOLUME = ("slice", "box", "point", "negative", "propagate", "box3d", "auto", "window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add(
        "volume",
        nargs="?",
        type=Path,
        help="NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, BMP or DICOM file or folder",
    )
    add("--from", dest="table", type=Path, metavar="TABLE", help="a CSV file with a row per structure")
    add("-o", "--output", type=Path, default=Path("samm-segment"), help="folder (default: samm-segment)")
    add(
        "--overwrite",
        action="store_true",
        help="write into a folder that holds files already, and do all again",
    )
    marks = parser.add_argument_group("what to segment")
    add = marks.add_argument
    add("--plane", default="axial", help="axial, coronal or sagittal (default: axial)")
    add("--slice", type=int, help="index of the slice in its plane, from 0; a picture has one")
    add(
        "--box",
        nargs=4,
        type=float,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="two opposite corners on the slice",
    )
    add(
        "--point", nargs=2, type=float, action="append", metavar=("X", "Y"), help="a pixel inside; repeatable"
    )
    add(
        "--negative", nargs=2, type=float, action="append", metavar=("X", "Y"), help="one outside; repeatable"
    )
    add("--propagate", action="store_true", help="carry it through the volume, both ways, until it ends")
    corners = ("R0", "A0", "S0", "R1", "A1", "S1")
    add("--box3d", nargs=6, type=float, metavar=corners, help="opposite corners of a box in space, mm")
    add("--auto", action="store_true", help="all that the slice shows, each thing a segment; --box limits it")
    add("--segment", default="segment", help="name of the segment (default: segment)")
    add("--window", default="", metavar="PRESET", help="window preset, e.g. ct_abdomen; default: automatic")
    how = parser.add_argument_group("by what, into what")
    add = how.add_argument
    add("--model", default="lite_medsam", help="model (default: lite_medsam)")
    add("--checkpoint", default="", help="the model's weights; default: where `samm weights` puts them")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to run it (default: auto)")
    add("--backend", default="auto", help="what computes it: auto, torch or openvino (default: auto)")
    add("--format", action="append", default=[], metavar="SUFFIX", help="a file beside .seg.nrrd; repeatable")
    spread = parser.add_argument_group("a table over processes")
    add = spread.add_argument
    add("--workers", type=int, default=0, metavar="N", help="processes (default: one a core, one for a GPU)")
    add(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="of a Dask cluster that runs, instead of processes here",
    )


def main(args: argparse.Namespace) -> int:
    """0: all is segmented; 1: something is not; 2: it cannot be done; 130: interrupted."""
    from rich.console import Console

    from samm_core.batch.work import SLICER_FORMAT, Settings

    if (args.volume is None) == (args.table is None):
        raise _error("Give a volume, or a table with --from; see samm segment --help.")
    suffixes = (SLICER_FORMAT, *(suffix.lstrip(".") for suffix in args.format))
    formats = tuple(dict.fromkeys(suffixes))
    settings = Settings(args.model, args.checkpoint, args.device, args.backend, formats)
    settings.check()
    console = Console(soft_wrap=True)
    return _segment_table(args, settings, console) if args.table else _segment_one(args, settings, console)


def _segment_one(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    """One volume, in this process."""
    import sys

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from samm_core.allocator import keep_freed_memory
    from samm_core.batch import work
    from samm_core.batch.table import REFUSED

    if args.workers or args.scheduler:
        raise _error("--workers and --scheduler are for tables; leave them out, or give a table with --from.")
    # Before there is a thread.
    keep_freed_memory()
    row = _row(args)
    job = work.Job(row.volume, (row,), str(args.output.absolute()), work.stem_of(row.volume))
    is_new = not args.output.exists()
    work.check_files(job, settings)
    work.claim_job_folder(job, settings, args.overwrite)
    outcomes = work.finished(job, settings)
    if outcomes is None:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(f"Reading {Path(row.volume).name}, loading {settings.model} …")

            def tell(row: Row, done: int) -> None:
                progress.update(bar, description=f"{row.segment}: {done} masks")

            outcomes = work.segment_volume(job, settings, tell)
    else:
        console.print("It was done already; --overwrite does it again.")
    if outcomes[0].status == REFUSED:
        if is_new:
            args.output.rmdir()
        print(f"samm segment: {outcomes[0].sentence}", file=sys.stderr)
        return 2
    _print_table(console, outcomes)
    names = sorted(path.name for path in args.output.iterdir())
    console.print(f"In {args.output}: {', '.join(names)}", markup=False)
    return _status(outcomes)


def _segment_table(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Many volumes, in worker processes."""
    from collections import Counter
    from dataclasses import asdict

    from samm_core.batch import cluster, table, work

    if given := [name for name in _OF_ONE_VOLUME if _is_given(getattr(args, name))]:
        raise _error(f"--{given[0]} is for one volume; with --from, give it as a column of {args.table}.")
    if args.workers < 0 or (args.workers and args.scheduler):
        raise _error(f"--workers is {args.workers}; give 1 or more, and none beside --scheduler.")
    rows, outcomes = table.read_table(args.table)
    folder = work.claim_folder(args.output, {"settings": asdict(settings)}, args.overwrite)
    waiting = []
    for job in work.jobs_of(rows, folder):
        if args.overwrite:
            work.forget(job)
        done = work.finished(job, settings)
        outcomes += done or []
        if done is None:
            waiting.append(job)
    _print_problems(console, outcomes)
    console.print(f"Volumes to do: {len(waiting)}. Rows that are done or refused: {len(outcomes)}.")
    try:
        if waiting:
            workers = args.workers or cluster.default_workers(len(waiting), settings.device)
            _do(waiting, settings, workers, args.scheduler, outcomes, console)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on from here.")
        return 130
    finally:
        told = {outcome.line for outcome in outcomes}
        outcomes += [table.Outcome.of(row, table.NOT_DONE) for row in rows if row.line not in told]
        table.write_report(folder / REPORT, outcomes)
    counts = Counter(outcome.status for outcome in outcomes)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    console.print(f"In {folder}: {REPORT}, and a folder per volume", markup=False)
    return _status(outcomes)


def _do(
    jobs: list, settings: Settings, workers: int, scheduler: str, outcomes: list[Outcome], console: Console
) -> None:
    """Do the jobs, and add what comes of each as it ends."""
    from rich.progress import Progress

    from samm_core.batch import cluster

    connected = cluster.workers_of(scheduler) if scheduler else cluster.local_workers(workers)
    with connected as client, Progress(console=console, transient=True) as progress:
        bar = progress.add_task("volumes", total=len(jobs))

        def tell(event: Mapping[str, object]) -> None:
            name = Path(str(event["volume"])).name
            progress.update(bar, description=f"{name}, {event['segment']}: {event['slices']} masks")

        for job, of_job in cluster.segment_all(client, jobs, settings, tell):
            outcomes += of_job
            progress.advance(bar)
            done = sum(outcome.status == "done" for outcome in of_job)
            console.print(f"{Path(job.volume).name}: {done} of {len(of_job)} segments", markup=False)
            _print_problems(console, of_job)


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != ""


def _print_problems(console: Console, outcomes: Iterable[Outcome]) -> None:
    for each in outcomes:
        if each.status != "done":
            console.print(f"Line {each.line}: {each.sentence}", markup=False, highlight=False)


def _row(args: argparse.Namespace) -> Row:
    """What the options say. Raises PromptError."""
    from samm_core.batch.table import Row

    def pairs(given: list | None) -> tuple:
        return tuple(map(tuple, given or ()))

    return Row(
        volume=str(args.volume.resolve()),
        segment=args.segment,
        plane=args.plane,
        slice_index=args.slice,
        box_xyxy=tuple(args.box) if args.box else None,
        points_xy=pairs(args.point),
        negative_xy=pairs(args.negative),
        propagate=args.propagate,
        box_ras=tuple(args.box3d) if args.box3d else None,
        auto=args.auto,
        window=args.window,
    )


def _print_table(console: Console, outcomes: Iterable[Outcome]) -> None:
    from rich.table import Table

    shown = Table("segment")
    for name in "voxels", "ml", "seconds":
        shown.add_column(name, justify="right")
    shown.add_column("")
    for each in outcomes:
        cells = str(each.voxels), f"{each.ml:.1f}", f"{each.seconds:.1f}", each.sentence or each.status
        shown.add_row(each.segment, *cells)
    console.print(shown)


def _status(outcomes: Iterable[Outcome]) -> int:
    return 0 if all(outcome.status == "done" for outcome in outcomes) else 1


def _error(sentence: str) -> Exception:
    from samm_core.errors import PromptError

    return PromptError(sentence)
