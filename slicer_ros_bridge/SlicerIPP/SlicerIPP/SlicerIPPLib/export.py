# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The segmentation written to a file, by the writers that the graph and `samm segment` write with."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core.segmentation.writers import write_segmentation

from .background import Background
from .contents import contents_of
from .i18n import tr as _
from .log import Log
from .parameters import Parameters

if TYPE_CHECKING:
    import slicer

# By the suffix of a file, what it is.
KINDS = {
    ".seg.nrrd": _("3D Slicer's segmentation, with names and colors"),
    ".nii.gz": _("NIfTI, one labelmap"),
    ".nrrd": _("NRRD, one labelmap"),
    ".dcm": _("DICOM SEG, of volumes that were read from DICOM"),
    ".stl": _("STL, the surfaces"),
    ".ply": _("PLY, the surfaces with their colors"),
    ".csv": _("Table of volumes and places"),
}
# What Slicer does not bring: the module, and the package that has it.
_NEEDED = {
    ".nii.gz": ("nibabel", "nibabel"),
    ".dcm": ("highdicom", "highdicom"),
    ".stl": ("skimage", "scikit-image"),
    ".ply": ("skimage", "scikit-image"),
}


def missing_package(path: str | Path) -> str:
    """The Python package that has to be installed to write this file; empty: none."""
    module, package = next(
        (need for suffix, need in _NEEDED.items() if str(path).endswith(suffix)), ("samm_core", "")
    )
    return package if importlib.util.find_spec(module) is None else ""


def source_of(volume: slicer.vtkMRMLVolumeNode | None) -> Path | None:
    """The file or the DICOM folder that a volume node was read from; None where that is not known."""
    if volume is None:
        return None
    import slicer

    uids = (volume.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    files = [database.fileForInstance(uid) for uid in uids] if database is not None else []
    storage = volume.GetStorageNode()
    if not any(files) and storage is not None:
        files = [
            storage.GetFileName(),
            *(storage.GetNthFileName(n) for n in range(storage.GetNumberOfFileNames())),
        ]
    files = sorted({file for file in files if file})
    if not files:
        return None
    return Path(files[0]).parent if len(files) > 1 else Path(files[0])


class Export:
    """Copies the voxels at once, and writes the copy in the background."""

    def __init__(self, parameters: Parameters, log: Log, background: Background) -> None:
        self._parameters = parameters
        self._log = log
        self._background = background

    def write(self, path: Path, source: Path | None, done: Callable[[str], None]) -> None:
        """Write a file, whole or not at all. path: ends in one of KINDS. source: what the volume was read from.

        done gets nothing, or the sentence of why there is no file. Raises SammError where there is nothing to write.
        """
        source = source or source_of(self._parameters.volume)
        contents = contents_of(self._parameters)

        def ended(why: str) -> None:
            if not why:
                for name in contents.beyond:
                    self._log.say(
                        _("What {name} holds outside of the volume is not in the file.").format(name=name)
                    )
                self._log.say(_("Saved as {path}.").format(path=path))
            done(why)

        self._background.do(lambda: write_segmentation(contents, path, source=source), ended)
