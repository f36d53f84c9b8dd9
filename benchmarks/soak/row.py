# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a requirement yields, how much is done to measure it, and the figures that several of them share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from samm_core.cycle.request import MAX_CLIENTS

SOAK_MINUTES = 60.0
# Of a shorter soak no slope is judged.
JUDGED_MINUTES = 20.0
# With fewer cycles, p99 is no more than the slowest of them, and is not judged.
LEAST_CYCLES = 100


@dataclass(frozen=True)
class Row:
    """One line of the table. met: None where it could not be judged; `measured` says why then."""

    name: str
    required: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Size:
    """How much is done. kills: of all processes together. reads: of a bag. prompts: in a row, for a percentile. clients: at once."""

    soak_s: float
    idle_s: float
    reads: int
    kills: int
    bridge_restarts: int
    recordings: int
    stops: int
    overload_s: float
    prompts: int
    rounds: int
    clients: int

    @classmethod
    def of(cls, minutes: float) -> Size:
        """As many as the requirements name for SOAK_MINUTES or more, and their share of it for less."""
        share = min(1.0, minutes / SOAK_MINUTES)

        def part(whole: int, least: int) -> int:
            return max(least, round(share * whole))

        return cls(
            soak_s=60 * minutes,
            idle_s=part(60, 10),
            reads=1000,
            kills=part(100, 5),
            bridge_restarts=part(50, 3),
            recordings=part(100, 5),
            stops=part(10, 1),
            overload_s=part(60, 5),
            prompts=part(1000, 100),
            rounds=part(20, 2),
            clients=MAX_CLIENTS,
        )


# That every requirement can be measured at all; not for figures.
SMALLEST = Size(
    soak_s=6.0,
    idle_s=1.0,
    reads=20,
    kills=1,
    bridge_restarts=1,
    recordings=1,
    stops=1,
    overload_s=1.0,
    prompts=10,
    rounds=1,
    clients=3,
)


class Run:
    """What runs: its size, what it says while it does, and how it goes.

    interrupted: the user has had enough. failed: something could not be measured, or not to its end.
    """

    def __init__(self, size: Size, say: Callable[[str], None]) -> None:
        self.size = size
        self.say = say
        self.interrupted = False
        self.failed = False

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C within it ends the measuring, not the program: what was measured by then is told."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True


def slope(hours: Sequence[float], values: Sequence[float], blocks: int = 12) -> tuple[float, float]:
    """Growth per hour, and the half width of its 95 % confidence interval; infinite for fewer than three values.

    Values that follow one another are alike, so the fit is to the means of blocks of them.
    """
    from scipy import stats

    blocks = min(blocks, len(values))
    if blocks < 3:
        return 0.0, float("inf")
    x = [float(part.mean()) for part in np.array_split(np.asarray(hours, float), blocks)]
    y = [float(part.mean()) for part in np.array_split(np.asarray(values, float), blocks)]
    fit = stats.linregress(x, y)
    return float(fit.slope), float(fit.stderr * stats.t.ppf(0.975, blocks - 2))


def percentile(values: Sequence[float], percent: float) -> float:
    """NaN when there are none."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def count(number: int, of: int) -> str:
    return f"{number} of {of}"
