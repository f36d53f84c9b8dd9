# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""LiteMedSAM's encoder in 8-bit integers, quantized by NNCF, against OpenVINO's float32 on this CPU.

NNCF is not a dependency of samm_ros. In a shell that has sourced .venv/bin/activate:
uv pip install --target /tmp/nncf nncf && PYTHONPATH=/tmp/nncf python benchmarks/int8.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ros2_ws" / "src" / "samm_core"))

import nncf  # noqa: E402
import openvino  # noqa: E402

from samm_core.geometry import Plane  # noqa: E402
from samm_core.models import load_model  # noqa: E402
from samm_core.models.backends.openvino import core_count  # noqa: E402
from samm_core.models.base import FEATURES  # noqa: E402
from samm_core.models.parity import dice_of  # noqa: E402
from samm_core.prompts import PixelPrompt  # noqa: E402
from samm_core.sources.sample import mni_volume  # noqa: E402
from samm_core.sources.volume import read_volume  # noqa: E402

from .measure import in_turn, machine, show  # noqa: E402

CALIBRATION, CHECKED, TURNS = 30, 9, 10
BOXES = [PixelPrompt(box_xyxy=box) for box in ([40, 40, 150, 170], [70, 80, 121, 140], [33, 90, 89, 133])]


def main() -> None:
    volume = read_volume(mni_volume())
    model = load_model("lite_medsam", device="cpu", backend="openvino")

    def slices(number: int) -> list[np.ndarray]:
        counts = {plane: volume.geometry.slice_count(plane) for plane in Plane}
        places = [
            (plane, int(i)) for plane in Plane for i in np.linspace(0.25, 0.75, number // 3) * counts[plane]
        ]
        return [volume.slice_image(*place) for place in places]

    encoder = openvino.Core().read_model(model.export / "encoder.xml")
    quantized = nncf.quantize(
        encoder,
        nncf.Dataset([model.processor.preprocess(image)[None] for image in slices(CALIBRATION)]),
        subset_size=CALIBRATION,
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": core_count(), "NUM_STREAMS": 1}
    int8 = openvino.Core().compile_model(quantized, "CPU", settings).create_infer_request()

    error, dice = [], []
    for image in slices(CHECKED):
        (exact,) = model.encode([image])
        (features,) = int8.infer([model.processor.preprocess(image)[None]]).values()
        given = model.restore({FEATURES: features[0].transpose(2, 0, 1)}, exact.original_size)
        reference, tested = (each.as_arrays()[FEATURES].astype(np.float32) for each in (exact, given))
        error.append(np.linalg.norm(tested - reference) / np.linalg.norm(reference))
        dice += [dice_of(model.decode(given, box).mask, model.decode(exact, box).mask) for box in BOXES]
    square = model.processor.preprocess(image)[None]
    seconds = in_turn(
        {model.backend: lambda: model.encode([image]), "openvino int8": lambda: int8.infer([square])}, TURNS
    )
    float32 = np.median(seconds[model.backend])
    show(
        f"LiteMedSAM encoder; {machine()}",
        ("", "p50 s", "to float32"),
        [
            (name, f"{np.median(taken):.3f}", f"{float32 / np.median(taken):.2f}×")
            for name, taken in seconds.items()
        ],
    )
    print(
        f"int8: embeddings {np.mean(error):.2f} off float32's by norm, masks have a mean Dice of {np.mean(dice):.4f},"
        f" a lowest of {min(dice):.4f} ({len(dice)} boxes)"
    )


if __name__ == "__main__":
    main()
