# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The seam between a door and the node graph: all that a door may ask of it, and all that it is told. Knows no ROS.

A new door takes a GraphActions, and is a GraphListener where it needs to hear of changes; it needs nothing else of
the graph. Everything here happens on the doors' thread, the one that serves the sockets: a door makes its calls on it,
and gets each `done` and each `on_…` on it. No call waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from samm_core.cycle.request import Answer, ClientPrompt
from samm_core.geometry import Plane
from samm_core.latency.events import TaskEvent
from samm_core.prompts import Prompt
from samm_core.sources.volume import LoadedVolume, Window

# With this begins, in the trace, the node's name of an APL_MSK that a Slicer did itself.
SLICER_NODE = "slicer/"

T = TypeVar("T")
# What was asked for and an empty string, or None and one sentence why there is none. Called exactly once.
Done = Callable[[T | None, str], None]
# Runs a call on the doors' thread, soon; may be called from any thread.
Post = Callable[[Callable[[], None]], None]


@dataclass(frozen=True)
class ModelState:
    """The model that answers prompts. name: empty while none is loaded. device: as "cpu" or "cuda:0"."""

    name: str
    device: str
    takes_points: bool
    takes_box: bool


@dataclass(frozen=True)
class EmbeddingState:
    """How much of the loaded volume is embedded.

    done, total: slices, by plane: axial, coronal, sagittal. runs: by plane, the first and the last of each run of
    slices that are embedded. rate: slices per second, 0 when idle. sweeping: whether an embed() or the background
    sweep is under way. bytes_used: held by the cache of embeddings.
    """

    volume_uid: str
    done: tuple[int, int, int]
    total: tuple[int, int, int]
    rate: float
    sweeping: bool
    bytes_used: int
    runs: tuple[list[tuple[int, int]], ...] = ([], [], [])


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model, a file on the graph's host, as ModelWeights.msg has them. size: bytes; 0: not known."""

    model: str
    file_name: str
    size: int
    here: bool
    fetchable: bool
    page: str


@dataclass(frozen=True)
class WeightsState:
    """The models and whether their weights are there. folder: on the graph's host."""

    folder: str
    models: tuple[ModelWeights, ...]


@dataclass(frozen=True, eq=False)
class PaintedMask:
    """A mask on a slice as a mark of a task. shape: rows, columns. data: encode_mask's bytes of it, BITS_ZLIB."""

    index: int
    shape: tuple[int, int]
    data: bytes


@dataclass(frozen=True)
class TurnedBox:
    """centre_ras: millimetres. size_mm: from face to face along its axes.

    orientation_xyzw: the unit quaternion of these in RAS.
    """

    centre_ras: tuple[float, float, float]
    size_mm: tuple[float, float, float]
    orientation_xyzw: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class VolumeTask:
    """A task over many slices, as SegmentVolume.action has it.

    kind: propagate, box or automatic. client_id: who asks; the graph knows each of its tasks by a name of its own.
    first, last: slices. masks, prompts: of marked slices. frozen: slices that are not written.
    """

    client_id: str
    volume_uid: str
    kind: str
    plane: Plane
    segment: str
    first: int
    last: int
    masks: Sequence[PaintedMask] = ()
    prompts: Sequence[Prompt] = ()
    box: TurnedBox | None = None
    frozen: Sequence[int] = ()


@dataclass(frozen=True)
class TaskProgress:
    """answer: the newest mask; None: progress alone.

    done: slices with a mask, or prompts of `automatic`. total: 0: not known.
    """

    answer: Answer | None
    done: int
    total: int


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended. message: why without success; what was done by then stays. stopped: why each side stopped.

    slices: with a mask.
    """

    success: bool
    message: str
    stopped: tuple[str, ...]
    slices: int
    seconds: float


@dataclass(frozen=True)
class SegmentEdit:
    """A change of one segment of the graph's segmentation. kind: rename, recolor or remove. color: 0 to 1."""

    kind: str
    segment: str
    new_name: str = ""
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class StreamTrack:
    """An object of the live stream, as Track.msg has it. state: of ipp.TRACK_STATES. area: pixels."""

    name: str
    label: int
    state: str
    cause: str
    age_s: float
    score: float
    area: int
    error: str


@dataclass(frozen=True, eq=False)
class StreamImage:
    """An image of the live stream and the objects in it, as Tracks.msg has them. stamp_ns: the image's own time.

    decode: the image's pixels, (H, W) or (H, W, 3) RGB, uint8, and the labels of the objects, (H, W) uint8; it takes a
    moment, and raises FrameError for what cannot be read. Only one thread at a time may call that of any image.
    """

    number: int
    stamp_ns: int
    tracks: tuple[StreamTrack, ...]
    stale: bool
    error: str
    decode: Callable[[], tuple[np.ndarray, np.ndarray]]


