# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Embeddings in fewer bits: their memory and masks; a volume's from disk: their time; and memory over many prompts."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

_SLICES = 9
_VOLUME = 189
_CYCLES = 10_000
_UNPACKINGS = 20


def main(args: argparse.Namespace) -> int:
    """Measures on the MNI volume, and prints two tables and a line on memory."""
    from samm_core.allocator import keep_freed_memory

    keep_freed_memory()
    import numpy as np
    import psutil

    from samm_core.embedding.cache import EmbeddingCache, EmbeddingKey, EmbeddingStore
    from samm_core.geometry import Plane
    from samm_core.models import load_model
    from samm_core.models.base import Embedding
    from samm_core.models.parity import dice_of
    from samm_core.prompts import PixelPrompt
    from samm_core.sources.sample import mni_volume
    from samm_core.sources.volume import read_volume

    from .measure import machine, show

    volume = read_volume(mni_volume())
    model = load_model("lite_medsam", device="cpu")
    reference = load_model("lite_medsam", device="cpu", backend="torch")
    boxes = [PixelPrompt(box_xyxy=box) for box in ([40, 40, 150, 170], [70, 80, 121, 140], [33, 90, 89, 133])]

    dice = {"float16": [], "8 bit, a scale per channel": []}
    for index in np.linspace(40, 150, 3 if args.quick else _SLICES).astype(int):
        (full,) = reference.encode([volume.slice_image(Plane.AXIAL, int(index))])
        exact = model.restore(full.as_arrays(), full.original_size)
        kept = {"float16": exact, "8 bit, a scale per channel": exact.packed()}
        expected = [reference.decode(full, box).mask for box in boxes]
        for name, each in kept.items():
            given = each.unpacked()
            dice[name] += [
                dice_of(model.decode(given, box).mask, mask)
                for box, mask in zip(boxes, expected, strict=True)
            ]
    mib = {name: each.nbytes / 2**20 for name, each in kept.items()}
    started = time.perf_counter()
    for _ in range(_UNPACKINGS):
        kept["8 bit, a scale per channel"].unpacked()
    unpacking_ms = (time.perf_counter() - started) / _UNPACKINGS * 1e3
    show(
        "Masks from embeddings in fewer bits, Dice with those of float32",
        ("kept as", "MiB per slice", "mean", "min"),
        [("float32", f"{full.nbytes / 2**20:.2f}", "1", "1")]
        + [(name, f"{mib[name]:.2f}", f"{np.mean(d):.4f}", f"{min(d):.4f}") for name, d in dice.items()],
    )
    print(f"unpacking 8 bits, once for all prompts on a slice: {unpacking_ms:.1f} ms")

    count = 20 if args.quick else _VOLUME
    started = time.perf_counter()
    (one,) = model.encode([volume.slice_image(Plane.AXIAL, 95)])
    for index in (60, 70, 80):
        model.encode([volume.slice_image(Plane.AXIAL, index)])
    slice_s = (time.perf_counter() - started) / 4
    cache = EmbeddingCache(2**31)
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddingStore(Path(folder))
        keys = [EmbeddingKey("bench", Plane.AXIAL, index) for index in range(count)]
        started = time.perf_counter()
        for index, key in enumerate(keys):
            # Other values for each, as the slices of a volume have.
            tensors = {name: tensor + np.float16(index) for name, tensor in one.tensors.items()}
            store.save(key, Embedding(tensors, one.original_size, one.input_size))
        saved = time.perf_counter() - started
        started = time.perf_counter()
        for key in keys:
            cache.put(key, store.load(key, model))
        loaded = time.perf_counter() - started
    show(
        f"{count} slices; {machine()}",
        ("", "s", "to encoding"),
        [
            ("encode (4 slices, times their number)", f"{slice_s * count:.1f}", "1×"),
            ("save", f"{saved:.2f}", f"{slice_s * count / saved:.0f}×"),
            ("load and check", f"{loaded:.2f}", f"{slice_s * count / loaded:.0f}×"),
        ],
    )

    process = psutil.Process()
    cycles = 300 if args.quick else _CYCLES
    sizes = []
    for i in range(cycles):
        model.decode(cache.get(keys[i % count]), boxes[i % 3])
        if i >= cycles // 10 and i % (cycles // 10) == 0:
            sizes.append(process.memory_info().rss / 2**20)
    print(
        f"resident memory over {cycles} decoded prompts, every tenth of them: {' '.join(f'{s:.0f}' for s in sizes)} MiB"
    )
    return 0
