# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Multi-frame DICOM: ultrasound cines, endoscopy and angiography, by pydicom, which decodes one frame after the other."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import FrameError
from ...sources.readers import dicom
from ...sources.readers.content import MAX_BYTES, open_regular
from .base import MAX_RATE, PlayedFrame, Player, as_pixels, require_sides, usable_rate

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DEFAULT_HZ = 25.0
_MAX_FRAMES = 1_000_000
# Between two frames; a longer time is no film's.
_LONGEST_S = 60.0


class Cine(Player):
    """A DICOM file with one frame or many over time; colours come as RGB, whatever they are stored as.

    Raises VolumeError or FrameError for what is no DICOM image, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._dataset = dataset = self._read(path)
        require_sides(self.name, int(dataset.Columns), int(dataset.Rows))
        self.frame_count = int(dataset.get("NumberOfFrames") or 1)
        if not 1 <= self.frame_count <= _MAX_FRAMES:
            raise FrameError(f"{self.name} claims {self.frame_count} frames; 1 to {_MAX_FRAMES} are played.")
        self._times_s = self._frame_times()
        spans = len(self._times_s) - 1
        self.rate = usable_rate(spans / self._times_s[-1] if spans else _DEFAULT_HZ, _DEFAULT_HZ)
        self._photometric = str(dataset.PhotometricInterpretation)
        modality = str(dataset.get("Modality", "")) or "no modality"
        self.kind = f"DICOM cine ({modality}, {self._photometric}, {dataset.Columns} x {dataset.Rows})"

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether a file of any name begins as DICOM files do."""
        return dicom.is_dicom(path)

    def frames(self, start: int = 0) -> Iterator[PlayedFrame]:
        """See Player. Raises FrameError for a frame that cannot be decoded."""
        number = 0
        for pixels in self._decoded():
            if start <= number < self.frame_count:
                yield PlayedFrame(float(self._times_s[number]), self._shown(pixels))
            number += 1
        if number < self.frame_count:
            raise FrameError(
                f"{self.name} is cut short after {number} of {self.frame_count} frames; copy it again."
            )

    def _read(self, path: Path) -> Dataset:
        import pydicom

        with os.fdopen(open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise FrameError(f"{path.name} takes more than {MAX_BYTES:,} bytes; export a part of it.")
            data = file.read()
        try:
            dataset = pydicom.dcmread(io.BytesIO(data))
            # Elements are read when they are asked for: those that are wrong are found now.
            for _ in dataset:
                pass
            wanted = (dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.PhotometricInterpretation)
            whole = all(wanted) and "PixelData" in dataset and dataset.file_meta.TransferSyntaxUID
        except MemoryError:
            raise
        except Exception:  # pydicom's parsers raise of any kind
            whole = False
        if not whole:
            raise FrameError(f"{path.name} is damaged, cut short or no DICOM image; copy it again.")
        return dataset

    def _frame_times(self) -> np.ndarray:
        """(frames,) seconds since the first, rising: by each frame's own time, or one for all, or a rate."""
        dataset, count = self._dataset, self.frame_count
        vector = dataset.get("FrameTimeVector")
        try:
            steps = np.array([float(value) for value in vector]) / 1000 if vector is not None else np.zeros(0)
        except (TypeError, ValueError):
            steps = np.zeros(0)
        # The first value is 0: each is the time since the frame before.
        if count > 1 and len(steps) == count and np.isfinite(steps).all() and (steps[1:] > 0).all():
            return np.concatenate([[0], np.cumsum(steps[1:])])
        rate = _DEFAULT_HZ
        for name in ("RecommendedDisplayFrameRate", "CineRate"):
            rate = usable_rate(dataset.get(name), rate)
        try:
            step_s = float(dataset.get("FrameTime")) / 1000
        except (TypeError, ValueError):
            step_s = 0.0
        return np.arange(count) * (step_s if 1 / MAX_RATE <= step_s <= _LONGEST_S else 1 / rate)

    def _decoded(self) -> Iterator[np.ndarray]:
        """All frames as pydicom gives them, in order: a single one of many has to be looked for from the first."""
        from pydicom.pixels import iter_pixels

        number = 0
        try:
            for pixels in iter_pixels(self._dataset):
                yield pixels
                number += 1
        except MemoryError:
            raise
        except Exception as error:  # a codec's own, of any kind
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise FrameError(
                f"Image {number} of {self.name} cannot be decoded ({reason}); copy or export the file again."
            ) from None

    def _shown(self, pixels: np.ndarray) -> np.ndarray:
        from pydicom.pixels import apply_color_lut

        if self._photometric == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, self._dataset)
            # A palette's values fill 16 bits, where they have as many.
            pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
        if pixels.ndim == 3 and pixels.dtype == np.uint16:
            pixels = (pixels >> max(0, int(self._dataset.BitsStored) - 8)).astype(np.uint8)
        pixels = as_pixels(pixels, self.name)
        if self._photometric == "MONOCHROME1":
            pixels = np.iinfo(pixels.dtype).max - pixels
        return np.ascontiguousarray(pixels)
