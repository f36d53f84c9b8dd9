# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""SROS 2, the encryption and permissions of DDS: had where it was asked for, or refused. Never left out in silence."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from samm_core.errors import LaunchError

# What a Fast DDS that was built with its security plugins holds, and no other.
_PLUGIN = b"dds.sec.auth.builtin.PKI-DH"
# rcl secures nodes for exactly this text, and takes any other for no.
_TRUE = "true"
_NOT_ASKED = ("", "0", "false")


def environment(keystore: str) -> dict[str, str]:
    """Environment variables for processes that join a graph with SROS 2; keystore: a folder made by `ros2 security`.

    Raises LaunchError where there is no such folder, or no plugins.
    """
    folder = Path(keystore).expanduser().resolve()
    if not (folder / "enclaves").is_dir():
        raise LaunchError(
            f"{folder} is no keystore of SROS 2: it has no folder enclaves; make one with "
            f"ros2 security create_keystore {folder}."
        )
    variables = {
        "ROS_SECURITY_ENABLE": _TRUE,
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(folder),
    }
    if problem := _problem(variables):
        raise LaunchError(problem)
    return variables


def require_what_was_asked_for() -> None:
    """End this process with a sentence where its environment asks for SROS 2, and that cannot be had."""
    if problem := _problem(os.environ):
        from rclpy.logging import get_logger

        get_logger("security").fatal(problem)
        sys.exit(1)


def _problem(variables: Mapping[str, str]) -> str:
    """Why security that was asked for cannot be had, one sentence; empty: it can, or was not asked for."""
    asked = variables.get("ROS_SECURITY_ENABLE", "")
    if asked.lower() in _NOT_ASKED:
        return ""
    if asked != _TRUE:
        return (
            f"ROS takes ROS_SECURITY_ENABLE={asked} for no, so that a node would join unsecured; "
            "write it as true, or as false."
        )
    if not _has_plugins():
        return (
            "Security was asked for (ROS_SECURITY_ENABLE=true), but this Fast DDS was built without it, as the one in "
            "the wheels of ROS 2 is; use ROS 2 as installed on Ubuntu, or set ROS_SECURITY_ENABLE=false."
        )
    if variables.get("ROS_SECURITY_STRATEGY") != "Enforce":
        return (
            "Security was asked for, but not enforced: without its files a node would join unsecured; "
            "set ROS_SECURITY_STRATEGY=Enforce."
        )
    return ""


def _has_plugins() -> bool:
    """Whether the library of Fast DDS that rmw_fastrtps uses has its security plugins."""
    maps = Path("/proc/self/maps").read_text() if os.path.exists("/proc/self/maps") else ""
    libraries = set(re.findall(r"(/\S+/libfast(?:rtps|dds)\.so\S*)$", maps, re.MULTILINE))
    if not libraries:
        # rclpy has loaded none yet.
        try:
            folder = Path(get_package_prefix("rmw_fastrtps_cpp")) / "lib"
        except (PackageNotFoundError, OSError):
            return False
        libraries = set(map(str, [*folder.glob("libfastrtps.so*"), *folder.glob("libfastdds.so*")]))
    return any(_PLUGIN in Path(library).read_bytes() for library in libraries)
