# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Calls of services over real DDS: a response that never comes is asked for again, and the wait has a limit."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from peer import Peer
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from samm_msgs.srv import SelectModel

from samm_ros.support import services


class Server(Peer):
    """Answers `select_model` from its second request on; the first waits, as one whose response was dropped."""

    def __init__(self, namespace: str, answers: bool) -> None:
        super().__init__(namespace)
        self.requests = 0
        self.ended = threading.Event()
        self._answers = answers
        self._pool = MultiThreadedExecutor(4, context=self.node.context)
        self._executor.remove_node(self.node)
        self.node.create_service(
            SelectModel, "select_model", self._on_request, callback_group=ReentrantCallbackGroup()
        )
        self._pool.add_node(self.node)
        threading.Thread(target=self._pool.spin, daemon=True).start()

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self._pool.shutdown(timeout_sec=1.0)
        super().__exit__(*exception)

    def _on_request(
        self, request: SelectModel.Request, response: SelectModel.Response
    ) -> SelectModel.Response:
        self.requests += 1
        if self.requests == 1 or not self._answers:
            self.ended.wait(60)
        response.success = True
        return response


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(services, "AGAIN_S", 0.5)
    yield f"test_{uuid.uuid4().hex[:12]}"


def test_a_request_without_a_response_is_made_again(namespace: str) -> None:
    with Server(namespace, answers=True) as server, Peer(namespace) as peer:
        assert peer.call(SelectModel, "select_model", SelectModel.Request(name="x"), 30.0).success
        assert server.requests >= 2


def test_a_service_that_never_responds_is_waited_for_no_longer_than_the_limit(namespace: str) -> None:
    with Server(namespace, answers=False) as server, Peer(namespace) as peer:
        client = peer.node.create_client(SelectModel, "select_model")
        assert client.wait_for_service(30.0)
        assert services.response_to(client, SelectModel.Request(name="x"), 2.0) is None
        assert server.requests >= 1
