# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The graph on this computer, run by `samm up` of a checkout: started, stopped, and its log. Linux alone. Knows no MRML."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from samm_core.errors import NotReadyError

from .i18n import tr as _

MAX_LINES = 500
# The graph's own limit is shorter; beyond this it is killed.
STOP_LIMIT_S = 15.0
_LISTENS = re.compile(r"IPP/2 listens on (tcp://\S+)")
_PR_SET_PDEATHSIG = 1


def is_supported() -> bool:
    return sys.platform == "linux"


def found_checkout() -> str:
    """The folder of the checkout that this module lies in; empty: it lies in none."""
    parents = Path(__file__).resolve().parents
    return str(parents[4]) if len(parents) > 4 and (parents[4] / "samm").is_file() else ""


class LocalGraph:
    """One process, which ends with this one, however this one ends. It outlives scenes, and so the logic over them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._address = ""
        self._changed: Callable[[], None] = lambda: None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def address(self) -> str:
        """Where its bridge listens; empty: it does not yet."""
        return self._address

    @property
    def lines(self) -> list[str]:
        """The newest of what it said, since its start."""
        return list(self._lines)

    def listen(self, changed: Callable[[], None] | None) -> None:
        """changed: called, on any thread, when it has said something, or has ended."""
        self._changed = changed or (lambda: None)

    def start(self, folder: Path | str, arguments: Sequence[str] = ()) -> None:
        """folder: the checkout. arguments: of `samm up`. Raises NotReadyError where it cannot be run."""
        if self._process is not None:
            raise NotReadyError(_("The graph runs already; stop it first."))
        if not is_supported():
            raise NotReadyError(_("The graph runs on Linux; start it on such a computer, and connect to it."))
        program = Path(folder).expanduser() / "samm"
        if not program.is_file():
            raise NotReadyError(
                _(
                    "{folder} is no checkout of samm_ros: there is no samm in it; choose the right folder."
                ).format(folder=program.parent)
            )
        self._lines.clear()
        self._address = ""
        # Looked up here: after the fork little may be called.
        prctl = ctypes.CDLL(None).prctl
        try:
            process = subprocess.Popen(
                [str(program), "up", *arguments],
                cwd=program.parent,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        except OSError as error:
            raise NotReadyError(
                _("{program} cannot be run ({reason}); see that it is executable.").format(
                    program=program, reason=error.strerror
                )
            ) from None
        self._process = process
        threading.Thread(target=self._read, args=(process,), name="log of the graph", daemon=True).start()

    def stop(self) -> None:
        """Ask it to end; changed() is called when it has."""
        # Another thread sets it to None when the process has ended.
        process = self._process
        if process is not None:
            process.terminate()
            timer = threading.Timer(STOP_LIMIT_S, _kill, (process,))
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """End it, and wait for that."""
        process = self._process
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
        _kill(process)

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout:
            self._lines.append(line.rstrip())
            if found := _LISTENS.search(line):
                self._address = found[1]
            self._changed()
        process.wait()
        process.stdout.close()
        self._lines.append(_("The graph has ended."))
        self._process, self._address = None, ""
        self._changed()


def _kill(process: subprocess.Popen[str]) -> None:
    """It and what it has started, if it is still there."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Without what Slicer has set for its own Python and libraries."""
    try:
        from slicer.util import startupEnvironment

        environment = startupEnvironment()
    except (ImportError, AttributeError):
        # Not in the desktop.
        environment = os.environ
    return {**environment, "PYTHONUNBUFFERED": "1"}
