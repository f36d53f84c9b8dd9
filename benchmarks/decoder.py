# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How long a prompt takes to decode on each backend, whether its masks are the reference's, and what the sweep costs it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from samm_core.models.base import SegmentationModel
    from samm_core.prompts import PixelPrompt
    from samm_core.sources.volume import Volume

_PROMPTS = 200
_SLICES_PER_PLANE = 3
# Random pauses between a user's prompts, so that they are never in step with the sweep.
_BETWEEN_S = (0.05, 0.4)


def main(args: argparse.Namespace) -> int:
    """Decodes boxes on slices of the MNI brain by each backend, and prints two tables."""
    from samm_core.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from samm_core.geometry import Plane
    from samm_core.models import load_model
    from samm_core.models.backends.decoder import FusedDecoder
    from samm_core.models.base import FEATURES
    from samm_core.models.parity import dice_of
    from samm_core.prompts import PixelPrompt
    from samm_core.sources.sample import mni_volume
    from samm_core.sources.volume import read_volume

    from .measure import gflop_of, in_turn, machine, peak_gflops, show
    from .plain_torch import NAME, PlainTorch

    volume = read_volume(mni_volume())
    reference = load_model("lite_medsam", device="cpu", backend="torch")
    fast = load_model("lite_medsam", device="cpu", backend="openvino")
    random = np.random.default_rng(0)

    dice, error = [], []
    for plane in Plane:
        count = volume.geometry.slice_count(plane)
        for index in np.linspace(count * 0.3, count * 0.7, _SLICES_PER_PLANE).astype(int):
            image = volume.slice_image(plane, int(index))
            (expected,), (given,) = reference.encode([image]), fast.encode([image])
            features = expected.as_arrays()[FEATURES]
            difference = given.as_arrays()[FEATURES] - features
            error.append(np.linalg.norm(difference) / np.linalg.norm(features))
            rows, columns = image.shape[:2]
            for _ in range((20 if args.quick else _PROMPTS) // (3 * _SLICES_PER_PLANE) + 1):
                x, y = random.uniform(0.15, 0.6, 2) * (columns, rows)
                width, height = random.uniform(0.15, 0.4, 2) * (columns, rows)
                prompt = PixelPrompt(box_xyxy=[x, y, x + width, y + height])
                dice.append(dice_of(fast.decode(given, prompt).mask, reference.decode(expected, prompt).mask))
    box = PixelPrompt(box_xyxy=[60, 60, 140, 150])
    kept = f"{reference.backend}, freed memory kept"
    with PlainTorch() as plain:
        seconds = in_turn(
            {
                NAME: plain.decode,
                kept: lambda: reference.decode(expected, box),
                # The decoder computes in float32 whatever the encoder does.
                fast.backend: lambda: fast.decode(given, box),
            },
            10 if args.quick else 100,
        )
    decoder = FusedDecoder(reference.network, multimask=False).eval()
    inputs = torch.zeros(1, 2, 2), torch.full((1, 2), 2)
    with torch.no_grad():
        fewer = gflop_of(lambda: decoder(expected.features.permute(1, 2, 0)[None], *inputs))
    whole = gflop_of(lambda: reference.decode(expected, box))
    work = {NAME: whole, kept: whole, fast.backend: fewer}
    peak = peak_gflops()
    eager = np.median(seconds[NAME])
    show(
        f"LiteMedSAM decoder; {machine()}: {peak:.0f} GFLOP/s in float32",
        ("backend", "GFLOP", "p50 ms", "p99 ms", "to eager", "share of peak"),
        [
            (
                name,
                f"{work[name]:.2f}",
                f"{np.median(taken) * 1e3:.1f}",
                f"{np.percentile(taken, 99) * 1e3:.1f}",
                f"{eager / np.median(taken):.2f}×",
                f"{work[name] / np.median(taken) / peak:.0%}",
            )
            for name, taken in seconds.items()
        ],
    )
    print(
        f"{fast.backend} and {reference.backend}, {len(dice)} boxes: mean Dice {np.mean(dice):.4f},"
        f" lowest {min(dice):.4f}; embeddings differ by {np.mean(error):.1e} of their norm, {max(error):.1e} at most"
    )
    _beside_the_sweep(fast, volume, box, random, 20 if args.quick else 100)
    return 0


def _beside_the_sweep(
    model: SegmentationModel, volume: Volume, box: PixelPrompt, random: np.random.Generator, prompts: int
) -> None:
    """Print a table of the same prompts on an embedded slice, while the rest of the volume is and is not embedded."""
    from samm_core.embedding.cache import EmbeddingCache
    from samm_core.embedding.engine import EmbeddingEngine
    from samm_core.geometry import Plane
    from samm_core.sources.base import ImageId, SliceKey

    from .measure import show

    engine = EmbeddingEngine(EmbeddingCache(2**32))
    engine.set_model(model)
    engine.load(volume)
    here = ImageId(volume.uid, SliceKey(Plane.AXIAL, 95))
    engine.request(here).result()
    rows = []
    for name, sweeps in (("idle", False), ("while the volume is embedded", True), ("idle again", False)):
        if sweeps:
            engine.sweep(Plane)
        else:
            engine.cancel_sweep()
        time.sleep(3.0)  # the sweep begins after a pause, and a slice under way ends
        taken, started, before = [], time.perf_counter(), len(engine.cache)
        for _ in range(prompts):
            time.sleep(random.uniform(*_BETWEEN_S))
            begun = time.perf_counter()
            encoded = engine.request(here).result()
            encoded.model.decode(encoded.embedding, box)
            taken.append(time.perf_counter() - begun)
        rate = (len(engine.cache) - before) / (time.perf_counter() - started)
        rows.append((name, np.percentile(taken, (50, 95, 99)) * 1e3, rate))
    engine.close()
    idle = rows[0][1][0]
    show(
        f"A prompt every {np.mean(_BETWEEN_S) * 1e3:.0f} ms on an embedded slice",
        ("", "p50 ms", "p95 ms", "p99 ms", "to idle", "slices/s"),
        [
            (name, *(f"{ms:.1f}" for ms in taken), f"{taken[0] / idle:.2f}×", f"{rate:.2f}")
            for name, taken, rate in rows
        ],
    )
