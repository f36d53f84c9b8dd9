# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""NRRD: its header by pynrrd, its voxels here, so that no more is unpacked than the header says, and no other file read."""

from __future__ import annotations

import bz2
import os
import warnings as python_warnings
import zlib
from pathlib import Path

import numpy as np

from ...errors import VolumeError
from .content import LPS_TO_RAS, Content, beside, in_millimetres, open_regular, require_size

_TO_RAS = {
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]), "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}  # fmt: skip
_CHANNELS = {
    "rgb-color": 3,
    "3-color": 3,
    "rgba-color": 4,
    "4-color": 4,
    "vector": 0,
    "list": 0,
    "complex": 2,
}


def read(path: Path, max_voxels: int) -> Content:
    """Raises VolumeError for what is no NRRD file, cut short, 4-D, or whose voxels lie elsewhere than beside it."""
    import nrrd

    with os.fdopen(open_regular(path), "rb") as file:
        if file.read(7) != b"NRRD000":
            raise VolumeError(f"{path.name} cannot be read (it is no NRRD file); export it again.")
        file.seek(0)
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                header = nrrd.read_header(file)
            return _read(path, file, header, max_voxels)
        except VolumeError:
            raise
        except (
            nrrd.NRRDError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            OverflowError,
            zlib.error,
            OSError,
            EOFError,
        ) as error:
            reason = f"it has no field {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise VolumeError(f"{path.name} cannot be read ({reason}); export it again.") from None


def _read(path: Path, file: object, header: dict, max_voxels: int) -> Content:
    sides = [int(n) for n in header["sizes"]]
    if len(sides) != int(header["dimension"]):
        raise ValueError(f"its sizes are {len(sides)} for {header['dimension']} dimensions")
    if min(sides) < 1:
        raise VolumeError(f"{path.name} is empty: its sizes are {sides}; export it again.")
    kinds = [str(kind).lower() for kind in header.get("kinds", ["domain"] * len(sides))]
    directions = _directions(header, len(sides))
    stored = _dtype(header)
    # The axis that is no place: its kind says so, or it has no direction.
    others = [
        n
        for n, kind in enumerate(kinds)
        if kind in _CHANNELS or (directions is not None and directions[n] is None)
    ]
    channel_axis = next((n for n in others if sides[n] > 1), None)
    if len(others) > 1 and sum(sides[n] > 1 for n in others) > 1:
        raise VolumeError(
            f"{path.name} has {len(sides)} dimensions {tuple(sides)}; give one time point, in 3."
        )
    places = [n for n in range(len(sides)) if n not in others]
    if channel_axis is None and len(places) == 4 and sides[places[3]] == 1:
        places = places[:3]
    if not 2 <= len(places) <= 3 or channel_axis not in (None, 0):
        raise VolumeError(
            f"{path.name} has {len(sides)} dimensions {tuple(sides)}; give one time point, in 3."
        )
    channels = 1 if channel_axis is None else sides[channel_axis]
    if channels > 1 and not (channels in (3, 4) and stored == np.uint8):
        raise VolumeError(f"{path.name} has {channels} components a voxel; give grey, or 8-bit RGB.")
    size = [*(sides[n] for n in places), 1][:3]
    require_size(path.name, size, stored.itemsize * channels, max_voxels)
    matrix, warnings = _placement(path, header, places, directions)
    units = {str(unit).strip('"') for unit in header.get("space units", header.get("units", ()))} - {
        "",
        "none",
        "???",
    }
    if len(units) > 1:
        raise VolumeError(f"{path.name} measures in {', '.join(sorted(units))}; export it in mm.")
    matrix, told = in_millimetres(path.name, matrix, next(iter(units), "mm"))
    warnings += told
    data = _data(path, file, header, int(np.prod(size)) * channels * stored.itemsize, stored)
    voxels = np.frombuffer(data, stored).astype(stored.newbyteorder("="), copy=False)
    voxels = voxels.reshape([*size[::-1], channels] if channels > 1 else size[::-1])
    return Content(
        np.ascontiguousarray(voxels[..., :3]) if channels > 1 else voxels, matrix, warnings=warnings
    )


def _dtype(header: dict) -> np.dtype:
    from nrrd.reader import _determine_datatype  # pynrrd's own table of NRRD's type names

    return _determine_datatype(header)


