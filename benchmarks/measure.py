# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What benchmarks share: times taken in turn, the machine's measured peak, and tables."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

# A file or a pipe has no width; the tables need this much.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def in_turn(calls: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, np.ndarray]:
    """Seconds of each call, (repeat,) float64, one after the other in turn: what disturbs the machine disturbs all."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(taken) for name, taken in seconds.items()}


def peak_gflops() -> float:
    """Billions of float32 operations a second in a large product of matrices, by torch: the best of several."""
    import torch

    a = torch.rand(1536, 1536)
    best = min(in_turn({"product": lambda: a @ a}, 12)["product"])
    return 2 * 1536**3 / best / 1e9


def gflop_of(call: Callable[[], object]) -> float:
    """Billions of floating-point operations in the products and convolutions of a torch call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def machine() -> str:
    """The processor and the cores used, for a table's title."""
    from samm_core.models.backends.openvino import core_count

    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    model = value.strip()
                elif key.strip() == "flags":
                    flags = set(value.split())
    except OSError:
        pass
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{model}, {core_count()} cores, {' '.join(known)}"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; every cell as it is."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
