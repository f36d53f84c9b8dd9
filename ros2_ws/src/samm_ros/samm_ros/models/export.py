# SPDX-License-Identifier: Apache-2.0
"""Exports a torch model for OpenVINO, once: its graphs, and golden values that every later activation is checked with."""

from __future__ import annotations

import warnings
from pathlib import Path

import openvino
import torch
from safetensors.numpy import save_file
from torch import nn

from .decoder import DecoderGraph
from .network import NetworkModel
from .parity import Golden


def export_model(model: NetworkModel, folder: Path) -> None:
    """Write encoder, decoder and golden values of a float32 torch model on the CPU into an existing folder."""
    network, side = model._network, model.image_size
    golden = Golden.of(model)
    golden.save(folder / "golden.safetensors", save_file)

    # The decoder reads features as they are kept, float16: converting them before it took 1.8 ms a prompt.
    features = torch.from_numpy(golden.features)[None]
    xy, labels = torch.zeros(1, 2, 2), torch.full((1, 2), 2)
    decoder = DecoderGraph(network, several=model.takes_points).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the tracer warns of every shape that it takes as a constant, as it should
        for name, graph, example, shapes in (
            (
                "encoder",
                EncoderGraph(network.image_encoder).eval(),
                torch.zeros(1, 3, side, side),
                [1, 3, side, side],
            ),
            (
                "decoder",
                decoder,
                (features.permute(0, 2, 3, 1).contiguous().half(), xy, labels),
                [[-1, *features.shape[2:], features.shape[1]], [-1, -1, 2], [-1, -1]],
            ),
        ):
            converted = openvino.convert_model(graph, example_input=example, input=shapes)
            openvino.save_model(converted, folder / f"{name}.xml", compress_to_fp16=False)


class EncoderGraph(nn.Module):
    """The encoder with its features pixel by pixel, (1, h, w, C) float16: the order in which the decoder reads them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder(image).permute(0, 2, 3, 1).half()
