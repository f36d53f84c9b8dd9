# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Recordings as streams: videos, folders of pictures, DICOM cines, tracked ultrasound, and sweeps through volumes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ...errors import FrameError
from .base import PICTURES, VOLUMES, PlayedFrame, Player, played
from .cine import Cine
from .folder import PictureFolder
from .plus import TrackedUltrasound, is_tracked_ultrasound
from .sweep import SweepPath, VolumeSweep
from .video import SUFFIXES as VIDEOS
from .video import Video

__all__ = ["PlayedFrame", "Player", "SweepPath", "open_player", "played"]


def open_player(
    what: Path, transform: str = "", image_to_probe: np.ndarray | None = None, path: SweepPath | None = None
) -> Player:
    """The player of a file or folder, by its name and its content.

    transform, image_to_probe: of tracked ultrasound (see TrackedUltrasound). path: of a sweep through a volume; given, a
    folder is a DICOM series and a file a volume. Raises FrameError or VolumeError for what is missing, of another kind or
    damaged.
    """
    what = Path(what)
    name = what.name.lower()
    # Also where it may not be looked at, or its name is none.
    if not os.path.exists(what):
        raise FrameError(f"There is no file or folder {what}; check the path.")
    if path is not None:
        return VolumeSweep(what, path)
    if what.is_dir():
        return PictureFolder(what)
    if name.endswith(VIDEOS):
        return Video(what)
    if name.endswith(PICTURES):
        return PictureFolder(what.parent, [what])
    if name.endswith((".mha", ".mhd")) and is_tracked_ultrasound(what):
        return TrackedUltrasound(what, transform, image_to_probe)
    if name.endswith(VOLUMES):
        return VolumeSweep(what, SweepPath())
    if name.endswith(".dcm") or Cine.is_one(what):
        return Cine(what)
    known = ", ".join((*VIDEOS, *PICTURES, ".dcm", *VOLUMES))
    raise FrameError(f"{what.name} is of no known kind; give one of {known}, or a folder of pictures.")
