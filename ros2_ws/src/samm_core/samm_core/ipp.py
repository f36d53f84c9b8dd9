# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2, the messages between 3D Slicer and slicer_bridge: a JSON header, then at most one raw buffer.

docs/understand/ipp.md tells what they do. Both sides use this file, in Slicer's Python too: standard library only, in
Python 3.9's syntax. The fields are checked by hand: msgspec could check them, but would be one more compiled package
for Slicer to install.

FROM_SLICER and FROM_BRIDGE hold every message with its fields; pack() and unpack() check against them on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

VERSION = 2
DEFAULT_PORT = 8800
HEARTBEAT_S = 1.0
# A side that is silent for this long is gone.
TIMEOUT_S = 5.0
CHUNK_BYTES = 1 << 20

MAX_HEADER_BYTES = 1 << 16
MAX_BUFFER_BYTES = 1 << 22
MAX_TEXT = 1024
MAX_NAME = 128
MAX_POINTS = 1024
MAX_WARNINGS = 16
# Pixels of a mask, along its longer side; as in mask_codec.
MAX_SIDE = 16384
# Of a task over many slices.
TASKS = ("propagate", "box", "automatic")
MAX_MARKS = 64
MAX_FROZEN = 4096
MAX_STOPPED = 2 * MAX_MARKS
MAX_REASON = 256
# Rows of prompts of one client: within a stream the newest wins, streams do not touch each other.
STREAMS = 4
# Of the live stream: bytes of an image, as 3840×2160 in colour, with its labels; objects, and their states as Track.msg counts
# them.
MAX_IMAGE_BYTES = 1 << 25
MAX_TRACKS = 64
# Of embedded slices, in a plane.
MAX_RUNS = 1024
TRACK_STATES = ("prompted", "tracking", "uncertain", "lost")

_Check = Callable[[Any], bool]


class ProtocolError(ValueError):
    """A message that is none: one sentence that says what is wrong with it."""


@dataclass(frozen=True)
class Message:
    """type: a key of FROM_SLICER or FROM_BRIDGE. fields: the rest of the header, checked. buffer: empty: none."""

    type: str
    fields: dict[str, Any]
    buffer: bytes = b""

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)


# pack() checks values before they are JSON, so each check also takes what JSON writes in the same way: an IntEnum as a
# number, a tuple as a list, NumPy's float64 as a float.


def _integer(low: int, high: int) -> _Check:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _number(value: Any) -> bool:
    # NaN is not at most anything.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e12


def _text(longest: int) -> _Check:
    return lambda v: isinstance(v, str) and len(v) <= longest


def _line(longest: int) -> _Check:
    # What is not printable, as half a surrogate pair or a zero byte, does not pass through a ROS message.
    return lambda v: isinstance(v, str) and len(v) <= longest and v.isprintable()


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _list(item: _Check, lengths: Sequence[int] | range) -> _Check:
    return lambda v: isinstance(v, (list, tuple)) and len(v) in lengths and all(map(item, v))


def _or_none(check: _Check) -> _Check:
    return lambda v: v is None or check(v)


def _one_of(*values: str) -> _Check:
    return lambda v: isinstance(v, str) and v in values


def _mapping(key: _Check, value: _Check) -> _Check:
    return lambda v: isinstance(v, dict) and len(v) <= 64 and all(key(k) and value(v[k]) for k in v)


def _record(fields: dict[str, _Check]) -> _Check:
    """An object with these fields; those that a newer version may add are not looked at."""
    return lambda v: (
        isinstance(v, dict) and all(name in v and check(v[name]) for name, check in fields.items())
    )


