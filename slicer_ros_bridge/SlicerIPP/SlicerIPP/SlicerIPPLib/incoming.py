# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What comes from the bridge, put where it belongs: into the state, or to the part that acts on it."""

from __future__ import annotations

from collections.abc import Callable

from samm_core import ipp

from .client_events import (
    ClientEvent,
    ImageReceived,
    MaskReceived,
    MessageReceived,
    ProblemFound,
    ReplyReceived,
    RoundTripMeasured,
    StateChanged,
)
from .connection import Connection
from .events import Events
from .log import Log
from .masks import Masks
from .runs import Runs
from .state import EmbeddingProgress, Model, State
from .stream import Stream
from .volume import VolumeLoader
from .weights import Weights


class Incoming:
    """Handles one event of the client at a time."""

    def __init__(
        self,
        state: State,
        events: Events,
        log: Log,
        connection: Connection,
        volume: VolumeLoader,
        masks: Masks,
        runs: Runs,
        stream: Stream,
        weights: Weights,
        marks_wait: Callable[[], None],
    ) -> None:
        """marks_wait: called when what is marked may be sent now, or should be once more."""
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection
        self._volume = volume
        self._masks = masks
        self._runs = runs
        self._stream = stream
        self._weights = weights
        self._marks_wait = marks_wait
        self._on_message = {
            "welcome": self._on_welcome,
            "model": self._on_model,
            "volume": volume.on_graph_volume,
            "embedding": self._on_embedding,
            "cycle": self._on_cycle,
            "refused": masks.refused,
            "volume_progress": runs.progressed,
            "weights": weights.listed,
            "weights_progress": weights.progressed,
            "error": lambda message: log.warn(message["message"]),
        }

    def handle(self, event: ClientEvent) -> None:
        """Raises SammError for what the bridge should not have sent."""
        if isinstance(event, MaskReceived) and event.message.type == "volume_mask":
            self._runs.receive(event.message, event.mask)
        elif isinstance(event, MaskReceived):
            self._masks.receive(event.message, event.mask)
        elif isinstance(event, ImageReceived):
            self._stream.receive(event.message, event.pixels, event.labels)
        elif isinstance(event, MessageReceived):
            on_message = self._on_message.get(event.message.type)
            if on_message:
                on_message(event.message)
            self._events.controls.emit()
        elif isinstance(event, ReplyReceived):
            event.on_reply(event.message)
        elif isinstance(event, StateChanged):
            self._connection.set_state(event.state)
        elif isinstance(event, RoundTripMeasured):
            self._state.round_trip_ms = event.milliseconds
            self._events.round_trip.emit()
        elif isinstance(event, ProblemFound):
            self._log.warn(event.sentence)

    def _on_welcome(self, message: ipp.Message) -> None:
        self._state.models = list(message["models"])
        self._state.tasks = list(message.get("tasks", ()))
        presets = message["window_presets"]
        self._state.window_presets = {name: (lower, upper) for name, (lower, upper) in presets.items()}
        self._events.model.emit()
        self._weights.ask()

    def _on_model(self, message: ipp.Message) -> None:
        self._state.model = Model.from_message(message) if message["name"] else None
        self._marks_wait()
        self._events.model.emit()

    def _on_embedding(self, message: ipp.Message) -> None:
        self._state.embedding = EmbeddingProgress.from_message(message)
        self._events.embedding.emit()

    def _on_cycle(self, message: ipp.Message) -> None:
        self._state.latency = {**message["intervals_ms"], "total": message["total_ms"]}
        self._events.latency.emit()
