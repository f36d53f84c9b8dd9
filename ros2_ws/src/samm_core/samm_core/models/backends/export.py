# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Exports a torch model for OpenVINO: encoder, decoders, and the reference for the parity check of every later start."""

from __future__ import annotations

import warnings
from pathlib import Path

import openvino
import torch
from torch import nn

from ..base import FEATURES
from ..parity import Reference
from .export_store import REFERENCE_FILE
from .torch import NetworkModel


def export_model(model: NetworkModel, folder: Path) -> None:
    """Write encoder, decoders and reference of a float32 torch model on the CPU into a folder that exists."""
    side = model.image_size
    reference = Reference.of(model)
    reference.save(folder / REFERENCE_FILE)

    # The decoder reads features as they are kept, in float16: converting them before it took 1.8 ms a prompt.
    features = torch.from_numpy(reference.tensors[FEATURES])[None].permute(0, 2, 3, 1).contiguous().half()
    point_coords, point_labels = torch.zeros(1, 2, 2), torch.full((1, 2), 2)
    inputs_of_decoder = (features, point_coords, point_labels)
    shapes_of_decoder = [[-1, *features.shape[1:]], [-1, -1, 2], [-1, -1]]
    decoder, point_decoder = model.fused_decoders()
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of every shape that it takes as a constant, and all of them are.
        warnings.simplefilter("ignore")
        encoder = ChannelsLastEncoder(model.network.image_encoder).eval()
        modules = [
            ("encoder", encoder, torch.zeros(1, 3, side, side), [1, 3, side, side]),
            ("decoder", decoder, inputs_of_decoder, shapes_of_decoder),
        ]
        if point_decoder:
            modules.append(("points", point_decoder, inputs_of_decoder, shapes_of_decoder))
        for name, module, example, shapes in modules:
            converted = openvino.convert_model(module, example_input=example, input=shapes)
            openvino.save_model(converted, folder / f"{name}.xml", compress_to_fp16=False)


class ChannelsLastEncoder(nn.Module):
    """The encoder with its features as (1, h, w, C) float16: the order in which the decoder reads them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        # The attribute's name is part of the exported file, and so of the fingerprint of saved embeddings.
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder(image).permute(0, 2, 3, 1).half()
