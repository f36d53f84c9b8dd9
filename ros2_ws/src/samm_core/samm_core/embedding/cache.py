# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keeps embeddings: in the model's memory, then in host memory, then no longer; and saved ones on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import CacheError
from ..geometry import Plane
from ..sources.volume import Window

if TYPE_CHECKING:
    from ..models.base import Embedding, PackedEmbedding, SegmentationModel

GIB = 1024**3
_FORMAT = "samm-embedding-2"
_PART = ".part"
# A younger part may belong to another process that is writing it. No write takes this long.
_ABANDONED_AFTER_S = 3600.0
# Writing one takes 10 ms of a processor.
_REST_S = 0.2
# SAM's one tensor. Its name is not in the digest, which files of earlier releases have without it.
_UNNAMED = "features"


def scope_of(volume_uid: str, window: Window, fingerprint: str) -> str:
    """32 hexadecimal digits for all embeddings of one volume, window and model.

    fingerprint: SegmentationModel.fingerprint, or what else stands for the model.
    """
    text = f"{_FORMAT} {volume_uid} {float(window.lower)!r} {float(window.upper)!r} {fingerprint}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class EmbeddingKey:
    """One embedding: its scope (see scope_of), and its slice's plane and index."""

    scope: str
    plane: Plane
    index: int


