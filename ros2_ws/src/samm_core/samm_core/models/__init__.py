# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Models by name, and the backends that compute them. Importing this package does not import torch."""

from .registry import BACKEND_NAMES, MODEL_NAMES, checkpoint_of, load_model
from .weights import weights_folder

__all__ = ["BACKEND_NAMES", "MODEL_NAMES", "checkpoint_of", "load_model", "weights_folder"]
