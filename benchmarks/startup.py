# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""From the start of the graph's processes to the first mask, on each backend, composed or not, and the server's memory."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core.errors import PromptError

if TYPE_CHECKING:
    from samm_core.prompts import Prompt
    from samm_ros.client import GraphClient

# Alone, cpl_inf fetches embeddings from the embedding node and keeps them; composed, it reads them where they are.
_SETUPS = {
    "torch": {"backend": "torch"},
    "openvino": {"backend": "openvino"},
    "openvino, a process a node": {"backend": "openvino", "composed": "false"},
}


def main(args: argparse.Namespace) -> int:
    """Starts the graph as `samm up volume:=…` does, prompts as soon as it is there, and prints a table."""
    import numpy as np
    import psutil

    from samm_core.geometry import Plane
    from samm_core.latency.cycles import complete_cycles
    from samm_core.models import checkpoint_of
    from samm_core.models.backends.export_store import export_of
    from samm_core.prompts import pixel_box
    from samm_core.sources.sample import mni_volume
    from samm_ros.client import GraphClient
    from samm_ros.supervision.processes import environment
    from samm_ros.supervision.supervisor import launch

    from .measure import machine, show

    started = time.monotonic()
    export_of("lite_medsam", checkpoint_of("lite_medsam"))
    exported = time.monotonic() - started
    os.environ.update(environment())
    prompt = pixel_box(Plane.AXIAL, 95, 60, 60, 140, 150)
    rows = []
    for turn in range(1 if args.quick else 3):
        for name, setup in _SETUPS.items():
            namespace = f"bench_{uuid.uuid4().hex[:8]}"
            arguments = {"namespace": namespace, "volume": str(mni_volume()), "bridge": "false", **setup}
            with tempfile.TemporaryDirectory() as folder:
                supervisor = launch(arguments, Path(folder))
                with GraphClient(namespace, "bench", supervisor.check) as client:
                    started = time.monotonic()
                    with supervisor:
                        client.wait_for(
                            lambda client=client: (
                                client.segmentation is not None and client.segmentation.volumes
                            ),
                            "the volume",
                            180.0,
                        )
                        loaded = time.monotonic()
                        _first_mask(client, prompt)
                        answered = time.monotonic()
                        for _ in range(10 if args.quick else 40):
                            client.prompt(prompt)
                        cycles = [cycle.total_ms for cycle in complete_cycles(list(client.events))][1:]
                        memory = sum(
                            psutil.Process(supervisor.processes[server]).memory_info().rss
                            for server in ("samm_server", "embedding", "rcv_inf", "cpl_inf")
                            if server in supervisor.processes
                        )
            rows.append(
                (
                    name,
                    turn + 1,
                    f"{loaded - started:.1f}",
                    f"{answered - loaded:.2f}",
                    f"{answered - started:.1f}",
                    f"{np.median(cycles):.0f}",
                    f"{memory / 2**20:.0f}",
                )
            )
    show(
        f"The graph on the MNI volume; {machine()}",
        (
            "",
            "run",
            "volume shown s",
            "first mask after s",
            "together s",
            "cycle p50 ms",
            "server MiB",
        ),
        rows,
    )
    print(f"the export: {exported:.1f} s (made once for each checkpoint; else read and checked)")
    return 0


def _first_mask(client: GraphClient, prompt: Prompt) -> None:
    """Of processes that start side by side, SND_INF may hear of the volume last, and refuse prompts until then."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            client.prompt(prompt)
            return
        except PromptError:
            if time.monotonic() > deadline:
                raise
