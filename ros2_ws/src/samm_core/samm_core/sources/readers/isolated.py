# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Reads a file in a process of its own, so that nothing that it says can end, hold up or fill the process that wants it.

The reading process gets one request on its standard input, a line of JSON, and writes to its standard output: the length of
a JSON header, 4 bytes little-endian; the header; the voxels, row-major and little-endian. It ends with whoever started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import VolumeError
from . import content
from .content import Content

# Less than clients wait for the answer of load_volume.
TIME_LIMIT_S = 100.0
# What a reading process may hold beside a few times the voxels: what libraries need, and a header that is wrong.
_MEMORY = 512 << 20
_MAX_HEADER = 1 << 20
_KINDS = {"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"}
# The next one is started so long after a read: whoever loaded a volume waits for its first mask, on the same processor.
_REST_S = 10.0
# Importing these takes a second or two.
_LIBRARIES = ("nibabel.nifti1", "pydicom.pixels", "nrrd", "PIL.Image")

_lock = threading.Lock()
_ready: subprocess.Popen | None = None
_keeps_one_ready = False


def start_ahead() -> None:
    """Have a reading process ready from now on, with its libraries loaded: for programs that read more than once."""
    global _ready, _keeps_one_ready
    with _lock:
        _keeps_one_ready = True
        if _ready is None or _ready.poll() is not None:
            # Without one ready, the next file is read by one that starts then, or is told why none can.
            with contextlib.suppress(OSError):
                _ready = _start("ahead")


def start_after_read() -> None:
    """As start_ahead, but from a while after the next read on: for programs that begin with one."""
    global _keeps_one_ready
    with _lock:
        _keeps_one_ready = True


def _start_again() -> None:
    if _keeps_one_ready:
        start_ahead()


def stop() -> None:
    """Have none ready any more."""
    global _ready, _keeps_one_ready
    with _lock:
        _keeps_one_ready = False
        reader, _ready = _ready, None
    if reader is not None:
        _end(reader)


def read_isolated(path: Path, max_voxels: int = content.MAX_VOXELS, limit_s: float = TIME_LIMIT_S) -> Content:
    """As readers.read, within `limit_s` seconds. Raises VolumeError also where the reading process died."""
    try:
        reader = _take()
    except OSError as error:
        raise VolumeError(
            f"{path.name} cannot be read: no process can be started ({error.strerror})."
        ) from None
    pipe = _Pipe(reader.stdout.fileno(), time.monotonic() + limit_s)
    request = {"path": str(path.absolute()), "max_voxels": max_voxels, "limit_s": limit_s}
    try:
        with contextlib.suppress(BrokenPipeError):  # told below, as its end
            reader.stdin.write(json.dumps(request).encode() + b"\n")
            reader.stdin.flush()
        header = json.loads(pipe.take(min(int.from_bytes(pipe.take(4), "little"), _MAX_HEADER)))
        if "error" in header:
            raise VolumeError(header["error"])
        if header["dtype"] not in _KINDS:
            raise ValueError(header["dtype"])
        voxels = np.empty(header["shape"], "<" + header["dtype"])
        pipe.fill(memoryview(voxels).cast("B"))
        matrix = np.array(header["ijk_to_ras"], np.float64).reshape(4, 4)
        return Content(voxels, matrix, header["modality"], tuple(header["warnings"]))
    except TimeoutError:
        raise VolumeError(
            f"{path.name} was not read within {limit_s:g} s; it is damaged, or its disk is too slow."
        ) from None
    except MemoryError:
        raise VolumeError(f"There is no memory for {path.name}; crop or resample it.") from None
    except (EOFError, ValueError, KeyError, TypeError):
        raise VolumeError(
            f"{path.name} cannot be read (its reader {_end_of(reader)}); export it again."
        ) from None
    finally:
        _end(reader)
        if _keeps_one_ready:
            timer = threading.Timer(_REST_S, _start_again)
            timer.daemon = True
            timer.start()


def _take() -> subprocess.Popen:
    global _ready
    with _lock:
        reader, _ready = _ready, None
    if reader is not None and reader.poll() is None:
        return reader
    return _start("now")


def _start(when: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Each thread would reserve memory, which is limited.
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", __name__, when],
        env=environment,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A Ctrl-C is for whoever started it, and it ends with that.
        start_new_session=True,
    )


def _end_of(reader: subprocess.Popen) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        status = reader.wait(1.0)
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return "answered what cannot be"


def _end(reader: subprocess.Popen) -> None:
    reader.kill()
    reader.wait()
    with contextlib.suppress(BrokenPipeError):
        reader.stdin.close()
    reader.stdout.close()


class _Pipe:
    """Reads from a descriptor until `deadline`, CLOCK_MONOTONIC: then TimeoutError. EOFError at its end."""

    def __init__(self, descriptor: int, deadline: float) -> None:
        self._descriptor, self._deadline = descriptor, deadline
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def take(self, count: int) -> bytes:
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def fill(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            left_ms = int((self._deadline - time.monotonic()) * 1000)
            if left_ms <= 0 or not self._poll.poll(left_ms):
                raise TimeoutError
            if not (got := os.readv(self._descriptor, [view[filled:]])):
                raise EOFError
            filled += got


def main() -> None:
    # What libraries print is not for whoever reads our output.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if sys.argv[1] == "ahead":
        for library in _LIBRARIES:
            if select.select([0], [], [], 0)[0]:
                break  # Whoever asks already needs one of them at most.
            import_module(library)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    request = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    seconds = int(request["limit_s"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    content.limit_memory(_MEMORY)
    _answer(Path(request["path"]), request["max_voxels"], out)


def _end_with_parent() -> None:
    """The other end of our input is closed by the end of whoever holds it, however that comes."""
    os.read(0, 1)
    os._exit(0)


def _answer(path: Path, max_voxels: int, out: BinaryIO) -> None:
    from . import read

    voxels = np.zeros(0, np.uint8)
    try:
        found = read(path, max_voxels)
        voxels = np.ascontiguousarray(found.voxels)
        voxels = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
        header = {
            "shape": voxels.shape,
            "dtype": voxels.dtype.str[1:],
            "ijk_to_ras": found.ijk_to_ras.ravel().tolist(),
            "modality": found.modality,
            "warnings": found.warnings,
        }
    except VolumeError as error:
        header = {"error": str(error)}
    except MemoryError:
        header = {
            "error": f"{path.name} takes more memory than voxels of its size do; it is damaged: export it again."
        }
    text = json.dumps(header).encode()
    out.write(len(text).to_bytes(4, "little") + text)
    out.write(memoryview(voxels).cast("B") if voxels.size else b"")
    out.flush()


if __name__ == "__main__":
    main()
