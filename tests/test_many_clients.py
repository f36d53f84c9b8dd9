# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Many clients on one graph: the newest prompt of each is answered, whatever the others do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from peer import Peer
from rclpy.qos import QoSProfile, ReliabilityPolicy
from samm_msgs.msg import Prompt, SegmentationStatus, TaskEvent

from samm_core.cycle.request import MAX_CLIENTS, ClientPrompt, CycleCounter
from samm_core.geometry import Plane
from samm_core.latency.events import Outcome, Task
from samm_core.prompts import pixel_box
from samm_ros import conversions, topics
from samm_ros.client import GraphClient

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(300)]

BURSTS, PERIOD_S = 8, 0.1
# Prompts per second of a client beside them.
BESIDE = 1000


def box(number: int, shift: float) -> object:
    """Of one of four slices; each client and burst has its own."""
    return pixel_box(Plane.AXIAL, 60 + number % 4, 40 + shift, 60, 120 + number % 16, 150)


@contextmanager
def neighbour(namespace: str) -> Iterator[None]:
    """A client that goes from slice to slice, with BESIDE prompts per second."""
    done = threading.Event()
    with Peer(namespace) as peer:
        publisher = peer.publisher(Prompt, topics.PROMPTS, topics.NEWEST)

        def run() -> None:
            number = 0
            while not done.wait(1 / BESIDE):
                number += 1
                prompt = pixel_box(Plane.AXIAL, 60 + number % 4, 40, 60, 120, 150)
                publisher.publish(
                    conversions.prompt_to_msg(ClientPrompt.of(prompt, "neighbour", f"s{number % 4}"))
                )

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def test_the_newest_prompt_of_each_of_64_clients_in_step_is_applied_beside_a_thousand_per_second(
    shared_graph: str,
) -> None:
    with GraphClient(shared_graph, "first") as client:
        for number in range(4):
            client.prompt(box(number, 0.0))
    with Peer(shared_graph) as peer:
        peer.listen(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
        # Events of a thousand prompts per second wait here while this process publishes them.
        deep = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, depth=50_000)
        peer.listen(TaskEvent, topics.TASK_EVENTS, deep)
        names = [f"client {number}" for number in range(MAX_CLIENTS)]
        publishers = [peer.publisher(Prompt, topics.PROMPTS, topics.NEWEST) for _ in names]
        counter, newest = CycleCounter(), {}
        with neighbour(shared_graph):
            publish_in_step(peer, publishers, names, counter, newest)
            wait_until_settled(peer, newest)

        def without_event() -> list[str]:
            heard = list(peer.heard[topics.TASK_EVENTS])
            done = {(e.task, e.client_id, e.cycle) for e in heard if e.outcome == Outcome.COMPLETED}
            return [
                f"{task.name} of {name}, cycle {cycle}"
                for task in Task
                for name, cycle in newest.items()
                if (task, name, cycle) not in done
            ]

        # And each that was applied has the events of all five tasks.
        try:
            peer.wait_until(lambda: not without_event(), "event of each task of each newest cycle", 20.0)
        except AssertionError as error:
            raise AssertionError(
                f"{error}; {len(without_event())} are missing, as {without_event()[:5]}"
            ) from None


def publish_in_step(
    peer: Peer, publishers: list, names: list[str], counter: CycleCounter, newest: dict[str, int]
) -> None:
    for burst in range(BURSTS):
        for number, (name, publisher) in enumerate(zip(names, publishers, strict=True)):
            newest[name] = counter.next()
            prompt = ClientPrompt.of(box(number, burst / 2), name, f"s{number % 4}")
            publisher.publish(conversions.prompt_to_msg(replace(prompt, cycle=newest[name])))
        peer.pause(PERIOD_S)


def wait_until_settled(peer: Peer, newest: dict[str, int]) -> None:
    def unsettled() -> list[str]:
        status = peer.heard[topics.SEGMENTATION_STATUS][-1]
        settled = {client.client_id: client.settled for client in status.clients}
        return [name for name, cycle in newest.items() if settled.get(name, 0) < cycle]

    try:
        peer.wait_until(lambda: not unsettled(), "settled newest prompt of each client", 90.0)
    except AssertionError as error:
        raise AssertionError(f"{error}; {len(unsettled())} were not, as {unsettled()[:5]}") from None
