# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Looks at something again and again while there is something to see, and costs nothing while there is not.

A timer of rclpy wakes its executor, which builds anew a wait on all that all of its nodes have. In samm_client, idle on two
cores, that took 1.8 ms of processor time at each wake; a thread that wakes takes 0.05 ms.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

import rclpy

# A thread that is told to end may be in its `look`.
_JOIN_S = 1.0


# Of this process.
_all: weakref.WeakSet[Watch] = weakref.WeakSet()


def close_all() -> None:
    """End the threads of all, before the process ends."""
    for watch in list(_all):
        watch.close()


class Watch:
    """Calls `look` on a thread of its own after `begin`, and every `period_s` as long as it returns True. Thread-safe.

    delay_s: how long after `begin` it looks, so that more may gather. An exception of `look` is logged, and it looks again.
    """

    def __init__(self, name: str, period_s: float, look: Callable[[], bool], *, delay_s: float = 0.0) -> None:
        self._period_s, self._delay_s = period_s, delay_s
        self._look = look
        self._begun, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _all.add(self)
        self._thread.start()

    def begin(self) -> None:
        """Look soon, but no sooner than `period_s` after the last time."""
        self._begun.set()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        self._begun.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        due = 0.0
        while True:
            self._begun.wait()
            self._closed.wait(max(self._delay_s, due - time.monotonic()))
            if self._closed.is_set():
                return
            self._begun.clear()
            due = time.monotonic() + self._period_s
            try:
                goes_on = self._look()
            except Exception as error:
                goes_on = True
                if not self._closed.is_set():
                    rclpy.logging.get_logger(self._thread.name).error(f"{type(error).__name__}: {error}")
            if goes_on:
                self._begun.set()
