# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Poses from /tf, where ROS has tf2: its Python wheels lack it."""

from __future__ import annotations

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from samm_core.errors import PoseError

from .world import pose_from_msg

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

WAIT_S = 0.05


class TfPoses:
    """The poses of images' frames in another frame, by tf2."""

    def __init__(self, node: Node) -> None:
        self.is_there = tf2_ros is not None
        if self.is_there:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=True)

    def at(self, frame: str, header: Header) -> np.ndarray:
        """(4, 4): millimetres of the image's frame, at its stamp, to those of `frame`. Raises PoseError."""
        try:
            found = self._buffer.lookup_transform(
                frame, header.frame_id, Time.from_msg(header.stamp), Duration(seconds=WAIT_S)
            )
        except tf2_ros.TransformException as error:
            raise PoseError(f"tf2 has no pose of {header.frame_id!r} in {frame!r}: {error}") from None
        return pose_from_msg(found)
