# SPDX-License-Identifier: Apache-2.0
"""What tests share: real volumes, a real model, and a real graph in processes of its own."""

from __future__ import annotations

import os
import random
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from samm_ros.memory import keep_freed_memory

# Test runs beside each other, and beside a user's own graph, must not meet: a domain by chance, and in it a namespace by
# name for each graph.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 100))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

# The Slicer extension is no package of the workspace: Slicer finds it by its path too.
sys.path.append(str(Path(__file__).parents[1] / "slicer_ros_bridge" / "SlicerIPP" / "SlicerIPP"))

keep_freed_memory()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: each network on all of them would be several times slower than each on one.
    os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("samm", deadline=None)
hypothesis.settings.load_profile("samm")


@pytest.fixture
def namespace() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def mni_path() -> Path:
    from samm_ros.demo.script import mni_volume

    return mni_volume()


@pytest.fixture(scope="session")
def mni(mni_path: Path):
    from samm_ros.volume import read_volume

    return read_volume(mni_path)


@pytest.fixture(scope="session")
def lite_medsam():
    from samm_ros.models import load_model

    return load_model("lite_medsam", device="cpu")


@pytest.fixture(scope="session")
def launch_file() -> Path:
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("samm_ros")) / "launch" / "samm.launch.yaml"


@pytest.fixture(scope="session")
def shared_graph(
    launch_file: Path, mni_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The namespace of a graph that has the MNI volume loaded; for tests that leave it as they find it."""
    from samm_ros.demo.client import GraphClient
    from samm_ros.supervisor import Graph

    namespace = f"test_{uuid.uuid4().hex[:12]}"
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false"}
    graph = Graph(launch_file, arguments, tmp_path_factory.mktemp("graph"))
    os.environ.update(graph.environment)
    with graph:
        with GraphClient(namespace, "fixture") as client:
            client.load(mni_path)
        yield namespace
