# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Sends images and poses as a camera or an ultrasound probe would.

Out: image (sensor_msgs/Image) or image/compressed (CompressedImage), pose (geometry_msgs/PoseStamped), by the names given
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from samm_core.errors import FrameError

from ..support import shared_memory
from ..support.images import compressed_to_msg, image_to_msg

# Reliable, as REP 2003 asks of who publishes: a reader that takes what is best effort hears it too, one that wants all does as
# well. The newest alone is kept: what a slow reader has not fetched is never sent to it late.
SENT = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
_LAST_S = 1.0
# Between an image's axes, off the right angle: a quaternion has no shear.
_SKEW = 0.01


def split_pose(pose: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """A pose of pixels, (4, 4) to millimetres, as the rigid pose of the image, mm, and its pixels' width and height, mm.

    The image's own frame begins at its first pixel's centre: x along a row, y down the rows, z away from who looks at it.
    Raises FrameError for what is no pose: not finite, without size or with rows and columns at no right angle.
    """
    sizes = np.linalg.norm(pose[:3, :2], axis=0)
    with np.errstate(all="ignore"):
        across, down = (pose[:3, :2] / sizes).T
    if not np.isfinite(pose).all() or not (sizes > 0).all() or abs(across @ down) > _SKEW:
        raise FrameError(
            f"The pose {np.round(pose, 3).tolist()} has no rows and columns at a right angle; check the calibration."
        )
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    rigid = np.eye(4)
    rigid[:3, 0], rigid[:3, 1], rigid[:3, 2] = across, np.cross(normal, across), normal
    rigid[:3, 3] = pose[:3, 3]
    return rigid, (float(sizes[0]), float(sizes[1]))


def pose_to_msg(rigid: np.ndarray, header: Header) -> PoseStamped:
    """A rigid pose (4, 4) in millimetres, in metres and a quaternion, as REP 103 asks."""
    message = PoseStamped(header=header)
    position, turn = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = (float(value) / 1000 for value in rigid[:3, 3])
    turn.x, turn.y, turn.z, turn.w = _quaternion(rigid[:3, :3])
    return message


def _quaternion(turn: np.ndarray) -> list[float]:
    """x, y, z, w of a rotation matrix, w not below 0: the eigenvector that Bar-Itzhack's matrix has for its largest value."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    matrix = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    quaternion = np.linalg.eigh(matrix)[1][:, -1]
    return (quaternion if quaternion[3] >= 0 else -quaternion).tolist()


class StreamPublisher(Node):
    """A node that publishes what it is given.

    topic: of images; those that are compressed get "/compressed" behind it, as image_transport has it. compression: "jpeg" or
    "png"; empty: none. frame_id: of images.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        pose_topic: str,
        compression: str = "",
        frame_id: str = "image",
        **node_arguments: object,
    ) -> None:
        super().__init__(name, **node_arguments)
        self._compression, self._frame_id = compression, frame_id
        kind, suffix = (CompressedImage, "/compressed") if compression else (Image, "")
        self._images = self.create_publisher(kind, topic + suffix, SENT)
        self._poses = self.create_publisher(PoseStamped, pose_topic, SENT)
        self.topic, self.pose_topic = self._images.topic_name, self._poses.topic_name
        shared_memory.keep_private()

    @property
    def listeners(self) -> int:
        """How many listen to the images."""
        return self._images.get_subscription_count()

    def now_ns(self) -> int:
        """ROS time."""
        return self.get_clock().now().nanoseconds

    def send_image(self, pixels: np.ndarray, stamp_ns: int) -> None:
        """pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB. Raises FrameError for 16 bits as JPEG."""
        message = compressed_to_msg(pixels, self._compression) if self._compression else image_to_msg(pixels)
        message.header = _header(stamp_ns, self._frame_id)
        self._images.publish(message)

    def send_pose(self, rigid: np.ndarray, stamp_ns: int, frame_id: str) -> None:
        """rigid: (4, 4) mm, the image's, or the probe's, in the frame `frame_id`."""
        self._poses.publish(pose_to_msg(rigid, _header(stamp_ns, frame_id)))

    def finish(self) -> None:
        """Wait a moment until the last image and pose have arrived where somebody listens."""
        for publisher in (self._images, self._poses):
            publisher.wait_for_all_acked(Duration(seconds=_LAST_S))


def _header(stamp_ns: int, frame_id: str) -> Header:
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header
