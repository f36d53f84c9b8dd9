# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How one thread wakes another that waits in a poller, or in Qt's event loop with a socket notifier."""

from __future__ import annotations

import contextlib
import socket


class Mailbox:
    """A pair of sockets. Any thread may wake it; one thread waits for it."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Readable once woken."""
        return self._reader.fileno()

    def wake(self) -> None:
        # Full: it will be read anyway. Closed: nobody waits.
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"\0")

    def empty(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
