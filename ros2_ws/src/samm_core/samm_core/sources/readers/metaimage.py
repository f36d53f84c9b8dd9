# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""MetaImage. Read here, not by ITK: its reader takes the name of a data file for a printf pattern, and reads any file."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import numpy as np

from ...errors import VolumeError
from .content import LPS_TO_RAS, Content, beside, open_regular, require_size

_HEADER_BYTES = 1 << 16
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def read(path: Path, max_voxels: int) -> Content:
    """Raises VolumeError for what is no MetaImage, cut short, 4-D, or whose voxels lie elsewhere than beside it."""
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            fields, start = _fields(file.read(_HEADER_BYTES))
            return _read(path, file, fields, start, max_voxels)
        except (KeyError, ValueError, OverflowError, zlib.error) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise VolumeError(f"{path.name} cannot be read ({reason}); export it again.") from None


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """The header's fields and where its voxels would begin; raises ValueError for another content."""
    end = re.search(rb"^ElementDataFile\s*=[^\n]*\n?", head, re.MULTILINE)
    if not end:
        raise ValueError("it is no MetaImage")
    fields = {}
    for line in head[: end.end()].decode("latin-1").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = value.strip()
    return fields, end.end()


def _read(path: Path, file: object, fields: dict[str, str], start: int, max_voxels: int) -> Content:
    dimensions = fields["NDims"]
    if dimensions not in ("2", "3", "4"):
        raise VolumeError(f"{path.name} has {dimensions} dimensions; give one time point, in 3.")
    count = int(dimensions)
    sides = [int(n) for n in fields["DimSize"].split()]
    if len(sides) != count:
        raise ValueError(f"its DimSize has {len(sides)} numbers for {count} dimensions")
    if count == 4 and sides[3] > 1:
        raise VolumeError(f"{path.name} has 4 dimensions {tuple(sides)}; give one time point, in 3.")
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    kind = _TYPES.get(fields["ElementType"].removesuffix("_ARRAY"))
    if kind is None:
        raise ValueError(f"its ElementType is {fields['ElementType']}")
    if channels != 1 and not (channels in (3, 4) and kind == "u1"):
        raise VolumeError(f"{path.name} has {channels} components a voxel; give grey, or 8-bit RGB.")
    if "BinaryData" in fields and not _flag(fields, "BinaryData"):
        raise VolumeError(f"{path.name} holds its voxels as text; export it as binary.")
    big = _flag(fields, "BinaryDataByteOrderMSB") or _flag(fields, "ElementByteOrderMSB")
    stored = np.dtype(("> " if big else "<").strip() + kind)
    sides = [*sides, 1][:3]
    require_size(path.name, sides, stored.itemsize * channels, max_voxels)
    matrix = _placement(path, fields, count)
    size = sides[0] * sides[1] * sides[2] * channels * stored.itemsize
    if fields["ElementDataFile"] in ("LOCAL", "Local", "local"):
        file.seek(start)
        data = _data(path, file, fields, size)
    else:
        other = beside(path, fields["ElementDataFile"])
        with os.fdopen(open_regular(other), "rb") as detached:
            data = _data(other, detached, fields, size)
    voxels = np.frombuffer(data, stored).astype(stored.newbyteorder("="), copy=False)
    shape = sides[::-1] if channels == 1 else [*sides[::-1], channels]
    return Content(
        np.ascontiguousarray(voxels.reshape(shape)[..., :3] if channels > 1 else voxels.reshape(shape)),
        matrix,
        fields.get("Modality", "").removeprefix("MET_MOD_").removesuffix("UNKNOWN").removesuffix("OTHER"),
    )


def _flag(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "False").lower() in ("true", "1", "yes")


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int, default: list[float]) -> np.ndarray:
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return np.array(default)
    values = np.array([float(word) for word in text.split()])
    if len(values) != count:
        raise ValueError(f"its {names[0]} has {len(values)} numbers, not {count}")
    return values


def _placement(path: Path, fields: dict[str, str], count: int) -> np.ndarray:
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), count, [1.0] * count)
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise VolumeError(f"{path.name} has the spacing {spacing.tolist()} mm; correct it in the header.")
    origin = _numbers(fields, ("Offset", "Position", "Origin"), count, [0.0] * count)
    names = ("TransformMatrix", "Rotation", "Orientation")
    # Row by row: where each axis of the array points.
    axes = _numbers(fields, names, count * count, np.eye(count).ravel().tolist()).reshape(count, count)
    kept = min(count, 3)
    lengths = np.linalg.norm(axes[:kept, :kept], axis=1)
    if not (np.abs(lengths - 1) < 0.01).all():
        raise VolumeError(
            f"{path.name} has axes of the lengths {lengths.tolist()} in its TransformMatrix, not 1; export it again."
        )
    matrix = np.eye(4)
    matrix[:kept, :kept] = axes[:kept, :kept].T * spacing[:kept]
    matrix[:kept, 3] = origin[:kept]
    return LPS_TO_RAS @ matrix


def _data(path: Path, file: object, fields: dict[str, str], size: int) -> bytes:
    cut = VolumeError(f"{path.name} is cut short; copy or export it again.")
    if _flag(fields, "CompressedData"):
        stream = zlib.decompressobj(wbits=47)  # zlib or gzip
        data = bytearray()
        while len(data) < size and (chunk := file.read(1 << 20)):
            data += stream.decompress(chunk, size - len(data))
            while len(data) < size and stream.unconsumed_tail:
                data += stream.decompress(stream.unconsumed_tail, size - len(data))
    else:
        skip = int(fields.get("HeaderSize", "0"))
        if skip == -1:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - size, 0))
        elif skip > 0:
            file.seek(skip, os.SEEK_CUR)
        elif skip < -1:
            raise ValueError(f"its HeaderSize is {skip}")
        data = file.read(size)
    if len(data) < size:
        raise cut
    return bytes(data)
