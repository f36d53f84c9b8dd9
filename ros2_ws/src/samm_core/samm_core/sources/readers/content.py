# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a file holds, and what is refused of every format alike."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import VolumeError

MAX_VOXELS = 1024**3
# Enough for the largest volume in 16 bits. What a header claims beyond it is refused before anything is held.
MAX_BYTES = 1 << 31
# Units of length that files name, in millimetres.
MILLIMETRES = {
    "m": 1e3,
    "cm": 10.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
    "nm": 1e-6,
}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Content:
    """What was read of a file or folder.

    voxels: (K, J, I), or (K, J, I, 3) uint8 RGB. ijk_to_ras: (4, 4) float64, to millimetres; it may hold shear.
    modality: as DICOM names it, e.g. CT; empty: the file does not say. warnings: a sentence each.
    """

    voxels: np.ndarray
    ijk_to_ras: np.ndarray
    modality: str = ""
    warnings: tuple[str, ...] = ()


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, to read; raises VolumeError for anything else. A FIFO is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise VolumeError(f"{path.name} cannot be opened ({error.strerror}); check the file.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VolumeError(f"{path.name} is no regular file; give a file.")
    return descriptor


_memory: int | None = None


def limit_memory(spare: int) -> None:
    """Hold no more than `spare` bytes beyond what is held now, and, once a size is known, a few times the voxels."""
    global _memory
    # Not on Windows, where 3D Slicer uses this module too.
    import resource

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _memory = held + spare
    resource.setrlimit(resource.RLIMIT_AS, (_memory, resource.RLIM_INFINITY))


def require_size(name: str, sides: Sequence[int], bytes_per_voxel: int, max_voxels: int) -> None:
    """Raises VolumeError for a size that is empty or more than is read, as a header claims it."""
    voxels = math.prod(sides)
    if voxels < 1 or min(sides) < 1:
        raise VolumeError(f"{name} is empty: it has {max(voxels, 0)} voxels; export it again.")
    if voxels > max_voxels:
        raise VolumeError(
            f"{name} has {voxels:,} voxels; at most {max_voxels:,} are read: crop or resample it."
        )
    if voxels * bytes_per_voxel > MAX_BYTES:
        raise VolumeError(
            f"{name} takes {voxels * bytes_per_voxel:,} bytes; at most {MAX_BYTES:,} are read: crop or resample it."
        )
    if _memory:
        import resource

        # As stored, in the type that it is scaled to, and once more on the way there.
        room = _memory + voxels * (2 * bytes_per_voxel + 24)
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))


def in_millimetres(name: str, matrix: np.ndarray, unit: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A placement (4, 4) in `unit` as one in millimetres, and what is to be told. Raises VolumeError for an unknown unit."""
    scale = MILLIMETRES.get(unit.lower())
    if scale is None:
        raise VolumeError(f"{name} measures in {unit[:40]!r}; export it in mm.")
    if scale == 1:
        return matrix, ()
    return np.diag([scale, scale, scale, 1.0]) @ matrix, (f"{name} measures in {unit}; it was read in mm.",)


def beside(header: Path, name: str) -> Path:
    """The data file that a header names: a plain name in the header's own folder. Raises VolumeError for another."""
    if not name or len(name) > 255 or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise VolumeError(
            f"{header.name} names the data file {name[:255]!r}; it must be a plain name in the header's own folder."
        )
    path = header.with_name(name)
    if path.is_symlink():
        raise VolumeError(
            f"{header.name} names the data file {name!r}, which is a link; put the file itself there."
        )
    if not path.exists():
        raise VolumeError(
            f"{header.name} names the data file {name!r}, which is not beside it; put that file there, or export one file."
        )
    return path
