# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Small recordings of every kind that is played, with contents that are known."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

RED, BLUE = (220, 30, 20), (10, 40, 230)


def pictures(count: int) -> list[np.ndarray]:
    """(48, 64, 3) uint8 RGB: red to the left, blue to the right, with the border further right on each one."""
    made = []
    for number in range(count):
        picture = np.full((48, 64, 3), BLUE, np.uint8)
        picture[:, : 4 + 5 * number] = RED
        made.append(picture)
    return made


def write_video(path: Path, codec: str, frames: list[np.ndarray], rate: float = 20) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, frames[0].shape[1::-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def write_dicom(path: Path, frames: np.ndarray, photometric: str, **elements: object) -> Path:
    """frames: (N, H, W) or (N, H, W, 3)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Modality = "US"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    bits = 8 * frames.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = frames.tobytes() + b"\0" * (frames.nbytes % 2)
    dataset.save_as(path, enforce_file_format=True)
    return path


def turned(degrees: float, offset: tuple[float, float, float]) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, offset[0]], [s, c, 0, offset[1]], [0, 0, 1, offset[2]], [0, 0, 0, 1.0]])


def text_of(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in matrix.ravel())


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
PROBE = [turned(10 * k, (k, 2, 3)) for k in range(3)]
REFERENCE = [turned(-20, (5, k, 0)) for k in range(3)]


def write_plus(
    path: Path,
    images: np.ndarray = IMAGES,
    compressed: bool = True,
    orientation: str = "MF",
    changes: dict[str, str | None] | None = None,
    detached: bool = False,
) -> Path:
    """A sequence as PLUS writes it; changes: fields that are others, or None: not there."""
    colour = images.ndim == 4
    kind = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "int16": "MET_SHORT"}[images.dtype.name]
    sides = images.shape[2], images.shape[1], images.shape[0]
    data = images.tobytes()
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        "DimSize": " ".join(map(str, sides)) + "          ",
        "ElementNumberOfChannels": "3" if colour else "1",
        "ElementSpacing": "1 1 1",
        "ElementType": kind,
        "Kinds": "domain domain list",
        "UltrasoundImageOrientation": orientation,
    }
    for number in range(len(images)):
        frame = f"Seq_Frame{number:04}_"
        fields[f"{frame}ProbeToTrackerTransform"] = text_of(PROBE[number % 3])
        fields[f"{frame}ProbeToTrackerTransformStatus"] = "OK"
        fields[f"{frame}ReferenceToTrackerTransform"] = text_of(REFERENCE[number % 3])
        fields[f"{frame}ReferenceToTrackerTransformStatus"] = "OK"
        fields[f"{frame}StylusToTrackerTransform"] = text_of(np.eye(4))
        fields[f"{frame}StylusToTrackerTransformStatus"] = "INVALID"
        fields[f"{frame}Timestamp"] = f"{100 + 0.1 * number**2:.6f}"
        fields[f"{frame}ImageStatus"] = "OK"
    fields["ElementDataFile"] = "pixels.zraw" if detached else "LOCAL"
    fields = {name: value for name, value in (fields | (changes or {})).items() if value is not None}
    head = "".join(f"{name} = {value}\n" for name, value in fields.items()).encode()
    data = zlib.compress(data) if compressed else data
    if detached:
        path.with_name("pixels.zraw").write_bytes(data)
    path.write_bytes(head + (b"" if detached else data))
    return path
