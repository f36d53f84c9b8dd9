# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One cycle without ROS: the request, its answer, and the rule that says whether an answer may be applied."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MaskError
from ..geometry import VolumeGeometry
from ..mask_codec import MaskEncoding, decode_mask
from ..prompts import PixelPrompt, Prompt, client_name_error, segment_name_error
from ..sources.base import ImageId, SliceKey, not_loaded
from ..sources.window import Window

if TYPE_CHECKING:
    from ..sources.volume import LoadedVolume

# So many clients are answered at a time, whatever the others do.
MAX_CLIENTS = 64
# Clients beyond this many push out the one that has been silent longest, so that names sent at random cannot fill memory,
# and MAX_CLIENTS that take turns never push out each other.
REMEMBERED_CLIENTS = 4 * MAX_CLIENTS

# How the refusal begins that says what a request still waits for. Its mask may come yet, and is applied then.
STILL_WAITING = "There is no mask yet."


# The index in the image of a prompt whose slice is the one that its first point, or its box's centre, lies on.
SLICE_FROM_POSITION = -1


@dataclass(frozen=True, eq=False)
class ClientPrompt:
    """A prompt of a client, from where it is given to SND_INF.

    segment: which its mask is for; empty: the active one. image: as far as the prompt names it. An empty source is the
    volume that was loaded last, no window is the volume's. prompt: None where it is malformed, for which `problem` is the
    sentence. cycle: the client's own number; 0: it gave none. came_ns: when it reached SND_INF, of CLOCK_MONOTONIC.
    overtaken: earlier prompts of its client that came in together with it.
    """

    client_id: str
    segment: str
    image: ImageId
    prompt: Prompt | None
    cycle: int = 0
    problem: str = ""
    came_ns: int = 0
    overtaken: int = 0

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        client_id: str = "",
        segment: str = "",
        volume_uid: str = "",
        window: Window | None = None,
    ) -> ClientPrompt:
        """A prompt as a client gives it."""
        index = SLICE_FROM_POSITION if prompt.slice_index is None else int(prompt.slice_index)
        image = ImageId(volume_uid, SliceKey(prompt.plane, index, window))
        return cls(client_id, segment, image, prompt)

    def error(self) -> str:
        """Why it has no mask on any volume, one sentence; empty: it may have one."""
        return client_name_error(self.client_id) or segment_name_error(self.segment) or self.problem


@dataclass(frozen=True, eq=False)
class UnreadPrompt:
    """A prompt of a client that is not read before it can be sent: most of a drag's are overtaken by then.

    target: what the prompts on one image for one segment have in common; empty: that is known when it is read. read: gives
    the prompt; never raises. overtaken: as of ClientPrompt.
    """

    client_id: str
    cycle: int
    target: tuple[object, ...]
    read: Callable[[], ClientPrompt]
    overtaken: int = 0


@dataclass(frozen=True, eq=False)
class Request:
    """What SND_INF sends: a prompt in pixels of a slice whose array has `shape` (rows, columns)."""

    cycle: int
    client_id: str
    segment: str
    image: ImageId
    shape: tuple[int, int]
    prompt: PixelPrompt

    def checksum(self) -> int:
        """CRC-32 of every field."""
        prompt = self.prompt
        box = b"" if prompt.box_xyxy is None else prompt.box_xyxy.tobytes()
        return crc32_of_parts(
            *_identity(self.cycle, self.client_id, self.segment, self.image, self.shape),
            prompt.points_xy.tobytes(),
            prompt.labels.tobytes(),
            box,
            bytes([prompt.choice]),
        )


@dataclass(frozen=True)
class Answer:
    """What CPL_INF sends for a request: an encoded mask of `shape` (rows, columns), or the sentence why there is none.

    choices: how many masks the model proposed, this one among them, see PixelPrompt.choice; 0: not known.
    """

    cycle: int
    client_id: str
    segment: str
    image: ImageId
    shape: tuple[int, int]
    model: str = ""
    encoding: MaskEncoding = MaskEncoding.BITS_ZLIB
    data: bytes = b""
    score: float = 0.0
    error: str = ""
    choices: int = 0

    def checksum(self) -> int:
        """CRC-32 of every field."""
        return crc32_of_parts(
            *_identity(self.cycle, self.client_id, self.segment, self.image, self.shape),
            self.model.encode(),
            struct.pack("<BfB", self.encoding, self.score, self.choices),
            self.error.encode(),
            self.data,
        )

    @property
    def mask(self) -> np.ndarray:
        """(rows, columns) bool, decoded anew at each call. Raises MaskError where there is none, or it is damaged."""
        if self.error:
            raise MaskError(self.error)
        return decode_mask(self.data, self.shape, self.encoding)


def refusal(request: Request, error: str) -> Answer:
    """The answer that says in one sentence why `request` has no mask."""
    return Answer(
        request.cycle, request.client_id, request.segment, request.image, request.shape, error=error
    )


@dataclass
class CycleCounter:
    """Numbers cycles so that they only ever grow, also after a restart on the same clock.

    It starts at the milliseconds since 1970 (below 2⁵³, exact in any reader): a restarted client would have to have
    sent more than 1,000 prompts a second all its life to meet a number again.
    """

    newest: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def next(self) -> int:
        self.newest += 1
        return self.newest


