# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A graph that is started, read and stopped from Slicer; here a small program stands for `samm up`."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slicer_scene import SlicerScene
from SlicerIPPLib.client_events import BridgeState
from SlicerIPPLib.local_graph import LocalGraph, found_checkout

ROOT = Path(__file__).parents[1]
# Says what it was called with, listens nowhere, and ends by SIGTERM, as `samm up` does.
PROGRAM = f"""#!{sys.executable}
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), sys.exit(0)))
print("called with", *sys.argv[1:], "as", os.getpid(), flush=True)
print("slicer_bridge [INFO] IPP/2 listens on tcp://127.0.0.1:1", flush=True)
signal.pause()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "samm").write_text(PROGRAM)
    (tmp_path / "samm").chmod(0o755)
    return tmp_path


@pytest.fixture
def scene() -> Iterator[SlicerScene]:
    with SlicerScene() as scene:
        yield scene


def pid_of(line: str) -> int:
    return int(line.rpartition(" ")[2])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that ended and was not waited for is there no longer either.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_graph_is_started_connected_to_read_and_stopped(scene: SlicerScene, checkout: Path) -> None:
    logic, state = scene.logic, scene.state
    assert logic.reasons()["stop_graph"] == "No graph was started from here."
    logic.start_graph(checkout, ["namespace:=a"])
    assert logic.reasons()["start_graph"] == "The graph runs already; stop it first."
    scene.spin_until(lambda: state.bridge == BridgeState.CONNECTING)
    assert state.graph_log[0].startswith("called with up namespace:=a as ")
    # It was connected to once: what the user does then stays.
    logic.disconnect()
    logic.stop_graph()
    scene.spin_until(lambda: not state.graph_runs)
    assert state.graph_log[-2:] == ["stopped", "The graph has ended."]
    assert state.bridge == BridgeState.DISCONNECTED
    assert logic.reasons()["start_graph"] == ""


def test_a_graph_ends_with_the_logic_that_has_it_to_itself(scene: SlicerScene, checkout: Path) -> None:
    scene.logic.start_graph(checkout)
    scene.spin_until(lambda: scene.state.graph_log)
    scene.logic.close()
    assert not is_alive(pid_of(scene.state.graph_log[0]))


def test_a_graph_that_outlives_a_scene_is_known_to_the_next_one(checkout: Path) -> None:
    graph = LocalGraph()
    try:
        with SlicerScene(graph) as scene:
            scene.logic.start_graph(checkout)
            scene.spin_until(lambda: scene.state.bridge == BridgeState.CONNECTING)
        with SlicerScene(graph) as scene:
            assert scene.state.graph_runs
            assert is_alive(pid_of(scene.state.graph_log[0]))
            assert scene.state.bridge == BridgeState.DISCONNECTED
    finally:
        graph.close()


def test_a_graph_ends_with_a_slicer_that_is_killed(checkout: Path) -> None:
    code = (
        "import sys, time\n"
        "from SlicerIPPLib.local_graph import LocalGraph\n"
        "graph = LocalGraph()\n"
        "graph.start(sys.argv[1])\n"
        "while not graph.lines: time.sleep(0.01)\n"
        "print(graph.lines[0], flush=True)\n"
        "time.sleep(600)\n"
    )
    paths = [str(ROOT / "slicer_ros_bridge/SlicerIPP/SlicerIPP"), *sys.path]
    slicer = subprocess.Popen(
        [sys.executable, "-c", code, str(checkout)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    pid = pid_of(slicer.stdout.readline().strip())
    # Its end is seen by a file of it, not by its number, which another process may get.
    graph = os.pidfd_open(pid)
    slicer.kill()
    slicer.wait()
    try:
        assert select.select([graph], [], [], 30)[0], "it still runs"
    finally:
        os.close(graph)
        slicer.stdout.close()


def test_what_cannot_be_run_is_said(scene: SlicerScene, tmp_path: Path) -> None:
    scene.logic.start_graph(tmp_path)
    assert "there is no samm in it" in scene.state.log[-1]
    (tmp_path / "samm").write_text("")
    (tmp_path / "samm").chmod(0o600)
    scene.logic.start_graph(tmp_path)
    assert "see that it is executable" in scene.state.log[-1]
    assert not scene.state.graph_runs


def test_a_module_of_a_checkout_knows_it() -> None:
    assert found_checkout() == str(ROOT)
