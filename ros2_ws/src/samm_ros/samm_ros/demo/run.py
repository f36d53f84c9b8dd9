# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One demo from launch to report."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from rich.console import Console

from samm_core.errors import OutputError, PromptError
from samm_core.output import make_folder, make_new_folder
from samm_core.segmentation.writers import require_not_input, require_ours
from samm_core.sources.roots import Roots
from samm_core.sources.sample import mni_volume
from samm_core.sources.volume import WINDOW_PRESETS, read_volume

from ..client import GraphClient
from ..supervision.processes import environment
from ..supervision.supervisor import launch
from . import report, script
from .session import embed_ahead, play, summarize

# What it leaves in the output folder, beside log/.
MONTAGE, CYCLES = "montage.png", "cycles.json"
SEGMENTATIONS = ("segmentation.nii.gz", "segmentation.seg.nrrd")


def run(args: argparse.Namespace, console: Console) -> int:
    """0 when every prompt has a mask that is not empty, else 1. Raises SammError for what a user can mend."""
    own = args.volume is not None
    path = args.volume.resolve() if own else mni_volume()
    if args.window and args.window not in WINDOW_PRESETS:
        raise PromptError(f"There is no window preset {args.window}; there are {', '.join(WINDOW_PRESETS)}.")
    # Read here as well: a bad file or prompt is told before anything is started, and the pictures need the voxels.
    volume = read_volume(path, WINDOW_PRESETS.get(args.window))
    console.print(f"Window {volume.window.lower:g} to {volume.window.upper:g}: {volume.window_reason}")
    for warning in volume.warnings:
        console.print(f"[yellow]{warning}[/]")
    prompted = args.box or args.point or args.negative
    if own and not prompted:
        raise PromptError("Your own volume needs a prompt; give --box or --point (see samm demo --help).")
    steps = (
        script.parse(args.box, args.point, args.negative, args.segment, volume.geometry)
        if prompted
        else script.MNI
    )
    output = _output_beside(path, args.output)
    namespace = f"samm_demo_{os.getpid()}"
    arguments = {
        "namespace": namespace,
        "roots": Roots.of("", [path, output]).text,
        "bridge": "false",
        "model": args.model,
        "checkpoint": args.checkpoint,
        "device": args.device,
    }
    console.print("Starting the graph …")
    supervisor = launch(arguments, make_new_folder(output / "log" / time.strftime("%Y-%m-%d-%H-%M-%S")))
    os.environ.update(environment(), ROS_LOG_DIR=str(supervisor.log_dir / "ros"))
    with supervisor, GraphClient(namespace, "demo", supervisor.check) as client:
        session = play(client, path, args.window, steps, console)
        if args.embed > 0:
            embed_ahead(client, session, args.embed, console)
        for name in SEGMENTATIONS:
            client.save(output / name)
        summary = summarize(client, session)
    report.write_montage(output / MONTAGE, volume, session.shots)
    report.write_cycles(output / CYCLES, summary, session.shots)
    report.print_table(console, summary)
    console.print(f"In {output}: {', '.join((MONTAGE, *SEGMENTATIONS, CYCLES))}, log/")
    console.print(f"To mark it yourself, in the browser: ./samm view {args.volume or ''}".rstrip())
    return 1 if summary.empty_masks else 0


def _output_beside(volume: Path, folder: Path) -> Path:
    """The folder, made.

    Raises OutputError or MaskError when it cannot be, or when what it gets would lie on the input or on what is no
    segmentation of ours.
    """
    output = make_folder(folder)
    for name in (MONTAGE, *SEGMENTATIONS, CYCLES):
        require_not_input(output / name, volume)
    for name in SEGMENTATIONS:
        require_ours(output / name)
    if output.samefile(volume):
        raise OutputError(f"{output} holds the volume's own files; give another folder with --output.")
    return output
