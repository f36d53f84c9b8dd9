# SPDX-License-Identifier: Apache-2.0
"""Ends the processes of a graph: when its supervisor asks, and when the supervisor itself is gone, however it went.

`python -m samm_ros.guardian GRAPH` waits on its standard input, of which the supervisor alone holds the other end; the
kernel closes that even after SIGKILL. This is PR_SET_PDEATHSIG without its limits: it asks before it kills, reaches
grandchildren, needs no code between fork and exec, and works on macOS as well. A graph's processes are known by
SAMM_GRAPH in their environment.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable

import psutil

from . import shared_memory

MARK = "SAMM_GRAPH"
END_WITH = b"ended"

# Each signal, and the seconds it is given: together less than the 5 s that a stop may take.
_SIGNALS = ((signal.SIGINT, 2.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0))
_POLL_S = 0.05
# As long may a process that was being started when its supervisor died take to show its mark.
_APPEARING_S = 0.3


def processes_of(graph: str) -> list[psutil.Process]:
    """The living processes of a graph and what they started."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        # Other users' processes do not show their environment; zombies have none.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == graph and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(graph: str, reap: Callable[[], object] = lambda: None) -> None:
    """End all processes of a graph: SIGINT, then SIGTERM, then SIGKILL; then remove what they left in shared memory.

    reap: called between looks, for a parent to collect its children.
    """
    for number, seconds in _SIGNALS:
        signalled: set[psutil.Process] = set()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            reap()
            left = processes_of(graph)
            if not left:
                shared_memory.remove_abandoned()
                return
            for process in left:
                if process not in signalled:
                    signalled.add(process)
                    with contextlib.suppress(psutil.Error):
                        # One that was stopped takes no signal but this.
                        process.send_signal(signal.SIGCONT)
                        process.send_signal(number)
            time.sleep(_POLL_S)
    shared_memory.remove_abandoned()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == END_WITH:
        return
    end(sys.argv[1])
    time.sleep(_APPEARING_S)
    end(sys.argv[1])


if __name__ == "__main__":
    main()
