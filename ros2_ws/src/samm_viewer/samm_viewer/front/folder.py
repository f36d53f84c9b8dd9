# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The folder of one run of the server: what it holds is of patients, so it is the user's alone and never stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "samm-view-"
_LOCK = "lock"


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A new folder, mode 0700, removed at the end. What servers left that were killed is removed first."""
    parent = Path(tempfile.gettempdir())
    _remove_left(parent)
    # Under another name until it is locked: another server that starts now would take it for one that was left.
    made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    lock = _locked(made / _LOCK)
    folder = made.rename(made.with_name(made.name[1:]))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        # Another user's, or one in use.
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = _locked(folder / _LOCK)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(path: Path) -> int:
    """An open file with a lock, which no child inherits. Raises OSError when another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
