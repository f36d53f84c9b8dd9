# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""One live stream without ROS: images come in, the objects that are followed come out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from ..embedding.engine import EncodedSlice
from ..errors import PromptError
from ..prompts import PixelPrompt, Prompt
from .frames import Frame, FrameRing
from .keyframes import KeyframeLoop
from .tracker import KeyframeJob, Tracked, Tracker
from .view import StreamView

# Embeddings that are kept: of the newest keyframes, on which prompts follow each other.
KEPT_EMBEDDINGS = 4
# Images that are further apart show other things: nothing is carried over such a pause.
PAUSE_NS = 2_000_000_000

Embed = Callable[[np.ndarray], "Future[EncodedSlice]"]


@dataclass(frozen=True, eq=False)
class Followed:
    """What is followed at one image of the stream.

    frame: the image as it is encoded. shape: rows and columns of the image as it came. tracked: the objects at it; their
    masks are of the frame's size.
    """

    frame: Frame
    shape: tuple[int, int]
    tracked: list[Tracked]


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame that the model saw, and when: nanoseconds of CLOCK_MONOTONIC.

    picked_ns: it was chosen. embedded_ns: its embedding was there; 0: it could not be had. answered_ns: its masks were there.
    hit: its embedding was kept from an earlier prompt on it.
    """

    frame: Frame
    picked_ns: int
    embedded_ns: int
    answered_ns: int
    hit: bool


class StreamSession:
    """The frames of one stream and the objects in it. Thread-safe; a thread of its own decodes keyframes.

    embed: the embedding of an image, (H, W, 3) uint8, such as EmbeddingEngine.encode. view: what of an image is encoded.
    on_keyframe: called from that thread with each keyframe that was decoded.
    """

    def __init__(
        self,
        embed: Embed,
        view: StreamView | None = None,
        on_keyframe: Callable[[Keyframe], None] = lambda keyframe: None,
    ) -> None:
        self.view = view or StreamView()
        self.tracker = Tracker()
        self._ring = FrameRing()
        self._embed_image = embed
        self._embeddings: OrderedDict[int, Future[EncodedSlice]] = OrderedDict()
        self._count = 0
        self._kind: tuple[tuple[int, ...], np.dtype] | None = None
        self._lock = threading.RLock()
        self._on_keyframe = on_keyframe
        # Of the keyframe under way; its thread alone uses them, and the embeddings.
        self._embedding: Future[EncodedSlice] | None = None
        self._picked_ns = self._embedded_ns = 0
        self._hit = False
        self._keyframes = KeyframeLoop(self.tracker, self._embed, self._on_answered)

    def take(self, image: np.ndarray, stamp_ns: int, received_ns: int) -> Followed:
        """Carry all objects to the newest image. Call it in the order of the images, from one thread at a time.

        image: (H, W) or (H, W, 3) RGB, uint8 or uint16. stamp_ns: its own time. received_ns: of CLOCK_MONOTONIC.
        """
        with self._lock:
            pixels = self.view.prepare(image)
            # Without a stamp, the time of arrival is the best there is.
            stamp_ns = stamp_ns or received_ns
            if cause := self._break(image, pixels, stamp_ns):
                self.tracker.lose_all(cause)
                self._ring.clear()
            self._kind = image.shape, image.dtype
            self._count += 1
            frame = Frame(self._count, stamp_ns, received_ns, pixels)
            self._ring.put(frame)
        return Followed(frame, image.shape[:2], self.tracker.step(frame))

    def prompt(
        self, name: str, prompt: Prompt, stamp_ns: int = 0, client_id: str = "", cycle: int = 0
    ) -> None:
        """Mark an object of the image that has this stamp; 0: of the newest. A name that is there is corrected.

        prompt: in pixels of the image as it came. Raises PromptError.
        """
        with self._lock:
            frame = self._ring.at(stamp_ns)
            if frame is None:
                raise PromptError(
                    f"The image of {stamp_ns / 1e9:.3f} s is no longer kept; mark a newer one."
                    if self._count
                    else "There is no image to mark yet; start the stream."
                )
            self.tracker.prompt(name, self._in_view(prompt), frame, client_id, cycle)

    def remove(self, name: str) -> None:
        """Follow an object no longer; empty: none. Raises PromptError for an unknown name."""
        for each in [name] if name else self.tracker.names:
            self.tracker.remove(each)

    def close(self) -> None:
        """End the thread after the keyframe under way."""
        self._keyframes.close()

    def _break(self, image: np.ndarray, pixels: np.ndarray, stamp_ns: int) -> str:
        """Why nothing can be carried to this image from the last, one sentence; empty: it can, or the tracker says why not."""
        last = self._ring.newest
        if last is None or self._kind is None:
            return ""
        if (image.shape, image.dtype) != self._kind:
            return f"The images changed from {_size(*self._kind)} to {_size(image.shape, image.dtype)}; mark again."
        if pixels.shape[:2] != last.shape:
            return f"{self.view.found} Mark again."
        if stamp_ns - last.stamp_ns > PAUSE_NS:
            return f"No image came for {(stamp_ns - last.stamp_ns) / 1e9:.1f} s; mark again."
        return ""

    def _in_view(self, prompt: Prompt) -> PixelPrompt:
        pixels = prompt.in_pixels()
        box = None
        if pixels.box_xyxy is not None:
            corners = self.view.to_view(pixels.box_xyxy.reshape(2, 2))
            box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        return replace(pixels, points_xy=self.view.to_view(pixels.points_xy), box_xyxy=box)

    def _embed(self, frame: Frame) -> Future[EncodedSlice]:
        self._picked_ns, self._embedded_ns = time.monotonic_ns(), 0
        future = self._embeddings.get(frame.number)
        self._hit = future is not None
        if future is None:
            future = self._embedding = self._embed_image(frame.image)
            future.add_done_callback(self._on_embedded)
        return future

    def _on_embedded(self, future: Future[EncodedSlice]) -> None:
        self._embedded_ns = time.monotonic_ns()

    def _on_answered(self, job: KeyframeJob) -> None:
        answered_ns, embedding = time.monotonic_ns(), self._embedding
        if self._hit:
            self._embeddings.move_to_end(job.frame.number)
            self._embedded_ns = self._picked_ns
        elif embedding is None or embedding.cancelled() or embedding.exception():
            self._embedded_ns = 0
        else:
            self._embeddings[job.frame.number] = embedding
            if len(self._embeddings) > KEPT_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._on_keyframe(Keyframe(job.frame, self._picked_ns, self._embedded_ns, answered_ns, self._hit))


def _size(shape: tuple[int, ...], dtype: np.dtype) -> str:
    kind = "colour" if len(shape) == 3 else "grey"
    return f"{shape[1]}×{shape[0]} {kind} of {8 * dtype.itemsize} bits"
