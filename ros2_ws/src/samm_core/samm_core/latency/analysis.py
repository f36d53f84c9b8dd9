# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a session's task events say: cycles, their phases, how long each task took, what was lost. Knows neither ROS nor bags."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .cycles import PARTS, Cycle, complete_cycles
from .events import Outcome, Task, TaskEvent

PERCENTILES = (50, 90, 95, 99)
# A cycle this many times as long as the later half's median still belongs to the initialisation …
INITIAL_FACTOR = 2.0
# … which ends where so many in a row do not.
STABLE_RUN = 5
# Beyond the upper quartile by so many times the quartiles' distance: an outlier (Tukey's far out is 3).
OUTLIER_FACTOR = 3.0
RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """Milliseconds of one task, or of whole cycles. percentiles: of PERCENTILES, in order."""

    name: str
    count: int
    percentiles: tuple[float, ...]
    most: float


@dataclass(frozen=True)
class Loss:
    """One publisher's messages on one topic, by their sequence numbers: sent = delivered + lost, exactly.

    sent: from the first that was heard to the last. delivered: different ones. duplicates: heard once more.
    """

    topic: str
    publisher: str
    sent: int
    delivered: int
    duplicates: int
    reordered: int

    @property
    def lost(self) -> int:
        return self.sent - self.delivered


@dataclass(frozen=True)
class Client:
    """How the cycles of one client ended; begun = the sum of the others."""

    client_id: str
    begun: int
    applied: int
    refused: int
    superseded: int
    dropped: int
    unanswered: int


@dataclass(frozen=True)
class Phase:
    """Cycles one after the other. parts: rows of PARTS, where CPL_INF told. hits: slices that were embedded already.

    rate: a second. jitter: standard deviation of the time between their ends, ms.
    """

    name: str
    cycles: tuple[Cycle, ...]
    rows: tuple[Row, ...]
    parts: tuple[Row, ...]
    hits: int
    rate: float
    jitter: float


@dataclass(frozen=True)
class Followed:
    """The images of a live stream on which objects were followed. row: ms from an image that came in to its tracks.

    dropped: images that were not used, for a newer one was there already. refused: images that could not be read.
    """

    row: Row
    dropped: int
    refused: int


@dataclass(frozen=True)
class Report:
    """What analyse found. skewed: cycles whose stamps are out of order, as those of two hosts' clocks: they are left out.

    followed: None where no live stream was recorded.
    """

    phases: tuple[Phase, ...]
    outcomes: dict[Task, dict[Outcome, int]]
    clients: tuple[Client, ...]
    outliers: tuple[Cycle, ...]
    skewed: int
    losses: tuple[Loss, ...] = field(default=())
    followed: Followed | None = None

    @property
    def stable(self) -> Phase:
        return self.phases[-1]

    @property
    def cycles(self) -> tuple[Cycle, ...]:
        return tuple(cycle for phase in self.phases for cycle in phase.cycles)


def analyse(
    events: Iterable[TaskEvent], losses: Sequence[Loss] = (), followed: Followed | None = None
) -> Report:
    """events: in any order, some twice or missing."""
    events = list(dict.fromkeys(events))
    cycles = complete_cycles(events)
    first = initial_length(cycles)
    phases = [_phase("initialisation", cycles[:first]), _phase("stable", cycles[first:])]
    outcomes: dict[Task, Counter[Outcome]] = {task: Counter() for task in Task}
    for event in events:
        outcomes[event.task][event.outcome] += 1
        # Those that were overtaken before they were sent have no event of their own.
        outcomes[event.task] += Counter({Outcome.SUPERSEDED: event.overtaken})
    return Report(
        tuple(phase for phase in phases if phase.cycles) or (_phase("stable", []),),
        {task: dict(counts) for task, counts in outcomes.items()},
        tuple(_clients(events)),
        tuple(_outliers(cycles[first:])),
        _whole(events) - len(cycles),
        tuple(losses),
        followed,
    )


