# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tracked ultrasound as PLUS records it: a MetaImage whose last axis is time, with poses in its header.

Read here, since a header of fields for each image is no volume's, and one image after the other, since such a file may have
thousands.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import FrameError
from ...sources.readers.content import beside, open_regular
from .base import PlayedFrame, Player, require_sides

_DEFAULT_HZ = 10.0
# A header has about a kilobyte an image.
_HEADER_BYTES, _MAX_FRAMES = 256 << 20, 1_000_000
_CHUNK = 1 << 20
_TYPES = {"MET_UCHAR": "u1", "MET_USHORT": "u2", "MET_SHORT": "i2"}
_OF_FRAME = re.compile(r"Seq_Frame([0-9]{1,9})_(\w+)")
_TRANSFORM = re.compile(r"(\w+?)To([A-Z]\w*?)Transform")
# From what, and to what, a pose is looked for, the first that is there: where the image is, in what the patient is fixed to.
_FROM, _TO = ("Image", "Probe", "Transducer", "Tool"), ("Reference", "World", "Tracker")


def is_tracked_ultrasound(path: Path) -> bool:
    """Whether a MetaImage has fields for each of its images."""
    with os.fdopen(open_regular(path), "rb") as file:
        head = file.read(1 << 16)
    return b"\nSeq_Frame" in head[: head.find(b"\nElementDataFile") if b"\nElementDataFile" in head else None]


