# SPDX-License-Identifier: Apache-2.0
"""Files of a segmentation: written whole or not at all, and never over what was read."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from ...errors import MaskError
from ..segmentation import Segmentation
from . import nifti, nrrd
from .read_back import MARK

_HEADER_BYTES = 1 << 12


def write_segmentation(segmentation: Segmentation, path: Path, inputs: Iterable[Path] = ()) -> None:
    """Write a file whole or not at all, and read it back by another library than wrote it.

    .nii, .nii.gz: one labelmap, of overlapping segments the later; a sheared volume's placement is in the sform alone, as
    a qform holds none. .nrrd: the same, and holds any placement. .seg.nrrd: 3D Slicer's format, with names and colours,
    overlapping segments in layers of their own.
    inputs: files and folders that were read. Raises MaskError for another suffix, for a placement that the format cannot
    hold, for what the disk refuses, and for a file that is there already, unless it is a segmentation that this function
    wrote, and no input.
    """
    path = Path(path)
    suffix = next((s for s in (".seg.nrrd", ".nii.gz", ".nii", ".nrrd") if path.name.endswith(s)), None)
    if suffix is None:
        raise MaskError(f"{path.name} has no known suffix; end it in .nii.gz, .nii, .nrrd or .seg.nrrd.")
    if not path.parent.is_dir():
        raise MaskError(f"The folder {path.parent} does not exist; make it first.")
    for read in inputs:
        require_not_input(path, read)
    require_ours(path)
    write = {".seg.nrrd": nrrd.write_slicer, ".nrrd": nrrd.write}.get(suffix, nifti.write)
    try:
        with tempfile.TemporaryDirectory(prefix=".samm-", dir=path.parent) as folder:
            part = Path(folder) / f"part{suffix}"
            write(segmentation, part)
            os.replace(part, path)
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise MaskError(f"{path} could not be written ({reason}); make room or write elsewhere.") from None


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
                ours = MARK.encode() in file.read(_HEADER_BYTES) or path.stat().st_size == 0
    if not ours:
        raise MaskError(
            f"{path} is there already and no segmentation of samm; write elsewhere, or remove it first."
        )
