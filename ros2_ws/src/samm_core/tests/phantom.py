# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A ball in a body, at a place that is known in millimetres, written to files of every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SIDES = (20, 18, 14)
AIR, BODY, BALL = -1000, 20, 220
RADIUS = 3.4
LPS = np.diag([-1.0, -1.0, 1.0])
CT, ENHANCED_CT, CINE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.3.1",
)


def rotation(angles_deg: Sequence[float]) -> np.ndarray:
    """(3, 3): about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one, other = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def placed(axes: np.ndarray, spacing: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """(4, 4) voxel index to RAS: a column of `axes` (3, 3) for each of I, J, K."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.asarray(spacing)
    matrix[:3, 3] = origin
    return matrix


def ball(centre_ijk: Sequence[float], sides: Sequence[int] = SIDES) -> np.ndarray:
    """(K, J, I) int16: a ball of RADIUS voxels in a body with air around it."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in sides[::-1]), indexing="ij")
    voxels = np.full(k.shape, AIR, np.int16)
    voxels[np.hypot(i - sides[0] / 2, j - sides[1] / 2) < 0.45 * min(sides[:2])] = BODY
    distance = np.linalg.norm(np.stack([i, j, k], -1) - np.asarray(centre_ijk), axis=-1)
    voxels[distance < RADIUS] = BALL
    return voxels


def centre_ras(bright: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """(3,) mm: the middle of the voxels that are set, (K, J, I) bool."""
    return (ijk_to_ras @ [*np.argwhere(bright).mean(axis=0)[::-1], 1])[:3]


def write_nifti(
    path: Path, voxels: np.ndarray, ijk_to_ras: np.ndarray, qform: np.ndarray | None = None
) -> Path:
    """With the sform; and with a qform, where one is given."""
    image = nib.Nifti1Image(voxels.T, ijk_to_ras)
    image.set_sform(ijk_to_ras, 1)
    image.set_qform(qform, 1 if qform is not None else 0)
    nib.save(image, path)
    return path


def write_nrrd(path: Path, voxels: np.ndarray, ijk_to_ras: np.ndarray) -> Path:
    lps = LPS @ ijk_to_ras[:3]
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:, :3].T,
        "space origin": lps[:, 3],
        "kinds": ["domain"] * 3,
    }
    nrrd.write(str(path), voxels.T, header)
    return path


def write_meta(path: Path, voxels: np.ndarray, ijk_to_ras: np.ndarray) -> Path:
    lps = LPS @ ijk_to_ras[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    words = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": _text((lps[:, :3] / spacing).T.ravel()),
        "Offset": _text(lps[:, 3]),
        "ElementSpacing": _text(spacing),
        "DimSize": " ".join(map(str, voxels.shape[::-1])),
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    head = "".join(f"{name} = {value}\n" for name, value in words.items())
    path.write_bytes(head.encode() + voxels.astype("<i2").tobytes())
    return path


def _text(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


def dicom_slices(
    voxels: np.ndarray,
    ijk_to_ras: np.ndarray,
    *,
    slopes: Sequence[float] | None = None,
    sop_class: str = CT,
    modality: str = "CT",
) -> list[Dataset]:
    """A series, a data set a slice, as scanners store it: unsigned, its values by slope and intercept."""
    lps = LPS @ ijk_to_ras[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    datasets = []
    for k, pixels in enumerate(voxels):
        slope = slopes[k] if slopes is not None else 1.0
        intercept = float(AIR)
        dataset = _image(pixels, slope, intercept, sop_class, modality)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (
            study,
            series,
            frame,
        )
        dataset.InstanceNumber = k + 1
        dataset.ImageOrientationPatient = _decimals([*lps[:, 0] / spacing[0], *lps[:, 1] / spacing[1]])
        dataset.ImagePositionPatient = _decimals(lps[:, 3] + k * lps[:, 2])
        dataset.PixelSpacing = _decimals([spacing[1], spacing[0]])
        datasets.append(dataset)
    return datasets


def enhanced(
    voxels: np.ndarray, ijk_to_ras: np.ndarray, order: Sequence[int], sop_class: str = ENHANCED_CT
) -> Dataset:
    """One multi-frame image, its frames in `order`, each with its own place."""
    lps = LPS @ ijk_to_ras[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    dataset = _image(voxels[list(order)], 1.0, float(AIR), sop_class, "CT")
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.SeriesInstanceUID = generate_uid()
    dataset.NumberOfFrames = len(order)
    orientation, measures, values = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _decimals([*lps[:, 0] / spacing[0], *lps[:, 1] / spacing[1]])
    measures.PixelSpacing = _decimals([spacing[1], spacing[0]])
    values.RescaleSlope, values.RescaleIntercept = "1", str(AIR)
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])
    shared.PixelValueTransformationSequence = Items([values])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for k in order:
        position, groups = Dataset(), Dataset()
        position.ImagePositionPatient = _decimals(lps[:, 3] + k * lps[:, 2])
        groups.PlanePositionSequence = Items([position])
        frames.append(groups)
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    return dataset


def _image(pixels: np.ndarray, slope: float, intercept: float, sop_class: str, modality: str) -> Dataset:
    stored = np.rint((pixels.astype(np.float64) - intercept) / slope)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientID = modality, "PHANTOM"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.8g}", f"{intercept:g}"
    dataset.PixelData = stored.astype("<u2").tobytes()
    return dataset


def _decimals(values: Sequence[float]) -> list[str]:
    """Numbers in DICOM's 16 characters."""
    return [f"{value:.10f}"[:16] for value in values]


def write_dicom(folder: Path, datasets: Sequence[Dataset], names: Sequence[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for number, dataset in enumerate(datasets):
        name = names[number] if names else f"{number:03}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder
