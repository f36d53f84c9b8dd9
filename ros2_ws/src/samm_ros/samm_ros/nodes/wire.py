# SPDX-License-Identifier: Apache-2.0
"""The wire format: messages to the core's plain types and back. The core sees no message, a node no message's bytes."""

from __future__ import annotations

import math
import zlib
from array import array
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from samm_msgs import msg

from ..cycle import Answer, Request, SliceId
from ..errors import MaskError, PromptError
from ..geometry import Plane, VolumeGeometry
from ..mask_codec import MaskEncoding
from ..prompts import PixelPrompt, Prompt
from ..trace import Completion, Outcome, Task, TaskEvent
from ..volume import Window

if TYPE_CHECKING:
    from ..models.base import Embedding

_COMPLETION = tuple(field.name for field in fields(Completion))


@dataclass(frozen=True, eq=False)
class LoadedVolume:
    """What `volume_info` says of the volume that is loaded, without its voxels."""

    uid: str
    name: str
    uri: str
    geometry: VolumeGeometry
    window: Window


def slice_to_msg(slice_id: SliceId) -> msg.SliceId:
    return msg.SliceId(volume_uid=slice_id.volume_uid, plane=int(slice_id.plane), index=slice_id.index)


def slice_from_msg(message: msg.SliceId) -> SliceId:
    """Raises PromptError for a plane that there is not."""
    return SliceId(message.volume_uid, plane_from_msg(message.plane), message.index)


def plane_from_msg(plane: int) -> Plane:
    """Raises PromptError for a plane that there is not."""
    try:
        return Plane(plane)
    except ValueError:
        raise PromptError(
            f"There is no plane {plane}; give 0 (axial), 1 (coronal) or 2 (sagittal)."
        ) from None


def prompt_to_msg(
    prompt: Prompt, volume_uid: str = "", client_id: str = "", segment: str = "", cycle: int = 0
) -> msg.Prompt:
    """`prompt` as a message; empty strings and cycle 0 leave the choice to SND_INF, as Prompt.msg says."""
    message = msg.Prompt(
        cycle=cycle,
        client_id=client_id,
        segment=segment,
        labels=array("B", bytes(np.asarray(prompt.labels, "u1"))),
    )
    message.slice.volume_uid = volume_uid
    message.slice.plane = int(prompt.plane)
    message.slice.index = (
        msg.Prompt.SLICE_FROM_POSITION if prompt.slice_index is None else int(prompt.slice_index)
    )
    message.coordinates = msg.Prompt.RAS if prompt.in_ras else msg.Prompt.PIXEL
    message.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in prompt.points]
    if prompt.box is not None:
        message.has_box = True
        message.box_min, message.box_max = (
            Point(x=float(x), y=float(y), z=float(z)) for x, y, z in prompt.box
        )
    return message


def prompt_from_msg(message: msg.Prompt) -> Prompt:
    """Raises PromptError for a plane, coordinates or a slice index that there is not."""
    if message.coordinates not in (msg.Prompt.RAS, msg.Prompt.PIXEL):
        raise PromptError(f"There are no coordinates {message.coordinates}; give 0 (RAS) or 1 (PIXEL).")
    if message.slice.index < msg.Prompt.SLICE_FROM_POSITION:
        raise PromptError(f"There is no slice {message.slice.index}; slices are counted from 0.")
    corners = (message.box_min, message.box_max) if message.has_box else ()
    from_position = message.slice.index == msg.Prompt.SLICE_FROM_POSITION
    return Prompt(
        plane=plane_from_msg(message.slice.plane),
        slice_index=None if from_position else message.slice.index,
        in_ras=message.coordinates == msg.Prompt.RAS,
        points=np.array([(p.x, p.y, p.z) for p in message.points], np.float64).reshape(-1, 3),
        labels=np.frombuffer(message.labels, np.uint8),
        box=np.array([(p.x, p.y, p.z) for p in corners], np.float64) if corners else None,
    )


def request_to_msg(request: Request, sequence: int, stamp: Time) -> msg.SliceRequest:
    message = msg.SliceRequest(
        sequence=sequence,
        cycle=request.cycle,
        client_id=request.client_id,
        segment=request.segment,
        slice=slice_to_msg(request.slice),
        height=request.shape[0],
        width=request.shape[1],
        points_xy=array("f", request.prompt.points_xy.tobytes()),
        labels=array("B", request.prompt.labels.tobytes()),
        has_box=request.prompt.has_box,
        checksum=request.checksum(),
    )
    message.header.stamp = stamp
    if request.prompt.has_box:
        message.box_xyxy = request.prompt.box_xyxy.copy()
    return message


