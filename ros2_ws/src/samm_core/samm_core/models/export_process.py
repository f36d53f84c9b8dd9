# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`python -m samm_core.models.export_process NAME CHECKPOINT FOLDER`: exports a model into a folder that exists.

It is a process of its own because its memory then goes back to the system. Status 3: the checkpoint is refused, and
stderr says why in one sentence.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..allocator import keep_freed_memory
from ..errors import SammError
from .backends.export_store import REFUSED


def main() -> int:
    keep_freed_memory()
    # Not at the top: importing torch starts threads, and the allocator must be set before any.
    from .backends.export import export_model
    from .registry import load_model

    name, checkpoint, folder = sys.argv[1:]
    try:
        export_model(load_model(name, checkpoint, "cpu", "float32", backend="torch"), Path(folder))
    except SammError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
