# SPDX-License-Identifier: Apache-2.0
"""`samm top`: the five tasks of a running graph, live."""

from __future__ import annotations

import argparse

HELP = "show the five tasks' rates and latencies and the embedding progress, as the graph runs"

# What is shown is of the last so many seconds.
WINDOW_S = 5.0
REFRESH_HZ = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", default="", help="of the graph (default: none)")
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long (default: at Ctrl-C)")


def main(args: argparse.Namespace) -> int:
    """0."""
    import os
    import time

    from ..launch_file import find_package, read_launch_file

    file = find_package("samm_ros", os.environ) / "share" / "samm_ros" / "launch" / "samm.launch.yaml"
    os.environ.update(read_launch_file(file, {}, dict(os.environ)).environment)

    import rclpy
    from rich.console import Console
    from rich.live import Live

    from ..nodes.monitor import Monitor

    rclpy.init(args=[])
    monitor = Monitor(WINDOW_S, namespace=args.namespace or None)
    end = time.monotonic() + (args.seconds or float("inf"))
    try:
        with Live(monitor.table(), console=Console(), refresh_per_second=REFRESH_HZ) as live:
            while rclpy.ok() and time.monotonic() < end:
                until = time.monotonic() + 1 / REFRESH_HZ
                while (left := until - time.monotonic()) > 0:
                    rclpy.spin_once(monitor, timeout_sec=left)
                live.update(monitor.table())
    except KeyboardInterrupt:
        pass
    finally:
        monitor.destroy_node()
        rclpy.try_shutdown()
    return 0
