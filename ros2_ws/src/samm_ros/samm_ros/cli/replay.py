# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm replay`: plays a recorded session into a running node graph, and records the session that results."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

DISCOVERY_S = 10.0

HELP = "play a recorded session into a running node graph, and record the session that results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="a recording of `samm record` or `ros2 bag record`")
    parser.add_argument("--output", type=Path, help="folder of the new bag; default: samm-bag-DATE-TIME")
    parser.add_argument("--namespace", default="", help="namespace of the node graph (default: none)")
    parser.add_argument("--loop", type=int, default=1, metavar="N", help="times to play it (default: 1)")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--rate", type=float, default=1.0, help="factor of the original speed (default: 1)")
    speed.add_argument(
        "--as-fast-as-possible", action="store_true", help="send each prompt as soon as the last is answered"
    )


def main(args: argparse.Namespace) -> int:
    """0: every prompt was answered; 1: some were not, because a newer one took their place.

    130: SIGINT or SIGTERM ended it; the new bag has what was played until then. Raises BagError or LaunchError.
    """
    import os
    import threading

    from samm_core.errors import BagError, SammError

    from ..supervision.processes import environment

    if not 0 < args.rate <= 1000 or not 1 <= args.loop <= 100_000:
        raise BagError(
            f"--rate {args.rate:g} --loop {args.loop} is not possible; give a rate above 0 and up to 1000, "
            "and 1 to 100000 loops."
        )
    os.environ.update(environment())

    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from samm_core.latency.bag import BagWriter

    from ..support import shared_memory
    from ..tools.recorder import Recorder
    from ..tools.replayer import Replayer, read_script
    from . import noted_signals

    script = read_script(args.bag)
    output = args.output or Path(time.strftime("samm-bag-%Y-%m-%d-%H-%M-%S"))
    answered = 0
    with BagWriter(output) as writer:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        nodes = Recorder(writer, namespace=args.namespace or None), Replayer(namespace=args.namespace or None)
        shared_memory.keep_private()
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)

        ended: list[BagError] = []

        def spin() -> None:
            try:
                executor.spin()
            except ExternalShutdownException:
                return
            except BagError as error:
                ended.append(error)

        def advance(prompts: int) -> None:
            if ended:
                raise ended[0]
            bars.update(bar, completed=prompts)

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        try:
            replayer = nodes[1]
            for volume in script.volumes:
                replayer.load(volume)
            deadline = time.monotonic() + DISCOVERY_S
            while not nodes[0].hears_graph():
                if time.monotonic() > deadline:
                    print("Not every node is heard yet; the new bag may lack the first cycles")
                    break
                time.sleep(0.05)
            rate = None if args.as_fast_as_possible else args.rate
            with Progress(TextColumn("prompts"), MofNCompleteColumn()) as bars:
                bar = bars.add_task("", total=args.loop * len(script.prompts))
                for loop in range(args.loop):
                    before = loop * len(script.prompts)
                    answered += replayer.play(script, rate, lambda n, before=before: advance(before + n))
        except SammError:
            # The bag of a failed replay is of no use, and its name would block the next try.
            writer.discard()
            raise
        finally:
            with noted_signals():
                executor.shutdown(timeout_sec=2.0)
                thread.join(timeout=2.0)
                for node in nodes:
                    node.destroy_node()
                rclpy.try_shutdown()
    total = args.loop * len(script.prompts)
    print(
        f"{answered} of {total} prompts were answered or overtaken; recorded in {output}; "
        f"see: ./samm latency {args.bag} {output}"
    )
    return 0 if answered == total else 1
