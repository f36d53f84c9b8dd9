# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: read without running code from them, fitted strictly, and named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ..errors import ModelError


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that torch.save wrote, by name, on the CPU.

    Raises ModelError for a file that is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise ModelError(f"There is no checkpoint at {path}; give the path of a file that torch.save wrote.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for damaged bytes
        raise ModelError(
            f"The checkpoint {path} is damaged or holds more than tensors, so it is refused; fetch it again."
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = content.values() if isinstance(content, dict) else ()
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise ModelError(f"The checkpoint {path} is no state dict; give a file of named tensors.")
    return content


def load_weights(network: torch.nn.Module, path: Path, name: str) -> None:
    """Fill `network` with the checkpoint. Raises ModelError unless every name and shape fits and all values are finite."""
    given, needed = read_state_dict(path), network.state_dict()
    wrong = sorted(needed.keys() ^ given.keys())
    wrong = wrong or [key for key in needed if needed[key].shape != given[key].shape]
    if wrong:
        raise ModelError(
            f"The checkpoint {path} does not fit {name}: {len(wrong)} tensors are missing, unknown or of"
            f" another shape, such as {wrong[0]}; load it as the model that it was made for."
        )
    broken = next((key for key, tensor in given.items() if not torch.isfinite(tensor).all()), None)
    if broken:
        raise ModelError(f"The checkpoint {path} has values that are not finite in {broken}; fetch it again.")
    network.load_state_dict(given)


def content_hash(network: torch.nn.Module, *facts: str) -> str:
    """32 hexadecimal digits for the weights (names, types, shapes, bytes) and `facts`."""
    digest = hashlib.blake2b("\n".join(facts).encode(), digest_size=16)
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
