# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The server's nodes in one process: CPL_INF, segment_volume and track read an embedding where the encoder left it."""

from __future__ import annotations

from ..support import process
from .cpl_inf import CplInf
from .embedding import EmbeddingNode
from .rcv_inf import RcvInf
from .segment_volume import SegmentVolumeNode
from .track import TrackNode
from .weights import WeightsNode


def main() -> None:
    with process.ros_with_model():
        embedding = EmbeddingNode()
        rcv_inf, cpl_inf = RcvInf(), CplInf(lambda node: embedding.engine)
        segment_volume = SegmentVolumeNode(embedding.engine, cpl_inf.is_prompted)
        track = TrackNode(embedding.engine)
        # Loading and embedding take seconds and minutes; on threads of their own they delay no request.
        with process.spinning_aside(embedding), process.spinning_aside(segment_volume, WeightsNode()):
            # The model last: it takes seconds, and meanwhile the others can say what is missing.
            process.autostart(rcv_inf, cpl_inf, embedding)
            process.spin(rcv_inf, cpl_inf, track)
