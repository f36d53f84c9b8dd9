# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm soak` at its smallest: each requirement can be measured; what is exact, and what does not depend on time, holds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak.endurance import bag_reader, endurance
from benchmarks.soak.graph import Graph
from benchmarks.soak.kills import bridge, kills
from benchmarks.soak.losses import losses
from benchmarks.soak.overload import overload
from benchmarks.soak.recordings import recordings
from benchmarks.soak.row import SMALLEST, Row, Run, Size, slope
from benchmarks.soak.stale import stale
from samm_core.errors import SammError

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """With a cache of ten slices."""
    with Graph(tmp_path_factory.mktemp("log"), cache_gib=0.02) as running:
        yield running


@pytest.fixture
def run() -> Run:
    return Run(SMALLEST, print)


def test_what_was_sent_is_delivered_superseded_or_counted_as_lost(run: Run, graph: Graph) -> None:
    rows = list(losses(run, graph))
    assert len(rows) == 5
    assert all(row.met for row in rows), rows


def test_a_killed_client_loses_nothing_and_the_masks_after_it_are_right(run: Run, graph: Graph) -> None:
    rows = {row.name: row for row in kills(run, graph, ["samm_client"])}
    exact = [
        "any process may die, one process a side: recovered",
        "masks before and after kills, one process a side",
        "applied masks that a kill lost, one process a side",
    ]
    assert all(rows[name].met for name in exact), rows


@pytest.mark.parametrize("requirement", [overload, recordings, bag_reader, bridge, endurance])
def test_a_requirement_yields_what_it_measured(
    run: Run, graph: Graph, requirement: Callable[[Run, Graph], Iterator[Row]]
) -> None:
    rows = list(requirement(run, graph))
    assert rows and all(row.measured for row in rows), rows


def test_a_stopped_server_is_seen_and_goes_on(run: Run, graph: Graph) -> None:
    rows = list(stale(run, graph, ["stopped"]))
    assert len(rows) == 2 and all(row.measured.endswith("at most (1 times)") for row in rows), rows


def test_growth_is_told_with_how_well_it_is_known() -> None:
    hours = np.linspace(0, 1, 240)
    noise = np.random.default_rng(0).normal(0, 0.5, len(hours))
    growth, within = slope(hours, 100 + 3 * hours + noise)
    assert abs(growth - 3) < within < 1
    assert slope(hours[:2], [1, 2])[1] == float("inf"), "two values tell no uncertainty"


def test_fewer_minutes_are_fewer_kills() -> None:
    assert Size.of(60).kills == Size.of(600).kills == 100
    assert Size.of(60).soak_s == 3600 > Size.of(3).soak_s == 180
    assert Size.of(3).kills == 5


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    soak.add_arguments(parser)
    return parser.parse_args(words)


def test_ctrl_c_ends_with_the_table_so_far(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path) -> None:
    def until_interrupted(*_: object) -> Iterator[Row]:
        yield Row("a first requirement", "all", "3 of 3", True)
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, "measured", until_interrupted)
    monkeypatch.setenv("SAMM_ROOT", str(tmp_path))
    assert soak.main(arguments("--write")) == 130
    shown = capsys.readouterr().out
    assert shown.count("a first requirement") == 2 and "is left as it was" in shown


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_are_none_are_refused(minutes: str) -> None:
    with pytest.raises(SammError, match="--minutes has to be a number above 0"):
        soak.main(arguments("--minutes", minutes))


def test_the_page_has_every_row_and_says_how_each_requirement_is_measured() -> None:
    rows = [Row("known", "≤ 1 s", "0.5 s", True), Row("unknown", "≤ 1 s", "no time", None)]
    text = soak.page("a machine", 5, rows)
    assert "| known | ≤ 1 s | 0.5 s | met |" in text and "| unknown | ≤ 1 s | no time | not judged |" in text
    names = [line.split("**")[1] for line in text.splitlines() if line.startswith("**")]
    assert names == ["losses", "overload", "stale", "recordings", "reader", "bridge", "kills", "soak"]
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
