# SPDX-License-Identifier: Apache-2.0
"""`samm bench`: runs a benchmark and prints its figures."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec

HELP = "measure this machine: --encoder, --decoder, --cache, --startup; none of them: a race of whole cycles"

_BENCHMARKS = {
    "encoder": "seconds a slice, and the parity gate, against eager torch",
    "decoder": "milliseconds a mask, idle and while the volume is embedded, against eager torch",
    "cache": "masks from embeddings in fewer bits; reading a volume's embeddings against computing them",
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
    if find_spec(f"samm_ros.bench.{_DEFAULT}"):
        _module(_DEFAULT).add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """The benchmark's own status; 2: there is no such benchmark here."""
    if find_spec(f"samm_ros.bench.{args.benchmark}") is None:
        names = ", ".join(f"--{name}" for name in _BENCHMARKS)
        print(
            f"samm bench: the {args.benchmark} is not part of this checkout; give {names}.", file=sys.stderr
        )
        return 2
    return _module(args.benchmark).main(args)


def _module(name: str) -> object:
    return import_module(f"samm_ros.bench.{name}")
