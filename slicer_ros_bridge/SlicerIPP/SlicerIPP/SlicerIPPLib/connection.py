# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The connection to the bridge: begun, ended, tried, and what is sent over it."""

from __future__ import annotations

import os
import platform
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from samm_core import ipp

from .client import IppClient
from .client_events import BridgeState, ClientEvent, OnReply
from .diagnosis import diagnose
from .events import Events
from .i18n import tr as _
from .log import Log
from .mailbox import Mailbox
from .state import State


class Connection:
    """No call waits. What comes in is taken with take(), once fileno() is readable."""

    def __init__(self, state: State, events: Events, log: Log) -> None:
        self._state = state
        self._events = events
        self._log = log
        self._client: IppClient | None = None
        self._name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._mailbox = Mailbox()
        self._posted: deque[Callable[[], None]] = deque()

    def open(self, address: str, keys_folder: str) -> None:
        """Begin to connect, and stay connected; the state says how far that is."""
        try:
            self._client = IppClient(address, self._name, keys_folder, self._mailbox.wake)
        except ValueError as error:
            self._log.warn(str(error))
            return
        self.set_state(BridgeState.CONNECTING)

    def disconnect(self) -> None:
        if self._client:
            self._client.close()
            self._client = None
        self.set_state(BridgeState.DISCONNECTED)

    def close(self) -> None:
        """Leave no thread and no socket behind."""
        self.disconnect()
        self._mailbox.close()

    def fileno(self) -> int:
        """Readable when take() has something."""
        return self._mailbox.fileno()

    def wake(self) -> None:
        """Make fileno() readable."""
        self._mailbox.wake()

    def post(self, call: Callable[[], None]) -> None:
        """Make take() make the call; from any thread."""
        self._posted.append(call)
        self._mailbox.wake()

    def wake_after(self, seconds: float) -> None:
        """Make fileno() readable then."""
        timer = threading.Timer(seconds, self._mailbox.wake)
        timer.daemon = True
        timer.start()

    def take(self) -> Iterator[ClientEvent]:
        """What has come in. Ends early when the connection is closed meanwhile."""
        self._mailbox.empty()
        while self._posted:
            self._posted.popleft()()
        client = self._client
        for event in client.take() if client else ():
            if self._client is not client:
                return
            yield event

    def test(self, address: str, keys_folder: str, done: Callable[[str], None]) -> None:
        """Try an address aside; take() calls `done` with one sentence: all is well, or what to do."""

        def test() -> None:
            sentence = diagnose(address, keys_folder)
            self.post(lambda: done(sentence))

        threading.Thread(target=test, daemon=True).start()

    def request(self, kind: str, on_reply: OnReply | None = None, buffer: bytes = b"", **fields: Any) -> None:
        """Send a request. Without on_reply its outcome goes to the log."""
        if self._client is None:
            self._log.warn(_("Connect first."))
            return
        self._client.request(kind, on_reply or self._log_reply, buffer, **fields)

    def send(self, kind: str, **fields: Any) -> None:
        """Send what has no reply."""
        if self._client:
            self._client.send(kind, **fields)

    def send_prompt(self, **fields: Any) -> None:
        if self._client:
            self._client.prompt(**fields)

    def send_volume(self, voxels: np.ndarray, fields: dict[str, Any], on_reply: OnReply) -> None:
        if self._client:
            self._client.send_volume(voxels, fields, on_reply)

    def set_state(self, state: BridgeState) -> None:
        if state == self._state.bridge:
            return
        self._state.bridge = state
        if state != BridgeState.CONNECTED:
            self._state.round_trip_ms = None
        if state == BridgeState.DISCONNECTED:
            # The volume and the weights that were on their way went with the client.
            self._state.is_loading = False
            self._state.fetching, self._state.fetch_progress = "", (0, 0)
            self._events.weights.emit()
        if state == BridgeState.LOST:
            self._log.say(_("The bridge was lost; it is looked for."))
        elif state == BridgeState.CONNECTED:
            self._log.say(_("Connected."))
        self._events.connection.emit()
        self._events.controls.emit()

    def _log_reply(self, reply: ipp.Message) -> None:
        if reply.type == "error":
            self._log.warn(reply["message"])
        elif reply.type == "done":
            self._log.say(reply["text"])
