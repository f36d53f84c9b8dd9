# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The slices of one plane of a volume, with embeddings that are asked for ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from ..embedding.engine import EncodedSlice
from ..errors import PromptError
from ..geometry import Plane
from ..prompts import PixelPrompt
from ..sources.base import ImageId, SliceKey
from ..sources.volume import Volume

if TYPE_CHECKING:
    from ..models.base import Embedding, MaskResult, SegmentationModel


class PlaneSlices:
    """One plane's slices: their images, their embeddings and the masks of prompts on them. For one thread."""

    def __init__(
        self,
        volume: Volume,
        plane: Plane,
        model: SegmentationModel,
        embed: Callable[[ImageId], Future[EncodedSlice]],
        make_way: Callable[[], None] | None = None,
    ) -> None:
        """model: says which prompts are taken; masks are decoded by the model that made the embedding.

        embed: such as EmbeddingEngine.request. It is called in this thread.

        make_way: called before each prompt is decoded; it returns when nobody else needs the decoder.
        """
        self.volume, self.plane, self.model = volume, plane, model
        self._embed, self._make_way = embed, make_way
        self._asked: dict[int, Future[EncodedSlice]] = {}

    @property
    def count(self) -> int:
        return self.volume.geometry.slice_count(self.plane)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of each slice."""
        return self.volume.geometry.slice_shape(self.plane)

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self.volume.image(SliceKey(self.plane, index))

    def ask(self, indices: Iterable[int]) -> None:
        """Have these slices embedded, the first one first; those that the volume lacks are left out."""
        for index in indices:
            if 0 <= index < self.count and index not in self._asked:
                self._asked[index] = self._embed(ImageId(self.volume.uid, SliceKey(self.plane, index)))

    def encoded(self, index: int) -> EncodedSlice:
        """The slice's embedding; waits for it. Raises what the future raises: a SammError."""
        self.ask([index])
        # It is not held here: the cache decides how many embeddings stay in memory.
        encoded = self._asked.pop(index).result()
        if self._make_way is None:
            return encoded
        return EncodedSlice(encoded.embedding, _Patient(encoded.model, self._make_way))

    def decode(self, index: int, prompt: PixelPrompt) -> MaskResult:
        """The mask of a prompt on one slice. Raises PromptError for one that lies outside it or is not taken."""
        return decode_all(self.encoded(index), [prompt])[0]

    def close(self) -> None:
        """Wait no longer for what was asked for."""
        for future in self._asked.values():
            future.cancel()
        self._asked.clear()

    def check_index(self, index: int, what: str) -> None:
        """Raises PromptError unless the plane has the slice. what: "The mark", for the sentence."""
        if not 0 <= index < self.count:
            raise PromptError(
                f"{what} is on {self.plane.name.lower()} slice {index}; {self.volume.name} has slices 0 to {self.count - 1} in that plane."
            )


def decode_all(encoded: EncodedSlice, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
    """The masks of several prompts on one slice. Raises PromptError for one that lies outside it or is not taken."""
    rows, columns = encoded.embedding.original_size
    for prompt in prompts:
        if outside := prompt.outside(rows, columns):
            raise PromptError(f"{outside} the slice of {columns}x{rows} pixels; move it inside.")
    return encoded.model.decode_all(encoded.embedding, prompts)


class _Patient:
    """A model that makes way before each prompt; the rest is the model's own."""

    def __init__(self, model: SegmentationModel, make_way: Callable[[], None]) -> None:
        self._model, self._make_way = model, make_way

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode_all(self, embedding: Embedding, prompts: Sequence[PixelPrompt]) -> list[MaskResult]:
        if self._model.decodes_in_batch:
            self._make_way()
            return self._model.decode_all(embedding, prompts)
        results = []
        for prompt in prompts:
            self._make_way()
            results += self._model.decode_all(embedding, [prompt])
        return results
