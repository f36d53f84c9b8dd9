# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Removes the shared-memory files of Fast DDS that dead processes left: up to a segment of 64 MiB each.

Fast DDS (RobustExclusiveLock, RobustSharedLock) keeps a file NAME_el or NAME_sl beside each segment and port. The owner
holds a flock on it, which the kernel drops when the owner dies: a process that can take the lock may remove the rest.
Two kinds of file have no lock: a port that only writers have opened, and data sharing (fast_datasharing_*). They are
removed when no process has them mapped. `fastdds shm clean` does not remove these two kinds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path("/dev/shm")

# Fast DDS 2 writes fastrtps, Fast DDS 3 writes fastdds.
_LOCK = re.compile(r"(?P<owned>(fastrtps|fastdds)_([0-9a-z]{16}|port\d+))_(el|sl)")
_SEGMENT = re.compile(r"(fastrtps|fastdds)_[0-9a-z]{16}")
_UNLOCKED = re.compile(r"(fastrtps|fastdds)_port\d+|fast_datasharing_.+")
# A process that is starting makes a file first and maps it within this time.
_MAPPED_AFTER_S = 1.0


def remove_abandoned(folder: Path = FOLDER) -> list[Path]:
    """Remove this user's files of Fast DDS that no living process holds, and return them."""
    removed: list[Path] = []
    ages = {file.name: age for file in sorted(folder.glob("fast*")) if (age := _age_s(file)) is not None}
    for name in ages:
        if match := _LOCK.fullmatch(name):
            with _locked(folder / name) as free:
                if free:
                    # The lock goes last: until then no other process can take the name.
                    removed += _remove(folder, match["owned"], f"sem.{match['owned']}_mutex", name)
        # A segment is locked before it is made: one without a lock file has no owner.
        elif _SEGMENT.fullmatch(name) and f"{name}_el" not in ages:
            removed += _remove(folder, name)
    unlocked = [
        name
        for name, age in ages.items()
        if _UNLOCKED.fullmatch(name)
        and age > _MAPPED_AFTER_S
        and not {f"{name}_el", f"{name}_sl"} & ages.keys()
    ]
    mapped = _mapped() if unlocked else set()
    for name in unlocked:
        if str(folder / name) not in mapped:
            removed += _remove(folder, name, f"sem.{name}_mutex")
    return removed


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Hold the file's lock; False when a living process has it."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        free = False
    else:
        free = True
    try:
        yield free
    finally:
        os.close(descriptor)


def _mapped() -> set[str]:
    """Paths of all files that processes of this user have mapped."""
    paths: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            lines = maps.read_text(errors="replace").splitlines()
            paths |= {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return paths


def _age_s(file: Path) -> float | None:
    """Seconds since the file was made or changed; None when it is another user's, or gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return time.time() - status.st_mtime if status.st_uid == os.getuid() else None


def _remove(folder: Path, *names: str) -> list[Path]:
    """Remove the files that exist, and return them."""
    removed: list[Path] = []
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
            removed.append(folder / name)
    return removed
