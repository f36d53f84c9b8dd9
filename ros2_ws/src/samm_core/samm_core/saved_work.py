# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One file of a user's work on one volume: segments with their voxels, prompts, frozen slices, window and model.

A zip file of `work.json` and of one array for each segment, its voxels as packed bits in NumPy's format without pickle. The
volume itself is not in it: its path and its uid, the hash of its content, say which one it was.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import MaskError, SammError
from .geometry import Plane, VolumeGeometry
from .prompts import MAX_NAME, PixelPrompt, segment_name_error
from .segmentation.segment_list import MAX_SEGMENTS, Segment, checked_color
from .segmentation.segmentation import Segmentation
from .sources.volume import MAX_VOXELS, LoadedVolume, Volume, Window

SUFFIX = ".samm"
MAX_PROMPTS = 10_000
# Of all segments together, packed. A whole body of 30 segments takes half of it.
MAX_BYTES = 1 << 30

_FORMAT, _VERSION = "samm work", 1
_JSON = "work.json"
_MAX_JSON = 32 << 20
_MAX_PATH = 4096
# NumPy's header of an array of bytes.
_ARRAY_HEADER = 128


@dataclass(frozen=True, eq=False)
class SavedSegment:
    """voxels: (K, J, I) bool. frozen: the slices that no task writes to."""

    segment: Segment
    voxels: np.ndarray
    frozen: frozenset[tuple[Plane, int]] = frozenset()


@dataclass(frozen=True, eq=False)
class SavedPrompt:
    """What was marked last for a segment on one slice, without a mask_input."""

    segment: str
    plane: Plane
    index: int
    prompt: PixelPrompt


@dataclass(frozen=True, eq=False)
class SavedWork:
    """A user's work on one volume.

    source_uri: where the volume was read from. source_uid: its uid, by content. model: which made the newest mask; empty:
    not known.
    """

    source_uri: str
    source_uid: str
    geometry: VolumeGeometry
    window: Window
    model: str = ""
    segments: tuple[SavedSegment, ...] = ()
    prompts: tuple[SavedPrompt, ...] = ()

    @classmethod
    def of(cls, volume: Volume | LoadedVolume, segmentation: Segmentation, model: str = "") -> SavedWork:
        """What there is at this moment. Of more than MAX_PROMPTS prompts, the newest."""
        segments = tuple(
            SavedSegment(segment, voxels, segmentation.frozen(segment.name))
            for segment, voxels in segmentation.snapshot()
        )
        prompts = tuple(SavedPrompt(*each) for each in segmentation.prompts()[-MAX_PROMPTS:])
        return cls(volume.uri, volume.uid, volume.geometry, volume.window, model, segments, prompts)

    def restore(self, segmentation: Segmentation) -> None:
        """Make the saved segments those of a segmentation of the same volume, as one step of undo, and theirs its prompts.

        Raises MaskError for a segmentation of another volume.
        """
        if segmentation.geometry != self.geometry:
            raise MaskError(f"The work is on another volume than this one; load {self.source_uri}.")
        segmentation.restore([(each.segment, each.voxels, each.frozen) for each in self.segments])
        names = {each.segment.name for each in self.segments}
        for each in self.prompts:
            if each.segment in names:
                segmentation.note_prompt(each.segment, each.plane, each.index, each.prompt)

    def save(self, path: Path) -> None:
        """Write a file whole or not at all; an earlier one of this kind is replaced. Raises MaskError."""
        path = Path(path)
        if path.suffix != SUFFIX:
            raise MaskError(f"{path.name} has another suffix; end it in {SUFFIX}.")
        if not path.parent.is_dir():
            raise MaskError(f"The folder {path.parent} does not exist; make it first.")
        if os.path.lexists(path) and not _is_ours(path):
            raise MaskError(
                f"{path} is there already and no work of samm; write elsewhere, or remove it first."
            )
        if len(self.segments) * _packed_size(self.geometry) > MAX_BYTES:
            raise MaskError(
                f"{len(self.segments)} segments of {self.geometry.dimensions} voxels are more than a file of work holds; save them as "
                ".seg.nrrd."
            )
        try:
            with tempfile.TemporaryDirectory(prefix=".samm-", dir=path.parent) as folder:
                part = Path(folder) / f"part{SUFFIX}"
                self._write(part)
                # As it will be read, so that what the disk lost is told now.
                load_work(part)
                os.replace(part, path)
        except OSError as error:
            reason = (error.strerror or str(error)).rstrip(".")
            raise MaskError(
                f"{path} could not be written ({reason}); make room or write elsewhere."
            ) from None

    def _write(self, path: Path) -> None:
        text = json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "source": {"uri": self.source_uri, "uid": self.source_uid},
                "dimensions": self.geometry.dimensions,
                "ijk_to_ras": self.geometry.ijk_to_ras.ravel().tolist(),
                "window": [self.window.lower, self.window.upper],
                "model": self.model,
                "segments": [
                    {
                        "name": each.segment.name,
                        "label": each.segment.label,
                        "color": each.segment.color,
                        "frozen": sorted(each.frozen),
                    }
                    for each in self.segments
                ],
                "prompts": [
                    {
                        "segment": each.segment,
                        "plane": each.plane,
                        "index": each.index,
                        "points": each.prompt.points_xy.tolist(),
                        "labels": each.prompt.labels.tolist(),
                        "box": each.prompt.box_xyxy.tolist() if each.prompt.has_box else None,
                        "choice": each.prompt.choice,
                    }
                    for each in self.prompts
                ],
            },
            indent=1,
        )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(_JSON, text)
            for number, each in enumerate(self.segments):
                array = io.BytesIO()
                np.save(array, np.packbits(each.voxels), allow_pickle=False)
                file.writestr(_member(number), array.getbuffer())


