# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a user chooses, declared once. Slicer's parameterNodeWrapper makes the module's parameter node of the same class."""

# ruff: noqa: UP045 (the annotations are read at run time, by Python 3.9 too)

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import slicer

DEFAULT_ADDRESS = "tcp://127.0.0.1:8800"


@dataclass(eq=False)
class Parameters:
    """Nodes are None until they are chosen.

    positive, negative: points that the mask must hold, or leave out. box: of it, the extent on the shown slice counts.
    roi: the 3-D box. view: Red, Green or Yellow. live: a mask follows each change of what is marked.
    marks_follow: what is marked on the shown slice moves along when another slice is shown. autosave_folder: empty: of the user's
    own folder, samm_ros/autosave.
    """

    address: str = DEFAULT_ADDRESS
    keys_folder: str = ""
    volume: Optional[slicer.vtkMRMLScalarVolumeNode] = None
    segmentation: Optional[slicer.vtkMRMLSegmentationNode] = None
    segment_id: str = ""
    positive: Optional[slicer.vtkMRMLMarkupsFiducialNode] = None
    negative: Optional[slicer.vtkMRMLMarkupsFiducialNode] = None
    box: Optional[slicer.vtkMRMLMarkupsROINode] = None
    roi: Optional[slicer.vtkMRMLMarkupsROINode] = None
    view: str = "Red"
    live: bool = True
    remove_holes: bool = False
    remove_islands: bool = False
    propagate_slices: int = 5
    marks_follow: bool = False
    autosave: bool = True
    autosave_folder: str = ""
