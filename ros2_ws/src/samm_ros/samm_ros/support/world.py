# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Poses out of messages, and what a stream's objects are in the world into messages: outlines for RViz, clouds of points.

Messages are in metres and turn by quaternions x, y, z, w, as REP 103 and geometry_msgs say; the core's poses are in
millimetres.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from geometry_msgs.msg import Point, PoseStamped, TransformStamped
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from samm_core.errors import PoseError
from samm_core.stream.world import MM_PER_M, SECOND_NS

# Of a quaternion's length, off 1: float32 in six steps is off by less, and four numbers that are no quaternion by more.
_UNIT = 1e-2
# What objects' markers are of, in RViz' list.
NAMESPACE = "objects"
LINE_WIDTH_M = 0.0005
_POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "u1")])


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * SECOND_NS + header.stamp.nanosec


def pose_from_msg(message: PoseStamped | TransformStamped) -> np.ndarray:
    """(4, 4) float64: the millimetres of the thing whose pose it is, to those of `header.frame_id`.

    Raises PoseError for what is not finite, and for four numbers that turn nothing: an empty message has four zeros.
    """
    if isinstance(message, TransformStamped):
        place, turn = message.transform.translation, message.transform.rotation
    else:
        place, turn = message.pose.position, message.pose.orientation
    x, y, z, w = quaternion = (turn.x, turn.y, turn.z, turn.w)
    length = math.sqrt(sum(value * value for value in quaternion))
    # Written so that NaN is refused.
    if not abs(length - 1) <= _UNIT:
        raise PoseError(
            f"A pose has the quaternion ({', '.join(f'{value:g}' for value in quaternion)}) of the length {length:g}; "
            "send one of the length 1."
        )
    position_mm = np.array([place.x, place.y, place.z]) * MM_PER_M
    if not np.isfinite(position_mm).all():
        raise PoseError("A pose's position is not finite; check what sends it.")
    x, y, z, w = (value / length for value in quaternion)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = position_mm
    return pose


def outline_marker(
    header: Header,
    label: int,
    name: str,
    color: tuple[float, float, float],
    outlines: Sequence[np.ndarray],
) -> Marker:
    """One object's outlines as a LINE_LIST; where there is none, its removal, as RViz draws what it was given last for ever.

    header: the image's stamp, and the frame that the outlines are in. label: the object's, which is the marker's id. name: of
    the object, in the marker's text. outlines: as contours_in_world gives them, metres.
    """
    marker = Marker(header=header, ns=NAMESPACE, id=label, text=name, type=Marker.LINE_LIST)
    corners = [np.stack([each, np.roll(each, -1, axis=0)], axis=1) for each in outlines if len(each) > 1]
    if not corners:
        marker.action = Marker.DELETE
        return marker
    marker.action = Marker.ADD
    marker.pose.orientation.w = 1.0
    marker.scale.x = LINE_WIDTH_M
    red, green, blue = map(float, color)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in np.concatenate(corners).reshape(-1, 3).tolist()]
    return marker


def label_cloud(header: Header, objects: Iterable[tuple[int, np.ndarray]]) -> PointCloud2:
    """The objects' points as one cloud with the fields x, y, z (float32, metres) and label (uint8).

    objects: the label of each, and its points, (N, 3) metres. A cloud without points says that no object has a mask.
    """
    parts = []
    for label, points in objects:
        part = np.zeros(len(points), _POINT)
        part["x"], part["y"], part["z"] = np.asarray(points, np.float64).reshape(-1, 3).T
        part["label"] = label
        parts.append(part)
    cloud = np.concatenate(parts) if parts else np.zeros(0, _POINT)
    fields = [
        PointField(
            name=name,
            offset=_POINT.fields[name][1],
            datatype=PointField.UINT8 if name == "label" else PointField.FLOAT32,
            count=1,
        )
        for name in _POINT.names
    ]
    return PointCloud2(
        header=header,
        height=1,
        width=len(cloud),
        fields=fields,
        is_bigendian=False,
        point_step=_POINT.itemsize,
        row_step=cloud.nbytes,
        data=array("B", cloud.tobytes()),
        is_dense=True,
    )
