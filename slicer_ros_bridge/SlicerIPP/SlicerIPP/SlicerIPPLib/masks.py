# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Masks that come from the graph: checked, cleaned, written into the segment."""

from __future__ import annotations

import time

import numpy as np

from samm_core import ipp
from samm_core.errors import SammError

from .connection import Connection
from .events import Events
from .i18n import tr as _
from .log import Log
from .parameters import Parameters
from .prompts import Prompts, Rejection, SentPrompt
from .segments import Segments
from .state import State


class Masks:
    """Applies each mask once, or says why not. The graph gets an answer either way."""

    def __init__(
        self,
        parameters: Parameters,
        state: State,
        events: Events,
        log: Log,
        connection: Connection,
        prompts: Prompts,
        segments: Segments,
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._events = events
        self._log = log
        self._connection = connection
        self._prompts = prompts
        self._segments = segments

    def receive(self, message: ipp.Message, mask: np.ndarray) -> None:
        """mask: (rows, columns) bool, as the message says."""
        started_ns = time.monotonic_ns()
        sent = self._prompts.find(message)
        rejection = self._prompts.rejection(message, sent)
        if rejection is None:
            try:
                self._apply(sent, mask)
            except SammError as error:
                rejection = Rejection(str(error))
        self._connection.send(
            "applied",
            cycle=message["cycle"],
            stream=message["stream"],
            completed=rejection is None,
            started_ns=started_ns,
            ended_ns=time.monotonic_ns(),
        )
        if rejection:
            self._reject(rejection)
            return
        self._prompts.applied(sent)
        self._state.score = message["score"]
        self._events.mask.emit()

    def refused(self, message: ipp.Message) -> None:
        """The graph has no mask for a prompt."""
        self._prompts.refused(message)
        self._state.score = None
        self._state.prompt_problem = message["message"]
        self._log.warn(message["message"])

    def _apply(self, sent: SentPrompt, mask: np.ndarray) -> None:
        p = self._parameters
        mask = cleaned(mask, p.remove_holes, p.remove_islands, sent.positive_xy)
        self._segments.write(sent.request.segment, sent.axis, sent.request.image.key.index, mask)

    def _reject(self, rejection: Rejection) -> None:
        self._state.dropped += 1
        if not rejection.is_expected:
            self._state.prompt_problem = _("A mask was not applied. {reason}").format(reason=rejection.reason)
            self._log.warn(self._state.prompt_problem)
            self._events.controls.emit()


def cleaned(
    mask: np.ndarray, remove_holes: bool, remove_islands: bool, positive_xy: np.ndarray
) -> np.ndarray:
    """The mask without its holes, or without its islands, if wanted. positive_xy: (N, 2) pixels.

    An island is a part that holds no positive point; without any point in the mask, every part but the largest.
    """
    if not (remove_holes or remove_islands) or not mask.any():
        return mask
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    if remove_holes:
        image = sitk.BinaryFillhole(image)
    if not remove_islands:
        return sitk.GetArrayFromImage(image).astype(bool)
    parts = sitk.GetArrayFromImage(sitk.RelabelComponent(sitk.ConnectedComponent(image)))
    rows, columns = mask.shape
    pixels = [(round(x), round(y)) for x, y in positive_xy]
    marked = {int(parts[y, x]) for x, y in pixels if 0 <= y < rows and 0 <= x < columns}
    # Relabelled by size: the first is the largest.
    return np.isin(parts, sorted(marked - {0}) or [1])
