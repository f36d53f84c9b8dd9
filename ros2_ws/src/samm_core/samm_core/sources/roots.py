# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The folders below which the graph reads and writes what a message names.

A node reads and writes with the rights of the user who started it, for whoever can send it a message. What was named at
its start, by that user, needs no such check.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ..errors import PathError
from ..private import private_folder

# The user's own choice for all graphs, as the parameter `roots`.
VARIABLE = "SAMM_ROOTS"
# Where Slicer's `save` writes to.
SAVE_FOLDER = "~/samm_ros"


@dataclass(frozen=True)
class Roots:
    """folders: absolute, symbolic links followed."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, text: str, named: Iterable[str | Path] = ()) -> Roots:
        """text: folders, as PATH separates them; empty: those of $SAMM_ROOTS, and else the folder the process works in.

        named: volumes and other files of the start; the folders that hold them are roots too. So are the bridge's own:
        where it keeps volumes that Slicer sends, and where Slicer's `save` writes to. The folder / is a root only where
        the text says so: it would open everything.

        Raises PathError for a text in which a folder's name holds the separator.
        """
        texts = (text or os.environ.get(VARIABLE, "")).split(os.pathsep)
        _require_separate(texts)
        implied = [path if path.is_dir() else path.parent for path in map(Path, filter(None, named))]
        implied.append(Path(SAVE_FOLDER))
        with contextlib.suppress(OSError):
            implied.append(private_folder())
        if not any(texts):
            # It may have been removed.
            with contextlib.suppress(OSError):
                implied.insert(0, Path.cwd())
        asked = _resolved(Path(each) for each in texts if each)
        roots = asked + [folder for folder in _resolved(implied) if folder != Path(folder.anchor)]
        return cls(tuple(dict.fromkeys(roots)))

    @property
    def text(self) -> str:
        """As `of` takes it. Raises PathError for a folder whose name holds the separator: it would be read as two."""
        for folder in self.folders:
            if os.pathsep in str(folder):
                raise _ambiguous(str(folder))
        return os.pathsep.join(map(str, self.folders))

    def hold(self, path: str | Path) -> bool:
        """Whether a path lies in a root."""
        try:
            self.resolved(path)
        except PathError:
            return False
        return True

    def resolved(self, path: str | Path) -> Path:
        """A path that a message names, absolute and without symbolic links.

        Raises PathError where it lies in no root.
        """
        try:
            real = Path(path).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise PathError(f"{str(path)!r} is no path ({error}); give another.") from None
        if not any(real.is_relative_to(folder) for folder in self.folders):
            raise PathError(
                f"{real} is in none of the folders that the graph may use ({', '.join(map(str, self.folders))}); "
                "move it there, or start the graph with roots:=FOLDER."
            )
        return real


def _resolved(folders: Iterable[Path]) -> list[Path]:
    """Absolute, symbolic links followed; what is no path holds no file, and is left out."""
    real: list[Path] = []
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            real.append(folder.expanduser().resolve())
    return real


def _require_separate(texts: list[str]) -> None:
    """Raises PathError where some of these, one after the other, are one folder whose name holds the separator."""
    for first, last in combinations(range(len(texts) + 1), 2):
        folder = os.pathsep.join(texts[first:last])
        if last - first > 1 and os.path.isdir(os.path.expanduser(folder)):
            raise _ambiguous(folder)


def _ambiguous(folder: str) -> PathError:
    return PathError(
        f"{folder} cannot be a root: it holds {os.pathsep!r}, which stands between roots; rename it, or use another one."
    )