_COUNT = _integer(0, 2**53)
_NS = _integer(-(2**61), 2**61)
_INDEX = _integer(0, 2**31 - 1)
_PLANE = _integer(0, 2)
_STREAM = _integer(0, STREAMS - 1)
_KEY = _line(MAX_NAME)
_AFFINE = _list(_number, (16,))
_WINDOW = _list(_number, (2,))
_PAIR = _list(_number, (2,))
_THREE = _list(_integer(0, 2**31 - 1), (3,))
_POINTS = _list(_PAIR, range(MAX_POINTS + 1))
_LABELS = _list(_integer(0, 1), range(MAX_POINTS + 1))
_BOX = _or_none(_list(_number, (4,)))
_SHAPE = _list(_integer(1, MAX_SIDE), (2,))
_XYZ = _list(_number, (3,))
# Red, green, blue, 0 to 1.
_COLOR = _list(lambda v: _number(v) and 0 <= v <= 1, (3,))
_MASK_MARK = _record({"index": _INDEX, "shape": _SHAPE, "size": _integer(1, MAX_BUFFER_BYTES)})
_PROMPT_MARK = _record({"index": _INDEX, "points_xy": _POINTS, "labels": _LABELS, "box_xyxy": _BOX})
# To the end of ROS's own time, in 2038.
_STAMP = _integer(0, 2**31 * 10**9 - 1)
_TRACK = _record(
    {
        "name": _name,
        "label": _integer(1, 255),
        "state": _one_of(*TRACK_STATES),
        "cause": _text(MAX_REASON),
        "age_s": _number,
        "score": _number,
        "area": _COUNT,
        "error": _text(MAX_REASON),
    }
)
_WEIGHTS = _record(
    {
        "model": _name,
        "file_name": _text(MAX_NAME),
        "size": _COUNT,
        "here": _boolean,
        "fetchable": _boolean,
        "page": _text(MAX_TEXT),
    }
)
_BOX_3D = _record({"centre_ras": _XYZ, "size_mm": _XYZ, "orientation_xyzw": _list(_number, (4,))})
DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


@dataclass(frozen=True)
class MessageType:
    """fields: what each must be. optional: may be absent. buffer: a raw buffer follows the header; longest_buffer: in bytes."""

    fields: dict[str, _Check]
    optional: frozenset[str] = frozenset()
    buffer: bool = False
    longest_buffer: int = MAX_BUFFER_BYTES


# Any message of Slicer's may carry an `id`; the reply to it carries the same number as `re`.
FROM_SLICER: dict[str, MessageType] = {
    "hello": MessageType(
        {
            "version": _integer(0, 1000),
            "client": _name,
            "software": _line(MAX_NAME),
            "token": _line(MAX_NAME),
            "uid": _KEY,
        },
        frozenset({"token", "uid"}),
    ),
    "ping": MessageType(
        {"sent_ns": _NS, "bridge_ns": _NS, "received_ns": _NS}, frozenset({"bridge_ns", "received_ns"})
    ),
    "volume": MessageType(
        {
            "key": _KEY,
            "name": _line(MAX_TEXT),
            "shape_kji": _list(_integer(1, 65536), (3,)),
            "components": _integer(1, 3),
            "dtype": _one_of(*DTYPES),
            "ijk_to_ras": _AFFINE,
            "window": _or_none(_WINDOW),
            "file": _or_none(_name),
        }
    ),
    "chunk": MessageType({"key": _KEY, "offset": _COUNT, "crc32": _integer(0, 2**32 - 1)}, buffer=True),
    "window": MessageType({"uid": _KEY, "window": _WINDOW}),
    "prompt": MessageType(
        {
            "number": _COUNT,
            "stream": _STREAM,
            "uid": _KEY,
            "plane": _PLANE,
            "index": _INDEX,
            "segment": _line(MAX_NAME),
            "points_xy": _POINTS,
            "labels": _LABELS,
            "box_xyxy": _BOX,
        }
    ),
    # The buffer: the masks' data, one after the other, as many bytes of each as its `size` says.
    "segment_volume": MessageType(
        {
            "number": _COUNT,
            "uid": _KEY,
            "task": _one_of(*TASKS),
            "plane": _PLANE,
            "segment": _line(MAX_NAME),
            "first": _INDEX,
            "last": _INDEX,
            "masks": _list(_MASK_MARK, range(MAX_MARKS + 1)),
            "prompts": _list(_PROMPT_MARK, range(MAX_MARKS + 1)),
            "box3d": _or_none(_BOX_3D),
            "frozen": _list(_INDEX, range(MAX_FROZEN + 1)),
        },
        buffer=True,
    ),
    "cancel_volume": MessageType({"number": _COUNT}),
    "applied": MessageType(
        {"cycle": _COUNT, "stream": _STREAM, "completed": _boolean, "started_ns": _NS, "ended_ns": _NS}
    ),
    # Of the live stream.
    "stream": MessageType({"on": _boolean}),
    "image_taken": MessageType({"number": _COUNT}),
    "track_prompt": MessageType(
        {"name": _name, "stamp_ns": _STAMP, "points_xy": _POINTS, "labels": _LABELS, "box_xyxy": _BOX}
    ),
    "track_rename": MessageType({"name": _name, "new_name": _name}),
    "track_remove": MessageType({"name": _line(MAX_NAME)}),
    # Of the graph's copy of the segmentation.
    "segment_rename": MessageType({"name": _name, "new_name": _name}),
    "segment_recolor": MessageType({"name": _name, "color": _COLOR}),
    "segment_remove": MessageType({"name": _name}),
    "undo": MessageType({}),
    "redo": MessageType({}),
    "save": MessageType({"name": _name}),
    "select_model": MessageType({"name": _name}),
    "weights": MessageType({}),
    "fetch_weights": MessageType({"name": _name}),
    "cancel_fetch": MessageType({}),
    "embed": MessageType({"planes": _list(_PLANE, range(4))}),
    "cancel_embed": MessageType({}),
    "bye": MessageType({}),
}

