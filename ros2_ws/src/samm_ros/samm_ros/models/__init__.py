# SPDX-License-Identifier: Apache-2.0
"""The models, by name. Importing this package imports no torch; load_model does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from .base import SegmentationModel

__all__ = ["MODEL_NAMES", "load_model", "weights_folder"]

MODEL_NAMES = ("lite_medsam", "vit_b", "vit_l", "vit_h", "medsam_vit_b", "mobile_sam")


def weights_folder() -> Path:
    """Where checkpoints are looked for: $SAMM_HOME/weights, or ~/.cache/samm/weights."""
    return Path(os.environ.get("SAMM_HOME") or "~/.cache/samm").expanduser() / "weights"


def load_model(
    name: str, checkpoint: Path | str | None = None, device: str = "auto", precision: str | None = None
) -> SegmentationModel:
    """Load one of MODEL_NAMES.

    checkpoint: a file that torch.save wrote; None takes the published file from the weights folder, and for lite_medsam
        the one that comes with its package.
    device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
    precision: of the encoder, "float32" or "bfloat16"; None is bfloat16 on CUDA and float32 on a CPU.

    Raises ModelError, with one sentence to show, for an unknown name, device or precision and for a checkpoint that is
    missing, damaged or of another model.
    """
    if name not in MODEL_NAMES:
        raise ModelError(f'There is no model "{name}"; give one of {", ".join(MODEL_NAMES)}.')
    path = None if checkpoint is None else Path(checkpoint).expanduser()
    if name == "lite_medsam":
        from .lite_medsam import LiteMedSam

        return LiteMedSam(name, path, device, precision)
    from .sam import SAM_CLASSES

    return SAM_CLASSES[name](name, path or _published(name), device, precision)


def _published(name: str) -> Path:
    from .weights import WEIGHTS

    path = weights_folder() / WEIGHTS[name].file_name
    if not path.is_file():
        raise ModelError(f"There is no checkpoint for {name} at {path}; fetch it with: ./samm weights {name}")
    return path
