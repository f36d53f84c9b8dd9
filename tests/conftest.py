# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What tests of the graph share: a domain and a namespace of their own, and a real graph in processes of its own."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test runs beside each other, and beside a user's own graph, must not meet: a domain by chance, and in it a namespace by
# name for each graph.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

# Tests load and save where they have their files: volumes of packages, and temporary folders.
os.environ["SAMM_ROOTS"] = os.pathsep.join([sys.prefix, tempfile.gettempdir()])

# The extension's module is in no package of the workspace, and Slicer finds it by its path too. Its library is that of the
# checkout, as there, not the one that is installed for the viewer.
sys.path.insert(0, str(Path(__file__).parents[1] / "slicer_ros_bridge" / "SlicerIPP" / "SlicerIPP"))


@pytest.fixture
def namespace() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def shared_graph(mni_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The namespace of a graph that has the MNI volume loaded; for tests that leave it as they find it."""
    from graph_processes import launched

    from samm_ros.client import GraphClient

    with launched(tmp_path_factory.mktemp("graph")) as (namespace, _):
        with GraphClient(namespace, "fixture") as client:
            client.load(mni_path)
        yield namespace
