# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a worker process does first, as Dask's --preload."""

from __future__ import annotations

import signal

from distributed import Worker


def dask_setup(worker: Worker) -> None:
    """A Ctrl-C in the terminal is for whoever started the workers: that process ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
