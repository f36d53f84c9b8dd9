# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Work that waits until what it works on has not changed for a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rest:
    """All calls on one thread; wake_after(seconds) makes it call is_over() then, and may do so at any other time."""

    def __init__(self, seconds: float, wake_after: Callable[[float], None]) -> None:
        self._seconds = seconds
        self._wake_after = wake_after
        # time.monotonic() at which the rest is over; None: nothing has changed.
        self._over_at: float | None = None

    @property
    def is_awaited(self) -> bool:
        """Something has changed, and is_over() was not true since."""
        return self._over_at is not None

    def begin(self) -> None:
        """Something has changed: the rest begins anew."""
        if self._over_at is None:
            self._wake_after(self._seconds)
        self._over_at = time.monotonic() + self._seconds

    def end(self) -> None:
        """Wait no longer."""
        self._over_at = None

    def is_over(self) -> bool:
        """True once for each rest."""
        if self._over_at is None:
            return False
        left_s = self._over_at - time.monotonic()
        if left_s > 0:
            self._wake_after(left_s)
            return False
        self._over_at = None
        return True
