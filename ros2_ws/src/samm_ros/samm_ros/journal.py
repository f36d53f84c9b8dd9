# SPDX-License-Identifier: Apache-2.0
"""What was applied, on disk as it happens, so that a killed client comes back with it."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import MaskError

# The file is rewritten as one step a slice when it holds this many: a day of dragging does not fill the disk.
COMPACT_AFTER = 20_000


@dataclass(frozen=True)
class Step:
    """One change of a segmentation: kind is apply, undo or redo; the rest belongs to apply, `data` as encode_mask."""

    volume_uid: str
    kind: str
    segment: str = ""
    plane: int = 0
    index: int = 0
    shape: tuple[int, int] = (0, 0)
    data: bytes = b""


class Journal:
    """An append-only text file: a line a step, its CRC-32 and its JSON. A line cut short by a kill is left out."""

    def __init__(self, path: Path) -> None:
        """Raises MaskError when the file cannot be opened for writing."""
        self.path = Path(path)
        self.steps = list(_read(self.path))
        # Volumes whose steps in the file no longer lead through the history that undo goes back.
        self.compacted: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite(self.steps)
        except OSError as error:
            raise MaskError(f"The journal {self.path} cannot be written: {error.strerror}.") from error

    def append(self, step: Step) -> None:
        """Hand `step` to the operating system: a kill of this process no longer loses it."""
        self.steps.append(step)
        self._counts[step.volume_uid] += 1
        self._file.write(_line(step))
        self._file.flush()

    def count(self, volume_uid: str) -> int:
        """How many steps of a volume the file holds."""
        return self._counts[volume_uid]

    def compact(self, volume_uid: str, state: list[Step]) -> None:
        """Replace all steps of a volume by `state`, which leads to the same voxels."""
        self._file.close()
        self.compacted.add(volume_uid)
        self._rewrite([step for step in self.steps if step.volume_uid != volume_uid] + state)

    def close(self) -> None:
        self._file.close()

    def _rewrite(self, steps: list[Step]) -> None:
        # Also at start: the line that a kill cut short must not swallow the first line written after it.
        part = self.path.with_name(self.path.name + ".part")
        part.write_text("".join(map(_line, steps)), encoding="ascii")
        os.replace(part, self.path)
        self.steps = list(steps)
        self._counts = Counter(step.volume_uid for step in steps)
        self._file = self.path.open("a", encoding="ascii")


def _line(step: Step) -> str:
    text = json.dumps(vars(step) | {"data": base64.b64encode(step.data).decode()})
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _read(path: Path) -> Iterator[Step]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        crc, _, text = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(text):
            # What follows a damaged line may build on it.
            return
        fields = json.loads(text)
        fields["data"] = base64.b64decode(fields["data"])
        fields["shape"] = tuple(fields["shape"])
        yield Step(**fields)
