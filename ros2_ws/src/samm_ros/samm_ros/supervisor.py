# SPDX-License-Identifier: Apache-2.0
"""Runs a launch file's nodes as processes: starts, logs, starts again, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import guardian, shared_memory
from .errors import LaunchError
from .launch_file import LaunchFile, NodeProcess, find_executable, read_launch_file

# A process that ends sooner has not started; one that never started this often is given up.
STARTED_AFTER_S = 5.0
START_ATTEMPTS = 3

_WATCH_S = 0.05
_TAIL_LINES = 15
# These come from outside: whoever kills a node wants to see it come back.
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}

# Gets a process's name and a line that it wrote, or that the supervisor has to say about it.
OnLine = Callable[[str, str], None]


@dataclass
class _Child:
    """A process of the graph, over its lives."""

    name: str
    command: list[str]
    node: NodeProcess
    log: Path
    popen: subprocess.Popen | None = None
    started_at: float = 0.0
    due_at: float | None = None
    ends: int = 0
    failed_starts: int = 0
    has_started: bool = False
    read_to: int = 0
    rest: bytes = b""


class Graph:
    """The processes of a launch file; a context manager that starts and stops them.

    launch_file, arguments: as for read_launch_file.
    log_dir: gets a log for each process.
    env: what the processes run in, before the launch file's own changes; None: this process's environment.
    on_line: see OnLine; called from a thread.

    A process that cannot be started, or fails at its start START_ATTEMPTS times, is a LaunchError with the end of its
    log: raised by check(), wait() and on leaving the context.
    """

    def __init__(
        self,
        launch_file: Path,
        arguments: Mapping[str, str],
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        on_line: OnLine | None = None,
    ) -> None:
        base = dict(os.environ if env is None else env)
        self.launch: LaunchFile = read_launch_file(launch_file, arguments, base)
        self.log_dir = log_dir.resolve()
        # What the launch file sets. A program that joins the graph from this process has to run with it too.
        self.environment = self.launch.environment
        self._mark = uuid.uuid4().hex
        self._environment = {
            **base,
            **self.environment,
            "PYTHONUNBUFFERED": "1",
            "ROS_LOG_DIR": str(self.log_dir / "ros"),
            guardian.MARK: self._mark,
        }
        self._on_line = on_line or (lambda name, line: None)
        self._lock = threading.Lock()  # guards the children and the two below
        self._failure: LaunchError | None = None
        self._stopping = False
        self._changed = threading.Event()
        self._guardian: subprocess.Popen | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._children = self._make_children()

    def __enter__(self) -> Graph:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        # What a program saw of it (a wait in vain) is the lesser news.
        if self._failure and (error is None or isinstance(error, LaunchError)):
            raise self._failure from error

    @property
    def processes(self) -> dict[str, int]:
        """Process id of each process that is running, by name."""
        with self._lock:
            return {c.name: c.popen.pid for c in self._children if c.popen and c.popen.poll() is None}

    def start(self) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "samm_ros.guardian", self._mark],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        with self._lock:
            for child in self._children:
                self._launch(child)
        self._watcher.start()

    def stop(self) -> None:
        """End all processes, in at most 5 s, and clean up after them; again does nothing."""
        with self._lock:
            if self._stopping or not self._guardian:
                return
            self._stopping = True
        guardian.end(self._mark, self._reap)
        self._watcher.join()
        with contextlib.suppress(BrokenPipeError):
            self._guardian.communicate(guardian.END_WITH)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a running process; raises LaunchError when there is none of that name."""
        with self._lock:
            for child in self._children:
                if child.name == name and child.popen and child.popen.poll() is None:
                    os.killpg(child.popen.pid, number)
                    return
        raise LaunchError(f"No process {name} is running; running are {', '.join(self.processes) or 'none'}.")

    def check(self) -> None:
        """Raise the LaunchError of a process that could not be started, if there is one."""
        if self._failure:
            raise self._failure

    def wait(self) -> None:
        """Return when all processes have ended for good; raises LaunchError as check() does."""
        while not self._failure and not self._is_over():
            self._changed.wait()
            self._changed.clear()
        self.check()

    def _is_over(self) -> bool:
        with self._lock:
            return self._stopping or all(c.popen is None and c.due_at is None for c in self._children)

    def _make_children(self) -> list[_Child]:
        children: list[_Child] = []
        names: set[str] = set()
        for node in self.launch.nodes:
            base = name = node.name or node.executable
            number = 1
            while name in names:
                number += 1
                name = f"{base}_{number}"
            names.add(name)
            executable = find_executable(node.package, node.executable, self._environment)
            children.append(
                _Child(name, [str(executable), *_ros_arguments(node)], node, self.log_dir / f"{name}.log")
            )
        return children

    def _launch(self, child: _Child) -> None:
        """Start it; its output goes to its log directly, so that no line is lost and none waits for us."""
        child.due_at, child.started_at = None, time.monotonic()
        with open(child.log, "ab") as log:
            try:
                child.popen = subprocess.Popen(
                    child.command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                child.popen = None
                self._fail(child, f"cannot be started: {error}")

    def _watch(self) -> None:
        while not self._stopping:
            with self._lock:
                for child in self._children:
                    self._look_after(child)
            # Without the lock: a callback may ask for the processes.
            for child in self._children:
                self._read_log(child)
            time.sleep(_WATCH_S)
        for child in self._children:
            self._read_log(child)
        self._changed.set()

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.due_at is not None and now >= child.due_at and not self._stopping:
            self._launch(child)
        if child.popen is None:
            return
        status = child.popen.poll()
        if status is None:
            child.has_started |= now - child.started_at >= STARTED_AFTER_S
            return
        child.popen = None
        self._changed.set()
        if self._stopping:
            return
        if status < 0:
            shared_memory.remove_abandoned()
        self._judge(child, status)

    def _judge(self, child: _Child, status: int) -> None:
        """Decide what follows from the end of a process."""
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if not child.has_started and status != 0 and status not in _KILLED:
            child.failed_starts += 1
            if child.failed_starts >= (START_ATTEMPTS if child.node.respawn else 1):
                self._fail(child, how)
                return
        child.ends += 1
        if child.node.respawn:
            child.due_at = time.monotonic() + child.node.respawn_delay
            how += f" ({child.ends} so far); starting it again in {child.node.respawn_delay:g} s"
        self._on_line(child.name, f"[WARN] {child.name} {how}; its log is {child.log}")

    def _fail(self, child: _Child, how: str) -> None:
        tail = "\n".join(child.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        times = f" {child.failed_starts} times" if child.failed_starts > 1 else ""
        self._failure = self._failure or LaunchError(
            f"{child.name} {how} at its start{times}; the end of {child.log}:\n{tail}"
        )
        self._changed.set()

    def _read_log(self, child: _Child) -> None:
        """Hand on the lines that the process has written since the last look."""
        if not child.log.exists():
            return
        with open(child.log, "rb") as log:
            log.seek(child.read_to)
            *lines, child.rest = (child.rest + log.read()).split(b"\n")
            child.read_to = log.tell()
        for line in lines:
            self._on_line(child.name, line.decode(errors="replace"))

    def _reap(self) -> None:
        with self._lock:
            for child in self._children:
                if child.popen:
                    child.popen.poll()


def _ros_arguments(node: NodeProcess) -> list[str]:
    """As launch_ros gives them."""
    words = ["--ros-args"]
    if node.name:
        words += ["-r", f"__node:={node.name}"]
    if namespace := node.namespace.strip("/"):
        words += ["-r", f"__ns:=/{namespace}"]
    for parameter in node.parameters:
        if isinstance(parameter, Path):
            words += ["--params-file", str(parameter)]
        else:
            # JSON is YAML, which is what the value is read as.
            words += ["-p", f"{parameter[0]}:={json.dumps(parameter[1], ensure_ascii=False)}"]
    for old, new in node.remappings:
        words += ["-r", f"{old}:={new}"]
    return words
