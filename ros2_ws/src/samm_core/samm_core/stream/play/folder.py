# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures, one a file, as capture programs write them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import FrameError
from ...sources.readers import dicom, read
from .base import PICTURES, PlayedFrame, Player, as_pixels, require_sides
from .cine import Cine

_DEFAULT_HZ = 10.0


class PictureFolder(Player):
    """The pictures and DICOM images of a folder, by the numbers in their names: frame_2 comes before frame_10.

    files: of the folder; None: all that are pictures. Raises FrameError for a folder without any.
    """

    def __init__(self, path: Path, files: Sequence[Path] | None = None) -> None:
        found = [file for file in path.iterdir() if _is_picture(file)] if files is None else files
        self._files = sorted(found, key=lambda file: _natural(file.name))
        if not self._files:
            raise FrameError(
                f"The folder {path} holds no picture; give one with {', '.join(PICTURES)} or DICOM."
            )
        self.name = path.name if files is None else self._files[0].name
        self.frame_count = len(self._files)
        self.rate = _DEFAULT_HZ
        first = self._files[0].name
        self.kind = (
            f"pictures ({first} to {self._files[-1].name})" if self.frame_count > 1 else f"picture ({first})"
        )

    def frames(self, start: int = 0) -> Iterator[PlayedFrame]:
        """See Player. Raises VolumeError or FrameError for a picture that is damaged."""
        for number, file in enumerate(self._files[start:], start):
            if file.name.lower().endswith(PICTURES):
                pixels = as_pixels(read(file).voxels[0], file.name)
            else:
                pixels = next(Cine(file).frames()).pixels
            require_sides(file.name, *pixels.shape[1::-1])
            yield PlayedFrame(number / self.rate, pixels)


def _is_picture(file: Path) -> bool:
    name = file.name.lower()
    if name.startswith(".") or not file.is_file():
        return False
    return name.endswith((*PICTURES, ".dcm")) or ("." not in name and dicom.is_dicom(file))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which numbers are ordered as numbers, and come before words."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]
