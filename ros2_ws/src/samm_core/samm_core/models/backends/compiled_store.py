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
from pathlib import Path

import cv2
import numpy as np

from .export_store import manifest_of

# Of SHA-256: every start reads 100 MB, and processors have instructions for it.
_DIGEST_BYTES = 32
_BOOT = Path("/proc/sys/kernel/random/boot_id")


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
    return compiled if hashlib.sha256(compiled).digest() == digest.tobytes() else None


def save_compiled(file: Path, compiled: bytes) -> None:
    """Keep the bytes of a compiled network; without room or permission, it is compiled again by the next start."""
    _write(file, compiled + hashlib.sha256(compiled).digest())


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
    part = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            part.write_bytes(content)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def _instructions() -> str:
    """What the processor can compute with: processors of one name may differ in it (Linux)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""
