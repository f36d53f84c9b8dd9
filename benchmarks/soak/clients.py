# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Clients that work on a graph: one by ROS, one as 3D Slicer does. Each prompts over and over, and checks its masks."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from SlicerIPPLib.client import IppClient
from SlicerIPPLib.client_events import BridgeState, MaskReceived, MessageReceived, StateChanged

from samm_core.cycle.request import STILL_WAITING
from samm_core.errors import LaunchError, PromptError, SammError
from samm_core.geometry import Plane
from samm_core.models.parity import dice_of
from samm_core.prompts import pixel_box
from samm_ros.client import GraphClient

from .graph import Graph

Box = tuple[float, float, float, float]

# Of an axial slice of the MNI brain, each of another size; moved aside by a few pixels in a drag.
_BOX: Box = (70.0, 80.0, 130.0, 140.0)
_VARIANTS = 4
_ANSWER_S = 300.0
# A mask that is not applied by then went with the process that should have, and its prompt is given anew.
_APPLIED_S = 1.0
# Of two equal prompts. The encoder adds up in another order where it has another number of cores.
SAME_DICE = 0.998


@dataclass
class Reference:
    """The first mask of each prompt, which each later one has to equal. Thread-safe."""

    masks: dict[tuple[int, Box], np.ndarray] = field(default_factory=dict)
    equal: int = 0
    alike: int = 0
    wrong: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, index: int, box: Box, mask: np.ndarray) -> None:
        with self._lock:
            first = self.masks.setdefault((index, box), mask)
            if (first == mask).all():
                self.equal += 1
            elif dice_of(first, mask) >= SAME_DICE:
                self.alike += 1
            else:
                self.wrong += 1


@contextlib.contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[threading.Thread]:
    """`work` runs on a thread meanwhile. It returns soon after the event is set that it is called with."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join()


class Worker(ABC):
    """Prompts on slices of its own, one prompt at a time, until it is left; a context manager.

    name: also of its client in the graph, and of its segment. done: when each answered prompt began and ended,
    CLOCK_MONOTONIC, seconds. applied: the newest mask of each slice of which the graph has said that it is applied.
    turn: hold it to make the worker rest between two prompts.
    """

    def __init__(
        self, graph: Graph, name: str, slices: Sequence[int], reference: Reference, pause_s: float = 0.05
    ) -> None:
        self.graph = graph
        self.name = name
        self.done: list[tuple[float, float]] = []
        self.applied: dict[int, np.ndarray] = {}
        self.problems: list[str] = []
        self.turn = threading.Lock()
        self._slices = slices
        self._reference = reference
        self._pause_s = pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._chance = random.Random(name)

    def __enter__(self) -> Worker:
        self.begin()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.end()

    def begin(self) -> None:  # noqa: B027
        """Connect."""

    def end(self) -> None:  # noqa: B027
        """Disconnect."""

    @abstractmethod
    def mask_of(self, index: int, box: Box) -> tuple[np.ndarray, int]:
        """Prompt and wait: (rows, columns) bool, and the cycle. Raises SammError."""

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def has_answer_since(self, began: float) -> bool:
        """Whether a prompt that began after that, CLOCK_MONOTONIC, is answered."""
        return any(start >= began for start, _ in reversed(self.done[-3:]))

    def _run(self) -> None:
        while not self._over.wait(self._pause_s):
            with self.turn:
                index, box = self._chance.choice(self._slices), self._next_box()
                began = time.monotonic()
                # From here on the slice shows one or the other, until the graph says which.
                self.applied.pop(index, None)
                try:
                    mask, cycle = self.mask_of(index, box)
                except SammError as error:
                    if not self.is_over:
                        self.problems.append(str(error))
                    continue
                self._reference.check(index, box, mask)
                if self._is_applied(cycle):
                    self.applied[index] = mask
                    self.done.append((began, time.monotonic()))

    def _is_applied(self, cycle: int) -> bool:
        """Whether the graph says so in time."""

        def settled() -> bool:
            told = self.graph.client.segmentation
            return any(
                c.client_id == self.name and c.settled >= cycle for c in (told.clients if told else [])
            )

        try:
            self.graph.client.wait_for(settled, "the mask to be applied", _APPLIED_S)
        except LaunchError:
            return False
        return True

    def _next_box(self) -> Box:
        shift = 2.0 * self._chance.randrange(_VARIANTS)
        return tuple(each + shift for each in _BOX)


class RosWorker(Worker):
    """By the Python API."""

    def begin(self) -> None:
        self._client = GraphClient(self.graph.namespace, self.name, self._check)
        self._client.volume = self.graph.client.volume

    def end(self) -> None:
        self._client.__exit__()

    def mask_of(self, index: int, box: Box) -> tuple[np.ndarray, int]:
        prompt = pixel_box(Plane.AXIAL, index, *box)
        answer = self._client.prompt(prompt, self.name, timeout_s=_ANSWER_S)
        return answer.mask, answer.cycle

    def _check(self) -> None:
        self.graph.supervisor.check()
        if self.is_over:
            raise LaunchError("The run is over.")


class SlicerWorker(Worker):
    """By IPP/2, with the client of the extension for 3D Slicer.

    connected: when it was connected each time, CLOCK_MONOTONIC, seconds.
    """

    def begin(self) -> None:
        self.connected: list[float] = []
        self._numbers = itertools.count(time.time_ns() // 1000)
        # The graph's client may load another volume meanwhile.
        self._uid = self.graph.client.volume.uid
        self._woken = threading.Event()
        self.connect()

    def connect(self) -> None:
        address = f"tcp://127.0.0.1:{self.graph.port}"
        self._client = IppClient(address, self.name, "", self._woken.set)

    def end(self) -> None:
        self._client.close()

    def reconnect(self) -> float:
        """Leave and come again, as a Slicer that is started anew does, between two prompts; seconds until it is welcome."""
        with self.turn:
            self._client.close()
            before, began = len(self.connected), time.monotonic()
            self.connect()
            while len(self.connected) == before:
                self._take(began)
            return self.connected[-1] - began

    def mask_of(self, index: int, box: Box) -> tuple[np.ndarray, int]:
        number, began = next(self._numbers), time.monotonic()
        self._client.prompt(
            number=number,
            stream=0,
            uid=self._uid,
            plane=int(Plane.AXIAL),
            index=index,
            segment=self.name,
            points_xy=[],
            labels=[],
            box_xyxy=list(box),
        )
        while True:
            for event in self._take(began):
                if isinstance(event, MaskReceived) and event.message["number"] == number:
                    return event.mask, event.message["cycle"]
                if isinstance(event, MessageReceived) and event.message.get("number") == number:
                    why = event.message["message"]
                    # Else its mask may come yet.
                    if not why.startswith(STILL_WAITING):
                        raise PromptError(why)

    def _take(self, began: float) -> list:
        """What has come. Raises LaunchError when it has waited too long, or is over."""
        self._woken.wait(0.5)
        self._woken.clear()
        events = self._client.take()
        for event in events:
            if isinstance(event, StateChanged) and event.state == BridgeState.CONNECTED:
                self.connected.append(time.monotonic())
        if self.is_over or time.monotonic() - began > _ANSWER_S:
            raise LaunchError("The bridge gave no answer in time.")
        return events
