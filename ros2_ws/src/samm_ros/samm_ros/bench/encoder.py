# SPDX-License-Identifier: Apache-2.0
"""How long a slice takes to encode on each backend, and whether the parity gate is quick."""

from __future__ import annotations

import argparse
import time

import numpy as np


def main(args: argparse.Namespace) -> int:
    """Encodes slices of the MNI brain in turn by each backend, and prints a table."""
    from ..memory import keep_freed_memory

    keep_freed_memory()
    import torch

    from ..demo.script import mni_volume
    from ..geometry import Plane
    from ..models import load_model
    from ..models.parity import EMBEDDING_ERROR, Golden, check_parity
    from ..volume import read_volume
    from .measure import gflop_of, in_turn, machine, peak_gflops, show

    volume = read_volume(mni_volume())
    image = volume.slice_image(Plane.AXIAL, 95)
    reference = load_model("lite_medsam", device="cpu", backend="torch")
    fast = load_model("lite_medsam", device="cpu", backend="openvino")
    seconds = in_turn(
        {
            reference.backend: lambda: reference.encode([image]),
            fast.backend: lambda: fast.encode([image]),
            f"{fast.backend}, one core": lambda: fast.encode([image], ahead=True),
        },
        3 if args.quick else 12,
    )
    work = gflop_of(lambda: reference._network.image_encoder(torch.zeros(1, 3, 256, 256)))
    peak = peak_gflops()
    eager = np.median(seconds[reference.backend])
    show(
        f"LiteMedSAM encoder, {work:.0f} GFLOP a slice; {machine()}: {peak:.0f} GFLOP/s in float32",
        ("backend", "p50 s", "least s", "to eager", "share of peak"),
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
    if fast.backend.startswith("openvino"):
        golden = Golden.load(fast.export / "golden.safetensors")
        started = time.perf_counter()
        check_parity(fast, golden, EMBEDDING_ERROR[fast.backend.split()[-1]])
        print(f"the parity gate takes {time.perf_counter() - started:.2f} s")
    return 0
