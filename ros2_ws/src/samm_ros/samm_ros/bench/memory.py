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
    from ament_index_python.packages import get_package_share_directory

    from ..demo.client import GraphClient
    from ..demo.script import box, mni_volume
    from ..geometry import Plane
    from ..latency.cycles import complete_cycles
    from ..supervisor import Graph
    from .measure import console, machine, show

    launch_file = Path(get_package_share_directory("samm_ros")) / "launch" / "samm.launch.yaml"
    rows = []
    for name, setup in _SETUPS.items():
        namespace = f"bench_{uuid.uuid4().hex[:8]}"
        arguments = {"namespace": namespace, "volume": str(mni_volume()), "bridge": "false", **setup}
        with tempfile.TemporaryDirectory() as folder:
            graph = Graph(launch_file, arguments, Path(folder))
            os.environ.update(graph.environment)
            with GraphClient(namespace, "bench", graph.check) as client, graph:

                def embedded(client: GraphClient = client) -> int:
                    return sum(client.status.done) if client.status and client.status.volume_uid else 0

                def resident_mib(graph: Graph = graph) -> float:
                    return psutil.Process(graph.processes["samm_server"]).memory_info().rss / 2**20

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
                    client.prompt(box(Plane.AXIAL, 40 + i % 100, 60 + i % 7, 60, 140, 150))
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
