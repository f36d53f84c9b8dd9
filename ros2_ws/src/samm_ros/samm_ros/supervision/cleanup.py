# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Ends the processes that a supervisor started, and those that they started in turn.

`python -m samm_ros.supervision.cleanup MARK` does so when its standard input ends. Only the supervisor holds the other
end, which the kernel closes even after SIGKILL. The processes are known by MARK in their environment.

PR_SET_PDEATHSIG would need no process of its own. But a child's own children do not inherit it, it gives a node no
time to end in order, and nobody would remove what killed nodes leave in shared memory.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

from . import fastdds_files

MARK = "SAMM_SUPERVISOR"

# Each signal and the seconds that it is given. Together they are less than the 5 s that a stop may take.
_SIGNALS = ((signal.SIGINT, 2.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0))
_POLL_S = 0.05
# A process that was being started when its supervisor died shows its mark within this time.
_APPEARING_S = 0.3


def folder_of(mark: str) -> Path:
    """Where a process leaves in memory what helps it after it was killed and started again; removed in the end."""
    return fastdds_files.FOLDER / f"samm_{mark}"


def end_processes(mark: str) -> None:
    """Send SIGINT, then SIGTERM, then SIGKILL, until no process is left; then remove their files in shared memory."""
    for number, seconds in _SIGNALS:
        signalled: set[psutil.Process] = set()
        deadline = time.monotonic() + seconds
        while (left := _processes(mark)) and time.monotonic() < deadline:
            for process in left:
                if process not in signalled:
                    signalled.add(process)
                    with contextlib.suppress(psutil.Error):
                        # A stopped process takes no other signal.
                        process.send_signal(signal.SIGCONT)
                        process.send_signal(number)
            time.sleep(_POLL_S)
    fastdds_files.remove_abandoned()
    shutil.rmtree(folder_of(mark), ignore_errors=True)


def _processes(mark: str) -> list[psutil.Process]:
    """The living processes with this mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        # The environment of other users' processes cannot be read; that of a zombie is empty.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_processes(sys.argv[1])
    time.sleep(_APPEARING_S)
    end_processes(sys.argv[1])


if __name__ == "__main__":
    main()
