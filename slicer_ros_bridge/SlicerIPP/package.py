#!/usr/bin/env python3
# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Builds the extension as a zip that Slicer's Extensions Manager installs by "Install from file", without a network.

    python3 slicer_ros_bridge/SlicerIPP/package.py

The module is pure Python: one file is for Linux and Windows, and for macOS with --macos. It holds pyzmq too, which Slicer
lacks, as wheels for each system; those are downloaded once. What is in it, and under which names, is read from the two
CMakeLists.txt, so that it is what Slicer's own build packages. Standard library only, pip apart.

The layout is the one that qSlicerExtensionsManagerModel.cxx unpacks: one folder; in it lib/Slicer-X.Y/qt-scripted-modules
and share/Slicer-X.Y/NAME.s4ext; on macOS both are below Slicer.app/Contents/Extensions-REVISION/NAME.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

EXTENSION = Path(__file__).resolve().parent
NAME = "SlicerIPP"
MODULE = EXTENSION / NAME
SAMM_CORE = EXTENSION.parents[1] / "ros2_ws" / "src" / "samm_core" / "samm_core"
# A module is found in the folder of Slicer's own version alone.
SLICER_VERSIONS = ("5.6", "5.8", "5.10")
# Their Pythons, and the systems as pip names them.
PYTHONS = ("3.9", "3.12")
PLATFORMS = (
    ("manylinux2014_x86_64", "manylinux_2_28_x86_64"),
    ("win_amd64",),
    ("macosx_10_15_x86_64", "macosx_10_15_universal2", "macosx_11_0_arm64", "macosx_11_0_universal2"),
)
# Below the extension's folder, for all versions of Slicer; SlicerIPP.py installs from there.
WHEELS = "share/wheels"
# So that the same files make the same zip.
_TIME = (2026, 1, 1, 0, 0, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=Path(f"{NAME}.zip"), help="the zip; default: %(default)s"
    )
    parser.add_argument(
        "--slicer",
        action="append",
        metavar="X.Y",
        help=f"version of Slicer that it is for, may be repeated; default: {' '.join(SLICER_VERSIONS)}",
    )
    parser.add_argument(
        "--macos",
        action="append",
        default=[],
        metavar="REVISION",
        help="revision of a Slicer for macOS, which Help > About shows, such as 33241; may be repeated",
    )
    parser.add_argument(
        "--wheels", type=Path, help="folder that holds pyzmq's wheels; default: download them to .samm/wheels"
    )
    parser.add_argument(
        "--no-wheels", action="store_true", help="leave pyzmq out: Slicer then downloads it itself"
    )
    args = parser.parse_args(arguments)
    wheels = []
    if not args.no_wheels:
        folder = args.wheels or EXTENSION.parents[1] / ".samm" / "wheels"
        if args.wheels is None and not download_wheels(folder):
            print(
                "pyzmq could not be downloaded; give its wheels with --wheels, or --no-wheels.",
                file=sys.stderr,
            )
            return 1
        wheels = sorted(folder.glob("pyzmq-*.whl"))
        if not wheels:
            print(f"{folder} holds no wheel of pyzmq.", file=sys.stderr)
            return 1
    build(args.output, args.slicer or SLICER_VERSIONS, args.macos, wheels)
    print(
        f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB; in Slicer: View > Extensions Manager > Install from file"
    )
    return 0


def build(output: Path, versions: Sequence[str], revisions: Sequence[str], wheels: Sequence[Path]) -> None:
    """Write the zip. versions: of Slicer, X.Y. revisions: of Slicers for macOS. wheels: that Slicer is to install."""
    files = module_files()
    roots = [NAME, *(f"{NAME}/Slicer.app/Contents/Extensions-{revision}/{NAME}" for revision in revisions)]
    part = output.with_name(f"{output.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for root in roots:
            for wheel in wheels:
                _add(archive, f"{root}/{WHEELS}/{wheel.name}", wheel.read_bytes())
            for version in versions:
                _add(archive, f"{root}/share/Slicer-{version}/{NAME}.s4ext", description().encode())
                for name, content in sorted(files.items()):
                    _add(archive, f"{root}/lib/Slicer-{version}/qt-scripted-modules/{name}", content)
    part.replace(output)


def module_files() -> dict[str, bytes]:
    """By the path in Slicer's folder of scripted modules, what CMakeLists.txt puts there."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    names = [
        f"{NAME}.py",
        *re.findall(r"^  (SlicerIPPLib/\S+\.py)$", text, re.MULTILINE),
        *(
            name.replace("${MODULE_NAME}", NAME)
            for name in re.findall(r"^  (Resources/\S+)$", text, re.MULTILINE)
        ),
    ]
    files = {name: (MODULE / name).read_bytes() for name in names}
    (core,) = re.findall(r"foreach\(name\s+([^)]+)\)", text)
    files.update({f"samm_core/{name}.py": (SAMM_CORE / f"{name}.py").read_bytes() for name in core.split()})
    return files


def description() -> str:
    """The extension's description, as Slicer's build makes it of the extension's CMakeLists.txt."""
    fields = dict(_metadata())
    lines = {
        "scm": "git",
        "scmurl": "https://github.com/samm-ros/samm_ros.git",
        "scmrevision": "main",
        "depends": fields["DEPENDS"],
        "build_subdirectory": ".",
        "homepage": fields["HOMEPAGE"],
        "contributors": fields["CONTRIBUTORS"],
        "category": fields["CATEGORY"],
        "iconurl": fields["ICONURL"],
        "status": "",
        "description": fields["DESCRIPTION"],
        "screenshoturls": fields["SCREENSHOTURLS"],
        "enabled": "1",
    }
    return "".join(f"{key} {value}".rstrip() + "\n" for key, value in lines.items())


def download_wheels(folder: Path) -> bool:
    """Bring pyzmq's wheels for all systems into a folder, unless they are there; whether all are."""
    if len(list(folder.glob("pyzmq-*.whl"))) >= len(PYTHONS) * len(PLATFORMS):
        return True
    for python in PYTHONS:
        for platforms in PLATFORMS:
            command = [sys.executable, "-m", "pip", "download", "pyzmq", "--no-deps", "--only-binary=:all:"]
            command += ["--python-version", python, "--dest", str(folder), "--quiet"]
            for platform in platforms:
                command += ["--platform", platform]
            if subprocess.run(command, check=False).returncode:
                return False
    return True


def _metadata() -> Iterator[tuple[str, str]]:
    text = (EXTENSION / "CMakeLists.txt").read_text(encoding="utf-8")
    return (found.groups() for found in re.finditer(r'set\(EXTENSION_(\w+) "([^"]*)"\)', text))


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)


if __name__ == "__main__":
    sys.exit(main())
