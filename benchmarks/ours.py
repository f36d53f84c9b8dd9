# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""This graph in the race: launched as `samm up` does, prompted as any client would."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
import uuid
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from geometry_msgs.msg import Point
from rclpy.node import Node
from rclpy.serialization import serialize_message
from samm_msgs import msg

from samm_core.cycle.request import CycleCounter
from samm_core.errors import LaunchError
from samm_core.geometry import Plane
from samm_core.latency.cycles import Cycle, complete_cycles
from samm_core.latency.events import Outcome, Task, TaskEvent, event_of
from samm_ros import topics
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import launch
from samm_ros.support.direct import DirectSubscription

from .design import MOUSE_HZ, Design, Drag, Spot, Timed

ANSWER_S, RESEND_S = 60.0, 1.0


class Pointer:
    """A ROS node that prompts and reads the trace; a context manager. Knows when each prompt left."""

    def __init__(self, namespace: str) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = Node("pointer", namespace=namespace, context=self._context)
        self._prompts = self._node.create_publisher(msg.Prompt, topics.PROMPTS, topics.NEWEST)
        self._changed = threading.Condition()
        self._counter = CycleCounter()
        self.sent_ns: dict[int, int] = {}
        self.received_ns: dict[int, int] = {}
        self.applied: set[int] = set()
        self._completed: dict[int, set[Task]] = defaultdict(set)
        self.events: list[TaskEvent] = []
        # Of each event its node and that node's number of it, by which those that were lost are known.
        self.event_numbers: list[tuple[str, int]] = []
        self._subscriptions = (
            DirectSubscription(
                self._node, msg.SliceMask, topics.RECEIVED_MASKS, self._on_mask, topics.OF_ALL_CLIENTS
            ),
            DirectSubscription(self._node, msg.TaskEvent, topics.TASK_EVENTS, self._on_event, topics.EVENTS),
        )

    def __enter__(self) -> Pointer:
        return self

    def __exit__(self, *exception: object) -> None:
        for subscription in self._subscriptions:
            subscription.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def prompt(self, spot: Spot, client_id: str) -> msg.Prompt:
        """A prompt as a cycle of its own."""
        message = msg.Prompt(client_id=client_id, segment=client_id, cycle=self._counter.next())
        message.image.plane, message.image.index = int(Plane.AXIAL), spot.index
        message.coordinates = msg.Prompt.PIXEL
        if spot.points is None:
            x0, y0, x1, y1 = spot.box.tolist()
            message.has_box, message.box_min, message.box_max = True, Point(x=x0, y=y0), Point(x=x1, y=y1)
        else:
            message.points = [Point(x=x, y=y) for x, y in spot.points.tolist()]
            message.labels = array("B", [1] * len(spot.points))
        return message

    def send(self, spot: Spot, client_id: str) -> msg.Prompt:
        """Publish a prompt as a cycle of its own."""
        message = self.prompt(spot, client_id)
        self.publish(message.cycle, message)
        return message

    def publish(self, cycle: int, message: msg.Prompt | bytes) -> None:
        """Publish the prompt of a cycle, as it is or serialised."""
        self.sent_ns[cycle] = time.monotonic_ns()
        self._prompts.publish(message)

    def again(self, message: msg.Prompt) -> None:
        """Publish a prompt that may have been lost: as the same cycle it is the same prompt."""
        self._prompts.publish(message)

    def send_and_wait(self, spot: Spot, client_id: str, applied: bool = True) -> int:
        """Publish a prompt and wait until its mask is applied, or else received; its cycle."""
        message = self.send(spot, client_id)
        seen = self.applied if applied else self.received_ns
        deadline = time.monotonic() + ANSWER_S
        with self._changed:
            while not self._changed.wait_for(lambda: message.cycle in seen, RESEND_S):
                if time.monotonic() > deadline:
                    raise LaunchError(f"There was no mask within {ANSWER_S:g} s; see the logs of the nodes.")
                self.again(message)
        return message.cycle

    def cycles(self) -> dict[int, Cycle]:
        """The cycles of this pointer that are whole, by number."""
        with self._changed:
            # The applied mask's event may overtake the others'.
            self._changed.wait_for(
                lambda: all(len(self._completed[cycle]) == len(Task) for cycle in self.applied), 1.0
            )
            events = list(self.events)
        return {cycle.cycle: cycle for cycle in complete_cycles(events) if cycle.cycle in self.sent_ns}

    def timed(self, cycles: Sequence[Cycle]) -> list[Timed]:
        return [
            Timed(
                (cycle.ended_ns[Task.APL_MSK] - self.sent_ns[cycle.cycle]) / 1e6,
                cycle.parts_ms["decode"],
                cycle.parts_ms["queue"],
            )
            for cycle in cycles
            if cycle.completion
        ]

    def _on_mask(self, message: msg.SliceMask) -> None:
        now = time.monotonic_ns()
        with self._changed:
            self.received_ns.setdefault(message.cycle, now)
            self._changed.notify_all()

    def _on_event(self, message: msg.TaskEvent) -> None:
        event = event_of(message)
        with self._changed:
            self.events.append(event)
            self.event_numbers.append((message.node, message.sequence))
            if event.cycle in self.sent_ns and event.outcome == Outcome.COMPLETED:
                self._completed[event.cycle].add(event.task)
                if event.task == Task.APL_MSK:
                    self.applied.add(event.cycle)
            self._changed.notify_all()


