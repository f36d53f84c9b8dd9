# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Records a running graph's topics into a bag, as `ros2 bag record` does where ROS is installed.

In: the topics of RECORDED, as bytes: nothing is decoded.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from samm_msgs import msg

from samm_core.errors import BagError
from samm_core.latency.bag import BagWriter, Topic
from samm_core.latency.definitions import definition_of
from samm_core.latency.events import Task

from .. import topics
from ..support.direct import BytesSubscription, close_all

FLUSH_S = 0.1
_SYNC_S = 1.0
# The graph's own readers want the newest alone, a recording wants all: on a busy machine it reads seconds late, and a
# client may publish a thousand prompts per second.
_DEPTH = 10_000
# It takes what has come since, all at once: rclpy's executor takes half a millisecond for each message.
_APART_S = 0.02

# Not the overlay: recordings hold no pixels.
RECORDED = {
    topics.TASK_EVENTS: (msg.TaskEvent, topics.EVENTS),
    topics.PROMPTS: (msg.Prompt, topics.OF_ALL_CLIENTS),
    topics.SLICE_REQUESTS: (msg.SliceRequest, topics.OF_ALL_CLIENTS),
    topics.ACCEPTED_REQUESTS: (msg.SliceRequest, topics.OF_ALL_CLIENTS),
    topics.MASKS: (msg.SliceMask, topics.OF_ALL_CLIENTS),
    topics.RECEIVED_MASKS: (msg.SliceMask, topics.OF_ALL_CLIENTS),
    topics.VOLUME_INFO: (msg.VolumeInfo, topics.LATCHED),
    topics.VOLUMES: (msg.VolumeList, topics.LATCHED),
    topics.MODEL_INFO: (msg.ModelInfo, topics.LATCHED),
    topics.EMBEDDING_STATUS: (msg.EmbeddingStatus, topics.LATCHED),
    topics.SEGMENTATION_STATUS: (msg.SegmentationStatus, topics.LATCHED),
    topics.TRACKS: (msg.Tracks, topics.OF_A_STREAM),
}


class Recorder(Node):
    """Writes what it hears, each topic on a thread of its own, and flushes it every FLUSH_S.

    Where it cannot be written any more, its executor gets a BagError.
    """

    def __init__(self, writer: BagWriter, **node_arguments: object) -> None:
        super().__init__("recorder", **node_arguments)
        self._writer = writer
        self._subscriptions_of: dict[str, BytesSubscription] = {}
        for name, (kind, qos) in RECORDED.items():
            topic = self.resolve_topic_name(name)
            type_name, definition = definition_here(kind)
            writer.add(Topic(topic, type_name, definition, qos_text(qos)))
            deep = QoSProfile(
                reliability=qos.reliability,
                durability=qos.durability,
                history=HistoryPolicy.KEEP_LAST,
                depth=_DEPTH,
            )
            write = functools.partial(self._write, topic)
            self._subscriptions_of[name] = BytesSubscription(self, kind, name, write, deep, apart_s=_APART_S)
        # ROS time may stand still, or not run at all.
        self.create_timer(FLUSH_S, writer.flush, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._ended = threading.Event()
        # Nothing waits for the disk.
        self._syncing = threading.Thread(target=self._sync, name="sync", daemon=True)
        self._syncing.start()

    def destroy_node(self) -> None:
        for name, subscription in self._subscriptions_of.items():
            self._write(self.resolve_topic_name(name), subscription)
        close_all(self)
        self._ended.set()
        self._syncing.join()
        super().destroy_node()

    def hears_graph(self) -> bool:
        """Whether every task's events and every node's topics reach it by now: discovery takes a moment."""
        tasks = self._subscriptions_of[topics.TASK_EVENTS].publishers
        return tasks >= len(Task) and all(
            subscription.publishers >= max(1, self.count_publishers(name))
            for name, subscription in self._subscriptions_of.items()
            if name != topics.PROMPTS
        )

    def _write(self, topic: str, subscription: BytesSubscription) -> None:
        with contextlib.suppress(BagError):  # the next flush tells
            for data, came_ns in subscription.take_all():
                self._writer.write(topic, data, time.time_ns() - (time.monotonic_ns() - came_ns))

    def _sync(self) -> None:
        with contextlib.suppress(BagError):  # likewise
            while not self._ended.wait(_SYNC_S):
                self._writer.sync()


def definition_here(kind: type) -> tuple[str, str]:
    """The name of a message type of this release and its definition, with all that it uses."""
    type_name = f"samm_msgs/msg/{kind.__name__}"
    return type_name, definition_of(type_name, lambda package: Path(get_package_share_directory(package)))


def qos_text(qos: QoSProfile) -> str:
    """A profile as rosbag2 keeps it in a bag: YAML, a list of one, infinite where the graph sets no time."""
    infinite = "{sec: 9223372036, nsec: 854775807}"
    reliability = "reliable" if qos.reliability == ReliabilityPolicy.RELIABLE else "best_effort"
    latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return (
        f"- {{history: keep_last, depth: {qos.depth}, reliability: {reliability}, "
        f"durability: {'transient_local' if latched else 'volatile'}, deadline: {infinite}, lifespan: {infinite}, "
        f"liveliness: automatic, liveliness_lease_duration: {infinite}, avoid_ros_namespace_conventions: false}}\n"
    )
