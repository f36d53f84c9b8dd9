# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The executables of the nodes. Importing a node takes seconds, and a signal has to end it quietly then too."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys

# Python's own is 5 ms, and a prompt changes threads four times in a server.
SWITCH_S = 0.0005


def _start(module: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # Nothing has to be cleaned up yet. support.process.ros sets its own handlers before it creates anything.
        signal.signal(number, lambda *_: os._exit(0))
    # NumPy's threads wait for work by spinning, on the cores that the model's threads need: a slice of a propagated
    # structure took 39 ms with them, 29 without. It reads this when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A thread that has a message waits no longer than this for Python's lock, beside one that carries masks.
    sys.setswitchinterval(SWITCH_S)
    importlib.import_module(module).main()


snd_inf = functools.partial(_start, "samm_ros.nodes.snd_inf")
rcv_inf = functools.partial(_start, "samm_ros.nodes.rcv_inf")
embedding = functools.partial(_start, "samm_ros.nodes.embedding")
cpl_inf = functools.partial(_start, "samm_ros.nodes.cpl_inf")
rcv_msk = functools.partial(_start, "samm_ros.nodes.rcv_msk")
apl_msk = functools.partial(_start, "samm_ros.nodes.apl_msk")
world = functools.partial(_start, "samm_ros.nodes.world")
samm_server = functools.partial(_start, "samm_ros.nodes.samm_server")
samm_client = functools.partial(_start, "samm_ros.nodes.samm_client")
slicer_bridge = functools.partial(_start, "slicer_ros_bridge.bridge")
