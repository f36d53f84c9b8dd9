# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What OpenVINO made of an export on this processor, kept beside it: compiled networks, and whether they agree.

Importing a compiled network takes half of the time of compiling it. What is kept is named by `mark_of`, so that nothing
is used for another export, processor or version.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from .export_store import UNUSED_S, manifest_of

# Of SHA-256: every start reads 100 MB, and processors have instructions for it.
_DIGEST_BYTES = 32
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PART = ".part"
# A younger part may belong to another process that is writing it. No write takes this long.
_ABANDONED_AFTER_S = 3600.0


def mark_of(export: Path, cpu: str) -> str:
    """16 hexadecimal digits for all that a compiled network and its results depend on. cpu: the processor's name.

    The manifest names the versions of this package, of OpenVINO and of torch, and the content of each network.
    """
    facts = f"{cpu} {_instructions()} {np.__version__} {cv2.__version__}"
    return hashlib.sha256(facts.encode() + manifest_of(export)).hexdigest()[:16]


def load_compiled(file: Path) -> np.ndarray | None:
    """The bytes of a compiled network, (N,) uint8; None where there are none, or they are damaged."""
    try:
        content = np.memmap(file, np.uint8, "r")
    except (OSError, ValueError):
        return None
    compiled, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(compiled).digest() != digest.tobytes():
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # for _remove_unused
    return compiled


def save_compiled(file: Path, compiled: bytes) -> None:
    """Keep the bytes of a compiled network; without room or permission, it is compiled again by the next start."""
    _write(file, compiled + hashlib.sha256(compiled).digest())
    _remove_unused(file)


def agrees_since_boot(export: Path, precision: str, mark: str) -> bool:
    """Whether what is kept under this mark has passed the parity check since this computer was started."""
    with contextlib.suppress(OSError):
        return _agreement(export, precision, mark).read_bytes() == _BOOT.read_bytes()
    return False


def note_agreement(export: Path, precision: str, mark: str) -> None:
    """Let agrees_since_boot be true."""
    with contextlib.suppress(OSError):
        _write(_agreement(export, precision, mark), _BOOT.read_bytes())


def refusal(export: Path, precision: str, mark: str) -> str:
    """Why it did not pass the parity check, whenever that was; empty where it is not known to have failed."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _refusal(export, precision, mark).read_text()
    return ""


def note_refusal(export: Path, precision: str, mark: str, why: str) -> None:
    """Let `refusal` give this sentence."""
    _write(_refusal(export, precision, mark), why.encode())


def _agreement(export: Path, precision: str, mark: str) -> Path:
    return export / f"agreed-{precision}-{mark}.txt"


def _refusal(export: Path, precision: str, mark: str) -> Path:
    return export / f"refused-{precision}-{mark}.txt"


def _write(file: Path, content: bytes) -> None:
    """Whole, or not at all."""
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile(
            dir=file.parent, prefix=f"{file.name}.", suffix=_PART, delete=False
        ) as opened:
            part = Path(opened.name)
            try:
                opened.write(content)
                opened.flush()
                os.replace(part, file)
            finally:
                part.unlink(missing_ok=True)


def _remove_unused(file: Path) -> None:
    """Remove this network as compiled for another processor or version, a month after its last use.

    And what processes that were killed while they wrote it have left.
    """
    for other in file.parent.glob(f"{file.name.rpartition('-')[0]}-*"):
        limit = _ABANDONED_AFTER_S if other.suffix == _PART else UNUSED_S
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > limit:
                other.unlink()


def _instructions() -> str:
    """What the processor can compute with: processors of one name may differ in it (Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""
