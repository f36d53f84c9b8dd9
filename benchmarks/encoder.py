# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How long a slice takes to encode on each backend and in each precision, and what the parity check says of each."""

from __future__ import annotations

import argparse
import time

import numpy as np


def main(args: argparse.Namespace) -> int:
    """Encodes slices of the MNI brain in turn by each backend, and prints a table."""
    from samm_core.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from samm_core.errors import BackendError
    from samm_core.geometry import Plane
    from samm_core.models import checkpoint_of, load_model
    from samm_core.models.backends.export_store import REFERENCE_FILE, export_of
    from samm_core.models.backends.openvino import OpenVinoModel, fast_precisions
    from samm_core.models.parity import Reference, check_parity
    from samm_core.sources.sample import mni_volume
    from samm_core.sources.volume import read_volume

    from .measure import console, gflop_of, in_turn, machine, peak_gflops, show
    from .plain_torch import NAME, PlainTorch

    volume = read_volume(mni_volume())
    image = volume.slice_image(Plane.AXIAL, 95)
    reference = load_model("lite_medsam", device="cpu", backend="torch")
    export = export_of("lite_medsam", checkpoint_of("lite_medsam"))
    # Those that the parity check refuses are measured too: they show what being right costs.
    compiled = {
        precision: OpenVinoModel("lite_medsam", reference.processor, export, precision)
        for precision in fast_precisions()
    }
    with PlainTorch() as plain:
        calls = {
            NAME: plain.encode,
            f"{reference.backend}, freed memory kept": lambda: reference.encode([image]),
        }
        for model in compiled.values():
            calls[model.backend] = lambda model=model: model.encode([image])
            calls[f"{model.backend}, one core"] = lambda model=model: model.encode([image], ahead=True)
        seconds = in_turn(calls, 3 if args.quick else 12)
    work = gflop_of(lambda: reference.network.image_encoder(torch.zeros(1, 3, 256, 256)))
    peak = peak_gflops()
    eager = np.median(seconds[NAME])
    show(
        f"LiteMedSAM encoder, {work:.0f} GFLOP a slice; {machine()}: {peak:.0f} GFLOP/s in float32",
        ("backend", "p50 s", "min s", "to eager", "share of peak"),
        [
            (
                name,
                f"{np.median(taken):.3f}",
                f"{taken.min():.3f}",
                f"{eager / np.median(taken):.2f}×",
                f"{work / np.median(taken) / peak:.0%}",
            )
            for name, taken in seconds.items()
        ]
        + [("this peak", f"{work / peak:.3f}", "", f"{eager / (work / peak):.2f}×", "100%")],
    )
    expected = Reference.load(export / REFERENCE_FILE)
    for precision, model in compiled.items():
        started = time.perf_counter()
        try:
            check_parity(model, expected, precision)
            verdict = f"{model.backend} agrees with the reference."
        except BackendError as error:
            verdict = str(error)
        console.print(f"parity check, {time.perf_counter() - started:.2f} s: {verdict}")
    return 0
