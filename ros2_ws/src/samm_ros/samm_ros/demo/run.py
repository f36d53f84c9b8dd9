# SPDX-License-Identifier: Apache-2.0
"""One demo from launch to report."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from rich.console import Console

from ..errors import PromptError
from ..supervisor import Graph
from ..volume import WINDOW_PRESETS, read_volume
from . import report, script
from .client import GraphClient
from .session import embed_ahead, play, summarize


def run(args: argparse.Namespace, console: Console) -> int:
    """0 when every prompt has a mask that is not empty, else 1. Raises SammError for what a user can mend."""
    own = args.volume is not None
    path = args.volume.resolve() if own else script.mni_volume()
    if args.window and args.window not in WINDOW_PRESETS:
        raise PromptError(f"There is no window preset {args.window}; there are {', '.join(WINDOW_PRESETS)}.")
    # Read here as well: a bad file or prompt is told before anything is started, and the pictures need the voxels.
    volume = read_volume(path, WINDOW_PRESETS.get(args.window))
    prompted = args.box or args.point or args.negative
    if own and not prompted:
        raise PromptError("Your own volume needs a prompt; give --box or --point (see samm demo --help).")
    steps = (
        script.parse(args.box, args.point, args.negative, args.segment, volume.geometry)
        if prompted
        else script.MNI
    )
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    namespace = f"samm_demo_{os.getpid()}"
    arguments = {
        "namespace": namespace,
        "bridge": "false",
        "model": args.model,
        "checkpoint": args.checkpoint,
        "device": args.device,
    }
    launch_file = Path(get_package_share_directory("samm_ros")) / "launch" / "samm.launch.yaml"
    console.print("Starting the graph …")
    graph = Graph(launch_file, arguments, output / "log")
    os.environ.update(graph.environment)
    with graph, GraphClient(namespace, "demo", graph.check) as client:
        session = play(client, path, args.window, steps, console)
        if args.embed > 0:
            embed_ahead(client, session, args.embed, console)
        client.save(output / "segmentation.nii.gz")
        client.save(output / "segmentation.seg.nrrd")
        summary = summarize(client, session)
    report.write_montage(output / "montage.png", volume, session.shots)
    report.write_cycles(output / "cycles.json", summary, session.shots)
    report.print_table(console, summary)
    console.print(f"In {output}: montage.png, segmentation.nii.gz, segmentation.seg.nrrd, cycles.json, log/")
    return 1 if summary.empty_masks else 0
