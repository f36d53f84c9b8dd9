# SPDX-License-Identifier: Apache-2.0
"""What a SAMM session needs of the graph: GraphActions over the bridge's link and prompts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from samm_ros.cycle import Answer
from samm_ros.errors import SammError
from samm_ros.geometry import Plane
from samm_ros.mask_codec import decode_mask
from samm_ros.nodes.wire import LoadedVolume
from samm_ros.prompts import PixelPrompt, Prompt
from samm_ros.volume import Window

from .graph_link import GraphLink
from .pending import Asked, PendingPrompts
from .volumes import VolumeDescription, VolumeStore

# The published client gives up after 10 s.
ANSWER_WITHIN_S = 9.5
# Requests of several clients at once, each under a name of its own: one must not supersede another.
NAMES = tuple(f"samm/{number}" for number in range(16))

MaskDone = Callable[["np.ndarray | None", str], None]


@dataclass
class _Waiting:
    due_at: float
    done: MaskDone


class SammGraph:
    """GraphActions of the SAMM session; each call on the sockets' thread, and each `done` too."""

    def __init__(
        self,
        graph: GraphLink,
        store: VolumeStore,
        pending: PendingPrompts,
        post: Callable[[Callable[[], None]], None],
        work: Executor,
        problem: Callable[[str], None],
    ) -> None:
        self._graph, self._store, self._pending = graph, store, pending
        self._post, self._work, self._problem = post, work, problem
        self._uid = ""
        # Prompts that came while the volume was on its way into the graph.
        self._loading = False
        self._newest_load = 0
        self._embeds = False
        self._held: list[tuple[float, Callable[[], None], MaskDone]] = []
        self._waiting: dict[str, _Waiting] = {}

    def load_volume(self, voxels_kji: np.ndarray) -> None:
        self._loading = True
        self._newest_load = number = self._newest_load + 1

        def put() -> None:
            key = hashlib.blake2b(voxels_kji.data, digest_size=16).hexdigest()
            try:
                volume = VolumeDescription(key, "SAMM", voxels_kji.shape, 1, "uint8", np.eye(4))
                path = self._store.find(volume) or self._store.put(volume, voxels_kji)
            except SammError as error:
                self._post(lambda error=error: self._loaded(number, None, str(error)))
                return
            # The extension has windowed its voxels already.
            window = Window(0, 255)
            self._graph.load_volume(
                path, window, lambda v, why: self._post(lambda: self._loaded(number, v, why))
            )

        self._work.submit(put)

    def _loaded(self, number: int, volume: LoadedVolume | None, why: str) -> None:
        if number != self._newest_load:
            return
        self._loading = False
        if volume is None:
            self._problem(why)
        self._uid = volume.uid if volume else ""
        if volume and self._embeds:
            self._embed()
        held, self._held = self._held, []
        for _, ask, _ in held:
            ask()

    def embed_all(self) -> None:
        if self._loading:
            self._embeds = True
        elif self._uid:
            self._embed()

    def _embed(self) -> None:
        self._embeds = False
        self._graph.embed([], lambda text, why: None if text else self._problem(why))

    def select_model(self, name: str) -> None:
        self._graph.select_model(name, lambda model, why: None if model else self._problem(why))

    def prompt(self, plane: Plane, index: int, prompt: PixelPrompt, done: MaskDone) -> None:
        due_at = time.monotonic() + ANSWER_WITHIN_S
        if self._loading:
            self._held.append((due_at, lambda: self._ask(plane, index, prompt, done, due_at), done))
        else:
            self._ask(plane, index, prompt, done, due_at)

    def tick(self) -> None:
        """Call some times a second: ends what waited too long."""
        now = time.monotonic()
        late = [entry for entry in self._held if entry[0] <= now]
        self._held = [entry for entry in self._held if entry[0] > now]
        for _, _, done in late:
            done(None, "The volume was not loaded in time; see the logs of the graph's nodes.")
        for name in [name for name, waiting in self._waiting.items() if waiting.due_at <= now]:
            self._pending.forget(name)
            self._waiting.pop(name).done(None, "The graph gave no mask in time; see the logs of its nodes.")

    def _ask(self, plane: Plane, index: int, prompt: PixelPrompt, done: MaskDone, due_at: float) -> None:
        if not self._uid:
            done(None, "No volume is loaded; send one first.")
            return
        name = next((name for name in NAMES if name not in self._waiting), None)
        if name is None:
            done(None, f"{len(NAMES)} prompts are being answered already; wait for one.")
            return
        self._waiting[name] = _Waiting(due_at, done)
        asked = Asked(name, self._uid, "", _as_prompt(plane, index, prompt))
        self._pending.ask(asked, lambda answer: self._answered(name, answer))

    def _answered(self, name: str, answer: Answer) -> None:
        waiting = self._waiting.pop(name, None)
        if waiting is None:
            return
        self._pending.forget(name)
        if answer.error:
            waiting.done(None, answer.error)
        else:
            waiting.done(decode_mask(answer.data, answer.shape, answer.encoding), "")


def _as_prompt(plane: Plane, index: int, prompt: PixelPrompt) -> Prompt:
    def with_z(points_xy: Any) -> np.ndarray:
        points = np.asarray(points_xy, np.float64).reshape(-1, 2)
        return np.hstack([points, np.zeros((len(points), 1))])

    box = None if prompt.box_xyxy is None else with_z(prompt.box_xyxy)
    return Prompt(plane, index, False, with_z(prompt.points_xy), prompt.labels, box)
