# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The work on one volume: read once, each slice embedded once, every row segmented, files written, and a manifest last.

The manifest names the request and the files with their digests. A volume whose manifest fits and whose files are whole is
not done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from ..embedding.cache import GIB, EmbeddingCache
from ..embedding.engine import EmbeddingEngine
from ..errors import MaskError, ModelError, OutputError, PromptError, SammError
from ..geometry import Plane, VolumeGeometry
from ..models import MODEL_NAMES, checkpoint_of, load_model
from ..output import make_folder
from ..segmentation.segmentation import Segmentation
from ..segmentation.writers import SUFFIXES, require_not_input, require_ours, write_segmentation
from ..sources import readers
from ..sources.picture import picture_plane
from ..sources.readers.dicom import is_dicom
from ..sources.volume import Volume, read_volume
from ..sources.window import WINDOW_PRESETS
from ..tasks.box3d import Box3D
from ..tasks.propagation import Mark, Stopped
from ..tasks.volume_task import SegmentedSlice, TaskKind, VolumeRequest, segment
from .pictures import write_montage, write_picture, write_surface
from .table import ALL_PLANES, DONE, EMPTY, REFUSED, Outcome, Row

if TYPE_CHECKING:
    from ..models.base import SegmentationModel

RUN, MANIFEST = "run.json", "manifest.json"
MONTAGE, SURFACE, OVERLAY = "montage.png", "surface.png", "overlay.png"
SLICER_FORMAT, PICTURE_FORMAT = "seg.nrrd", "mask.png"
# Of the memory that is free when a volume is begun, for its embeddings; and the most of it.
_CACHE_SHARE, _MOST_CACHE = 0.25, 4 * GIB
_VERSION = 1
_SUFFIXES = (f".{SLICER_FORMAT}", *readers.SUFFIXES)


@dataclass(frozen=True)
class Settings:
    """By what it is segmented, as load_model takes it, and which files are written: suffixes without their first dot."""

    model: str = "lite_medsam"
    checkpoint: str = ""
    device: str = "auto"
    backend: str = "auto"
    formats: tuple[str, ...] = (SLICER_FORMAT,)

    def check(self) -> None:
        """Raises MaskError for a format, and ModelError for a model that is unknown or whose weights are not here."""
        for suffix in self.formats:
            if f".{suffix}" not in SUFFIXES:
                raise MaskError(
                    f"There is no format {suffix}; there are {', '.join(s[1:] for s in SUFFIXES)}."
                )
        if self.model not in MODEL_NAMES:
            raise ModelError(f'There is no model "{self.model}"; give one of {", ".join(MODEL_NAMES)}.')
        if not self.checkpoint:
            checkpoint_of(self.model)


@dataclass(frozen=True)
class Job:
    """One volume: its path, its rows, the folder for its files, and how their names begin."""

    volume: str
    rows: tuple[Row, ...]
    folder: str
    name: str

    def files(self, settings: Settings) -> list[Path]:
        """The segmentations."""
        return [Path(self.folder) / f"{self.name}.{suffix}" for suffix in settings.formats]

    @property
    def picture_mask(self) -> Path:
        """The mask as a picture, which is written of a picture."""
        return Path(self.folder) / f"{self.name}.{PICTURE_FORMAT}"

    def key(self, settings: Settings) -> str:
        """32 hexadecimal digits for the request: the rows, the settings, and size and time of what is read."""
        rows = [asdict(replace(row, line=0)) for row in self.rows]
        text = json.dumps([_VERSION, rows, asdict(settings), _stamp(Path(self.volume))])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def jobs_of(rows: Sequence[Row], folder: Path) -> list[Job]:
    """A job per volume, in the order of the rows, each with a folder of its own in `folder`.

    It is named by its volume; of volumes with equal names, each gets a part of its path's digest.
    """
    by_volume: dict[str, list[Row]] = {}
    for row in rows:
        by_volume.setdefault(row.volume, []).append(row)
    stems = [stem_of(volume) for volume in by_volume]
    counts = Counter(stems)
    jobs = []
    for (volume, of_volume), stem in zip(by_volume.items(), stems, strict=True):
        digest = hashlib.blake2b(volume.encode(), digest_size=4).hexdigest()
        name = stem if counts[stem] == 1 else f"{stem}-{digest}"
        jobs.append(Job(volume, tuple(of_volume), str(folder / name), stem))
    return jobs


def stem_of(volume: str) -> str:
    """A file's name without the suffixes of its format, or a folder's name."""
    path = Path(volume)
    suffixes = [] if path.is_dir() else [s for s in _SUFFIXES if path.name.lower().endswith(s)]
    return path.name[: -len(max(suffixes, key=len))] if suffixes else path.name


def claim_folder(folder: Path, run: object, overwrite: bool) -> Path:
    """The folder for a table's results, made, and marked as that of this run; its absolute path.

    run: what the run is, as JSON. Raises OutputError for a folder that holds anything but this run, unless `overwrite`.
    """
    mark, text = folder / RUN, json.dumps(run, indent=1)
    if not overwrite:
        _require_free(folder, mark, lambda: mark.read_text() == text)
    folder = make_folder(folder)
    _write_text(folder / RUN, text)
    return folder


