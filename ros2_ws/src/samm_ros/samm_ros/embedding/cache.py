# SPDX-License-Identifier: Apache-2.0
"""Where embeddings are kept: in the model's memory, then in host memory, then away; and saved ones on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CacheError
from ..geometry import Plane
from ..volume import Window

if TYPE_CHECKING:
    from ..models.base import Embedding, PackedEmbedding, SegmentationModel

GIB = 1024**3
_FORMAT = "samm-embedding-2"


def scope_of(volume_uid: str, window: Window, fingerprint: str) -> str:
    """Names all embeddings of one volume, window and model by content: 32 hexadecimal digits."""
    text = f"{_FORMAT} {volume_uid} {float(window.lower)!r} {float(window.upper)!r} {fingerprint}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class EmbeddingKey:
    """One embedding: the scope it belongs to (see scope_of), and its slice."""

    scope: str
    plane: Plane
    index: int


class EmbeddingCache:
    """Embeddings within two byte budgets, least recently used out first. Thread-safe.

    device_budget: bytes kept where the encoder left them. What does not fit moves to host memory.
    host_budget: bytes kept there. What does not fit is forgotten. On a CPU both are the same memory: give 0.
    packs: keep them at 8 bits a value, but for the one that was read last.
    """

    def __init__(self, device_budget: int, host_budget: int = 0, packs: bool = False) -> None:
        self.device_budget = device_budget
        self.host_budget = host_budget
        self.packs = packs
        self.hits = self.misses = self.evictions = 0
        self._device: OrderedDict[EmbeddingKey, Embedding | PackedEmbedding] = OrderedDict()
        self._host: OrderedDict[EmbeddingKey, Embedding | PackedEmbedding] = OrderedDict()
        self._device_bytes = self._host_bytes = 0
        # A hand stays on a slice: it is unpacked once, not for every prompt.
        self._unpacked: tuple[EmbeddingKey, Embedding] | None = None
        self._lock = threading.Lock()

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """The embedding, now the most recently used, back where the encoder left it; None when it is not here."""
        with self._lock:
            if key in self._device:
                kept = self._device[key]
                self._device.move_to_end(key)
            elif key in self._host:
                kept = self._host.pop(key)
                self._host_bytes -= kept.nbytes
                kept = kept.restored()
                self._insert(key, kept)
            else:
                self.misses += 1
                return None
            self.hits += 1
            return self._read(key, kept) if self.packs else kept

    def put(self, key: EmbeddingKey, embedding: Embedding) -> Embedding:
        """Keep `embedding` as the most recently used, and give it as `get` will: its first prompt is answered as its last.

        One larger than the budget is not kept at all.
        """
        kept = embedding.packed() if self.packs else embedding
        with self._lock:
            self._forget(key)
            self._insert(key, kept)
        return kept.unpacked()

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more would push nothing out."""
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
        return self._device_bytes + self._host_bytes

    def clear(self) -> None:
        with self._lock:
            self._device.clear()
            self._host.clear()
            self._unpacked = None
            self._device_bytes = self._host_bytes = 0

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
    """Embeddings on disk, one safetensors file a slice: a write cut short or a flipped bit costs that slice alone.

    A file is written beside its place and renamed, so it is whole or absent; it carries a digest of its features and
    its own key, so a damaged or misplaced one is refused when read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Write one embedding; raises CacheError when the disk does not take it."""
        from safetensors.numpy import save

        features = embedding.as_array()
        metadata = {"key": _identity(key), "size": " ".join(map(str, embedding.original_size))}
        metadata["digest"] = _digest(features, metadata)
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                file.write(save({"features": features}, metadata))
            os.replace(file.name, path)
        except OSError as error:
            raise CacheError(f"The embedding could not be saved to {path}: {error.strerror}.") from error

    def load(self, key: EmbeddingKey, model: SegmentationModel) -> Embedding | None:
        """Read one embedding for its model; None when there is none, CacheError when it is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if not path.exists():
            return None
        damaged = CacheError(
            f"The saved embedding {path} is damaged and is encoded anew; delete it to save it again."
        )
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                features = file.get_tensor("features")
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
        if metadata.get("key") != _identity(key) or metadata.get("digest") != _digest(features, metadata):
            raise damaged
        height, width = map(int, metadata["size"].split())
        return model.adopt(features, (height, width))

    def _path(self, key: EmbeddingKey) -> Path:
        return self.folder / key.scope / f"{key.plane.name.lower()}_{key.index:05d}.safetensors"


def _identity(key: EmbeddingKey) -> str:
    return f"{_FORMAT} {key.scope} {key.plane.name} {key.index}"


def _digest(features: np.ndarray, metadata: dict[str, str]) -> str:
    head = f"{metadata['key']}|{metadata.get('size')}|{features.shape}|{features.dtype}"
    digest = hashlib.blake2b(head.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(features))
    return digest.hexdigest()
