# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The decoder for points beside LiteMedSAM's own, which takes boxes alone; training/ made its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ...errors import ModelError
from .click_maps import ClickLayers

WEIGHTS_FILE = "lite_medsam_points.safetensors"


class PointDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder with maps of the clicks.

    The masks that are proposed for an ambiguous click share one hypernetwork, which saves half a megabyte per mask.
    """

    def __init__(self, network: nn.Module) -> None:
        """network: a LiteMedSAM just built, whose prompt encoder and mask decoder become this one's."""
        super().__init__()
        self.prompt_encoder, self.mask_decoder = network.prompt_encoder, network.mask_decoder
        heads = self.mask_decoder.output_hypernetworks_mlps
        for i in range(2, len(heads)):
            heads[i] = heads[1]
        # This decoder takes no mask_input.
        self.prompt_encoder.mask_downscaling = nn.Identity()
        side, input_side = (
            self.prompt_encoder.image_embedding_size[0],
            self.prompt_encoder.input_image_size[0],
        )
        channels = self.prompt_encoder.embed_dim
        self.clicks = ClickLayers(side, input_side, 4 * side, channels)

    def load(self, path: Path) -> None:
        """Fill in the weights of a file that training wrote. Raises ModelError for any other file."""
        own = self._tensors()
        try:
            stored = load_file(path)
        except Exception as error:  # safetensors and the file system raise many kinds
            raise ModelError(
                f"The weights of the decoder for points, {path}, cannot be read: {error}."
            ) from error
        if {name: each.shape for name, each in stored.items()} != {
            name: each.shape for name, each in own.items()
        }:
            raise ModelError(
                f"The weights of the decoder for points, {path}, are of another network; install samm_core anew."
            )
        with torch.no_grad():
            for name, tensor in stored.items():
                own[name].copy_(tensor)

    def to_store(self) -> dict[str, torch.Tensor]:
        """The weights by name, in float16, as `load` reads them."""
        return {name: each.detach().half().contiguous().cpu() for name, each in self._tensors().items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        # named_parameters() gives a shared parameter once, state_dict() under each of its names.
        buffers = {name: each for name, each in self.named_buffers() if name in self.state_dict()}
        return buffers | dict(self.named_parameters())


def published_weights() -> Path:
    """The path of the weights in this package."""
    return Path(__file__).with_name(WEIGHTS_FILE)
