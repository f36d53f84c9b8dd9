# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the logic knows, in one place: of the bridge, the graph, the volume, and what was done last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from samm_core import ipp
from samm_core.geometry import Plane, VolumeGeometry

from .client_events import BridgeState
from .i18n import tr as _
from .nodes import VoxelStamp

if TYPE_CHECKING:
    import slicer

LOW_CONFIDENCE = 0.7
# The connection in words.
BRIDGE_TEXTS = {
    BridgeState.DISCONNECTED: _("not connected"),
    BridgeState.CONNECTING: _("connecting …"),
    BridgeState.CONNECTED: _("connected"),
    BridgeState.LOST: _("lost; looking for it …"),
}


@dataclass(frozen=True)
class Model:
    """The model that the graph runs."""

    name: str
    device: str
    takes_points: bool
    takes_box: bool

    @classmethod
    def from_message(cls, message: ipp.Message) -> Model:
        return cls(message["name"], message["device"], message["takes_points"], message["takes_box"])


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model on the graph's computer. size: bytes; 0: not known, or they come with samm_ros.

    is_fetchable: they can be downloaded; else `page` says how to get them by hand.
    """

    model: str
    file_name: str
    size: int
    is_here: bool
    is_fetchable: bool
    page: str

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ModelWeights:
        """record: of the message `weights`."""
        names = ("model", "file_name", "size", "here", "fetchable", "page")
        return cls(*(record[name] for name in names))


@dataclass(frozen=True)
class EmbeddingProgress:
    """done, total: slices, of all planes. rate: slices per second. sweeping: the graph embeds slices ahead now.

    uid: of the volume. runs: by the graph's plane, the first and the last of each run of slices that are embedded; empty
    where the bridge is older.
    """

    done: int
    total: int
    rate: float
    sweeping: bool
    uid: str
    runs: list[list[list[int]]]

    @classmethod
    def from_message(cls, message: ipp.Message) -> EmbeddingProgress:
        return cls(
            sum(message["done"]),
            sum(message["total"]),
            message["rate"],
            message["sweeping"],
            message["uid"],
            message.get("runs", [[], [], []]),
        )


@dataclass(frozen=True)
class GraphVolume:
    """The volume that the graph has. geometry: as the graph knows it, without Slicer's transforms."""

    uid: str
    geometry: VolumeGeometry
    window: tuple[float, float]
    warnings: tuple[str, ...]

    @classmethod
    def from_message(cls, message: ipp.Message) -> GraphVolume | None:
        """None when the graph has no volume. Raises VolumeError for a placement that is none."""
        if not message["uid"]:
            return None
        lower, upper = message["window"]
        ijk_to_ras = np.array(message["ijk_to_ras"], np.float64).reshape(4, 4)
        geometry = VolumeGeometry(tuple(message["dimensions"]), ijk_to_ras)
        return cls(message["uid"], geometry, (lower, upper), tuple(message.get("warnings", ())))

    def plane_across(self, axis: int) -> Plane:
        """The graph's plane across an IJK axis. It knows no transforms: what is axial there may be coronal here."""
        return next(plane for plane in Plane if self.geometry.axis(plane) == axis)


@dataclass(frozen=True)
class SentVolume:
    """The volume that was sent from here. uid: its name in the graph. node_id: of the volume node. stamp: of its voxels."""

    uid: str
    node_id: str
    stamp: VoxelStamp


@dataclass
class State:
    """score: the model's confidence in the last mask. latency: milliseconds of the five tasks, and `total`.

    prompt_problem: why what is marked was not sent or not applied, or was in part; empty without a problem.
    tasks: what the bridge does over many slices: names of ipp.TASKS; none: it is older than these.
    progress: slices done, and all slices, of the last run over many slices. is_running: it is under way.
    stream: the live stream is wanted. stream_text: what is followed in it, a line each. stream_volume_id: of the node that shows
    it; empty before its first image.
    show_3d: the segmentation's surfaces are shown, or are made again now.
    autosaved_at: time.time() at which the segmentation was saved by itself last; None: it was not.
    graph_runs: the graph was started from here, and has not ended. graph_log: the newest of what it said.
    weights: of each model; none: the bridge is older, or the graph is starting. fetching: the model whose weights are downloaded now.
    fetch_progress: bytes that are there, and all bytes.
    frozen: keys of slices whose masks stay. dropped: masks that were not applied.
    """

    bridge: BridgeState = BridgeState.DISCONNECTED
    round_trip_ms: float | None = None
    models: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    model: Model | None = None
    window_presets: dict[str, tuple[float, float]] = field(default_factory=dict)
    embedding: EmbeddingProgress | None = None
    graph_volume: GraphVolume | None = None
    sent_volume: SentVolume | None = None
    is_loading: bool = False
    prompt_problem: str = ""
    frozen: set[tuple[str, int, int]] = field(default_factory=set)
    score: float | None = None
    latency: dict[str, float] = field(default_factory=dict)
    dropped: int = 0
    is_running: bool = False
    progress: tuple[int, int] = (0, 0)
    stream: bool = False
    stream_text: str = ""
    stream_volume_id: str = ""
    can_undo: bool = False
    can_redo: bool = False
    show_3d: bool = False
    autosaved_at: float | None = None
    graph_runs: bool = False
    graph_log: list[str] = field(default_factory=list)
    weights: list[ModelWeights] = field(default_factory=list)
    fetching: str = ""
    fetch_progress: tuple[int, int] = (0, 0)
    log: list[str] = field(default_factory=list)

    @property
    def is_connected(self) -> bool:
        return self.bridge == BridgeState.CONNECTED

    @property
    def is_low_confidence(self) -> bool:
        return self.score is not None and self.score < LOW_CONFIDENCE

    def is_stream(self, volume: slicer.vtkMRMLVolumeNode | None) -> bool:
        """Whether this volume shows the live stream."""
        return self.stream and volume is not None and volume.GetID() == self.stream_volume_id

    def has_loaded(self, volume: slicer.vtkMRMLVolumeNode | None) -> bool:
        """Whether the graph has this volume, as it was sent from here."""
        graph, sent = self.graph_volume, self.sent_volume
        return (
            volume is not None
            and graph is not None
            and sent is not None
            and graph.uid == sent.uid
            and volume.GetID() == sent.node_id
        )
