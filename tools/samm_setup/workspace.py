# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The checkout's Python packages in .venv, its ROS packages in ros2_ws, and the environment variables for both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from samm_core.errors import SetupError

from . import machine
from .steps import Command, Step, key_of, key_of_files, run_steps, say

UV = "uv==0.13.9"

# Paths in the wheels' CMake files that exist only on the machine that built them, and a program that prints ours.
_FOREIGN_NUMPY = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_core/include")
_FOREIGN_PYTHON = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
_INCLUDES = "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"

# Set unless the user has set them: these libraries print notices at their start; and text is UTF-8 whatever the locale is,
# and whatever a library makes of it.
_DEFAULTS = {"KMP_WARNINGS": "off", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONUTF8": "1"}

# Where ament and Debian put the modules of a package.
_MODULES = ("lib/python3*/site-packages", "local/lib/python3*/dist-packages", "lib/python3*/dist-packages")


class Package:
    """A ROS package of this checkout."""

    def __init__(self, folder: Path) -> None:
        xml = ElementTree.parse(folder / "package.xml").getroot()
        self.folder = folder
        self.name = xml.findtext("name")
        self.needs = {e.text for e in xml if e.tag.endswith("depend")}

    def files(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.folder, followlinks=True):
            folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
            yield from (Path(folder, name) for name in names)


class Workspace:
    """A checkout at `root`. It uses the ROS 2 that is sourced, or else ROS 2 from wheels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self._sources = root / "ros2_ws" / "src"
        self._install = root / "ros2_ws" / "install"
        self._state = root / ".samm"
        self._distro = _sourced_distro()

    def set_up(self) -> None:
        """Run the steps that are not done. Raises SetupError."""
        machine.check_path(self.root)
        run_steps(self._stages, self._state, before=self._announce)

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """`base` with what sourcing ros2_ws/install/setup.bash adds, the virtual environment and SAMM_ROOT."""
        packages = [self._install / package.name for package in self._packages()]
        prefixes = packages + ([] if self._distro else [self.venv])
        modules = [path for package in packages for pattern in _MODULES for path in package.glob(pattern)]
        result = {**_DEFAULTS, **base, "SAMM_ROOT": str(self.root), "VIRTUAL_ENV": str(self.venv)}
        _prepend(result, "PATH", [self.venv / "bin"])
        _prepend(result, "AMENT_PREFIX_PATH", prefixes)
        _prepend(result, "CMAKE_PREFIX_PATH", prefixes)
        _prepend(result, "PYTHONPATH", modules)
        _prepend(
            result,
            "LD_LIBRARY_PATH",
            [package / "lib" for package in packages if any(package.glob("lib/*.so"))],
        )
        # With this mark the wheels would not look for their libraries, but take those of another environment.
        result.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        return result

    def _announce(self) -> None:
        if not self._venv_step().done:
            machine.check(machine.find_python(self._distro), self.root, self._distro)
            say("Setting up samm_ros in this folder, once: some minutes, and 6 GB of disk\n")
        if self._distro:
            say(f"  ROS 2 {self._distro} is sourced: it is used instead of the wheels\n")

    def _stages(self) -> Iterator[list[list[Step]]]:
        yield [[self._venv_step()]]
        packages = [self._packages_step("Python packages", "python", ["runtime", "test", "slicer"])]
        if self._distro:
            yield [packages]
            yield [self._build_steps()]
            return
        yield [[self._packages_step("ROS 2 packages", "ros", ["ros"])]]
        # The builds need only the ROS 2 packages, so they run while the others are fetched. Not when an interrupted
        # installation is repeated: it replaces files that the builds use.
        if self._begun("python").exists():
            yield [packages]
        yield [packages, self._build_steps()]

    def _build_steps(self) -> list[Step]:
        venv = (self.venv / "pyvenv.cfg").read_text()
        ros = key_of_files([self._requirements("ros")])
        base = key_of(self._venv_key, venv, ros, *self._cmake_arguments())
        keys: dict[str, str] = {}
        steps: list[Step] = []
        for package in self._packages():
            needs = [keys[name] for name in sorted(package.needs) if name in keys]
            keys[package.name] = key_of(base, key_of_files(package.files()), *needs)
            steps.append(self._build_step(package, keys[package.name]))
        return steps

    @property
    def _venv_key(self) -> str:
        # The Python is no part of it: an existing environment stays when another Python runs this script.
        return key_of(str(self.root), self._distro, UV)

    def _venv_step(self) -> Step:
        return Step(
            "virtual environment", self.venv / ".samm-made", self._venv_key, self.python, self._make_venv
        )

    def _packages_step(self, title: str, name: str, purposes: list[str]) -> Step:
        files = [self._requirements(purpose) for purpose in purposes]
        # data.txt lists packages for their data files: their dependencies are not needed.
        alone = [] if name == "ros" else [self._requirements("data")]
        key = key_of(self._venv_key, key_of_files([*files, *alone]))
        return Step(
            title,
            self.venv / f".samm-installed-{name}",
            key,
            self.python,
            lambda run: self._install_packages(run, name, files, alone),
        )

    def _build_step(self, package: Package, key: str) -> Step:
        prefix = self._install / package.name
        product = prefix / "share" / package.name / "package.xml"
        return Step(
            f"build of {package.name}",
            prefix / ".samm-built",
            key,
            product,
            lambda run: self._build(package, run),
        )

    def _requirements(self, purpose: str) -> Path:
        return self.root / "requirements" / f"{purpose}.txt"

    def _begun(self, name: str) -> Path:
        return self.venv / f".samm-installing-{name}"

    def _make_venv(self, run: Command) -> None:
        system = ["--system-site-packages"] if self._distro else []
        python = machine.find_python(self._distro).path
        run([python, "-m", "venv", "--clear", *system, str(self.venv)])
        run([str(self.python), "-m", "pip", "install", "--disable-pip-version-check", UV])

    def _install_packages(self, run: Command, name: str, files: list[Path], alone: list[Path]) -> None:
        # A package whose installation was interrupted may look installed.
        begun = self._begun(name)
        again = ["--reinstall"] if begun.exists() else []
        begun.touch()
        uv = [str(self.venv / "bin" / "uv"), "pip", "install", "--python", str(self.python), *again]
        # Not `uv pip sync`: it would remove further packages whose metadata the wheels of ROS 2 bring.
        run([*uv, *(word for file in files for word in ("-r", str(file)))])
        for file in alone:
            run([*uv, "--no-deps", "-r", str(file)])
        if name == "ros":
            self._mend_cmake_exports()
        begun.unlink()

    def _mend_cmake_exports(self) -> None:
        python, numpy = subprocess.check_output([str(self.python), "-c", _INCLUDES], text=True).split("\n")[
            :2
        ]
        for file in self.venv.glob("share/**/*.cmake"):
            text = file.read_text()
            mended = _FOREIGN_PYTHON.sub(python, _FOREIGN_NUMPY.sub(numpy, text))
            if mended != text:
                # Not in place: the file may be a hard link into the installer's cache.
                draft = file.with_name(file.name + ".new")
                draft.write_text(mended)
                os.replace(draft, file)

    def _packages(self) -> list[Package]:
        """The checkout's ROS packages, each after the packages that it needs."""
        found = [*self._sources.glob("*/package.xml"), *self.root.glob("slicer_ros_bridge/**/package.xml")]
        packages = {package.name: package for package in (Package(xml.parent) for xml in sorted(found))}
        ordered: dict[str, Package] = {}

        def visit(package: Package) -> None:
            for name in sorted(package.needs & packages.keys() - ordered.keys()):
                visit(packages[name])
            ordered.setdefault(package.name, package)

        for package in packages.values():
            visit(package)
        return list(ordered.values())

    def _build(self, package: Package, run: Command) -> None:
        colcon = shutil.which("colcon") if self._distro else str(self.venv / "bin" / "colcon")
        if colcon is None:
            raise SetupError("There is no colcon on PATH; sudo apt install python3-colcon-common-extensions")
        workspace = self._install.parent
        # From scratch: no renamed or half written file stays.
        for folder in (workspace / "build" / package.name, self._install / package.name):
            shutil.rmtree(folder, ignore_errors=True)
        options = {
            "--base-paths": package.folder,
            "--build-base": workspace / "build",
            "--install-base": self._install,
        }
        # Scripts that colcon installs use the Python that colcon ran with.
        command = [str(self.python), colcon, "--log-base", str(workspace / "log"), "build"]
        command += [str(word) for option in options.items() for word in option]
        run([*command, "--cmake-args", *self._cmake_arguments()], self.environment(dict(os.environ)))

    def _cmake_arguments(self) -> list[str]:
        # A ROS 2 that is sourced may have C++ nodes, or another middleware than the wheels.
        wheels = [] if self._distro else ["-G", "Ninja", "-DSAMM_MSGS_PYTHON_ONLY=ON"]
        return [*wheels, f"-DPython3_EXECUTABLE={self.python}", "-DPython3_FIND_VIRTUALENV=ONLY"]


def _sourced_distro() -> str:
    """The name of the ROS 2 that was sourced and has rclpy; empty: none."""
    modules = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return (
        os.environ.get("ROS_DISTRO", "")
        if any(Path(path, "rclpy").is_dir() for path in modules if path)
        else ""
    )


def _prepend(environment: dict[str, str], name: str, paths: list[Path]) -> None:
    """Put the paths first, each of them once, so that calling it again changes nothing."""
    entries = [*map(str, paths), *environment.get(name, "").split(os.pathsep)]
    environment[name] = os.pathsep.join(dict.fromkeys(entry for entry in entries if entry))
