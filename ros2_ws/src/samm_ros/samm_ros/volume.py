# SPDX-License-Identifier: Apache-2.0
"""Volumes: read from files, their intensity window, their content's name, their slices as a model takes them."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import VolumeError
from .geometry import Plane, VolumeGeometry

MAX_VOXELS = 1024**3
_AIR_HU = -500
# Of the usual distance between slices; more, and one is missing.
_UNEVEN = 0.1
_DICOM_POSITION = "0020|0032"
# DICOM's transfer syntaxes, and its kinds of value: those whose length takes 2 bytes, and those whose takes 4.
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2"
_SHORT_KINDS = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_LONG_KINDS = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()
_CHUNK_BYTES = 1 << 24
_META_HEADER_BYTES = 1 << 16
_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".jpeg")

# A broken file is told once, by our own sentence.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class Window:
    """Intensities shown black (lower) and white (upper), in the volume's units. Raises VolumeError unless lower < upper."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        # A whole number in a message's float64 ends the process: ROS's generated code asserts.
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))
        if not (np.isfinite(self.upper - self.lower) and self.lower < self.upper):
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
    return Window(lower, upper if upper > lower else lower + max(1, abs(lower)))


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
    Raises VolumeError for what is missing, of another kind, damaged or cut short, 4-D, empty, larger than max_voxels (told
    from the header), without spacing, or all NaN.
    """
    path = Path(path)
    if not path.exists():
        raise VolumeError(f"There is no file or folder {path}; check the path.")
    image, lost = (_read_folder if path.is_dir() else _read_file)(path, max_voxels)
    voxels = sitk.GetArrayFromImage(image)
    if image.GetDimension() == 2:
        voxels = voxels[None]
    voxels = _finite(voxels, lost, path)
    voxels.flags.writeable = False
    geometry = VolumeGeometry(voxels.shape[2::-1], _ijk_to_ras(image))
    uid = _uid(voxels, geometry)
    return Volume(voxels, geometry, window or automatic_window(voxels), path.name, str(path.resolve()), uid)


def _read_file(path: Path, max_voxels: int) -> tuple[sitk.Image, np.ndarray | None]:
    """The image, and which of its voxels SimpleITK lost (see _nifti_lost)."""
    if not path.name.lower().endswith(_SUFFIXES):
        raise VolumeError(
            f"{path.name} is of no known kind; give one of {', '.join(_SUFFIXES)} or a DICOM folder."
        )
    if path.suffix.lower() in (".mha", ".mhd"):
        _require_meta_dimensions(path)
    header = _header(path)
    _require_size(path, math.prod(header.GetSize()), max_voxels)
    if 0 in header.GetSpacing():
        raise VolumeError(f"{path.name} has the spacing {header.GetSpacing()} mm; correct it in the header.")
    lost = _nifti_lost(path, header) if "vox_offset" in header.GetMetaDataKeys() else None
    # The JPEG reader fills what is missing with grey.
    if path.suffix.lower() in (".jpg", ".jpeg") and b"\xff\xd9" not in path.read_bytes()[-1024:]:
        raise VolumeError(f"{path.name} is cut short; copy or export it again.")
    image = _execute(header, path)
    return image[:, :, :, 0] if image.GetDimension() == 4 else image, lost


def _read_folder(folder: Path, max_voxels: int) -> tuple[sitk.Image, None]:
    """One DICOM series; raises VolumeError when a slice of it is missing, as all behind it would be misplaced."""
    dicom = [path for path in sorted(folder.iterdir()) if _is_dicom(path)]
    for path in dicom:
        if not _elements_fit(path):
            raise VolumeError(
                f"{path.name} in {folder} is damaged or cut short; copy it again or take it out."
            )
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]) if series else ()
    except RuntimeError as error:
        raise VolumeError(f"The folder {folder} cannot be read ({_reason(error)}); copy it again.") from None
    if len(series) > 1:
        raise VolumeError(
            f"The folder {folder} holds {len(series)} series ({', '.join(series)}); leave one in it."
        )
    left_out = {path.name for path in dicom} - {Path(file).name for file in files}
    if left_out:
        raise VolumeError(
            f"{min(left_out)} in {folder} is damaged or no image; copy it again or take it out."
        )
    if not files:
        raise VolumeError(f"The folder {folder} holds no DICOM series; give one that does, or a file.")
    # One file tells the size of all.
    _require_size(folder, math.prod(_header(Path(files[0])).GetSize()) * len(files), max_voxels)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = _execute(reader, folder)
    numbers = range(len(files))
    if len(files) > 1 and all(reader.HasMetaDataKey(n, _DICOM_POSITION) for n in numbers):
        try:
            positions = [
                [float(x) for x in reader.GetMetaData(n, _DICOM_POSITION).split("\\")] for n in numbers
            ]
            steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        except ValueError:
            raise VolumeError(
                f"A slice in {folder} does not say where it lies; copy the folder again."
            ) from None
        if steps.min() == 0 or np.ptp(steps) > _UNEVEN * np.median(steps):
            raise VolumeError(
                f"The slices in {folder} are {steps.min():.2f} to {steps.max():.2f} mm apart; put in what is missing and "
                "take out what is double."
            )
    return image, None


def _is_dicom(path: Path) -> bool:
    if not path.is_file() or path.name == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _elements_fit(path: Path) -> bool:
    """Whether each element of a DICOM file, as far as the walk leads, lies within the file.

    GDCM allocates what an element claims, up to 4 GiB, before it reads it. The walk ends where only a full parser goes on.
    """
    order, implicit, in_header, syntax = "<", False, True, b""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(132)
        while len(head := file.read(8)) == 8:
            if in_header and head[:2] != b"\2\0":
                if not syntax:
                    return False
                in_header = False
                order = ">" if syntax == _BIG_ENDIAN else "<"
                implicit = syntax == _IMPLICIT
            group, element = struct.unpack(order + "HH", head[:4])
            delimiter = group == 0xFFFE
            if implicit or delimiter:
                (length,) = struct.unpack(order + "I", head[4:])
            elif head[4:6] in _LONG_KINDS:
                (length,) = struct.unpack(order + "I", file.read(4).ljust(4, b"\xff"))
            elif head[4:6] in _SHORT_KINDS:
                (length,) = struct.unpack(order + "H", head[6:])
            else:
                return not in_header
            if length == 0xFFFFFFFF:
                # Into a sequence or the pictures of one; what is unknown is encoded in another way.
                if head[4:6] == b"UN":
                    return True
                continue
            if length > size - file.tell():
                return False
            if (group, element) == (2, 0x10):
                syntax = file.read(length).rstrip(b"\0 ")
                if syntax == _DEFLATED:
                    return True
            else:
                file.seek(length, 1)
    return True


def _require_meta_dimensions(path: Path) -> None:
    """MetaImage's reader writes beyond its arrays when a file claims more than 10 dimensions."""
    with path.open("rb") as file:
        claims = re.findall(rb"NDims\s*=\s*(\S*)", file.read(_META_HEADER_BYTES))
    if not set(claims) <= {b"2", b"3", b"4"}:
        claimed = max(claims).decode("ascii", "replace")
        raise VolumeError(f"{path.name} has {claimed} dimensions; give one time point, in 3.")


