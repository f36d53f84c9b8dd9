# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SAMM 1.2's slices as video: its frames become a volume, and the graph propagates the marked slice through it.

A frame on which the graph finds nothing of the structure gets an empty mask, as of a video model.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from samm_core.geometry import Plane
from samm_core.mask_codec import decode_mask, encode_mask
from samm_core.sources.volume import LoadedVolume

from ...graph_actions import GraphActions, ModelState, PaintedMask, TaskEnd, TaskProgress, VolumeTask
from ...volumes import VolumeDescription, VolumeStore
from ...worker import Worker
from .jobs import UNFINISHED, JobTable
from .models import Weight
from .payloads import WINDOW, Frame, Item, Marks, MaskText, Refused

MAX_JOBS = 4
# Of pixels, of all jobs.
MAX_BYTES = 1 << 30
_SEGMENT = "video"


@dataclass(eq=False)
class VideoJob:
    """status: uploading, queued, running, complete, failed or cancelled.

    submitted: frames that have come. wanted: frames to give a mask to. seed: the marked frame's mask, until it is sure.
    """

    weight: Weight
    total: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "uploading"
    touched_at: float = field(default_factory=time.monotonic)
    frames: dict[int, Item] = field(default_factory=dict)
    submitted: int = 0
    marked: int = 0
    wanted: range = range(0)
    seed: np.ndarray | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def client_id(self) -> str:
        return f"samm12-{self.id}"

    @property
    def is_at_work(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def nbytes(self) -> int:
        """Of its frames' pixels."""
        return sum(frame.picture.pixels.nbytes for frame in self.frames.values())

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns of its frames; None: there is none yet."""
        return next((frame.picture.shape for frame in self.frames.values()), None)

    def state(self, cursor: int = 0) -> dict[str, Any]:
        """As replies have it, with the results from `cursor` on."""
        return {
            "job_id": self.id,
            "status": self.status,
            "weight_id": self.weight.id,
            "total": self.total,
            "submitted": self.submitted,
            "completed": len(self.results),
            "results": self.results[cursor:],
            "next_cursor": len(self.results),
            "error": self.error,
        }

    def add(self, index: int, mask: np.ndarray) -> None:
        """The mask of a frame, (H, W) bool: the last word on it."""
        echo = self.frames[index].echo
        numbers = {"sequence": len(self.results), "frame_index": index}
        self.results.append({**numbers, **echo, **MaskText(mask).fields()})

    def end(self, status: str, error: str | None = None) -> None:
        self.status, self.error = status, error
        self.touched_at = time.monotonic()
        # The pixels are the graph's now, or nobody's.
        self.frames = {}


class VideoJobs:
    """All calls on the doors' thread."""

    def __init__(self, graph: GraphActions, store: VolumeStore, worker: Worker) -> None:
        self._graph, self._store, self._worker = graph, store, worker
        self._jobs: JobTable[VideoJob] = JobTable(MAX_JOBS)

    def begin(self, total: int, weight: Weight) -> dict[str, Any]:
        job = VideoJob(weight, total)
        self._jobs.add(job)
        return job.state()

    def state(self, job_id: str, cursor: str) -> dict[str, Any]:
        """cursor: as the query has it."""
        job = self._jobs.get(job_id)
        # Longer digits than these are no number of a result.
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 9) or int(cursor) > len(job.results):
            raise Refused(
                400,
                f"The cursor has to be a whole number from 0 to {len(job.results)}.",
                next_cursor=len(job.results),
            )
        return job.state(int(cursor))

    def submit(self, job_id: str, frames: list[Frame]) -> dict[str, Any]:
        """Raises Refused for frames that do not fit the job, and takes none of them then."""
        job = self._jobs.get(job_id)
        if job.status != "uploading":
            raise Refused(409, f"The job is {job.status}; it takes no frames any more.")
        indices = [frame.index for frame in frames]
        if max(indices) >= job.total:
            raise Refused(400, f"There is no frame {max(indices)} in a video of {job.total}.")
        if len({*indices}) < len(indices) or job.frames.keys() & {*indices}:
            raise Refused(409, "A frame comes twice; give each its own frame_index.")
        shapes = {frame.item.picture.shape for frame in frames} | ({job.shape} if job.shape else set())
        if len(shapes) > 1:
            raise Refused(400, "The frames of a video have to be of one shape.")
        held = sum(other.nbytes for other in self._jobs)
        if held + sum(frame.item.picture.pixels.nbytes for frame in frames) > MAX_BYTES:
            raise Refused(
                413,
                f"The frames of all videos hold more than {MAX_BYTES >> 20} MiB of pixels; let one end, or cancel one.",
                max_bytes=MAX_BYTES,
            )
        job.frames |= {frame.index: frame.item for frame in frames}
        job.submitted = len(job.frames)
        return job.state()

    def run(
        self, job_id: str, marked: int, marks: Marks, direction: str, prepared: Weight, model: ModelState
    ) -> dict[str, Any]:
        job = self._jobs.get(job_id)
        if job.status != "uploading":
            raise Refused(409, f"The job is {job.status}; it runs once.")
        if prepared != job.weight:
            why = "Another model was prepared after the job was begun; begin a new one."
            job.end("failed", why)
            raise Refused(409, why, expected_weight_id=job.weight.id, actual_weight_id=prepared.id)
        if len(job.frames) < job.total:
            raise Refused(409, "Frames are missing.", submitted=len(job.frames), total=job.total)
        if marked >= job.total:
            raise Refused(400, f"There is no frame {marked} in a video of {job.total}.")
        prompts, masks = [], []
        if marks.mask is None:
            prompts = [marks.on_slice(marked, job.shape, model)]
        else:
            marks.check_mask(job.shape)
            if not marks.mask.any():
                # Told by the job: SAMM would wait for it for ever if its run were refused.
                why = "The mask is empty on the marked slice; show a slice that it reaches, or mark a box."
                job.end("failed", why)
                return job.state()
            masks = [PaintedMask(marked, job.shape, encode_mask(marks.mask))]
        first = 0 if direction != "forward" else marked
        last = job.total - 1 if direction != "backward" else marked
        job.status, job.marked, job.wanted = "queued", marked, range(first, last + 1)
        images = [job.frames[index].picture.pixels for index in range(job.total)]

        def load(path: Path | None, why: str) -> None:
            if job.status != "queued":
                return
            if path is None:
                job.end("failed", why)
                return
            held = next((each for each in self._graph.volumes.values() if each.uri == str(path)), None)
            if held:
                segment(held, "")
            else:
                self._graph.load_volume(path, WINDOW, segment)

        def segment(volume: LoadedVolume | None, why: str) -> None:
            if job.status != "queued":
                return
            if volume is None:
                job.end("failed", why)
                return
            job.status = "running"
            task = VolumeTask(
                job.client_id, volume.uid, "propagate", Plane.AXIAL, _SEGMENT, first, last, masks, prompts
            )
            self._graph.segment_volume(
                task,
                lambda progress: self._progressed(job, progress),
                lambda end, why: self._ended(job, end, why),
            )
            self._store.evict({Path(each.uri) for each in (volume, *self._graph.volumes.values())})

        self._worker.do(lambda: self._put(images), load)
        return job.state()

    def cancel(self, job_id: str) -> dict[str, Any]:
        job = self._jobs.get(job_id)
        if job.status in ("complete", "failed"):
            raise Refused(409, f"The job is {job.status} already.")
        if job.status == "running":
            self._graph.cancel_volume(job.client_id)
        if job.status in UNFINISHED:
            job.end("cancelled")
        return job.state()

    def tick(self) -> None:
        """Let go of old jobs; call some times a second."""
        self._jobs.tick()

    def _put(self, images: list[np.ndarray]) -> Path:
        """The frames as a volume's file: frame n is its axial slice n."""
        if any(image.ndim == 3 for image in images):
            images = [
                image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images
            ]
        voxels = np.stack(images)
        key = hashlib.blake2b(voxels.data, digest_size=16).hexdigest()
        components = 3 if voxels.ndim == 4 else 1
        volume = VolumeDescription(key, "SAMM", voxels.shape[:3], components, "uint8", np.eye(4))
        return self._store.find(volume) or self._store.put(volume, voxels)

    def _progressed(self, job: VideoJob, progress: TaskProgress) -> None:
        answer = progress.answer
        if answer is None or job.status != "running":
            return
        mask = decode_mask(answer.data, answer.shape, answer.encoding)
        index = answer.image.key.index
        if index == job.marked:
            # That of a click comes a second time, after a second look, which counts.
            job.seed = mask
            return
        self._add_seed(job)
        job.add(index, mask)

    def _ended(self, job: VideoJob, end: TaskEnd | None, why: str) -> None:
        if job.status != "running":
            return
        self._add_seed(job)
        if end is None or not end.success:
            job.end("failed", why or (end.message if end else ""))
            return
        nothing = np.zeros(job.shape, bool)
        for index in {*job.wanted} - {result["frame_index"] for result in job.results}:
            job.add(index, nothing)
        job.end("complete")

    @staticmethod
    def _add_seed(job: VideoJob) -> None:
        if job.seed is not None:
            job.add(job.marked, job.seed)
            job.seed = None
