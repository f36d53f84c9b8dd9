# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The shared memory in which Fast DDS carries images and masks: this user's alone."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_MAPPED = re.compile(r"(/dev/shm/(?:fastrtps|fastdds)_\S+)$", re.MULTILINE)


def keep_private() -> None:
    """Shut others out of what this process shares by now; call it once its first node is there.

    Fast DDS makes its files readable by everybody, whatever the umask. Who opens one between its making and this call,
    some milliseconds later, can read on.
    """
    with contextlib.suppress(OSError):
        for path in set(_MAPPED.findall(Path("/proc/self/maps").read_text())):
            # Another process of the user has made it, or has ended, meanwhile.
            with contextlib.suppress(OSError):
                os.chmod(path, 0o600)
