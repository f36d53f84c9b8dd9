# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""All day long: what each process holds after hours of work, how fast it answers then, and what it costs at rest."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import random
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from samm_core.errors import LaunchError, SammError
from samm_core.latency.bag import BagReader, BagWriter, Topic
from samm_core.latency.cycles import complete_cycles

from .clients import Reference, RosWorker, SlicerWorker, meanwhile
from .graph import Footprint, Graph
from .row import JUDGED_MINUTES, LEAST_CYCLES, Row, Run, percentile, slope

MIB_PER_HOUR, P99_TIMES, IDLE_PERCENT, READ_MIB = 1.0, 1.5, 1.0, 1.0
# Of about fifty slices: it is full in a minute or two, and slices come and go from then on.
CACHE_GIB = 0.1
# A growth that is judged has to be watched for so long: half of the time after the cache is full, and a little less.
_JUDGED_S = 29 * JUDGED_MINUTES
# Between two looks at the processes, and between two volumes that are loaded.
_LOOK_S, _LOAD_S = 5.0, 20.0
_FULL_S, _SAY_S = 900.0, 20.0
# A cache of slices of 2 MiB is full when the next does not fit.
_FULL_SHARE = 0.95
_TRACE_S = 600.0
# Of the bag that is read.
_MESSAGES = 200


@dataclass(frozen=True)
class _Look:
    at_s: float
    processes: dict[str, Footprint]


def endurance(run: Run, graph: Graph) -> Iterator[Row]:
    """It runs all day: a ROS client and a Slicer client scroll and prompt, volumes are loaded in turn, Slicer reconnects.

    The cache holds fifty slices of 128, so that it is full soon and slices come and go. From then on each process is
    looked at every five seconds. The slope of its memory is a straight line through the second half, with its 95 %
    confidence interval; it is judged after 20 minutes. Memory is PSS: pages that several processes have are shared out.
    A process that died has no such line, as its next life begins with little.
    p99 is of cycles on slices that were embedded, in the first and the last quarter, ten minutes at most.
    """
    with contextlib.ExitStack() as working:
        reference = Reference()
        slices = range(4, 60)
        ros = working.enter_context(RosWorker(graph, "by ROS", slices, reference, 0.1))
        slicer = working.enter_context(SlicerWorker(graph, "by Slicer", slices, reference, 0.1))
        problems: list[str] = []
        loads = working.enter_context(_reloading(graph, slicer, problems))
        looks: list[_Look] = []
        before: list[float] = []
        with run.interruptible():
            _wait_until_full(run, graph)
            first = graph.supervisor.processes
            began = time.monotonic()
            window_s = min(_TRACE_S, run.size.soak_s / 4)
            while (passed := time.monotonic() - began) < run.size.soak_s or not looks:
                looks.append(_Look(passed, graph.footprints()))
                if not before and passed >= window_s:
                    before = _cycles_ms(graph, began)
                if len(looks) % 12 == 1:
                    run.say(_progress(passed, looks[-1], len(ros.done) + len(slicer.done)))
                time.sleep(min(_LOOK_S, run.size.soak_s / 24))
        if not looks:
            return
        after = _cycles_ms(graph, time.monotonic() - window_s)
        # Before the clients end, which may take them a moment: Ctrl-C loses nothing that was measured.
        last = graph.supervisor.processes
        died = [name for name in graph.names if name not in last or last[name] != first.get(name)]
        yield Row(
            "processes that died in the soak",
            "0",
            f"{len(died)}: {', '.join(died)}" if died else "0",
            not died,
        )
        yield from _growth(looks, died)
        yield from _speed(before, after)
        problems += [*ros.problems, *slicer.problems]
        yield Row(
            "prompts, loads and reconnections that failed, and wrong masks, in the soak",
            "0",
            f"{len(problems)} and {reference.wrong} of {len(ros.done) + len(slicer.done)} prompts and {len(loads)} loads"
            + (f"; {problems[0]}" if problems else ""),
            not problems and not reference.wrong,
        )
    if not run.interrupted:
        yield from _idle(run, graph)


def _wait_until_full(run: Run, graph: Graph) -> None:
    """Until the cache is full. Raises LaunchError."""

    def share() -> float:
        status = graph.client.status
        return status.bytes_used / status.bytes_budget if status and status.bytes_budget else 0.0

    deadline = time.monotonic() + _FULL_S
    while share() < _FULL_SHARE:
        run.say(f"the cache fills: {share():.0%}")
        if time.monotonic() > deadline:
            raise LaunchError(f"The cache was not full within {_FULL_S:g} s; see {graph.log_dir}.")
        with contextlib.suppress(LaunchError):
            graph.client.wait_for(lambda: share() >= _FULL_SHARE, "the cache to be full", _SAY_S)


@contextlib.contextmanager
def _reloading(graph: Graph, slicer: SlicerWorker, problems: list[str]) -> Iterator[list[Path]]:
    """The two volumes are loaded in turn meanwhile, and Slicer leaves and comes again. The clients go on with the first.

    Yields what was loaded, as it is. problems: gets the sentence of each load and reconnection that fails.
    """
    loads: list[Path] = []
    first = graph.client.volume

    def run(over: threading.Event) -> None:
        for path in itertools.cycle(reversed(graph.volumes)):
            if over.wait(_LOAD_S * random.uniform(0.5, 1.5)):
                return
            try:
                graph.client.load(path)
                loads.append(path)
                graph.client.volume = first
                slicer.reconnect()
            except SammError as error:
                problems.append(str(error))

    with meanwhile(run):
        yield loads


