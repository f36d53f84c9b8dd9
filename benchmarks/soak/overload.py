# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""More prompts than can be answered: what the newest of each client waits, and what queues."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from samm_msgs.msg import Prompt

from samm_core.errors import LaunchError
from samm_core.latency.analysis import losses_of
from samm_core.latency.cycles import Cycle
from samm_core.latency.events import Outcome, Task, TaskEvent
from samm_ros import topics

from ..design import Spot
from .clients import meanwhile
from .graph import Graph
from .recordings import prompting, recorder
from .row import LEAST_CYCLES, Row, Run, count, percentile
from .stale import SPOT

FLOOD_HZ = 1000
_TIMES = 2.0
# Of the rate, for a flood to count as one.
_ENOUGH = 0.9
_SETTLED_S = 120.0
# A prompt may get lost before SND_INF has it, and is published again then, as clients do.
_AGAIN_S = 1.0
_TRACE_S = 2.0


@dataclass(frozen=True)
class _Times:
    """Milliseconds of the cycles of some prompts. expected: of how many prompts there should be one."""

    ms: Sequence[float]
    expected: int

    @property
    def p99(self) -> float:
        return percentile(self.ms, 99)


def overload(run: Run, graph: Graph) -> Iterator[Row]:
    """Overload is bounded: one client prompts 1000 times a second, 64 clients prompt at once, a listener does not read.

    All are on one slice that is embedded. What is compared is p99 of a cycle by the trace, from the prompt's arrival at
    SND_INF to the mask applied: of one client at rest, and of 64 clients at once with nobody beside them. Queued are the
    requests of one client that wait in CPL_INF at the same time. The listener is a recorder that is stopped by SIGSTOP.
    A p99 is judged of 100 cycles or more. A prompt that had to be answered and has no cycle is a miss; where the trace lost
    events too, that is not judged.
    """
    pointer = graph.pointer
    begun = len(pointer.event_numbers)
    pointer.send_and_wait(SPOT, "alone")
    with run.interruptible():
        alone = _one_by_one(graph, "alone", run.size.prompts)
        run.say(f"one client at rest: p99 {alone.p99:.0f} ms")

        first = _now(graph)
        with _flood(graph, "flood", run.size.overload_s) as sent:
            pass
        _wait_for(graph, sent[-1:])
        during = _of_flood(graph, first)
        name = f"newest prompt of one client that sends {FLOOD_HZ} a second"
        rate_hz = _rate(sent, pointer.sent_ns)
        yield _row(name, alone, during, "one client at rest", _lost_events(graph, begun), rate_hz)

        together = _in_step(run, graph)
        run.say(f"{run.size.clients} clients at once: p99 {together.p99:.0f} ms")
        with _flood(graph, "flood") as sent:
            beside = _in_step(run, graph)
        name = f"newest prompt of each of {run.size.clients} clients beside {FLOOD_HZ} a second"
        rate_hz = _rate(sent, pointer.sent_ns)
        yield _row(name, together, beside, "without the flood", _lost_events(graph, begun), rate_hz)

        with contextlib.ExitStack() as recording:
            with prompting(graph):
                recording.enter_context(recorder(graph, graph.folder / "slow")).send_signal(signal.SIGSTOP)
            slow = _one_by_one(graph, "beside a slow reader", run.size.prompts)
        name = "a prompt beside a listener that does not read"
        yield _row(name, alone, slow, "one client at rest", _lost_events(graph, begun))
        most = most_waiting(pointer.events, first)
        yield Row("requests of a client that wait for the decoder", "≤ 1", str(most), most <= 1)


def _row(
    name: str, base: _Times, during: _Times, what: str, lost_events: int, rate_hz: float = FLOOD_HZ
) -> Row:
    """lost_events: of the trace. rate_hz: that of the flood as it was sent, which this program may be too slow for."""
    told = f"{during.p99:.0f} ms, {during.p99 / base.p99:.2f}× {base.p99:.0f} ms"
    told += f" ({count(len(during.ms), during.expected)} cycles)"
    met = None
    if len(during.ms) < during.expected or len(base.ms) < base.expected:
        if len(base.ms) < base.expected:
            told += f"; {what}, only {count(len(base.ms), base.expected)} cycles"
        if lost_events:
            told += f"; the trace itself lost {lost_events} events"
        else:
            told += "; the others are missing"
            met = False
    elif rate_hz < _ENOUGH * FLOOD_HZ:
        told += f"; only {rate_hz:.0f} a second could be sent"
    elif min(len(base.ms), len(during.ms)) < LEAST_CYCLES:
        told += "; too few to judge"
    else:
        met = during.p99 <= _TIMES * base.p99
    return Row(f"{name}, p99", f"≤ {_TIMES:g}× {what}", told, met)


