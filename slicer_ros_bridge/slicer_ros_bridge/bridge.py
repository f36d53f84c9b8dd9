# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""slicer_bridge: relays between the node graph and 3D Slicer over ZeroMQ; node_graph.py has its topics and services.

Three doors: IPP/2 (docs/understand/ipp.md) on `port`, and the SAMM extension's protocols, releases 1.1 and 1.2, on
`samm_port`.
Parameters: address, port, samm_port, keys_folder, folder, save_folder
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.logging import get_logger
from rclpy.node import Node

from samm_core import ipp
from samm_core.errors import SammError, VolumeError
from samm_core.private import make_token, private_folder
from samm_core.sources.roots import SAVE_FOLDER
from samm_ros.support import parameters, process
from samm_ros.support.diagnostics import Diagnostics

from . import curve
from .doors.ipp.server import IppServer
from .doors.samm11.actions import GraphSammActions
from .doors.samm11.server import MAX_FRAME_BYTES, SammServer
from .doors.samm12.server import Samm12Server
from .node_graph import NodeGraph
from .sockets import Endpoint, SocketThread
from .volumes import VolumeStore
from .worker import Worker

if TYPE_CHECKING:
    from aiohttp import web

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
            "Port of the SAMM extension, releases 1.1 and 1.2, on this computer; 0: any; -1: none.",
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
        save_folder = parameters.declare(self, "save_folder", SAVE_FOLDER, "Where Slicer's `save` writes to.")
        curve.require_safe(address, keys_folder)
        self._store = VolumeStore(Path(folder) if folder else _memory_folder(self.get_namespace(), port))
        self._diagnostics = Diagnostics(self, self._readings)
        problem = self._diagnostics.problem
        endpoints = [Endpoint(IPP, address, port, keys_folder, ipp.MAX_BUFFER_BYTES, self._on_ipp)]
        if samm_port >= 0:
            # The published extension knows no keys: it is served on this computer alone.
            endpoints.append(
                Endpoint(
                    SAMM, "127.0.0.1", samm_port, "", MAX_FRAME_BYTES, self._on_samm, self._samm12_application
                )
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
            # Beyond this computer there are keys, and whoever has one has shown it.
            "" if keys_folder else _token(),
        )
        self._samm_actions = GraphSammActions(self._graph, self._store, self._worker, problem)
        self._samm = SammServer(self._samm_actions, problem)
        self._samm12 = Samm12Server(self._graph, self._store, self._worker, problem)
        self._graph.listen(self._ipp)
        self._graph.listen(self._samm_actions)
        self._graph.listen(self._samm12)
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

    def _samm12_application(self) -> web.Application:
        # Imported on the front's thread: aiohttp takes a third of a second, which the bridge's start need not wait for.
        from .doors.samm12.http import application

        return application(self._samm12, self._sockets.post)

    def _tick(self) -> None:
        self._graph.tick()
        self._ipp.tick()
        self._samm_actions.tick()
        self._samm12.tick()

    def _readings(self) -> dict[str, str | int]:
        return {"Slicers": ", ".join(self._ipp.names) or "none", "messages dropped": self._sockets.dropped}


def _memory_folder(namespace: str, port: int) -> Path:
    """In memory where there is such a place: patients' pictures then never touch a disk."""
    try:
        return private_folder() / f"bridge{namespace.replace('/', '-').rstrip('-')}-{port}"
    except OSError as error:
        raise VolumeError(
            f"There is no folder for volumes: {error}; set the bridge's parameter folder."
        ) from None


def _token() -> str:
    try:
        return make_token()
    except OSError as error:
        raise curve.SecurityError(
            f"The token by which the bridge knows this user cannot be kept ({error}); set XDG_STATE_HOME to a folder that "
            "can be written, or give bridge_keys:=FOLDER."
        ) from None


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
