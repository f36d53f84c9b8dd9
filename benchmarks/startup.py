# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From the start of the graph's processes to the first mask, and from the death of one to the next right mask."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core.errors import LaunchError, PromptError

if TYPE_CHECKING:
    import numpy as np

    from samm_core.prompts import Prompt
    from samm_ros.client import GraphClient
    from samm_ros.supervision.supervisor import Supervisor

# Alone, cpl_inf fetches embeddings from the embedding node and keeps them; composed, it reads them where they are.
_SETUPS = {
    "torch": {"backend": "torch"},
    "openvino": {"backend": "openvino"},
    "openvino, a process a node": {"backend": "openvino", "composed": "false"},
}
_SERVERS = ("samm_server", "embedding", "rcv_inf", "cpl_inf")
# The processes that a mask goes through.
_ON_THE_WAY = (*_SERVERS, "samm_client", "snd_inf", "rcv_msk", "apl_msk")
# How many other programs want a processor each.
_LOADS = (0, 4, 8)
_TIMEOUT_S = 180.0
# The server leaves the embedding of a new slice to its next life within this time.
_KEPT_AFTER_S = 0.5
_NEW_SLICES = itertools.cycle(range(20, 90))
# A mask is right that is the one from before the death, but for what threads change in the last bit.
_MIN_DICE = 0.99


def main(args: argparse.Namespace) -> int:
    """Starts the graph as `samm up volume:=…` does, prompts as soon as it is there, kills its processes; prints tables."""
    import numpy as np

    from samm_core.latency.cycles import complete_cycles
    from samm_core.models import checkpoint_of
    from samm_core.models.backends.export_store import export_of
    from samm_ros.supervision.processes import environment

    from .measure import machine, show

    started = time.monotonic()
    export_of("lite_medsam", checkpoint_of("lite_medsam"))
    exported = time.monotonic() - started
    os.environ.update(environment())
    starts, recoveries = [], []
    for turn in range(1 if args.quick else 3):
        for name, setup in _SETUPS.items():
            with _graph(**setup) as (client, supervisor, began):
                client.wait_for(lambda c=client: _has_volume(c), "the volume", _TIMEOUT_S)
                loaded = time.monotonic()
                _mask(client, _prompt(95))
                answered = time.monotonic()
                for _ in range(10 if args.quick else 40):
                    client.prompt(_prompt(95))
                cycles = [cycle.total_ms for cycle in complete_cycles(list(client.events))][1:]
                starts.append(
                    (
                        name,
                        turn + 1,
                        f"{loaded - began:.1f}",
                        f"{answered - loaded:.2f}",
                        f"{answered - began:.1f}",
                        f"{np.median(cycles):.0f}",
                        f"{sum(_mib(supervisor, each) for each in _SERVERS):.0f}",
                    )
                )
                if setup["backend"] == "openvino":
                    recoveries += _recoveries(client, supervisor, _LOADS[:2] if args.quick else _LOADS, turn)
    show(
        f"The graph on the MNI volume; {machine()}",
        (
            "",
            "run",
            "volume shown s",
            "first mask after s",
            "together s",
            "cycle p50 ms",
            "server MiB",
        ),
        starts,
    )
    show(
        "A process killed, until a mask is right and applied again: on the slice that was worked on, then on a new one",
        (
            "process",
            "run",
            "other programs",
            "load",
            "started again s",
            "same slice s",
            "new slice s",
            "its processor s",
        ),
        recoveries,
    )
    print(f"the export: {exported:.1f} s (made once for each checkpoint; else read and checked)")
    return 0


