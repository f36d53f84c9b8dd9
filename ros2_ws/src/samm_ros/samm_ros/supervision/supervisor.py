# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Runs processes: starts them, keeps their logs, starts them again when they die, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from samm_core.errors import LaunchError

from . import cleanup, fastdds_files, processes
from .fork_server import ForkedProcess, ForkServer

# A process that fails sooner has failed at its start. After so many such failures, and no success, it is given up.
STARTED_AFTER_S = 5.0
START_ATTEMPTS = 3

_POLL_S = 0.05
_TAIL_LINES = 15
# These come from outside, so they are no failed start.
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}

# Called with a process's name, and a line that it wrote or that the supervisor reports about it.
OnLine = Callable[[str, str], None]


def launch(arguments: Mapping[str, str], log_dir: Path, on_line: OnLine | None = None) -> Supervisor:
    """A supervisor of the node graph's processes, to be started. Raises LaunchError.

    arguments: as the command line gives them, see processes.ARGUMENTS.
    """
    values = processes.read_arguments(arguments)
    environment = {
        **os.environ,
        **processes.environment(bool(values["network"]), str(values["security"])),
        "PYTHONUNBUFFERED": "1",
        "ROS_LOG_DIR": str(log_dir.resolve() / "ros"),
    }
    commands = {each.executable: processes.command(each, values) for each in processes.processes(values)}
    return Supervisor(commands, log_dir, environment, bool(values["respawn"]), on_line, forked=commands)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process and its group, or to the process alone while it has no group of its own."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # A fork has just been made, or has just ended.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class _Log:
    """What a process writes, over all the times that it is started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_to = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        """The lines that the process has finished since the last call."""
        if not self.path.exists():  # somebody has removed it
            return []
        with open(self.path, "rb") as log:
            log.seek(self._read_to)
            *lines, self._rest = (self._rest + log.read()).split(b"\n")
            self._read_to = log.tell()
        return [line.decode(errors="replace") for line in lines]

    def tail(self) -> str:
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])


@dataclass
class _Child:
    """A process, over all the times that it is started. due_at: when it is to be started again."""

    name: str
    command: Sequence[str]
    log: _Log
    process: subprocess.Popen | ForkedProcess | None = None
    started_at: float = 0.0
    due_at: float | None = None
    failed_starts: int = 0
    has_started: bool = False

    @property
    def lives(self) -> bool:
        """Whether it runs, or is to be started again."""
        return self.process is not None or self.due_at is not None


class Supervisor:
    """Runs processes; a context manager that starts and stops them.

    commands: by the name of the process.
    log_dir: gets a file NAME.log for each process.
    environment: of the processes.
    respawn: start a process again when it has ended.
    on_line: see OnLine; called from a thread.
    forked: names of the commands that are executables of samm_ros.start. They are forks of a process that has
        imported what they import.

    A process that fails at its start is a LaunchError with the end of its log: raised by check(), by wait() and on
    leaving the context.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        log_dir: Path,
        environment: Mapping[str, str],
        respawn: bool = True,
        on_line: OnLine | None = None,
        forked: Collection[str] = (),
    ) -> None:
        self.log_dir = log_dir.resolve()
        self._mark = uuid.uuid4().hex
        self._environment = {**environment, cleanup.MARK: self._mark}
        self._respawn = respawn
        self._on_line = on_line or (lambda name, line: None)
        self._children = [
            _Child(name, words, _Log(self.log_dir / f"{name}.log")) for name, words in commands.items()
        ]
        self._changed = threading.Condition()  # guards the children and the failure
        self._failure: LaunchError | None = None
        self._stopping = False
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._cleanup: subprocess.Popen | None = None
        self._forked = list(forked)
        self._fork_server: ForkServer | None = None

    def __enter__(self) -> Supervisor:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        # A process that did not start is the cause of any other LaunchError, such as a wait that took too long.
        if self._failure and (error is None or isinstance(error, LaunchError)):
            raise self._failure from error

    @property
    def processes(self) -> dict[str, int]:
        """Process id of each process that is running, by name."""
        with self._changed:
            return {c.name: c.process.pid for c in self._children if c.process and c.process.poll() is None}

    def start(self) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._cleanup = subprocess.Popen(
            [sys.executable, "-m", cleanup.__name__, self._mark],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        with self._changed:
            if self._forked and not self._stopping:
                self._fork_server = ForkServer(self._forked, self._environment)
            for child in self._children:
                self._start(child)
        self._watcher.start()

    def stop(self) -> None:
        """End all processes, in at most 5 s, and clean up after them; a second call does nothing."""
        if self._stopping or not self._cleanup:
            return
        self._stopping = True
        if self._fork_server:
            # Whoever holds the lock may be waiting for it.
            self._fork_server.close()
        with self._changed:  # from here on no process is started
            self._changed.notify_all()
        cleanup.end_processes(self._mark)
        self._over.set()
        if self._watcher.is_alive():
            self._watcher.join()
        if self._fork_server:
            self._fork_server.wait()
        self._cleanup.kill()
        self._cleanup.communicate()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a running process and its group. Raises LaunchError when it is not running."""
        with self._changed:  # until then its id cannot become another process's
            running = self.processes
            if name not in running:
                raise LaunchError(f"{name} is not running; running are {', '.join(running) or 'none'}.")
            send_signal(running[name], number)

    def check(self) -> None:
        """Raise the LaunchError of a process that failed at its start, if there is one."""
        if self._failure:
            raise self._failure

    def wait(self) -> None:
        """Return when all processes have ended for good; raises LaunchError as check() does."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or self._stopping or not any(child.lives for child in self._children)
            )
        self.check()

    def _start(self, child: _Child) -> None:
        if self._stopping:
            return
        child.due_at, child.started_at = None, time.monotonic()
        # The process writes to its log directly: it never waits for us, and no line is lost when we die.
        try:
            if child.name in self._forked:
                child.process = self._fork_server.start(child.name, child.command, child.log.path)
                child.started_at = time.monotonic()  # not while its imports were made
                return
            with open(child.log.path, "ab") as log:
                child.process = subprocess.Popen(
                    child.command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            if not self._stopping:
                self._fail(child, f"cannot be started: {error}")

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._over.wait(_POLL_S)  # and once more then, for the last lines
            self._ensure_fork_server()
            for child in self._children:
                with self._changed:
                    self._look_after(child)
                for line in child.log.new_lines():
                    self._on_line(child.name, line)

    def _ensure_fork_server(self) -> None:
        with self._changed, contextlib.suppress(OSError):
            if self._fork_server:
                self._fork_server.ensure_running()

    def _look_after(self, child: _Child) -> None:
        self._start_if_due(child)
        status = child.process.poll() if child.process else None
        if status is None:
            return
        child.process = None
        self._changed.notify_all()
        if self._stopping:
            return
        told = self._judge_end(child, status)
        if status < 0:
            # Before it is started again: a lock file that it has made and not locked yet looks abandoned.
            fastdds_files.remove_abandoned()
        self._start_if_due(child)
        if told:
            self._on_line(child.name, told)

    def _start_if_due(self, child: _Child) -> None:
        if child.due_at is not None and time.monotonic() >= child.due_at:
            self._start(child)

    def _judge_end(self, child: _Child, status: int) -> str:
        """Decide whether it starts again, has failed, or has ended; the line to print of it, if any."""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        child.has_started |= time.monotonic() - child.started_at >= STARTED_AFTER_S
        if not child.has_started and status != 0 and status not in _KILLED:
            child.failed_starts += 1
            if child.failed_starts >= START_ATTEMPTS or not self._respawn:
                self._fail(child, how)
                return ""
        if self._respawn:
            # At once, if it has lived for a moment.
            child.due_at = child.started_at + processes.RESPAWN_DELAY_S
            how += "; it is started again"
        return f"[WARN] {child.name} {how}; its log is {child.log.path}"

    def _fail(self, child: _Child, how: str) -> None:
        times = f" {child.failed_starts} times" if child.failed_starts > 1 else ""
        self._failure = self._failure or LaunchError(
            f"{child.name} {how} at its start{times}; the end of {child.log.path}:\n{child.log.tail()}"
        )
        self._changed.notify_all()
