# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The set-up on first use: what it asks of a machine, and how it goes on after an interruption."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Python code with the set-up's modules, in a process of its own."""
    paths = f"import sys; sys.path[:0] = [{str(ROOT / 'tools')!r}, {str(ROOT / 'ros2_ws/src/samm_core')!r}]\n"
    return subprocess.Popen(
        [sys.executable, "-c", paths + textwrap.dedent(code)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], status: int = 0) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status, output + errors
    return output + errors


class TestMachine:
    """Everything that is missing is named, with its remedy."""

    CHECK = """
        from pathlib import Path
        from samm_core.errors import SetupError
        from samm_setup import machine
        python = machine.Interpreter({python!r}, (3, 12), has_headers={headers}, has_venv={venv}, has_rclpy=False)
        machine.DISK_GB = {disk}
        try:
            machine.check(python, Path("."), {distro!r})
        except SetupError as error:
            print(error)
    """

    def check(self, folder: Path, compiler: bool = True, **facts: object) -> str:
        if compiler:
            (folder / "g++").symlink_to("/bin/true")
        facts = {
            "python": "/usr/bin/python3.12",
            "headers": True,
            "venv": True,
            "disk": 0,
            "distro": "",
            **facts,
        }
        return said(start(self.CHECK.format(**facts), PATH=str(folder)))

    def test_a_machine_that_has_everything_passes(self, tmp_path: Path) -> None:
        assert self.check(tmp_path) == ""

    def test_a_missing_compiler_is_named(self, tmp_path: Path) -> None:
        shown = self.check(tmp_path, False)
        assert "no C++ compiler (g++, c++, clang++) on PATH; sudo apt install g++" in shown

    def test_a_missing_make_is_named_where_the_wheels_ninja_is_not(self, tmp_path: Path) -> None:
        assert "no make on PATH; sudo apt install make" in self.check(tmp_path, distro="jazzy")

    def test_missing_headers_are_named(self, tmp_path: Path) -> None:
        assert "Python.h" in (shown := self.check(tmp_path, headers=False))
        assert "sudo apt install python3.12-dev" in shown

    def test_missing_virtual_environments_are_named(self, tmp_path: Path) -> None:
        assert "sudo apt install python3.12-venv" in self.check(tmp_path, venv=False)

    def test_a_full_disk_is_named(self, tmp_path: Path) -> None:
        assert "the set-up needs 1000000000 GB; make room" in self.check(tmp_path, disk=10**9)

    def test_all_that_is_missing_is_named_at_once(self, tmp_path: Path) -> None:
        shown = self.check(tmp_path, False, headers=False, venv=False, disk=10**9)
        assert shown.count("\n  - ") == 4

    @pytest.mark.parametrize("name", ["with space", "mit-ü", "a:b", "a;b", "a$b", "a'b", 'a"b', "x" * 200])
    def test_a_folder_in_which_nothing_would_start_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        root = tmp_path / name / "samm_ros"
        for part in ("samm", "tools", "ros2_ws/src/samm_core/samm_core"):
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            (root / part).symlink_to(ROOT / part)
        shown = said(
            start(f"""
            from pathlib import Path
            from samm_core.errors import SetupError
            from samm_setup.workspace import Workspace
            try:
                Workspace(Path({str(root)!r})).set_up()
            except SetupError as error:
                print(error)
        """)
        )
        assert f'The folder "{root}" has a blank' in shown
        assert "move samm_ros to another folder" in shown
        assert not (root / ".samm").exists()

    def test_without_a_fitting_python_the_remedy_is_named(self, tmp_path: Path) -> None:
        stub = tmp_path / "python3.12"  # as a version manager's, that ends with an error
        stub.write_text("#!/bin/sh\nexit 127\n")
        stub.chmod(0o755)
        process = start(
            """
            from samm_core.errors import SetupError
            from samm_setup import machine
            machine.OLDEST, machine.NEWEST = (3, 98), (3, 99)
            try:
                machine.find_python("")
            except SetupError as error:
                print(error)
            """,
            PATH=str(tmp_path),
        )
        assert "There is no Python 3.98 to 3.99 on PATH" in (shown := said(process))
        assert "sudo apt install" in shown

    def test_the_python_that_is_found_is_never_a_virtual_environments(self, tmp_path: Path) -> None:
        shown = said(start("from samm_setup import machine; print(machine.find_python('').path)"))
        assert not (Path(shown.strip()).parent.parent / "pyvenv.cfg").exists()


