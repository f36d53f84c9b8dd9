# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Keyframes of a live stream: one frame at a time is encoded, and the tracker's objects are decoded on it.

There is never a queue: the next keyframe is chosen when the one before is answered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future

import cv2
import numpy as np

from ..embedding.engine import EncodedSlice
from ..errors import PromptError, SammError
from ..tasks.propagation import dice, prompts_around
from ..tasks.slices import decode_all
from .frames import Frame
from .tracker import Found, KeyframeJob, Target, Tracker

# How far a mask's border goes from where flow carried it to where the decoder sees it. A decoder that is given the box
# around its own last mask loses a little each time: with 1, Dice over ten seconds is 0.64; from 0.2 to 0.5 it is 0.86.
DECODERS_SHARE = 0.2
# After a keyframe that failed, such as for a model that is still loading.
RETRY_S = 0.5

logger = logging.getLogger(__name__)


def look(encoded: EncodedSlice, targets: Sequence[Target]) -> list[Found]:
    """What an encoded frame shows of each target. Nothing is raised for a target that cannot be decoded: it has an error."""
    return [_look(encoded, target) for target in targets]


def _look(encoded: EncodedSlice, target: Target) -> Found:
    try:
        if target.prompt is not None:
            (result,) = decode_all(encoded, [target.prompt])
            return Found(target, result.mask, result.score, 1.0)
        results = decode_all(encoded, prompts_around(target.expected, encoded.model))
    except PromptError as error:
        return Found(target, error=str(error))
    if not results:
        return Found(target)
    decoded = np.any([result.mask for result in results], axis=0)
    score = min(result.score for result in results)
    agreement = dice(decoded, target.expected)
    return Found(target, between(target.expected, decoded, DECODERS_SHARE), score, agreement)


def between(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """The mask whose border lies between those of two masks, (H, W) bool: at `one` for a share of 0, at `other` for 1."""
    if not (one.any() and other.any()):
        return one if share < 0.5 else other
    union = (one | other).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(union)
    x0, y0 = max(x - 1, 0), max(y - 1, 0)
    window = slice(y0, y + height + 1), slice(x0, x + width + 1)
    result = np.zeros_like(one)
    result[window] = (1 - share) * _depth(one[window]) + share * _depth(other[window]) > 0
    return result


def _depth(mask: np.ndarray) -> np.ndarray:
    """Pixels from the border, (H, W) float32: positive in the mask, negative around it."""
    inside = mask.astype(np.uint8)
    return cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)


class KeyframeLoop:
    """Encodes and decodes a tracker's keyframes, one after the other, in a thread of its own.

    embed: gives a frame's embedding, such as an engine's request does; called in this thread.
    on_keyframe: called in this thread after each keyframe, answered or not, with its job.
    """

    def __init__(
        self,
        tracker: Tracker,
        embed: Callable[[Frame], Future[EncodedSlice]],
        on_keyframe: Callable[[KeyframeJob], None] = lambda job: None,
    ) -> None:
        self._tracker, self._embed, self._on_keyframe = tracker, embed, on_keyframe
        self._under_way: Future[EncodedSlice] | None = None
        self._woken = self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="keyframes", daemon=True)
        self._thread.start()
        tracker.listen(self._on_work)

    def close(self) -> None:
        """End the thread. An embedding that is waited for is cancelled; a mask under way is finished."""
        with self._wake:
            self._closed = True
            future = self._under_way
            self._wake.notify()
        if future:
            future.cancel()
        self._thread.join()

    def _on_work(self) -> None:
        with self._wake:
            self._woken = True
            self._wake.notify()

    def _run(self) -> None:
        failed = False
        while True:
            with self._wake:
                if failed:
                    self._wake.wait_for(lambda: self._closed, RETRY_S)
                self._wake.wait_for(lambda: self._woken or self._closed)
                if self._closed:
                    return
                self._woken = failed = False
            while not (failed or self._closed) and (job := self._tracker.job()):
                failed = not self._answered(job)

    def _answered(self, job: KeyframeJob) -> bool:
        """Whether the keyframe was encoded; the tracker is told why not."""
        error = ""
        try:
            future = self._embed(job.frame)
            with self._wake:
                self._under_way = future
                closed = self._closed
            if closed:
                future.cancel()
            encoded = future.result()
            self._tracker.answer(job, look(encoded, self._tracker.targets(job)))
        except CancelledError:
            error = "The stream was closed before the mark was answered."
        except SammError as failure:
            error = str(failure)
        except Exception as failure:
            # The loop must outlive whatever one frame does.
            logger.error("Keyframe %d failed", job.number, exc_info=failure)
            error = f"The keyframe could not be computed: {failure}"
        finally:
            self._under_way = None
        if error:
            self._tracker.answer(job, error=error)
        self._on_keyframe(job)
        return not error
