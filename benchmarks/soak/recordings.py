# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm record` killed while it records: how much of the end is lost."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from samm_core.errors import LaunchError
from samm_core.latency.bag import BagReader

from .clients import meanwhile
from .graph import Graph
from .row import Row, Run, percentile
from .stale import SPOT

LOST_MS = 250.0
_RATE_HZ = 100.0
_START_S = 60.0


def recordings(run: Run, graph: Graph) -> Iterator[Row]:
    """A recording survives SIGKILL of `samm record`, at random times, while 100 prompts a second are recorded.

    What is lost is the time from the sending of the newest prompt that the bag has to the kill. The prompts are 10 ms
    apart, which is in the figure too.
    """
    lost_ms: list[float] = []
    with prompting(graph), run.interruptible():
        for number in range(run.size.recordings):
            bag = graph.folder / f"bag-{number}"
            lost_ms.append(_kill(graph, bag))
            run.say(f"recording {number + 1}: {lost_ms[-1]:.0f} ms lost")
    within = sum(ms <= LOST_MS for ms in lost_ms)
    yield Row(
        "a recording killed while it is written",
        f"all but the last {LOST_MS:g} ms",
        f"{within} of {len(lost_ms)}; p50 {percentile(lost_ms, 50):.0f}, most {max(lost_ms):.0f} ms"
        if lost_ms
        else "none was measured",
        within == len(lost_ms) if lost_ms else None,
    )


@contextlib.contextmanager
def recorder(graph: Graph, bag: Path) -> Iterator[subprocess.Popen]:
    """`samm record`, which has begun to write; killed at the end. Raises LaunchError when it does not begin."""
    command = [sys.executable, "-m", "samm_ros.cli", "record", str(bag), "--namespace", graph.namespace]
    with open(graph.log_dir / "record.log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + _START_S
        file = bag / f"{bag.name}_0.mcap"
        at_first = 0
        while not at_first or file.stat().st_size == at_first:
            if process.poll() is not None or time.monotonic() > deadline:
                raise LaunchError(f"samm record did not begin; see {log.name}.")
            at_first = at_first or (file.stat().st_size if file.exists() else 0)
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _kill(graph: Graph, bag: Path) -> float:
    with recorder(graph, bag) as process:
        deadline = time.monotonic() + _START_S
        # Until then, DDS has not discovered who prompts.
        while not _recorded_ns(graph, bag):
            if time.monotonic() > deadline:
                raise LaunchError(f"samm record heard no prompt within {_START_S:g} s.")
            time.sleep(0.05)
        time.sleep(random.uniform(0.5, 1.5))
        killed_ns = time.monotonic_ns()
        process.kill()
    return (killed_ns - _recorded_ns(graph, bag)) / 1e6


def _recorded_ns(graph: Graph, bag: Path) -> int:
    """When the newest prompt that the bag has was sent, ns of CLOCK_MONOTONIC; 0: it has none."""
    sent_ns = graph.pointer.sent_ns
    recorded = (each.message.cycle for each in BagReader(bag).messages("prompts"))
    return max((sent_ns[cycle] for cycle in recorded if cycle in sent_ns), default=0)


@contextlib.contextmanager
def prompting(graph: Graph) -> Iterator[None]:
    """100 prompts a second meanwhile."""

    def send(over: threading.Event) -> None:
        while not over.wait(1 / _RATE_HZ):
            graph.pointer.send(SPOT, "recorded")

    with meanwhile(send):
        yield
