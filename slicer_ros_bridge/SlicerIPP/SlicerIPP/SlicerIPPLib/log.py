# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The sentences for the user: what happened, and what to do about it."""

from __future__ import annotations

from .events import Signal
from .state import State

MAX_LINES = 200


class Log:
    """Writes into the state's log and says so."""

    def __init__(self, state: State, changed: Signal) -> None:
        self._state = state
        self._changed = changed

    def say(self, sentence: str) -> None:
        self._state.log = [*self._state.log[1 - MAX_LINES :], sentence]
        self._changed.emit()

    def warn(self, sentence: str) -> None:
        """Say what is wrong, but not twice in a row: a drag meets the same problem a hundred times a second."""
        if not self._state.log or self._state.log[-1] != sentence:
            self.say(sentence)
