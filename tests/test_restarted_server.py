# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A server that was killed is not taken for the one that follows it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
from peer import Peer
from samm_msgs.msg import VolumeInfo, VolumeList
from samm_msgs.srv import UndoChange

from samm_ros import topics
from samm_ros.support.reload import VolumeReloader
from samm_ros.support.services import RestartedServer, response_to

SERVER = """
import rclpy, sys
from samm_msgs.srv import LoadVolume, UndoChange
rclpy.init()
def load(request, response):
    response.success = True
    response.volume.uid, response.volume.uri = "a", request.path
    response.volume.dimensions, response.volume.window_upper = [3, 4, 5], 1.0
    response.volume.ijk_to_ras = [float(i % 5 == 0) for i in range(16)]
    return response
node = rclpy.create_node("server", namespace=sys.argv[1])
node.create_service(UndoChange, "undo", lambda request, response: response)
node.create_service(LoadVolume, "load_volume", load)
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


def test_a_volume_is_loaded_again_by_the_server_that_follows_a_killed_one(namespace: str) -> None:
    """A request to the killed one would not be made again for longer than this test waits."""
    held: list[list[str]] = []
    volume = VolumeInfo(uid="a", uri="/a.nii", dimensions=[3, 4, 5], window_upper=1.0)
    volume.ijk_to_ras = np.eye(4).ravel()
    with Peer(namespace) as peer:
        reloader = VolumeReloader(
            peer.node,
            lambda volumes, lost, last: held.append([each.uid for each in volumes]),
            lambda why: held.append([]),
            lambda problem: held.append([problem]),
        )
        volumes = peer.publisher(VolumeList, topics.VOLUMES, topics.LATCHED)

        def say(server: str, *infos: VolumeInfo) -> None:
            before = len(held)
            volumes.publish(VolumeList(server=server, volumes=infos))
            peer.wait_until(lambda: len(held) > before, "word of the volumes")

        client = peer.node.create_client(UndoChange, "undo")
        with serving(namespace):
            assert response_to(client, UndoChange.Request(), 60.0) is not None
            say("one", volume)
            say("one", volume)
        say("two")
        assert held[-1] == []
        with serving(namespace):
            peer.wait_until(lambda: reloader.tick() or held[-1] == ["a"], "the volume", 60.0)