def _directions(header: dict, count: int) -> list[np.ndarray | None] | None:
    given = header.get("space directions")
    if given is None:
        return None
    rows = [
        None if row is None or np.isnan(np.asarray(row, float)).any() else np.asarray(row, np.float64)
        for row in given
    ]
    if len(rows) != count:
        raise ValueError(f"its space directions are {len(rows)} for {count} dimensions")
    return rows


def _placement(
    path: Path, header: dict, places: list[int], directions: list | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    matrix = np.eye(4)
    if directions is None:
        spacings = header.get("spacings")
        for axis, n in enumerate(places):
            # NaN: not told.
            if spacings is not None and not np.isnan(spacings[n]):
                matrix[axis, axis] = spacings[n]
        _require_spacing(path, np.diag(matrix)[: len(places)])
        return LPS_TO_RAS @ matrix, (
            f"{path.name} does not say where it lies (no space directions); its spacing alone was taken.",
        )
    space = str(header.get("space", "")).lower().removesuffix("-time")
    if space and space not in _TO_RAS:
        raise VolumeError(f"{path.name} lies in the space {space!r}; export it in left-posterior-superior.")
    for axis, n in enumerate(places):
        direction = directions[n][:3]
        matrix[: len(direction), axis] = direction
    if len(places) == 2:
        # One slice: the third axis goes across it.
        across = np.cross(matrix[:3, 0], matrix[:3, 1])
        matrix[:3, 2] = across / (np.linalg.norm(across) or 1.0)
    _require_spacing(path, np.linalg.norm(matrix[:3, :3], axis=0)[: len(places)])
    origin = np.asarray(header.get("space origin", np.zeros(3)), np.float64)[:3]
    matrix[: len(origin), 3] = origin
    warnings = () if space else (f"{path.name} does not name its space; left-posterior-superior was taken.",)
    return _TO_RAS.get(space, LPS_TO_RAS) @ matrix, warnings


def _require_spacing(path: Path, spacing: np.ndarray) -> None:
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise VolumeError(f"{path.name} has the spacing {spacing.tolist()} mm; correct it in the header.")


def _data(path: Path, file: object, header: dict, size: int, stored: np.dtype) -> bytes:
    """The voxels' bytes; no more is held than `size`."""
    name = header.get("data file", header.get("datafile"))
    if name is not None:
        if not isinstance(name, str) or any(mark in name for mark in "%*") or name.startswith("LIST"):
            raise VolumeError(f"{path.name} spreads its voxels over several files; export it as one.")
        other = beside(path, name)
        with os.fdopen(open_regular(other), "rb") as detached:
            return _unpacked(other, detached, header, size, stored)
    return _unpacked(path, file, header, size, stored)


def _unpacked(path: Path, file: object, header: dict, size: int, stored: np.dtype) -> bytes:
    for _ in range(int(header.get("line skip", header.get("lineskip", 0)))):
        if not file.readline():
            break
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    encoding = str(header["encoding"]).lower()
    if skip and (encoding != "raw" or skip < -1):
        raise VolumeError(f"{path.name} skips {skip} bytes of {encoding} data; export it again without.")
    if skip == -1:
        file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
    elif skip:
        file.seek(skip, os.SEEK_CUR)
    if encoding == "raw":
        data = file.read(size)
    elif encoding in ("gzip", "gz"):
        data = _inflated(file, zlib.decompressobj(wbits=47), size)
    elif encoding in ("bzip2", "bz2"):
        data = _inflated(file, bz2.BZ2Decompressor(), size)
    elif encoding in ("ascii", "text", "txt"):
        data = np.array(file.read(32 * size).split(), stored).tobytes()[:size]
    else:
        raise VolumeError(f"{path.name} is encoded as {encoding}; export it as raw or gzip.")
    if len(data) < size:
        raise VolumeError(f"{path.name} is cut short; copy or export it again.")
    return bytes(data)


def _inflated(file: object, stream: object, size: int) -> bytearray:
    data = bytearray()
    chunk = b""
    while len(data) < size:
        if isinstance(stream, bz2.BZ2Decompressor):
            if stream.eof:
                break
            chunk = file.read(1 << 20) if stream.needs_input else b""
            if stream.needs_input and not chunk:
                break
            data += stream.decompress(chunk, size - len(data))
            continue
        if not (chunk := stream.unconsumed_tail or file.read(1 << 20)) or stream.eof:
            break
        data += stream.decompress(chunk, size - len(data))
    return data
