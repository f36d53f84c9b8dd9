# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Folders for what a program writes: made and tried before the work starts, and a new one for each run."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from .errors import OutputError

# Enough to notice a full disk, and little enough for any disk with room.
_TRIAL_BYTES = 64 * 1024


def make_folder(folder: Path) -> Path:
    """Make a folder, or take the one that is there, and return its absolute path.

    Raises OutputError when it cannot be made or written, or has no room.
    """
    try:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(_TRIAL_BYTES))
            trial.flush()
        return folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(folder, error) from None


def make_new_folder(folder: Path) -> Path:
    """Make a folder that no other run has, and return its absolute path.

    Its name is NAME, or the first of NAME-2, NAME-3, … that is free. Raises OutputError, as make_folder does.
    """
    make_folder(folder.parent)
    for new in itertools.chain(
        [folder], (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    ):
        try:
            new.mkdir()
        except FileExistsError:
            continue
        except (OSError, ValueError) as error:
            raise _refusal(new, error) from None
        return make_folder(new)
    raise AssertionError("unreachable: the names never end")


def _refusal(folder: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{folder} cannot be written ({reason}); make room or give another folder.")
