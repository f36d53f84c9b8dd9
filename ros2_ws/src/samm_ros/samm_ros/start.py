# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The executables of the nodes. Importing a node takes a second, and a signal has to end it quietly then too."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Python's own is 5 ms, and a prompt changes threads four times in a server.
_SWITCH_S = 0.0005


@dataclass(frozen=True)
class Executable:
    """Runs the `main` of a module when it is called.

    later: modules that it imports in its time, for whoever has the time to import them for it.
    """

    module: str
    later: tuple[str, ...] = ()

    def __call__(self) -> None:
        end_quietly()
        self.load()()

    def load(self) -> Callable[[], None]:
        """Import its module; gives the module's `main`."""
        # NumPy's threads wait for work by spinning, on the cores that the model's threads need: a slice of a propagated
        # structure took 39 ms with them, 29 without. It reads this when it is imported.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # A thread that has a message waits no longer than this for Python's lock, beside one that carries masks.
        sys.setswitchinterval(_SWITCH_S)
        return importlib.import_module(self.module).main


def end_quietly() -> None:
    """Have a signal end this process without a word: nothing has to be cleaned up yet.

    support.process.ros sets its own handlers before it creates anything.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))


_MODEL = ("samm_core.models.backends.openvino",)

snd_inf = Executable("samm_ros.nodes.snd_inf")
rcv_inf = Executable("samm_ros.nodes.rcv_inf")
embedding = Executable("samm_ros.nodes.embedding", _MODEL)
cpl_inf = Executable("samm_ros.nodes.cpl_inf", _MODEL)
rcv_msk = Executable("samm_ros.nodes.rcv_msk")
apl_msk = Executable("samm_ros.nodes.apl_msk")
world = Executable("samm_ros.nodes.world")
samm_server = Executable("samm_ros.nodes.samm_server", _MODEL)
samm_client = Executable("samm_ros.nodes.samm_client")
slicer_bridge = Executable("slicer_ros_bridge.bridge")
