# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Draws segments over a slice, for a viewer."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np


def draw_overlay(
    image: np.ndarray, labels: np.ndarray, colors: Mapping[int, tuple[float, float, float]], stale: bool
) -> np.ndarray:
    """The slice with each label's outline and a light fill: (H, W, 3) uint8 RGB, as `image`.

    labels: (H, W) uint8, 0 is background. colors: RGB from 0 to 1 by label.
    stale: the masks do not answer the newest prompt; the picture is dimmed and its border is amber.
    """
    picture = image.copy()
    for label in np.unique(labels[labels > 0]):
        color = np.array(colors[int(label)]) * 255
        inside = labels == label
        picture[inside] = (0.7 * picture[inside] + 0.3 * color).astype(np.uint8)
        outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color.tolist(), 1)
    if stale:
        picture = picture // 2
        cv2.rectangle(picture, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), (255, 191, 0), 3)
    return picture
