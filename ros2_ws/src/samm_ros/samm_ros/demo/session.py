# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Plays a session through a running graph: load, prompt after prompt, embed ahead, save."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from samm_core.cycle.request import Answer
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.cycles import Cycle, complete_cycles
from samm_core.latency.events import Task
from samm_core.prompts import Prompt

from ..client import GraphClient
from ..conversions import LoadedVolume
from .report import Shot, Summary
from .script import Step

# Each prompt is drawn as by a user who opens the box: so many cycles on a slice that is embedded by then.
DRAG_STEPS = 5


@dataclass
class Session:
    """What was prompted and what came back, in order."""

    volume: LoadedVolume
    load_s: float
    first_mask_s: float = float("nan")
    shots: list[Shot] = field(default_factory=list)
    cold_cycles: set[int] = field(default_factory=set)
    slices_per_second: float = 0.0


def play(
    client: GraphClient, path: Path, window_preset: str, steps: Sequence[Step], console: Console
) -> Session:
    """Load the volume and send every step's prompt, the next when the last is answered.

    Raises the graph's refusals as they come.
    """
    console.print(f"Loading {path.name} …")
    asked = time.monotonic()
    session = Session(client.load(path, window_preset), load_s=0.0)
    loaded = time.monotonic()
    session.load_s = loaded - asked
    geometry = session.volume.geometry
    with _bars(console) as bars:
        prompts = bars.add_task("prompts", total=len(steps))
        embedded = bars.add_task("embedded slices", total=_slice_total(geometry))
        seen: set[tuple[Plane, int]] = set()
        for step in steps:
            index, _ = step.prompt.on_slice(geometry)
            for prompt in _drag(step.prompt):
                answer = client.prompt(prompt, step.segment)
                if not session.shots and not session.cold_cycles:
                    session.first_mask_s = time.monotonic() - loaded
                if (step.prompt.plane, index) not in seen:
                    seen.add((step.prompt.plane, index))
                    session.cold_cycles.add(answer.cycle)
                _settle(client, answer)
            session.shots.append(Shot(step.segment, step.prompt, index, answer))
            bars.advance(prompts)
            if client.status:
                bars.update(embedded, completed=sum(client.status.done))
    return session


def embed_ahead(client: GraphClient, session: Session, limit_s: float, console: Console) -> None:
    """Let the server embed the whole volume for at most `limit_s`, and measure how fast it does."""
    with _bars(console) as bars:
        bar = bars.add_task("embedding ahead", total=_slice_total(session.volume.geometry))
        samples: list[tuple[float, int]] = []

        def on_status(status: object) -> None:
            samples.append((time.monotonic(), sum(status.done)))
            bars.update(bar, completed=sum(status.done))

        client.embed(list(Plane), on_status, limit_s)
    # The sweep rests for a moment after the last prompt: count from the first slice that it embedded.
    moving = [sample for before, sample in zip(samples, samples[1:], strict=False) if sample[1] > before[1]]
    if len(moving) > 1:
        session.slices_per_second = (moving[-1][1] - moving[0][1]) / (moving[-1][0] - moving[0][0])


def summarize(client: GraphClient, session: Session) -> Summary:
    """The figures of the session, from the trace."""
    cycles = [c for c in complete_cycles(client.events) if c.client_id == client.client_id]
    cold: list[Cycle] = [c for c in cycles if c.cycle in session.cold_cycles]
    warm = [c for c in cycles if c.cycle not in session.cold_cycles]
    return Summary(
        model=session.shots[-1].answer.model,
        device=client.status.device if client.status else "",
        volume=session.volume.name,
        masks=len(session.shots),
        empty_masks=sum(not shot.mask.any() for shot in session.shots),
        load_s=session.load_s,
        first_mask_s=session.first_mask_s,
        slices_per_second=session.slices_per_second,
        cold=cold,
        warm=warm,
    )


def _settle(client: GraphClient, answer: Answer) -> None:
    """Wait until the mask is applied: the next prompt is a new cycle."""

    def applied() -> bool:
        return any(e.task == Task.APL_MSK and e.cycle == answer.cycle for e in reversed(client.events))

    client.wait_for(applied, "the mask to be applied", 60.0)


def _drag(prompt: Prompt) -> list[Prompt]:
    """The prompt as its user draws it; the last is the prompt itself. Points are set at once."""
    if prompt.box is None:
        return [prompt]
    center = prompt.box.mean(axis=0)
    sizes = np.linspace(0.8, 1.0, DRAG_STEPS)
    return [replace(prompt, box=center + size * (prompt.box - center)) for size in sizes[:-1]] + [prompt]


def _slice_total(geometry: VolumeGeometry) -> int:
    return sum(geometry.slice_count(plane) for plane in Plane)


def _bars(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=console)
