# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an event loop says of what went wrong in it, when pages come and go."""

from __future__ import annotations

import asyncio
from typing import Any


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: say what went wrong, unless it is that somebody closed a page."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)
