# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Intensity windows: which of a volume's intensities are black, and which white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import VolumeError

# Hounsfield units: air is −1000 and lungs end here; soft tissue, fat and blood lie within ±300.
_AIR_HU, _TISSUE_HU = -500, 300
# Of all voxels; less air may be padding at an edge.
_LEAST_AIR = 0.02
# Of what is no air; more voxels of exactly 0 are the background of another kind of picture.
_MOST_ZEROS = 0.2
# A value that this share of voxels has, so far from the next one, is padding. Shares of the voxels and of their range.
_PADDING_SHARE, _PADDING_GAP = 0.005, 0.05


@dataclass(frozen=True)
class Window:
    """Intensities shown black (lower) and white (upper), in the volume's units. Raises VolumeError unless lower < upper."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        # A whole number in a message's float64 ends the process: ROS's generated code asserts.
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))
        if not (np.isfinite(self.upper - self.lower) and self.lower < self.upper):
            raise VolumeError(
                f"A window from {self.lower} to {self.upper} shows nothing; its upper end must be higher."
            )

    def to_uint8(self, array: np.ndarray) -> np.ndarray:
        """The array's intensities as 0 to 255, clipped to the window and rounded; same shape, uint8."""
        scale = 255.0 / (self.upper - self.lower)
        scaled = (array.astype(np.float32) - np.float32(self.lower)) * np.float32(scale)
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _level(level: float, width: float) -> Window:
    return Window(level - width / 2, level + width / 2)


# Level and width in Hounsfield units as radiology uses them.
WINDOW_PRESETS = {
    "ct_abdomen": _level(40, 400),
    "ct_mediastinum": _level(50, 350),
    "ct_lung": _level(-600, 1500),
    "ct_bone": _level(400, 1800),
    "ct_brain": _level(40, 80),
    "ct_liver": _level(60, 160),
}


def automatic_window(voxels: np.ndarray, modality: str = "") -> tuple[Window, str]:
    """A window chosen from the voxels, and why, in a sentence.

    voxels: as Volume's. modality: as DICOM names it; empty: not known. CT, by its modality or its air: ct_abdomen. 8-bit
    pictures in colour: as they are. Else the 0.5th to the 99.5th percentile of the foreground, which is all but 0 and
    padding; from the background on where much of the foreground has its least value, as in masks and label maps.
    """
    if voxels.ndim == 4:
        return Window(0, 255), "Colours are shown as they are."
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        return Window(low, low + max(1, abs(low))), f"Every voxel is {low:g}."
    if modality == "CT" or (not modality and _looks_like_ct(voxels)):
        evidence = "as the file says" if modality else "told by its air"
        return WINDOW_PRESETS["ct_abdomen"], f"CT, {evidence}: 40 ± 200 HU."
    background = 0.0 if (voxels == 0).any() else low
    foreground = voxels[voxels != background]
    without = f"without the background of {background:g}"
    if low < background and _is_padding(voxels, low, high):
        foreground = foreground[foreground != low]
        without += f" and the padding of {low:g}"
    if not foreground.size:
        return Window(low, high), f"The voxels are {low:g} and {high:g} alone."
    lower, upper = (float(value) for value in np.percentile(foreground, (0.5, 99.5)))
    if lower == foreground.min() and background < lower:
        lower, without = background, f"from the background of {background:g} on"
    if lower >= upper:
        return Window(low, high), f"The least and the greatest voxel, {low:g} and {high:g}."
    return Window(lower, upper), f"The 0.5th to the 99.5th percentile, {without}."


def _looks_like_ct(voxels: np.ndarray) -> bool:
    """Whether there is air, and what is none is mostly tissue: padding below 0 makes no CT of another picture."""
    air = np.count_nonzero(voxels <= _AIR_HU) if voxels.dtype.kind != "u" else 0
    if air < max(1, _LEAST_AIR * voxels.size):
        return False
    rest, zeros = voxels.size - air, np.count_nonzero(voxels == 0)
    tissue = np.count_nonzero((voxels >= -_TISSUE_HU) & (voxels <= _TISSUE_HU)) - zeros
    return zeros <= _MOST_ZEROS * rest and 2 * tissue >= rest - zeros


def _is_padding(voxels: np.ndarray, low: float, high: float) -> bool:
    padding = voxels == low
    return bool(
        np.count_nonzero(padding) > _PADDING_SHARE * voxels.size
        and float(voxels[~padding].min()) - low > _PADDING_GAP * (high - low)
    )
