# SPDX-License-Identifier: Apache-2.0
"""slicer_bridge: relays between the graph and 3D Slicer over ZeroMQ; see graph_link.py for its topics and services.

Speaks IPP/2 (docs/ipp.md) on `port` and the SAMM extension's protocol, release 1.1, on `samm_port`.
Parameters: address, port, samm_port, keys_folder, folder, save_folder
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rclpy.node import Node
from samm_msgs.msg import EmbeddingStatus, ModelInfo

from samm_ros.cycle import Answer
from samm_ros.errors import SammError
from samm_ros.nodes import parameters, process
from samm_ros.nodes.diagnostics import Diagnostics
from samm_ros.nodes.wire import LoadedVolume
from samm_ros.trace import TaskEvent

from . import curve, ipp
from .graph_link import GraphLink
from .ipp_server import IppServer
from .samm_graph import SammGraph
from .samm_protocol import MAX_FRAME_BYTES, SammSession
from .sockets import Endpoint, SocketThread
from .volumes import VolumeStore

IPP, SAMM = "IPP/2", "SAMM"


class SlicerBridge(Node):
    """The sockets' thread owns all state; the executor's thread only posts to it."""

    def __init__(self) -> None:
        super().__init__("slicer_bridge")
        address = parameters.declare(
            self, "address", "127.0.0.1", "IP address to listen on; beyond 127.0.0.1 with keys only."
        )
        port = parameters.declare_integer(
            self, "port", ipp.DEFAULT_PORT, "Port of Slicer-IPP (IPP/2); 0: any.", (0, 65535)
        )
        samm_port = parameters.declare_integer(
            self,
            "samm_port",
            8799,
            "Port of the SAMM extension, release 1.1, on this computer; 0: any; -1: none.",
            (-1, 65535),
        )
        keys_folder = parameters.declare(
            self, "keys_folder", "", "Folder made by `samm keys`; empty: no encryption."
        )
        folder = parameters.declare(
            self,
            "folder",
            "",
            "Where volumes from Slicer are kept for the graph; empty: in memory, for this user alone.",
        )
        save_folder = parameters.declare(
            self, "save_folder", "~/samm_ros", "Where Slicer's `save` writes to."
        )
        curve.require_safe(address, keys_folder)
        self._store = VolumeStore(Path(folder) if folder else _memory_folder(self.get_namespace(), port))
        self._work = ThreadPoolExecutor(1, "volumes")
        self._diagnostics = Diagnostics(self, self._readings)
        endpoints = [Endpoint(IPP, address, port, keys_folder, ipp.MAX_BUFFER_BYTES, self._on_ipp)]
        if samm_port >= 0:
            # The published extension knows no keys: it is served on this computer alone.
            endpoints.append(Endpoint(SAMM, "127.0.0.1", samm_port, "", MAX_FRAME_BYTES, self._on_samm))
        self._sockets = SocketThread(endpoints, self._tick, self.get_logger().info)
        problem = self._diagnostics.problem
        link = GraphLink(self, self)
        self._ipp = IppServer(
            link,
            self._store,
            Path(save_folder).expanduser(),
            lambda identity, frames: self._sockets.send(IPP, identity, frames),
            self._sockets.post,
            self._work,
            problem,
        )
        self._samm_graph = SammGraph(
            link, self._store, self._ipp.pending, self._sockets.post, self._work, problem
        )
        self._samm = SammSession(self._samm_graph, problem)
        self._sockets.start()

    def destroy_node(self) -> None:
        self._sockets.close()
        self._work.shutdown(cancel_futures=True)
        self._store.clear()
        super().destroy_node()

    def _on_ipp(self, identity: bytes, frames: Sequence[bytes]) -> None:
        self._diagnostics.count("IPP/2 messages")
        self._ipp.handle(identity, frames)

    def _on_samm(self, identity: bytes, frames: Sequence[bytes]) -> None:
        self._diagnostics.count("SAMM messages")
        # REQ puts an empty frame before what it sends, and wants it back.
        envelope = list(frames[:1]) if frames and not frames[0] else []

        def reply(data: bytes) -> None:
            self._sockets.send(SAMM, identity, [*envelope, data])

        self._samm.handle(frames[len(envelope) :], reply)

    def _tick(self) -> None:
        self._ipp.tick()
        self._samm_graph.tick()

    def _readings(self) -> dict[str, object]:
        return {"Slicers": ", ".join(self._ipp.slicers) or "none", "messages dropped": self._sockets.dropped}

    # What the graph says, on the executor's thread.

    def on_answer(self, answer: Answer) -> None:
        self._sockets.post(lambda: self._ipp.on_answer(answer))

    def on_cycles(self, cycles: dict[str, tuple[int, int]]) -> None:
        self._sockets.post(lambda: self._ipp.on_cycles(cycles))

    def on_volume(self, volume: LoadedVolume | None) -> None:
        self._sockets.post(lambda: self._ipp.on_volume(volume))

    def on_model(self, model: ModelInfo) -> None:
        self._sockets.post(lambda: self._ipp.on_model(model))

    def on_embedding(self, status: EmbeddingStatus) -> None:
        self._sockets.post(lambda: self._ipp.on_embedding(status))

    def on_event(self, event: TaskEvent) -> None:
        self._sockets.post(lambda: self._ipp.on_event(event))


def _memory_folder(namespace: str, port: int) -> Path:
    """In memory where there is such a place: patients' pictures then never touch a disk."""
    name = f"samm_bridge{namespace.replace('/', '-').rstrip('-')}-{port}"
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if base and os.access(base, os.W_OK):
            return Path(base) / f"{name}-{os.getuid()}"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "samm_ros" / name


def main() -> Any:
    with process.ros():
        try:
            node = SlicerBridge()
        except SammError as error:
            sys.exit(f"slicer_bridge: {error}")
        process.spin(node)