FROM_BRIDGE: dict[str, MessageType] = {
    "welcome": MessageType(
        {
            "version": _integer(0, 1000),
            "software": _text(MAX_NAME),
            "folder": _or_none(_text(4096)),
            "models": _list(_name, range(65)),
            "window_presets": _mapping(_name, _WINDOW),
            "tasks": _list(_name, range(65)),
        },
        # Bridges before the tasks over many slices have none.
        frozenset({"tasks"}),
    ),
    "pong": MessageType({"sent_ns": _NS, "bridge_ns": _NS}),
    "volume_wanted": MessageType({"key": _KEY, "offset": _COUNT}),
    "volume": MessageType(
        {
            "uid": _KEY,
            "key": _KEY,
            "name": _text(MAX_TEXT),
            "dimensions": _THREE,
            "ijk_to_ras": _AFFINE,
            "window": _WINDOW,
            "window_reason": _text(MAX_TEXT),
            "warnings": _list(_text(MAX_TEXT), range(MAX_WARNINGS + 1)),
        },
        # Bridges before these fields leave them out.
        frozenset({"window_reason", "warnings"}),
    ),
    "model": MessageType(
        {"name": _text(MAX_NAME), "device": _text(MAX_NAME), "takes_points": _boolean, "takes_box": _boolean}
    ),
    "weights": MessageType({"folder": _text(4096), "models": _list(_WEIGHTS, range(65))}),
    "weights_progress": MessageType({"name": _name, "done": _COUNT, "total": _COUNT}),
    "embedding": MessageType(
        {
            "uid": _KEY,
            "done": _THREE,
            "total": _THREE,
            "rate": _number,
            "sweeping": _boolean,
            "bytes_used": _COUNT,
            "runs": _list(_list(_list(_INDEX, (2,)), range(MAX_RUNS + 1)), (3,)),
        },
        frozenset({"runs"}),
    ),
    "mask": MessageType(
        {
            "number": _COUNT,
            "cycle": _COUNT,
            "stream": _STREAM,
            "uid": _KEY,
            "plane": _PLANE,
            "index": _INDEX,
            "shape": _SHAPE,
            "segment": _line(MAX_NAME),
            "model": _text(MAX_NAME),
            "score": _number,
        },
        buffer=True,
    ),
    "volume_mask": MessageType(
        {
            "number": _COUNT,
            "uid": _KEY,
            "plane": _PLANE,
            "index": _INDEX,
            "shape": _SHAPE,
            # Of `automatic`, the name that was asked for with a number behind it.
            "segment": _line(2 * MAX_NAME),
            "score": _number,
            "done": _COUNT,
            "total": _COUNT,
        },
        buffer=True,
    ),
    "volume_progress": MessageType({"number": _COUNT, "done": _COUNT, "total": _COUNT}),
    "volume_ended": MessageType(
        {
            "number": _COUNT,
            "success": _boolean,
            "message": _text(MAX_TEXT),
            "stopped": _list(_text(MAX_REASON), range(MAX_STOPPED + 1)),
            "slices": _COUNT,
            "seconds": _number,
        }
    ),
    # The buffer: the image's pixels, a byte for each of `components`, then its labels.
    "stream_image": MessageType(
        {
            "number": _COUNT,
            "stamp_ns": _STAMP,
            "shape": _SHAPE,
            "components": _integer(1, 3),
            "tracks": _list(_TRACK, range(MAX_TRACKS + 1)),
            "stale": _boolean,
            "error": _text(MAX_TEXT),
        },
        buffer=True,
        longest_buffer=MAX_IMAGE_BYTES,
    ),
    "refused": MessageType(
        {"number": _COUNT, "cycle": _COUNT, "stream": _STREAM, "message": _text(MAX_TEXT)}
    ),
    "cycle": MessageType(
        {"cycle": _COUNT, "stream": _STREAM, "intervals_ms": _mapping(_name, _number), "total_ms": _number}
    ),
    "done": MessageType({"text": _text(4096)}),
    "error": MessageType({"message": _text(MAX_TEXT)}),
}