@dataclass
class ApplyRule:
    """Says whether an answer may be applied, from what each client asked for and got last.

    The caller tells it of every request and of every answer that was applied. Nothing else is remembered, so that a
    lost request makes it no stricter than the answers themselves.
    """

    _requested: dict[str, Request] = field(default_factory=dict)
    _settled: dict[str, int] = field(default_factory=dict)
    # Of these cycles a mask may come yet, by client: they were settled by a refusal that said so.
    _awaited: dict[str, int] = field(default_factory=dict)

    def requested(self, request: Request) -> None:
        """`request` was sent."""
        newest = self._requested.get(request.client_id)
        if newest is None or request.cycle > newest.cycle:
            remember(self._requested, request.client_id, request)

    def settled(self, client_id: str, cycle: int, error: str = "") -> None:
        """The answer of a client's cycle was applied, or its error shown."""
        if cycle >= self._settled.get(client_id, 0):
            self._awaited.pop(client_id, None)
            if error.startswith(STILL_WAITING):
                remember(self._awaited, client_id, cycle)
        remember(self._settled, client_id, max(cycle, self._settled.get(client_id, 0)))

    def error(self, answer: Answer, geometry: VolumeGeometry) -> str:
        """Why `answer` must not be applied to its volume, one sentence; empty: it may."""
        key = answer.image.key
        if not geometry.contains_slice(key.plane, key.index):
            return f"The mask is for the {key}, which the volume does not have."
        if answer.shape != geometry.slice_shape(key.plane):
            expected = geometry.slice_shape(key.plane)
            return f"The mask is {answer.shape} pixels, but the {key} is {expected}."
        is_awaited = answer.cycle == self._awaited.get(answer.client_id)
        if answer.cycle <= self._settled.get(answer.client_id, 0) and not is_awaited:
            return f"The mask of cycle {answer.cycle} is no newer than what is applied."
        newest = self._requested.get(answer.client_id)
        if newest and answer.cycle < newest.cycle and _target(answer) != _target(newest):
            return f"The mask is for the {answer.image}, but its client has gone on to the {newest.image}."
        if newest and answer.cycle == newest.cycle and _target(answer) != _target(newest):
            return f"The mask of cycle {answer.cycle} is not for what that cycle asked for."
        return ""

    def cycles(self) -> dict[str, tuple[int, int]]:
        """The newest cycle that each client asked for, and the newest that is settled; 0 for none."""
        asked = {client_id: request.cycle for client_id, request in self._requested.items()}
        return {c: (asked.get(c, 0), self._settled.get(c, 0)) for c in {**self._settled, **asked}}

    def is_settled(self, answer: Answer) -> bool:
        """Whether the client has had its answer to that cycle, or to a newer one, and awaits no other to it."""
        return (
            answer.cycle <= self._settled.get(answer.client_id, 0)
            and self._awaited.get(answer.client_id) != answer.cycle
        )

    def waiting(self) -> Iterable[Request]:
        """The newest request of each client that has no answer yet."""
        return [r for client, r in self._requested.items() if r.cycle > self._settled.get(client, 0)]


def request_error(request: Request, volumes: Mapping[str, LoadedVolume]) -> str:
    """Why `request` cannot be answered on one of the volumes that are loaded, by uid, one sentence; empty: it can."""
    image, volume = request.image, volumes.get(request.image.source)
    if volume is None:
        return not_loaded(image.source)
    if problem := volume.problem(image.key):
        return problem
    rows, columns = volume.geometry.slice_shape(image.key.plane)
    if request.shape != (rows, columns):
        return f"The prompt is for a slice of {request.shape} pixels, but the {image} is {(rows, columns)}."
    outside = request.prompt.outside(rows, columns)
    return outside and f"{outside} the {image}, which is {columns}×{rows} pixels; move it onto the slice."


def remember(clients: dict, client_id: str, value: object) -> None:
    """Put a value for a client, and forget the client that was put longest ago when there are too many."""
    clients.pop(client_id, None)
    clients[client_id] = value
    if len(clients) > REMEMBERED_CLIENTS:
        del clients[next(iter(clients))]


def _target(message: Request | Answer) -> tuple[ImageId, str]:
    return message.image, message.segment


def _identity(
    cycle: int, client_id: str, segment: str, image: ImageId, shape: tuple[int, int]
) -> tuple[bytes, ...]:
    key = image.key
    window = (key.window.lower, key.window.upper) if key.window else (0.0, 0.0)
    numbers = struct.pack("<QBiddII", cycle, key.plane, key.index, *window, *shape)
    return numbers, client_id.encode(), segment.encode(), image.source.encode()


def crc32_of_parts(*parts: bytes) -> int:
    """CRC-32 over all parts, each preceded by its length in bytes as a little-endian uint32."""
    crc = 0
    for part in parts:
        # With its length, "ab" and "c" differ from "a" and "bc".
        crc = zlib.crc32(part, zlib.crc32(struct.pack("<I", len(part)), crc))
    return crc
