# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is followed, as vision_msgs have it, where ROS has them: its Python wheels lack them.

Out: detections (vision_msgs/Detection2DArray), label_info (vision_msgs/LabelInfo, latched)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.node import Node
from samm_msgs.msg import Track, Tracks
from std_msgs.msg import Header

from .. import topics

if TYPE_CHECKING:
    from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo

try:
    from vision_msgs import msg as vision_msgs
except ImportError:
    vision_msgs = None

# What label 0 is: in `label_image`, the pixels of no object.
BACKGROUND = "background"


class Detections:
    """Publishes beside `tracks`; nothing where ROS lacks vision_msgs."""

    def __init__(self, node: Node) -> None:
        self._names: dict[int, str] | None = None
        if vision_msgs is not None:
            self._detections = node.create_publisher(
                vision_msgs.Detection2DArray, topics.DETECTIONS, topics.OF_A_STREAM
            )
            self._label_info = node.create_publisher(vision_msgs.LabelInfo, topics.LABEL_INFO, topics.LATCHED)

    def publish(self, tracks: Tracks) -> None:
        """What `tracks` tells; the objects' names only where they have changed."""
        if vision_msgs is None:
            return
        names = {track.label: track.name for track in tracks.tracks}
        if names != self._names:
            self._names = names
            self._label_info.publish(label_info(tracks.header, names))
        if self._detections.get_subscription_count():
            self._detections.publish(detections(tracks))


def detections(tracks: Tracks) -> Detection2DArray:
    """The objects that are drawn, TRACKING or UNCERTAIN, with their image's header."""
    drawn = [track for track in tracks.tracks if track.area]
    return vision_msgs.Detection2DArray(
        header=tracks.header, detections=[_detection(tracks.header, track) for track in drawn]
    )


def _detection(header: Header, track: Track) -> Detection2D:
    """id: the object's name. class_id: its label, as in label_info and label_image."""
    x0, y0, x1, y1 = (float(value) for value in track.box_xyxy)
    # Of pixels that lie in the box: it reaches half a pixel beyond their centres.
    box = vision_msgs.BoundingBox2D(size_x=x1 - x0 + 1, size_y=y1 - y0 + 1)
    box.center.position.x, box.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
    result = vision_msgs.ObjectHypothesisWithPose()
    result.hypothesis.class_id = str(track.label)
    result.hypothesis.score = min(max(float(track.score), 0.0), 1.0)
    return vision_msgs.Detection2D(header=header, results=[result], bbox=box, id=track.name)


def label_info(header: Header, names: dict[int, str]) -> LabelInfo:
    """header: of the image from which on the names hold. names: of the objects, by label."""
    classes = {0: BACKGROUND} | names
    return vision_msgs.LabelInfo(
        header=header,
        class_map=[
            vision_msgs.VisionClass(class_id=label, class_name=name)
            for label, name in sorted(classes.items())
        ],
    )