STEPS = """
    from pathlib import Path
    from samm_setup.steps import Step, run_steps
    folder = Path({folder!r})

    def work(run):
        with open(folder / "runs", "a") as runs:
            runs.write("x")
        # The work takes until somebody writes to "finish".
        run(["sh", "-c", "echo begun > begun; cat finish > /dev/null; echo done > product"])

    import os
    os.chdir(folder)
    run_steps(lambda: [[[Step("work", folder / "stamp", {key!r}, folder / "product", work)]]], folder / "state")
"""


class TestSteps:
    """A step is done once for what it is made from, whatever interrupts it."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        os.mkfifo(tmp_path / "finish")
        os.mkfifo(tmp_path / "begun")
        return tmp_path

    def start(self, folder: Path, key: str = "1") -> subprocess.Popen[str]:
        return start(STEPS.format(folder=str(folder), key=key))

    def begin(self, folder: Path, key: str = "1") -> subprocess.Popen[str]:
        """Started, and in the middle of its work."""
        process = self.start(folder, key)
        assert (folder / "begun").read_text() == "begun\n"
        return process

    def finish(self, folder: Path, process: subprocess.Popen[str]) -> str:
        (folder / "finish").write_text("")
        return said(process)

    def runs(self, folder: Path) -> int:
        return len((folder / "runs").read_text())

    def test_a_step_that_is_done_is_not_done_again(self, folder: Path) -> None:
        assert "  work …\n  work: " in self.finish(folder, self.begin(folder))
        assert said(self.start(folder)) == ""
        assert self.runs(folder) == 1

    def test_a_step_is_done_again_when_what_it_is_made_from_changes(self, folder: Path) -> None:
        self.finish(folder, self.begin(folder))
        self.finish(folder, self.begin(folder, key="2"))
        assert self.runs(folder) == 2

    def test_a_step_is_done_again_when_its_product_is_gone(self, folder: Path) -> None:
        self.finish(folder, self.begin(folder))
        (folder / "product").unlink()
        self.finish(folder, self.begin(folder))
        assert self.runs(folder) == 2

    def test_a_step_that_was_killed_is_done_again_once_what_it_left_running_has_ended(
        self, folder: Path
    ) -> None:
        killed = self.begin(folder)
        killed.kill()
        killed.wait()
        again = self.start(folder)
        assert again.stderr.readline() == "Another ./samm is setting up; waiting for it …\n"
        (folder / "finish").write_text("")  # ends what the killed one had started
        assert (folder / "begun").read_text() == "begun\n"
        self.finish(folder, again)
        assert self.runs(folder) == 2
        assert said(self.start(folder)) == ""

    def test_a_second_process_waits_says_so_and_does_nothing_twice(self, folder: Path) -> None:
        first = self.begin(folder)
        second = self.start(folder)
        assert second.stderr.readline() == "Another ./samm is setting up; waiting for it …\n"
        self.finish(folder, first)
        assert said(second) == ""
        assert self.runs(folder) == 1

    def test_a_step_that_fails_shows_the_end_of_its_log(self, tmp_path: Path) -> None:
        process = start(f"""
            from pathlib import Path
            from samm_setup.steps import Step, run_steps
            folder = Path({str(tmp_path)!r})
            fail = lambda run: run(["sh", "-c", "echo what went wrong; exit 3"])
            run_steps(lambda: [[[Step("work", folder / "stamp", "1", folder / "stamp", fail)]]], folder)
        """)
        shown = said(process, status=1)
        assert "sh failed with status 3" in shown
        assert "what went wrong" in shown
        assert not (tmp_path / "stamp").exists()

    def test_lanes_run_beside_each_other_and_a_failure_leaves_the_other_lane_done(
        self, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "meeting")
        process = start(f"""
            from pathlib import Path
            from samm_setup.steps import Step, run_steps
            folder = Path({str(tmp_path)!r})

            def step(title, script):
                run = lambda run: run(["sh", "-c", "cd " + str(folder) + "; " + script])
                return Step(title, folder / (title + "-stamp"), "1", folder, run)

            # Neither ends before the other has begun.
            run_steps(lambda: [[
                [step("one", "echo > meeting; exit 3")],
                [step("two", "cat meeting"), step("three", "true")],
            ]], folder)
        """)
        assert "sh failed with status 3" in said(process, status=1)
        assert not (tmp_path / "one-stamp").exists()
        assert (tmp_path / "three-stamp").exists()


class TestWorkspace:
    def test_the_environment_is_what_sourcing_the_workspace_gives(self) -> None:
        if not (ROOT / "ros2_ws/install/setup.bash").exists():
            pytest.skip("the workspace is not built")
        variables = ("AMENT_PREFIX_PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
        clean = {"PATH": os.environ["PATH"], "AMENT_PREFIX_PATH": str(ROOT / ".venv")}
        script = "source ros2_ws/install/setup.bash; env"
        output = subprocess.check_output(["bash", "-c", script], cwd=ROOT, env=clean, text=True)
        sourced = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        ours = said(
            start(
                f"""
                from pathlib import Path
                from samm_setup.workspace import Workspace
                got = Workspace(Path({str(ROOT)!r})).environment({{}})
                for name in {variables}: print(name + "=" + got[name])
                """,
                PYTHONPATH="",
            )
        )
        for line in ours.splitlines():
            name, value = line.split("=", 1)
            assert set(value.split(":")) == set(filter(None, sourced[name].split(":"))), name

    def test_only_a_package_whose_sources_changed_is_stale(self, tmp_path: Path) -> None:
        for name, needs in (("base", ""), ("user", "<depend>base</depend>"), ("other", "")):
            package = tmp_path / "ros2_ws/src" / name
            package.mkdir(parents=True)
            (package / "package.xml").write_text(f"<package><name>{name}</name>{needs}</package>")
            (package / "code.py").write_text("")
        shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv/pyvenv.cfg").write_text("")
        code = f"""
            from pathlib import Path
            from samm_setup.workspace import Workspace
            for step in Workspace(Path({str(tmp_path)!r}))._build_steps(): print(step.title, step.key)
        """

        def keys() -> dict[str, str]:
            return dict(line.rsplit(" ", 1) for line in said(start(code, PYTHONPATH="")).splitlines())

        before = keys()
        assert list(before) == ["build of base", "build of other", "build of user"]
        (tmp_path / "ros2_ws/src/base/code.py").write_text("changed")
        changed = {title for title, key in keys().items() if key != before[title]}
        assert changed == {"build of base", "build of user"}

    def test_the_wheels_cmake_files_are_mended_and_the_installers_cache_is_not_touched(
        self, tmp_path: Path
    ) -> None:
        foreign = "/opt/python/cp312-cp312/include/python3.12;/opt/python/cp312-cp312/lib/python3.12"
        foreign += "/site-packages/numpy/_core/include;/opt/other"
        cached = tmp_path / "cached.cmake"
        cached.write_text(foreign)
        folder = tmp_path / ".venv/share/a/cmake"
        folder.mkdir(parents=True)
        os.link(cached, folder / "a.cmake")
        (tmp_path / ".venv/bin").mkdir()
        (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\necho /headers\necho /numpy\n")
        (tmp_path / ".venv/bin/python").chmod(0o755)
        said(
            start(f"""
                from pathlib import Path
                from samm_setup.workspace import Workspace
                Workspace(Path({str(tmp_path)!r}))._mend_cmake_exports()
            """)
        )
        assert (folder / "a.cmake").read_text() == "/headers;/numpy;/opt/other"
        assert cached.read_text() == foreign
