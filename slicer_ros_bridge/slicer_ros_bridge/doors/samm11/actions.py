# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the SAMM extension's commands do in the node graph. Runs on the doors' thread; knows neither ROS nor sockets."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.prompts import PixelPrompt, pixel_prompt
from samm_core.sources.volume import LoadedVolume, Window

from ...graph_actions import Done, GraphActions, GraphListener, ModelState
from ...one_shot import OneShotPrompts
from ...volumes import VolumeDescription, VolumeStore
from ...worker import Worker

# The published client gives up after 10 s.
ANSWER_WITHIN_S = 9.0
# A server that is starting refuses at once.
LOAD_AGAIN_S = 1.0


@dataclass(frozen=True, eq=False)
class _Held:
    """A prompt that came while the volume was on its way into the graph."""

    due_at: float
    ask: Callable[[], None]
    done: Done[np.ndarray]


class GraphSammActions(GraphListener):
    """SammActions over GraphActions. Loads the newest volume again into a server that was restarted without it.

    problem: gets the sentences that the protocol has no place for.
    """

    def __init__(
        self, graph: GraphActions, store: VolumeStore, worker: Worker, problem: Callable[[str], None]
    ) -> None:
        self._graph, self._store, self._worker, self._problem = graph, store, worker, problem
        self._prompts = OneShotPrompts(graph, "samm")
        self._voxels: np.ndarray | None = None
        # Of the volume as the graph loaded it last; empty: it did not.
        self._uid = ""
        self._loading = False
        self._newest_load = 0
        self._was_there, self._is_lost, self._load_again_at = False, False, 0.0
        self._embeds_when_loaded = False
        self._held: list[_Held] = []

    def load_volume(self, voxels_kji: np.ndarray) -> None:
        self._voxels, self._is_lost = voxels_kji, False
        self._loading = True
        self._newest_load = number = self._newest_load + 1

        def put() -> Path:
            key = hashlib.blake2b(voxels_kji.data, digest_size=16).hexdigest()
            volume = VolumeDescription(key, "SAMM", voxels_kji.shape, 1, "uint8", np.eye(4))
            return self._store.find(volume) or self._store.put(volume, voxels_kji)

        def load(path: Path | None, why: str) -> None:
            if path is None:
                self._loaded(number, None, why)
                return
            # The extension has windowed its voxels already.
            self._graph.load_volume(
                path, Window(0, 255), lambda volume, why: self._loaded(number, volume, why)
            )

        self._worker.do(put, load)

    def _loaded(self, number: int, volume: LoadedVolume | None, why: str) -> None:
        if number != self._newest_load:
            return
        self._loading = False
        if volume is None:
            self._problem(f"SAMM: {why}")
            self._is_lost, self._load_again_at = True, time.monotonic() + LOAD_AGAIN_S
        self._uid = volume.uid if volume else ""
        self._was_there = self._uid in self._graph.volumes
        if volume and self._embeds_when_loaded:
            self._embed()
        held, self._held = self._held, []
        for prompt in held:
            prompt.ask()

    def on_volumes(self) -> None:
        if self._uid in self._graph.volumes:
            self._was_there, self._is_lost = True, False
        elif self._was_there:
            self._is_lost = True

    def embed_all(self) -> None:
        if self._loading:
            self._embeds_when_loaded = True
        elif self._uid:
            self._embed()

    def _embed(self) -> None:
        self._embeds_when_loaded = False
        self._graph.embed([], self._uid, lambda text, why: None if text else self._problem(why))

    def select_model(self, name: str) -> None:
        def done(model: ModelState | None, why: str) -> None:
            if model is None:
                # The extension has no place for it: the bridge's log and diagnostics have.
                self._problem(f"SAMM asked for the model {name}; the one before it goes on answering. {why}")

        self._graph.select_model(name, done)

    def prompt(self, plane: Plane, index: int, prompt: PixelPrompt, done: Done[np.ndarray]) -> None:
        try:
            prompt = self._for_model(prompt)
        except PromptError as error:
            done(None, str(error))
            return
        due_at = time.monotonic() + ANSWER_WITHIN_S
        if self._is_lost and not self._loading and time.monotonic() >= self._load_again_at:
            self._problem("SAMM: the graph lost the volume; it is being loaded again.")
            self.load_volume(self._voxels)

        def ask() -> None:
            if not self._uid:
                done(None, "No volume is loaded; send one first.")
                return
            marks = pixel_prompt(plane, index, prompt.points_xy, prompt.labels, prompt.box_xyxy)
            self._prompts.ask(self._uid, marks, due_at, done)

        if self._loading:
            self._held.append(_Held(due_at, ask, done))
        else:
            ask()

    def _for_model(self, prompt: PixelPrompt) -> PixelPrompt:
        """The part of a prompt that the model takes; raises PromptError when that is nothing."""
        model = self._graph.model
        if model is None or not model.name:
            return prompt
        points = prompt.points_xy if model.takes_points else np.zeros((0, 2))
        labels = prompt.labels if model.takes_points else []
        box = prompt.box_xyxy if model.takes_box else None
        if box is None and not len(labels):
            kind, other = ("points", "a box") if prompt.box_xyxy is None else ("boxes", "points")
            raise PromptError(
                f"{model.name} takes no {kind}; give {other}, or choose a model that takes them."
            )
        return PixelPrompt(points, labels, box)

    def tick(self) -> None:
        """Ends what waited too long; call some times a second."""
        now = time.monotonic()
        late = [prompt for prompt in self._held if prompt.due_at <= now]
        self._held = [prompt for prompt in self._held if prompt.due_at > now]
        for prompt in late:
            prompt.done(None, "The volume was not loaded in time; see the logs of the graph's nodes.")
        self._prompts.tick()