def _progress(passed: float, look: _Look, prompts: int) -> str:
    held = ", ".join(f"{name} {each.pss_mib:.0f} MiB" for name, each in look.processes.items())
    return f"{passed / 60:.0f} min, {prompts} prompts: {held}"


def _cycles_ms(graph: Graph, since: float) -> list[float]:
    """Of slices that were embedded, since then."""
    cycles = complete_cycles(list(graph.client.events))
    return [
        c.total_ms
        for c in cycles
        if c.started_ns >= since * 1e9 and c.completion and c.completion.embedding_hit
    ]


def _growth(looks: list[_Look], died: Collection[str]) -> Iterator[Row]:
    half = looks[len(looks) // 2 :]
    watched_s = half[-1].at_s - half[0].at_s
    for name in half[0].processes:
        if name in died:
            continue
        mine = [(look.at_s / 3600, look.processes[name]) for look in half if name in look.processes]
        growth, within = slope([at for at, _ in mine], [each.pss_mib for _, each in mine])
        measured = f"{growth:+.1f} ± {within:.1f} MiB/h at {mine[-1][1].pss_mib:.0f} MiB"
        met: bool | None = None
        if watched_s < _JUDGED_S:
            measured += f"; watched for {watched_s / 60:.1f} min, too short to judge"
        elif growth + within <= MIB_PER_HOUR:
            met = True
        elif growth - within > MIB_PER_HOUR:
            met = False
        else:
            measured += "; not known well enough"
        yield Row(f"memory of {name} once the cache is full", f"≤ {MIB_PER_HOUR:g} MiB/h", measured, met)
        third = max(1, len(mine) // 3)
        for what, values in (
            ("descriptors", [each.descriptors for _, each in mine]),
            ("threads", [each.threads for _, each in mine]),
        ):
            first, last = max(values[:third]), max(values[-third:])
            told = f"{first} → {last}"
            if watched_s < _JUDGED_S:
                yield Row(f"{what} of {name}", "flat", f"{told}; too short to judge", None)
            else:
                yield Row(f"{what} of {name}", "flat", told, last <= first)


def _speed(before: list[float], after: list[float]) -> Iterator[Row]:
    start, end = percentile(before, 99), percentile(after, 99)
    told = f"{end:.0f} ms, {end / start:.2f}× {start:.0f} ms ({len(before)} and {len(after)} cycles)"
    enough = min(len(before), len(after)) >= LEAST_CYCLES
    yield Row(
        "p99 of a cycle at the end",
        f"≤ {P99_TIMES:g}× that at the start",
        told if enough else f"{told}; too few to judge",
        end <= P99_TIMES * start if enough else None,
    )


def _idle(run: Run, graph: Graph) -> Iterator[Row]:
    """What each process costs while nobody prompts and nothing is embedded."""
    with run.interruptible():
        graph.client.wait_for(lambda: not graph.client.status.sweeping, "the sweep to end", 120.0)
        time.sleep(min(5.0, run.size.idle_s))
        run.say("idle")
        before, began = graph.footprints(), time.monotonic()
        time.sleep(run.size.idle_s)
        after, passed = graph.footprints(), time.monotonic() - began
        for name, first in before.items():
            last = after.get(name)
            required = f"≤ {IDLE_PERCENT:g} % of a core"
            # The next life of one that died begins at nothing.
            if last is None or last.cpu_s < first.cpu_s:
                yield Row(f"{name} when idle", required, "it died meanwhile", None)
                continue
            share = 100 * (last.cpu_s - first.cpu_s) / passed
            yield Row(
                f"{name} when idle", required, f"{share:.1f} % over {passed:.0f} s", share <= IDLE_PERCENT
            )


def bag_reader(run: Run, graph: Graph) -> Iterator[Row]:
    """Reading a bag grows by nothing: a bag of 200 messages is read 1000 times in a process of its own.

    Compared is that process's memory, which it shares with no other (USS), after the first tenth of the reads and after
    the last.
    """
    bag = graph.folder / "read"
    with BagWriter(bag) as writer:
        writer.add(Topic("/text", "std_msgs/msg/String", "string data", ""))
        for number in range(_MESSAGES):
            text = f"message {number}".encode() + b"\0"
            writer.write("/text", b"\0\1\0\0" + len(text).to_bytes(4, "little") + text, number + 1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        grown_mib, descriptors, read = pool.submit(_read, bag, run.size.reads).result()
    yield Row(
        f"the bag reader after {run.size.reads} reads",
        f"no growth (≤ {READ_MIB:g} MiB)",
        f"{grown_mib:+.2f} MiB, {descriptors:+d} descriptors",
        grown_mib <= READ_MIB and descriptors <= 0 and read == _MESSAGES * run.size.reads,
    )


def _read(bag: Path, times: int) -> tuple[float, int, int]:
    """Growth in MiB and in descriptors after the first tenth of the reads, and how many messages were read."""
    process, read = psutil.Process(), 0
    held: list[tuple[float, int]] = []
    for number in range(1, times + 1):
        read += sum(1 for _ in BagReader(bag).messages())
        if number in (times // 10, times):
            gc.collect()
            held.append((process.memory_full_info().uss / 2**20, process.num_fds()))
    (first_mib, first_files), (last_mib, last_files) = held
    return last_mib - first_mib, last_files - first_files, read
