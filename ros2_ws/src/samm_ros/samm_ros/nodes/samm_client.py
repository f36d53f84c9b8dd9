# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The client's three nodes in one process."""

from __future__ import annotations

from ..support import process
from .apl_msk import AplMsk
from .rcv_msk import RcvMsk
from .snd_inf import SndInf


def main() -> None:
    with process.ros():
        process.spin(SndInf(), RcvMsk(), AplMsk())
