# SPDX-License-Identifier: Apache-2.0
"""The command line before anything is set up."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERBS = sorted(
    file.stem
    for file in (ROOT / "ros2_ws/src/samm_ros/samm_ros/cli").glob("*.py")
    if not file.stem.startswith("_")
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that was never set up."""
    root = tmp_path_factory.mktemp("bare")
    shutil.copy(ROOT / "samm", root)
    shutil.copytree(ROOT / "tools", root / "tools")
    shutil.copytree(ROOT / "ros2_ws/src/samm_ros/samm_ros", root / "ros2_ws/src/samm_ros/samm_ros")
    return root


def samm(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """./samm with a Python that has no packages at all (-S: no site-packages)."""
    command = [sys.executable, "-I", "-S", str(root / "samm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_lists_every_verb_without_a_set_up(bare: Path) -> None:
    shown = samm(bare, "--help")
    assert shown.returncode == 0, shown.stderr
    assert {"demo", "setup", "test", "up", "weights"} <= set(VERBS)
    for verb in VERBS:
        assert f"\n    {verb} " in shown.stdout
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_own_help_without_a_set_up(bare: Path, verb: str) -> None:
    shown = samm(bare, verb, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: samm {verb}")
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize("arguments", [["nonsense"], ["up", "--nonsense"], ["weights", "a", "b"]])
def test_a_mistake_is_told_before_anything_is_set_up(bare: Path, arguments: list[str]) -> None:
    shown = samm(bare, *arguments)
    assert shown.returncode == 2
    assert "usage: samm" in shown.stderr
    assert not (bare / ".venv").exists()


def test_what_runs_before_the_set_up_is_python_3_8() -> None:
    early = [ROOT / "samm", *(ROOT / "tools").rglob("*.py")]
    early += (ROOT / "ros2_ws/src/samm_ros/samm_ros/cli").glob("*.py")
    for file in early:
        ast.parse(file.read_text(), str(file), feature_version=(3, 8))


def test_the_arguments_of_the_test_verb_reach_pytest_unread() -> None:
    from samm_ros import cli

    verb, args = cli.parse(["test", "-k", "name", "tests/test_cli.py", "-x"])
    assert verb.__name__.endswith(".test")
    assert args.rest == ["-k", "name", "tests/test_cli.py", "-x"]
