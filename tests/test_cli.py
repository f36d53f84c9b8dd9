# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The command line before anything is set up."""

from __future__ import annotations

import ast
import os
import shlex
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
    for folder in ("ros2_ws/src/samm_ros/samm_ros", "ros2_ws/src/samm_core/samm_core", "benchmarks"):
        shutil.copytree(ROOT / folder, root / folder)
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
def test_a_mistake_is_reported_before_anything_is_set_up(bare: Path, arguments: list[str]) -> None:
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


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "open('/dev/full', 'w').write('x' * 100_000)",
            "A file cannot be written (No space left on device).",
        ),
        ("open('/dev/null/x')", "/dev/null/x cannot be used (Not a directory)."),
        ("raise LaunchError('what went wrong')", "what went wrong"),
    ],
)
def test_an_error_of_the_system_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, code: str, sentence: str
) -> None:
    from samm_core.errors import LaunchError
    from samm_ros import cli

    monkeypatch.setattr("samm_ros.cli.setup.main", lambda args: exec(code, {"LaunchError": LaunchError}))
    assert cli.main(["setup"]) == 2
    assert capsys.readouterr().err == f"samm setup: {sentence}\n"


def test_a_fault_of_the_program_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from samm_ros import cli

    monkeypatch.setattr("samm_ros.cli.setup.main", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["setup"])


@pytest.mark.parametrize("namespace", ["a b", "1a", "a//b", "a!", "ü", "a/1", "~"])
@pytest.mark.parametrize("verb", ["record", "top", "up"])
def test_a_bad_namespace_is_reported_in_a_sentence(
    capsys: pytest.CaptureFixture, verb: str, namespace: str
) -> None:
    from samm_ros import cli

    argument = f"namespace:={namespace}" if verb == "up" else f"--namespace={namespace}"
    assert cli.main([verb, argument]) == 2
    assert f'"{namespace}" is no namespace' in capsys.readouterr().err


def test_a_reader_that_ends_early_is_no_error() -> None:
    command = [sys.executable, "-m", "samm_ros.cli", "up", "--show-args"]
    shown = subprocess.run(
        f"{shlex.join(command)} | head -1", shell=True, capture_output=True, text=True, timeout=60
    )
    assert shown.stdout and not shown.stderr


def test_a_home_folder_that_cannot_be_written_ends_no_program(tmp_path: Path) -> None:
    code = "import os; from samm_ros import cli; cli.main(['setup']); import rclpy; rclpy.init(); print(os.environ['ROS_LOG_DIR'])"
    environment = {**os.environ, "HOME": "/dev/null"}
    for name in ("ROS_LOG_DIR", "ROS_HOME"):
        environment.pop(name, None)
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert not Path(shown.stdout.splitlines()[-1]).exists(), "its log stayed"


def test_up_lists_the_arguments_with_their_defaults(capsys: pytest.CaptureFixture) -> None:
    from samm_ros import cli
    from samm_ros.supervision.processes import ARGUMENTS

    assert cli.main(["up", "--show-args"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 2 * len(ARGUMENTS)
    assert "sweep:=…  (default: 'true')\n    Embed the rest of the volume ahead of need.\n" in shown


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("volume", '"volume" is no argument; write name:=value'),
        (":=x", '":=x" is no argument'),
        ("colour:=red", 'There is no argument "colour"; there are model,'),
        ("respawn:=maybe", 'respawn has to be true or false, not "maybe"'),
    ],
)
def test_up_refuses_a_bad_argument_and_leaves_no_log(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    argument: str,
    problem: str,
) -> None:
    from samm_ros import cli

    monkeypatch.setenv("SAMM_ROOT", str(tmp_path))
    assert cli.main(["up", argument]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.glob(".samm/log/*"))