class TrackedUltrasound(Player):
    """A sequence of PLUS; its images come with x to the probe's marked side and y away from the probe (PLUS's MF).

    transform: the pose to take, such as "ProbeToReference"; it may be made of several that are recorded. Empty: of the image
    or the probe, in the reference or the tracker. image_to_probe: (4, 4), pixels to millimetres at the probe, as a
    calibration gives it; None: it is not known, and poses are the probe's own, as if a pixel were a millimetre. Raises
    FrameError for what is damaged or has no such transform.
    """

    def __init__(self, path: Path, transform: str = "", image_to_probe: np.ndarray | None = None) -> None:
        self._path, self.name = path, path.name
        with os.fdopen(open_regular(path), "rb") as file:
            fields, self._start = _header(self.name, file)
        try:
            self._understand(fields)
        except KeyError as error:
            raise FrameError(f"{self.name} has no {error.args[0]} in its header; export it again.") from None
        except ValueError as error:
            raise FrameError(f"{self.name} has a damaged header ({error}); export it again.") from None
        self._image_to_probe = np.eye(4) if image_to_probe is None else np.array(image_to_probe, float)
        self._choose(transform)
        columns, rows = self._sides
        path_text = f"poses {self._from}To{self._to}" if self._to else "no poses"
        self.kind = f"tracked ultrasound (PLUS, {columns} x {rows}, {path_text})"

    def frames(self, start: int = 0) -> Iterator[PlayedFrame]:
        """See Player; images that PLUS did not call OK are left out. Raises FrameError where the file is cut short."""
        dtype, (columns, rows) = self._dtype, self._sides
        size = columns * rows * self._channels * dtype.itemsize
        data = beside(self._path, self._detached) if self._detached else self._path
        with os.fdopen(open_regular(data), "rb") as file:
            file.seek(0 if self._detached else self._start)
            images = _unpacked(file, size) if self._compressed else _stored(file, size)
            for number in range(self.frame_count):
                image = next(images, None)
                if image is None:
                    raise FrameError(
                        f"{self.name} is cut short after {number} of {self.frame_count} images; copy it again."
                    )
                if number < start or self._fields[number].get("ImageStatus", "OK") != "OK":
                    continue
                pixels = np.frombuffer(image, dtype).astype(dtype.newbyteorder("="), copy=False)
                pixels = pixels.reshape((rows, columns, 3) if self._channels == 3 else (rows, columns))
                pose, ok = self._pose(number)
                yield PlayedFrame(float(self._times_s[number]), self._turned(pixels), pose, ok)

    def _understand(self, fields: dict[str, str]) -> None:
        sides = [int(word) for word in fields["DimSize"].split()]
        if (
            len(sides) != int(fields["NDims"])
            or len(sides) not in (3, 4)
            or (len(sides) == 4 and sides[2] != 1)
        ):
            raise FrameError(f"{self.name} has images of the size {sides}; flat ones over time are played.")
        self._sides, self.frame_count = (sides[0], sides[1]), sides[-1]
        require_sides(self.name, *self._sides)
        if not 1 <= self.frame_count <= _MAX_FRAMES:
            raise FrameError(f"{self.name} claims {self.frame_count} images; 1 to {_MAX_FRAMES} are played.")
        kind = _TYPES.get(fields["ElementType"].removesuffix("_ARRAY"))
        self._channels = int(fields.get("ElementNumberOfChannels", "1"))
        if kind is None or not (self._channels == 1 or (self._channels == 3 and kind == "u1")):
            raise FrameError(
                f"{self.name} has {self._channels} values of the type {fields['ElementType']} a pixel; grey of 8 or 16 bits "
                "and 8-bit RGB are played."
            )
        big = any(_flag(fields, name) for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
        self._dtype = np.dtype((">" if big else "<") + kind)
        self._compressed = _flag(fields, "CompressedData")
        data = fields["ElementDataFile"]
        self._detached = "" if data.lower() == "local" else data
        self._fields: list[dict[str, str]] = [{} for _ in range(self.frame_count)]
        for name, value in fields.items():
            if (of_frame := _OF_FRAME.fullmatch(name)) and int(of_frame[1]) < self.frame_count:
                self._fields[int(of_frame[1])][of_frame[2]] = value
        self._orientation = fields.get("UltrasoundImageOrientation", "")
        letters = self._orientation[:2]
        remarks = []
        if not re.fullmatch("[UM][FN]|[FN][UM]", letters):
            remarks.append(
                f"{self.name} does not tell how its images are turned; they are played as they are."
            )
            letters = "MF"
        self._letters = letters
        self._times_s = self._frame_times(remarks)
        bad = sum(each.get("ImageStatus", "OK") != "OK" for each in self._fields)
        if bad:
            remarks.append(f"Images of {self.name} whose status is not OK are left out: {bad}.")
        self.remarks = tuple(remarks)

    def _frame_times(self, remarks: list[str]) -> np.ndarray:
        """(images,) seconds since the first."""
        try:
            times = np.array([float(each["Timestamp"]) for each in self._fields])
            told = bool(np.isfinite(times).all() and (np.diff(times) > 0).all())
        except (KeyError, ValueError):
            told = False
        if not told:
            remarks.append(
                f"{self.name} has no rising times; it is played at {_DEFAULT_HZ:g} images a second."
            )
            times = np.arange(self.frame_count) / _DEFAULT_HZ
        spans = self.frame_count - 1
        self.rate = spans / float(times[-1] - times[0]) if spans else _DEFAULT_HZ
        return times - times[0]

    def _choose(self, transform: str) -> None:
        names = {name for each in self._fields for name in each if _TRANSFORM.fullmatch(name)}
        pairs = {tuple(_TRANSFORM.fullmatch(name).groups()) for name in names}
        ends = {end for pair in pairs for end in pair}
        self._from = self._to = ""
        if transform:
            wanted = _TRANSFORM.fullmatch(transform.removesuffix("Transform") + "Transform")
            if not wanted or not _ways(pairs, *wanted.groups()):
                known = ", ".join(sorted(f"{a}To{b}" for a, b in pairs)) or "none"
                raise FrameError(f"{self.name} has no transform {transform[:60]}; it has {known}.")
            self._from, self._to = wanted.groups()
        else:
            found = ((a, b) for a in _FROM for b in _TO if {a, b} <= ends and _ways(pairs, a, b))
            self._from, self._to = next(found, ("", ""))
        self._way = _ways(pairs, self._from, self._to)
        self.frame_id = self._to.lower()

    def _pose(self, number: int) -> tuple[np.ndarray | None, bool]:
        """The image's pose, mm, and whether all that it is made of was measured."""
        if not self._way:
            return None, False
        pose, ok, fields = np.eye(4), True, self._fields[number]
        for first, second, inverted in self._way:
            name = f"{first}To{second}Transform"
            try:
                matrix = np.array([float(word) for word in fields[name].split()]).reshape(4, 4)
                if not np.isfinite(matrix).all():
                    raise ValueError
                matrix = np.linalg.inv(matrix) if inverted else matrix
            except (KeyError, ValueError, np.linalg.LinAlgError):
                return None, False
            ok = ok and fields.get(f"{name}Status", "OK") == "OK"
            pose = matrix @ pose
        return (pose if self._from == "Image" else pose @ self._image_to_probe), ok

    def _turned(self, pixels: np.ndarray) -> np.ndarray:
        letters = self._letters
        if letters[0] in "FN":
            pixels, letters = pixels.swapaxes(0, 1), letters[::-1]
        if letters[0] == "U":
            pixels = pixels[:, ::-1]
        if letters[1] == "N":
            pixels = pixels[::-1]
        if pixels.dtype == np.int16:
            pixels = (pixels.astype(np.int32) + (1 << 15)).astype(np.uint16)
        return np.ascontiguousarray(pixels)


def _header(name: str, file: BinaryIO) -> tuple[dict[str, str], int]:
    """The fields, and where the data begin that follow them. Raises FrameError."""
    fields: dict[str, str] = {}
    for line in iter(lambda: file.readline(_CHUNK), b""):
        if file.tell() > _HEADER_BYTES:
            break
        field, equals, value = line.decode("latin-1").partition("=")
        if equals:
            fields[field.strip()] = value.strip()
        if field.strip() == "ElementDataFile":
            return fields, file.tell()
    raise FrameError(f"{name} is no MetaImage, or its header is cut short; export it again.")


def _flag(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "False").lower() in ("true", "1", "yes")


def _stored(file: BinaryIO, size: int) -> Iterator[bytes]:
    while len(image := file.read(size)) == size:
        yield image


def _unpacked(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Images of `size` bytes out of one compressed stream, no more held than one of them; ends where it is damaged."""
    stream, image = zlib.decompressobj(wbits=47), bytearray()  # zlib or gzip
    packed = b""
    try:
        while packed or (packed := file.read(_CHUNK)):
            image += stream.decompress(packed, size - len(image))
            packed = stream.unconsumed_tail
            if len(image) == size:
                yield bytes(image)
                image.clear()
    except zlib.error:
        return


def _ways(pairs: set[tuple[str, str]], start: str, goal: str) -> list[tuple[str, str, bool]]:
    """The recorded transforms that lead from one frame to another, the fewest, each with whether it is inverted."""
    ways: dict[str, list[tuple[str, str, bool]]] = {start: []}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        if here == goal:
            return ways[here]
        for first, second in sorted(pairs):
            for end, other, inverted in ((first, second, False), (second, first, True)):
                if end == here and other not in ways:
                    ways[other] = [*ways[here], (first, second, inverted)]
                    waiting.append(other)
    return []
