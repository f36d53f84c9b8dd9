# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm bench`: runs a benchmark of the checkout's folder `benchmarks` and prints its figures."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

HELP = (
    "measure: --prompts, --volumes, --stream a model on volumes with labels; --encoder, --decoder, --cache, --memory, --startup, "
    "--live, --viewer this machine; "
    "none of them: a race of whole cycles"
)

_BENCHMARKS = {
    "encoder": "seconds a slice, and the parity check, against eager torch",
    "decoder": "milliseconds a mask, idle and while the volume is embedded, against eager torch",
    "cache": "masks from embeddings in fewer bits; reading a volume's embeddings against computing them",
    "memory": "the server's memory while a volume is embedded in full, at 16 and 8 bits a value",
    "live": "masks a second of a live stream through a graph, how late they are, and what is dropped",
    "viewer": "the browser's page: how soon it is there, its memory, pictures and masks a second of a drag",
    "startup": "from a process's start to its first mask, and the memory it takes",
}
# These take a folder of volumes with labels.
_JUDGES = {
    "prompts": "simulated clicks and boxes on its slices (default: this folder): Dice by structure",
    "volumes": "whole structures from one simulated mark: Dice in 3-D by structure",
    "stream": "live streams made of them: Dice over time, what is drawn that is false, what is lost and found",
}
_DEFAULT = "race"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    for name, help_text in _BENCHMARKS.items():
        choice.add_argument(f"--{name}", dest="benchmark", action="store_const", const=name, help=help_text)
    for name, help_text in _JUDGES.items():
        choice.add_argument(f"--{name}", metavar="FOLDER", type=Path, nargs="?", const=Path(), help=help_text)
    parser.set_defaults(benchmark=_DEFAULT)
    judged = parser.add_argument_group("of --prompts, --volumes and --stream")
    judged.add_argument("--model", default="lite_medsam", help="model (default: lite_medsam)")
    judged.add_argument("--checkpoint", help="file of its weights (default: the published one)")
    judged.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    judged.add_argument(
        "--latency",
        type=float,
        default=0.6,
        metavar="S",
        help="of --stream: what a keyframe takes (default: 0.6)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="of --live: one stream for so long, with the server's memory each minute",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions: to see that it works, not for figures"
    )
    benchmark(_DEFAULT).add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """The benchmark's own status."""
    judges = [name for name in _JUDGES if getattr(args, name) is not None]
    return run(judges[0] if judges else args.benchmark, args)


def run(name: str, args: argparse.Namespace) -> int:
    """Run a benchmark, whose status it gives."""
    module = benchmark(name)
    import_module("benchmarks").set_roots()
    return module.main(args)


def benchmark(name: str) -> ModuleType:
    root = os.environ.get("SAMM_ROOT", "")
    if root and root not in sys.path:
        sys.path.append(root)
        # Some start processes of their own.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    return import_module(f"benchmarks.{name}")
