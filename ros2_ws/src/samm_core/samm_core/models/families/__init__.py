# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The families of models: each model's processor, and its torch network.

The networks' modules import torch, which takes seconds, so each is imported when its network is loaded. A server on
OpenVINO needs the processor alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..processor import LiteMedSamProcessor, MedSamProcessor, Processor, SamProcessor

if TYPE_CHECKING:
    from ..backends.torch import NetworkModel


def _lite_medsam() -> type[NetworkModel]:
    from .lite_medsam import LiteMedSam

    return LiteMedSam


def _sam() -> type[NetworkModel]:
    from .sam import Sam

    return Sam


def _medsam() -> type[NetworkModel]:
    from .sam import MedSam

    return MedSam


def _mobile_sam() -> type[NetworkModel]:
    from .mobile_sam import MobileSam

    return MobileSam


@dataclass(frozen=True)
class Family:
    """processor: what is done around the network. network_model: imports the class that computes it by torch."""

    processor: Processor
    network_model: Callable[[], type[NetworkModel]]


_SAM = Family(SamProcessor(), _sam)

FAMILIES = {
    "lite_medsam": Family(LiteMedSamProcessor(), _lite_medsam),
    "vit_b": _SAM,
    "vit_l": _SAM,
    "vit_h": _SAM,
    "medsam_vit_b": Family(MedSamProcessor(), _medsam),
    "mobile_sam": Family(SamProcessor(), _mobile_sam),
}
"""By the name of the model."""
