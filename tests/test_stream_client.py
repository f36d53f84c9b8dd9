# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Python client of a live stream: marks are answered, masks come with their tracks, refusals are raised."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from camera import Camera, box_of, scene_with_a_disc
from peer import Peer
from samm_msgs.msg import Track, Tracks
from sensor_msgs.msg import Image

from samm_core.errors import PromptError
from samm_core.geometry import Plane
from samm_core.prompts import pixel_box
from samm_ros import topics
from samm_ros.stream_client import StreamClient
from samm_ros.support.world import stamp_ns

pytestmark = pytest.mark.xdist_group("graph")


def test_a_program_marks_an_object_and_gets_its_masks(shared_graph: str) -> None:
    pictures, masks = scene_with_a_disc()
    followed: list[tuple[Tracks, np.ndarray]] = []
    enough = threading.Event()

    def on_masks(tracks: Tracks, labels: np.ndarray) -> None:
        if not tracks.stale and any(track.area for track in tracks.tracks):
            followed.append((tracks, labels))
        if len(followed) > 5:
            enough.set()

    with Peer(shared_graph) as peer, StreamClient(shared_graph, "program", on_masks) as stream:
        publisher = peer.publisher(Image, topics.IMAGE, topics.NEWEST)
        with Camera(publisher, pictures) as camera:
            stream.wait_for(lambda tracks: tracks.width == pictures[0].shape[1], "images")
            stamp = camera.stamp_of(4)
            cycle = stream.mark("disc", pixel_box(Plane.AXIAL, 0, *box_of(masks[4])), stamp)
            found = stream.wait_for(
                lambda tracks: any(t.cycle == cycle and t.state == Track.TRACKING for t in tracks.tracks),
                "its mask",
                90.0,
            )
            assert [track.client_id for track in found.tracks] == ["program"]
            assert enough.wait(60.0)
            with pytest.raises(PromptError, match="outside"):
                stream.mark("far", pixel_box(Plane.AXIAL, 0, 9000, 9000, 9010, 9010))
            with pytest.raises(PromptError, match="nobody"):
                stream.rename("nobody", "somebody")
            stream.rename("disc", "wheel")
            stream.wait_for(lambda tracks: [t.name for t in tracks.tracks] == ["wheel"], "its new name")
            stream.remove()
            stream.wait_for(lambda tracks: not tracks.tracks, "nothing")
    for tracks, labels in followed:
        (track,) = tracks.tracks
        assert (labels == track.label).sum() == track.area
        assert stamp_ns(tracks.header) in camera.sent
