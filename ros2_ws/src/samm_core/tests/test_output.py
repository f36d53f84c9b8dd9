# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Folders for what a program leaves: told before the work starts when they cannot be, and never two runs in one."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from samm_core.errors import OutputError
from samm_core.output import make_folder, make_new_folder


def test_a_folder_is_made_with_its_parents_and_one_that_is_there_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == make_folder(folder) == folder.resolve()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "nul\0"])
def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    for make in (make_folder, make_new_folder):
        if (make, name) == (make_new_folder, "file"):
            continue  # another name is free
        with pytest.raises(OutputError, match="cannot be written") as caught:
            make(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_without_room_is_told_and_nothing_stays(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="make room or give another folder"):
            make_folder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_runs_that_begin_in_one_second_get_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: make_new_folder(tmp_path / "2026-01-01"), range(32)))
    assert len(folders) == 32
    assert tmp_path / "2026-01-01" in folders and tmp_path / "2026-01-01-32" in folders
