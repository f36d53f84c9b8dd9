# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures as sensor_msgs/Image: through cv_bridge where ROS has it, which the Python wheels of ROS lack."""

from __future__ import annotations

from array import array

import numpy as np
from sensor_msgs.msg import Image

try:
    from cv_bridge import CvBridge
except ImportError:
    CvBridge = None


def image_to_msg(picture: np.ndarray) -> Image:
    """(H, W, 3) uint8 RGB."""
    if CvBridge:
        return CvBridge().cv2_to_imgmsg(picture, encoding="rgb8")
    height, width, _ = picture.shape
    data = array("B", picture.tobytes())
    return Image(height=height, width=width, encoding="rgb8", step=3 * width, data=data)
