# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm record`: records a running graph into a rosbag2 bag, without ROS being installed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

HELP = "record a running node graph into a bag, until Ctrl-C; with ROS installed, `ros2 bag record` does too"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bag", type=Path, nargs="?", help="folder of the bag; default: samm-bag-DATE-TIME, must not exist"
    )
    parser.add_argument("--namespace", default="", help="namespace of the node graph (default: none)")
    parser.add_argument(
        "--topics", action="store_true", help="list the topics, for `ros2 bag record`, and end"
    )


def main(args: argparse.Namespace) -> int:
    """0, also when SIGINT or SIGTERM ends it. Raises BagError."""
    import os

    from ..supervision.processes import environment

    if args.topics:
        from ..tools.recorder import RECORDED

        prefix = f"/{args.namespace.strip('/')}/" if args.namespace.strip("/") else "/"
        print(*(prefix + name for name in RECORDED), sep="\n")
        return 0
    # With another profile of Fast DDS it would not receive everything.
    os.environ.update(environment())

    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from samm_core.latency.bag import BagWriter

    from ..tools.recorder import FLUSH_S, Recorder
    from . import noted_signals

    folder = args.bag or Path(time.strftime("samm-bag-%Y-%m-%d-%H-%M-%S"))
    with noted_signals() as ended, BagWriter(folder) as writer:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        recorder = Recorder(writer, namespace=args.namespace or None)
        executor = SingleThreadedExecutor()
        executor.add_node(recorder)
        print(f"Recording into {folder}; Ctrl-C ends it", flush=True)
        try:
            while not ended.is_set():
                executor.spin_once(timeout_sec=FLUSH_S)
        finally:
            executor.shutdown()
            recorder.destroy_node()
            rclpy.try_shutdown()
    counts = {name: count for name, count in writer.counts.items() if count}
    print(
        f"{sum(counts.values())} messages on {len(counts)} topics are in {folder}; see: ./samm latency {folder}"
    )
    return 0
