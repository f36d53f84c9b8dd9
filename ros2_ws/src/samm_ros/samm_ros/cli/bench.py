# SPDX-License-Identifier: Apache-2.0
"""`samm bench`: runs a benchmark and prints its figures."""

from __future__ import annotations

import argparse
from importlib import import_module

HELP = "measure this machine: --encoder, --decoder, --cache, --memory, --startup; none of them: a race of whole cycles"

_BENCHMARKS = {
    "encoder": "seconds a slice, and the parity gate, against eager torch",
    "decoder": "milliseconds a mask, idle and while the volume is embedded, against eager torch",
    "cache": "masks from embeddings in fewer bits; reading a volume's embeddings against computing them",
    "memory": "the server's memory while a volume is embedded in full, at 16 and 8 bits a value",
    "startup": "from a process's start to its first mask, and the memory it takes",
}
_DEFAULT = "race"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    for name, help_text in _BENCHMARKS.items():
        choice.add_argument(f"--{name}", dest="benchmark", action="store_const", const=name, help=help_text)
    parser.set_defaults(benchmark=_DEFAULT)
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions: to see that it works, not for figures"
    )
    _module(_DEFAULT).add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """The benchmark's own status."""
    return _module(args.benchmark).main(args)


def _module(name: str) -> object:
    return import_module(f"samm_ros.bench.{name}")
