# SPDX-License-Identifier: Apache-2.0
"""Volumes: read from files, their intensity window, their content's name, their slices as a model takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import VolumeError
from .geometry import Plane, VolumeGeometry

MAX_VOXELS = 1024**3
_AIR_HU = -500
_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".jpeg")

# A broken file is told once, by our own sentence.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class Window:
    """Intensities shown black (lower) and white (upper), in the volume's units. Raises VolumeError unless lower < upper."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.lower, self.upper]).all() and self.lower < self.upper):
            raise VolumeError(
                f"A window from {self.lower} to {self.upper} shows nothing; its upper end must be higher."
            )

    def to_uint8(self, array: np.ndarray) -> np.ndarray:
        """The array's intensities as 0 to 255, clipped to the window and rounded; same shape, uint8."""
        scale = 255.0 / (self.upper - self.lower)
        scaled = (array.astype(np.float32) - np.float32(self.lower)) * np.float32(scale)
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _level(level: float, width: float) -> Window:
    return Window(level - width / 2, level + width / 2)


# Level and width in Hounsfield units as radiology uses them.
WINDOW_PRESETS = {
    "ct_abdomen": _level(40, 400),
    "ct_mediastinum": _level(50, 350),
    "ct_lung": _level(-600, 1500),
    "ct_bone": _level(400, 1800),
    "ct_brain": _level(40, 80),
    "ct_liver": _level(60, 160),
}


def automatic_window(voxels: np.ndarray) -> Window:
    """A window chosen from the voxels.

    CT, told by air below −500 HU in a signed type: ct_abdomen. 8-bit pictures in colour: as they are. Else the 0.5th to
    the 99.5th percentile of all that is not 0, which is background.
    """
    if voxels.ndim == 4:
        return Window(0, 255)
    if voxels.dtype.kind != "u" and voxels.min() <= _AIR_HU:
        return WINDOW_PRESETS["ct_abdomen"]
    foreground = voxels[voxels != 0]
    if not foreground.size:
        return Window(0, 1)
    lower, upper = (float(value) for value in np.percentile(foreground, (0.5, 99.5)))
    return Window(lower, upper if upper > lower else lower + 1)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory.

    voxels: (K, J, I), or (K, J, I, 3) uint8 RGB; read-only. uid: 32 hexadecimal digits, the name of the voxels and their
    geometry by content. uri: where it was read from.
    """

    voxels: np.ndarray
    geometry: VolumeGeometry
    window: Window
    name: str
    uri: str
    uid: str

    def slice_image(self, plane: Plane, index: int) -> np.ndarray:
        """One slice as models take it: (rows, columns, 3) uint8, contiguous, windowed; grey three times over."""
        pixels = self.geometry.take_slice(self.voxels, plane, index)
        if pixels.ndim == 3:
            return np.ascontiguousarray(pixels)
        return np.repeat(self.window.to_uint8(pixels)[..., None], 3, axis=2)

    def with_window(self, window: Window) -> Volume:
        return replace(self, window=window)


def read_volume(path: Path, window: Window | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read NIfTI, NRRD, MetaImage, PNG or JPEG, or a folder with one DICOM series; LPS files become RAS here.

    window: None chooses one (see automatic_window). Single voxels that are not finite become the smallest that is.
    Raises VolumeError for what is missing, of another kind, damaged, 4-D, empty, larger than max_voxels, or all NaN.
    """
    path = Path(path)
    image = _read(path, max_voxels)
    voxels = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        voxels = voxels[None]
    voxels = _finite(voxels, path)
    voxels.flags.writeable = False
    geometry = VolumeGeometry(voxels.shape[2::-1], _ijk_to_ras(image))
    uid = _uid(voxels, geometry)
    return Volume(voxels, geometry, window or automatic_window(voxels), path.name, str(path.resolve()), uid)


