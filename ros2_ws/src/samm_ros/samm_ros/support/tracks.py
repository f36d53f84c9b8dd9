# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is followed in a live stream, as messages; and the stream's properties, as parameters."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from rclpy.node import Node
from samm_msgs.msg import Track

from samm_core.sources.window import Window
from samm_core.stream.session import Followed
from samm_core.stream.tracker import Tracked
from samm_core.stream.view import StreamView, parse_region

from . import parameters


def stream_view(node: Node) -> StreamView:
    """The view that the node's parameters name. Raises FrameError for a region that is none, VolumeError for a window."""
    region = parameters.declare(
        node, "region", "", "What of an image is looked at: x,y,width,height in pixels, auto, or empty: all."
    )
    flip_x = parameters.declare(node, "flip_x", False, "Mirror images left to right.")
    flip_y = parameters.declare(node, "flip_y", False, "Mirror images top to bottom.")
    deinterlace = parameters.declare(node, "deinterlace", False, "Make whole images of interlaced fields.")
    limits = (0.0, 65535.0)
    lower = parameters.declare_number(
        node, "image_lower", 0.0, "Of 16 bits: shown black; equal to image_upper: chosen.", limits
    )
    upper = parameters.declare_number(node, "image_upper", 0.0, "Of 16 bits: shown white.", limits)
    window = None if lower == upper else Window(lower, upper)
    return StreamView(parse_region(region), flip_x, flip_y, deinterlace, window)


def image_masks(followed: Followed, view: StreamView) -> list[np.ndarray | None]:
    """The objects' masks, (H, W) bool, of the image as it came; None for an object without."""
    return [
        None if each.mask is None else view.mask_to_image(each.mask, followed.shape)
        for each in followed.tracked
    ]


def label_image(
    shape: tuple[int, int], tracked: Sequence[Tracked], masks: Sequence[np.ndarray | None]
) -> np.ndarray:
    """(H, W) uint8: the label of the object that each pixel belongs to, the later one of two; 0: none."""
    labels = np.zeros(shape, np.uint8)
    for each, mask in zip(tracked, masks, strict=True):
        if mask is not None:
            labels[mask] = each.label
    return labels


def picture_of(image: np.ndarray, view: StreamView) -> np.ndarray:
    """The image as it came, (H, W, 3) uint8 RGB; 16 bits in the view's window."""
    if image.dtype == np.uint16:
        image = view.window.to_uint8(image) if view.window else np.zeros(image.shape, np.uint8)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def track_to_msg(tracked: Tracked, mask: np.ndarray | None) -> Track:
    """mask: as image_masks gives it."""
    message = Track(
        name=tracked.name,
        label=tracked.label,
        state=int(tracked.state),
        cause=tracked.cause,
        encoded=tracked.encoded,
        age=float(tracked.age_s),
        score=float(tracked.score),
        agreement=float(tracked.agreement),
        client_id=tracked.client_id,
        cycle=tracked.cycle,
        error=tracked.error,
    )
    x, y, width, height = (0, 0, 0, 0) if mask is None else cv2.boundingRect(mask.view(np.uint8))
    if width:
        # Of the box alone: of a whole image they take a millisecond.
        inside = mask[y : y + height, x : x + width].view(np.uint8)
        moments = cv2.moments(np.ascontiguousarray(inside), binaryImage=True)
        message.area = int(moments["m00"])
        message.box_xyxy = np.array([x, y, x + width - 1, y + height - 1], np.float32)
        centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"] + (x, y)
        message.centre_xy = centre.astype(np.float32)
    return message
