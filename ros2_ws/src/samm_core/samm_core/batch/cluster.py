# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Jobs over processes, by Dask: workers of this machine, or a cluster's.

Dask sends calls and results as pickles, which can run code. They go between this process and workers that it started, by TLS
on 127.0.0.1 with keys that live as long as the run; or to the scheduler that the user named, by the keys of Dask's own
configuration.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import dask
import psutil
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, LocalCluster, Security, as_completed, get_worker

from ..embedding.cache import GIB
from ..errors import LaunchError
from ..models.registry import has_cuda
from . import work
from .table import FAILED, Outcome, Row
from .work import Job, Settings

# What a worker takes: a model, a volume with its segments, and embeddings.
WORKER_BYTES = 2 * GIB
CONNECT_S = 20
_TOPIC = "samm-segment"
# As allocator.keep_freed_memory has it: in the environment, glibc reads it before any thread is there.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_ARENA_MAX": "1"}


def core_count() -> int:
    """Physical cores that this process may use."""
    return max(1, min(CPU_COUNT, psutil.cpu_count(logical=False) or CPU_COUNT))


def default_workers(jobs: int, device: str) -> int:
    """One a core, as many as there is memory for, and as there are jobs; one for a GPU."""
    if device.startswith("cuda") or (device == "auto" and has_cuda()):
        return 1
    room = psutil.virtual_memory().available // WORKER_BYTES
    return max(1, min(core_count(), room, jobs))


@contextlib.contextmanager
def local_workers(count: int) -> Iterator[Client]:
    """A client of `count` processes on this machine, each with its share of the cores."""
    threads = str(max(1, core_count() // count))
    environment = {
        **_MALLOC,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
    }
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="samm-dask-"))
        stack.enter_context(_same_environment())
        configuration = {
            "distributed.nanny.pre-spawn-environ": environment,
            # Dask opens its HTTP servers in any case: there is nothing to see on them.
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
        }
        stack.enter_context(dask.config.set(configuration))
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=Security.temporary(),
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=None,
            memory_limit=None,
            local_directory=folder,
            # What ends a worker is told as the outcome of its volume.
            silence_logs=logging.CRITICAL,
            preload="samm_core.batch.worker",
        )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextlib.contextmanager
def workers_of(scheduler: str) -> Iterator[Client]:
    """A client of a cluster by its scheduler's address, such as tcp://10.0.0.4:8786. Raises LaunchError."""
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise LaunchError(
            f"There is no Dask scheduler at {scheduler} ({reason}); start one, or leave out --scheduler."
        ) from None
    with client:
        yield client


def segment_all(
    client: Client,
    jobs: Sequence[Job],
    settings: Settings,
    on_slice: Callable[[Mapping[str, object]], None] | None = None,
) -> Iterator[tuple[Job, list[Outcome]]]:
    """Each job and what came of it, as they end; close the iterator to cancel the rest.

    A job whose worker ends is done again by another one, up to Dask's `allowed-failures`, then it has failed.
    on_slice: called on another thread after each slice: volume, segment, slices done, and the worker's pid.
    """
    if on_slice:
        client.subscribe_topic(_TOPIC, lambda event: on_slice(event[1]))
    by_future = {client.submit(_do, job, settings, pure=False): job for job in jobs}
    try:
        for future in as_completed(by_future, loop=client.loop):
            yield by_future[future], _outcomes(future, by_future[future])
    finally:
        client.cancel(list(by_future))
        if on_slice:
            client.unsubscribe_topic(_TOPIC)


def _outcomes(future: Future, job: Job) -> list[Outcome]:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        sentence = "Each worker that worked on it ended, mostly for want of memory; give fewer --workers."
    else:
        sentence = str(error).strip() or type(error).__name__
    return [Outcome.of(row, FAILED, sentence) for row in job.rows]


def _do(job: Job, settings: Settings) -> list[Outcome]:
    """In a worker: the job, unless one that was lost has finished it after all."""
    worker = get_worker()

    def tell(row: Row, done: int) -> None:
        event = {"volume": job.volume, "segment": row.segment, "slices": done, "pid": os.getpid()}
        worker.log_event(_TOPIC, event)

    return work.finished(job, settings) or work.segment_volume(job, settings, tell)


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Dask's nannies leave the workers' variables in this process."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