def _header(path: Path) -> sitk.ImageFileReader:
    """The file's header, read; raises VolumeError for what no volume is made of."""
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(f"{path.name} cannot be read ({_reason(error)}); export it again.") from None
    sides, components = header.GetSize(), header.GetNumberOfComponents()
    if len(sides) not in (2, 3, 4) or max(sides[3:], default=1) > 1:
        raise VolumeError(f"{path.name} has {len(sides)} dimensions {sides}; give one time point, in 3.")
    if components > 1 and not (components in (3, 4) and header.GetPixelID() == sitk.sitkVectorUInt8):
        raise VolumeError(f"{path.name} has {components} components a voxel; give grey, or 8-bit RGB.")
    return header


def _execute(reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path) -> sitk.Image:
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise VolumeError(f"{path.name} cannot be read whole ({_reason(error)}); export it again.") from None


def _require_size(path: Path, voxels: int, max_voxels: int) -> None:
    if voxels < 1:
        raise VolumeError(f"{path.name} is empty: it has {voxels} voxels; export it again.")
    if voxels > max_voxels:
        raise VolumeError(
            f"{path.name} has {voxels:,} voxels; at most {max_voxels:,} are read: crop or resample it."
        )


def _nifti_lost(path: Path, header: sitk.ImageFileReader) -> np.ndarray | None:
    """Which voxels of a NIfTI file are not finite, flat bool; None when all are.

    SimpleITK makes 0 of these, 0 too of what a file cut short lacks, and 1 mm of a spacing of 0, all in silence.
    Raises VolumeError for a file that is cut short or has no spacing.
    """
    sides = [int(header.GetMetaData(f"dim[{n + 1}]")) for n in range(int(header.GetMetaData("dim[0]")))]
    left = math.prod(sides) * int(header.GetMetaData("bitpix")) // 8
    number = {"16": "f4", "64": "f8"}.get(header.GetMetaData("datatype"))
    lost = []
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(168)
            order = "<" if int.from_bytes(head[:4], "little") in (348, 540) else ">"
            version_2 = int.from_bytes(head[:4], "little" if order == "<" else "big") == 540
            spacing = np.frombuffer(head, order + ("f8" if version_2 else "f4"), 8, 104 if version_2 else 76)[
                1:4
            ]
            spacing = spacing[: len(sides)].tolist()
            if not all(math.isfinite(side) and side for side in spacing):
                raise VolumeError(f"{path.name} has the spacing {spacing} mm; correct it in the header.")
            file.seek(int(float(header.GetMetaData("vox_offset"))))
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise EOFError
                left -= len(chunk)
                if number:
                    lost.append(~np.isfinite(np.frombuffer(chunk, order + number)))
    except (EOFError, OSError, ValueError, OverflowError, zlib.error):
        raise VolumeError(f"{path.name} is cut short or damaged; copy or export it again.") from None
    return np.concatenate(lost) if any(part.any() for part in lost) else None


def _finite(voxels: np.ndarray, lost: np.ndarray | None, path: Path) -> np.ndarray:
    """(K, J, I) or (K, J, I, 3), finite; raises VolumeError when nothing is."""
    if voxels.ndim == 4:
        return np.ascontiguousarray(voxels[..., :3])
    if voxels.dtype.kind != "f":
        return voxels
    finite = np.isfinite(voxels)
    if lost is not None:
        finite &= ~lost.reshape(voxels.shape)
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
    """The line of ITK's message that says what, without where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines[-1].startswith("[nrrd]"):
        return lines[-1]
    said = next((line for line in lines if "ERROR: " in line), lines[-1])
    return re.sub(r"^.*?ERROR: (\w+\(0x\w+\): )?", "", said).rstrip(".")
