# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Poses out of messages, and objects in the world into messages; each through its bytes on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, TransformStamped
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from samm_core.errors import PoseError
from samm_core.stream.world import rigid
from samm_ros.support.world import (
    label_cloud,
    outline_marker,
    pose_from_msg,
    stamp_ns,
)

HEADER = Header(frame_id="reference")
HEADER.stamp.sec, HEADER.stamp.nanosec = 1_700_000_000, 7
SQUARE = np.array([(0.0, 0, 0), (0.01, 0, 0), (0.01, 0.01, 0), (0, 0.01, 0)])


def pose_msg(quaternion: tuple[float, ...], place: tuple[float, ...]) -> PoseStamped:
    message = PoseStamped(header=HEADER)
    for name, value in zip("xyzw", quaternion, strict=True):
        setattr(message.pose.orientation, name, float(value))
    for name, value in zip("xyz", place, strict=True):
        setattr(message.pose.position, name, float(value))
    return message


def over_the_wire(message: object) -> object:
    return deserialize_message(serialize_message(message), type(message))


def test_a_pose_is_in_millimetres_and_turns_as_its_quaternion() -> None:
    half = np.sqrt(0.5)
    expected = np.array([[0, -1, 0, 100], [1, 0, 0, -200], [0, 0, 1, 1500], [0, 0, 0, 1]])
    message = pose_msg((0, 0, half, half), (0.1, -0.2, 1.5))
    assert np.allclose(pose_from_msg(message), expected)
    assert stamp_ns(message.header) == 1_700_000_000_000_000_007

    same = TransformStamped(header=HEADER)
    same.transform.rotation = message.pose.orientation
    position = message.pose.position
    same.transform.translation.x, same.transform.translation.y, same.transform.translation.z = (
        position.x,
        position.y,
        position.z,
    )
    assert np.array_equal(pose_from_msg(same), pose_from_msg(message))


@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 1e-3))
def test_every_unit_quaternion_is_rigid(quaternion: tuple[float, ...]) -> None:
    unit = np.array(quaternion) / np.linalg.norm(quaternion)
    matrix = pose_from_msg(pose_msg(tuple(unit), (0, 0, 0)))
    assert np.abs(rigid(matrix) - matrix).max() < 1e-9
    # Both signs are one turn.
    assert np.allclose(pose_from_msg(pose_msg(tuple(-unit), (0, 0, 0))), matrix)


@pytest.mark.parametrize(
    ("quaternion", "place", "sentence"),
    [
        ((0, 0, 0, 0), (0, 0, 0), r"quaternion \(0, 0, 0, 0\) of the length 0; send one of the length 1"),
        ((0, 0, 1, 1), (0, 0, 0), "of the length 1.41421"),
        ((0, 0, 0, np.nan), (0, 0, 0), "of the length nan"),
        ((0, 0, 0, 1), (np.inf, 0, 0), "position is not finite"),
    ],
)
def test_what_is_no_pose_is_refused(quaternion: tuple, place: tuple, sentence: str) -> None:
    with pytest.raises(PoseError, match=sentence):
        pose_from_msg(pose_msg(quaternion, place))


def test_outlines_are_closed_lines_in_the_objects_colour() -> None:
    hole = SQUARE / 2
    marker = over_the_wire(outline_marker(HEADER, 3, "liver", (1, 0.5, 0), [SQUARE, hole, SQUARE[:1]]))
    assert (marker.type, marker.action, marker.id, marker.text) == (
        Marker.LINE_LIST,
        Marker.ADD,
        3,
        "liver",
    )
    assert marker.header == HEADER and marker.pose.orientation.w == 1.0 and marker.scale.x > 0
    assert (marker.color.r, marker.color.g, marker.color.b, marker.color.a) == (1.0, 0.5, 0.0, 1.0)
    points = np.array([(p.x, p.y, p.z) for p in marker.points]).reshape(-1, 2, 3)
    assert np.allclose(points[:4, 0], SQUARE) and np.allclose(points[:4, 1], np.roll(SQUARE, -1, axis=0))
    assert np.allclose(points[4:, 0], hole)


def test_an_object_without_a_mask_is_taken_away() -> None:
    shown, gone = (outline_marker(HEADER, 3, "liver", (1, 0, 0), outlines) for outlines in ([SQUARE], []))
    assert gone.action == Marker.DELETE and (gone.ns, gone.id) == (shown.ns, shown.id)
    assert over_the_wire(gone) == gone


def test_a_cloud_has_each_objects_points_with_its_label() -> None:
    cloud = over_the_wire(label_cloud(HEADER, [(1, SQUARE), (7, SQUARE[:2] + 1), (8, np.zeros((0, 3)))]))
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, PointField.FLOAT32),
        ("y", 4, PointField.FLOAT32),
        ("z", 8, PointField.FLOAT32),
        ("label", 12, PointField.UINT8),
    ]
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 6, 13, 78)
    read = np.frombuffer(cloud.data, {"names": ["xyz", "label"], "formats": ["(3,)<f4", "u1"]})
    assert np.allclose(read["xyz"], np.concatenate([SQUARE, SQUARE[:2] + 1]))
    assert read["label"].tolist() == [1, 1, 1, 1, 7, 7]
    empty = over_the_wire(label_cloud(HEADER, []))
    assert isinstance(empty, PointCloud2) and empty.width == 0 and not empty.data