@contextlib.contextmanager
def _graph(**setup: str) -> Iterator[tuple[GraphClient, Supervisor, float]]:
    """A client of a graph, what runs it, and when its processes were started, CLOCK_MONOTONIC, seconds."""
    from samm_core.sources.sample import mni_volume
    from samm_ros.client import GraphClient
    from samm_ros.supervision.supervisor import launch

    namespace = f"bench_{uuid.uuid4().hex[:8]}"
    # Nothing is embedded ahead: each slice is new to a server that has been started again.
    arguments = {
        "namespace": namespace,
        "volume": str(mni_volume()),
        "bridge": "false",
        "sweep": "false",
        **setup,
    }
    with tempfile.TemporaryDirectory() as folder:
        supervisor = launch(arguments, Path(folder))
        with GraphClient(namespace, "bench", supervisor.check) as client:
            began = time.monotonic()
            with supervisor:
                yield client, supervisor, began


def _recoveries(
    client: GraphClient, supervisor: Supervisor, loads: tuple[int, ...], turn: int
) -> list[tuple[object, ...]]:
    """A row for each process on the way of a mask and each load."""
    from samm_core.models.parity import dice_of

    rows = []
    for programs in loads:
        with _busy(programs):
            for number, name in enumerate(sorted(set(_ON_THE_WAY) & supervisor.processes.keys())):
                # The slice that was worked on; the server's next life finds its embedding.
                before = _mask(client, _prompt(95 + number))
                time.sleep(_KEPT_AFTER_S)
                pid, began = supervisor.processes.get(name), time.monotonic()
                supervisor.kill(name, signal.SIGKILL)
                while supervisor.processes.get(name, pid) == pid:
                    supervisor.check()
                    if time.monotonic() - began > _TIMEOUT_S:
                        raise LaunchError(f"{name} did not start again within {_TIMEOUT_S:g} s.")
                    time.sleep(0.005)
                again = time.monotonic()
                right = dice_of(_mask(client, _prompt(95 + number)), before) >= _MIN_DICE
                seconds = time.monotonic() - began
                # Nothing is embedded ahead, so no process has this one.
                _mask(client, _prompt(next(_NEW_SLICES)))
                rows.append(
                    (
                        name,
                        turn + 1,
                        programs,
                        f"{os.getloadavg()[0]:.1f}",
                        f"{again - began:.2f}",
                        f"{seconds:.2f}" if right else "wrong",
                        f"{time.monotonic() - began:.2f}",
                        f"{_processor_s(supervisor, name):.1f}",
                    )
                )
    return rows


@contextlib.contextmanager
def _busy(programs: int) -> Iterator[None]:
    """With so many programs that compute, each in a session of its own as a user's are; they end with this one."""
    command = [sys.executable, "-c", "import os; p = os.getppid()\nwhile os.getppid() == p: pass"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(programs)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def _prompt(slice_index: int) -> Prompt:
    from samm_core.geometry import Plane
    from samm_core.prompts import pixel_box

    return pixel_box(Plane.AXIAL, slice_index, 60, 60, 140, 150)


def _mask(client: GraphClient, prompt: Prompt) -> np.ndarray:
    """The mask, when it is applied. Until a process that was started has heard of the volume, prompts are refused."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            answer = client.prompt(prompt, timeout_s=_TIMEOUT_S)
        except PromptError:
            if time.monotonic() > deadline:
                raise
            continue
        client.wait_for(lambda a=answer: _has_applied(client, a.cycle), "the mask to be applied", _TIMEOUT_S)
        return answer.mask


def _has_volume(client: GraphClient) -> bool:
    return client.segmentation is not None and bool(client.segmentation.volumes)


def _has_applied(client: GraphClient, cycle: int) -> bool:
    return any(
        each.client_id == client.client_id and each.settled >= cycle for each in client.segmentation.clients
    )


def _mib(supervisor: Supervisor, name: str) -> float:
    """Resident MiB of a process; 0 where it does not run."""
    import psutil

    pid = supervisor.processes.get(name)
    return psutil.Process(pid).memory_info().rss / 2**20 if pid else 0.0


def _processor_s(supervisor: Supervisor, name: str) -> float:
    """What a process has computed since its start, on all cores together; 0 where it does not run."""
    import psutil

    pid = supervisor.processes.get(name)
    times = psutil.Process(pid).cpu_times() if pid else None
    return times.user + times.system if times else 0.0
