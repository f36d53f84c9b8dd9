# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP without its widget: the client of the bridge, the logic over MRML, the writing of segments.

Coordinates, prompts, masks and messages are those of the package samm_core. A packaged extension has them beside this
folder; a module that Slicer loads from a checkout of samm_ros takes them from there.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("samm_core") is None:
    sys.path.append(str(Path(__file__).resolve().parents[4] / "ros2_ws" / "src" / "samm_core"))
