# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer's translation of what a user reads. On slicer-core, which has none, a text stays as it is."""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        return text


__all__ = ["tr"]
