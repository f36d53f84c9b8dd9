# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Steps that run once, and again when their input changes or they were interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from samm_core.errors import SetupError

LOG_TAIL_LINES = 25


class Command(Protocol):
    """Runs a command with its output in the step's log. environment: None: this process's. Raises SetupError."""

    def __call__(self, command: list[str], environment: dict[str, str] | None = None) -> None: ...


class Step:
    """One step of the set-up.

    stamp: a file with the key of the step's last run. It lies in the folder that the step fills, so that deleting the
    folder undoes the step.
    key: of the step's input.
    product: a file that the step makes; without it the step is not done.
    run: does the work, with a Command. It has to cope with what an interrupted run left.
    """

    def __init__(
        self, title: str, stamp: Path, key: str, product: Path, run: Callable[[Command], None]
    ) -> None:
        self.title = title
        self.stamp = stamp
        self.key = key
        self.product = product
        self._run = run

    @property
    def done(self) -> bool:
        try:
            return self.stamp.read_text() == self.key and self.product.exists()
        except FileNotFoundError:
            return False

    def run(self, command: Command) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.stamp.unlink()
        self._run(command)
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        draft = self.stamp.with_name(self.stamp.name + ".new")
        draft.write_text(self.key)
        os.replace(draft, self.stamp)


def key_of(*parts: str) -> str:
    """A key that changes with any of the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def key_of_files(files: Iterable[Path]) -> str:
    """A key that changes with the files' names and contents."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run_steps(
    stages: Callable[[], Iterable[list[list[Step]]]], folder: Path, before: Callable[[], None] = lambda: None
) -> None:
    """Run the steps that are not done, in one process at a time. Logs and the lock are in `folder`.

    stages: makes the stages, each one after the earlier ones are done. It is called again under the lock, because
    another process may have done them meanwhile. A stage is a list of lanes, which run in parallel; a lane is a list
    of steps, which run in order.
    before: called once, under the lock, if a step is to run.
    """
    if _all_done(stages()):
        return
    with _lock(folder) as lock:
        if _all_done(stages()):
            return
        before()
        for stage in stages():
            with ThreadPoolExecutor(len(stage)) as lanes:
                running = [lanes.submit(_run_lane, lane, folder, lock) for lane in stage]
            for lane in running:
                lane.result()


def _all_done(stages: Iterable[list[list[Step]]]) -> bool:
    return all(step.done for stage in stages for lane in stage for step in lane)


def _run_lane(lane: list[Step], folder: Path, lock: int) -> None:
    for step in lane:
        if step.done:
            continue
        say(f"  {step.title} …\n")
        started = time.monotonic()
        log = folder / "log" / f"set-up-{step.title.replace(' ', '-')}.log"
        step.run(lambda command, environment=None, log=log: _run(command, environment, log, lock))
        say(f"  {step.title}: {time.monotonic() - started:.1f} s\n")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """Hold the folder's lock. Commands inherit it: if we are killed, the next process waits until they have ended."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another ./samm is setting up; waiting for it …\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _run(command: list[str], environment: dict[str, str] | None, log: Path, lock: int) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        status = subprocess.call(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock]
        )
    if status:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise SetupError(f"{Path(command[0]).name} failed with status {status}; the end of {log}:\n{tail}")


def say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
