# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the set-up needs of the machine: a Python with headers, a compiler and disk space."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from samm_core.errors import SetupError

OLDEST, NEWEST = (3, 10), (3, 13)
COMPILERS = ("g++", "c++", "clang++")
DISK_GB = 12

# Paths that work unquoted in CMake, make and the first lines of scripts, of which the kernel reads 255 characters.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._@%+=,~-]{1,200}")

_PROBE = """
import json, os, sys, sysconfig
def has(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
base = getattr(sys, "_base_executable", None) or sys.executable
has_venv = has("venv") and has("ensurepip")
print(json.dumps([base, sys.version_info[:2], os.path.exists(headers), has_venv, has("rclpy")]))
"""


class Interpreter(NamedTuple):
    """A Python on this machine. path: of the interpreter itself, not of a virtual environment's link to it."""

    path: str
    version: tuple[int, int]
    has_headers: bool
    has_venv: bool
    has_rclpy: bool


def find_python(distro: str) -> Interpreter:
    """The Python that runs this, or else the newest on PATH that fits. Raises SetupError when none does.

    distro: of the ROS 2 that is sourced, or empty. A Python fits a distribution when it can import its rclpy.
    """
    named = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    for candidate in [sys.executable, *filter(None, map(shutil.which, [*named, "python3"]))]:
        found = _probe(candidate)
        if found and OLDEST <= found.version <= NEWEST and (found.has_rclpy or not distro):
            return found
    if distro:
        raise SetupError(
            f"ROS 2 {distro} is sourced, but no Python 3.{OLDEST[1]} to 3.{NEWEST[1]} on PATH can import its "
            f"rclpy; sudo apt install ros-{distro}-rclpy, or use a shell without it"
        )
    raise SetupError(
        f"There is no Python 3.{OLDEST[1]} to 3.{NEWEST[1]} on PATH (this one is {sys.version.split()[0]}); "
        "install one, for example by: sudo apt install python3.12 python3.12-dev python3.12-venv"
    )


def _probe(python: str) -> Interpreter | None:
    """None when it does not run, such as the stub of a version manager."""
    try:
        output = subprocess.check_output([python, "-c", _PROBE], stderr=subprocess.DEVNULL, timeout=30)
        path, version, *has = json.loads(output)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(path, tuple(version), *has)


def check_path(root: Path) -> None:
    """Raises SetupError for a folder in which the set-up would succeed but no program would start."""
    if not _PLAIN_PATH.fullmatch(str(root)):
        raise SetupError(
            f'The folder "{root}" has a blank, a letter outside ASCII or a sign in its path that CMake or scripts '
            f"cannot use, or more than 200 characters; move {root.name} to another folder, such as ~/samm_ros"
        )


def check(python: Interpreter, root: Path, distro: str) -> None:
    """Raises SetupError with everything that is missing and its remedy. distro: as for find_python."""
    missing: list[str] = []
    name = f"python{python.version[0]}.{python.version[1]}"
    if not python.has_venv:
        missing.append(f"{python.path} cannot make virtual environments; sudo apt install {name}-venv")
    if not python.has_headers:
        missing.append(f"the headers (Python.h) of {python.path} are missing; sudo apt install {name}-dev")
    if not any(map(shutil.which, COMPILERS)):
        missing.append(f"there is no C++ compiler ({', '.join(COMPILERS)}) on PATH; sudo apt install g++")
    if distro and not shutil.which("make"):  # without ROS 2 the wheels bring theirs
        missing.append("there is no make on PATH; sudo apt install make")
    free_gb = shutil.disk_usage(root).free / 1e9
    if free_gb < DISK_GB:
        missing.append(f"{root} has {free_gb:.1f} GB free and the set-up needs {DISK_GB} GB; make room")
    if missing:
        raise SetupError(
            "This machine lacks what the set-up needs:\n" + "\n".join(f"  - {line}" for line in missing)
        )
