# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files to voxels and where they lie: a module a family of formats; `isolated` reads in a process of its own.

Placement comes as the file says it, shear and tilt included, in millimetres RAS; LPS files become RAS here. Reading a file
never opens another one than it, those of its folder, or the data file beside its header.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ...errors import VolumeError
from .content import MAX_VOXELS, Content

__all__ = ["MAX_VOXELS", "PICTURE_SUFFIXES", "SUFFIXES", "Content", "read"]

_MODULES = {
    ".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage",
    ".png": "picture", ".jpg": "picture", ".jpeg": "picture", ".tif": "picture", ".tiff": "picture", ".bmp": "picture",
    ".dcm": "dicom",
}  # fmt: skip
SUFFIXES = tuple(_MODULES)
PICTURE_SUFFIXES = tuple(suffix for suffix, module in _MODULES.items() if module == "picture")


def read(path: Path, max_voxels: int = MAX_VOXELS) -> Content:
    """Read a file of one of SUFFIXES, or a DICOM folder, in this process; raises VolumeError for what is refused."""
    if path.is_dir():
        module = "dicom"
    else:
        name = path.name.lower()
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)
        if suffix is None:
            raise VolumeError(
                f"{path.name} is of no known kind; give one of {', '.join(SUFFIXES)} or a DICOM folder."
            )
        module = _MODULES[suffix]
    try:
        return import_module(f".{module}", __name__).read(path, max_voxels)
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # a library's own, of any kind, for what nobody foresaw in a file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise VolumeError(f"{path.name} cannot be read ({reason}); export it again.") from error
