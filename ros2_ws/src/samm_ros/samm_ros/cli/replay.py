# SPDX-License-Identifier: Apache-2.0
"""`samm replay`: plays a recorded session into a running graph and records what comes of it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

DISCOVERY_S = 10.0

HELP = "play a recorded session into a running graph, and record what comes of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="a recording of `samm record` or `ros2 bag record`")
    parser.add_argument("--output", type=Path, help="folder of the new bag; default: samm-bag-DATE-TIME")
    parser.add_argument("--namespace", default="", help="of the graph (default: none)")
    parser.add_argument("--loop", type=int, default=1, metavar="N", help="play it so many times (default: 1)")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--rate", type=float, default=1.0, help="of the original speed (default: 1)")
    speed.add_argument(
        "--as-fast-as-possible", action="store_true", help="send each prompt as soon as the last is answered"
    )


def main(args: argparse.Namespace) -> int:
    """0: every prompt was answered; 1: some were not, as a newer one took their place. BagError, LaunchError."""
    import os
    import threading

    from ..errors import BagError
    from ..launch_file import find_package, read_launch_file

    if not 0 < args.rate <= 1000 or not 1 <= args.loop <= 100_000:
        raise BagError(
            f"A rate of {args.rate:g} or {args.loop} loops cannot be; give up to 1000, and 1 to 100000."
        )
    file = find_package("samm_ros", os.environ) / "share" / "samm_ros" / "launch" / "samm.launch.yaml"
    os.environ.update(read_launch_file(file, {}, dict(os.environ)).environment)

    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from ..latency.bag import BagWriter
    from ..nodes.recorder import Recorder
    from ..nodes.replayer import Replayer, read_script

    script = read_script(args.bag)
    output = args.output or Path(time.strftime("samm-bag-%Y-%m-%d-%H-%M-%S"))
    answered = 0
    with BagWriter(output) as writer:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        nodes = Recorder(writer, namespace=args.namespace or None), Replayer(namespace=args.namespace or None)
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)

        def spin() -> None:
            try:
                executor.spin()
            except ExternalShutdownException:
                return

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        try:
            replayer = nodes[1]
            replayer.load(script.volume)
            deadline = time.monotonic() + DISCOVERY_S
            while not nodes[0].hears_graph():
                if time.monotonic() > deadline:
                    print("Not every node of the graph is heard yet; the new bag may lack the first cycles")
                    break
                time.sleep(0.05)
            rate = None if args.as_fast_as_possible else args.rate
            with Progress(TextColumn("prompts"), MofNCompleteColumn()) as bars:
                bar = bars.add_task("", total=args.loop * len(script.prompts))
                for loop in range(args.loop):
                    before = loop * len(script.prompts)
                    answered += replayer.play(
                        script, rate, lambda n, before=before: bars.update(bar, completed=before + n)
                    )
        finally:
            executor.shutdown(timeout_sec=2.0)
            thread.join(timeout=2.0)
            for node in nodes:
                node.destroy_node()
            rclpy.try_shutdown()
    total = args.loop * len(script.prompts)
    print(
        f"{answered} of {total} prompts were answered or overtaken; recorded in {output}; see: ./samm latency {args.bag} {output}"
    )
    return 0 if answered == total else 1
