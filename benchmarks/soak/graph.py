# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The graph that the requirements are measured on: its processes, what they hold, and what its clients worked on."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk

from samm_core.errors import LaunchError
from samm_core.sources.sample import mni_volume
from samm_ros.client import GraphClient
from samm_ros.supervision import processes
from samm_ros.supervision.supervisor import Supervisor, launch

from ..ours import Pointer

_SHM = Path("/dev/shm")
# Beside a segment or port lie the files of its locks and its semaphore, see fastdds_files.py.
_BESIDE = re.compile(r"^sem\.|_(el|sl|mutex)$")
# Axial slices of the MNI brain: few, so that a volume is loaded in a moment.
FIRST_SLICE, SLICES = 20, 64
_START_S = 180.0


@dataclass(frozen=True)
class Footprint:
    """Of one process. pss_mib: memory, with its share of pages that several have. cpu_s: processor time so far."""

    pss_mib: float
    descriptors: int
    threads: int
    cpu_s: float


class Graph:
    """A graph of its own, supervised as by `samm up`, with the bridge and a journal; a context manager.

    volumes: two crops of the MNI brain, the first of which is loaded.
    """

    def __init__(
        self, log_dir: Path, composed: bool = True, cache_gib: float | None = None, sweep: bool = False
    ) -> None:
        """log_dir: gets the processes' logs. cache_gib: memory for embeddings, of a composed graph; None: the default."""
        self.log_dir = log_dir
        self.namespace = f"soak_{uuid.uuid4().hex[:8]}"
        self.port = _free_port()
        self.composed = composed
        self.seen_files: set[Path] = set()
        self._sweep = sweep
        self._cache_gib = cache_gib
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Graph:
        with contextlib.ExitStack() as opening:
            folder = tempfile.TemporaryDirectory(prefix="samm-soak-", ignore_cleanup_errors=True)
            self.folder = Path(opening.enter_context(folder))
            arguments = {
                "namespace": self.namespace,
                "composed": str(self.composed).lower(),
                "sweep": str(self._sweep).lower(),
                "journal": str(self.folder / "journal"),
                "bridge_port": str(self.port),
                "samm_port": "-1",
            }
            os.environ.update(processes.environment())
            self.supervisor = opening.enter_context(
                _with_cache(arguments, self.log_dir, self._cache_gib)
                if self._cache_gib
                else launch(arguments, self.log_dir)
            )
            self.names = tuple(
                each.executable for each in processes.processes(processes.read_arguments(arguments))
            )
            self.client = opening.enter_context(GraphClient(self.namespace, "soak", self.supervisor.check))
            self.volumes = crops(self.folder)
            self.client.load(self.volumes[0], timeout_s=_START_S)
            self.note_files()
            self._open = opening.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @functools.cached_property
    def pointer(self) -> Pointer:
        """A client that publishes single prompts and keeps the whole trace from its first use on."""
        return self._open.enter_context(Pointer(self.namespace))

    def footprints(self) -> dict[str, Footprint]:
        """Of each process that runs, by name."""
        found = {}
        for name, pid in self.supervisor.processes.items():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    pss = process.memory_full_info().pss / 2**20
                    cpu = times.user + times.system
                    found[name] = Footprint(pss, process.num_fds(), process.num_threads(), cpu)
        return found

    def note_files(self) -> None:
        """Remember which files of shared memory its processes have, to look for them when those are gone."""
        for pid in self.supervisor.processes.values():
            self.seen_files |= _shared_files(pid)

    def wait_for_processes(self, timeout_s: float = 60.0) -> None:
        """Until all run. Raises LaunchError."""
        deadline = time.monotonic() + timeout_s
        while set(self.supervisor.processes) != set(self.names):
            self.supervisor.check()
            if time.monotonic() > deadline:
                missing = ", ".join(set(self.names) - set(self.supervisor.processes))
                raise LaunchError(f"{missing} did not start again within {timeout_s:g} s.")
            time.sleep(0.05)

    def wait_until_settled(self, clients: Collection[str] = (), timeout_s: float = 60.0) -> None:
        """Until the newest request of each client (of `clients`, or all) has its mask applied. Raises LaunchError."""

        def settled() -> bool:
            told = self.client.segmentation.clients if self.client.segmentation else []
            return all(c.settled >= c.requested for c in told if not clients or c.client_id in clients)

        self.client.wait_for(settled, "the newest masks to be applied", timeout_s)

    def labels(self) -> np.ndarray:
        """(K, J, I) uint8: what is applied to the first volume."""
        path = self.folder / "applied.nii"
        self.client.save(path)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _with_cache(arguments: Mapping[str, str], log_dir: Path, cache_gib: float) -> Supervisor:
    """As `launch`, which has no argument for the cache: it is a parameter of the nodes."""
    values = processes.read_arguments(arguments)
    commands = {each.executable: processes.command(each, values) for each in processes.processes(values)}
    commands["samm_server"] += ["-p", f"cache_gib:={cache_gib}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ROS_LOG_DIR": str(log_dir.resolve() / "ros")}
    return Supervisor(commands, log_dir, environment, forked=commands)


def left_files(seen: Collection[Path]) -> list[Path]:
    """Those of the files in shared memory that are still there though no process has them, nor what belongs to them."""
    held = {_owned(file) for pid in psutil.pids() for file in _shared_files(pid)}
    return [file for file in seen if file.exists() and _owned(file) not in held]


def _owned(file: Path) -> str:
    """The name of the segment or port that a file of Fast DDS is, is the lock of, or guards."""
    return _BESIDE.sub("", file.name)


def _shared_files(pid: int) -> set[Path]:
    """Files in /dev/shm that a process has mapped or open; none where it cannot be looked at."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        found |= {line.split(maxsplit=5)[-1] for line in lines if f" {_SHM}/" in line}
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return {Path(name) for name in found if name.startswith(f"{_SHM}/") and not name.endswith(" (deleted)")}


def crops(folder: Path) -> tuple[Path, Path]:
    """Two volumes of axial slices of the MNI brain, which share no slice's content."""
    brain = sitk.ReadImage(str(mni_volume()))
    paths = folder / "a.nii", folder / "b.nii"
    for number, path in enumerate(paths):
        first = FIRST_SLICE + number * SLICES
        sitk.WriteImage(brain[:, :, first : first + SLICES], str(path))
    return paths


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
