# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the client's thread has for the logic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from samm_core import ipp

OnReply = Callable[[ipp.Message], None]


class BridgeState(str, Enum):
    """LOST: it was connected, and the client looks for the bridge again."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    LOST = "lost"


class ClientEvent:
    """Any of the events below."""


@dataclass(frozen=True)
class StateChanged(ClientEvent):
    state: BridgeState


@dataclass(frozen=True)
class RoundTripMeasured(ClientEvent):
    """To the bridge and back, of a heartbeat."""

    milliseconds: float


@dataclass(frozen=True)
class MessageReceived(ClientEvent):
    """Any message but a mask and a reply."""

    message: ipp.Message


@dataclass(frozen=True, eq=False)
class MaskReceived(ClientEvent):
    """A mask of a prompt, or of a task over many slices. mask: (rows, columns) bool."""

    message: ipp.Message
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageReceived(ClientEvent):
    """An image of the live stream. pixels: (H, W) or (H, W, 3) RGB, uint8. labels: (H, W) uint8."""

    message: ipp.Message
    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class ReplyReceived(ClientEvent):
    """The reply to a request, or an `error` when the bridge was lost before it answered."""

    on_reply: OnReply
    message: ipp.Message


@dataclass(frozen=True)
class ProblemFound(ClientEvent):
    """sentence: what is wrong, and what to do."""

    sentence: str
