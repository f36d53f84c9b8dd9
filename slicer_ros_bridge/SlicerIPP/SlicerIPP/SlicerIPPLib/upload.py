# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A volume on its way to the bridge: in a file that both computers see, or in pieces over the wire."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from samm_core import ipp


class Upload:
    """request: the number of the request that waits for the volume. fields: of the message, its key included."""

    def __init__(self, request: int, voxels: np.ndarray, fields: dict[str, Any]) -> None:
        """voxels: (K, J, I) or (K, J, I, 3). fields: all but key and file."""
        self.request = request
        self._voxels = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
        self.fields = {**fields, "key": hashlib.blake2b(self._voxels.data, digest_size=16).hexdigest()}
        # Until the bridge could not read a file of ours.
        self.may_share = True
        self._file: Path | None = None

    def describe(self, folder: str | None) -> list[bytes]:
        """The message that offers the volume. The voxels are in a file of `folder` then, if they can be."""
        if self.may_share and folder and os.access(folder, os.W_OK):
            with contextlib.suppress(OSError):
                file = Path(folder) / f"{self.fields['key']}-{os.getpid()}-{self.request}.raw"
                with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as written:
                    self._file = file
                    written.write(self._voxels.data)
        self.may_share = self._file is not None
        name = self._file.name if self._file else None
        return ipp.pack(ipp.FROM_SLICER, "volume", id=self.request, file=name, **self.fields)

    def piece(self, key: str, offset: int) -> list[bytes] | None:
        """The message with the voxels from `offset` on; None when the bridge asks for another volume."""
        if key != self.fields["key"]:
            return None
        data = bytes(memoryview(self._voxels).cast("B")[offset : offset + ipp.CHUNK_BYTES])
        return ipp.pack(ipp.FROM_SLICER, "chunk", data, key=key, offset=offset, crc32=zlib.crc32(data))

    def drop_file(self) -> None:
        if self._file:
            self._file.unlink(missing_ok=True)
            self._file = None
