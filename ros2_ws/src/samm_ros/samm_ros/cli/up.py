# SPDX-License-Identifier: Apache-2.0
"""`samm up`: runs the graph's launch file, as `ros2 launch` does where ROS is installed."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from pathlib import Path

HELP = "run the graph until Ctrl-C; name:=value sets an argument of its launch file"

_LAUNCH_FILE = "samm.launch.yaml"
# What ROS nodes log, and what Python says when it fails.
_IMPORTANT = re.compile(r"\[(INFO|WARN|ERROR|FATAL)\]|Traceback |\w*(Error|Exception)\b")
_STAMP = re.compile(r" \[\d+\.\d+\]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="see --show-args")
    parser.add_argument(
        "--show-args", action="store_true", help="list the arguments of the launch file and end"
    )
    parser.add_argument(
        "--file", type=Path, help=f"another launch file (default: {_LAUNCH_FILE} of samm_ros)"
    )


def main(args: argparse.Namespace) -> int:
    """0: ended by Ctrl-C or SIGTERM; 1: every process ended by itself. LaunchError: what could not be started."""
    from ..errors import LaunchError
    from ..launch_file import find_package, read_arguments
    from ..supervisor import Graph

    file = args.file or find_package("samm_ros", os.environ) / "share" / "samm_ros" / "launch" / _LAUNCH_FILE
    if args.show_args:
        for argument in read_arguments(file):
            default = "must be given" if argument.default is None else f"default: {argument.default!r}"
            print(f"{argument.name}:=…  ({default})\n    {argument.description}")
        return 0
    arguments: dict[str, str] = {}
    for text in args.arguments:
        name, assigned, value = text.partition(":=")
        if not name or not assigned:
            raise LaunchError(f'"{text}" is no argument; write name:=value (see samm up --show-args).')
        arguments[name] = value

    folder = Path(os.environ.get("SAMM_ROOT", "."), ".samm", "log", time.strftime("%Y-%m-%d-%H-%M-%S"))
    graph = Graph(file, arguments, folder, on_line=_print_line)
    # SIGINT as well: a shell starts background jobs with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with graph:
            print(
                f"{', '.join(graph.processes)} started; logs are in {folder}; Ctrl-C stops them", flush=True
            )
            graph.wait()
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    print("every process has ended", file=sys.stderr)
    return 1


def _print_line(name: str, line: str) -> None:
    if _IMPORTANT.search(line):
        print(f"{name:<12} {_STAMP.sub('', line)}", flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
