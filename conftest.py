# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What all tests share, without ROS: a real volume and a real model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from samm_core.allocator import keep_freed_memory

if TYPE_CHECKING:
    from samm_core.models.base import SegmentationModel
    from samm_core.sources.volume import Volume

keep_freed_memory()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: each network on all of them would be several times slower than each on one.
    os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("samm", deadline=None)
hypothesis.settings.load_profile("samm")


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
