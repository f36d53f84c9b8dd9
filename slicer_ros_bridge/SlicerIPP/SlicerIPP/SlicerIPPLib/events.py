# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How the logic says what has changed. The values are in the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class Signal:
    """Calls whatever is connected to it, in that order."""

    def __init__(self) -> None:
        self._slots: list[Callable[[], None]] = []

    def connect(self, slot: Callable[[], None]) -> None:
        self._slots.append(slot)

    def disconnect(self, slot: Callable[[], None]) -> None:
        self._slots.remove(slot)

    def emit(self) -> None:
        # A slot may disconnect itself.
        for slot in list(self._slots):
            slot()


@dataclass(frozen=True)
class Events:
    """controls: what can be done now, or why not, has changed. segments: another segment, or another segmentation, is active.

    segment_rows: what segment_rows() returns, or whether surfaces are shown. The others are named as the part of the state.
    """

    connection: Signal = field(default_factory=Signal)
    round_trip: Signal = field(default_factory=Signal)
    volume: Signal = field(default_factory=Signal)
    model: Signal = field(default_factory=Signal)
    embedding: Signal = field(default_factory=Signal)
    latency: Signal = field(default_factory=Signal)
    stream: Signal = field(default_factory=Signal)
    mask: Signal = field(default_factory=Signal)
    history: Signal = field(default_factory=Signal)
    segments: Signal = field(default_factory=Signal)
    graph: Signal = field(default_factory=Signal)
    weights: Signal = field(default_factory=Signal)
    segment_rows: Signal = field(default_factory=Signal)
    log: Signal = field(default_factory=Signal)
    controls: Signal = field(default_factory=Signal)
