# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is lost is counted: the senders' own counts against what a slow listener made of the sequence numbers."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from samm_msgs import msg

from samm_core.errors import LaunchError
from samm_core.latency.analysis import analyse, losses_of
from samm_core.latency.events import TaskEvent
from samm_ros import topics
from samm_ros.support.direct import DirectSubscription

from .graph import Graph
from .row import Row, Run
from .stale import SPOT

_RATE_HZ, _CLIENTS = 400, 4
# The listener keeps the newest message alone, and takes so long for each.
_SLOW_S = 0.1
# What waits at the listener, one message a topic, is read by then.
_IDLE_S, _GIVEN_UP_S = 1.0, 60.0
# How a prompt can end, as the latency of a session counts it.
_ENDS = ("applied", "refused", "superseded", "dropped", "unanswered")


@dataclass(frozen=True)
class _Hop:
    """A topic of the cycle. counts: of its sender's diagnostics, which together are the messages that it sent."""

    topic: str
    kind: type
    sender: str
    counts: tuple[str, ...]


_HOPS = (
    _Hop(topics.SLICE_REQUESTS, msg.SliceRequest, "snd_inf", ("sent", "sent again")),
    _Hop(topics.ACCEPTED_REQUESTS, msg.SliceRequest, "rcv_inf", ("accepted",)),
    _Hop(topics.MASKS, msg.SliceMask, "cpl_inf", ("completed", "refused")),
    _Hop(topics.RECEIVED_MASKS, msg.SliceMask, "rcv_msk", ("received",)),
)
_SLOWEST = QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1)


@dataclass(frozen=True)
class _Counted:
    """At one moment: what each sender had sent, and the number of the newest message that the listener had, by topic."""

    sent: dict[str, int]
    newest: dict[str, int]


def losses(run: Run, graph: Graph) -> Iterator[Row]:
    """Loss is counted: 400 prompts a second of four clients go through the graph, and a listener reads it too slowly.

    On each topic of the cycle the sender counts in its diagnostics what it sent. The listener has what came to it, and
    counts by the sequence numbers what did not: both together have to be what was sent, exactly. Every prompt has to
    have one end in the trace; where some have none and the trace lost events too, that is not judged.
    """
    with _Listener(graph.namespace) as listener:
        events = len(graph.pointer.event_numbers)
        graph.pointer.send_and_wait(SPOT, "first")
        listener.wait_until_all_heard(graph)
        begun = listener.counted(graph)
        run.say(f"{_RATE_HZ} prompts a second of {_CLIENTS} clients")
        sent = _prompt(graph, run.size.overload_s)
        listener.wait_until_idle(graph)
        # The last message of each topic has to come, or nobody could tell that it did not.
        graph.pointer.send_and_wait(SPOT, "last")
        ended = listener.counted(graph)
    for hop in _HOPS:
        yield listener.row(hop, begun, ended)
    numbers = graph.pointer.event_numbers[events:]
    lost_events = sum(loss.lost for loss in losses_of((topics.TASK_EVENTS, *each) for each in numbers))
    yield _ends(list(graph.pointer.events), sent, lost_events)


