# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Folders of embedded slices, as SAMM 1.2 saves and loads them: which slices they are, and their pixels.

The embeddings themselves stay in the graph, whose `cache_dir` keeps them, named by picture and model. The metadata is
written last and names its data, so that a folder is whole, or as it was before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samm_core.errors import CacheError, SammError
from samm_core.mask_codec import MAX_SIDE
from samm_core.sources.picture import picture_volume

from .payloads import WINDOW, Picture

METADATA = "embeddings.json"
# Of pixels, of a folder.
MAX_BYTES = 1 << 30
_FORMAT = "samm_ros embedded slices 1"
_MAX_METADATA_BYTES = 64 << 20


def save(path: str, weight_id: str, slices: Sequence[tuple[dict[str, Any], Picture]]) -> dict[str, Any]:
    """Write a folder; the reply's fields. slices: what load gives back beside each picture.

    Raises CacheError for a folder that cannot be written, or that holds other files, and for more than MAX_BYTES.
    """
    folder = _folder(path)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is no folder; choose another one.")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise CacheError(
            f"{folder} holds files that are no embeddings; choose an empty folder, or a new one."
        )
    # Before they are copied. One slice may be named any number of times.
    held = sum(picture.pixels.nbytes for _, picture in slices)
    if held > MAX_BYTES:
        raise CacheError(
            f"The slices hold {held / 2**20:.0f} MiB of pixels; a folder takes {MAX_BYTES >> 20} MiB: save fewer."
        )
    data = b"".join(picture.pixels.tobytes() for _, picture in slices)
    data_path = folder / f"pictures-{hashlib.blake2b(data, digest_size=8).hexdigest()}.bin"
    entries = [
        {**echo, "embedding_id": picture.uid, "pixels": list(picture.pixels.shape)}
        for echo, picture in slices
    ]
    text = json.dumps({"format": _FORMAT, "weight_id": weight_id, "data": data_path.name, "items": entries})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(data_path, data)
        _write(folder / METADATA, text.encode())
        for old in folder.glob("pictures-*.bin"):
            if old != data_path:
                old.unlink()
    except OSError as error:
        raise CacheError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from None
    return {
        "path": path,
        "metadata_path": str(folder / METADATA),
        "data_path": str(data_path),
        "count": len(slices),
    }


def load(path: str, weight_id: str) -> list[tuple[dict[str, Any], Picture]]:
    """What was saved for these weights. Raises CacheError for a folder that is none, is damaged, or is of others."""
    folder = _folder(path)
    try:
        metadata = _metadata(folder)
        if metadata["weight_id"] != weight_id:
            raise CacheError(
                f"{folder} is of {metadata['weight_id']!s:.60}, not of {weight_id}; prepare that one."
            )
        shapes = [tuple(entry["pixels"]) for entry in metadata["items"]]
        if not all(_is_shape(shape) for shape in shapes):
            raise ValueError
        sizes = [math.prod(shape) for shape in shapes]
        data_path = folder / Path(metadata["data"]).name
        if sum(sizes) > MAX_BYTES or data_path.stat().st_size != sum(sizes):
            raise ValueError
        slices = []
        with data_path.open("rb") as file:
            for entry, shape, size in zip(metadata["items"], shapes, sizes, strict=True):
                pixels = np.frombuffer(file.read(size), np.uint8).reshape(shape)
                if picture_volume(pixels, window=WINDOW).uid != entry["embedding_id"]:
                    raise ValueError
                echo = {name: entry[name] for name in ("slice_spec", "image_shape", "image_digest")}
                slices.append((echo, Picture(entry["embedding_id"], pixels)))
    except OSError as error:
        raise CacheError(
            f"{folder} cannot be read ({error.strerror}); choose a folder of embeddings."
        ) from None
    except CacheError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SammError):
        raise CacheError(f"{folder} holds no embeddings of samm_ros, or damaged ones; embed again.") from None
    return slices


def _folder(path: str) -> Path:
    folder = Path(path)
    if not folder.is_absolute() or "\0" in path:
        raise CacheError(f"{path!r:.80} is no absolute path; give one.")
    return folder


def _is_ours(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        _metadata(folder)
        return True
    return False


def _metadata(folder: Path) -> Any:
    """Raises one of OSError, ValueError, TypeError, KeyError and RecursionError where save() has written none."""
    with (folder / METADATA).open("rb") as file:
        text = file.read(_MAX_METADATA_BYTES + 1)
    if len(text) > _MAX_METADATA_BYTES:
        raise ValueError
    metadata = json.loads(text)
    if metadata["format"] != _FORMAT:
        raise ValueError
    return metadata


def _is_shape(shape: tuple[Any, ...]) -> bool:
    sides = shape[:2]
    return (
        (len(shape) == 2 or shape[2:] == (3,))
        and len(sides) == 2
        and all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides)
    )


def _write(path: Path, data: bytes) -> None:
    """Whole, or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
