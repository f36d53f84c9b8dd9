# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""NIfTI, by nibabel: it keeps a sheared sform, which ITK drops for the qform."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

from ...errors import VolumeError
from .content import Content, in_millimetres, open_regular, require_size

# Beyond this two placements of the corners are two placements, in voxels.
_APART = 0.01
_RGB = {128: 3, 2304: 4}
# Of the sizes of voxels that a file says twice.
_UNLIKE = 0.01
# An extension of a header may lie before the voxels; more is a wrong number.
_MAX_OFFSET = 1 << 28
# Codes 0 and 2 are unknown, and millimetres.
_UNITS = {1: "m", 3: "um"}


def read(path: Path, max_voxels: int) -> Content:
    """Raises VolumeError for what is no NIfTI file, cut short, 4-D, of complex numbers, or without spacing.

    Placement: the sform where its code is set, as nibabel, FSL and SPM take it; else the qform; else spacing alone.
    """
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    with os.fdopen(open_regular(path), "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with gzip.open(raw) if zipped else raw as file:
            try:
                head = file.read(4)
                size = {int.from_bytes(head, order) for order in ("little", "big")}
                kind = nib.Nifti2Header if 540 in size else nib.Nifti1Header
                file.seek(0)
                header = kind.from_fileobj(file, check=False)
                if not size & {348, 540} or header["magic"].item()[:3] not in (b"n+1", b"n+2"):
                    raise VolumeError(
                        f"{path.name} cannot be read (it is no NIfTI file in one part); export it again."
                    )
                return _read(path, file, header, max_voxels)
            except (EOFError, OSError, gzip.zlib.error):
                raise VolumeError(f"{path.name} is cut short or damaged; copy or export it again.") from None
            except (HeaderDataError, WrapStructError, ValueError, OverflowError, KeyError) as error:
                raise VolumeError(
                    f"{path.name} cannot be read ({_first_line(error)}); export it again."
                ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["its header is damaged"])[0].rstrip(".")


def _read(path: Path, file: object, header: object, max_voxels: int) -> Content:
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise VolumeError(f"{path.name} cannot be read (it has {dimensions} dimensions); export it again.")
    sides = [int(n) for n in header["dim"][1 : dimensions + 1]]
    # Colours by a fifth dimension, each as a volume of its own; by datatype they come below.
    parts = sides.pop() if dimensions == 5 and sides[3] == 1 else 1
    if max(sides[3:], default=1) > 1:
        raise VolumeError(
            f"{path.name} has {len(sides)} dimensions {tuple(sides)}; give one time point, in 3."
        )
    sides = [*sides, 1, 1][:3]
    stored = header.get_data_dtype()
    if parts > 1 and not (parts in (3, 4) and stored == np.uint8):
        raise VolumeError(f"{path.name} has {parts} components a voxel; give grey, or 8-bit RGB.")
    if stored.kind == "c":
        raise VolumeError(f"{path.name} has 2 components a voxel; give grey, or 8-bit RGB.")
    require_size(path.name, sides, stored.itemsize * parts, max_voxels)
    spacing = np.asarray(header["pixdim"][1:4], np.float64)
    spacing[dimensions:] = 1
    if not (np.isfinite(spacing).all() and (spacing != 0).all()):
        raise VolumeError(f"{path.name} has the spacing {spacing.tolist()} mm; correct it in the header.")
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MAX_OFFSET:
        raise VolumeError(
            f"{path.name} cannot be read (its voxels begin at byte {offset:g}); export it again."
        )
    header["pixdim"][1:4] = spacing
    matrix, warnings = _placement(path, header, sides)
    matrix, told = in_millimetres(path.name, matrix, _UNITS.get(int(header["xyzt_units"]) & 7, "mm"))
    warnings += told
    file.seek(max(int(offset), header.sizeof_hdr))
    count = sides[0] * sides[1] * sides[2] * parts
    data = bytearray(count * stored.itemsize)
    view, filled = memoryview(data), 0
    while filled < len(data):
        if not (got := file.readinto(view[filled : filled + (1 << 24)])):
            raise EOFError
        filled += got
    voxels = np.frombuffer(data, stored)
    if channels := _RGB.get(int(header["datatype"])):
        colours = voxels.view(np.uint8).reshape(*sides[::-1], channels)[..., :3]
        return Content(np.ascontiguousarray(colours), matrix, warnings=warnings)
    if parts > 1:
        colours = np.moveaxis(voxels.reshape(parts, *sides[::-1])[:3], 0, -1)
        return Content(np.ascontiguousarray(colours), matrix, warnings=warnings)
    voxels = voxels.astype(stored.newbyteorder("="), copy=False).reshape(sides[::-1])
    return Content(_scaled(voxels, header), matrix, warnings=warnings)


def _text(sizes: np.ndarray) -> str:
    return "×".join(f"{size:.3g}" for size in sizes)


def _scaled(voxels: np.ndarray, header: object) -> np.ndarray:
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1, 0):
        return voxels
    return (voxels * np.float64(slope) + np.float64(intercept or 0)).astype(np.float32)


def _placement(path: Path, header: object, sides: list[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(4, 4) to RAS, and what its user should know of it."""
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = header.get_qform() if int(header["qform_code"]) > 0 else None
    if sform is None and qform is None:
        return np.asarray(header.get_base_affine(), np.float64), (
            f"{path.name} does not say where it lies (neither sform nor qform); its spacing alone was taken.",
        )
    if sform is None:
        return np.asarray(qform, np.float64), ()
    if qform is None:
        sizes, pixdim = np.linalg.norm(sform[:3, :3], axis=0), np.abs(header["pixdim"][1:4])
        warnings = ()
        if np.abs(sizes - pixdim).max() > _UNLIKE * sizes.min():
            warnings = (
                f"{path.name} has voxels of {_text(sizes)} mm by its sform, {_text(pixdim)} by its pixdim; the sform was taken.",
            )
        return np.asarray(sform, np.float64), warnings
    corners = np.array(
        [[i, j, k, 1] for i in (0, sides[0]) for j in (0, sides[1]) for k in (0, sides[2])], float
    )
    apart = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    if apart <= _APART * np.linalg.norm(sform[:3, :3], axis=0).min():
        # A qform has the rounding of its quaternion, a sform none.
        return np.asarray(sform, np.float64), ()
    return np.asarray(sform, np.float64), (
        f"{path.name} says twice where it lies, up to {apart:.1f} mm apart; its sform was taken, not its qform.",
    )
