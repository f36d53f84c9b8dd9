# SPDX-License-Identifier: Apache-2.0
"""`samm record`: records a running graph into a rosbag2 bag, without ROS being installed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

HELP = "record a running graph into a bag, until Ctrl-C; with ROS installed, `ros2 bag record` does too"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bag", type=Path, nargs="?", help="folder of the bag; default: samm-bag-DATE-TIME, must not exist"
    )
    parser.add_argument("--namespace", default="", help="of the graph (default: none)")
    parser.add_argument(
        "--topics", action="store_true", help="list the topics, for `ros2 bag record`, and end"
    )


def main(args: argparse.Namespace) -> int:
    """0, or BagError."""
    import os
    import signal

    from ..launch_file import find_package, read_launch_file

    if args.topics:
        from ..nodes.recorder import RECORDED

        prefix = f"/{args.namespace.strip('/')}/" if args.namespace.strip("/") else "/"
        print(*(prefix + name for name in RECORDED), sep="\n")
        return 0
    # The graph's own profile, or it would not be heard.
    file = find_package("samm_ros", os.environ) / "share" / "samm_ros" / "launch" / "samm.launch.yaml"
    os.environ.update(read_launch_file(file, {}, dict(os.environ)).environment)

    import rclpy
    from rclpy.executors import ExternalShutdownException

    from ..latency.bag import BagWriter
    from ..nodes.recorder import Recorder

    folder = args.bag or Path(time.strftime("samm-bag-%Y-%m-%d-%H-%M-%S"))
    with BagWriter(folder) as writer:
        rclpy.init(args=[])
        recorder = Recorder(writer, namespace=args.namespace or None)
        print(f"Recording into {folder}; Ctrl-C ends it", flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            rclpy.spin(recorder)
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            recorder.destroy_node()
            rclpy.try_shutdown()
    counts = {name: count for name, count in writer.counts.items() if count}
    print(
        f"{sum(counts.values())} messages on {len(counts)} topics are in {folder}; see: ./samm latency {folder}"
    )
    return 0
