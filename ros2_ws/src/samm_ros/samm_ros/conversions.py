# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The wire format: messages to the core's plain types and back. The core sees no message, a node no message's bytes."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from samm_msgs import msg
from samm_msgs.srv import EditSegments

from samm_core.cycle.pending import CycleProgress
from samm_core.cycle.request import SLICE_FROM_POSITION, Answer, ClientPrompt, Request, crc32_of_parts
from samm_core.errors import MaskError, PromptError, VolumeError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.events import TaskEvent
from samm_core.mask_codec import MaskEncoding
from samm_core.prompts import MAX_POINTS, PixelPrompt, Prompt, prompt_on
from samm_core.segmentation.segmentation import Segmentation
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import LoadedVolume
from samm_core.sources.window import Window

if TYPE_CHECKING:
    from samm_core.models.base import Embedding


def image_to_msg(image: ImageId) -> msg.ImageId:
    key = image.key
    lower, upper = (key.window.lower, key.window.upper) if key.window else (0.0, 0.0)
    return msg.ImageId(
        source=image.source,
        plane=int(key.plane),
        index=key.index,
        window_lower=lower,
        window_upper=upper,
    )


def image_from_msg(message: msg.ImageId) -> ImageId:
    """Raises PromptError for a plane or a window that there is not."""
    return ImageId(
        message.source, SliceKey(plane_from_msg(message.plane), message.index, _window_from_msg(message))
    )


def _window_from_msg(message: msg.ImageId) -> Window | None:
    if message.window_lower == message.window_upper:
        return None
    try:
        return Window(message.window_lower, message.window_upper)
    except VolumeError as error:
        raise PromptError(str(error)) from None


def plane_from_msg(plane: int) -> Plane:
    """Raises PromptError for a plane that there is not."""
    try:
        return Plane(plane)
    except ValueError:
        raise PromptError(
            f"There is no plane {plane}; give 0 (axial), 1 (coronal) or 2 (sagittal)."
        ) from None


def prompt_to_msg(given: ClientPrompt) -> msg.Prompt:
    """As a message; empty strings, cycle 0 and no window leave the choice to SND_INF, as Prompt.msg says."""
    prompt = given.prompt
    message = msg.Prompt(
        cycle=given.cycle,
        client_id=given.client_id,
        segment=given.segment,
        image=image_to_msg(given.image),
        labels=array("B", bytes(np.asarray(prompt.labels, "u1"))),
        choice=prompt.choice,
    )
    message.coordinates = msg.Prompt.RAS if prompt.in_ras else msg.Prompt.PIXEL
    message.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in prompt.points]
    if prompt.box is not None:
        message.has_box = True
        message.box_min, message.box_max = (
            Point(x=float(x), y=float(y), z=float(z)) for x, y, z in prompt.box
        )
    return message


def _marks_from_msg(message: msg.Prompt) -> Prompt:
    """Raises PromptError for too many points, and a plane, coordinates or a slice index that there is not."""
    if len(message.points) > MAX_POINTS:
        raise PromptError(f"The prompt has {len(message.points)} points; give at most {MAX_POINTS}.")
    if message.coordinates not in (msg.Prompt.RAS, msg.Prompt.PIXEL):
        raise PromptError(f"There are no coordinates {message.coordinates}; give 0 (RAS) or 1 (PIXEL).")
    if message.image.index < SLICE_FROM_POSITION:
        raise PromptError(f"There is no slice {message.image.index}; slices are counted from 0.")
    corners = (message.box_min, message.box_max) if message.has_box else ()
    from_position = message.image.index == SLICE_FROM_POSITION
    return Prompt(
        plane=plane_from_msg(message.image.plane),
        slice_index=None if from_position else message.image.index,
        in_ras=message.coordinates == msg.Prompt.RAS,
        points=np.array([(p.x, p.y, p.z) for p in message.points], np.float64).reshape(-1, 3),
        labels=np.frombuffer(message.labels, np.uint8),
        box=np.array([(p.x, p.y, p.z) for p in corners], np.float64) if corners else None,
        choice=message.choice,
    )


