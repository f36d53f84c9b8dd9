# SPDX-License-Identifier: Apache-2.0
"""Removes the shared-memory files of Fast DDS that dead processes left: up to a segment of 64 MiB each.

Fast DDS (RobustExclusiveLock, RobustSharedLock) keeps a file beside each segment and port, NAME_el or NAME_sl, and
holds a flock on it for as long as the owner lives; the kernel drops it when the owner dies. Whoever can take that lock
may remove the rest. A port that only writers have opened, and data sharing (fast_datasharing_*), have no lock: they
go when no process has them mapped.
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

# Fast DDS 2 says fastrtps, Fast DDS 3 fastdds.
_LOCK = re.compile(r"(?P<owned>(fastrtps|fastdds)_([0-9a-z]{16}|port\d+))_(el|sl)")
_SEGMENT = re.compile(r"(fastrtps|fastdds)_[0-9a-z]{16}")
_UNLOCKED = re.compile(r"(fastrtps|fastdds)_port\d+|fast_datasharing_.+")
# Between making a file and mapping it, for a process that is starting.
_MAPPED_AFTER_S = 1.0


def files(folder: Path = FOLDER) -> set[Path]:
    """The files of Fast DDS, whoever's they are. Empty on systems without /dev/shm."""
    if not folder.is_dir():
        return set()
    return {
        file
        for file in folder.iterdir()
        if re.match(r"(sem\.)?(fastrtps|fastdds|fast_datasharing)_", file.name)
    }


def remove_abandoned(folder: Path = FOLDER) -> list[Path]:
    """Remove this user's files of Fast DDS that no living process holds, and return them."""
    removed: list[Path] = []
    ours = {file.name: file for file in sorted(files(folder)) if _age_s(file) is not None}
    for name, file in ours.items():
        if match := _LOCK.fullmatch(name):
            with _locked(file) as free:
                if free:
                    # The lock last, while it is ours: until then no other process can take the name.
                    removed += _remove(folder, match["owned"], f"sem.{match['owned']}_mutex", name)
        # A segment is locked before it is made: one without a lock file has no owner.
        elif _SEGMENT.fullmatch(name) and f"{name}_el" not in ours:
            removed += _remove(folder, name)
    unlocked = [
        name
        for name, file in ours.items()
        if _UNLOCKED.fullmatch(name) and not {f"{name}_el", f"{name}_sl"} & ours.keys()
        if (_age_s(file) or 0.0) > _MAPPED_AFTER_S
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
    """Those of the files that were there to remove."""
    removed: list[Path] = []
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
            removed.append(folder / name)
    return removed
