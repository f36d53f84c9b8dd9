# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""In which order slices are embedded ahead of need."""

from __future__ import annotations

from ..geometry import Plane


class SweepOrder:
    """The slices still to embed, nearest to the user's slice first: its neighbours outwards, then the other planes.

    Other planes start at the slice last asked for there, or in the middle, and follow in the planes' order.
    """

    def __init__(self, slice_counts: dict[Plane, int]) -> None:
        self._focus = {plane: count // 2 for plane, count in slice_counts.items()}
        self._current = next(iter(slice_counts), Plane.AXIAL)
        self._pending = {plane: set(range(count)) for plane, count in slice_counts.items()}

    def focus(self, plane: Plane, index: int) -> None:
        """The user is now at this slice."""
        if plane in self._focus:
            self._current = plane
            self._focus[plane] = index

    def discard(self, plane: Plane, index: int) -> None:
        """This slice needs no embedding any more."""
        self._pending.get(plane, set()).discard(index)

    def pop(self) -> tuple[Plane, int] | None:
        """The next slice, which is then no longer pending; None when there is none."""
        for plane in sorted(self._pending, key=lambda p: (p != self._current, p)):
            if pending := self._pending[plane]:
                # Of two equally near, the higher index: a deterministic order.
                index = min(pending, key=lambda i: (abs(i - self._focus[plane]), -i))
                pending.remove(index)
                return plane, index
        return None

    def __len__(self) -> int:
        return sum(map(len, self._pending.values()))
