# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random times, to every process of the graph in turn, while two clients work."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from samm_core.errors import LaunchError, SammError

from .clients import Reference, RosWorker, SlicerWorker, Worker
from .graph import Footprint, Graph, left_files
from .row import Row, Run, count, percentile

RECOVERED_S, GIVEN_UP_S = 5.0, 300.0
RECONNECTED_S = 1.0
_ROS_SLICES, _SLICER_SLICES, _RECONNECTING_SLICES = (10, 14), (30, 34), (40, 44)
# Between a recovery and the next kill, at random up to so much.
_BETWEEN_S = 1.0
# What has loaded volumes: it is back when it says so.
_SERVERS = ("samm_server", "embedding")
# A thread of Fast DDS or of ZeroMQ may be just starting or ending.
_TOLERANCE = 2


@dataclass
class _Kills:
    """What was seen. seconds: by process, from each kill to both clients' masks; infinite: they never came.

    cpu_s: by process, the processor time that its next life had used by then, which tells a slow start from a busy machine.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lost: int = 0
    problems: list[str] = field(default_factory=list)


def kills(run: Run, graph: Graph, names: Sequence[str] = ()) -> Iterator[Row]:
    """Any process may die: it is killed while two clients prompt, one by ROS and one as 3D Slicer does.

    A kill is recovered from when the process runs again and each client has the mask of a prompt that it began after the
    kill. A mask is right when it equals the first one of the same prompt, or has a Dice of 0.998 with it, as the encoder
    adds up in another order on another number of cores. After each recovery the clients rest, and what is applied is
    saved and compared with the masks of which the graph had said that they are applied. Files in
    shared memory are left when no process has them any more, while the graph still runs.
    """
    names = names or graph.names
    how = "one process a side" if graph.composed else "one process a node"
    seen, reference = _Kills(), Reference()
    with _workers(graph, reference) as workers:
        _wait_for_answers(graph, workers, time.monotonic())
        before = _resting(graph, workers)
        with run.interruptible():
            for number, name in zip(range(max(run.size.kills, len(names))), itertools.cycle(names)):
                time.sleep(random.uniform(0.0, _BETWEEN_S))
                try:
                    taken = _kill(graph, workers, name, seen)
                    run.say(f"kill {number + 1}, {name}: {taken:.1f} s")
                    seen.lost += _lost(graph, workers)
                except SammError as error:
                    # The next kill would tell nothing.
                    seen.problems.append(f"{name}: {error}")
                    break
        after = _resting(graph, workers)
        left = left_files(graph.seen_files)
        seen.problems += [problem for worker in workers for problem in worker.problems]
    if not seen.seconds:
        if seen.problems:
            raise LaunchError(seen.problems[0])
        return
    yield from _rows(seen, reference, how)
    grown = {name: after[name] for name in before if name in after}
    descriptors, of = max((each.descriptors - before[name].descriptors, name) for name, each in grown.items())
    threads, whose = max((each.threads - before[name].threads, name) for name, each in grown.items())
    yield Row(
        f"crashes leave nothing behind, {how}: descriptors and threads",
        "as before the kills",
        f"descriptors {descriptors:+d} at most ({of}), threads {threads:+d} ({whose})",
        max(descriptors, threads) <= _TOLERANCE,
    )
    yield Row(
        f"crashes leave nothing behind, {how}: shared memory",
        "0 files",
        f"{len(left)} of {len(graph.seen_files)} files are left" + (f", as {left[0]}" if left else ""),
        not left,
    )


def _rows(seen: _Kills, reference: Reference, how: str) -> Iterator[Row]:
    every = [seconds for each in seen.seconds.values() for seconds in each]
    recovered = sum(seconds < float("inf") for seconds in every)
    yield Row(
        f"any process may die, {how}: recovered", "all", count(recovered, len(every)), recovered == len(every)
    )
    for name, seconds in seen.seconds.items():
        yield Row(
            f"back after a kill of {name}, {how}",
            f"≤ {RECOVERED_S:g} s",
            f"{sum(s <= RECOVERED_S for s in seconds)} of {len(seconds)}; {_seconds(seconds)}; "
            f"processor time of its start {percentile(seen.cpu_s[name], 50):.1f} s",
            max(seconds) <= RECOVERED_S,
        )
    masks = reference.equal + reference.alike + reference.wrong
    yield Row(
        f"masks before and after kills, {how}",
        "0 wrong",
        f"{reference.wrong} wrong of {masks}; {reference.equal} equal bit by bit",
        reference.wrong == 0,
    )
    refused = f"; refused: {seen.problems[0]}" if seen.problems else ""
    yield Row(
        f"applied masks that a kill lost, {how}",
        "0",
        f"{seen.lost}{refused}",
        not (seen.lost or seen.problems),
    )


def _seconds(seconds: Sequence[float]) -> str:
    """p50 and the most; of those that recovered, where one did not."""
    back = [each for each in seconds if each < float("inf")]
    told = f"p50 {percentile(back, 50):.1f}, most {max(back):.1f} s" if back else ""
    return told if len(back) == len(seconds) else ", ".join(filter(None, (told, "and never")))


@contextlib.contextmanager
def _workers(graph: Graph, reference: Reference) -> Iterator[tuple[Worker, ...]]:
    with (
        RosWorker(graph, "by ROS", _ROS_SLICES, reference) as ros,
        SlicerWorker(graph, "by Slicer", _SLICER_SLICES, reference) as slicer,
    ):
        yield ros, slicer


def _kill(graph: Graph, workers: Sequence[Worker], name: str, seen: _Kills) -> float:
    """Seconds from the kill to the recovery. Raises SammError where there is none."""
    graph.note_files()
    former = graph.supervisor.processes.get(name)
    stamp = time.time()
    began = time.monotonic()
    graph.supervisor.kill(name, signal.SIGKILL)
    seen.seconds[name].append(float("inf"))
    _wait_for_answers(graph, workers, began)
    _wait_for_process(graph, name, former, stamp, began)
    seen.seconds[name][-1] = time.monotonic() - began
    if footprint := graph.footprints().get(name):
        seen.cpu_s[name].append(footprint.cpu_s)
    return seen.seconds[name][-1]


def _wait_for_answers(graph: Graph, workers: Sequence[Worker], began: float) -> None:
    while not all(worker.has_answer_since(began) for worker in workers):
        graph.supervisor.check()
        if time.monotonic() - began > GIVEN_UP_S:
            late = " and ".join(each.name for each in workers if not each.has_answer_since(began))
            raise LaunchError(f"The client {late} got no mask for {GIVEN_UP_S:g} s; see {graph.log_dir}.")
        time.sleep(0.01)


def _wait_for_process(graph: Graph, name: str, former: int | None, stamp: float, began: float) -> None:
    def is_back() -> bool:
        status = graph.client.status
        told = status is not None and status.header.stamp.sec + status.header.stamp.nanosec / 1e9 > stamp
        is_told = name not in _SERVERS or (told and bool(status.volume_uid))
        return graph.supervisor.processes.get(name, former) != former and is_told

    while not is_back():
        graph.supervisor.check()
        if time.monotonic() - began > GIVEN_UP_S:
            raise LaunchError(f"{name} was not back for {GIVEN_UP_S:g} s.")
        time.sleep(0.01)


def _resting(graph: Graph, workers: Sequence[Worker]) -> dict[str, Footprint]:
    """The footprints of what runs while nobody prompts."""
    with contextlib.ExitStack() as rest:
        for worker in workers:
            rest.enter_context(worker.turn)
        with contextlib.suppress(LaunchError):
            graph.wait_for_processes()
        time.sleep(1.0)
        return graph.footprints()


def _lost(graph: Graph, workers: Sequence[Worker]) -> int:
    """How many of the slices do not show the newest mask that was applied there."""
    with contextlib.ExitStack() as rest:
        for worker in workers:
            rest.enter_context(worker.turn)
        graph.wait_for_processes()
        graph.wait_until_settled()
        labels = graph.labels()
        return sum(
            not np.array_equal(labels[index] > 0, mask)
            for worker in workers
            for index, mask in worker.applied.items()
        )


def bridge(run: Run, graph: Graph) -> Iterator[Row]:
    """The bridge survives either side: it is killed, and then the client is started anew, again and again.

    Seconds run from the moment that the port takes connections to the bridge's welcome, and for a new client from its
    start.
    """
    waits: list[float] = []
    starts: list[float] = []
    welcomes: list[float] = []
    reference = Reference()
    with SlicerWorker(graph, "reconnecting", _RECONNECTING_SLICES, reference) as slicer, run.interruptible():
        _wait_for_answers(graph, [slicer], time.monotonic())
        for number in range(run.size.bridge_restarts):
            graph.note_files()
            former = graph.supervisor.processes.get("slicer_bridge")
            before, began = len(slicer.connected), time.monotonic()
            graph.supervisor.kill("slicer_bridge", signal.SIGKILL)
            listens = _listens_at(graph, former, began)
            _wait_for_answers(graph, [slicer], began)
            if len(slicer.connected) > before:
                starts.append(listens - began)
                waits.append(max(0.0, slicer.connected[before] - listens))
            welcomes.append(slicer.reconnect())
            run.say(f"bridge {number + 1}: listens after {listens - began:.1f} s")
    for name, seconds in (("bridge is killed", waits), ("client is started anew", welcomes)):
        p95 = percentile(seconds, 95)
        yield Row(
            f"connected again when the {name}, p95",
            f"≤ {RECONNECTED_S:g} s",
            f"{p95:.2f} s ({len(seconds)} times)" if seconds else "none was measured",
            p95 <= RECONNECTED_S if seconds else None,
        )
    if starts:
        yield Row(
            "before that, the bridge's own start",
            "",
            f"p50 {percentile(starts, 50):.1f}, most {max(starts):.1f} s",
            None,
        )


def _listens_at(graph: Graph, former: int | None, began: float) -> float:
    """When the port of the bridge's next life takes connections, CLOCK_MONOTONIC. Raises LaunchError."""
    while True:
        graph.supervisor.check()
        # A process that is being killed still takes connections for a moment.
        if graph.supervisor.processes.get("slicer_bridge", former) != former:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", graph.port), 1.0):
                return time.monotonic()
        if time.monotonic() - began > GIVEN_UP_S:
            raise LaunchError(f"The bridge did not listen for {GIVEN_UP_S:g} s; see {graph.log_dir}.")
        time.sleep(0.005)
