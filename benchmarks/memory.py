# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The server's resident memory while it embeds a volume in full and answers prompts on it, at 16 and at 8 bits a value."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from pathlib import Path

_SETUPS = {"16 bit": {"cache_8bit": "false"}, "8 bit": {"cache_8bit": "true"}}
_PROMPTS = 1000
_EMBEDDING_S = 3600.0


def main(args: argparse.Namespace) -> int:
    """Starts the graph on the MNI volume, waits until it is embedded, prompts, and prints a table."""
    import numpy as np
    import psutil

    from samm_core.geometry import Plane
    from samm_core.latency.cycles import complete_cycles
    from samm_core.prompts import pixel_box
    from samm_core.sources.sample import mni_volume
    from samm_ros.client import GraphClient
    from samm_ros.supervision.processes import environment
    from samm_ros.supervision.supervisor import Supervisor, launch

    from .measure import console, machine, show

    os.environ.update(environment())
    rows = []
    for name, setup in _SETUPS.items():
        namespace = f"bench_{uuid.uuid4().hex[:8]}"
        arguments = {"namespace": namespace, "volume": str(mni_volume()), "bridge": "false", **setup}
        with tempfile.TemporaryDirectory() as folder:
            supervisor = launch(arguments, Path(folder))
            with GraphClient(namespace, "bench", supervisor.check) as client, supervisor:

                def embedded(client: GraphClient = client) -> int:
                    return sum(client.status.done) if client.status and client.status.volume_uid else 0

                def resident_mib(supervisor: Supervisor = supervisor) -> float:
                    return psutil.Process(supervisor.processes["samm_server"]).memory_info().rss / 2**20

                client.wait_for(lambda: embedded() > 0, "the first slice", 180.0)
                first, started = resident_mib(), time.monotonic()
                wanted = 20 if args.quick else sum(client.status.total)
                for part in range(1, 5):
                    goal = wanted * part // 4
                    client.wait_for(lambda: embedded() >= goal, f"{goal} slices", _EMBEDDING_S)  # noqa: B023
                    console.print(f"{name}: {embedded()} of {wanted} slices, {resident_mib():.0f} MiB")
                seconds, full, held = time.monotonic() - started, resident_mib(), client.status.bytes_used
                prompts = 20 if args.quick else _PROMPTS
                for i in range(prompts):
                    client.prompt(pixel_box(Plane.AXIAL, 40 + i % 100, 60 + i % 7, 60, 140, 150))
                cycles = [cycle.total_ms for cycle in complete_cycles(list(client.events))]
                rows.append(
                    (
                        name,
                        f"{first:.0f}",
                        f"{seconds:.0f}",
                        f"{held / 2**20:.0f}",
                        f"{full:.0f}",
                        f"{resident_mib():.0f}",
                        f"{np.median(cycles):.1f}",
                    )
                )
    show(
        f"samm_server, MiB resident, {wanted} slices of the MNI volume, {prompts} prompts; {machine()}",
        ("cache", "first slice", "embedded in s", "of which cache", "then", "after prompts", "cycle p50 ms"),
        rows,
    )
    return 0
