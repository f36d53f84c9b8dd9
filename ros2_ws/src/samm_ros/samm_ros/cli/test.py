# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm test`: style, then tests."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

HELP = "check the style and run the tests; arguments go to pytest"
PASSES_ON = True

_DEFAULTS = ["-q", "-n", "2", "--dist", "loadgroup"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "samm test [PYTEST ARGUMENT …]"
    parser.epilog = f"Without arguments: pytest {' '.join(_DEFAULTS)} tests"


def main(args: argparse.Namespace) -> int:
    """The status of the first check that fails."""
    root = os.environ["SAMM_ROOT"]
    ruff = [sys.executable, "-m", "ruff"]
    pytest = [sys.executable, "-m", "pytest", *(args.rest or _DEFAULTS)]
    for command in ([*ruff, "check"], [*ruff, "format", "--check"], pytest):
        if status := subprocess.call(command, cwd=root):
            return status
    return 0
