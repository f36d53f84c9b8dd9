# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Layers that give a decoder its clicks as maps over the image, beside tokens."""

from __future__ import annotations

import torch
from torch import nn

POSITIVE, NEGATIVE = 1, 0
_HIDDEN = 32
_FAR = 1e9


class ClickMaps(nn.Module):
    """How near each pixel is to the nearest positive and the nearest negative click, at several widths.

    SAM's decoder gets clicks by tokens alone, to which the pixels attend. Maps show where the clicks are, as the distance
    maps of interactive segmentation do (Xu et al., Deep Interactive Object Selection, 2016).
    """

    def __init__(self, side: int, input_side: int, widths: tuple[float, ...]) -> None:
        """side: of the maps, which cover an input of `input_side` pixels. widths: the Gaussians' sigmas, in input pixels."""
        super().__init__()
        cell = input_side / side
        self.register_buffer("centres", (torch.arange(side) + 0.5) * cell - 0.5, persistent=False)
        self.register_buffer("rates", 1 / (2 * torch.tensor(widths) ** 2), persistent=False)

    def forward(self, point_coords: torch.Tensor, point_labels: torch.Tensor) -> torch.Tensor:
        """point_coords (B, N, 2) pixels of the input, point_labels (B, N) to (B, side·side, 2·widths) of 0 to 1.

        The maps of positive clicks come first. Points of other labels are left out.
        """
        squares = (point_coords[:, :, :, None] - self.centres) ** 2
        maps = []
        for label in (POSITIVE, NEGATIVE):
            far = (point_labels != label).to(point_coords.dtype)[:, :, None, None] * _FAR
            # The nearest click is the one with the largest Gaussian, whatever its width.
            nearest = (squares[:, :, 1, :, None] + squares[:, :, 0, None, :] + far).amin(1)
            maps.append(torch.exp(-nearest[:, None] * self.rates[:, None, None]))
        return torch.cat(maps, 1).flatten(2).transpose(1, 2)


class CoarseClicks(nn.Module):
    """Embeds ClickMaps on the grid of the features, to be added to them."""

    WIDTHS = (3.0, 10.0, 32.0)

    def __init__(self, side: int, input_side: int, channels: int) -> None:
        super().__init__()
        self.maps = ClickMaps(side, input_side, self.WIDTHS)
        self.hidden = nn.Linear(2 * len(self.WIDTHS), _HIDDEN)
        self.out = nn.Linear(_HIDDEN, channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, point_coords: torch.Tensor, point_labels: torch.Tensor) -> torch.Tensor:
        """(B, h·w, C), of clicks as ClickMaps takes them."""
        return self.out(torch.relu(self.hidden(self.maps(point_coords, point_labels))))


class FineClicks(nn.Module):
    """Weights ClickMaps on the grid of the logits by each mask's token, to be added to the logits."""

    WIDTHS = (1.5, 4.0, 10.0)

    def __init__(self, side: int, input_side: int, channels: int) -> None:
        super().__init__()
        self.maps = ClickMaps(side, input_side, self.WIDTHS)
        self.weights = nn.Linear(channels, 2 * len(self.WIDTHS))
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(
        self, point_coords: torch.Tensor, point_labels: torch.Tensor, mask_tokens: torch.Tensor
    ) -> torch.Tensor:
        """mask_tokens (B, M, C) to (B, M, side·side), of clicks as ClickMaps takes them."""
        return self.weights(mask_tokens) @ self.maps(point_coords, point_labels).transpose(1, 2)


class ClickLayers(nn.Module):
    """Both kinds, as FusedDecoder takes them: coarse for features of `side`, fine for logits of `mask_side`."""

    def __init__(self, side: int, input_side: int, mask_side: int, channels: int) -> None:
        super().__init__()
        self.coarse = CoarseClicks(side, input_side, channels)
        self.fine = FineClicks(mask_side, input_side, channels)
