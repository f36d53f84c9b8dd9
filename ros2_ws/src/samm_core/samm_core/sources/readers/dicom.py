# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""DICOM: a folder with one series of images, or one enhanced (multi-frame) CT or MR image.

By pydicom, since it gives each slice's own words: ITK and GDCM take the direction, the pixel type and the rescaling of the
first slice for all, and dicom2nifti and highdicom refuse or resample what is tilted. Compressed pixels are python-gdcm's.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import VolumeError
from .content import LPS_TO_RAS, MAX_BYTES, Content, open_regular, require_size

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Of the distance between slices: beyond it a slice is missing, or lies beside the others.
_UNEVEN = 0.1
# Of that distance: a slice further from where slices of one distance lie would be shown at another's place.
_ADRIFT = 0.25
# Between the directions of two slices, and of a row and a column off the right angle.
_TURNED_DEG = 0.1
# Between the normal and the way from slice to slice: less is rounding.
_TILTED_DEG = 0.01
_ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    # Parametric map.
    "1.2.840.10008.5.1.4.1.1.30": "",
}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Pictures of X-rays have no place in the patient; the first of these that is there gives their millimetres.
_SPACINGS = ("PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing")


@dataclass(frozen=True, eq=False)
class _Slice:
    """name: whose words these are.

    across, down: unit vectors of a row and of a column, LPS. position: LPS mm, of the first pixel's centre; None:
    not told. spacing: mm between rows, and between columns; None: not told. thickness: mm. padding: the least and
    the greatest stored value that is no picture; None: all is.
    """

    name: str
    across: np.ndarray | None
    down: np.ndarray | None
    position: np.ndarray | None
    spacing: tuple[float, float] | None
    slope: float
    intercept: float
    pixels: Callable[[], np.ndarray]
    thickness: float = 1.0
    padding: tuple[float, float] | None = None


def is_dicom(path: Path) -> bool:
    """Whether a regular file begins as DICOM files do."""
    if path.name == "DICOMDIR" or not path.is_file():
        return False
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read(path: Path, max_voxels: int) -> Content:
    """A folder, or one file. Raises VolumeError that names the file for what cannot be a volume.

    That is: two series; slices of other sizes, directions or spacings than the others; one that is missing, double, moved
    or damaged; frames over time.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if is_dicom(file)]
        root = path.resolve()
        for file in files:
            if file.resolve().parent != root:
                raise VolumeError(f"{file.name} in {path} is a link to another folder; copy the file there.")
        if not files:
            raise VolumeError(f"The folder {path} holds no DICOM series; give one that does, or a file.")
    else:
        files = [path]
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise VolumeError(f"{path.name} takes more than {MAX_BYTES:,} bytes; give fewer slices.")
    headers = {file: _parse(file, path, pixels=False) for file in files}
    _require_one_series(path, headers)
    first = headers[files[0]]
    frames = {file: int(header.get("NumberOfFrames") or 1) for file, header in headers.items()}
    bytes_each = max(1, int(first.BitsAllocated) // 8) * int(first.get("SamplesPerPixel", 1))
    sides = (int(first.Columns), int(first.Rows), sum(frames.values()))
    require_size(path.name, sides, bytes_each, max_voxels)
    multi = max(frames, key=frames.get)
    warnings: list[str] = []
    # One frame a file can be enhanced too: then its place is in the functional groups as well.
    if all(
        str(header.get("SOPClassUID", "")) in _ENHANCED
        and (frames[file] > 1 or "PerFrameFunctionalGroupsSequence" in header)
        for file, header in headers.items()
    ):
        slices = [one for file, header in headers.items() for one in _enhanced(file, path, header)]
    elif frames[multi] == 1:
        slices = [_classic(file, path, header) for file, header in headers.items()]
        if next((name for name in _SPACINGS if first.get(name) is not None), "") == "ImagerPixelSpacing":
            warnings.append(
                f"{path.name} tells the size of its pixels on the detector alone (ImagerPixelSpacing); it was taken, and what "
                "it shows is smaller."
            )
    else:
        raise VolumeError(
            f"{multi.name} is multi-frame, a film of {frames[multi]} frames and no volume; play it with ./samm stream, or "
            "give a series of single images, or an enhanced CT or MR."
        )
    return _volume(
        path, slices, str(first.get("Modality", "")), str(first.PhotometricInterpretation), warnings
    )


def _parse(file: Path, of: Path, pixels: bool) -> Dataset:
    """The file's elements, all that it claims bounded by its own size; raises VolumeError when it is damaged."""
    import pydicom

    damaged = f"{file.name} in {of} is damaged, cut short or no image; copy it again or take it out."
    with os.fdopen(open_regular(file), "rb") as opened:
        data = opened.read()
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels)
        # Elements are read when they are asked for: all that are wrong are found now.
        for _ in dataset:
            pass
        syntax = dataset.file_meta.TransferSyntaxUID
        rows, columns, bits = dataset.get("Rows"), dataset.get("Columns"), dataset.get("BitsAllocated")
        photometric = dataset.get("PhotometricInterpretation")
    except MemoryError:
        raise
    except Exception:  # pydicom's parsers raise of any kind
        raise VolumeError(damaged) from None
    wanted = (syntax, rows, columns, bits, photometric, not pixels or any(k in dataset for k in _PIXELS))
    if not all(wanted):
        raise VolumeError(damaged)
    return dataset


