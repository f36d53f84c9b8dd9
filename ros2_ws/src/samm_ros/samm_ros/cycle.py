# SPDX-License-Identifier: Apache-2.0
"""One cycle without ROS: the request, its answer, and the rule that says whether an answer may be applied."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from .geometry import Plane, VolumeGeometry
from .mask_codec import MaskEncoding
from .prompts import PixelPrompt

# Clients beyond this many push out the one that has been silent longest, so that names sent at random cannot fill memory.
MAX_CLIENTS = 64


@dataclass(frozen=True)
class SliceId:
    """One slice of one volume; index runs along the plane's IJK axis, from 0."""

    volume_uid: str
    plane: Plane
    index: int

    def __str__(self) -> str:
        return f"{self.plane.name.lower()} slice {self.index}"


@dataclass(frozen=True, eq=False)
class Request:
    """What SND_INF sends: a prompt in pixels of a slice whose array has `shape` (rows, columns)."""

    cycle: int
    client_id: str
    segment: str
    slice: SliceId
    shape: tuple[int, int]
    prompt: PixelPrompt

    def checksum(self) -> int:
        """CRC-32 of every field."""
        prompt = self.prompt
        box = b"" if prompt.box_xyxy is None else prompt.box_xyxy.tobytes()
        return _crc32(
            *_identity(self.cycle, self.client_id, self.segment, self.slice, self.shape),
            prompt.points_xy.tobytes(),
            prompt.labels.tobytes(),
            box,
        )


@dataclass(frozen=True)
class Answer:
    """What CPL_INF sends for a request: an encoded mask of `shape` (rows, columns), or the sentence why there is none."""

    cycle: int
    client_id: str
    segment: str
    slice: SliceId
    shape: tuple[int, int]
    model: str = ""
    encoding: MaskEncoding = MaskEncoding.BITS_ZLIB
    data: bytes = b""
    score: float = 0.0
    error: str = ""

    def checksum(self) -> int:
        """CRC-32 of every field."""
        return _crc32(
            *_identity(self.cycle, self.client_id, self.segment, self.slice, self.shape),
            self.model.encode(),
            struct.pack("<Bf", self.encoding, self.score),
            self.error.encode(),
            self.data,
        )


def refusal(request: Request, error: str) -> Answer:
    """The answer that says in one sentence why `request` has no mask."""
    return Answer(
        request.cycle, request.client_id, request.segment, request.slice, request.shape, error=error
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

    def requested(self, request: Request) -> None:
        """`request` was sent."""
        newest = self._requested.get(request.client_id)
        if newest is None or request.cycle > newest.cycle:
            _remember(self._requested, request.client_id, request)

    def settled(self, client_id: str, cycle: int) -> None:
        """The answer of a client's cycle was applied, or its error shown."""
        _remember(self._settled, client_id, max(cycle, self._settled.get(client_id, 0)))

    def objection(self, answer: Answer, volume_uid: str, geometry: VolumeGeometry) -> str:
        """Why `answer` must not be applied to the volume that is shown, one sentence; empty: it may."""
        if answer.slice.volume_uid != volume_uid:
            return f"The mask is for the volume {answer.slice.volume_uid[:8]}, but {volume_uid[:8]} is shown."
        if not geometry.contains_slice(answer.slice.plane, answer.slice.index):
            return f"The mask is for the {answer.slice}, which the volume does not have."
        if answer.shape != geometry.slice_shape(answer.slice.plane):
            expected = geometry.slice_shape(answer.slice.plane)
            return f"The mask is {answer.shape} pixels, but the {answer.slice} is {expected}."
        if answer.cycle <= self._settled.get(answer.client_id, 0):
            return f"The mask of cycle {answer.cycle} is no newer than what is applied."
        newest = self._requested.get(answer.client_id)
        if newest and answer.cycle < newest.cycle and _target(answer) != _target(newest):
            return f"The mask is for the {answer.slice}, but its client has gone on to the {newest.slice}."
        if newest and answer.cycle == newest.cycle and _target(answer) != _target(newest):
            return f"The mask of cycle {answer.cycle} is not for what that cycle asked for."
        return ""

    def cycles(self) -> dict[str, tuple[int, int]]:
        """The newest cycle that each client asked for, and the newest that is settled; 0 for none."""
        asked = {client_id: request.cycle for client_id, request in self._requested.items()}
        return {c: (asked.get(c, 0), self._settled.get(c, 0)) for c in {**self._settled, **asked}}

    def waiting(self) -> Iterable[Request]:
        """The newest request of each client that has no answer yet."""
        return [r for client, r in self._requested.items() if r.cycle > self._settled.get(client, 0)]


def request_objection(request: Request, volume_uid: str, geometry: VolumeGeometry) -> str:
    """Why `request` cannot be answered on the volume that is loaded, one sentence; empty: it can."""
    if request.slice.volume_uid != volume_uid:
        return f"The prompt is for the volume {request.slice.volume_uid[:8]}, but {volume_uid[:8]} is loaded."
    if not geometry.contains_slice(request.slice.plane, request.slice.index):
        last = geometry.slice_count(request.slice.plane) - 1
        return f"There is no {request.slice}; the volume has slices 0 to {last} in that plane."
    rows, columns = geometry.slice_shape(request.slice.plane)
    if request.shape != (rows, columns):
        return f"The prompt is for a slice of {request.shape} pixels, but the {request.slice} is {(rows, columns)}."
    outside = request.prompt.outside(rows, columns)
    return (
        outside
        and f"{outside} the {request.slice}, which is {columns}×{rows} pixels; move it onto the slice."
    )


def _remember(clients: dict, client_id: str, value: object) -> None:
    clients.pop(client_id, None)
    clients[client_id] = value
    if len(clients) > MAX_CLIENTS:
        del clients[next(iter(clients))]


def _target(message: Request | Answer) -> tuple[SliceId, str]:
    return message.slice, message.segment


def _identity(
    cycle: int, client_id: str, segment: str, slice_id: SliceId, shape: tuple[int, int]
) -> tuple[bytes, ...]:
    numbers = struct.pack("<QBiII", cycle, slice_id.plane, slice_id.index, *shape)
    return numbers, client_id.encode(), segment.encode(), slice_id.volume_uid.encode()


def _crc32(*parts: bytes) -> int:
    crc = 0
    for part in parts:
        # The length goes in first: "ab" + "c" must not pass for "a" + "bc".
        crc = zlib.crc32(part, zlib.crc32(struct.pack("<I", len(part)), crc))
    return crc
