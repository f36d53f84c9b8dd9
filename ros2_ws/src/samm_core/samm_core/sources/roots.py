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
        where it keeps volumes that Slicer sends, and where Slicer's `save` writes to.
        """
        texts = (text or os.environ.get(VARIABLE, "")).split(os.pathsep)
        folders = [Path(each) for each in texts if each] or [Path.cwd()]
        holders = [path if path.is_dir() else path.parent for path in map(Path, filter(None, named))]
        own = [Path(SAVE_FOLDER)]
        with contextlib.suppress(OSError):
            own.append(private_folder())
        real: list[Path] = []
        for folder in (*folders, *holders, *own):
            # What is no path holds no file.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                real.append(folder.expanduser().resolve())
        return cls(tuple(dict.fromkeys(real)))

    @property
    def text(self) -> str:
        """As `of` takes it."""
        return os.pathsep.join(map(str, self.folders))

    def hold(self, path: str | Path) -> bool:
        """Whether a path lies in a root."""
        try:
            self.resolved(path)
        except PathError:
            return False
        return True

    def resolved(self, path: str | Path) -> Path:
        """A path that a message names, absolute and without symbolic links. Raises PathError where it lies in no root."""
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