def _require_one_series(path: Path, headers: dict[Path, Dataset]) -> None:
    series: dict[str, Path] = {}
    for file, header in headers.items():
        series.setdefault(str(header.get("SeriesInstanceUID", "")), file)
    if len(series) > 1:
        raise VolumeError(
            f"The folder {path} holds {len(series)} series ({', '.join(series)}); leave one in it."
        )
    names = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")
    first_file, first = next(iter(headers.items()))
    for file, header in headers.items():
        for name in names:
            if header.get(name) != first.get(name):
                raise VolumeError(
                    f"{file.name} has {name} {header.get(name)}, but {first_file.name} {first.get(name)}; leave one kind in {path}."
                )


def _numbers(value: object, count: int, what: str, name: str) -> np.ndarray:
    try:
        numbers = np.array([float(x) for x in value], np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(f"{name} has the {what} {value}, not {count} numbers; copy or export it again.")
    return numbers


def _place(name: str, position: object, orientation: object, spacing: object) -> tuple:
    place = None if position is None else _numbers(position, 3, "position", name)
    across = down = None
    if orientation is not None:
        vectors = _numbers(orientation, 6, "orientation", name).reshape(2, 3)
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.abs(lengths - 1) < 0.01).all() or abs(vectors[0] @ vectors[1]) > math.sin(
            math.radians(_TURNED_DEG)
        ):
            raise VolumeError(
                f"{name} has the orientation {vectors.ravel().tolist()}, no right angle; export it again."
            )
        across, down = vectors / lengths[:, None]
    apart = None
    if spacing is not None:
        rows, columns = _numbers(spacing, 2, "spacing", name)
        if min(rows, columns) <= 0:
            raise VolumeError(f"{name} has the spacing ({rows:g}, {columns:g}) mm; correct it in the header.")
        apart = (float(rows), float(columns))
    return across, down, place, apart


def _rescaling(values: object, name: str) -> tuple[float, float]:
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    slope, intercept = _numbers(
        (1 if slope is None else slope, 0 if intercept is None else intercept), 2, "rescaling", name
    )
    if slope == 0:
        raise VolumeError(f"{name} has the rescale slope 0, which leaves nothing of it; export it again.")
    return float(slope), float(intercept)


def _thickness(value: object) -> float:
    try:
        thickness = float(value)
    except (TypeError, ValueError):
        return 1.0
    return thickness if math.isfinite(thickness) and thickness > 0 else 1.0


def _padding(header: Dataset, name: str) -> tuple[float, float] | None:
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted(_numbers((value, value if limit is None else limit), 2, "padding", name))
    return float(low), float(high)


def _classic(file: Path, of: Path, header: Dataset) -> _Slice:
    spacing = next((header.get(name) for name in _SPACINGS if header.get(name) is not None), None)
    place = _place(
        file.name, header.get("ImagePositionPatient"), header.get("ImageOrientationPatient"), spacing
    )
    return _Slice(
        file.name,
        *place,
        *_rescaling(header, file.name),
        lambda: _frames(file, of)[0],
        _thickness(header.get("SliceThickness")),
        _padding(header, file.name),
    )


