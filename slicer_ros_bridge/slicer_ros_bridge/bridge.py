# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""slicer_bridge: relays between the node graph and 3D Slicer over ZeroMQ; node_graph.py has its topics and services.

Two doors: IPP/2 (docs/understand/ipp.md) on `port`, and the SAMM extension's protocol, release 1.1, on `samm_port`.
Parameters: address, port, samm_port, keys_folder, folder, save_folder
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rclpy.logging import get_logger
from rclpy.node import Node

from samm_core import ipp
from samm_core.errors import SammError
from samm_ros.support import parameters, process
from samm_ros.support.diagnostics import Diagnostics

from . import curve
from .doors.ipp.server import IppServer
from .doors.samm11.actions import GraphSammActions
from .doors.samm11.server import MAX_FRAME_BYTES, SammServer
from .node_graph import NodeGraph
from .sockets import Endpoint, SocketThread
from .volumes import VolumeStore
from .worker import Worker

IPP, SAMM = "IPP/2", "SAMM"


class SlicerBridge(Node):
    """Puts the parts together; doors/ipp/server.py says which thread calls what."""

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
        self._diagnostics = Diagnostics(self, self._readings)
        problem = self._diagnostics.problem
        endpoints = [Endpoint(IPP, address, port, keys_folder, ipp.MAX_BUFFER_BYTES, self._on_ipp)]
        if samm_port >= 0:
            # The published extension knows no keys: it is served on this computer alone.
            endpoints.append(
                Endpoint(SAMM, "127.0.0.1", samm_port, "", MAX_FRAME_BYTES, self._on_samm, answers_http=True)
            )
        self._sockets = SocketThread(endpoints, self._tick, self.get_logger().info)
        self._worker = Worker(self._sockets.post)
        # Beside the volumes': a large one must not hold up a live stream.
        self._stream_worker = Worker(self._sockets.post, "stream")
        self._graph = NodeGraph(self, self._sockets.post)
        self._ipp = IppServer(
            self._graph,
            self._store,
            Path(save_folder).expanduser(),
            self._worker,
            self._stream_worker,
            lambda identity, frames: self._sockets.send(IPP, identity, frames),
            problem,
        )
        self._samm_actions = GraphSammActions(self._graph, self._store, self._worker, problem)
        self._samm = SammServer(self._samm_actions, problem)
        self._graph.listen(self._ipp)
        self._graph.listen(self._samm_actions)
        self._sockets.start()

    def destroy_node(self) -> None:
        self._sockets.close()
        # The doors' thread has ended: what is its own may be used here.
        self._graph.watch_stream(None)
        self._worker.close()
        self._stream_worker.close()
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
        self._graph.tick()
        self._ipp.tick()
        self._samm_actions.tick()

    def _readings(self) -> dict[str, str | int]:
        return {"Slicers": ", ".join(self._ipp.names) or "none", "messages dropped": self._sockets.dropped}


def _memory_folder(namespace: str, port: int) -> Path:
    """In memory where there is such a place: patients' pictures then never touch a disk."""
    name = f"samm_bridge{namespace.replace('/', '-').rstrip('-')}-{port}"
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if base and os.access(base, os.W_OK):
            return Path(base) / f"{name}-{os.getuid()}"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "samm_ros" / name


def main() -> None:
    """Run the node until a signal; a SammError at its start is logged, and the process ends with 1."""
    with process.ros():
        try:
            node = SlicerBridge()
        except SammError as error:
            # As a node logs: `samm up` shows these lines.
            get_logger("slicer_bridge").fatal(str(error))
            sys.exit(1)
        process.spin(node)