class GraphListener:
    """Is told what changes in the node graph; override what is of interest."""

    def on_volumes(self) -> None:
        """Another volume is loaded or another window set, or the graph has lost or let go of volumes."""

    def on_model(self, model: ModelState) -> None:
        """Another model answers from now on."""

    def on_embedding(self, embedding: EmbeddingState) -> None:
        """More is embedded than before."""

    def on_weights(self, weights: WeightsState) -> None:
        """Weights have come, or are gone."""

    def on_event(self, event: TaskEvent) -> None:
        """A task of some client's cycle has ended."""


class GraphActions(Protocol):
    """The node graph as a door sees it: the newest that was heard.

    volumes: all that the graph holds, by uid, the one that was loaded last first. server: which start of the server
    that is; empty: none was heard of. model, embedding, weights: None before the first.
    """

    volumes: dict[str, LoadedVolume]
    server: str
    model: ModelState | None
    embedding: EmbeddingState | None
    weights: WeightsState | None

    def listen(self, listener: GraphListener) -> None:
        """Tell `listener` of every change from now on."""

    def load_volume(self, path: Path, window: Window | None, done: Done[LoadedVolume]) -> None:
        """Load a file of the VolumeStore beside what other clients loaded. window: None: chosen from the voxels."""

    def select_model(self, name: str, done: Done[ModelState]) -> None:
        """Answer prompts with another model, for all clients."""

    def fetch_weights(
        self, name: str, owner: str, on_progress: Callable[[int, int], None], done: Done[str]
    ) -> None:
        """Download a model's weights to the graph's host.

        on_progress gets bytes done and in all; done gets a sentence.
        """

    def cancel_fetch(self, owner: str) -> None:
        """End the downloads that `owner` asked for early; each `done` is still to come."""

    def prompt(
        self,
        prompt: ClientPrompt,
        on_answer: Callable[[Answer], None],
        picture: np.ndarray | None = None,
    ) -> int:
        """Ask for a mask, instead of any older prompt of the same client; the number of the cycle.

        picture: (H, W) uint8, or (H, W, 3) uint8 RGB, of which prompt.image.source is the uid: it goes with the prompt
        where the graph does not hold it.

        The prompt is sent again until it is answered. on_answer may come for older prompts of the client too, and a
        second time for one that APL_MSK refuses after its mask was sent.
        """

    def forget(self, client_id: str) -> None:
        """Nobody waits for this client's answers any more."""

    def embed(self, planes: Sequence[int], volume_uid: str, done: Done[str]) -> None:
        """Embed whole planes, without any: all, of the volume that was loaded last, which this must be.

        done comes when that has ended, with a sentence of how it went.
        """

    def cancel_embed(self) -> None:
        """End the newest embed() early."""

    def segment_volume(
        self, task: VolumeTask, on_progress: Callable[[TaskProgress], None], done: Done[TaskEnd]
    ) -> None:
        """Segment many slices; all of it is one step of undo. A client has one task at a time.

        done comes after the last mask.
        """

    def cancel_volume(self, client_id: str) -> None:
        """End this client's task early, if there is one; its `done` is still to come."""

    def edit_segment(self, edit: SegmentEdit, owner: str, volume_uid: str, done: Done[str]) -> None:
        """Change a segment of a volume's segmentation in the graph: a step of undo, which is `owner`'s."""

    def undo(self, client_ids: Collection[str], volume_uid: str, done: Done[str]) -> None:
        """Take back the newest step on a volume in the graph, if it is by one of these; undo.py has the rule."""

    def redo(self, volume_uid: str, done: Done[str]) -> None:
        """Make the step on a volume again that was taken back last."""

    def save(self, path: Path, volume_uid: str, done: Done[str]) -> None:
        """Write the graph's segmentation of a volume to a file, whose path is what done gets."""

    def watch_stream(self, on_image: Callable[[StreamImage], None] | None) -> None:
        """Hear of each image of the live stream from now on; None: of none, and the stream costs nothing then."""

    def mark_track(self, prompt: ClientPrompt, stamp_ns: int, done: Done[str]) -> None:
        """Mark an object, the prompt's segment, on the stream's image of that stamp; 0: the newest.

        prompt: in its pixels.
        """

    def rename_track(self, name: str, new_name: str, done: Done[str]) -> None:
        """Call an object of the live stream otherwise."""

    def remove_track(self, name: str, done: Done[str]) -> None:
        """Follow an object of the live stream no longer; empty: none."""

    def publish_event(self, event: TaskEvent) -> None:
        """Add a task to the trace, for a client that cannot: stamps are of this host's CLOCK_MONOTONIC, nanoseconds."""