def prompt_from_msg(message: msg.Prompt, client_id: str = "", came_ns: int = 0) -> ClientPrompt:
    """Never raises: a prompt that is malformed is one with a problem. client_id: of a prompt that names no client."""
    prompt, problem, window = None, "", None
    try:
        prompt = _marks_from_msg(message)
        window = _window_from_msg(message.image)
    except PromptError as error:
        problem = str(error)
    # The plane itself may be what is wrong: an answer always names one that there is.
    plane = Plane(min(message.image.plane, max(Plane)))
    return ClientPrompt(
        client_id=message.client_id or client_id,
        segment=message.segment,
        image=ImageId(message.image.source, SliceKey(plane, message.image.index, window)),
        prompt=prompt,
        cycle=message.cycle,
        problem=problem,
        came_ns=came_ns,
    )


def slice_prompt_to_msg(segment: str, image: ImageId, prompt: PixelPrompt) -> msg.Prompt:
    """What was marked on a slice, as a prompt in its pixels."""
    return prompt_to_msg(
        ClientPrompt("", segment, image, prompt_on(image.key.plane, image.key.index, prompt))
    )


def cycles_from_msg(message: msg.SegmentationStatus) -> dict[str, CycleProgress]:
    """By client, how far its cycles have come."""
    return {c.client_id: CycleProgress(c.requested, c.settled, c.error) for c in message.clients}


def edit_segments(segmentation: Segmentation, request: EditSegments.Request) -> None:
    """Make the change that `request` says. Raises MaskError or PromptError for one that cannot be, and changes nothing."""
    name, color = request.segment, (request.color.r, request.color.g, request.color.b)
    edits: dict[int, Callable[[], None]] = {
        EditSegments.Request.RENAME: lambda: segmentation.rename(name, request.new_name),
        EditSegments.Request.RECOLOR: lambda: segmentation.recolor(name, color),
        EditSegments.Request.REMOVE: lambda: segmentation.remove(name),
        EditSegments.Request.REORDER: lambda: segmentation.reorder(list(request.order)),
        EditSegments.Request.FREEZE: lambda: segmentation.freeze(
            name, plane_from_msg(request.plane), request.index
        ),
        EditSegments.Request.UNFREEZE: lambda: segmentation.unfreeze(
            name, plane_from_msg(request.plane), request.index
        ),
    }
    if request.edit not in edits:
        raise MaskError(f"There is no edit {request.edit}; give 0 to {max(edits)}, as EditSegments.srv says.")
    edits[request.edit]()


