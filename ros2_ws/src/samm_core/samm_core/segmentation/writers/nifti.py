# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""NIfTI: one labelmap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nibabel

from ...errors import MaskError
from .read_back import MARK, PLACEMENT_TOLERANCE, read_by_simpleitk, read_nifti_bytes, require_same, shear_mm

if TYPE_CHECKING:
    from ..segmentation import Segmentation

_NIFTI_MAX_SIDE = 2**15 - 1


def write(segmentation: Segmentation, path: Path) -> None:
    geometry, labels = segmentation.geometry, segmentation.labelmap()
    if max(geometry.dimensions) > _NIFTI_MAX_SIDE:
        raise MaskError(
            f"NIfTI holds {_NIFTI_MAX_SIDE} voxels a side, but the volume has {geometry.dimensions}; .nrrd holds it."
        )
    image = nibabel.Nifti1Image(labels.T, geometry.ijk_to_ras)
    image.header["descrip"] = MARK
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.ijk_to_ras, "scanner")
    # Well below what is tolerated: a qform leaves out all of the shear, a corner may be off by twice as much.
    sheared = shear_mm(geometry) > PLACEMENT_TOLERANCE / 10 * geometry.spacing.min()
    image.set_qform(geometry.ijk_to_ras, "unknown" if sheared else "scanner")
    nibabel.save(image, path)
    # SimpleITK takes no sheared sform.
    require_same(path, labels, geometry, *(read_nifti_bytes(path) if sheared else read_by_simpleitk(path)))
