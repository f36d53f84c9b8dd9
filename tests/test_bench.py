# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The race: both designs answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import race
from benchmarks.ours import Ours
from benchmarks.paper_design import PaperDesign


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
