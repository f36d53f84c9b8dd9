# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the contracts of pyproject.toml, and a core that needs no ROS."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("samm_core", "samm_ros", "samm_viewer")
SOURCES = ("", *(f"ros2_ws/src/{package}" for package in PACKAGES), "slicer_ros_bridge")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    path = [*(str(ROOT / source) for source in SOURCES), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)


def test_imports_go_down_alone() -> None:
    linted = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert linted.returncode == 0, linted.stdout


def test_the_core_and_its_tests_need_no_ros() -> None:
    program = textwrap.dedent("""
        import importlib, pkgutil, sys
        import pytest

        class NoRos:
            def find_spec(self, name, path=None, target=None):
                top = name.partition(".")[0]
                if top in ("rclpy", "rosidl_runtime_py", "samm_ros") or top.endswith("_msgs"):
                    raise ImportError(f"{name} is ROS")

        sys.meta_path.insert(0, NoRos())
        import samm_core
        for module in pkgutil.walk_packages(samm_core.__path__, "samm_core."):
            importlib.import_module(module.name)
        folder = "ros2_ws/src/samm_core/tests"
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:launch_testing"]
        collected = pytest.main([*options, "--collect-only", folder])
        sys.exit(collected or pytest.main([*options, f"{folder}/test_output.py"]))
    """)
    ran = run(sys.executable, "-W", "ignore", "-c", program)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout


def test_a_node_loads_nothing_heavy_and_the_server_on_openvino_no_torch() -> None:
    program = textwrap.dedent("""
        import sys
        from samm_ros import start

        nodes = [each for each in vars(start).values() if isinstance(each, start.Executable)]
        for node in nodes:
            node.load()
        model = ("torch", "openvino", "onnx")
        heavy = {*model, "scipy", "skimage", "matplotlib", "nibabel", "pydicom", "pandas", "vtk"}
        print(len(nodes), sorted(heavy & sys.modules.keys()))

        from samm_core.models import load_model

        print(load_model("lite_medsam", device="cpu").backend, "torch" in sys.modules)
    """)
    ran = run(sys.executable, "-W", "ignore", "-c", program)
    assert ran.stdout.splitlines() == ["10 []", "openvino float32 False"], ran.stdout + ran.stderr
