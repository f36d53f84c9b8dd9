# SPDX-License-Identifier: Apache-2.0
"""The models, by name. Importing this package imports no torch; load_model does."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from .weights import WEIGHTS, weights_folder

if TYPE_CHECKING:
    from .base import SegmentationModel

__all__ = ["MODEL_NAMES", "load_model", "weights_folder"]

_CLASSES = {
    "lite_medsam": ("lite_medsam", "LiteMedSam"),
    "vit_b": ("sam", "Sam"),
    "vit_l": ("sam", "Sam"),
    "vit_h": ("sam", "Sam"),
    "medsam_vit_b": ("sam", "MedSam"),
    "mobile_sam": ("mobile_sam", "MobileSam"),
}
MODEL_NAMES = tuple(_CLASSES)


def load_model(
    name: str, checkpoint: Path | str | None = None, device: str = "auto", precision: str | None = None
) -> SegmentationModel:
    """Load one of MODEL_NAMES.

    checkpoint: a file that torch.save wrote. None takes the published file from the weights folder or, for
        lite_medsam, from its package.
    device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
    precision: of the encoder, "float32" or "bfloat16"; None is bfloat16 on CUDA and float32 on a CPU.

    Raises ModelError, with one sentence to show, for an unknown name, device or precision and for a
    checkpoint that is missing, damaged or of another model.
    """
    if name not in _CLASSES:
        raise ModelError(f'There is no model "{name}"; give one of {", ".join(MODEL_NAMES)}.')
    path = Path(checkpoint).expanduser() if checkpoint else _published(name)
    module, class_name = _CLASSES[name]
    model_class = getattr(import_module(f".{module}", __name__), class_name)
    return model_class(name, path, device, precision)


def _published(name: str) -> Path | None:
    """The published checkpoint; None for a model that comes with its own."""
    if name not in WEIGHTS:
        return None
    path = weights_folder() / WEIGHTS[name].file_name
    if not path.is_file():
        raise ModelError(f"There is no checkpoint for {name} at {path}; fetch it with: ./samm weights {name}")
    return path
