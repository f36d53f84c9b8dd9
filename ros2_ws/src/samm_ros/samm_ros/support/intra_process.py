# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Values that go from node to node of one process as they are, on the thread that publishes them.

A hop through DDS makes a message of a value, bytes of the message, and the same back, and wakes a thread: 1 ms and more. The
topic has every message all the same, as soon as anybody else listens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from samm_core.errors import SammError

from . import unread
from .direct import DirectSubscription

_lock = threading.Lock()
# By context and full name of a topic; replaced, never changed, so that it is read without the lock.
_subscriptions: dict[tuple[Context, str], tuple[ValueSubscription, ...]] = {}
# Of the publishers of this process, by context, what their messages name as `publisher`.
_publishers: set[tuple[Context, bytes]] = set()


def publishes(node: Node, identity: str) -> None:
    """A publisher of this node delivers what it sends; its messages name it so."""
    _publishers.add((node.context, identity.encode()))


def subscriptions(node: Node, topic: str) -> tuple[ValueSubscription, ...]:
    """Those in this process, on the topic as `node` names it, in the order in which they were made."""
    return _subscriptions.get((node.context, topic), ())


class ValueSubscription(DirectSubscription):
    """Calls `callback` with each value: delivered by a publisher of this process, or read from another's message.

    The callback comes on the publisher's thread or on one of its own, one at a time. Messages have a header, a sequence and a
    publisher as their first fields. read: makes the value of a message, or raises a SammError, with which `on_damaged` gets
    the message.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[object], None],
        qos: QoSProfile,
        read: Callable[[object], object],
        on_damaged: Callable[[object, SammError], None],
    ) -> None:
        self._on_value, self._read, self._on_damaged = callback, read, on_damaged
        self._one_at_a_time = threading.RLock()
        # Until it is known to publishers of this process, it takes their messages from the topic. What is on its way at
        # that moment may be lost, as anything on these topics may: SND_INF sends a request again.
        self._is_known = False
        self._context = node.context
        self._closed_to_values = False
        super().__init__(node, message_type, topic, self._on_message, qos)
        self._key = node.context, node.resolve_topic_name(topic)
        with _lock:
            _subscriptions[self._key] = (*_subscriptions.get(self._key, ()), self)
            self._is_known = True

    def destroy(self) -> None:
        with _lock:
            others = tuple(each for each in _subscriptions.get(self._key, ()) if each is not self)
            _subscriptions[self._key] = others
            if not others:
                del _subscriptions[self._key]
        # What is being delivered ends first: not to be called from it.
        with self._one_at_a_time:
            self._closed_to_values = True
        super().destroy()

    def deliver(self, value: object) -> None:
        """Call the callback with a value of this process; its exception is logged."""
        with self._one_at_a_time:
            if not self._closed_to_values:
                self._call(value, self._on_value)

    def _take(self, handle: object) -> object:
        taken = handle.take_message(self._subscription.msg_type, True)
        if not taken or self._was_delivered(taken[0]):
            return None
        return taken[0]

    def _was_delivered(self, data: bytes) -> bool:
        return self._is_known and (self._context, unread.publisher_of(data)) in _publishers

    def _on_message(self, data: bytes) -> None:
        message = deserialize_message(data, self._subscription.msg_type)
        try:
            value = self._read(message)
        except SammError as error:
            self._on_damaged(message, error)
            return
        with self._one_at_a_time:
            self._on_value(value)
