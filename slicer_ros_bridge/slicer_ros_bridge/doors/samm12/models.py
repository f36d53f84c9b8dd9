# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The graph's models as SAMM 1.2 lists them: weights, under the names of families that its panel knows.

Each model is there twice. The first weights answer prompts on pictures at once. With the second, SAMM embeds every
slice of a view before it predicts by itself, and can save what it embedded, as with its own server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samm_core.models import MODEL_NAMES
from samm_core.models.families import FAMILIES

from ...graph_actions import ModelState, WeightsState

EMBEDDED = "_embedded"
# Families that the panel knows, and their labels.
_FAMILIES = {"medsam": "MedSAM", "sam1": "SAM", "mobile_sam": "MobileSAM"}
# By the graph's name: the family, the id that SAMM's own server gives the same weights, and the label.
_WEIGHTS = {
    "lite_medsam": ("medsam", "lite_medsam", "LiteMedSAM"),
    "medsam_vit_b": ("medsam", "medsam_vit_b", "MedSAM ViT-B"),
    "vit_b": ("sam1", "sam_vit_b", "SAM ViT-B"),
    "vit_l": ("sam1", "sam_vit_l", "SAM ViT-L"),
    "vit_h": ("sam1", "sam_vit_h", "SAM ViT-H"),
    "mobile_sam": ("mobile_sam", "mobile_sam_vit_t", "MobileSAM ViT-T"),
}


@dataclass(frozen=True)
class Weight:
    """model: the graph's name. embeds: whether SAMM embeds the slices before it prompts on them."""

    model: str
    embeds: bool = False

    @property
    def family(self) -> str:
        return self._names[0]

    @property
    def id(self) -> str:
        return self._names[1] + (EMBEDDED if self.embeds else "")

    @property
    def label(self) -> str:
        return self._names[2] + (", slices embedded first" if self.embeds else "")

    @property
    def _names(self) -> tuple[str, str, str]:
        # A model that SAMM does not know is shown by the graph's own name.
        return _WEIGHTS.get(self.model, ("sam1", self.model, self.model))

    @property
    def capabilities(self) -> dict[str, bool]:
        takes = FAMILIES[self.model].processor
        return {
            "points": takes.takes_points,
            "box": takes.takes_box,
            "box_3d": takes.takes_box,
            "mask": takes.takes_box,
            "text": False,
            "auto_predict_2d": True,
            "embeddings": self.embeds,
            "video_propagation": True,
            "video_mask": True,
            "video_text": False,
        }

    def checkpoint(self, weights: WeightsState | None) -> str:
        """The path of the file on the graph's host; empty: it is in a package, or not known."""
        for each in weights.models if weights else ():
            if each.model == self.model and each.file_name:
                return f"{weights.folder}/{each.file_name}"
        return ""

    def is_here(self, weights: WeightsState | None, model: ModelState | None) -> bool:
        """Whether the graph can load it, as far as is known."""
        if model and model.name == self.model:
            return True
        return any(each.model == self.model and each.here for each in weights.models) if weights else False

    def fields(self, weights: WeightsState | None, model: ModelState | None) -> dict[str, Any]:
        """As replies describe it."""
        return {
            "id": self.id,
            "model_id": self.family,
            "label": self.label,
            "checkpoint": self.checkpoint(weights),
            "backend": "samm_ros",
            "model_type": self.model,
            "available": self.is_here(weights, model),
            "capabilities": self.capabilities,
        }


WEIGHTS = {weight.id: weight for name in MODEL_NAMES for weight in (Weight(name), Weight(name, embeds=True))}
"""By id."""


def models_fields(weights: WeightsState | None, model: ModelState | None) -> list[dict[str, Any]]:
    """The whole table, as `GET /models` has it."""
    models = []
    for family, label in _FAMILIES.items():
        listed = [each.fields(weights, model) for each in WEIGHTS.values() if each.family == family]
        capabilities = {
            name: any(each["capabilities"][name] for each in listed) for name in listed[0]["capabilities"]
        }
        models.append({"id": family, "label": label, "capabilities": capabilities, "weights": listed})
    return models
