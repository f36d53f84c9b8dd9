# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, one file each, with main(args): `samm bench` runs them."""

import os
import sys
import tempfile


def set_roots() -> None:
    """Let this process' graphs load volumes of packages and of temporary folders, unless the user has chosen roots."""
    os.environ.setdefault("SAMM_ROOTS", os.pathsep.join([sys.prefix, tempfile.gettempdir(), os.getcwd()]))
