# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Eager torch with the C library's own settings for memory, in a process of its own.

allocator.keep_freed_memory changes a whole process, and makes eager torch itself up to twice as fast.
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
        self._process.kill()  # it holds nothing that must be saved
        self._process.wait()

    def encode(self) -> None:
        """Encode the slice. Raises RuntimeError when the process does not answer."""
        self._do("encode")

    def decode(self) -> None:
        """Decode a box on the slice. Raises RuntimeError when the process does not answer."""
        self._do("decode")

    def _do(self, work: str) -> None:
        print(work, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != f"{work}\n":
            raise RuntimeError(f"The process of {NAME} did not answer; its own output says why.")


def main() -> None:
    from samm_core.geometry import Plane
    from samm_core.models import load_model
    from samm_core.prompts import PixelPrompt
    from samm_core.sources.sample import mni_volume
    from samm_core.sources.volume import read_volume

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
