# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One training slice before it is encoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Picture:
    """image: (H, W) or (H, W, 3) uint8. masks: (H, W) bool each, of structures in it. source: where it comes from."""

    image: np.ndarray
    masks: list[np.ndarray]
    source: str
