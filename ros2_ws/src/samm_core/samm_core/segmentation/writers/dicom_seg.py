# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""DICOM SEG: a binary segmentation of the DICOM series that the volume was read from, by highdicom.

Patient, study and frame of reference are the series' own, and so are position and orientation of each frame. Segments may
overlap.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ...errors import MaskError
from ...geometry import VolumeGeometry
from ...sources.readers.dicom import is_dicom
from .read_back import LPS, MARK, PLACEMENT_TOLERANCE

if TYPE_CHECKING:
    from ..segment_list import Segment
    from ..segmentation import Segmentation

# What a standard lets be empty but not absent, and scanners and anonymisers leave out.
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID")
# Characters of a name of a segment.
_MAX_LABEL = 64
_SERIES_NUMBER = 901
_NOT_DICOM = "DICOM SEG is for volumes that were read from DICOM"


def write(segmentation: Segmentation, path: Path, source: Path | None) -> None:
    """source: the file or folder that the volume was read from.

    Raises MaskError for a source that is no DICOM series or not the volume's, and for a segmentation without a voxel.
    """
    if source is None or not source.exists():
        raise MaskError(f"{_NOT_DICOM}, and {source or 'this one'} is not there; write .seg.nrrd.")
    headers = _headers(source)
    geometry, segments = segmentation.geometry, segmentation.snapshot()
    segments = [(segment, voxels) for segment, voxels in segments if voxels.any()]
    if not segments:
        raise MaskError("No segment has a voxel, and DICOM SEG holds none without; segment something first.")
    order = _slices_of(headers, geometry, source)
    # By frame of the source, its voxels of each segment.
    pixels = np.stack([voxels[order] for _, voxels in segments], axis=-1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom and pydicom on values that the scanner wrote
            dataset = _segmentation(headers, pixels, [segment for segment, _ in segments], geometry)
            dataset.preamble = MARK.encode().ljust(128, b"\0")
            dataset.save_as(path, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise MaskError(f"DICOM SEG cannot be made for {source.name} ({reason}); write .seg.nrrd.") from None
    _require_same(path, segments, geometry)


def _headers(source: Path) -> list[Dataset]:
    """Of all images of the source, without pixels."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [file for file in files if is_dicom(file)]
    if not files:
        raise MaskError(f"{_NOT_DICOM}, and {source.name} is none; write .seg.nrrd.")
    headers = []
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            header.decode()
            lacking = [name for name in _NEEDED if not header.get(name)]
        except Exception as error:  # pydicom's parsers raise of any kind
            raise MaskError(
                f"{file.name} cannot be read any more ({error}); load the volume again."
            ) from None
        if lacking:
            raise MaskError(f"{file.name} has no {lacking[0]}, which DICOM SEG refers to; write .seg.nrrd.")
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, "")
        # Names of segments are in any script: what is copied from the series is written in UTF-8 too.
        header.SpecificCharacterSet = "ISO_IR 192"
        headers.append(header)
    return headers


def _slices_of(headers: list[Dataset], geometry: VolumeGeometry, source: Path) -> np.ndarray:
    """The slice, K, of each frame of the source, (frames,) int. Raises MaskError unless they are the volume's, one each."""
    changed = f"{source.name} is not what the volume was read from any more; load it again."
    positions = [position for header in headers for position in _positions(header)]
    if any(position is None for position in positions):
        raise MaskError(f"{source.name} does not say where it lies in the patient; write .seg.nrrd.")
    ijk = geometry.index_of(np.array(positions, np.float64) @ LPS[:3, :3])
    slices = np.rint(ijk[:, 2]).astype(int)
    size = (int(headers[0].Columns), int(headers[0].Rows), len(slices))
    if size != geometry.dimensions or sorted(slices.tolist()) != list(range(len(slices))):
        raise MaskError(changed)
    # Slices may lie a little off one distance, see the reader; never so much that one takes another's place.
    if np.abs(ijk - np.stack([0 * slices, 0 * slices, slices], axis=1)).max() > 0.5:
        raise MaskError(changed)
    return slices


def _positions(header: Dataset) -> list:
    """LPS mm of the first pixel of each frame, None where the header does not say."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [header.get("ImagePositionPatient")]
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    places = [
        (groups.get("PlanePositionSequence") or shared[0].get("PlanePositionSequence") or [{}])[0]
        for groups in header.PerFrameFunctionalGroupsSequence
    ]
    return [place.get("ImagePositionPatient") for place in places]


def _segmentation(
    headers: list[Dataset], pixels: np.ndarray, segments: list[Segment], geometry: VolumeGeometry
) -> highdicom.seg.Segmentation:
    """pixels: (frames, rows, columns, segments) bool."""
    program = highdicom.AlgorithmIdentificationSequence("samm_ros", codes.cid7162.ArtificialIntelligence, "1")
    descriptions = [
        highdicom.seg.SegmentDescription(
            number,
            _label(segment),
            codes.SCT.Tissue,
            codes.SCT.Tissue,
            highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            program,
            display_color=highdicom.color.CIELabColor.from_rgb(*(round(255 * c) for c in segment.color)),
        )
        for number, segment in enumerate(segments, start=1)
    ]
    columns_mm, rows_mm, slices_mm = geometry.spacing.tolist()
    for header in headers:
        # highdicom asks for it, and then takes pixel_measures.
        if not header.get("SliceThickness"):
            header.SliceThickness = f"{slices_mm:.8g}"
    return highdicom.seg.Segmentation(
        headers,
        pixels,
        highdicom.seg.SegmentationTypeValues.BINARY,
        descriptions,
        highdicom.UID(),
        _SERIES_NUMBER,
        highdicom.UID(),
        1,
        "samm_ros",
        "samm_ros",
        "1",
        "none",
        content_label="SEGMENTATION",
        content_description=MARK,
        pixel_measures=highdicom.PixelMeasuresSequence((rows_mm, columns_mm), slices_mm),
    )


def _label(segment: Segment) -> str:
    """A segment's name as DICOM's long string holds it: without a backslash, which separates values there."""
    return segment.name.replace("\\", "/")[:_MAX_LABEL]


def _require_same(path: Path, segments: list[tuple[Segment, np.ndarray]], geometry: VolumeGeometry) -> None:
    """Raises OSError when what was saved differs, and MaskError when it lies elsewhere, by the standard's words alone."""
    saved = pydicom.dcmread(path)
    columns, rows, _ = geometry.dimensions
    count = int(saved.NumberOfFrames)
    bits = np.unpackbits(
        np.frombuffer(saved.PixelData, np.uint8), count=count * rows * columns, bitorder="little"
    )
    found = {n: np.zeros_like(voxels) for n, (_, voxels) in enumerate(segments, start=1)}
    shared = saved.SharedFunctionalGroupsSequence[0]
    across, down = np.reshape(
        np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, np.float64), (2, 3)
    )
    rows_mm, columns_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    far = np.array([columns - 1, rows - 1, 0])
    for number, pixels in enumerate(bits.reshape(count, rows, columns)):
        groups = saved.PerFrameFunctionalGroupsSequence[number]
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        corners = np.array([position, position + far[0] * columns_mm * across + far[1] * rows_mm * down])
        first, last = geometry.index_of(corners @ LPS[:3, :3])
        k = round(float(first[2]))
        off_mm = max(np.abs(last - first - far) * geometry.spacing)
        if not 0 <= k < geometry.dimensions[2] or off_mm > PLACEMENT_TOLERANCE * geometry.spacing.min():
            raise MaskError(f"DICOM SEG would turn or scale a slice by {off_mm:.3g} mm; write .seg.nrrd.")
        # Of one segment alone, all frames share it.
        of_segment = (
            groups if "SegmentIdentificationSequence" in groups else shared
        ).SegmentIdentificationSequence[0]
        found[int(of_segment.ReferencedSegmentNumber)][k] = pixels
    if not all(np.array_equal(found[n], voxels) for n, (_, voxels) in enumerate(segments, start=1)):
        raise OSError(0, "it does not read back as it was written")