def _enhanced(file: Path, of: Path, header: Dataset) -> Iterator[_Slice]:
    """A slice for each frame, from the functional groups: its own before what is shared."""
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    count = int(header.get("NumberOfFrames") or 1)
    if len(own) != count:
        raise VolumeError(
            f"{file.name} is multi-frame and tells of {len(own)} of its {count} frames; export it again."
        )
    frames: list[np.ndarray] = []

    def frame(number: int) -> np.ndarray:
        if not frames:
            frames.append(_frames(file, of))
        return frames[0][number]

    for number, groups in enumerate(own):
        name = f"Frame {number + 1} of {file.name}"

        def item(sequence: str, groups: object = groups) -> object:
            items = groups.get(sequence) or shared[0].get(sequence) or [{}]
            return items[0]

        place = _place(
            name,
            item("PlanePositionSequence").get("ImagePositionPatient"),
            item("PlaneOrientationSequence").get("ImageOrientationPatient"),
            item("PixelMeasuresSequence").get("PixelSpacing"),
        )
        yield _Slice(
            name,
            *place,
            *_rescaling(item("PixelValueTransformationSequence"), name),
            lambda number=number: frame(number),
            _thickness(item("PixelMeasuresSequence").get("SliceThickness")),
            _padding(header, name),
        )


