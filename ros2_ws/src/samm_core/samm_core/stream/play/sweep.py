# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A volume as a probe would show it that is moved along it: planes at any angle, each with its pose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import FrameError
from ...sources.volume import Volume, read_volume
from .base import PlayedFrame, Player, require_sides

_DEFAULT_HZ = 10.0
_MAX_FRAMES = 100_000
# Where the probe is moved to (RAS), and where then a picture's rows and columns point: as radiologists look at slices.
_AXES = {
    "superior": ((0, 0, 1), (-1, 0, 0), (0, -1, 0)),
    "anterior": ((0, 1, 0), (-1, 0, 0), (0, 0, -1)),
    "right": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
}
AXES = tuple(_AXES)


@dataclass(frozen=True)
class SweepPath:
    """The way of the plane.

    axis: one of AXES; the plane's middle moves along it, through the middle of the volume. start_mm, end_mm: along it, RAS;
    None: where the volume begins and ends. step_mm: from image to image; None: the volume's smallest spacing. tilt_deg: of
    the plane, about its rows. pixels: of the longer side. spacing_mm: of a pixel; None: the volume fits in.
    """

    axis: str = "superior"
    start_mm: float | None = None
    end_mm: float | None = None
    step_mm: float | None = None
    tilt_deg: float = 0.0
    pixels: int = 320
    spacing_mm: float | None = None


class VolumeSweep(Player):
    """Images of planes through a volume, in its window, linearly interpolated, black where it is not.

    what: a path, which read_volume reads, or a volume. Poses are in RAS millimetres. Raises VolumeError for the volume, and
    FrameError for a path that is none.
    """

    def __init__(self, what: Path | Volume, path: SweepPath = SweepPath()) -> None:  # noqa: B008 - frozen
        if path.axis not in AXES:
            raise FrameError(f"There is no axis {path.axis!r}; give one of {', '.join(AXES)}.")
        self._volume = volume = what if isinstance(what, Volume) else read_volume(what)
        geometry = volume.geometry
        self.name, self.frame_id = volume.name, "ras"
        ends = [(-0.5, count - 0.5) for count in geometry.dimensions]
        corners = geometry.position_of(np.array(list(itertools.product(*ends))))
        axis, across, down = (np.array(vector, float) for vector in _AXES[path.axis])
        along = corners @ axis
        start = float(along.min()) if path.start_mm is None else path.start_mm
        end = float(along.max()) if path.end_mm is None else path.end_mm
        step = float(geometry.spacing.min()) if path.step_mm is None else path.step_mm
        numbers = (start, end, step, path.tilt_deg, 1.0 if path.spacing_mm is None else path.spacing_mm)
        if not np.isfinite(numbers).all() or step <= 0 or numbers[-1] <= 0 or abs(path.tilt_deg) >= 90:
            raise FrameError(
                f"A sweep from {start:g} to {end:g} mm, each {step:g} mm, tilted by {path.tilt_deg:g}°, with pixels of "
                f"{numbers[-1]:g} mm is not possible; give steps and pixels above 0, and a tilt below 90°."
            )
        self.frame_count = math.floor(abs(end - start) / step + 1e-6) + 1
        if self.frame_count > _MAX_FRAMES:
            raise FrameError(
                f"The sweep would have {self.frame_count} images; at most {_MAX_FRAMES} are played: give larger steps."
            )
        tilt = math.radians(path.tilt_deg)
        down = math.cos(tilt) * down + math.sin(tilt) * np.cross(across, down)
        extents = [float(np.ptp(corners @ vector)) for vector in (across, down)]
        spacing = max(extents) / max(1, path.pixels) if path.spacing_mm is None else path.spacing_mm
        if path.spacing_mm is None:
            columns, rows = (max(1, round(extent / spacing)) for extent in extents)
        else:
            columns = rows = path.pixels
        require_sides(self.name, columns, rows)
        # A plane with the middle of the volume in its own middle, from which the others differ along the axis.
        middle = corners.mean(axis=0)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = across * spacing, down * spacing, np.cross(across, down)
        pose[:3, 3] = (
            middle - pose[:3, 0] * (columns - 1) / 2 - pose[:3, 1] * (rows - 1) / 2 - axis * (middle @ axis)
        )
        self._pose, self._axis = pose, axis
        self._along = start + np.arange(self.frame_count) * math.copysign(step, end - start)
        self._pixels_xy01 = np.stack(
            [
                *np.meshgrid(np.arange(columns), np.arange(rows)),
                np.zeros((rows, columns)),
                np.ones((rows, columns)),
            ]
        ).reshape(4, -1)
        self._shape = rows, columns
        self.rate = _DEFAULT_HZ
        self.kind = f"sweep through a volume ({path.axis}, {columns} x {rows}, {spacing:.3g} mm a pixel)"
        self.remarks = volume.warnings

    def frames(self, start: int = 0) -> Iterator[PlayedFrame]:
        """See Player."""
        for number in range(start, self.frame_count):
            pose = self._pose.copy()
            pose[:3, 3] += self._axis * self._along[number]
            yield PlayedFrame(number / self.rate, self._image(pose), pose)

    def _image(self, pose: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        volume = self._volume
        ijk = (volume.geometry.ras_to_ijk @ pose @ self._pixels_xy01)[:3]

        def taken(voxels: np.ndarray, outside: float) -> np.ndarray:
            sampled = map_coordinates(voxels, ijk[::-1], np.float32, order=1, cval=outside)
            return sampled.reshape(self._shape)

        if volume.voxels.ndim == 4:
            channels = [taken(volume.voxels[..., channel], 0.0) for channel in range(3)]
            return np.rint(np.dstack(channels)).astype(np.uint8)
        return volume.window.to_uint8(taken(volume.voxels, volume.window.lower))
