# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm soak`: measures what is required of samm_ros' behaviour over time and in trouble, by the checkout's `benchmarks/soak`."""

from __future__ import annotations

import argparse

from .bench import benchmark, run

HELP = "measure what is required: kills, stale masks, recordings, overload, losses, hours of work; prints required and measured"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benchmark("soak").add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0: no requirement was missed; 1: one was; 130: interrupted by Ctrl-C, after what was measured is shown."""
    return run("soak", args)
