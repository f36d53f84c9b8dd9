# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A ROS node for tests: publishes anything, keeps what it hears, waits for it with a limit."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from samm_ros.support.services import response_to


class Peer:
    """One node in a context of its own; a context manager."""

    def __init__(self, namespace: str) -> None:
        self.heard: dict[str, list] = defaultdict(list)
        self._clients: dict[str, Client] = {}
        self._changed = threading.Condition()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self.node = Node("peer", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(timeout=2.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def listen(self, message_type: type, topic: str, qos: QoSProfile) -> None:
        def keep(message: object) -> None:
            with self._changed:
                self.heard[topic].append(message)
                self._changed.notify_all()

        subscription = self.node.create_subscription(message_type, topic, keep, qos)
        self._until(lambda: subscription.get_publisher_count() > 0, f"a publisher of {topic}", 60.0)

    def publisher(
        self, message_type: type, topic: str, qos: QoSProfile, timeout_s: float = 60.0
    ) -> Publisher:
        """A publisher that somebody listens to already."""
        publisher = self.node.create_publisher(message_type, topic, qos)
        self._until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}", timeout_s)
        return publisher

    def wait_for(self, topic: str, wanted: Callable[[object], bool], timeout_s: float = 90.0) -> object:
        """The first message on `topic` that is wanted, heard already or to come."""

        def found() -> bool:
            return any(map(wanted, self.heard[topic]))

        with self._changed:
            assert self._changed.wait_for(found, timeout_s), (
                f"nothing wanted on {topic} within {timeout_s} s; heard {len(self.heard[topic])}, "
                f"the last {self.heard[topic][-1:]}"
            )
            return next(filter(wanted, self.heard[topic]))

    def publish_until(
        self, publisher: Publisher, message: object, topic: str, wanted: Callable[[object], bool]
    ) -> object:
        """Publish every second until something wanted is heard.

        What is sent while the two sides still discover each other is lost, and only one of them knows when that is over.
        """
        return self.do_until(lambda: publisher.publish(message), topic, wanted)

    def do_until(self, act: Callable[[], object], topic: str, wanted: Callable[[object], bool]) -> object:
        """As publish_until, for anything that makes somebody publish."""
        for _ in range(30):
            act()
            with self._changed:
                if self._changed.wait_for(lambda: any(map(wanted, self.heard[topic])), 1.0):
                    return next(filter(wanted, self.heard[topic]))
        raise AssertionError(f"nothing wanted on {topic} after 30 tries; heard {self.heard[topic][-1:]}")

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """For what no message tells."""
        self._until(lambda: bool(condition()), what, timeout_s)

    def pause(self, seconds: float) -> None:
        """Between two moves of a user."""
        with self._changed:
            self._changed.wait_for(lambda: False, seconds)

    def call(self, service_type: type, name: str, request: object, timeout_s: float = 60.0) -> object:
        response = response_to(self._client(service_type, name, timeout_s), request, timeout_s)
        assert response is not None, f"{name} did not answer within {timeout_s} s"
        return response

    def call_once(self, service_type: type, name: str, request: object, timeout_s: float = 60.0) -> object:
        """As call, for what takes long and is refused meanwhile; of a service that has answered this peer before.

        The response to a first call may be lost, since the service may not have discovered this peer yet.
        """
        answered = threading.Event()
        future = self._client(service_type, name, timeout_s).call_async(request)
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(timeout_s), f"{name} did not answer within {timeout_s} s"
        return future.result()

    def _client(self, service_type: type, name: str, timeout_s: float) -> Client:
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
        client = self._clients[name]
        assert client.wait_for_service(timeout_s), f"there is no service {name}"
        return client

    def _until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        with self._changed:
            # Discovery tells nobody when it has happened: look again every 20 ms.
            for _ in range(int(timeout_s / 0.02)):
                if condition():
                    return
                self._changed.wait(0.02)
        raise AssertionError(f"there was no {what} within {timeout_s} s")

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()