def _read(path: Path, max_voxels: int) -> sitk.Image:
    if not path.exists():
        raise VolumeError(f"There is no file or folder {path}; check the path.")
    if path.is_dir():
        files = _dicom_files(path)
        # A series is read file by file: one of them tells its size.
        size = (*_header(Path(files[0])).GetSize()[:2], len(files))
        _require_size(path, size, max_voxels)
        return _execute(sitk.ImageSeriesReader(), path, files)
    if not path.name.lower().endswith(_SUFFIXES):
        raise VolumeError(
            f"{path.name} is of no known kind; give one of {', '.join(_SUFFIXES)} or a DICOM folder."
        )
    header = _header(path)
    _require_kind(path, header)
    _require_size(path, header.GetSize(), max_voxels)
    if 0 in header.GetSpacing():
        raise VolumeError(f"{path.name} has the spacing {header.GetSpacing()} mm; correct it in the header.")
    return _execute(sitk.ImageFileReader(), path, str(path))


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(f"{path.name} cannot be read ({_reason(error)}); export it again.") from None
    return reader


def _execute(
    reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path, files: str | Sequence[str]
) -> sitk.Image:
    if isinstance(reader, sitk.ImageFileReader):
        reader.SetFileName(files)
    else:
        reader.SetFileNames(files)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(f"{path.name} cannot be read whole ({_reason(error)}); export it again.") from None
    return image[:, :, :, 0] if image.GetDimension() == 4 else image


def _dicom_files(folder: Path) -> Sequence[str]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise VolumeError(f"The folder {folder} holds no DICOM series; give one that does, or a file.")
    if len(series) > 1:
        raise VolumeError(
            f"The folder {folder} holds {len(series)} series ({', '.join(series)}); leave one in it."
        )
    return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])


def _require_kind(path: Path, header: sitk.ImageFileReader) -> None:
    dimension, components = header.GetDimension(), header.GetNumberOfComponents()
    sides = header.GetSize()
    if dimension > 3 and max(sides[3:]) > 1 or dimension not in (2, 3, 4):
        raise VolumeError(f"{path.name} has {dimension} dimensions {sides}; give one time point, in 3.")
    if components == 1:
        return
    if components not in (3, 4) or header.GetPixelID() not in (sitk.sitkVectorUInt8,):
        raise VolumeError(f"{path.name} has {components} components a voxel; give grey, or 8-bit RGB.")


def _require_size(path: Path, sides: Sequence[int], max_voxels: int) -> None:
    voxels = int(np.prod([int(side) for side in sides], dtype=object))
    if voxels < 1:
        raise VolumeError(f"{path.name} is empty: its size is {tuple(sides)}.")
    if voxels > max_voxels:
        raise VolumeError(
            f"{path.name} has {voxels:,} voxels; at most {max_voxels:,} are read: crop or resample it."
        )


def _finite(voxels: np.ndarray, path: Path) -> np.ndarray:
    """(K, J, I) or (K, J, I, 3), finite; raises VolumeError when nothing is."""
    if voxels.ndim == 4:
        return np.ascontiguousarray(voxels[..., :3])
    if voxels.dtype.kind != "f":
        return voxels
    finite = np.isfinite(voxels)
    if not finite.any():
        raise VolumeError(f"{path.name} holds no finite voxel; export it again.")
    return voxels if finite.all() else np.where(finite, voxels, voxels[finite].min())


def _ijk_to_ras(image: sitk.Image) -> np.ndarray:
    """(4, 4): SimpleITK's LPS placement as RAS. A 2-D picture lies in the axial plane."""
    dimension = image.GetDimension()
    matrix = np.eye(4)
    directions = np.reshape(image.GetDirection(), (dimension, dimension))
    matrix[:dimension, :dimension] = directions * image.GetSpacing()
    matrix[:dimension, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def _uid(voxels: np.ndarray, geometry: VolumeGeometry) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{voxels.dtype.str} {voxels.shape} ".encode())
    digest.update(geometry.ijk_to_ras.tobytes())
    digest.update(np.ascontiguousarray(voxels).data)
    return digest.hexdigest()


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which says what; those before say where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "unknown"
