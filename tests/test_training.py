# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Training from end to end on a toy scale: data, steps, a stop in between, weights that the package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from training import encode  # noqa: E402
from training.anatomy import random_anatomy  # noqa: E402


def training(*arguments: str | Path) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "training", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_random_anatomy_is_the_same_for_a_seed_and_has_structures_to_click_on() -> None:
    one, same, other = (random_anatomy(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.image, same.image) and not np.array_equal(one.image, other.image)
    for picture in (one, other):
        assert picture.image.dtype == np.uint8 and len(picture.masks) >= 3
        assert all(mask.shape == picture.image.shape and mask.sum() >= 30 for mask in picture.masks)


@pytest.mark.timeout(600)
def test_data_are_made_once_and_training_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from samm_core.models.backends.decoder import FusedDecoder
    from samm_core.models.families.lite_medsam import build_lite_medsam
    from samm_core.models.families.point_decoder import WEIGHTS_FILE, PointDecoder
    from training.__main__ import main

    sources, data, held_out, out = (tmp_path / name for name in ("sources", "data", "held_out", "out"))
    sources.mkdir()
    held_out.mkdir()
    training("data", sources, data, "--count=1", "--workers=1")
    (first,) = encode.paths(data)
    stamp = first.stat().st_mtime_ns
    slice_ = encode.load(first)
    assert slice_.features.shape == (64, 64, 256) and slice_.masks.shape[1:] == (256, 256)
    training("data", sources, data, "--count=2", "--workers=1")
    assert len(encode.paths(data)) == 2 and first.stat().st_mtime_ns == stamp

    (held_out / first.name).symlink_to(first)

    def train(steps: int) -> bytes:
        """The weights that it leaves. Not in a process of its own: importing torch takes the most of its time."""
        monkeypatch.setattr(
            sys, "argv", ["training", "train", *map(str, (data, held_out, out)), f"--steps={steps}"]
        )
        assert main() == 0
        assert "held out" in capsys.readouterr().out
        return (out / WEIGHTS_FILE).read_bytes()

    weights = train(1)
    assert train(2) != weights
    assert len(weights) <= 8e6

    decoder = PointDecoder(build_lite_medsam())
    decoder.load(out / WEIGHTS_FILE)
    import torch

    fused = FusedDecoder(decoder, multimask=True, clicks=decoder.clicks).eval()
    coords, labels = torch.full((1, 2, 2), 128.0), torch.tensor([[1, -1]])
    with torch.no_grad():
        logits, scores = fused(torch.from_numpy(slice_.features)[None], coords, labels)
    assert logits.shape == (1, 4, 256, 256) and scores.shape == (1, 4)
    assert torch.isfinite(logits).all()
