# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm top`: the five tasks of a running node graph, live."""

from __future__ import annotations

import argparse

HELP = "show the rates and latencies of the five tasks and the progress of embedding, live"

# The figures are of the last seconds, this many.
WINDOW_S = 5.0
REFRESH_HZ = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", default="", help="namespace of the node graph (default: none)")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to run (default: until Ctrl-C)")


def main(args: argparse.Namespace) -> int:
    """0, also when SIGINT or SIGTERM ends it."""
    import os
    import time

    from ..supervision.processes import environment

    os.environ.update(environment())

    import rclpy
    from rich.console import Console
    from rich.live import Live

    from ..tools.monitor import Monitor
    from . import noted_signals

    with noted_signals() as ended:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        monitor = Monitor(WINDOW_S, namespace=args.namespace or None)
        end = time.monotonic() + (args.seconds or float("inf"))
        try:
            with Live(monitor.table(), console=Console(), refresh_per_second=REFRESH_HZ) as live:
                while not ended.is_set() and time.monotonic() < end:
                    until = time.monotonic() + 1 / REFRESH_HZ
                    while (left := until - time.monotonic()) > 0 and not ended.is_set():
                        rclpy.spin_once(monitor, timeout_sec=left)
                    live.update(monitor.table())
        finally:
            monitor.destroy_node()
            rclpy.try_shutdown()
    return 0
