# SPDX-License-Identifier: Apache-2.0
"""The race: both designs answer, and the committed page says what its figures are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samm_ros.bench import race, race_page
from samm_ros.bench.ours import Ours
from samm_ros.bench.paper_design import PaperDesign

COMMITTED = Path(__file__).parents[1] / "docs" / "race"


@pytest.mark.xdist_group("graph")
@pytest.mark.timeout(200)
def test_both_designs_answer_every_click_and_most_of_a_drag(tmp_path: Path) -> None:
    path, spot = race.volume_of(tmp_path, 128, 4)
    with Ours() as ours, PaperDesign() as papers:
        for contestant in (ours, papers):
            contestant.load(path, spot)
        measured = race.in_turns((ours, papers), spot, 5)
        drags = [contestant.drag(spot, 3, 2.0) for contestant in (ours, papers)]
        memory = ours.memory_mib(), papers.memory_mib()
    for of in measured.values():
        assert len(of["cycles_ms"]) == 5
        assert 0 < of["decode_ms"]["p50"] < of["total_ms"]["p50"]
    for drag in drags:
        assert len(drag.by_client) == 3
        # Nobody's hand waits for the others'.
        assert 3 * min(drag.by_client) >= max(drag.by_client) > 0
        assert all(timed.total_ms > timed.decode_ms > 0 for timed in drag.answered)
        assert drag.cores > 0
    assert min(memory) > 100


def test_the_committed_page_is_what_its_figures_say(tmp_path: Path) -> None:
    race_page.write_page(tmp_path, json.loads((COMMITTED / "results.json").read_text()))
    assert (tmp_path / "README.md").read_text() == (COMMITTED / "README.md").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "race.png", "drag.png", "costs.png"}
