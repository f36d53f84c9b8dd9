# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A graph's whole-volume tasks: how long a slice takes, and how long prompts of others wait meanwhile.

    python -m benchmarks.tasks

Both are measured in one run, on the sample volume, slices embedded and not.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
import uuid
from pathlib import Path

from samm_core.cycle.request import Answer
from samm_core.geometry import Plane
from samm_core.latency.cycles import complete_cycles
from samm_core.prompts import Prompt, pixel_box
from samm_core.sources.sample import mni_volume
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import launch

from . import set_roots

# The brain stem of the sample volume, on its middle coronal slice.
MARKED, REACH = 100, 10
BOX = (82.0, 8.0, 116.0, 75.0)
ALONE = 60


def main() -> int:
    """0. Prints the table."""
    namespace = f"tasks_{uuid.uuid4().hex[:8]}"
    set_roots()
    os.environ.update(environment())
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false"}
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(arguments, Path(folder)),
        GraphClient(namespace, "task") as task,
        GraphClient(namespace, "prompts") as prompts,
    ):
        task.load(mni_volume())
        prompts.prompt(box(), "prompted")
        alone = [prompted(prompts, shift) for shift in range(ALONE)]
        first, slices, seconds = propagated(task)
        print(f"first mask after {first * 1e3:.0f} ms")
        print(f"{slices} slices not embedded: {seconds / slices * 1e3:.0f} ms per slice")
        first, slices, seconds = propagated(task)
        decoder = statistics.median(decoding(prompts))
        print(
            f"{slices} slices embedded: {seconds / slices * 1e3:.0f} ms per slice, the decoder {decoder:.0f} ms a prompt"
        )
        beside: list[float] = []
        while len(beside) < ALONE:
            beside += prompted_during(task, prompts)
        for name, waits in (("alone", alone), ("while a task runs", beside)):
            p99 = statistics.quantiles(waits, n=100)[98]
            print(f"a prompt {name}: p50 {statistics.median(waits) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms")
        print(f"ratio of the medians: {statistics.median(beside) / statistics.median(alone):.2f}")
    return 0


def box(shift: float = 0.0) -> Prompt:
    x0, y0, x1, y1 = BOX
    return pixel_box(Plane.CORONAL, MARKED, x0, y0, x1, y1 + shift % 2)


def prompted(client: GraphClient, shift: int) -> float:
    """Seconds from a prompt to its mask."""
    started = time.monotonic()
    client.prompt(box(shift), "prompted")
    return time.monotonic() - started


def propagated(client: GraphClient) -> tuple[float, int, float]:
    """Seconds to the first mask, slices, and seconds of the whole."""
    began = time.monotonic()
    came: list[float] = []
    result = client.propagate(
        [box()],
        "propagated",
        MARKED - REACH,
        MARKED + REACH,
        on_slice=lambda answer: came.append(time.monotonic() - began),
    )
    return came[0], result.slices, result.seconds


def prompted_during(task: GraphClient, prompts: GraphClient) -> list[float]:
    """Seconds that each of as many prompts waited as one task left time for."""
    runs, waits = threading.Event(), []
    ended = threading.Event()

    def run() -> None:
        def on_slice(answer: Answer) -> None:
            runs.set()

        task.propagate([box()], "propagated", MARKED - REACH, MARKED + REACH, on_slice=on_slice)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    runs.wait(60)
    while not ended.is_set():
        waited = prompted(prompts, len(waits))
        if not ended.is_set():
            waits.append(waited)
            # As a user pauses; without it the task would wait for prompts alone.
            time.sleep(0.1)
    thread.join()
    return waits


def decoding(client: GraphClient) -> list[float]:
    """Milliseconds that the decoder took for each prompt of this client."""
    return [
        c.parts_ms["decode"]
        for c in complete_cycles(list(client.events))
        if c.completion and c.client_id == "prompts"
    ]


if __name__ == "__main__":
    raise SystemExit(main())