def request_to_msg(request: Request, sequence: int, stamp: Time) -> msg.SliceRequest:
    message = msg.SliceRequest(
        sequence=sequence,
        cycle=request.cycle,
        client_id=request.client_id,
        segment=request.segment,
        image=image_to_msg(request.image),
        height=request.shape[0],
        width=request.shape[1],
        points_xy=array("f", request.prompt.points_xy.tobytes()),
        labels=array("B", request.prompt.labels.tobytes()),
        has_box=request.prompt.has_box,
        choice=request.prompt.choice,
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
        image=image_from_msg(message.image),
        shape=(message.height, message.width),
        prompt=PixelPrompt(
            np.frombuffer(message.points_xy, np.float32).reshape(-1, 2),
            np.frombuffer(message.labels, np.uint8),
            np.asarray(message.box_xyxy, np.float32) if message.has_box else None,
            choice=message.choice,
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
        image=image_to_msg(answer.image),
        height=answer.shape[0],
        width=answer.shape[1],
        model=answer.model,
        encoding=int(answer.encoding),
        data=array("B", answer.data),
        score=answer.score,
        choices=answer.choices,
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
            image_from_msg(message.image),
            (message.height, message.width),
            message.model,
            MaskEncoding(message.encoding),
            message.data.tobytes(),
            message.score,
            message.error,
            message.choices,
        )
    except (PromptError, ValueError) as error:
        raise MaskError(f"The mask of cycle {message.cycle} cannot be read: {error}") from None
    if answer.checksum() != message.checksum:
        raise MaskError(
            f"The mask of cycle {message.cycle} was damaged on the way; it will be asked for again."
        )
    return answer


def embedding_to_msg(request: msg.EmbeddingRequest, embedding: Embedding) -> msg.SliceEmbedding:
    """The answer to `request`, with the image and model that it names; the caller has seen that they are the server's."""
    message = msg.SliceEmbedding(
        image=request.image,
        model=request.model,
        tensors=[_tensor_to_msg(name, tensor) for name, tensor in embedding.as_arrays().items()],
        original_size=list(embedding.original_size),
    )
    message.checksum = _embedding_checksum(message)
    return message


def embedding_from_msg(message: msg.SliceEmbedding) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """The tensors by name, float16 or float32, and rows and columns of the slice.

    Raises PromptError for a refusal, and for tensors that were damaged on the way.
    """
    if message.error:
        raise PromptError(message.error)
    tensors = {each.name: _tensor_from_msg(each) for each in message.tensors}
    if message.checksum != _embedding_checksum(message) or any(each is None for each in tensors.values()):
        raise PromptError("The embedding was damaged on the way; prompt again.")
    return tensors, tuple(map(int, message.original_size))


def _tensor_to_msg(name: str, tensor: np.ndarray) -> msg.NamedTensor:
    data = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
    return msg.NamedTensor(
        name=name, dtype=tensor.dtype.name, shape=array("I", tensor.shape), data=array("B", data)
    )


def _tensor_from_msg(message: msg.NamedTensor) -> np.ndarray | None:
    """None where type, shape and data do not fit together."""
    dtype = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}.get(message.dtype)
    if dtype is None or len(message.data) != math.prod(message.shape) * dtype.itemsize:
        return None
    return np.frombuffer(message.data, dtype).reshape(tuple(message.shape)).copy()


def _embedding_checksum(message: msg.SliceEmbedding) -> int:
    """As SliceEmbedding.msg says."""
    image, size = message.image, map(int, message.original_size)
    window = image.window_lower, image.window_upper
    numbers = struct.pack("<BiddII", image.plane, image.index, *window, *size)
    parts = [_utf8(image.source), numbers, _utf8(message.model)]
    for tensor in message.tensors:
        shape = np.asarray(tensor.shape, "<u4").tobytes()
        parts += [_utf8(tensor.name), _utf8(tensor.dtype), shape, tensor.data]
    return crc32_of_parts(*parts)


def _utf8(text: str) -> bytes:
    # "replace": a damaged message may hold what is no text.
    return text.encode(errors="replace")


def volume_from_msg(message: msg.VolumeInfo) -> LoadedVolume | None:
    """None when no volume is loaded; raises VolumeError for a geometry that is none."""
    if not message.uid:
        return None
    geometry = VolumeGeometry(tuple(map(int, message.dimensions)), np.reshape(message.ijk_to_ras, (4, 4)))
    window = Window(message.window_lower, message.window_upper)
    return LoadedVolume(
        message.uid,
        message.name,
        message.uri,
        geometry,
        window,
        message.window_reason,
        tuple(message.warnings),
        message.at_start,
    )


def volumes_from_msg(message: msg.VolumeList) -> list[LoadedVolume]:
    """The one that was loaded last first; raises VolumeError for a geometry that is none."""
    return [volume for volume in map(volume_from_msg, message.volumes) if volume]


def event_to_msg(event: TaskEvent, sequence: int, stamp: Time) -> msg.TaskEvent:
    message = msg.TaskEvent(
        sequence=sequence,
        task=int(event.task),
        outcome=int(event.outcome),
        cycle=event.cycle,
        client_id=event.client_id,
        image=image_to_msg(event.image),
        node=event.node,
        started_ns=event.started_ns,
        ended_ns=event.ended_ns,
        overtaken=event.overtaken,
        **(vars(event.completion) if event.completion else {}),
    )
    message.header.stamp = stamp
    return message
