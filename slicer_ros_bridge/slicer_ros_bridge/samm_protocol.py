# SPDX-License-Identifier: Apache-2.0
"""The SAMM extension's protocol. Not there yet: every request is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MAX_FRAME_BYTES = 1 << 26


class SammSession:
    """Refuses every request with uint8 0."""

    def __init__(self, graph: object, problem: Callable[[str], None]) -> None:
        pass

    def handle(self, frames: Sequence[bytes], reply: Callable[[bytes], None]) -> None:
        reply(b"\0")
