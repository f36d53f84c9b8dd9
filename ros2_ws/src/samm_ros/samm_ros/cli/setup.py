# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm setup`: the set-up alone."""

from __future__ import annotations

import argparse

HELP = "set this folder up, or bring it up to date, and do nothing else"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def main(args: argparse.Namespace) -> int:
    """0. ./samm has done the set-up before it calls this."""
    print("Everything is set up.")
    return 0
