# SPDX-License-Identifier: Apache-2.0
"""Eager torch as a program gets it that does nothing about memory, in a process of its own.

memory.keep_freed_memory changes a whole process, and makes eager torch itself up to twice as fast.
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

NAME = "torch float32, as it comes"


class PlainTorch:
    """LiteMedSAM on slice 95 of the MNI brain; each call does its work there and waits for it."""

    def __enter__(self) -> PlainTorch:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # it keeps nothing
        self._process.wait()

    def encode(self) -> None:
        self._do("encode")

    def decode(self) -> None:
        self._do("decode")

    def _do(self, work: str) -> None:
        print(work, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != f"{work}\n":
            raise RuntimeError(f"The process of {NAME} did not answer; its own output says why.")


def main() -> None:
    from ..demo.script import mni_volume
    from ..geometry import Plane
    from ..models import load_model
    from ..prompts import PixelPrompt
    from ..volume import read_volume

    model = load_model("lite_medsam", device="cpu", backend="torch")
    image = read_volume(mni_volume()).slice_image(Plane.AXIAL, 95)
    (embedding,) = model.encode([image])
    box = PixelPrompt(box_xyxy=[60, 60, 140, 150])
    works = {"encode": lambda: model.encode([image]), "decode": lambda: model.decode(embedding, box)}
    for line in sys.stdin:
        works[line.strip()]()
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
