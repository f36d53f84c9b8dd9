# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm up`: starts the node graph, as `ros2 launch samm_ros samm.launch.py` does where ROS is installed."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

HELP = "run the node graph until Ctrl-C; name:=value sets an argument, as for ros2 launch"

# What ROS nodes log, and what Python prints when it fails.
_IMPORTANT = re.compile(r"\[(INFO|WARN|ERROR|FATAL)\]|Traceback |\w*(Error|Exception)\b")
_STAMP = re.compile(r" \[\d+\.\d+\]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="see --show-args")
    parser.add_argument("--show-args", action="store_true", help="list the arguments and end")


def main(args: argparse.Namespace) -> int:
    """0: ended by Ctrl-C or SIGTERM; 1: every process ended by itself. Raises LaunchError."""
    from samm_core.errors import LaunchError

    from ..supervision.supervisor import launch
    from . import check_namespace

    if args.show_args:
        _show_arguments()
        return 0
    arguments: dict[str, str] = {}
    for text in args.arguments:
        name, assigned, value = text.partition(":=")
        if not name or not assigned:
            raise LaunchError(f'"{text}" is no argument; write name:=value (see samm up --show-args).')
        arguments[name] = value
    check_namespace(arguments.get("namespace", ""))

    folder = new_log_folder()
    try:
        supervisor = launch(arguments, folder, print_line)
    except LaunchError:
        folder.rmdir()
        raise
    try:
        with supervisor:
            names = ", ".join(supervisor.processes)
            print(f"{names} started; logs are in {folder}; Ctrl-C stops them", flush=True)
            supervisor.wait()
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    print("every process has ended", file=sys.stderr)
    return 1


def _show_arguments() -> None:
    from ..supervision.processes import ARGUMENTS

    for argument in ARGUMENTS:
        print(f"{argument.name}:=…  (default: {argument.default_text!r})\n    {argument.description}")


def new_log_folder() -> Path:
    """A new folder for the logs of one run. Raises LaunchError."""
    from samm_core.errors import LaunchError, OutputError
    from samm_core.output import make_new_folder

    logs = Path(os.environ.get("SAMM_ROOT", "."), ".samm", "log")
    try:
        return make_new_folder(logs / time.strftime("%Y-%m-%d-%H-%M-%S"))
    except OutputError as error:
        raise LaunchError(
            f"Logs cannot be written: {error} Use a checkout of your own: git clone it."
        ) from None


def print_line(name: str, line: str) -> None:
    """Print what a process of the graph says, where it is for a person."""
    if _IMPORTANT.search(line):
        print(f"{name:<12} {_STAMP.sub('', line)}", flush=True)