def request_from_msg(message: msg.SliceRequest) -> Request:
    """Raises PromptError for a message that was damaged on the way or holds no valid prompt."""
    if len(message.points_xy) % 2:
        raise PromptError(f"The points are {len(message.points_xy)} numbers; give x and y for each.")
    request = Request(
        cycle=message.cycle,
        client_id=message.client_id,
        segment=message.segment,
        slice=slice_from_msg(message.slice),
        shape=(message.height, message.width),
        prompt=PixelPrompt(
            np.frombuffer(message.points_xy, np.float32).reshape(-1, 2),
            np.frombuffer(message.labels, np.uint8),
            np.asarray(message.box_xyxy, np.float32) if message.has_box else None,
        ),
    )
    if request.checksum() != message.checksum:
        raise PromptError(
            f"The request of cycle {message.cycle} was damaged on the way; it will be sent again."
        )
    return request


def answer_to_msg(answer: Answer, sequence: int, stamp: Time) -> msg.SliceMask:
    message = msg.SliceMask(
        sequence=sequence,
        cycle=answer.cycle,
        client_id=answer.client_id,
        segment=answer.segment,
        slice=slice_to_msg(answer.slice),
        height=answer.shape[0],
        width=answer.shape[1],
        model=answer.model,
        encoding=int(answer.encoding),
        data=array("B", answer.data),
        score=answer.score,
        error=answer.error,
        checksum=answer.checksum(),
    )
    message.header.stamp = stamp
    return message


def answer_from_msg(message: msg.SliceMask) -> Answer:
    """Raises MaskError for a message that was damaged on the way."""
    try:
        answer = Answer(
            message.cycle,
            message.client_id,
            message.segment,
            slice_from_msg(message.slice),
            (message.height, message.width),
            message.model,
            MaskEncoding(message.encoding),
            message.data.tobytes(),
            message.score,
            message.error,
        )
    except (PromptError, ValueError) as error:
        raise MaskError(f"The mask of cycle {message.cycle} cannot be read: {error}") from None
    if answer.checksum() != message.checksum:
        raise MaskError(
            f"The mask of cycle {message.cycle} was damaged on the way; it will be asked for again."
        )
    return answer


def embedding_to_msg(wish: msg.EmbeddingRequest, embedding: Embedding) -> msg.SliceEmbedding:
    features = embedding.as_array()
    message = msg.SliceEmbedding(
        slice=wish.slice,
        model=wish.model,
        shape=array("I", features.shape),
        dtype=features.dtype.name,
        data=array("B", features.tobytes()),
        original_size=list(embedding.original_size),
    )
    message.checksum = _checksum(message)
    return message


def _checksum(message: msg.SliceEmbedding) -> int:
    about = repr(
        (
            (message.slice.volume_uid, message.slice.plane, message.slice.index, message.model),
            (message.dtype, *map(int, message.shape), *map(int, message.original_size)),
        )
    )
    return zlib.crc32(message.data, zlib.crc32(about.encode(errors="replace")))


def embedding_from_msg(message: msg.SliceEmbedding) -> tuple[np.ndarray, tuple[int, int]]:
    """Features, (C, h, w) float16 or float32, and rows and columns of the slice.

    Raises PromptError for a refusal, and for features that were damaged on the way.
    """
    if message.error:
        raise PromptError(message.error)
    dtype = {"float32": np.float32, "float16": np.float16}.get(message.dtype)
    shape = tuple(message.shape)
    if (
        dtype is None
        or len(shape) != 3
        or message.checksum != _checksum(message)
        or len(message.data) != math.prod(shape) * np.dtype(dtype).itemsize
    ):
        raise PromptError("The embedding was damaged on the way; prompt again.")
    return np.frombuffer(message.data, dtype).reshape(shape).copy(), tuple(map(int, message.original_size))


def volume_from_msg(message: msg.VolumeInfo) -> LoadedVolume | None:
    """None when no volume is loaded; raises VolumeError for a geometry that is none."""
    if not message.uid:
        return None
    geometry = VolumeGeometry(tuple(map(int, message.dimensions)), np.reshape(message.ijk_to_ras, (4, 4)))
    window = Window(message.window_lower, message.window_upper)
    return LoadedVolume(message.uid, message.name, message.uri, geometry, window)


def event_to_msg(event: TaskEvent, sequence: int, stamp: Time) -> msg.TaskEvent:
    message = msg.TaskEvent(
        sequence=sequence,
        task=int(event.task),
        outcome=int(event.outcome),
        cycle=event.cycle,
        client_id=event.client_id,
        slice=slice_to_msg(event.slice),
        node=event.node,
        started_ns=event.started_ns,
        ended_ns=event.ended_ns,
        overtaken=event.overtaken,
        **(asdict(event.completion) if event.completion else {}),
    )
    message.header.stamp = stamp
    return message


def event_from_msg(message: msg.TaskEvent) -> TaskEvent:
    """Raises PromptError for a plane, ValueError for a task or outcome that there is not."""
    return TaskEvent(
        Task(message.task),
        Outcome(message.outcome),
        message.cycle,
        message.client_id,
        slice_from_msg(message.slice),
        message.node,
        message.started_ns,
        message.ended_ns,
        Completion(*(getattr(message, name) for name in _COMPLETION)) if message.packed_ns else None,
        int(message.overtaken),
    )