class EmbeddingCache:
    """Embeddings within two byte budgets; the least recently used leave first. Thread-safe.

    device_budget: bytes kept where the encoder left them. What does not fit moves to host memory.
    host_budget: bytes kept in host memory. What does not fit is dropped. On a CPU both are the same memory: give 0.
    packs: whether embeddings are kept at 8 bits a value. The one that was read last is kept unpacked as well.
    """

    def __init__(self, device_budget: int, host_budget: int = 0, packs: bool = False) -> None:
        self.device_budget = device_budget
        self.host_budget = host_budget
        self.packs = packs
        self.hits = self.misses = self.evictions = 0
        self._device: OrderedDict[EmbeddingKey, Embedding | PackedEmbedding] = OrderedDict()
        self._host: OrderedDict[EmbeddingKey, Embedding | PackedEmbedding] = OrderedDict()
        self._device_bytes = self._host_bytes = 0
        # Prompts mostly stay on one slice, so its embedding is unpacked once and not for every prompt.
        self._unpacked: tuple[EmbeddingKey, Embedding] | None = None
        self._lock = threading.Lock()

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """The embedding on its encoder's device, now the most recently used; None when it is not here."""
        with self._lock:
            if key in self._device:
                kept = self._device[key]
                self._device.move_to_end(key)
            elif key in self._host:
                kept = self._host.pop(key)
                self._host_bytes -= kept.nbytes
                kept = kept.on_device()
                self._insert(key, kept)
            else:
                self.misses += 1
                return None
            self.hits += 1
            return self._read(key, kept) if self.packs else kept

    def put(self, key: EmbeddingKey, embedding: Embedding) -> Embedding:
        """Keep `embedding` as the most recently used; one larger than the budget is not kept.

        Returns what `get` will return. Where embeddings are packed, the first prompt must not read a more exact one.
        """
        kept = embedding.packed() if self.packs else embedding
        with self._lock:
            self._forget(key)
            self._insert(key, kept)
        return kept.unpacked()

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more would push no embedding out."""
        with self._lock:
            free = self.device_budget + self.host_budget - self._device_bytes - self._host_bytes
            return nbytes <= free

    def indices(self, scope: str, plane: Plane) -> set[int]:
        """The slices of this scope and plane that are here."""
        with self._lock:
            return {
                k.index
                for tier in (self._device, self._host)
                for k in tier
                if (k.scope, k.plane) == (scope, plane)
            }

    @property
    def nbytes(self) -> int:
        """Bytes kept, in both memories."""
        return self._device_bytes + self._host_bytes

    def clear(self) -> None:
        with self._lock:
            self._device.clear()
            self._host.clear()
            self._unpacked = None
            self._device_bytes = self._host_bytes = 0

    def remove(self, keys: Iterable[EmbeddingKey]) -> None:
        with self._lock:
            for key in keys:
                self._forget(key)

    def __len__(self) -> int:
        return len(self._device) + len(self._host)

    def _read(self, key: EmbeddingKey, kept: PackedEmbedding) -> Embedding:
        if self._unpacked is None or self._unpacked[0] != key:
            self._forget_unpacked()
            self._unpacked = key, kept.unpacked()
            self._device_bytes += self._unpacked[1].nbytes
            self._keep_budgets()
        return self._unpacked[1]

    def _insert(self, key: EmbeddingKey, embedding: Embedding | PackedEmbedding) -> None:
        self._device[key] = embedding
        self._device_bytes += embedding.nbytes
        self._keep_budgets()

    def _keep_budgets(self) -> None:
        while self._device and self._device_bytes > self.device_budget:
            key, old = self._device.popitem(last=False)
            self._device_bytes -= old.nbytes
            if old.nbytes > self.host_budget:
                self.evictions += 1
                continue
            self._host[key] = old.on_host()
            self._host_bytes += old.nbytes
            while self._host_bytes > self.host_budget:
                _, oldest = self._host.popitem(last=False)
                self._host_bytes -= oldest.nbytes
                self.evictions += 1

    def _forget(self, key: EmbeddingKey) -> None:
        if old := self._device.pop(key, None):
            self._device_bytes -= old.nbytes
        if old := self._host.pop(key, None):
            self._host_bytes -= old.nbytes
        if self._unpacked and self._unpacked[0] == key:
            self._forget_unpacked()

    def _forget_unpacked(self) -> None:
        if self._unpacked:
            self._device_bytes -= self._unpacked[1].nbytes
            self._unpacked = None


class EmbeddingStore:
    """Embeddings on disk, one safetensors file per slice, so that a damaged file costs one slice alone.

    A file is written beside its place and renamed, so that it is whole or absent. It carries its own key and a digest of
    its tensors, so that a damaged or misplaced file is refused when it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._remove_abandoned()

    def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Write one embedding. Raises CacheError when the disk does not take it."""
        tensors = embedding.as_arrays()
        metadata = {"key": _identity(key), "size": " ".join(map(str, embedding.original_size))}
        metadata["digest"] = digest_of(tensors, metadata)
        path, part = self._path(key), None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=_PART, delete=False) as file:
                part = Path(file.name)
                file.write(save(tensors, metadata))
            os.replace(part, path)
        except OSError as error:
            if part:
                # Else every slice would leave a part on a full disk.
                part.unlink(missing_ok=True)
            raise CacheError(f"The embedding could not be saved to {path}: {error.strerror}.") from error

    def load(self, key: EmbeddingKey, model: SegmentationModel) -> Embedding | None:
        """Read one embedding for its model; None when there is none. Raises CacheError when it is damaged."""
        path = self._path(key)
        if not path.is_file():
            return None
        damaged = CacheError(
            f"The saved embedding {path} is damaged and is encoded anew; delete it to save it again."
        )
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (
            OSError,
            SafetensorError,
            ValueError,
            RuntimeError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            raise damaged from error
        if metadata.get("key") != _identity(key) or metadata.get("digest") != digest_of(tensors, metadata):
            raise damaged
        size = re.fullmatch(r"([1-9][0-9]{0,5}) ([1-9][0-9]{0,5})", metadata.get("size", ""))
        if size is None:
            raise damaged
        height, width = map(int, size.groups())
        try:
            return model.restore(tensors, (height, width))
        except CacheError as error:
            raise damaged from error

    def remove(self, key: EmbeddingKey) -> None:
        """Remove one embedding, if it is here."""
        self._path(key).unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        """Remove what processes that were killed while they wrote have left."""
        for part in self.folder.glob(f"*/*{_PART}"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED_AFTER_S:
                    part.unlink()

    def _path(self, key: EmbeddingKey) -> Path:
        return self.folder / key.scope / f"{key.plane.name.lower()}_{key.index:05d}.safetensors"


class RecentEmbeddings:
    """The embeddings that were asked for last, in files that outlive a process which is killed. Thread-safe.

    folder: made for this user alone; whoever starts the process again removes it in the end. count: how many are kept.
    """

    def __init__(self, folder: Path, count: int = 8) -> None:
        self._folder, self._count = folder, count
        self._store = EmbeddingStore(folder)
        self._kept: OrderedDict[EmbeddingKey, None] = OrderedDict()
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "recent embeddings")

    def note(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """This one was asked for. For every prompt: it returns at once, and many users do not keep it writing."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return
            if time.monotonic() < self._free_at:
                return
            self._free_at = time.monotonic() + _REST_S
            self._kept[key] = None
            oldest = self._kept.popitem(last=False)[0] if len(self._kept) > self._count else None
        self._writer.submit(self._write, key, embedding, oldest)

    def load(self, key: EmbeddingKey, model: SegmentationModel) -> Embedding | None:
        """None where it is not kept."""
        with contextlib.suppress(CacheError):
            return self._store.load(key, model)
        return None

    def _write(self, key: EmbeddingKey, embedding: Embedding, oldest: EmbeddingKey | None) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if oldest:
                self._store.remove(oldest)
            self._store.save(key, embedding)
            # Those that a former process left and nobody has asked for since go first.
            files = sorted(self._folder.glob("*/*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
            for old in files[: -self._count]:
                old.unlink()
        except (CacheError, OSError):
            # Without room or permission nothing is lost but the time to embed it again. There may be room the next
            # time.
            with self._lock:
                self._kept.pop(key, None)


def _identity(key: EmbeddingKey) -> str:
    return f"{_FORMAT} {key.scope} {key.plane.name} {key.index}"


def digest_of(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """32 hexadecimal digits for the tensors of a file and its metadata "key" and "size"."""
    digest = hashlib.blake2b(f"{metadata['key']}|{metadata.get('size')}".encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        named = "" if name == _UNNAMED else f"|{name}"
        digest.update(f"{named}|{tensor.shape}|{tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor))
    return digest.hexdigest()
