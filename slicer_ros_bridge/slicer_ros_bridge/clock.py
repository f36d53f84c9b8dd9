# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The offset between two monotonic clocks, measured by the exchange of stamps."""

from __future__ import annotations

from collections import deque

# So many exchanges are compared, and the quickest gives the offset: its error is at most half its round trip.
MEASUREMENTS = 16


class ClockOffset:
    """How far the other side's clock is behind ours; after RFC 5905 (NTP), section 8."""

    def __init__(self) -> None:
        self._measured: deque[tuple[int, int]] = deque(maxlen=MEASUREMENTS)

    def exchange(self, sent_ns: int, received_ns: int, returned_ns: int, got_ns: int) -> None:
        """We sent (our clock), they received and returned (theirs), we got it back (ours); nanoseconds.

        Stamps that cannot be are left out.
        """
        round_trip_ns = (got_ns - sent_ns) - (returned_ns - received_ns)
        if round_trip_ns >= 0 and returned_ns >= received_ns:
            offset_ns = ((sent_ns - received_ns) + (got_ns - returned_ns)) // 2
            self._measured.append((round_trip_ns, offset_ns))

    @property
    def offset_ns(self) -> int | None:
        """Add it to their stamp to get ours; None while nothing was measured."""
        return min(self._measured)[1] if self._measured else None