def load_work(path: Path, with_voxels: bool = True) -> SavedWork:
    """What SavedWork.save wrote. Raises MaskError, that names the file, where it is missing, damaged or anything else.

    with_voxels: False leaves the segments out, and is soon done: for the volume, window, model and prompts alone. Each length and type is checked before it is used, and no more is held than the file's own words allow within MAX_BYTES.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise OSError(0, "it is no regular file")
        with path.open("rb") as opened, zipfile.ZipFile(opened) as file:
            return _Reader(path, file).work(with_voxels)
    except OSError as error:
        raise MaskError(f"{path} cannot be read ({error.strerror or error}).") from None
    except SammError as error:
        # Also what the types of the core refuse: a window, a prompt, a geometry.
        raise MaskError(f"{path.name} is damaged or no work of samm: {error}") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, KeyError, EOFError, NotImplementedError,
            OverflowError, RuntimeError, RecursionError) as error:  # fmt: skip
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise MaskError(f"{path.name} is damaged or no work of samm ({reason}); open another file.") from None


class _Reader:
    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path, self._file = path, file

    def work(self, with_voxels: bool) -> SavedWork:
        members = self._file.namelist()
        saved = _fields(json.loads(self._take(_JSON, _MAX_JSON)), "format", "version")
        if saved["format"] != _FORMAT:
            raise ValueError(f"its format is {str(saved['format'])[:40]!r}")
        if saved["version"] != _VERSION:
            raise ValueError(f"its version is {str(saved['version'])[:40]}, and {_VERSION} is read here")
        _fields(saved, "source", "dimensions", "ijk_to_ras", "window", "model", "segments", "prompts")
        source = _fields(saved["source"], "uri", "uid")
        geometry = _geometry(saved["dimensions"], saved["ijk_to_ras"])
        segments = _list(saved["segments"], MAX_SEGMENTS)
        if sorted(members) != sorted([_JSON, *map(_member, range(len(segments)))]):
            raise ValueError("its arrays are not those of its segments")
        if len(segments) * _packed_size(geometry) > MAX_BYTES:
            raise ValueError(f"its segments take more than {MAX_BYTES:,} bytes")
        listed = [_segment(each, geometry) for each in segments]
        names = [segment.name for segment, _ in listed]
        if len(set(names)) < len(names) or len({segment.label for segment, _ in listed}) < len(names):
            raise ValueError("two of its segments have one name or label")
        return SavedWork(
            _text(source["uri"], _MAX_PATH),
            _text(source["uid"], MAX_NAME),
            geometry,
            Window(*_numbers(saved["window"], 2)),
            _text(saved["model"], MAX_NAME),
            tuple(
                SavedSegment(segment, self._voxels(number, geometry), frozen)
                for number, (segment, frozen) in enumerate(listed if with_voxels else ())
            ),
            tuple(_prompt(each, geometry) for each in _list(saved["prompts"], MAX_PROMPTS)),
        )

    def _voxels(self, number: int, geometry: VolumeGeometry) -> np.ndarray:
        size = _packed_size(geometry)
        content = io.BytesIO(self._take(_member(number), size + _ARRAY_HEADER))
        packed = np.load(content, allow_pickle=False)
        if packed.dtype != np.uint8 or packed.shape != (size,) or content.read(1):
            raise ValueError(f"{_member(number)} does not hold the voxels of its segment")
        shape = geometry.dimensions[::-1]
        return np.unpackbits(packed, count=math.prod(shape)).reshape(shape).view(bool)

    def _take(self, name: str, limit: int) -> bytes:
        """A member of at most `limit` bytes, whatever the file says of its size."""
        with self._file.open(name) as member:
            content = member.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"{name} is larger than {limit:,} bytes")
        return content


def _member(number: int) -> str:
    return f"segment_{number}.npy"


def _packed_size(geometry: VolumeGeometry) -> int:
    return (math.prod(geometry.dimensions) + 7) // 8


def _is_ours(path: Path) -> bool:
    """Whether a file is one of these, as its first member tells, or empty."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(30 + len(_JSON))
    return not head or (head.startswith(b"PK\3\4") and head.endswith(_JSON.encode()))


