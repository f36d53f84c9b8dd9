# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Prompts sent to the graph, and whether a mask that comes back may still be applied."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from samm_core import ipp
from samm_core.cycle.request import Answer, ApplyRule, CycleCounter, Request
from samm_core.geometry import Plane
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey

from .connection import Connection
from .i18n import tr as _
from .nodes import VoxelStamp, voxel_stamp
from .parameters import Parameters
from .segments import Segments
from .state import State
from .view import Place

# The stream of what is marked: within it the newest prompt wins.
INTERACTIVE = 0
# Prompts of a stream whose late masks, such as those of a drag, may still be for what is shown.
_REMEMBERED = 64


@dataclass(frozen=True, eq=False)
class SentPrompt:
    """request: as the core has it; its client is the stream, its segment the segment's id.

    axis: the IJK axis across the slice. volume_id: of the volume node. stamp: of the voxels that the graph had then.
    """

    request: Request
    axis: int
    volume_id: str
    stamp: VoxelStamp

    @property
    def slice_key(self) -> tuple[str, int, int]:
        """As Place.key."""
        return self.volume_id, self.axis, self.request.image.key.index

    @property
    def positive_xy(self) -> np.ndarray:
        """(N, 2) pixels: the points that the mask must hold."""
        prompt = self.request.prompt
        return prompt.points_xy[prompt.labels == 1]


@dataclass(frozen=True)
class Rejection:
    """Why a mask is not applied. is_expected: a newer mask follows or was applied, as in a drag; the user need not know."""

    reason: str
    is_expected: bool = False


class Prompts:
    """Numbers and remembers what is sent. The core's ApplyRule judges what comes back."""

    def __init__(
        self, parameters: Parameters, state: State, connection: Connection, segments: Segments
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._connection = connection
        self._segments = segments
        self._counter = CycleCounter()
        self._rule = ApplyRule()
        self._sent: dict[int, OrderedDict[int, SentPrompt]] = {}

    def send(self, stream: int, place: Place, prompt: PixelPrompt) -> int:
        """Send a prompt on a slice of the loaded volume, instead of any older one of its stream; its number."""
        segment_id = self._segments.active()
        graph, sent_volume = self._state.graph_volume, self._state.sent_volume
        plane = graph.plane_across(place.axis)
        shape = graph.geometry.slice_shape(plane)
        image = ImageId(sent_volume.uid, SliceKey(plane, place.index))
        request = Request(self._counter.next(), str(stream), segment_id, image, shape, prompt)
        self._rule.requested(request)
        self._remember(stream, SentPrompt(request, place.axis, place.volume_id, sent_volume.stamp))
        self._connection.send_prompt(
            number=request.cycle,
            stream=stream,
            uid=image.source,
            plane=int(plane),
            index=place.index,
            segment=self._segments.graph_name(segment_id),
            points_xy=prompt.points_xy.tolist(),
            labels=prompt.labels.tolist(),
            box_xyxy=None if prompt.box_xyxy is None else prompt.box_xyxy.tolist(),
        )
        return request.cycle

    def newest(self, stream: int) -> int:
        """The number of the stream's newest prompt; 0 before the first."""
        return next(reversed(self._sent.get(stream, {})), 0)

    def newest_answered(self, stream: int) -> int:
        """The number of the newest prompt that was refused, or whose mask was applied; 0 before the first."""
        return self._rule.cycles().get(str(stream), (0, 0))[1]

    def find(self, message: ipp.Message) -> SentPrompt | None:
        """The prompt that a mask answers."""
        return self._sent.get(message["stream"], {}).get(message["number"])

    def rejection(self, message: ipp.Message, sent: SentPrompt | None) -> Rejection | None:
        """Why a mask must not be applied; None: it may. sent: the prompt that it answers."""
        if sent is None:
            return Rejection(_("The mask answers no prompt of this session."))
        graph = self._state.graph_volume
        if not self._state.has_loaded(self._parameters.volume) or message["uid"] != graph.uid:
            return Rejection(_("The mask is for another volume."))
        request = sent.request
        image = ImageId(message["uid"], SliceKey(Plane(message["plane"]), message["index"]))
        if image != request.image:
            return Rejection(_("The mask is for another slice than its prompt."))
        if sent.stamp != voxel_stamp(self._parameters.volume):
            return Rejection(
                _("It is for what the volume held before it changed; mark again, or press Load.")
            )
        answer = Answer(request.cycle, request.client_id, request.segment, image, tuple(message["shape"]))
        why = self._rule.error(answer, graph.geometry)
        if why:
            is_late = request.cycle < self.newest(message["stream"]) or self._rule.is_settled(answer)
            return Rejection(why, is_expected=is_late)
        if sent.slice_key in self._state.frozen:
            return Rejection(_("The slice was frozen meanwhile."))
        return None

    def applied(self, sent: SentPrompt) -> None:
        self._rule.settled(sent.request.client_id, sent.request.cycle)

    def refused(self, message: ipp.Message) -> None:
        """The graph has no mask for a prompt, or none yet."""
        self._rule.settled(str(message["stream"]), message["number"], message["message"])

    def _remember(self, stream: int, sent: SentPrompt) -> None:
        prompts = self._sent.setdefault(stream, OrderedDict())
        prompts[sent.request.cycle] = sent
        if len(prompts) > _REMEMBERED:
            prompts.popitem(last=False)
