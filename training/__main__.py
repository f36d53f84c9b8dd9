# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Trains the decoder for points: fetch sources, make data, train. See training/README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "samm_core"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    of_fetch = verbs.add_parser(
        "fetch", help="fetch the public sources of sources.toml; what is there already stays"
    )
    of_fetch.add_argument("sources", type=Path, help="the folder for them")
    of_fetch.add_argument("names", nargs="*", help="some of them (default: all)")
    of_data = verbs.add_parser("data", help="make and encode slices; what is there already stays")
    of_data.add_argument("sources", type=Path, help="a folder with one folder for each source, see README.md")
    of_data.add_argument("data", type=Path, help="where the encoded slices go")
    of_data.add_argument("--count", type=int, default=500)
    of_data.add_argument(
        "--held-out", action="store_true", help="make slices of the cases that are never trained on"
    )
    of_data.add_argument("--workers", type=int, default=2)
    of_data.add_argument("--seed", type=int, default=1)
    of_train = verbs.add_parser("train", help="train on encoded slices; continues a run that was stopped")
    of_train.add_argument("data", type=Path)
    of_train.add_argument("held_out", type=Path)
    of_train.add_argument("out", type=Path)
    of_train.add_argument("--steps", type=int, default=2150, help="in all, with those of an earlier run")
    of_train.add_argument("--variant", default="maps", choices=("maps", "all", "embeddings"))
    of_train.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    # Each verb imports what it needs: fetching must not wait for torch, nor need it.
    if args.verb == "fetch":
        from .fetch import fetch

        fetch(args.sources, args.names or None)
    elif args.verb == "data":
        from .encode import make

        make(args.sources, args.data, args.count, args.held_out, args.workers, args.seed)
    else:
        from .train import train

        train(args.data, args.held_out, args.out, args.steps, args.variant, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
