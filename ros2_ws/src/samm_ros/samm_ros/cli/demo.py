# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm demo`: starts a node graph, segments a volume through it, and writes pictures, files and figures."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "segment an MRI, or your own volume, through a node graph; writes pictures and figures"

_EXAMPLES = """\
prompts, for a volume of your own:
  --box axial:95:80,95,98,145            plane, slice, two corners x,y in pixels
  --box coronal:ras:-20,4,-5,20,4,30     plane, two corners R,A,S in millimetres
  --point axial:95:88,120                a pixel inside the structure (--negative: outside)
  --point sagittal:ras:1,-20,8           a point R,A,S in millimetres
Boxes and points on the same slice of a plane make one prompt.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "volume",
        nargs="?",
        type=Path,
        help="NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, BMP or DICOM folder; default: an MRI of a brain",
    )
    parser.add_argument(
        "--box", action="append", default=[], metavar="BOX", help="box prompt, see below; repeatable"
    )
    parser.add_argument(
        "--point", action="append", default=[], metavar="POINT", help="positive point, see below; repeatable"
    )
    parser.add_argument(
        "--negative", action="append", default=[], metavar="POINT", help="negative point; repeatable"
    )
    parser.add_argument(
        "--segment", default="segment", help="name of the segment of these prompts (default: segment)"
    )
    parser.add_argument(
        "--window", default="", metavar="PRESET", help="window preset, e.g. ct_abdomen; default: automatic"
    )
    parser.add_argument("--model", default="lite_medsam", help="model (default: lite_medsam)")
    parser.add_argument(
        "--checkpoint", default="", help="the model's weights; default: where `samm weights` puts them"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to run it (default: auto)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("samm-demo"),
        help="folder for the results (default: samm-demo)",
    )
    parser.add_argument(
        "--embed",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how long to go on embedding after the prompts (default: 20)",
    )


def main(args: argparse.Namespace) -> int:
    """0: every prompt has a mask; 1: a mask is empty or was refused; 2: bad arguments, or no node graph."""
    from rich.console import Console

    from ..demo.run import run

    return run(args, Console(soft_wrap=True))
