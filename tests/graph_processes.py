# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A graph of its own for tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import Supervisor, launch


@contextmanager
def launched(folder: Path, **arguments: str) -> Iterator[tuple[str, Supervisor]]:
    """Its namespace, which is new, and its supervisor."""
    namespace = f"test_{uuid.uuid4().hex[:12]}"
    os.environ.update(environment())
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false", **arguments}
    with launch(arguments, folder / "log") as supervisor:
        yield namespace, supervisor