class _Listener:
    """Hears the topics of the cycle slowly, and all that their senders count; a context manager."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        # By topic, the sender's numbers of what was heard.
        self._heard: dict[str, list[int]] = defaultdict(list)
        self._counts: dict[str, dict[str, str]] = {}
        self._reports: Counter[str] = Counter()
        self._over = threading.Event()

    def __enter__(self) -> _Listener:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = Node("slow_listener", namespace=self._namespace, context=self._context)
        self._subscriptions = [
            DirectSubscription(
                self._node, hop.kind, hop.topic, functools.partial(self._on_message, hop), _SLOWEST
            )
            for hop in _HOPS
        ]
        self._subscriptions.append(
            DirectSubscription(
                self._node, DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, QoSProfile(depth=100)
            )
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for subscription in self._subscriptions:
            subscription.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def wait_until_all_heard(self, graph: Graph) -> None:
        """Until a prompt was heard on every topic: what is sent before that is not counted. Raises LaunchError."""
        deadline = time.monotonic() + _GIVEN_UP_S
        while silent := [hop.topic for hop in _HOPS if not self._heard.get(hop.topic)]:
            if time.monotonic() > deadline:
                raise LaunchError(f"Nothing was heard on {', '.join(silent)} for {_GIVEN_UP_S:g} s.")
            graph.pointer.send_and_wait(SPOT, "first")

    def counted(self, graph: Graph) -> _Counted:
        """Once nothing moves any more. Raises LaunchError."""
        self.wait_until_idle(graph)
        before = Counter(self._reports)
        deadline = time.monotonic() + _GIVEN_UP_S
        # The first report may have been under way.
        while any(self._reports[hop.sender] < before[hop.sender] + 2 for hop in _HOPS):
            if time.monotonic() > deadline:
                raise LaunchError("The nodes do not report on /diagnostics.")
            time.sleep(0.05)
        sent = {
            hop.topic: sum(int(self._counts[hop.sender].get(each, 0)) for each in hop.counts) for hop in _HOPS
        }
        return _Counted(sent, {topic: max(numbers, default=0) for topic, numbers in self._heard.items()})

    def wait_until_idle(self, graph: Graph) -> None:
        """Until all is applied, and what waited here is read."""
        graph.wait_until_settled()
        time.sleep(_IDLE_S)

    def row(self, hop: _Hop, begun: _Counted, ended: _Counted) -> Row:
        sent = ended.sent[hop.topic] - begun.sent[hop.topic]
        before = begun.newest.get(hop.topic, 0)
        delivered = len({number for number in self._heard[hop.topic] if number > before})
        lost = ended.newest.get(hop.topic, 0) - before - delivered
        return Row(
            f"messages on {hop.topic}: sent = delivered + lost",
            "exactly",
            f"{sent} = {delivered} + {lost}"
            if sent == delivered + lost
            else f"{sent} ≠ {delivered} + {lost}",
            sent == delivered + lost,
        )

    def _on_message(self, hop: _Hop, message: msg.SliceRequest | msg.SliceMask) -> None:
        # Refusals are on `masks` too, under other senders' names.
        if f"/{hop.sender} " in message.publisher:
            self._heard[hop.topic].append(message.sequence)
        self._over.wait(_SLOW_S)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            namespace, _, name = status.name.partition(":")[0].rpartition("/")
            if namespace == self._namespace:
                self._counts[name] = {each.key: each.value for each in status.values}
                self._reports[name] += 1


def _prompt(graph: Graph, seconds: float) -> dict[str, set[int]]:
    """By client, the cycles that were sent."""
    sent: dict[str, set[int]] = defaultdict(set)
    began = time.monotonic()
    for number in range(int(seconds * _RATE_HZ)):
        time.sleep(max(0.0, began + number / _RATE_HZ - time.monotonic()))
        client = f"counted {number % _CLIENTS}"
        sent[client].add(graph.pointer.send(SPOT.moved(number / _RATE_HZ), client).cycle)
    return sent


def _ends(trace: Sequence[TaskEvent], sent: dict[str, set[int]], lost_events: int) -> Row:
    """lost_events: how many of the trace did not come."""
    events = [event for event in trace if event.client_id in sent]
    ends: Counter[str] = Counter()
    for client in analyse(events).clients:
        ends += Counter({kind: getattr(client, kind) for kind in _ENDS})
    total = sum(map(len, sent.values()))
    missing = total - ends.total()
    strange = sum(event.cycle not in sent[event.client_id] for event in events)
    told = " + ".join(f"{ends[kind]} {kind}" for kind in _ENDS if ends[kind])
    measured = f"{total} {'≠' if missing else '='} {told or 0}"
    if strange:
        measured += f"; {strange} events are of prompts that were not sent"
    if lost_events:
        measured += f"; the trace itself lost {lost_events} events"
    return Row(
        "prompts: sent = delivered + superseded + lost",
        "exactly",
        measured,
        None if missing > 0 and lost_events and not strange else not missing and not strange,
    )
