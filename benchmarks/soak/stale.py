# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A server that does not answer: how soon the graph says that what is shown is stale."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from samm_core.errors import LaunchError

from ..design import MOUSE_HZ, Spot
from .clients import meanwhile
from .graph import Graph
from .row import Row, Run

STALE_S, GIVEN_UP_S = 0.5, 10.0
_BACK_S = 120.0
SPOT = Spot(50, np.array((70, 80, 130, 140), np.float32))
_CLIENT = "stale"
_SIGNALS = {"stopped": signal.SIGSTOP, "killed": signal.SIGKILL}


def stale(run: Run, graph: Graph, signals: Sequence[str] = tuple(_SIGNALS)) -> Iterator[Row]:
    """A stale mask looks stale: the server is stopped by SIGSTOP, and killed by SIGKILL, before one prompt and in a drag.

    Seconds run from the prompt, or in a drag from the signal, until `segmentation_status` says `stale`. What the clients
    draw by that is theirs.
    """
    name = "samm_server" if graph.composed else "cpl_inf"
    with run.interruptible():
        for how in signals:
            for where, drags in (("before one prompt", False), ("in a drag", True)):
                seconds = []
                for _ in range(run.size.stops):
                    seconds.append(_until_stale(graph, name, _SIGNALS[how], drags))
                    run.say(f"server {how} {where}: stale after {seconds[-1]:.2f} s")
                worst = max(seconds)
                told = f"{worst:.2f} s at most" if worst < GIVEN_UP_S else f"not within {GIVEN_UP_S:g} s"
                yield Row(
                    f"stale mask looks stale, the server {how} {where}",
                    f"≤ {STALE_S:g} s",
                    f"{told} ({len(seconds)} times)",
                    worst <= STALE_S,
                )


def _until_stale(graph: Graph, name: str, number: int, drags: bool) -> float:
    pointer, client = graph.pointer, graph.client
    graph.wait_for_processes()
    pointer.send_and_wait(SPOT, _CLIENT)
    client.wait_for(lambda: not client.segmentation.stale, "nothing to be stale", _BACK_S)
    graph.note_files()
    with contextlib.ExitStack() as dragging:
        if drags:
            dragging.enter_context(meanwhile(functools.partial(_drag, graph)))
            time.sleep(0.5)
            client.wait_for(lambda: not client.segmentation.stale, "nothing to be stale", _BACK_S)
        graph.supervisor.kill(name, number)
        began = time.monotonic()
        if not drags:
            pointer.send(SPOT, _CLIENT)
        try:
            client.wait_for(lambda: client.segmentation.stale, "it to be stale", GIVEN_UP_S)
            taken = time.monotonic() - began
        except LaunchError:
            taken = GIVEN_UP_S
    if number == signal.SIGSTOP:
        graph.supervisor.kill(name, signal.SIGCONT)
    client.wait_for(lambda: not client.segmentation.stale, "it not to be stale", _BACK_S)
    return taken


def _drag(graph: Graph, over: threading.Event) -> None:
    """A box that is moved MOUSE_HZ times a second."""
    began = time.monotonic()
    while not over.wait(1 / MOUSE_HZ):
        graph.pointer.send(SPOT.moved(time.monotonic() - began), _CLIENT)
