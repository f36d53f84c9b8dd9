# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Volumes: read from files, their content's name, their slices as a model takes them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import VolumeError
from ..geometry import Plane, VolumeGeometry
from .base import SliceKey
from .readers import MAX_VOXELS, Content, read
from .readers.isolated import read_isolated
from .window import WINDOW_PRESETS, Window, automatic_window

__all__ = [
    "MAX_VOXELS",
    "WINDOW_PRESETS",
    "LoadedVolume",
    "Volume",
    "Window",
    "automatic_window",
    "read_here",
    "read_volume",
    "volume_of",
]


@dataclass(frozen=True, eq=False)
class LoadedVolume:
    """What a server says of a volume that it holds: all but its voxels.

    uid, geometry, window and the sentences are as Volume's. at_start: the server loaded it at its start, and no client
    asked for it.
    """

    uid: str
    name: str
    uri: str
    geometry: VolumeGeometry
    window: Window
    window_reason: str = ""
    warnings: tuple[str, ...] = ()
    at_start: bool = False

    def problem(self, key: SliceKey) -> str:
        """Why there is no such slice, one sentence; empty: there is."""
        return _slice_problem(self.geometry, self.name, key)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory: an ImageSource whose images are its slices.

    voxels: (K, J, I), or (K, J, I, 3) uint8 RGB; read-only. uid: 32 hexadecimal digits, the name of the voxels and their
    geometry by content. uri: where it was read from. window: of keys that name none. window_reason: why this window.
    warnings: of how it was read. Both in sentences.
    """

    voxels: np.ndarray
    geometry: VolumeGeometry
    window: Window
    name: str
    uri: str
    uid: str
    window_reason: str = ""
    warnings: tuple[str, ...] = ()

    def image(self, key: SliceKey) -> np.ndarray:
        """One slice as models take it: (rows, columns, 3) uint8, contiguous, windowed; grey three times over."""
        pixels = self.geometry.take_slice(self.voxels, key.plane, key.index)
        if pixels.ndim == 3:
            return np.ascontiguousarray(pixels)
        return np.repeat((key.window or self.window).to_uint8(pixels)[..., None], 3, axis=2)

    def shape(self, key: SliceKey) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.geometry.slice_shape(key.plane)

    def pose(self, key: SliceKey) -> np.ndarray:
        """(4, 4) float64: pixels (x, y, 0, 1) of a slice to RAS millimetres."""
        return self.geometry.slice_pose(key.plane, key.index)

    def problem(self, key: SliceKey) -> str:
        """Why there is no such slice, one sentence; empty: there is."""
        return _slice_problem(self.geometry, self.name, key)

    def slice_image(self, plane: Plane, index: int) -> np.ndarray:
        """As `image`, in the volume's own window."""
        return self.image(SliceKey(plane, index))

    def with_window(self, window: Window, reason: str = "It was asked for.") -> Volume:
        """The same voxels in another window."""
        return replace(self, window=window, window_reason=reason)


def _slice_problem(geometry: VolumeGeometry, name: str, key: SliceKey) -> str:
    if geometry.contains_slice(key.plane, key.index):
        return ""
    last = geometry.slice_count(key.plane) - 1
    return f"There is no {key}; {name} has slices 0 to {last} in that plane."


def read_volume(path: Path, window: Window | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF or BMP, or a folder or file of DICOM, in a process of its own.

    window: None chooses one (see automatic_window). Single voxels that are not finite become the smallest that is.
    Raises VolumeError for what is missing, of another kind, damaged or cut short, 4-D, empty, larger than max_voxels (told
    from the header), without spacing, all NaN, or does not lie as its own words say.
    """
    path = Path(path)
    try:
        return volume_of(read_isolated(_existing(path), max_voxels), path, window)
    except MemoryError:
        raise VolumeError(f"There is no memory for {path.name}; crop or resample it.") from None


def read_here(path: Path, window: Window | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """As read_volume, in this process: for files that are trusted."""
    path = Path(path)
    return volume_of(read(_existing(path), max_voxels), path, window)


def _existing(path: Path) -> Path:
    # Also where it may not be looked at, or its name is none.
    if not os.path.exists(path):
        raise VolumeError(f"There is no file or folder {path}; check the path.")
    return path


def volume_of(content: Content, path: Path, window: Window | None = None) -> Volume:
    """The volume of what was read from `path`; raises VolumeError as read_volume does."""
    voxels = _finite(content.voxels, path)
    voxels.flags.writeable = False
    geometry = VolumeGeometry(voxels.shape[2::-1], content.ijk_to_ras)
    reason = "It was asked for."
    if window is None:
        window, reason = automatic_window(voxels, content.modality)
    uid = _uid(voxels, geometry)
    return Volume(voxels, geometry, window, path.name, str(path.resolve()), uid, reason, content.warnings)


def _finite(voxels: np.ndarray, path: Path) -> np.ndarray:
    """The voxels, finite; raises VolumeError when none is."""
    if voxels.dtype.kind != "f":
        return voxels
    finite = np.isfinite(voxels)
    if not finite.any():
        raise VolumeError(f"{path.name} holds no finite voxel; export it again.")
    return voxels if finite.all() else np.where(finite, voxels, voxels[finite].min())


def _uid(voxels: np.ndarray, geometry: VolumeGeometry) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{voxels.dtype.str} {voxels.shape} ".encode())
    digest.update(geometry.ijk_to_ras.tobytes())
    digest.update(np.ascontiguousarray(voxels).data)
    return digest.hexdigest()
