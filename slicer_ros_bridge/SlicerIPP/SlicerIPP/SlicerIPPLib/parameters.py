# SPDX-License-Identifier: Apache-2.0
"""What a user chooses. In the desktop the module's parameter node has the same attributes and is saved with the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Parameters:
    """Nodes are None until they are chosen. box: a ROI node of which the extent on the shown slice counts; roi: 3-D."""

    address: str = "tcp://127.0.0.1:8800"
    keys_folder: str = ""
    volume: Any = None
    segmentation: Any = None
    segment_id: str = ""
    positive: Any = None
    negative: Any = None
    box: Any = None
    roi: Any = None
    view: str = "Red"
    live: bool = True
    remove_holes: bool = False
    remove_islands: bool = False
    propagate_slices: int = 5