def _frames(file: Path, of: Path) -> np.ndarray:
    """(frames, rows, columns) as stored, or (…, 3) uint8 RGB; raises VolumeError for pixels that cannot be had."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    dataset = _parse(file, of, pixels=True)
    try:
        pixels = pixel_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
            if pixels.dtype == np.uint16:
                pixels = (pixels >> 8).astype(np.uint8)
        elif "ModalityLUTSequence" in dataset:
            pixels = apply_modality_lut(pixels, dataset)
    except MemoryError:
        raise
    except Exception as error:  # a codec's own, of any kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise VolumeError(
            f"{file.name} in {of} is damaged, cut short or no image ({reason}); copy it again or take it out."
        ) from None
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3 and int(dataset.get("SamplesPerPixel", 1)) != 1
    colour = colour or dataset.PhotometricInterpretation == "PALETTE COLOR"
    if colour and pixels.dtype == np.uint16:
        pixels = (pixels >> max(0, int(dataset.BitsStored) - 8)).astype(np.uint8)
    if colour and pixels.dtype != np.uint8:
        raise VolumeError(f"{file.name} has 3 components a voxel; give grey, or 8-bit RGB.")
    return pixels.reshape(-1, *pixels.shape[-3 if colour else -2 :])


def _volume(
    path: Path, slices: list[_Slice], modality: str, photometric: str, warnings: list[str]
) -> Content:
    matrix, slices, told = _placement(path, slices)
    warnings = warnings + told
    stored = [s.pixels() for s in slices]
    if any(pixels.shape != stored[0].shape for pixels in stored):
        raise VolumeError(f"The slices of {path} are of several sizes; leave one kind in it.")
    if stored[0].ndim == 3:
        return Content(np.stack(stored), matrix, modality, tuple(warnings))
    voxels = _without_white_padding(_rescaled(stored, slices), stored, slices)
    if photometric == "MONOCHROME1":
        voxels = voxels.min() + (voxels.max() - voxels)
        warnings.append(
            f"{path.name} is stored with white as its least value (MONOCHROME1); it was inverted."
        )
    return Content(np.ascontiguousarray(voxels), matrix, modality, tuple(warnings))


def _rescaled(stored: list[np.ndarray], slices: list[_Slice]) -> np.ndarray:
    """(K, J, I): whole numbers where every slope and intercept is one, else float32."""
    pixels = np.stack(stored)
    if all((s.slope, s.intercept) == (1, 0) for s in slices):
        return pixels
    slopes, intercepts = (np.array([getattr(s, what) for s in slices]) for what in ("slope", "intercept"))
    factors = np.concatenate([slopes, intercepts])
    if pixels.dtype.kind == "f" or not (factors == np.rint(factors)).all() or np.abs(factors).max() > 1 << 31:
        return (pixels * slopes[:, None, None] + intercepts[:, None, None]).astype(np.float32)
    whole = (
        pixels.astype(np.int64) * slopes.astype(np.int64)[:, None, None]
        + intercepts.astype(np.int64)[:, None, None]
    )
    low, high = whole.min(), whole.max()
    fits = next(
        kind
        for kind in (np.int16, np.int32, np.int64)
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
    )
    return whole.astype(fits)


def _without_white_padding(voxels: np.ndarray, stored: list[np.ndarray], slices: list[_Slice]) -> np.ndarray:
    """Padding that is brighter than the picture becomes the least value of it; what is darker is background as it is."""
    if not any(s.padding for s in slices):
        return voxels
    limits = [s.padding or (math.nan, math.nan) for s in slices]
    padded = np.stack(
        [(limits[n][0] <= pixels) & (pixels <= limits[n][1]) for n, pixels in enumerate(stored)]
    )
    if not padded.any() or padded.all():
        return voxels
    picture = voxels[~padded]
    if voxels[padded].min() <= picture.max():
        return voxels
    return np.where(padded, picture.min(), voxels)


def _placement(path: Path, slices: list[_Slice]) -> tuple[np.ndarray, list[_Slice], list[str]]:
    """(4, 4) voxel index to RAS, the slices in its order, and what is to be told. Raises VolumeError; see read."""
    warnings: list[str] = []
    first = slices[0]
    spacing = first.spacing
    if spacing is None:
        spacing = (1.0, 1.0)
        warnings.append(f"{path.name} does not tell the size of its pixels; 1 mm was taken.")
    for other in slices:
        if (other.spacing is None) != (first.spacing is None) or (
            first.spacing is not None and not np.allclose(other.spacing, first.spacing, rtol=1e-3)
        ):
            raise VolumeError(
                f"{other.name} has pixels of {_size(other)}, but {first.name} of {_size(first)}; leave one kind in {path}."
            )
    across, down = first.across, first.down
    if across is None:
        across, down = np.eye(3)[:2]
        warnings.append(f"{path.name} does not tell how it lies in the patient; an axial slice was taken.")
    normal = np.cross(across, down)
    for other in slices:
        _require_same_direction(path, first, other)
    if len(slices) == 1:
        origin = np.zeros(3) if first.position is None else first.position
        step = normal * first.thickness
    else:
        silent = next((s for s in slices if s.position is None), None)
        if silent is not None:
            raise VolumeError(
                f"{silent.name} in {path} does not say where it lies; export the series with positions."
            )
        slices = sorted(slices, key=lambda s: float(s.position @ normal))
        positions = np.array([s.position for s in slices])
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
        _require_even(path, slices, positions, step, normal)
        origin = positions[0]
        tilt = math.degrees(math.acos(min(1.0, float(step @ normal) / np.linalg.norm(step))))
        if tilt > _TILTED_DEG:
            warnings.append(
                f"{path.name} was taken with a tilt of {tilt:.1f}°; its slices are shown sheared, in place."
            )
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([across * spacing[1], down * spacing[0], step, origin])
    return LPS_TO_RAS @ matrix, slices, warnings


def _size(of: _Slice) -> str:
    return f"{of.spacing} mm" if of.spacing else "a size that it does not tell"


def _require_same_direction(path: Path, first: _Slice, other: _Slice) -> None:
    if (first.across is None) != (other.across is None):
        raise VolumeError(
            f"{other.name} in {path} does not say how it lies, or alone does; leave one kind in it."
        )
    if first.across is None:
        return
    turned = max(
        math.degrees(math.acos(float(np.clip(a @ b, -1, 1))))
        for a, b in ((first.across, other.across), (first.down, other.down))
    )
    if turned > _TURNED_DEG:
        raise VolumeError(
            f"{other.name} in {path} is turned by {turned:.1f}° against {first.name}; leave slices of one direction in it."
        )


def _require_even(
    path: Path, slices: list[_Slice], positions: np.ndarray, step: np.ndarray, normal: np.ndarray
) -> None:
    heights = positions @ normal
    steps = np.diff(heights)
    usual = float(np.median(steps))
    if steps.min() <= 1e-4 or np.ptp(steps) > _UNEVEN * usual:
        wrong = slices[int(np.argmin(steps) if steps.min() <= 1e-4 else np.argmax(np.abs(steps - usual))) + 1]
        raise VolumeError(
            f"The slices in {path} are {max(0.0, steps.min()):.2f} to {steps.max():.2f} mm apart at {wrong.name}; put in what is "
            "missing and take out what is double."
        )
    expected = positions[0] + np.arange(len(slices))[:, None] * step
    # Distances that are each but a little off can add up.
    off = np.abs(heights - expected @ normal)
    if off.max() > _ADRIFT * usual:
        raise VolumeError(
            f"{slices[int(off.argmax())].name} in {path} lies {off.max():.1f} mm off its place in slices of one distance; resample "
            "the series to one."
        )
    aside = np.linalg.norm(np.cross(positions - expected, normal), axis=1)
    if aside.max() > max(_UNEVEN * usual, 1e-3):
        raise VolumeError(
            f"{slices[int(aside.argmax())].name} in {path} lies {aside.max():.1f} mm beside the row of the others; leave slices "
            "in one row in it."
        )
