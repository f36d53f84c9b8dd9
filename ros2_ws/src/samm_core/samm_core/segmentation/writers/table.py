# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CSV: how large each segment is, and where."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...geometry import VolumeGeometry
from .read_back import write_bytes

if TYPE_CHECKING:
    from ..segmentation import Segmentation

COLUMNS = (
    "segment,label,voxels,volume_ml,"
    "i_min,i_max,j_min,j_max,k_min,k_max,"
    "r_min_mm,r_max_mm,a_min_mm,a_max_mm,s_min_mm,s_max_mm"
)


def write(segmentation: Segmentation, path: Path) -> None:
    """A row for each segment, in order; UTF-8. The limits of an empty segment are left empty.

    i, j, k: the first and the last index that the segment has, counted from 0. r, a, s: from where to where its voxels reach
    in RAS millimetres, half a voxel around their centres included.
    """
    geometry = segmentation.geometry
    ml = abs(np.linalg.det(geometry.ijk_to_ras[:3, :3])) / 1000
    text = io.StringIO(newline="")
    text.write(COLUMNS + "\r\n")
    rows = csv.writer(text)
    for segment, voxels in segmentation.snapshot():
        count = int(np.count_nonzero(voxels))
        row = [segment.name, segment.label, count, f"{count * ml:.6g}"]
        rows.writerow([*row, *(_limits(voxels, geometry) if count else [""] * 12)])
    write_bytes(path, text.getvalue().encode())


def _limits(voxels: np.ndarray, geometry: VolumeGeometry) -> list[str]:
    ijk = np.argwhere(voxels)[:, ::-1]
    ras = geometry.position_of(ijk)
    # A voxel is a box along I, J and K: it reaches so far from its centre.
    half = np.abs(geometry.ijk_to_ras[:3, :3]).sum(axis=1) / 2
    indices = np.stack([ijk.min(axis=0), ijk.max(axis=0)], axis=1)
    millimetres = np.stack([ras.min(axis=0) - half, ras.max(axis=0) + half], axis=1)
    return [*map(str, indices.ravel().tolist()), *(f"{value:.3f}" for value in millimetres.ravel())]
