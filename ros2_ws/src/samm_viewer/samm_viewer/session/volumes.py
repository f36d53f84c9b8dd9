# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Volumes of files as nodes of the scene."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import slicer
import slicer.util
from SlicerIPPLib.nodes import matrix_of

from samm_core import ipp
from samm_core.errors import VolumeError
from samm_core.sources.volume import Volume


def add_volume(scene: slicer.vtkMRMLScene, volume: Volume) -> slicer.vtkMRMLVolumeNode:
    """A node with the volume's voxels, place and window, named as its file is."""
    voxels = volume.voxels
    is_color = voxels.ndim == 4
    if voxels.dtype.name not in ipp.DTYPES:
        voxels = voxels.astype(np.float32)
    node = scene.AddNewNodeByClass(
        "vtkMRMLVectorVolumeNode" if is_color else "vtkMRMLScalarVolumeNode", volume.name
    )
    slicer.util.updateVolumeFromArray(node, voxels)
    node.SetIJKToRASMatrix(matrix_of(volume.geometry.ijk_to_ras))
    node.CreateDefaultDisplayNodes()
    if not is_color:
        display = node.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(volume.window.lower, volume.window.upper)
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    return node


def listed(folder: Path, roots: list[Path]) -> tuple[list[str], list[str]]:
    """The names of the folders, and of the files, in a folder below one of `roots`; hidden ones are left out.

    Raises VolumeError for a folder elsewhere, and for one that cannot be read.
    """
    folder = below_roots(folder, roots)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name.lower())
    except OSError as error:
        raise VolumeError(
            f"{folder.name} cannot be read ({error.strerror}); choose another folder."
        ) from None
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    folders = [entry.name for entry in shown if _is_folder(entry)]
    return folders, [entry.name for entry in shown if entry.name not in folders]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to where nobody may look.
        return False


def below_roots(path: Path, roots: list[Path]) -> Path:
    """The path without links and dots. Raises VolumeError where it lies below none of `roots`."""
    resolved = path.resolve()
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise VolumeError(
            f"{path.name} lies in no folder that this page may open; start the viewer with --root FOLDER for it."
        )
    return resolved
