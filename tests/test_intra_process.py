# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a node publishes reaches the nodes of its process as it is, and everybody else as a message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from peer import Peer
from rclpy.node import Node
from samm_msgs.msg import SliceMask

from samm_core.cycle.request import Answer
from samm_core.geometry import Plane
from samm_core.sources.base import ImageId, SliceKey
from samm_ros import conversions, topics
from samm_ros.support.intra_process import ValueSubscription
from samm_ros.support.publishing import NumberedPublisher, answer_publisher

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(60)]


def answer(cycle: int) -> Answer:
    return Answer(cycle, "a", "liver", ImageId("x", SliceKey(Plane.AXIAL, 3)), (8, 8), error="None.")


class Here:
    """A node that publishes and one that hears it, in one process; a context of their own."""

    def __init__(self, namespace: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self.nodes = [Node(name, namespace=namespace, context=self.context) for name in ("one", "two")]
        self.publisher: NumberedPublisher = answer_publisher(self.nodes[0], topics.RECEIVED_MASKS)
        self.values: list[Answer] = []
        self.damaged: list[str] = []
        self.subscription = ValueSubscription(
            self.nodes[1],
            SliceMask,
            topics.RECEIVED_MASKS,
            self.values.append,
            topics.OF_ALL_CLIENTS,
            conversions.answer_from_msg,
            lambda message, error: self.damaged.append(str(error)),
        )

    def end(self) -> None:
        self.subscription.destroy()
        for node in self.nodes:
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def here(namespace: str) -> Iterator[Here]:
    made = Here(namespace)
    yield made
    made.end()


def test_a_value_is_handed_over_once_and_sent_to_whoever_else_listens(namespace: str, here: Here) -> None:
    alone = answer(1)
    here.publisher.publish(alone)
    assert here.values == [alone] and here.values[0] is alone
    with Peer(namespace) as peer:
        peer.listen(SliceMask, topics.RECEIVED_MASKS, topics.OF_ALL_CLIENTS)
        elsewhere = peer.publisher(SliceMask, topics.RECEIVED_MASKS, topics.OF_ALL_CLIENTS)
        heard = peer.do_until(
            lambda: here.publisher.publish(answer(2)), topics.RECEIVED_MASKS, lambda m: m.cycle == 2
        )
        # What nobody else could hear has no number: a gap is a loss.
        assert heard.sequence == 1
        here.values.clear()
        stamp = heard.header.stamp
        # After it, all that was published here would have come by the topic too.
        peer.wait_until(
            lambda: elsewhere.publish(conversions.answer_to_msg(answer(3), 1, stamp)) or here.values,
            "value of another process",
        )
        assert {value.cycle for value in here.values} == {3}
        message = conversions.answer_to_msg(answer(4), 2, stamp)
        message.checksum += 1
        peer.wait_until(lambda: elsewhere.publish(message) or here.damaged, "damaged message")
        assert "damaged" in here.damaged[0]


def test_nothing_is_handed_over_to_what_is_destroyed(here: Here) -> None:
    here.subscription.destroy()
    here.publisher.publish(answer(1))
    assert not here.values