def pack(types: dict[str, MessageType], kind: str, buffer: bytes = b"", **fields: Any) -> list[bytes]:
    """The frames of a message; an `id` or `re` of None is left out. Raises ProtocolError for what unpack would refuse.

    The header is checked before it is written, and not parsed again.
    """
    fields = {name: v for name, v in fields.items() if v is not None or name not in ("id", "re")}
    _check_fields(types, kind, fields)
    try:
        header = json.dumps({"type": kind, **fields}, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"The message {kind} cannot be written as JSON ({error}).") from None
    _check_header_size(header)
    frames = [header, buffer] if types[kind].buffer else [header]
    _check_buffer(types, kind, frames)
    return frames


def unpack(types: dict[str, MessageType], frames: Sequence[bytes]) -> Message:
    """The message in `frames`, one of `types`; raises ProtocolError for anything else, and never anything else.

    Fields that a newer version may add are ignored.
    """
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"A message is 1 or 2 frames, a header and a buffer; this one is {len(frames)}.")
    header = _header(bytes(frames[0]))
    kind = header.pop("type", None)
    if not isinstance(kind, str) or kind not in types:
        raise ProtocolError(f"There is no message of the type {_show(kind)}.")
    _check_buffer(types, kind, frames)
    fields = _check_fields(types, kind, header)
    return Message(kind, fields, bytes(frames[1]) if len(frames) == 2 else b"")


def _check_buffer(types: dict[str, MessageType], kind: str, frames: Sequence[bytes]) -> None:
    if types[kind].buffer != (len(frames) == 2):
        raise ProtocolError(
            f"The message {kind} comes with {int(types[kind].buffer)} buffers, not {len(frames) - 1}."
        )
    longest = types[kind].longest_buffer
    if len(frames) == 2 and len(frames[1]) > longest:
        raise ProtocolError(f"A buffer is at most {longest} bytes; this one is {len(frames[1])}.")


def _check_fields(types: dict[str, MessageType], kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The message's fields, of those given; raises ProtocolError for one that is missing or out of its range."""
    expected = types[kind]
    fields = {}
    for name, check in expected.fields.items():
        if name not in given:
            if name in expected.optional:
                continue
            raise ProtocolError(f"The message {kind} lacks the field {name}.")
        if not check(given[name]):
            raise ProtocolError(f"The field {name} of the message {kind} cannot be {_show(given[name])}.")
        fields[name] = given[name]
    for name in ("id", "re"):
        if name in given:
            if not _COUNT(given[name]):
                raise ProtocolError(f"The field {name} is a whole number from 0, not {_show(given[name])}.")
            fields[name] = given[name]
    return fields


def _check_header_size(data: bytes) -> None:
    if len(data) > MAX_HEADER_BYTES:
        raise ProtocolError(f"A header is at most {MAX_HEADER_BYTES} bytes; this one is {len(data)}.")


def _header(data: bytes) -> dict[str, Any]:
    _check_header_size(data)
    try:
        header = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ProtocolError("The header is no JSON object in UTF-8.") from None
    if not isinstance(header, dict):
        raise ProtocolError("The header is no JSON object in UTF-8.")
    return header


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _show(value: Any) -> str:
    # What is nested may be nested too deep to be written.
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else repr(value)[:60]
