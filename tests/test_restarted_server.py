# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A server that was killed is not taken for the one that follows it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from peer import Peer
from samm_msgs.srv import UndoChange

from samm_ros.support.services import RestartedServer, response_to

SERVER = """
import rclpy, sys
from samm_msgs.srv import UndoChange
rclpy.init()
node = rclpy.create_node("server", namespace=sys.argv[1])
node.create_service(UndoChange, "undo", lambda request, response: response)
rclpy.spin(node)
"""


@contextlib.contextmanager
def serving(namespace: str) -> Iterator[None]:
    """A server in a process of its own, which is killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, namespace])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_killed_server_is_not_taken_for_its_successor(namespace: str) -> None:
    with Peer(namespace) as peer:
        client = peer.node.create_client(UndoChange, "undo")
        server = RestartedServer(peer.node, client)
        server.heard(is_new=True)
        assert not server.is_ready()
        with serving(namespace):
            peer.wait_until(server.is_ready, "the first server")
            server.heard(is_new=False)
        # The next one has spoken, but its service is not discovered yet.
        server.heard(is_new=True)
        assert client.service_is_ready(), "DDS knows that the killed one is gone, so that this shows nothing"
        assert not server.is_ready()
        with serving(namespace):
            peer.wait_until(server.is_ready, "the second server")
            assert response_to(client, UndoChange.Request(), 60.0) is not None
