# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The colours of new segments, the same in the graph and in 3D Slicer."""

from __future__ import annotations

# Red, green, blue, 0 to 1. Slicer's first generic colours.
_COLORS = (
    (0.502, 0.682, 0.502),
    (0.945, 0.839, 0.569),
    (0.694, 0.478, 0.396),
    (0.435, 0.722, 0.824),
    (0.847, 0.396, 0.310),
    (0.867, 0.510, 0.396),
    (0.565, 0.933, 0.565),
    (0.753, 0.408, 0.345),
)


def segment_color(index: int) -> tuple[float, float, float]:
    """The colour of the segment that is added after `index` others."""
    return _COLORS[index % len(_COLORS)]
