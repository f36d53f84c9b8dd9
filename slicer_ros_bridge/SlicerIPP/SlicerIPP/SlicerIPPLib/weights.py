# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The models' weights on the graph's computer: listed, and fetched with progress."""

from __future__ import annotations

from samm_core import ipp

from .connection import Connection
from .events import Events
from .i18n import tr as _
from .log import Log
from .state import ModelWeights, State


class Weights:
    """One download at a time from here."""

    def __init__(self, state: State, events: Events, log: Log, connection: Connection) -> None:
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection

    def ask(self) -> None:
        """Request the list of weights, whose changes the bridge sends from then on. An older bridge leaves it empty."""

        def answered(reply: ipp.Message) -> None:
            if reply.type == "weights":
                self.listed(reply)

        self._state.weights = []
        self._connection.request("weights", answered)

    def listed(self, message: ipp.Message) -> None:
        """The graph says which weights it has; none while it is starting."""
        self._state.weights = [ModelWeights.from_record(each) for each in message["models"]]
        self._tell()

    def fetch(self, name: str) -> None:
        """Make the graph download the weights of a model; what it has of them it goes on from."""
        self._state.fetching, self._state.fetch_progress = name, (0, 0)

        def ended(reply: ipp.Message) -> None:
            self._state.fetching = ""
            if reply.type == "error":
                self._log.warn(reply["message"])
            else:
                # Progress may come later than this, and is not waited for.
                size = next((each.size for each in self._state.weights if each.model == name), 0)
                self._state.fetch_progress = (self._state.fetch_progress[1] or size,) * 2
                self._log.say(_("The weights of {name} are there: choose the model.").format(name=name))
            self._tell()

        self._connection.request("fetch_weights", ended, name=name)
        self._tell()

    def cancel(self) -> None:
        """End the download; what has come stays."""
        self._connection.request("cancel_fetch", lambda _reply: None)

    def progressed(self, message: ipp.Message) -> None:
        if message["name"] == self._state.fetching:
            self._state.fetch_progress = message["done"], message["total"]
            self._events.weights.emit()

    def _tell(self) -> None:
        self._events.weights.emit()
        self._events.controls.emit()
