# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The extension's zip: it lies as Slicer's Extensions Manager unpacks it, and runs from there. No desktop was at hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTENSION = ROOT / "slicer_ros_bridge" / "SlicerIPP"
REVISION = "33241"
# Makes a logic over a scene, and a file of a segmentation, with what the extension brings and Slicer's core alone.
USE = """
import sys
from pathlib import Path
import numpy as np
import slicer.util
from trame_slicer.core import SlicerApp
scene = SlicerApp().scene
import SlicerIPPLib, samm_core
from SlicerIPPLib.logic import SegmentationLogic
from SlicerIPPLib.parameters import Parameters
volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
slicer.util.updateVolumeFromArray(volume, np.zeros((4, 5, 6), np.int16))
logic = SegmentationLogic(scene, Parameters(volume=volume, autosave=False), lambda view: None)
logic.segments.write(logic.add_segment("a"), 2, 1, np.ones((5, 6), bool))
ended = []
logic.export(sys.argv[1], done=ended.append)
while not ended:
    logic.process_events()
logic.close()
print(ended[0], Path(sys.argv[1]).is_file())
print(SlicerIPPLib.__file__)
print(*samm_core.__path__)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "rclpy", "samm_ros", "qt"}))
"""


def build(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXTENSION / "package.py"), "--output", str(output), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zip")
    (folder / "pyzmq-1-py3-none-any.whl").write_bytes(b"a wheel")
    ran = build(folder / "SlicerIPP.zip", "--macos", REVISION, "--wheels", str(folder))
    assert ran.returncode == 0, ran.stderr
    return folder / "SlicerIPP.zip"


def installed(archive: Path, folder: Path, is_macos: bool = False) -> Path:
    """Where the extension is then, by the steps of qSlicerExtensionsManagerModel::installExtension."""
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        file.extractall(folder / "unpacked")
    name = next(Path(each).stem for each in names if each.endswith(".s4ext"))
    (top,) = {each.partition("/")[0] for each in names}
    source = folder / "unpacked" / top
    if is_macos:
        source = source / "Slicer.app" / "Contents" / f"Extensions-{REVISION}" / name
    shutil.copytree(source, folder / name)
    return folder / name


@pytest.mark.parametrize("is_macos", [False, True], ids=["Linux and Windows", "macOS"])
def test_it_is_installed_with_all_that_slicers_build_packages(
    archive: Path, tmp_path: Path, is_macos: bool
) -> None:
    extension = installed(archive, tmp_path, is_macos)
    for version in ("5.6", "5.8", "5.10"):
        modules = extension / "lib" / f"Slicer-{version}" / "qt-scripted-modules"
        for name in ("SlicerIPP.py", "Resources/UI/SlicerIPP.ui", "Resources/Icons/SlicerIPP.png"):
            assert (modules / name).read_bytes() == (EXTENSION / "SlicerIPP" / name).read_bytes()
        for package, source in (
            ("SlicerIPPLib", EXTENSION / "SlicerIPP" / "SlicerIPPLib"),
            ("samm_core", ROOT / "ros2_ws/src/samm_core/samm_core"),
        ):
            files = {file.relative_to(modules / package) for file in (modules / package).rglob("*.py")}
            assert all((modules / package / f).read_bytes() == (source / f).read_bytes() for f in files)
        assert (modules / "SlicerIPPLib").is_dir()
    assert (extension / "share" / "wheels" / "pyzmq-1-py3-none-any.whl").read_bytes() == b"a wheel"


def test_slicer_reads_what_it_lists_of_the_extension(archive: Path, tmp_path: Path) -> None:
    text = (installed(archive, tmp_path) / "share/Slicer-5.8/SlicerIPP.s4ext").read_text()
    fields = dict(line.partition(" ")[::2] for line in text.splitlines())
    for key in (
        "scm",
        "scmurl",
        "homepage",
        "contributors",
        "category",
        "iconurl",
        "description",
        "screenshoturls",
    ):
        assert fields[key]
    assert (fields["category"], fields["enabled"], fields["depends"]) == ("Segmentation", "1", "NA")


def test_it_runs_where_it_is_unpacked_on_slicers_core_alone(archive: Path, tmp_path: Path) -> None:
    modules = installed(archive, tmp_path) / "lib" / "Slicer-5.8" / "qt-scripted-modules"
    ran = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "s.seg.nrrd")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(modules), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-4:] == [
        " True",
        str(modules / "SlicerIPPLib" / "__init__.py"),
        str(modules / "samm_core"),
        "",
    ]


def test_the_same_files_make_the_same_zip(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        assert build(tmp_path / name, "--slicer", "5.8", "--no-wheels").returncode == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        versions = {found[0] for name in file.namelist() for found in re.findall(r"(Slicer-[\d.]+)/", name)}
    assert len(versions) == 1


def test_a_folder_without_wheels_is_said(tmp_path: Path) -> None:
    ran = build(tmp_path / "a.zip", "--wheels", str(tmp_path))
    assert ran.returncode == 1
    assert "holds no wheel of pyzmq" in ran.stderr
    assert not (tmp_path / "a.zip").exists()


def test_the_description_for_the_index_has_what_its_schema_asks_for() -> None:
    description = json.loads((EXTENSION / "SlicerIPP.json").read_text())
    assert {"$schema", "category", "scm_url"} <= set(description)
    # Of the schema, version 1.0.1; it allows no others.
    assert set(description) <= {
        *("$schema", "category", "scm_url", "scm_revision", "scm_type"),
        *("build_dependencies", "build_subdirectory", "enabled", "tier"),
    }
    assert description["tier"] in (1, 3, 5)
    assert description["scm_type"] in ("git", "local")
