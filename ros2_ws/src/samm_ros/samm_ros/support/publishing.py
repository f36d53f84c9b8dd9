# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A publisher that numbers what it sends, so that a subscriber can count what is lost.

What it sends goes to this process's own subscribers as it is, see intra_process.py, and is made a message for others alone.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.time import Time
from samm_msgs.msg import SliceMask, SliceRequest

from .. import conversions, topics
from . import intra_process

Message = TypeVar("Message")


def stamped(node: Node, message: Message, frame_id: str = topics.FRAME_ID) -> Message:
    """`message`, with its header stamped in ROS time and its frame named."""
    message.header.stamp = node.get_clock().now().to_msg()
    message.header.frame_id = frame_id
    return message


class NumberedPublisher:
    """Sends what `to_msg(value, sequence, stamp)` makes of a value, with whose sequence it is. Thread-safe.

    Numbers are given to what is sent: while nobody listens, or subscriptions to its values in this process alone, nothing is.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        qos: QoSProfile,
        to_msg: Callable[[Any, int, Any], Any],
    ) -> None:
        self._node, self._topic = node, node.resolve_topic_name(topic)
        self._clock = node.get_clock()
        self._publisher = node.create_publisher(message_type, topic, qos)
        self._to_msg = to_msg
        self._sequence = itertools.count(1)
        # A process that is started again counts from 1 again: the mark tells the two sequences apart.
        self._identity = f"{node.get_fully_qualified_name()} {uuid.uuid4().hex[:8]}"
        intra_process.publishes(node, self._identity)
        # Numbered and sent under one lock, so that a gap in the numbers is a loss and nothing else.
        self._lock = threading.Lock()

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return self._publisher.get_subscription_count() > 0

    def publish(self, value: object, at: Time | None = None) -> int:
        """Send `value`, stamped with `at` or the time now; the nanoseconds of CLOCK_MONOTONIC at which it was handed over.

        Taken before the hand-over: after it, the receiver may already have stamped an event of its own.
        """
        handed_over_ns = time.monotonic_ns()
        here = intra_process.subscriptions(self._node, self._topic)
        # Each of them is a subscription to the topic too.
        if self._publisher.get_subscription_count() > len(here):
            with self._lock:
                message = self._to_msg(value, next(self._sequence), (at or self._clock.now()).to_msg())
                message.header.frame_id = topics.FRAME_ID
                if hasattr(message, "publisher"):
                    message.publisher = self._identity
                handed_over_ns = time.monotonic_ns()
                self._publisher.publish(message)
        for subscription in here:
            subscription.deliver(value)
        return handed_over_ns


def request_publisher(node: Node, topic: str) -> NumberedPublisher:
    """Sends Requests; the newest of each client wins."""
    return NumberedPublisher(node, SliceRequest, topic, topics.OF_ALL_CLIENTS, conversions.request_to_msg)


def answer_publisher(node: Node, topic: str) -> NumberedPublisher:
    """Sends Answers; the newest of each client wins."""
    return NumberedPublisher(node, SliceMask, topic, topics.OF_ALL_CLIENTS, conversions.answer_to_msg)
