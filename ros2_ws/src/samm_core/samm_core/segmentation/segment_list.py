# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a segmentation knows of its segments beside their voxels, and as a journal's rows hold it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import MaskError
from ..geometry import Plane
from ..prompts import segment_name_error

MAX_SEGMENTS = 255
Color = tuple[float, float, float]

# Bytes of a list, unpacked: 255 names and a thousand frozen slices of each take less.
_MAX_LIST = 4 << 20


@dataclass(frozen=True)
class Segment:
    """name; label: its value in a labelmap, 1 to 255, its own for good; color: red, green, blue, 0 to 1."""

    name: str
    label: int
    color: Color


@dataclass(frozen=True)
class ListedSegment:
    """A segment and its slices that no task writes to."""

    segment: Segment
    frozen: frozenset[tuple[Plane, int]] = frozenset()


# By key, which a segment keeps whatever its name becomes; in the order of the segments.
SegmentList = dict[str, ListedSegment]


def encode_list(listed: SegmentList) -> bytes:
    """JSON, zlib: key, name, label, color and frozen slices of each."""
    rows = [
        [key, each.segment.name, each.segment.label, each.segment.color, sorted(each.frozen)]
        for key, each in listed.items()
    ]
    return zlib.compress(json.dumps(rows).encode())


def decode_list(data: bytes) -> SegmentList:
    """What encode_list wrote. Raises MaskError for anything else, and holds no more than a list can be."""
    try:
        rows = json.loads(zlib.decompressobj().decompress(data, _MAX_LIST))
        listed: SegmentList = {}
        for key, name, label, color, frozen in rows:
            if error := segment_name_error(name):
                raise MaskError(error)
            if not key or not name or key in listed or label not in range(1, MAX_SEGMENTS + 1):
                raise ValueError
            places = frozenset((Plane(plane), index) for plane, index in frozen)
            listed[key] = ListedSegment(Segment(name, label, checked_color(color)), places)
        return listed
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
        raise MaskError("It holds no list of segments.") from None


def checked_color(color: Sequence[float]) -> Color:
    """Raises MaskError for what is not red, green and blue, each 0 to 1."""
    values = tuple(float(value) for value in color)
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise MaskError(f"A color is red, green and blue, each 0 to 1, and not {values}.")
    return values
