# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the race asks of a design, and what it measures of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

MOUSE_HZ = 120.0


@dataclass(frozen=True, eq=False)
class Spot:
    """A box on an axial slice. box: (4,) x0 y0 x1 y1 in its pixels. points: (n, 2), instead of the box."""

    index: int
    box: np.ndarray
    points: np.ndarray | None = None

    def moved(self, seconds: float) -> Spot:
        """Where the pointer has it after so long: up to 4 pixels aside, one way and back in a second."""
        shift = 4.0 * np.sin(2 * np.pi * seconds)
        return Spot(self.index, (self.box + shift).astype(np.float32), self.points)


@dataclass(frozen=True)
class Timed:
    """One answered prompt, ms: from the pointer's movement to the mask applied; of it, decoding, and waiting for the decoder."""

    total_ms: float
    decode_ms: float
    queue_ms: float = 0.0

    @property
    def overhead_ms(self) -> float:
        return self.total_ms - self.decode_ms


@dataclass(frozen=True)
class Drag:
    """Seconds of a moving pointer, or of several. cores: how many cores' worth of time all processes took meanwhile."""

    seconds: float
    moves: int
    answered: Sequence[Timed]
    by_client: Sequence[int]
    cores: float

    @property
    def rate(self) -> float:
        """Masks a second and client."""
        return len(self.answered) / self.seconds / len(self.by_client)


class Design(ABC):
    """A context manager, ready once entered; every wait in it has a limit and raises LaunchError."""

    name: str

    @abstractmethod
    def __enter__(self) -> Design: ...

    @abstractmethod
    def __exit__(self, *exception: object) -> None: ...

    @abstractmethod
    def first_mask(self, path: Path, spot: Spot, said: Callable[[str], None]) -> float:
        """Seconds from asking for the volume, all of it, to the first mask applied."""

    @abstractmethod
    def load(self, path: Path, spot: Spot) -> None:
        """Load a volume and embed the spot's slice alone."""

    @abstractmethod
    def clicks(self, spots: Sequence[Spot]) -> list[Timed]:
        """Prompt after prompt at times of the pointer's own, each when the last is applied."""

    @abstractmethod
    def drag(self, spot: Spot, clients: int, seconds: float) -> Drag:
        """As many pointers as clients, each moving its box MOUSE_HZ times a second."""

    @property
    @abstractmethod
    def processes(self) -> list[int]:
        """Process ids beside the caller's."""

    def memory_mib(self) -> float:
        """Resident memory of the processes together."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self.processes) / 2**20

    def processor_s(self) -> float:
        """Processor time of the processes and of the caller's, where the pointer and its client are."""
        times = [psutil.Process(pid).cpu_times() for pid in (*self.processes, psutil.Process().pid)]
        return sum(t.user + t.system for t in times)
