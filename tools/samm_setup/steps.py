# SPDX-License-Identifier: Apache-2.0
"""Steps that are done once, and again when what they are made from changes, whatever interrupts them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from samm_ros.errors import SetupError

LOG_TAIL_LINES = 25


class Command(Protocol):
    """Runs a command in an environment (None: ours), its output in the step's log; raises SetupError when it fails."""

    def __call__(self, command: list[str], environment: dict[str, str] | None = None) -> None: ...


class Step:
    """One step. Its stamp holds the key of what it was last made from, and lies in the folder that it fills, so that
    deleting the folder undoes the step.

    product: a file that the step makes; without it the step is not done, whatever the stamp says.
    run: does the work; it is given a Command. Whatever was left by an interrupted run is there when it starts.
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


def key_of(*parts: object) -> str:
    """A key that changes when a part's text does."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def key_of_files(files: Iterable[Path]) -> str:
    """A key that changes with the files' names and contents."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run_steps(
    steps: Callable[[], Iterable[Step]], folder: Path, before: Callable[[], None] = lambda: None
) -> None:
    """Do what is not done, in order, one process at a time; logs and the lock are kept in `folder`.

    steps: makes the steps, each when the ones before it are done; called again under the lock, as another process
    may have done them meanwhile.
    before: called once, under the lock, when something is to be done.
    """
    if all(step.done for step in steps()):
        return
    with _lock(folder) as lock:
        if all(step.done for step in steps()):
            return
        before()
        for step in steps():
            if step.done:
                continue
            say(f"  {step.title} … ")
            started = time.monotonic()
            log = folder / "log" / f"set-up-{step.title.replace(' ', '-')}.log"
            step.run(lambda command, environment=None, log=log: _run(command, environment, log, lock))
            say(f"{time.monotonic() - started:.1f} s\n")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """Hold the folder's lock. What we start inherits it: were we killed, the next waits for what we left running."""
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
        say("failed\n")
        raise SetupError(f"{Path(command[0]).name} failed with status {status}; the end of {log}:\n{tail}")


def say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
