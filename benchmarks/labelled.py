# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Finds volumes with labels in a folder, in the layouts that people use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samm_core.errors import VolumeError
from samm_core.geometry import Plane
from samm_core.sources.volume import Volume, read_volume

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
_LABEL = re.compile(r"[-_.](labels?|seg|segmentation|masks?|gt)$", re.IGNORECASE)
# Of a structure on a slice: with fewer, Dice says little.
MIN_PIXELS = 30


@dataclass(frozen=True)
class Pair:
    """An image, its label map, and the names of its labels."""

    image: Path
    labels: Path
    names: dict[int, str]


@dataclass(frozen=True, eq=False)
class LabelledSlice:
    """One structure on one slice. image: (H, W, 3) uint8. truth: (H, W) bool."""

    volume: str
    structure: str
    index: int
    image: np.ndarray
    truth: np.ndarray


def find_pairs(folder: Path) -> list[Pair]:
    """The images of a folder that have labels, in either of two layouts.

    NAME_label.nii.gz (also _seg, _mask, _gt; .nii, .nrrd, .mha) beside NAME.nii.gz or NAME_image.nii.gz. Or imagesTr and
    labelsTr, as nnU-Net and the Medical Segmentation Decathlon have them. A file dataset.json may name the labels.

    Raises VolumeError for a folder without any, and for a label map with no image or more than one.
    """
    if not folder.is_dir():
        raise VolumeError(f"There is no folder {folder}; give one with volumes and their labels.")
    names = _label_names(folder / "dataset.json")
    pairs = []
    for images in sorted(folder.glob("images*")):
        labels = folder / images.name.replace("images", "labels", 1)
        for label in _volumes(labels) if labels.is_dir() else []:
            stem = _stem(label)
            found = [path for path in _volumes(images) if _stem(path) in (stem, f"{stem}_0000")]
            pairs.append(Pair(_only(found, label), label, names))
    beside = _volumes(folder)
    for label in beside:
        stem = _stem(label)
        if not _LABEL.search(stem):
            continue
        base = _LABEL.sub("", stem)
        others = [path for path in beside if path != label and not _LABEL.search(_stem(path))]
        found = [path for path in others if _stem(path) == base]
        found = found or [path for path in others if re.match(re.escape(base) + r"[-_.]", _stem(path))]
        pairs.append(Pair(_only(found, label), label, names))
    if not pairs:
        raise VolumeError(
            f"There are no volumes with labels in {folder}; name them NAME.nii.gz and NAME_label.nii.gz,"
            " or give a folder with imagesTr and labelsTr."
        )
    return pairs


def slices_of(pair: Pair, count: int) -> list[LabelledSlice]:
    """At most `count` axial slices of each structure, spread over those that show much of it.

    Raises VolumeError for files that cannot be read or do not lie on one grid.
    """
    volume = read_volume(pair.image)
    labels = read_labels(pair.labels, volume)
    slices = []
    for number in (int(n) for n in np.unique(labels) if n):
        truth = labels == number
        planes = range(volume.geometry.slice_count(Plane.AXIAL))
        areas = np.array([volume.geometry.take_slice(truth, Plane.AXIAL, k).sum() for k in planes])
        candidates = np.flatnonzero((areas > areas.max() * 0.3) & (areas >= MIN_PIXELS))
        if not len(candidates):
            continue
        spread = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
        for index in candidates[spread]:
            slices.append(
                LabelledSlice(
                    pair.image.name,
                    pair.names.get(number, f"label {number}"),
                    int(index),
                    volume.slice_image(Plane.AXIAL, int(index)),
                    volume.geometry.take_slice(truth, Plane.AXIAL, int(index)),
                )
            )
    return slices


def read_labels(path: Path, volume: Volume) -> np.ndarray:
    """A label map, int64 of the shape of the volume's voxels. Raises VolumeError for one on another grid."""
    labels = read_volume(path)
    if labels.voxels.shape != volume.voxels.shape or not np.allclose(
        labels.geometry.ijk_to_ras, volume.geometry.ijk_to_ras, atol=1e-2
    ):
        raise VolumeError(f"{path.name} is not on the grid of its image; resample one to the other.")
    return np.rint(labels.voxels).astype(np.int64)


def _volumes(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(_ENDINGS))


def _stem(path: Path) -> str:
    ending = next(e for e in _ENDINGS if path.name.lower().endswith(e))
    return path.name[: -len(ending)]


def _only(found: list[Path], label: Path) -> Path:
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise VolumeError(
            f"{label.name} needs one image of its name beside it, and there is {names}; rename the files."
        )
    return found[0]


def _label_names(path: Path) -> dict[int, str]:
    """The names in a dataset.json: {"liver": 5} in nnU-Net's form, {"5": "liver"} in the Decathlon's."""
    if not path.is_file():
        return {}
    try:
        labels = json.loads(path.read_text())["labels"]
        return {
            int(n): str(name)
            for n, name in ((v, k) if isinstance(v, int) else (k, v) for k, v in labels.items())
        }
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise VolumeError(
            f"{path} does not name labels as nnU-Net does ({error}); correct it or remove it."
        ) from error
