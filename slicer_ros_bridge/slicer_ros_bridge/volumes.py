# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Volumes that Slicer sends, as files that the graph can load. Knows neither ROS nor sockets."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import stat
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samm_core.errors import VolumeError
from samm_core.geometry import VolumeGeometry
from samm_core.sources.volume import MAX_VOXELS

# Beyond this the oldest files are deleted, but not the one that is loaded.
MAX_STORED_BYTES = 4 << 30
_COPY_BYTES = 1 << 24
# NRRD's names of NumPy's types.
_NRRD_TYPES = {
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "float32": "float",
    "float64": "double",
}


@dataclass(frozen=True, eq=False)
class VolumeDescription:
    """What a client says of its voxels.

    key: BLAKE2b of 16 bytes, hexadecimal, of the voxels, little-endian, (K, J, I) or (K, J, I, 3). components: 1, or 3
    for RGB. ijk_to_ras: (4, 4) float64, voxel centres to millimetres.

    Raises VolumeError for a geometry that is none, a type or key that there is not, and more than MAX_VOXELS.
    """

    key: str
    name: str
    shape_kji: tuple[int, int, int]
    components: int
    dtype: str
    ijk_to_ras: np.ndarray

    def __post_init__(self) -> None:
        VolumeGeometry(tuple(self.shape_kji[::-1]), self.ijk_to_ras)
        if len(self.key) != 32 or not set(self.key) <= set("0123456789abcdef"):
            raise VolumeError(f"The key {self.key[:40]!r} is no BLAKE2b digest of 16 bytes in hexadecimal.")
        if self.dtype not in _NRRD_TYPES:
            raise VolumeError(f"Voxels of the type {self.dtype} cannot be taken; cast the volume to float32.")
        if self.components != 1 and (self.components, self.dtype) != (3, "uint8"):
            raise VolumeError(
                f"{self.components} components of {self.dtype} a voxel cannot be taken; give grey or 8-bit RGB."
            )
        if math.prod(self.shape_kji) > MAX_VOXELS:
            raise VolumeError(
                f"The volume has {math.prod(self.shape_kji):,} voxels; at most {MAX_VOXELS:,} are taken: crop it."
            )

    @property
    def nbytes(self) -> int:
        """Of the voxels."""
        return math.prod(self.shape_kji) * self.components * np.dtype(self.dtype).itemsize

    @property
    def file_name(self) -> str:
        """Names voxels and placement by content."""
        placement = (
            f"{self.shape_kji} {self.components} {self.dtype} ".encode()
            + np.asarray(self.ijk_to_ras, "<f8").tobytes()
        )
        return f"{self.key}-{hashlib.blake2b(placement, digest_size=8).hexdigest()}.nrrd"

    def nrrd_header(self) -> bytes:
        """See https://teem.sourceforge.net/nrrd/format.html."""
        columns = [f"({','.join(repr(float(v)) for v in self.ijk_to_ras[:3, axis])})" for axis in range(4)]
        colour = self.components == 3
        sizes = [*(["3"] if colour else []), *map(str, self.shape_kji[::-1])]
        lines = [
            "NRRD0004",
            f"type: {_NRRD_TYPES[self.dtype]}",
            f"dimension: {len(sizes)}",
            "space: right-anterior-superior",
            f"sizes: {' '.join(sizes)}",
            f"space directions: {'none ' if colour else ''}{' '.join(columns[:3])}",
            f"kinds: {'RGB-color ' if colour else ''}domain domain domain",
            "endian: little",
            "encoding: raw",
            f"space origin: {columns[3]}",
        ]
        return ("\n".join(lines) + "\n\n").encode()