def initial_length(cycles: Sequence[Cycle]) -> int:
    """How many of the first cycles belong to the initialisation: found from their lengths alone."""
    totals = np.array([cycle.total_ms for cycle in cycles])
    if len(totals) < 2 * STABLE_RUN:
        return 0
    limit = INITIAL_FACTOR * float(np.median(totals[len(totals) // 2 :]))
    slow = totals > limit
    for start in range(len(totals) // 2):
        if not slow[start : start + STABLE_RUN].any():
            return start
    return len(totals) // 2


def losses_of(heard: Iterable[tuple[str, str, int]]) -> list[Loss]:
    """heard: topic, publisher and sequence number of each message, in the order of arrival."""
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    for topic, publisher, sequence in heard:
        numbers[topic, publisher].append(sequence)
    result = []
    for (topic, publisher), sequences in sorted(numbers.items()):
        different = set(sequences)
        behind = sum(later < earlier for earlier, later in zip(sequences, sequences[1:], strict=False))
        sent = max(different) - min(different) + 1
        result.append(Loss(topic, publisher, sent, len(different), len(sequences) - len(different), behind))
    return result


def followed_of(times: Sequence[tuple[int, int]], dropped: int, refused: int) -> Followed | None:
    """times: of each image, when it came in and when its tracks were handed over, ns; None: there was no image."""
    if not times:
        return None
    return Followed(_row("image to tracks", [(end - start) / 1e6 for start, end in times]), dropped, refused)


def ratio_of_medians(
    one: Sequence[float], other: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
    """median(one) ÷ median(other) with its 95 % bootstrap interval (percentile method, RESAMPLES resamples)."""
    chance = np.random.default_rng(seed)
    one, other = np.asarray(one, float), np.asarray(other, float)
    ratios = [
        np.median(chance.choice(one, len(one))) / np.median(chance.choice(other, len(other)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(np.median(one) / np.median(other)), float(low), float(high)


def describe_followed(followed: Followed) -> str:
    """A live stream in one line."""
    row = followed.row
    percentiles = ", ".join(
        f"p{p} {value:.1f}" for p, value in zip(PERCENTILES, row.percentiles, strict=True)
    )
    return (
        f"{row.count} images of a live stream, ms to their tracks: {percentiles}, max {row.most:.1f}; "
        f"{followed.dropped} were dropped for a newer one, {followed.refused} could not be read"
    )


def describe(phase: Phase) -> str:
    """A phase in one line."""
    hits = f", {phase.hits} of them on an embedded slice" if phase.parts else ""
    return f"{len(phase.cycles)} cycles{hits}, {phase.rate:.2f} a second, jitter {phase.jitter:.1f} ms"


def as_json(report: Report) -> dict:
    """Plain numbers and texts."""
    return {
        "phases": [
            {
                "name": phase.name,
                "cycles": len(phase.cycles),
                "rate": phase.rate,
                "jitter_ms": phase.jitter,
                "hits": phase.hits,
                "rows": [_row_as_json(row) for row in phase.rows],
                "parts": [_row_as_json(row) for row in phase.parts],
            }
            for phase in report.phases
        ],
        "outcomes": {
            task.name: {outcome.name: count for outcome, count in counts.items()}
            for task, counts in report.outcomes.items()
        },
        "clients": [vars(client) for client in report.clients],
        "outliers": [
            {"cycle": c.cycle, "client_id": c.client_id, "total_ms": c.total_ms} for c in report.outliers
        ],
        "skewed": report.skewed,
        "losses": [{**vars(loss), "lost": loss.lost} for loss in report.losses],
        "followed": report.followed
        and {
            **_row_as_json(report.followed.row),
            "dropped": report.followed.dropped,
            "refused": report.followed.refused,
        },
    }


def _row_as_json(row: Row) -> dict:
    percentiles = {f"p{p}_ms": value for p, value in zip(PERCENTILES, row.percentiles, strict=True)}
    return {"name": row.name, "count": row.count, **percentiles, "max_ms": row.most}


def _phase(name: str, cycles: Sequence[Cycle]) -> Phase:
    rows = [_row(task.name, [cycle.interval_ms(task) for cycle in cycles]) for task in Task]
    rows.append(_row("cycle", [cycle.total_ms for cycle in cycles]))
    told = [cycle.parts_ms for cycle in cycles if cycle.completion]
    parts = [_row(part, [parts_ms[part] for parts_ms in told]) for part in PARTS] if told else []
    hits = sum(cycle.completion.embedding_hit for cycle in cycles if cycle.completion)
    ends = np.sort([cycle.ended_ns[Task.APL_MSK] for cycle in cycles]) if cycles else np.zeros(0)
    seconds = (ends[-1] - min(cycle.started_ns for cycle in cycles)) / 1e9 if len(cycles) else 0.0
    jitter = float(np.std(np.diff(ends)) / 1e6) if len(ends) > 2 else 0.0
    rate = len(cycles) / seconds if seconds > 0 else 0.0
    return Phase(name, tuple(cycles), tuple(rows), tuple(parts), hits, rate, jitter)


def _row(name: str, values_ms: Sequence[float]) -> Row:
    if not values_ms:
        return Row(name, 0, (float("nan"),) * len(PERCENTILES), float("nan"))
    percentiles = tuple(float(value) for value in np.percentile(values_ms, PERCENTILES))
    return Row(name, len(values_ms), percentiles, float(max(values_ms)))


def _outliers(cycles: Sequence[Cycle]) -> list[Cycle]:
    if len(cycles) < 4:
        return []
    low, high = np.percentile([cycle.total_ms for cycle in cycles], (25, 75))
    return [cycle for cycle in cycles if cycle.total_ms > high + OUTLIER_FACTOR * (high - low)]


def _clients(events: Sequence[TaskEvent]) -> list[Client]:
    """Each cycle counts once, by what became of it last."""
    cycles: dict[str, dict[int, set[tuple[Task, Outcome]]]] = defaultdict(lambda: defaultdict(set))
    overtaken: Counter[str] = Counter()
    for event in events:
        cycles[event.client_id][event.cycle].add((event.task, event.outcome))
        overtaken[event.client_id] += event.overtaken
    clients = []
    for client_id, ended in sorted(cycles.items()):
        counts = Counter(_end(outcomes) for outcomes in ended.values())
        counts["superseded"] += overtaken[client_id]
        kinds = ("applied", "refused", "superseded", "dropped", "unanswered")
        clients.append(Client(client_id, counts.total(), *(counts[kind] for kind in kinds)))
    return clients


def _end(outcomes: set[tuple[Task, Outcome]]) -> str:
    if (Task.APL_MSK, Outcome.COMPLETED) in outcomes:
        return "applied"
    kinds = {outcome for _, outcome in outcomes}
    for outcome in (Outcome.REFUSED, Outcome.SUPERSEDED, Outcome.DROPPED):
        if outcome in kinds:
            return outcome.name.lower()
    return "unanswered"


def _whole(events: Sequence[TaskEvent]) -> int:
    """Cycles all of whose tasks completed, whatever their stamps say."""
    tasks: dict[tuple[str, int], set[Task]] = defaultdict(set)
    for event in events:
        if event.outcome == Outcome.COMPLETED:
            tasks[event.client_id, event.cycle].add(event.task)
    return sum(len(done) == len(Task) for done in tasks.values())
