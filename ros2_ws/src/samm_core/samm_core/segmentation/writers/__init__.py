# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Files of a segmentation: written whole or not at all, and never over what was read."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MaskError
from .read_back import MARK

if TYPE_CHECKING:
    from ..segmentation import Segmentation

# Modules and functions by suffix, the longer suffix first. They are imported when they are used: some libraries take seconds.
_WRITERS = {
    ".seg.nrrd": ("nrrd", "write_slicer"), ".nii.gz": ("nifti", "write"), ".nii": ("nifti", "write"), ".nrrd": ("nrrd", "write"),
    ".dcm": ("dicom_seg", "write"), ".stl": ("surface", "write_stl"), ".ply": ("surface", "write_ply"), ".csv": ("table", "write"),
    ".mask.png": ("picture", "write"),
}  # fmt: skip
SUFFIXES = tuple(_WRITERS)
_HEADER_BYTES = 1 << 12
# A table has no place for a mark but its first line.
_TABLE = b"segment,label,voxels,volume_ml,"


def write_segmentation(
    segmentation: Segmentation, path: Path, inputs: Iterable[Path] = (), source: Path | None = None
) -> None:
    """Write a file whole or not at all, and read it back, where there is one by another library than wrote it.

    .nii, .nii.gz: one labelmap, of overlapping segments the later; a sheared volume's placement is in the sform alone, as
    a qform holds none. .nrrd: the same, and holds any placement. .seg.nrrd: 3D Slicer's format, with names and colours,
    overlapping segments in layers of their own. .dcm: DICOM SEG, for volumes that were read from DICOM. .stl, .ply: surfaces, in
    LPS. .csv: volumes in ml and bounding boxes. .mask.png: labels of a picture.
    source: the file or folder that the volume was read from, for DICOM SEG. inputs: files and folders that were read. Raises MaskError for another suffix, for a placement that the format cannot
    hold, for what the disk refuses, and for a file that is there already, unless it is a segmentation that this function
    wrote, and no input.
    """
    path = Path(path)
    suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
    if suffix is None:
        raise MaskError(f"{path.name} has no known suffix; end it in one of {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise MaskError(f"The folder {path.parent} does not exist; make it first.")
    for read in [*inputs, *([source] if source else [])]:
        require_not_input(path, read)
    require_ours(path)
    write = _writer(suffix)
    try:
        with tempfile.TemporaryDirectory(prefix=".samm-", dir=path.parent) as folder:
            part = Path(folder) / f"part{suffix}"
            write(segmentation, part, *([source] if suffix == ".dcm" else []))
            os.replace(part, path)
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise MaskError(f"{path} could not be written ({reason}); make room or write elsewhere.") from None


def _writer(suffix: str) -> Callable:
    """Raises MaskError where its library is not installed."""
    module, function = _WRITERS[suffix]
    try:
        return getattr(import_module(f".{module}", __name__), function)
    except ModuleNotFoundError as error:
        raise MaskError(f"{suffix} needs {error.name}, which is not installed; write .nrrd.") from None


def require_not_input(path: Path, read: Path) -> None:
    """Raises MaskError when writing `path` would overwrite `read`, or a file of the folder `read`, by whatever name."""
    path, read = Path(path), Path(read)
    try:
        files = [read, *read.rglob("*")] if read.is_dir() else [read]
        overwritten = path.exists() and any(file.exists() and path.samefile(file) for file in files)
    except OSError as error:
        raise MaskError(
            f"{path} could not be compared with {read} ({error.strerror}); write elsewhere."
        ) from None
    if overwritten:
        raise MaskError(f"{path} is the volume that was loaded, or a part of it; write to another file.")


def require_ours(path: Path) -> None:
    """Raises MaskError for a file that is there, unless write_segmentation wrote it or it is empty.

    Any other may be all that there is of somebody's work.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    ours = False
    if path.is_file():
        with contextlib.suppress(OSError, EOFError, zlib.error):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                head = file.read(_HEADER_BYTES)
                ours = MARK.encode() in head or head.startswith(_TABLE) or path.stat().st_size == 0
    if not ours:
        raise MaskError(
            f"{path} is there already and no segmentation of samm; write elsewhere, or remove it first."
        )
