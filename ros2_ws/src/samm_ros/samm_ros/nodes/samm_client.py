# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The client's nodes in one process."""

from __future__ import annotations

from ..support import process
from .apl_msk import AplMsk
from .rcv_msk import RcvMsk
from .snd_inf import SndInf
from .world import WorldNode


def main() -> None:
    with process.ros():
        # SND_INF first, as it then hears of a mask first: the server has its next request while APL_MSK applies the mask.
        snd_inf, rcv_msk, apl_msk, world = SndInf(), RcvMsk(), AplMsk(), WorldNode()
        # Writing a tracked sweep takes seconds; on threads of its own it delays no mask.
        with process.spinning_aside(world):
            process.spin(snd_inf, rcv_msk, apl_msk)