def claim_job_folder(job: Job, settings: Settings, overwrite: bool) -> None:
    """Make the folder of a job. Raises OutputError for one that holds anything but this job, unless `overwrite`."""
    manifest = Path(job.folder) / MANIFEST
    if overwrite:
        forget(job)
    else:
        _require_free(manifest.parent, manifest, lambda: _read(manifest)["key"] == job.key(settings))
    make_folder(manifest.parent)


def _require_free(folder: Path, mark: Path, is_same: Callable[[], bool]) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if is_same():
            return
    what = "what was made by other options, or of another file" if mark.is_file() else "files already"
    raise OutputError(f"{folder} holds {what}; give another folder, or --overwrite.")


def check_files(job: Job, settings: Settings) -> None:
    """Raises MaskError for a file that cannot be written.

    It would lie on the volume, or on what is no segmentation of ours, or has no DICOM to refer to.
    """
    volume = Path(job.volume)
    if "dcm" in settings.formats and volume.exists() and not (volume.is_dir() or is_dicom(volume)):
        raise MaskError(
            f"DICOM SEG is for volumes that were read from DICOM, and {volume.name} is none; leave out dcm."
        )
    pictures = (Path(job.folder) / name for name in (MONTAGE, SURFACE, OVERLAY))
    segmentations = (*job.files(settings), job.picture_mask)
    for file in (*segmentations, *pictures):
        require_not_input(file, volume)
    for file in segmentations:
        require_ours(file)


