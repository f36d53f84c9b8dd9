# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Tracks as vision_msgs; where ROS lacks those, as a stand-in of version 4.1.1 that takes their fields and no others."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovariance
from samm_msgs.msg import Track, Tracks
from std_msgs.msg import Header

from samm_ros.support import detections


def stand_in() -> SimpleNamespace:
    """The messages of vision_msgs 4.1.1 that are used: their fields, and what an empty one has in them."""

    def message(name: str, **fields: Any) -> type:
        return make_dataclass(
            name,
            [(each, Any, field(default_factory=empty)) for each, empty in fields.items()],
            slots=True,
            kw_only=True,
        )

    point = message("Point2D", x=float, y=float)
    pose = message("Pose2D", position=point, theta=float)
    box = message("BoundingBox2D", center=pose, size_x=float, size_y=float)
    hypothesis = message("ObjectHypothesis", class_id=str, score=float)
    posed = message("ObjectHypothesisWithPose", hypothesis=hypothesis, pose=PoseWithCovariance)
    return SimpleNamespace(
        BoundingBox2D=box,
        ObjectHypothesisWithPose=posed,
        Detection2D=message("Detection2D", header=Header, results=list, bbox=box, id=str),
        Detection2DArray=message("Detection2DArray", header=Header, detections=list),
        VisionClass=message("VisionClass", class_id=int, class_name=str),
        LabelInfo=message("LabelInfo", header=Header, class_map=list, threshold=float),
    )


@pytest.fixture(autouse=True)
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    if detections.vision_msgs is None:
        monkeypatch.setattr(detections, "vision_msgs", stand_in())


def tracks_of(*tracks: Track) -> Tracks:
    message = Tracks(header=Header(frame_id="camera"), tracks=list(tracks))
    message.header.stamp.sec = 7
    return message


def test_a_detection_is_the_box_around_the_pixels_of_an_object_that_is_drawn() -> None:
    box = np.array([10, 20, 29, 20], np.float32)
    liver = Track(name="liver", label=3, state=Track.UNCERTAIN, score=0.75, box_xyxy=box, area=20)
    lost = Track(name="spleen", label=1, state=Track.LOST)
    told = detections.detections(tracks_of(lost, liver))
    assert told.header.frame_id == "camera" and told.header.stamp.sec == 7
    (one,) = told.detections
    assert one.header == told.header and one.id == "liver"
    # Twenty pixels of one row, from the outer edge of the first to that of the last.
    assert (one.bbox.size_x, one.bbox.size_y) == (20.0, 1.0)
    centre = one.bbox.center
    assert (centre.position.x, centre.position.y, centre.theta) == (19.5, 20.0, 0.0)
    (result,) = one.results
    assert result.hypothesis.class_id == "3" and result.hypothesis.score == 0.75
    # By convention it lies between 0 and 1.
    liver.score = 1.5
    (one,) = detections.detections(tracks_of(liver)).detections
    assert one.results[0].hypothesis.score == 1.0


def test_label_info_names_the_labels_of_the_label_image() -> None:
    told = detections.label_info(Header(frame_id="camera"), {3: "liver", 1: "spleen"})
    named = [(each.class_id, each.class_name) for each in told.class_map]
    assert named == [(0, detections.BACKGROUND), (1, "spleen"), (3, "liver")]
    assert told.header.frame_id == "camera"