class VolumeStore:
    """A folder of volumes by content, readable by this user alone. An upload that was cut can go on where it was.

    Not thread-safe; two calls for different volumes may run side by side.
    """

    def __init__(self, folder: Path) -> None:
        """Raises VolumeError for a folder that cannot be made or is another user's."""
        try:
            (folder / "incoming").mkdir(mode=0o700, parents=True, exist_ok=True)
            # As the graph will name what it loads from there.
            self.folder = folder = folder.resolve()
            self.incoming = folder / "incoming"
            if folder.stat().st_uid != os.getuid():
                raise VolumeError(
                    f"The folder {folder} belongs to another user; set the bridge's parameter folder."
                )
            folder.chmod(0o700)
        except OSError as error:
            raise VolumeError(
                f"The folder {folder} cannot be used ({error.strerror}); set the bridge's parameter folder."
            ) from None

    def find(self, description: VolumeDescription) -> Path | None:
        """The volume's file, when it is whole and here."""
        path = self.folder / description.file_name
        return path if path.exists() else None

    def key_of(self, uri: str) -> str:
        """The key of the volume that was loaded from there; empty: it is none of ours."""
        path = Path(uri)
        return path.name.partition("-")[0] if path.parent == self.folder else ""

    def offset(self, description: VolumeDescription) -> int:
        """Bytes of the voxels that have come over the wire so far."""
        part = self._part(description)
        return max(0, part.stat().st_size - len(description.nrrd_header())) if part.exists() else 0

    def append(self, description: VolumeDescription, offset: int, data: bytes, crc32: int) -> bool:
        """Write the next bytes; False when these are not the next. Raises VolumeError for damaged or too many bytes."""
        if offset != self.offset(description):
            return False
        if zlib.crc32(data) != crc32:
            raise VolumeError(f"The bytes from {offset} on were damaged on the way; send them again.")
        if not data or offset + len(data) > description.nbytes:
            raise VolumeError(
                f"{len(data)} bytes from {offset} on do not fit {description.nbytes} bytes of voxels."
            )
        header = description.nrrd_header() if offset == 0 else b""
        with _writing(description), self._part(description).open("wb" if header else "ab") as part:
            part.write(header + data)
        return True

    def finish(self, description: VolumeDescription) -> Path:
        """The file of a volume that came over the wire, now whole.

        Raises VolumeError when the key is another's; what came is then deleted.
        """
        with _writing(description), self._part(description).open("rb") as part:
            part.seek(len(description.nrrd_header()))
            digest = hashlib.blake2b(digest_size=16)
            for block in iter(lambda: part.read(_COPY_BYTES), b""):
                digest.update(block)
        return self._put_in_place(description, digest.hexdigest())

    def take(self, description: VolumeDescription, file: str) -> Path:
        """Take in voxels that a client on this host wrote to `incoming`, and delete them there.

        file: a bare name. Raises VolumeError for anything but this user's plain file of the right size and content.
        """
        path = self._offered(file)
        try:
            # Neither a link to elsewhere nor a pipe that never ends.
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise VolumeError(
                f"The file {file[:60]} cannot be read ({error.strerror}); write it again."
            ) from None
        try:
            with open(source, "rb") as voxels:
                status = os.fstat(voxels.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_nlink != 1:
                    raise VolumeError(
                        f"{file[:60]} is no plain file of this user's; write the voxels into one."
                    )
                if status.st_size != description.nbytes:
                    raise VolumeError(
                        f"{file[:60]} holds {status.st_size} bytes, not the {description.nbytes} of the voxels."
                    )
                # What is checked is the copy: the original can be changed meanwhile.
                digest = hashlib.blake2b(digest_size=16)
                left = description.nbytes
                with _writing(description), self._part(description).open("wb") as part:
                    part.write(description.nrrd_header())
                    while left and (block := voxels.read(min(left, _COPY_BYTES))):
                        digest.update(block)
                        part.write(block)
                        left -= len(block)
        finally:
            path.unlink(missing_ok=True)
        return self._put_in_place(description, digest.hexdigest())

    def discard(self, file: str) -> None:
        """Delete what a client wrote to `incoming` in vain; raises VolumeError for anything but a bare name."""
        self._offered(file).unlink(missing_ok=True)

    def put(self, description: VolumeDescription, voxels_kji: np.ndarray) -> Path:
        """Take in voxels of this process; the file. Raises VolumeError when there is no room for them."""
        with _writing(description), self._part(description).open("wb") as part:
            part.write(description.nrrd_header())
            part.write(np.ascontiguousarray(voxels_kji).data)
        return self._put_in_place(description, description.key)

    def evict(self, loaded: Collection[Path]) -> None:
        """Delete the oldest files beyond MAX_STORED_BYTES, never those that are loaded."""
        files = []
        for path in self._files():
            # A part is renamed meanwhile, once it is whole, on another thread.
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        left = MAX_STORED_BYTES
        for _, size, path in sorted(files, reverse=True):
            left -= size
            if left < 0 and path not in loaded:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Leave nothing of the patients' behind."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _offered(self, file: str) -> Path:
        if file in (".", "..") or "/" in file or "\0" in file:
            raise VolumeError(
                f"{file[:60]!r} is no bare file name; write the voxels into the folder of the welcome."
            )
        return self.incoming / file

    def _files(self) -> Iterator[Path]:
        yield from self.folder.glob("*.nrrd")
        yield from self.folder.glob("*.part")

    def _part(self, description: VolumeDescription) -> Path:
        return self.folder / f"{description.file_name}.part"

    def _put_in_place(self, description: VolumeDescription, key: str) -> Path:
        part, path = self._part(description), self.folder / description.file_name
        if key != description.key:
            part.unlink(missing_ok=True)
            raise VolumeError("The voxels that came are not those of the key; send the volume again.")
        os.replace(part, path)
        return path


@contextmanager
def _writing(description: VolumeDescription) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VolumeError(
            f"The bridge cannot keep {description.nbytes / 1e6:.0f} MB of voxels ({error.strerror}); make room or set "
            "its parameter folder."
        ) from None
