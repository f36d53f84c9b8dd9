# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm soak` at its smallest: each requirement can be measured; what is exact, and what does not depend on time, holds."""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak import endurance as endurances
from benchmarks.soak import graph as graphs
from benchmarks.soak import overload as overloads
from benchmarks.soak.clients import Reference, SlicerWorker
from benchmarks.soak.endurance import bag_reader, endurance
from benchmarks.soak.graph import Graph
from benchmarks.soak.kills import bridge, kills
from benchmarks.soak.losses import _ends as ends
from benchmarks.soak.losses import losses
from benchmarks.soak.overload import overload
from benchmarks.soak.recordings import recordings
from benchmarks.soak.row import SMALLEST, Row, Run, Size, slope
from benchmarks.soak.stale import stale
from samm_core.errors import LaunchError, SammError

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
    assert all(row.met for row in rows[:4]), rows
    # On a busy machine the trace may lose events, and then it cannot be judged.
    assert rows[4].met is not False, rows


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


def test_a_process_that_dies_in_the_soak_is_told_and_its_growth_is_not(graph: Graph) -> None:
    killed = []

    def say(text: str) -> None:
        if " prompts: " in text and not killed:
            killed.append(text)
            graph.supervisor.kill("samm_client", signal.SIGKILL)

    rows = {row.name: row for row in endurance(Run(SMALLEST, say), graph)}
    died = rows["processes that died in the soak"]
    assert (died.measured, died.met) == ("1: samm_client", False)
    assert "memory of samm_server once the cache is full" in rows
    assert "memory of samm_client once the cache is full" not in rows


def test_a_volume_that_cannot_be_loaded_in_the_soak_is_told(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = graph.volumes[0]
    monkeypatch.setattr(endurances, "_LOAD_S", 0.1)
    monkeypatch.setattr(graph, "volumes", (right, graph.folder / "absent.nii"))
    problems: list[str] = []
    with (
        SlicerWorker(graph, "reconnecting", range(10, 14), Reference()) as slicer,
        endurances._reloading(graph, slicer, problems) as loads,
    ):
        graph.client.wait_for(lambda: loads and problems, "a load and one that fails", 60)
    assert "absent.nii" in problems[0] and set(loads) == {right}


def test_a_prompt_without_an_end_is_judged_only_where_the_trace_is_whole() -> None:
    sent = {"a client": {1, 2}}
    assert ends([], sent, 0).met is False
    cut = ends([], sent, 3)
    assert cut.met is None and cut.measured == "2 ≠ 0; the trace itself lost 3 events"


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
        yield Row("a first requirement", "all", "3 of 3 [/in brackets]", True)
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, "measured", until_interrupted)
    monkeypatch.setenv("SAMM_ROOT", str(tmp_path))
    assert soak.main(arguments("--write")) == 130
    shown = capsys.readouterr().out
    assert shown.count("a first requirement") == 2 and "is left as it was" in shown
    assert shown.count("3 of 3 [/in brackets]") == 2


def test_an_error_ends_with_the_table_so_far(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path) -> None:
    def until_an_error(*_: object) -> Iterator[Row]:
        yield Row("a first requirement", "all", "3 of 3", True)
        raise ZeroDivisionError

    monkeypatch.setattr(soak, "measured", until_an_error)
    monkeypatch.setenv("SAMM_ROOT", str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        soak.main(arguments())
    assert capsys.readouterr().out.count("a first requirement") == 2


def test_a_graph_that_does_not_start_is_told_by_the_status_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys, tmp_path
) -> None:
    def refuse(*_: object) -> None:
        raise LaunchError("Nothing can be started.")

    monkeypatch.setattr(graphs, "launch", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SAMM_ROOT", str(tmp_path))
    assert soak.main(arguments("--only", "stale")) == 1
    assert "could not be measured: Nothing can be started." in capsys.readouterr().out
    assert not list(tmp_path.glob("samm-soak-*"))


def test_prompts_without_a_cycle_are_a_miss_where_the_trace_is_whole() -> None:
    def row(base: int, during: int, expected: int = 200, lost_events: int = 0, rate_hz: float = 1000) -> Row:
        times = overloads._Times([10.0] * base, 200), overloads._Times([10.0] * during, expected)
        return overloads._row("a prompt", *times, "x", lost_events, rate_hz)

    assert row(200, 200).met and "200 of 200 cycles" in row(200, 200).measured
    assert row(200, 200, lost_events=3).met
    for base, during in ((200, 150), (150, 200)):
        missed, cut = row(base, during), row(base, during, lost_events=3)
        assert missed.met is False and "150 of 200 cycles" in missed.measured
        assert cut.met is None and "150 of 200 cycles" in cut.measured
        assert cut.measured.endswith("; the trace itself lost 3 events")
    assert row(200, 150, rate_hz=10).met is False, "a slower flood had to be answered too"
    assert row(200, 200, rate_hz=10).met is None
    assert row(200, 10, 10).met is None and row(200, 0, 0).met is None


def test_the_page_of_figures_takes_no_short_run(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(soak, "measured", lambda *_: iter(()))
    monkeypatch.setenv("SAMM_ROOT", str(tmp_path))
    with pytest.raises(SammError, match="--write takes a run of 20 minutes or more, not of 5"):
        soak.main(arguments("--write", "--minutes", "5"))


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_are_none_are_refused(minutes: str) -> None:
    with pytest.raises(SammError, match="--minutes has to be a number above 0"):
        soak.main(arguments("--minutes", minutes))


def test_the_page_has_every_row_and_says_how_each_requirement_is_measured() -> None:
    rows = [Row("known", "≤ 1 s", "0.5 s", True), Row("unknown", "≤ 1 s", "no time:\n[/a] | b", None)]
    text = soak.page("a machine", 5, rows)
    assert (
        "| known | ≤ 1 s | 0.5 s | met |" in text
        and r"| unknown | ≤ 1 s | no time: [/a] \| b | not judged |" in text
    )
    names = [line.split("**")[1] for line in text.splitlines() if line.startswith("**")]
    assert names == ["losses", "overload", "stale", "recordings", "reader", "bridge", "kills", "soak"]
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120
