# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node `world` in a process of its own: masks of a tracked stream in the world, and sweeps as volumes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from camera import time_of
from geometry_msgs.msg import PoseStamped
from peer import Peer
from samm_msgs.msg import Track, Tracks
from samm_msgs.srv import RecordSweep
from sensor_msgs.msg import Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from samm_core.sources.volume import read_here
from samm_ros import topics
from samm_ros.support.images import image_to_msg

PIXEL_MM = 0.5
SHAPE = (40, 60)
PERIOD_NS = 33_000_000
# Refused, and answered with how many frames there are.
NO_COMMAND = 99


@contextmanager
def world(namespace: str, geometry: str = str(PIXEL_MM), frame: str = "") -> Iterator[None]:
    code = "from samm_ros.nodes.world import main; main()"
    parameters = [f"image_geometry:='{geometry}'", f"world_frame:='{frame}'"]
    words = [word for each in parameters for word in ("-p", each)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--ros-args", "-r", f"__ns:=/{namespace}", *words]
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


class Probe:
    """A tracked probe with an object in view: its images, labels, tracks and poses."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.stamp_ns = 10**9
        self.lift_m = 0.0
        self._poses = peer.publisher(PoseStamped, topics.POSE, topics.POSES)
        create = peer.node.create_publisher
        self._tracks = create(Tracks, topics.TRACKS, topics.OF_A_STREAM)
        self._labels = create(Image, topics.LABEL_IMAGE, topics.OF_A_STREAM)
        self._images = create(Image, topics.IMAGE, topics.NEWEST)
        self.labels = np.zeros(SHAPE, np.uint8)
        self.labels[10:20, 30:50] = 3
        self.image = np.where(self.labels, 200, 40).astype(np.uint8)

    def send(self, pose: bool = True, w: float = 1.0) -> None:
        """One image, a period after the last; the pose of its own stamp before it."""
        self.stamp_ns += PERIOD_NS
        if pose:
            self.send_pose(w)
        track = Track(name="vessel", label=3, state=Track.TRACKING, area=int((self.labels > 0).sum()))
        tracks = Tracks(tracks=[track], height=SHAPE[0], width=SHAPE[1])
        for publisher, message in (
            (self._images, image_to_msg(self.image)),
            (self._tracks, tracks),
            (self._labels, image_to_msg(self.labels)),
        ):
            message.header.stamp = time_of(self.stamp_ns)
            message.header.frame_id = "image"
            publisher.publish(message)

    def send_pose(self, w: float = 1.0) -> None:
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = time_of(self.stamp_ns), "tracker"
        pose.pose.position.x, pose.pose.position.z = 0.1, self.lift_m
        pose.pose.orientation.w = w
        self._poses.publish(pose)


@pytest.fixture
def peer(namespace: str) -> Iterator[Peer]:
    with Peer(namespace) as peer:
        yield peer


def test_a_mask_is_told_in_metres_of_the_frame_of_the_poses(namespace: str, peer: Peer) -> None:
    with world(namespace):
        probe = Probe(peer)
        peer.listen(MarkerArray, topics.CONTOURS, topics.OF_A_STREAM)
        peer.listen(PointCloud2, topics.POINTS, topics.OF_A_STREAM)
        drawn = peer.do_until(probe.send, topics.CONTOURS, lambda m: m.markers[0].action == Marker.ADD)
        (marker,) = drawn.markers
        assert marker.header.frame_id == "tracker" and marker.id == 3 and marker.text == "vessel"
        corners = np.array([(p.x, p.y, p.z) for p in marker.points])
        # Columns 30 to 49 and rows 10 to 19 of half a millimetre, 0.1 m along x.
        assert np.allclose(corners.min(axis=0), (0.115, 0.005, 0.0))
        assert np.allclose(corners.max(axis=0), (0.1245, 0.0095, 0.0))
        cloud = peer.wait_for(topics.POINTS, lambda m: m.width > 0)
        assert cloud.width == 200 and cloud.header.frame_id == "tracker"
        assert cloud.header.stamp.sec >= 1

        # Without a pose it is drawn no longer.
        peer.heard[topics.CONTOURS].clear()
        gone = peer.do_until(
            lambda: probe.send(pose=False), topics.CONTOURS, lambda m: m.markers[0].action == Marker.DELETE
        )
        assert [each.id for each in gone.markers] == [3]
        # Nor by one that turns nothing.
        peer.heard[topics.CONTOURS].clear()
        peer.do_until(probe.send, topics.CONTOURS, lambda m: m.markers[0].action == Marker.ADD)
        peer.heard[topics.CONTOURS].clear()
        peer.do_until(
            lambda: probe.send(w=0.0), topics.CONTOURS, lambda m: m.markers[0].action == Marker.DELETE
        )


def test_poses_of_another_frame_than_was_asked_for_give_no_position(namespace: str, peer: Peer) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    with world(namespace, frame="patient"):
        probe = Probe(peer)
        peer.listen(MarkerArray, topics.CONTOURS, topics.OF_A_STREAM)
        peer.listen(DiagnosticArray, topics.DIAGNOSTICS, 10)

        def told(message: DiagnosticArray) -> bool:
            return any("'patient' was asked for" in s.message and "world" in s.name for s in message.status)

        peer.do_until(probe.send, topics.DIAGNOSTICS, told)
        assert not any(each.action == Marker.ADD for m in peer.heard[topics.CONTOURS] for each in m.markers)


def test_a_tracked_sweep_becomes_a_volume_and_its_segmentation(
    namespace: str, peer: Peer, tmp_path: Path
) -> None:
    def call(command: int, **fields: object) -> RecordSweep.Response:
        return peer.call(RecordSweep, topics.RECORD_SWEEP, RecordSweep.Request(command=command, **fields))

    with world(namespace):
        probe = Probe(peer)
        peer.listen(MarkerArray, topics.CONTOURS, topics.OF_A_STREAM)
        nothing = call(RecordSweep.Request.SAVE, path=str(tmp_path / "none.nrrd"))
        assert not nothing.success and "start" in nothing.message
        peer.do_until(probe.send, topics.CONTOURS, lambda m: m.markers[0].action == Marker.ADD)
        assert call(RecordSweep.Request.START).success

        def step() -> None:
            # Half a millimetre on, as long as the volume has grown.
            before = call(NO_COMMAND).frames
            probe.send()
            probe.lift_m += 0.0005 if call(NO_COMMAND).frames > before else 0.0

        for _ in range(200):
            step()
            if call(NO_COMMAND).frames >= 12:
                break
        path = tmp_path / "sweep.nrrd"
        saved = call(RecordSweep.Request.SAVE, path=str(path))
        assert saved.success, saved.message
        assert saved.frames >= 12
    volume = read_here(path)
    assert np.allclose(volume.geometry.spacing, PIXEL_MM)
    labels = read_here(tmp_path / "sweep.seg.nrrd").voxels
    assert labels.shape == volume.voxels.shape
    inside = volume.voxels[labels > 0]
    assert len(inside) and np.median(inside) == 200 and np.median(volume.voxels[labels == 0]) <= 40
    # Of each image, 200 of 2400 pixels.
    assert 0.06 < (labels > 0).mean() < 0.11