def finished(job: Job, settings: Settings) -> list[Outcome] | None:
    """What came of a job that is done, with its files whole; None for any other."""
    try:
        manifest = _read(Path(job.folder) / MANIFEST)
        if manifest["key"] != job.key(settings) or not manifest["complete"]:
            return None
        if any(_digest(Path(job.folder) / name) != digest for name, digest in manifest["files"].items()):
            return None
        lines = {row.segment: row.line for row in job.rows}
        return [
            Outcome(**{**each, "line": lines[of_row]})
            for of_row, outcomes in manifest["outcomes"].items()
            for each in outcomes
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(job: Job) -> None:
    """Have a job done again."""
    (Path(job.folder) / MANIFEST).unlink(missing_ok=True)


def segment_volume(
    job: Job,
    settings: Settings,
    on_slice: Callable[[Row, int], None] = lambda row, done: None,
) -> list[Outcome]:
    """Do a job and write its files: what came of each row.

    on_slice: called after each slice, and while a slice is looked at for long, with its row and the masks it has so far.
    Nothing is written where all rows are refused. Raises SammError for files that cannot be written, or a model that
    cannot be loaded.
    """
    check_files(job, settings)
    try:
        volume = read_volume(Path(job.volume))
    except SammError as error:
        return [Outcome.of(row, REFUSED, str(error)) for row in job.rows]
    model = loaded_model(settings)
    segmentation = Segmentation(volume.geometry)
    outcomes: dict[str, list[Outcome]] = {}
    with _engine(volume, model) as engine:
        for row in job.rows:
            outcomes[row.segment] = _segment_row(row, volume, engine, segmentation, on_slice)
    flat = [outcome for of_row in outcomes.values() for outcome in of_row]
    if all(outcome.status == REFUSED for outcome in flat):
        return flat
    key = job.key(settings)
    make_folder(Path(job.folder))
    _write_manifest(job, key, False, {}, [])
    written = _write_files(job, settings, volume, segmentation)
    _write_manifest(job, key, True, outcomes, written)
    return flat


def _segment_row(
    row: Row,
    volume: Volume,
    engine: EmbeddingEngine,
    segmentation: Segmentation,
    on_slice: Callable[[Row, int], None],
) -> list[Outcome]:
    """The segments of a row into the segmentation."""
    started, stopped = time.perf_counter(), []
    names: dict[str, None] = {}
    window = WINDOW_PRESETS.get(row.window)
    in_window = volume.with_window(window) if window else volume
    engine.load(in_window)
    try:
        found = segment(request_of(row, volume.geometry), in_window, engine.model, engine.request)
        with contextlib.closing(found):
            done = 0
            for each in found:
                if isinstance(each, Stopped):
                    stopped.append(str(each))
                elif isinstance(each, SegmentedSlice):
                    names[segmentation.apply(each.mask, each.plane, each.index, each.segment)] = None
                    done += 1
                on_slice(row, done)
    except SammError as error:
        return [Outcome.of(row, REFUSED, str(error))]
    seconds = time.perf_counter() - started
    if not names or not any(segmentation.voxels(name) for name in names):
        sentence = "The mask is empty; move the box or the points."
        return [replace(Outcome.of(row, EMPTY, sentence), seconds=seconds)]
    # A picture has no third side.
    flat = picture_plane(volume.geometry) is not None
    voxel_ml = 0.0 if flat else abs(np.linalg.det(volume.geometry.ijk_to_ras[:3, :3])) / 1000
    sentence = " ".join(stopped) if row.propagate else ""
    outcomes = []
    for name in names:
        voxels = segmentation.voxels(name)
        ml = float(voxels * voxel_ml)
        outcomes.append(Outcome(row.line, row.volume, name, DONE, sentence, voxels, ml, seconds))
    return outcomes


def request_of(row: Row, geometry: VolumeGeometry) -> VolumeRequest:
    """A row as a task on a volume.

    Raises PromptError for a slice that the volume lacks, and for what a picture has no room for.
    """
    row = _on_its_image(row, geometry)
    plane = Plane.AXIAL if row.plane == ALL_PLANES else Plane[row.plane.upper()]
    last = geometry.slice_count(plane) - 1
    if row.box_ras is not None:
        kind = TaskKind.THREE_PLANES if row.plane == ALL_PLANES else TaskKind.BOX
        low, high = np.reshape(row.box_ras, (2, 3))
        return VolumeRequest(kind, row.segment, plane, (0, last), box=Box3D.between(low, high))
    if not geometry.contains_slice(plane, row.slice_index):
        raise PromptError(
            f"There is no {row.plane} slice {row.slice_index}; the volume has slices 0 to {last} in that plane."
        )
    alone = (row.slice_index, row.slice_index)
    marks = [Mark(row.slice_index, prompt=row.prompt)] if row.has_prompt else []
    kind = TaskKind.AUTOMATIC if row.auto else TaskKind.PROPAGATE
    return VolumeRequest(kind, row.segment, plane, (0, last) if row.propagate else alone, marks)


def _on_its_image(row: Row, geometry: VolumeGeometry) -> Row:
    """The row with its plane and slice: of a picture, its one image where the row names none. Raises PromptError."""
    own = picture_plane(geometry)
    if own is not None and row.box_ras is not None:
        raise PromptError("A picture has no third side for a 3-D box; give a box on the picture.")
    if own is not None and row.propagate:
        raise PromptError("A picture has no other slices to propagate to; leave out propagate.")
    if row.slice_index is not None or row.box_ras is not None:
        return row
    if own is None:
        last = geometry.slice_count(Plane[row.plane.upper()]) - 1
        raise PromptError(f"The slice is missing; give its index in the plane, 0 to {last}.")
    if row.plane not in (Plane.AXIAL.name.lower(), own.name.lower()):
        raise PromptError(f"The picture is {own.name.lower()}, not {row.plane}; leave out the plane.")
    return replace(row, plane=own.name.lower(), slice_index=0)


_loading = threading.Lock()
_loaded: dict[Settings, SegmentationModel] = {}


def loaded_model(settings: Settings) -> SegmentationModel:
    """The model, which this process loads once and holds until it is asked for another. Raises ModelError."""
    key = replace(settings, formats=())
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            checkpoint = settings.checkpoint or None
            model = load_model(settings.model, checkpoint, settings.device, backend=settings.backend)
            _loaded[key] = model
        return _loaded[key]


@contextlib.contextmanager
def _engine(volume: Volume, model: SegmentationModel) -> Iterator[EmbeddingEngine]:
    budget = min(_MOST_CACHE, int(psutil.virtual_memory().available * _CACHE_SHARE))
    engine = EmbeddingEngine(EmbeddingCache(budget))
    try:
        engine.set_model(model)
        engine.load(volume)
        yield engine
    finally:
        engine.close()


def _write_files(job: Job, settings: Settings, volume: Volume, segmentation: Segmentation) -> list[Path]:
    """The segmentations and pictures; none where no segment has a voxel."""
    if not any(segmentation.voxels(each.name) for each in segmentation.segments()):
        return []
    folder, files = Path(job.folder), job.files(settings)
    own = picture_plane(volume.geometry)
    if own is not None:
        files = list(dict.fromkeys([*files, job.picture_mask]))
    for file in files:
        write_segmentation(segmentation, file, source=Path(job.volume))
    if own is not None:
        write_picture(folder / OVERLAY, volume, segmentation, own)
        return [*files, folder / OVERLAY]
    marked = {row.plane for row in job.rows} - {ALL_PLANES}
    planes = [plane for plane in Plane if plane.name.lower() in marked] or [Plane.AXIAL]
    write_montage(folder / MONTAGE, volume, segmentation, planes)
    write_surface(folder / SURFACE, segmentation)
    return [*files, folder / MONTAGE, folder / SURFACE]


def _write_manifest(
    job: Job, key: str, complete: bool, outcomes: dict[str, list[Outcome]], files: Sequence[Path]
) -> None:
    document = {
        "complete": complete,
        "key": key,
        "volume": job.volume,
        "outcomes": {segment: [asdict(each) for each in of_row] for segment, of_row in outcomes.items()},
        "files": {file.name: _digest(file) for file in files},
    }
    _write_text(Path(job.folder) / MANIFEST, json.dumps(document, indent=1))


def _read(manifest: Path) -> dict:
    return json.loads(manifest.read_text())


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all, also where two processes write it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _stamp(volume: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of all files of a folder; nothing for what is not there."""
    with contextlib.suppress(OSError):
        files = sorted(volume.rglob("*")) if volume.is_dir() else [volume]
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return []
