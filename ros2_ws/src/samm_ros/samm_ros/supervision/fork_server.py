# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Starts node processes as forks of one that has imported what they import, which takes them a second each otherwise.

The process `python -m samm_ros.supervision.fork_server SOCKET NAME …` imports executables of `samm_ros.start` when they
are first asked for, or ahead when nobody has asked for anything for a while. It creates nothing of ROS and no thread,
so that a fork of it is what a new process would be. (One library that is imported does start threads: LTTng's, for
tracing. They sleep, and a fork is without them.) The supervisor's end of the socket is a ForkServer.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .. import start

# Who starts a graph waits for it: what only a later start needs is imported after so long without a request.
_IDLE_MS = 5000
_MAX_MESSAGE = 1 << 18


class ForkedProcess:
    """A process that a ForkServer started; `poll` is that of subprocess.Popen."""

    def __init__(self, pid: int, server: _Connection) -> None:
        self.pid = pid
        self._server = server
        self._returncode: int | None = None
        # Tells whether it lives, where its id may be another's by then.
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it runs, else its status: negative is the signal that ended it."""
        if self._returncode is None:
            self._returncode = self._server.status_of(self.pid)
            if self._returncode is None and self._server.is_lost and not self._lives():
                # Whoever knew its status has died.
                self._returncode = -signal.SIGKILL
            if self._returncode is not None and self._handle is not None:
                os.close(self._handle)
                self._handle = None
        return self._returncode

    def _lives(self) -> bool:
        return self._handle is not None and not _is_readable(self._handle)


class ForkServer:
    """Starts executables of samm_ros.start by their name; one that has died is replaced.

    names: of all executables that it will be asked for. environment: of its process, and so of theirs.
    """

    def __init__(self, names: Sequence[str], environment: Mapping[str, str]) -> None:
        self._names, self._environment = names, environment
        self._closed = False
        self._server = _Connection(names, environment)

    def start(self, name: str, words: Sequence[str], log: Path) -> ForkedProcess:
        """Start `name` with the command line `words`, appending what it writes to `log`. Raises OSError."""
        for _ in range(2):
            self.ensure_running()
            with contextlib.suppress(ConnectionError):  # it has died meanwhile
                return self._server.start(name, words, log)
        raise OSError("the process that starts it dies")

    def ensure_running(self) -> None:
        """Replace one that has died. Raises OSError."""
        self._server.listen()
        if self._server.is_lost and not self._closed:
            self._server.close()
            self._server.wait()
            self._server = _Connection(self._names, self._environment)
        if self._closed:  # maybe meanwhile
            self._server.close()
            raise OSError("the process that starts it was told to end")

    def close(self) -> None:
        """Start nothing more, from any thread: a start under way fails.

        It ends when the processes that it started have ended. What their statuses are is told no more.
        """
        self._closed = True
        self._server.close()

    def wait(self) -> None:
        """Close it, and return when it has ended."""
        self.close()
        self._server.wait()


class _Connection:
    """To one process that forks, as long as it lives."""

    def __init__(self, names: Sequence[str], environment: Mapping[str, str]) -> None:
        self.is_lost = False
        self._statuses: dict[int, int] = {}
        # Each message arrives whole.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *names],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self, name: str, words: Sequence[str], log: Path) -> ForkedProcess:
        """Raises OSError; ConnectionError where the process that forks has died."""
        request = {"name": name, "words": list(words), "log": str(log)}
        self._socket.send(json.dumps(request).encode())
        while not self.is_lost:
            if message := self._receive():
                if "started" in message:
                    return ForkedProcess(message["started"], self)
                if "error" in message:
                    raise OSError(message["error"])
        raise ConnectionResetError

    def status_of(self, pid: int) -> int | None:
        self.listen()
        return self._statuses.pop(pid, None)

    def listen(self) -> None:
        """Take what has arrived."""
        while not self.is_lost and _is_readable(self._socket.fileno()):
            self._receive()

    def close(self) -> None:
        self.is_lost = True
        with contextlib.suppress(OSError):  # it was closed before
            # Another thread that waits for a message wakes, as it would not when its socket is closed.
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        self._process.wait()
        self._socket.close()

    def _receive(self) -> dict | None:
        try:
            data = self._socket.recv(_MAX_MESSAGE)
        except ConnectionError:
            data = b""
        if not data:
            self.is_lost = True
            return None
        message = json.loads(data)
        if "ended" in message:
            self._statuses[message["ended"]] = message["status"]
        return message


def main() -> None:
    """The process that forks, and each process that it has forked."""
    # It ends with the supervisor and the forks, which get these too.
    signal.pthread_sigmask(signal.SIG_BLOCK, start.SIGNALS)
    if entry := _Forks(socket.socket(fileno=int(sys.argv[1]))).serve(sys.argv[2:]):
        entry()


class _Forks:
    """The processes that this one has forked, and the socket from which it is told to."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._is_open = True
        self._pids: dict[int, int] = {}  # by a descriptor that can be read when the process has ended
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)

    def serve(self, names: list[str]) -> Callable[[], None] | None:
        """In a fork, what it is to run; None when the supervisor's end is closed and all forks have ended."""
        ahead = _imports_ahead(names)
        wait_ms = _IDLE_MS
        while self._is_open or self._pids:
            ready = self._poll.poll(wait_ms if ahead else None)
            wait_ms = _IDLE_MS if ready else 0
            if not ready:
                ahead.pop(0)()
            for descriptor, _ in ready:
                if descriptor in self._pids:
                    self._reap(descriptor)
                elif entry := self._answer():
                    return entry
        return None

    def _reap(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        os.close(descriptor)
        pid = self._pids.pop(descriptor)
        self._tell({"ended": pid, "status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})

    def _answer(self) -> Callable[[], None] | None:
        """Fork what is requested; in the fork, what it is to run."""
        data = b""
        with contextlib.suppress(ConnectionError):
            data = self._requests.recv(_MAX_MESSAGE)
        if not data:
            self._close()
            return None
        request = json.loads(data)
        _load(request["name"])
        try:
            pid = _fork()
        except OSError as error:
            self._tell({"error": str(error)})
            return None
        if not pid:
            self._requests.close()
            for other in self._pids:
                os.close(other)
            return _become(**request)
        self._pids[handle := os.pidfd_open(pid)] = pid
        self._poll.register(handle, select.POLLIN)
        self._tell({"started": pid})
        return None

    def _tell(self, message: dict[str, object]) -> None:
        try:
            self._requests.send(json.dumps(message).encode())
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._is_open:
            self._poll.unregister(self._requests)
        self._is_open = False


def _fork() -> int:
    # What has been imported stays, and is shared as long as neither process looks at each object of it.
    gc.freeze()
    with warnings.catch_warnings():
        # Of the threads that this file's first lines tell of.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _become(name: str, words: list[str], log: str) -> Callable[[], None]:
    """Be the process with this command line, in a group of its own; gives what is left to run."""
    os.setsid()
    start.end_quietly()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, start.SIGNALS)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.argv = words
    with contextlib.suppress(OSError):
        # What ps and top show: its command line stays that of the process that it was forked from.
        Path("/proc/self/comm").write_text(name)
    return getattr(start, name)


def _imports_ahead(names: list[str]) -> list[Callable[[], None]]:
    later = dict.fromkeys(module for name in names for module in getattr(start, name).later)
    return [functools.partial(_load, each) for each in names] + [functools.partial(_import, m) for m in later]


def _import(module: str) -> None:
    with contextlib.suppress(Exception):  # as in _load
        importlib.import_module(module)


def _load(name: str) -> None:
    # What cannot be imported is told by the process that needs it, in its log.
    with contextlib.suppress(Exception):
        getattr(start, name).load()
        _load_type_support()


def _load_type_support() -> None:
    """Load the libraries of the messages that have been imported: the first node of a process needs them."""
    from rosidl_generator_py import import_type_support

    for package in {name.partition(".")[0] for name in sys.modules if name.endswith((".msg", ".srv"))}:
        import_type_support(package)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


if __name__ == "__main__":
    main()
