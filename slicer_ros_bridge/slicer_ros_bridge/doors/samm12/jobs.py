# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Jobs of SAMM 1.2: slices that come one by one, are embedded or segmented in turn, and whose results are asked for."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ...graph_actions import Done
from .payloads import Item, Refused

# Of a job that nobody asks for any more.
KEPT_S = 600.0
MAX_JOBS = 16
# Jobs of which a slice is in the graph at a time; the others wait.
_AT_A_TIME = 4
# Of pixels that wait, of all jobs.
MAX_WAITING_BYTES = 1 << 30

UNFINISHED = ("uploading", "queued", "running")

# Has a slice of a job made; done gets its mask, (H, W) bool.
Ask = Callable[[Item, Done[np.ndarray]], None]


class AnyJob(Protocol):
    """is_at_work: it goes on by itself, without its client."""

    id: str
    status: str
    touched_at: float

    @property
    def is_at_work(self) -> bool: ...


J = TypeVar("J", bound=AnyJob)


class JobTable(Generic[J]):
    """The newest jobs by id: one that has ended, or whose client sends no more of it, is let go of after KEPT_S."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: dict[str, J] = {}

    def __iter__(self) -> Iterator[J]:
        return iter(list(self._jobs.values()))

    def add(self, job: J) -> None:
        """One that has ended makes room. Raises Refused where none has."""
        if len(self._jobs) >= self._most:
            ended = [each for each in self._jobs.values() if each.status not in UNFINISHED]
            if not ended:
                raise Refused(
                    429, f"{self._most} jobs are under way already; wait for one.", max_jobs=self._most
                )
            del self._jobs[min(ended, key=lambda each: each.touched_at).id]
        self._jobs[job.id] = job

    def get(self, job_id: str) -> J:
        """Raises Refused."""
        job = self._jobs.get(job_id)
        if job is None:
            raise Refused(404, "There is no such job; it may have been let go of.", job_id=job_id)
        job.touched_at = time.monotonic()
        return job

    def tick(self) -> None:
        """Let go of old jobs; call some times a second."""
        now = time.monotonic()
        for job in self:
            if not job.is_at_work and now - job.touched_at > KEPT_S:
                del self._jobs[job.id]


@dataclass(eq=False)
class SliceJob:
    """status: uploading, until its first slice is in the graph, then running, complete or failed.

    Its results only ever grow at their end.
    """

    total: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "uploading"
    touched_at: float = field(default_factory=time.monotonic)
    submitted: int = 0
    waiting: deque[Item] = field(default_factory=deque)
    is_asking: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.status not in UNFINISHED

    @property
    def is_at_work(self) -> bool:
        """Not between two slices of which the client has not sent the second: it may never do so."""
        return self.is_asking or bool(self.waiting)

    def state(self) -> dict[str, Any]:
        return {
            "job_id": self.id,
            "status": "queued" if self.status == "uploading" else self.status,
            "total": self.total,
            "submitted": self.submitted,
            "completed": len(self.results),
            "results": list(self.results),
            "error": self.error,
        }


class SliceJobs:
    """One slice of a job after the other, of several jobs side by side. All calls on the doors' thread.

    ask: has a slice made. result: a slice's part of the results, beside what is sent back as it came.
    """

    def __init__(
        self, ask: Ask, result: Callable[[Item, np.ndarray], dict[str, Any]], predicts: bool
    ) -> None:
        self._ask, self._result, self._predicts = ask, result, predicts
        self._jobs: JobTable[SliceJob] = JobTable(MAX_JOBS)

    def begin(self, total: int) -> dict[str, Any]:
        job = SliceJob(total)
        self._jobs.add(job)
        return job.state()

    def state(self, job_id: str) -> dict[str, Any]:
        return self._jobs.get(job_id).state()

    def submit(self, job_id: str, items: list[Item]) -> dict[str, Any]:
        """Raises Refused for more than the total, for a job of predictions that has ended, and for lack of room."""
        job = self._jobs.get(job_id)
        if job.has_ended:
            if self._predicts:
                raise Refused(409, "prediction job is closed", job_id=job_id)
            return job.state()
        if job.submitted + len(items) > job.total:
            raise Refused(400, f"The job is for {job.total} slices; {job.submitted + len(items)} were sent.")
        held = sum(each.picture.pixels.nbytes for other in self._jobs for each in other.waiting)
        if held + sum(each.picture.pixels.nbytes for each in items) > MAX_WAITING_BYTES:
            raise Refused(
                413, "Too many slices wait already; send the rest later.", max_bytes=MAX_WAITING_BYTES
            )
        job.submitted += len(items)
        job.waiting.extend(items)
        self._go_on()
        return job.state()

    def end_all(self, why: str) -> None:
        """The jobs that are under way fail."""
        for job in self._jobs:
            if not job.has_ended:
                self._fail(job, why)

    def tick(self) -> None:
        """Let go of old jobs; call some times a second."""
        self._jobs.tick()

    def _go_on(self) -> None:
        for job in self._jobs:
            if sum(each.is_asking for each in self._jobs) >= _AT_A_TIME:
                return
            if job.waiting and not job.is_asking:
                job.status, job.is_asking = "running", True
                item = job.waiting.popleft()
                self._ask(item, lambda mask, why, job=job, item=item: self._came(job, item, mask, why))

    def _came(self, job: SliceJob, item: Item, mask: np.ndarray | None, why: str) -> None:
        job.is_asking = False
        job.touched_at = time.monotonic()
        if not job.has_ended:
            if mask is None:
                self._fail(job, why)
            else:
                job.results.append({**item.echo, **self._result(item, mask)})
                if len(job.results) == job.total:
                    job.status = "complete"
        self._go_on()

    @staticmethod
    def _fail(job: SliceJob, why: str) -> None:
        job.status, job.error = "failed", why
        job.waiting.clear()