def _lost_events(graph: Graph, begun: int) -> int:
    """Of the trace, since so many of its events had come."""
    # Without a later event nobody could tell that the last one did not come.
    graph.pointer.send_and_wait(SPOT, "alone")
    numbers = graph.pointer.event_numbers[begun:]
    return sum(loss.lost for loss in losses_of((topics.TASK_EVENTS, *each) for each in numbers))


def _rate(sent: Sequence[Prompt], sent_ns: Mapping[int, int]) -> float:
    """Prompts a second."""
    return (len(sent) - 1) / max(1e-9, (sent_ns[sent[-1].cycle] - sent_ns[sent[0].cycle]) / 1e9)


def most_waiting(events: Iterable[TaskEvent], since_ns: int = 0) -> int:
    """The most requests of one client that waited in CPL_INF at the same time, for their slice or for the decoder."""
    edges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        c = event.completion
        if event.task == Task.CPL_INF and c and c.received_ns >= since_ns:
            edges[event.client_id] += [(c.received_ns, 1), (c.decode_started_ns, -1)]
    most = 0
    for changes in edges.values():
        waiting = 0
        for _, change in sorted(changes):
            waiting += change
            most = max(most, waiting)
    return most


def _one_by_one(graph: Graph, client_id: str, prompts: int) -> _Times:
    """Of one client that waits for each mask."""
    first = _now(graph)
    for number in range(prompts):
        graph.pointer.send_and_wait(SPOT.moved(number / 60), client_id)
    return _Times([c.total_ms for c in _cycles(graph, first) if c.client_id == client_id], prompts)


def _of_flood(graph: Graph, since_ns: int) -> _Times:
    """Of the client `flood`. Most of its prompts are superseded, as they should be; none should be refused."""
    answered = [c.total_ms for c in _cycles(graph, since_ns) if c.client_id == "flood"]
    refused = {
        event.cycle
        for event in list(graph.pointer.events)
        if event.client_id == "flood" and event.started_ns >= since_ns and event.outcome == Outcome.REFUSED
    }
    return _Times(answered, len(answered) + len(refused))


def _in_step(run: Run, graph: Graph) -> _Times:
    """Of the newest prompt of each of the clients, which prompt at the same time."""
    first, newest = _now(graph), set()
    for number in range(run.size.rounds):
        sent = []
        for client in range(run.size.clients):
            spot = Spot(SPOT.index, SPOT.box + client % 8)
            sent.append(graph.pointer.send(spot.moved(number / 60), f"client {client}"))
        _wait_for(graph, sent)
        newest |= {message.cycle for message in sent}
    # The trace comes a moment after what it tells of.
    deadline = time.monotonic() + _TRACE_S
    while len(ms := [c.total_ms for c in _cycles(graph, first) if c.cycle in newest]) < len(newest):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return _Times(ms, len(newest))


def _wait_for(graph: Graph, newest: Sequence[Prompt]) -> None:
    """Until each of these prompts, or a newer one of its client, is applied or refused. Raises LaunchError."""

    def waiting() -> list[Prompt]:
        settled = {c.client_id: c.settled for c in graph.client.segmentation.clients}
        return [message for message in newest if settled.get(message.client_id, 0) < message.cycle]

    deadline = time.monotonic() + _SETTLED_S
    while left := waiting():
        if time.monotonic() > deadline:
            raise LaunchError(f"{len(left)} of {len(newest)} newest prompts were not answered.")
        with contextlib.suppress(LaunchError):
            graph.client.wait_for(lambda: not waiting(), "the newest prompts", _AGAIN_S)
        for message in waiting():
            graph.pointer.again(message)


@contextlib.contextmanager
def _flood(graph: Graph, client_id: str, seconds: float = 0.0) -> Iterator[list[Prompt]]:
    """FLOOD_HZ prompts a second: for so long, or as long as the context lasts. The prompts, as they are sent."""
    sent: list[Prompt] = []

    def run(over: threading.Event) -> None:
        began = time.monotonic()
        while not over.is_set() and not (seconds and time.monotonic() - began > seconds):
            due = began + len(sent) / FLOOD_HZ
            time.sleep(max(0.0, due - time.monotonic()))
            spot = SPOT.moved(len(sent) / FLOOD_HZ)
            sent.append(graph.pointer.send(spot, client_id))

    with meanwhile(run) as thread:
        yield sent
        if seconds:
            thread.join()


def _now(graph: Graph) -> int:
    graph.wait_until_settled()
    return time.monotonic_ns()


def _cycles(graph: Graph, since_ns: int) -> list[Cycle]:
    return [cycle for cycle in graph.pointer.cycles().values() if cycle.started_ns >= since_ns]