class Ours(Design):
    """The graph in two processes, server and client side; the pointer is in this one."""

    name = "samm_ros"

    def __init__(
        self,
        model: str = "lite_medsam",
        checkpoint: str = "",
        backend: str = "auto",
        sweep: bool = False,
        trace: bool = True,
        **arguments: str,
    ) -> None:
        self.namespace = f"bench_{uuid.uuid4().hex[:8]}"
        flags = {"bridge": "false", "sweep": str(sweep).lower(), "trace": str(trace).lower()}
        self._arguments = {"namespace": self.namespace, "model": model, "checkpoint": checkpoint}
        self._arguments |= {"backend": backend, **flags, **arguments}

    def __enter__(self) -> Ours:
        self._folder = tempfile.TemporaryDirectory()
        self.supervisor = launch(self._arguments, Path(self._folder.name))
        os.environ.update(environment())
        self.supervisor.start()
        self._pointer = Pointer(self.namespace)
        self._pointer.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._pointer.__exit__()
        self.supervisor.stop()
        self._folder.cleanup()

    @property
    def processes(self) -> list[int]:
        return list(self.supervisor.processes.values())

    def first_mask(self, path: Path, spot: Spot, said: Callable[[str], None]) -> float:
        with GraphClient(self.namespace, "loader", self.supervisor.check) as client:
            # Of another volume before it, so that this client and the graph have found each other.
            client.load(self._loaded)
            started = time.perf_counter()
            client.load(path)
            self._pointer.send_and_wait(spot, "pointer")
            return time.perf_counter() - started

    def load(self, path: Path, spot: Spot) -> None:
        with GraphClient(self.namespace, "loader", self.supervisor.check) as client:
            client.load(path)
        self._loaded = path
        self._pointer.send_and_wait(spot, "pointer")

    def load_untraced(self, path: Path, spot: Spot) -> None:
        """As load, for a graph that may have no trace."""
        with GraphClient(self.namespace, "loader", self.supervisor.check) as client:
            client.load(path)
        self._pointer.send_and_wait(spot, "pointer", applied=False)

    def clicks(self, spots: Sequence[Spot]) -> list[Timed]:
        return self._pointer.timed(self.cycles(spots))

    def cycles(self, spots: Sequence[Spot]) -> list[Cycle]:
        """As clicks, as the trace has them."""
        numbers = [self._pointer.send_and_wait(spot, "pointer") for spot in spots]
        cycles = self._pointer.cycles()
        return [cycles[number] for number in numbers if number in cycles]

    def round_trip(self, spot: Spot) -> float:
        """Milliseconds from a prompt's leaving to its mask's coming in here, with or without a trace."""
        number = self._pointer.send_and_wait(spot, "pointer", applied=False)
        return (self._pointer.received_ns[number] - self._pointer.sent_ns[number]) / 1e6

    def drag(self, spot: Spot, clients: int, seconds: float) -> Drag:
        names = [f"pointer-{number}" for number in range(clients)]
        pointer = self._pointer
        for name in names:
            pointer.send_and_wait(spot, name)
        first = max(pointer.sent_ns)
        moves = int(seconds * MOUSE_HZ) * clients
        # The pointers' moves are spread over the interval, as those of people are.
        times = [move / MOUSE_HZ / clients for move in range(moves)]
        # Made before: as many clients make theirs on computers of their own.
        prompts = [
            pointer.prompt(spot.moved(at), name)
            for at, name in zip(times, itertools.cycle(names), strict=False)
        ]
        serialised = [(prompt.cycle, serialize_message(prompt)) for prompt in prompts]
        before, started = self.processor_s(), time.perf_counter()
        for at, (cycle, data) in zip(times, serialised, strict=True):
            time.sleep(max(0.0, started + at - time.perf_counter()))
            pointer.publish(cycle, data)
        taken = time.perf_counter() - started
        cores = (self.processor_s() - before) / taken
        cycles = [cycle for number, cycle in pointer.cycles().items() if number > first]
        by_client = [sum(cycle.client_id == name for cycle in cycles) for name in names]
        return Drag(taken, moves, pointer.timed(cycles), by_client, cores)
