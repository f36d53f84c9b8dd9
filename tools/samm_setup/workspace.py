# SPDX-License-Identifier: Apache-2.0
"""The checkout's environment: Python packages in .venv, ROS packages in ros2_ws, the variables that join them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from samm_ros.errors import SetupError

from . import machine
from .steps import Command, Step, key_of, key_of_files, run_steps, say

UV = "uv==0.13.9"

# Where the wheels' CMake files point on the machine that built them, and what belongs there.
_FOREIGN_NUMPY = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_core/include")
_FOREIGN_PYTHON = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
_INCLUDES = "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"

# Set unless the user has: what these libraries print at start is no news.
_QUIET = {"KMP_WARNINGS": "off", "TORCH_CPP_LOG_LEVEL": "ERROR"}

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
    """A checkout at `root`. When a ROS 2 installation is sourced it is used; else ROS 2 comes from wheels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self._sources = root / "ros2_ws" / "src"
        self._install = root / "ros2_ws" / "install"
        self._state = root / ".samm"
        # Of which only the data files are wanted.
        self._data_requirements = root / "requirements" / "data.txt"
        self._distro = _sourced_distro()

    def set_up(self) -> None:
        """Do what is not done; at once when all is. Raises SetupError."""
        run_steps(self._steps, self._state, before=self._announce)

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """`base` with what sourcing ros2_ws/install/setup.bash adds, the virtual environment and SAMM_ROOT."""
        packages = [self._install / package.name for package in self._packages()]
        prefixes = packages + ([] if self._distro else [self.venv])
        modules = [path for package in packages for pattern in _MODULES for path in package.glob(pattern)]
        result = {**_QUIET, **base, "SAMM_ROOT": str(self.root), "VIRTUAL_ENV": str(self.venv)}
        _prepend(result, "PATH", [self.venv / "bin"])
        _prepend(result, "AMENT_PREFIX_PATH", prefixes)
        _prepend(result, "CMAKE_PREFIX_PATH", prefixes)
        _prepend(result, "PYTHONPATH", modules)
        _prepend(
            result,
            "LD_LIBRARY_PATH",
            [package / "lib" for package in packages if any(package.glob("lib/*.so"))],
        )
        # The wheels look for their libraries once; another environment's are not theirs.
        result.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        return result

    def _announce(self) -> None:
        if not self._venv_step().done:
            machine.check(machine.find_python(self._distro), self.root)
            say("Setting up samm_ros in this folder, once: some minutes, and 6 GB of disk\n")
        if self._distro:
            say(f"  ROS 2 {self._distro} is sourced: it is used instead of the wheels\n")

    def _steps(self) -> Iterator[Step]:
        venv = self._venv_step()
        yield venv
        yield self._packages_step(venv.key)
        ros = key_of_files([self.root / "requirements" / "ros.txt"])
        base = key_of(venv.key, (self.venv / "pyvenv.cfg").read_text(), ros)
        keys: dict[str, str] = {}
        for package in self._packages():
            needs = [keys[name] for name in sorted(package.needs) if name in keys]
            keys[package.name] = key_of(base, key_of_files(package.files()), *needs)
            yield self._build_step(package, keys[package.name])

    def _venv_step(self) -> Step:
        # One that is whole is kept, whichever Python runs this script today.
        key = key_of(self.root, self._distro, UV)
        return Step("virtual environment", self.venv / ".samm-made", key, self.python, self._make_venv)

    def _packages_step(self, venv_key: str) -> Step:
        key = key_of(venv_key, key_of_files([*self._requirements(), self._data_requirements]))
        return Step(
            "Python packages", self.venv / ".samm-installed", key, self.python, self._install_packages
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

    def _requirements(self) -> list[Path]:
        purposes = ("runtime", "test", "slicer") if self._distro else ("runtime", "ros", "test", "slicer")
        return [self.root / "requirements" / f"{purpose}.txt" for purpose in purposes]

    def _make_venv(self, run: Command) -> None:
        system = ["--system-site-packages"] if self._distro else []
        python = machine.find_python(self._distro).path
        run([python, "-m", "venv", "--clear", *system, str(self.venv)])
        run([str(self.python), "-m", "pip", "install", "--disable-pip-version-check", UV])

    def _install_packages(self, run: Command) -> None:
        # A package that was cut off half way may look installed.
        begun = self.venv / ".samm-installing"
        again = ["--reinstall"] if begun.exists() else []
        begun.touch()
        uv = [str(self.venv / "bin" / "uv"), "pip", "install", "--python", str(self.python), *again]
        # Not `sync`: the wheels of ROS 2 bring the metadata of further packages, which it would take away.
        run([*uv, *(word for file in self._requirements() for word in ("-r", str(file)))])
        run([*uv, "--no-deps", "-r", str(self._data_requirements)])
        if not self._distro:
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
        """The checkout's ROS packages, each after those that it needs."""
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
        # From nothing, so that nothing renamed or cut off half way stays.
        for folder in (workspace / "build" / package.name, self._install / package.name):
            shutil.rmtree(folder, ignore_errors=True)
        options = {
            "--base-paths": package.folder,
            "--build-base": workspace / "build",
            "--install-base": self._install,
        }
        cmake = [f"-DPython3_EXECUTABLE={self.python}", "-DPython3_FIND_VIRTUALENV=ONLY"]
        # Run by this Python: what colcon installs runs with the Python that colcon ran with.
        command = [str(self.python), colcon, "--log-base", str(workspace / "log"), "build"]
        command += [str(word) for option in options.items() for word in option]
        run([*command, "--cmake-args", *cmake], self.environment(dict(os.environ)))


def _sourced_distro() -> str:
    """The name of the ROS 2 whose set-up file was sourced and whose rclpy there is; empty: none."""
    modules = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return (
        os.environ.get("ROS_DISTRO", "")
        if any(Path(path, "rclpy").is_dir() for path in modules if path)
        else ""
    )


def _prepend(environment: dict[str, str], name: str, paths: list[Path]) -> None:
    """Each path once, ours first: what is started from a samm shell again looks the same."""
    entries = [*map(str, paths), *environment.get(name, "").split(os.pathsep)]
    environment[name] = os.pathsep.join(dict.fromkeys(entry for entry in entries if entry))
