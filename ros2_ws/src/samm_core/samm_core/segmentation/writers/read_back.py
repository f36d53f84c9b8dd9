# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a writer checks: the file that it wrote, read by another library, holds the same voxels in the same place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from ...errors import MaskError
from ...geometry import VolumeGeometry

# In the header of each file that is written here.
MARK = "samm segmentation"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Of the smallest spacing: what float32 makes of positions in a NIfTI header, and no more.
PLACEMENT_TOLERANCE = 0.01
# What of NIfTI-1's 348 bytes says what the voxels are and where.
_NIFTI_HEADER = np.dtype(
    {
        "names": ["dim", "datatype", "vox_offset", "qform_code", "sform_code", "srow"],
        "formats": ["(8,)i2", "i2", "f4", "i2", "i2", "(3,4)f4"],
        "offsets": [40, 70, 108, 252, 254, 280],
    }
)


def read_by_simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and (4, 4) IJK to RAS of a saved file, as SimpleITK reads them."""
    # 77 MiB in memory, which a viewer that saves nothing does without.
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OSError(0, f"it does not read back: {str(error).strip().splitlines()[-1]}") from None
    to_lps = np.eye(4)
    to_lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    to_lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), LPS @ to_lps


def read_nifti_bytes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and (4, 4) IJK to RAS of a saved NIfTI file of bytes, by the standard's offsets: the sform's, without qform."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    header = np.frombuffer(content, _NIFTI_HEADER, 1)[0]
    if (header["datatype"], header["qform_code"]) != (2, 0) or not header["sform_code"]:
        raise OSError(0, "its header does not read back")
    sides = header["dim"][1:4][::-1]
    voxels = np.frombuffer(content, np.uint8, offset=int(header["vox_offset"]))
    if voxels.size != sides.prod(dtype=np.int64):
        raise OSError(0, "it is cut short")
    return voxels.reshape(sides), np.vstack([header["srow"].astype(np.float64), (0, 0, 0, 1)])


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and read it back. Raises OSError where the disk does not hold what was written."""
    path.write_bytes(content)
    if path.read_bytes() != content:
        raise OSError(0, "it does not read back as it was written")


def require_same(
    path: Path, voxels: np.ndarray, geometry: VolumeGeometry, saved: np.ndarray, placement: np.ndarray
) -> None:
    """Raises OSError when the voxels read back differ, MaskError when they lie elsewhere."""
    if not np.array_equal(saved, voxels):
        # SimpleITK reads half a NIfTI file and says nothing.
        raise OSError(0, "it does not read back as it was written")
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(geometry.dimensions) - 1)
    off = geometry.position_of(corners) - (corners @ placement[:3, :3].T + placement[:3, 3])
    off_mm = float(np.linalg.norm(off, axis=1).max())
    if not off_mm <= PLACEMENT_TOLERANCE * geometry.spacing.min():
        raise MaskError(
            f"{path.name.removeprefix('part')} would place the segmentation {off_mm:.3g} mm beside the volume, whose axes are "
            f"sheared by {shear_mm(geometry):.3g} mm; .nrrd holds it."
        )


def shear_mm(geometry: VolumeGeometry) -> float:
    """How far the voxels lie from where they would without shear: the largest distance of a corner, about the centre."""
    cosines = geometry.ijk_to_ras[:3, :3] / geometry.spacing
    left, _, right = np.linalg.svd(cosines)
    off = (cosines - left @ right) * geometry.spacing * (np.array(geometry.dimensions) - 1) / 2
    signs = np.array(list(np.ndindex(2, 2, 2))) * 2 - 1
    return float(np.linalg.norm(signs @ off.T, axis=1).max())