def _fields(value: object, *names: str) -> dict:
    if not isinstance(value, dict) or not value.keys() >= set(names):
        raise ValueError(f"{', '.join(names)} are not all there")
    return value


def _list(value: object, limit: int) -> list:
    if not isinstance(value, list) or len(value) > limit:
        raise ValueError(f"a list is none, or longer than {limit}")
    return value


def _text(value: object, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise ValueError(f"a text is none, or longer than {limit} characters")
    return value


def _whole(value: object) -> int:
    # True and False are numbers to Python.
    if type(value) is not int:
        raise ValueError(f"{str(value)[:40]} is no whole number")
    return value


def _numbers(value: object, count: int) -> list[float]:
    numbers = _list(value, count)
    if len(numbers) != count or not all(type(number) in (int, float) for number in numbers):
        raise ValueError(f"{count} numbers are not there")
    return [float(number) for number in numbers]


def _geometry(dimensions: object, matrix: object) -> VolumeGeometry:
    sides = tuple(_whole(side) for side in _list(dimensions, 3))
    if len(sides) != 3 or min(sides) < 1 or math.prod(sides) > MAX_VOXELS:
        raise ValueError(f"a volume of {sides} voxels cannot be")
    return VolumeGeometry(sides, np.reshape(_numbers(matrix, 16), (4, 4)))


def _slice(plane: object, index: object, geometry: VolumeGeometry) -> tuple[Plane, int]:
    place = Plane(_whole(plane)), _whole(index)
    if not geometry.contains_slice(*place):
        raise ValueError(f"there is no {place[0].name.lower()} slice {place[1]}")
    return place


def _segment(value: object, geometry: VolumeGeometry) -> tuple[Segment, frozenset[tuple[Plane, int]]]:
    fields = _fields(value, "name", "label", "color", "frozen")
    name, label = _text(fields["name"], MAX_NAME), _whole(fields["label"])
    if not name or segment_name_error(name) or not 1 <= label <= MAX_SEGMENTS:
        raise ValueError(f"a segment cannot have the name {name!r} and the label {label}")
    slices = sum(geometry.dimensions)
    frozen = frozenset(_slice(*_list(place, 2), geometry) for place in _list(fields["frozen"], slices))
    return Segment(name, label, checked_color(_numbers(fields["color"], 3))), frozen


def _prompt(value: object, geometry: VolumeGeometry) -> SavedPrompt:
    fields = _fields(value, "segment", "plane", "index", "points", "labels", "box")
    plane, index = _slice(fields["plane"], fields["index"], geometry)
    points = [_numbers(point, 2) for point in _list(fields["points"], MAX_PROMPTS)]
    labels = [_whole(label) for label in _list(fields["labels"], MAX_PROMPTS)]
    box = None if fields["box"] is None else _numbers(fields["box"], 4)
    # Files of before there was a choice say none.
    prompt = PixelPrompt(points, labels, box, choice=_whole(fields.get("choice", 0)))
    if outside := prompt.outside(*geometry.slice_shape(plane)):
        raise ValueError(f"{outside} its slice")
    return SavedPrompt(_text(fields["segment"], MAX_NAME), plane, index, prompt)
