# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A volume to try things on, which comes with a Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import VolumeError

_MNI = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def mni_volume() -> Path:
    """The T1 template of the ICBM 152 atlas (197×233×189, 1 mm), from the package data of nilearn.

    Raises VolumeError where nilearn is not installed.
    """
    # Found, not imported: nilearn's own requirements are not needed for its data.
    spec = importlib.util.find_spec("nilearn")
    path = Path(spec.origin).parent / _MNI if spec else None
    if path is None or not path.exists():
        raise VolumeError(
            "The MNI volume comes with nilearn, which is not installed; name a volume of your own."
        )
    return path
