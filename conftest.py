# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What all tests share, without ROS: a real volume and a real model."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from samm_core.allocator import keep_freed_memory

if TYPE_CHECKING:
    from samm_core.geometry import Plane
    from samm_core.models.base import Embedding, SegmentationModel
    from samm_core.sources.volume import Volume

keep_freed_memory()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: each network on all of them would be several times slower than each on one.
    os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("samm", deadline=None)
hypothesis.settings.load_profile("samm")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process of pytest-xdist, where no group says otherwise: what they share is made once."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_configure(config: pytest.Config) -> None:
    # It names a group in this attribute, which pytest 9.2 has no more; then each process would have a graph of its own.
    if config.getoption("dist", "no") == "loadgroup" and not hasattr(pytest.Item, "_nodeid"):
        raise pytest.UsageError(
            "pytest-xdist keeps no groups under this pytest; install that of requirements/test.txt: ./samm setup"
        )


@pytest.fixture(scope="session")
def mni_path() -> Path:
    from samm_core.sources.sample import mni_volume

    return mni_volume()


@pytest.fixture(scope="session")
def mni(mni_path: Path) -> Volume:
    from samm_core.sources.volume import read_here

    return read_here(mni_path)


@pytest.fixture(scope="session")
def lite_medsam() -> SegmentationModel:
    from samm_core.models import load_model

    return load_model("lite_medsam", device="cpu")


@pytest.fixture(scope="session")
def embedded(lite_medsam: SegmentationModel, mni: Volume) -> Callable[[Plane, int], Embedding]:
    """The embedding of a slice of `mni` by `lite_medsam`, by plane and index; each is encoded once."""
    return cache(lambda plane, index: lite_medsam.encode([mni.slice_image(plane, index)])[0])
