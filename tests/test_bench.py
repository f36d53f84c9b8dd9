# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The race: both designs answer; and which arguments a benchmark takes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import race
from benchmarks.ours import Ours
from benchmarks.paper_design import PaperDesign
from samm_core.errors import SammError
from samm_ros.cli import bench


@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(200)
def test_both_designs_answer_every_click_and_most_of_a_drag(tmp_path: Path) -> None:
    path, spot = race.volume_of(tmp_path, 128, 4)
    with Ours() as ours, PaperDesign() as papers:
        for design in (ours, papers):
            design.load(path, spot)
        measured = race.in_turns((ours, papers), spot, 5)
        drags = [design.drag(spot, 3, 2.0) for design in (ours, papers)]
        memory = ours.memory_mib(), papers.memory_mib()
    for of in measured.values():
        assert len(of["cycles_ms"]) == 5
        assert 0 < of["decode_ms"]["p50"] < of["total_ms"]["p50"]
    for drag in drags:
        assert len(drag.by_client) == 3
        # No client waits for the others.
        assert 3 * min(drag.by_client) >= max(drag.by_client) > 0
        assert all(timed.total_ms > timed.decode_ms > 0 for timed in drag.answered)
        assert drag.cores > 0
    assert min(memory) > 100


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("judge", ["volumes", "prompts"])
def test_a_judge_takes_a_folder_and_no_other_benchmark_beside_it(judge: str, tmp_path: Path) -> None:
    assert getattr(parsed(f"--{judge}"), judge) == Path()
    args = parsed(f"--{judge}", str(tmp_path), "--model", "vit_b", "--quick")
    assert (getattr(args, judge), args.model, args.quick) == (tmp_path, "vit_b", True)
    with pytest.raises(SystemExit):
        parsed(f"--{judge}", "--encoder")
    with pytest.raises(SammError, match=str(tmp_path)):
        bench.main(args)
