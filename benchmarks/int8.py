# SPDX-License-Identifier: Apache-2.0
"""Whether an encoder in 8-bit integers is worth it on this CPU: LiteMedSAM's, quantized by NNCF, against OpenVINO's float32.

NNCF is no dependency of ours. In a shell that has sourced .venv/bin/activate:
uv pip install --target /tmp/nncf nncf && PYTHONPATH=/tmp/nncf python benchmarks/int8.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "ros2_ws" / "src" / "samm_ros"))

import nncf  # noqa: E402
import openvino  # noqa: E402

from samm_ros.bench.measure import in_turn, machine, show  # noqa: E402
from samm_ros.demo.script import mni_volume  # noqa: E402
from samm_ros.geometry import Plane  # noqa: E402
from samm_ros.models import load_model  # noqa: E402
from samm_ros.models.openvino import core_count  # noqa: E402
from samm_ros.models.parity import dice_of  # noqa: E402
from samm_ros.prompts import PixelPrompt  # noqa: E402
from samm_ros.volume import read_volume  # noqa: E402

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

    graph = openvino.Core().read_model(model.export / "encoder.xml")
    quantized = nncf.quantize(
        graph,
        nncf.Dataset([model.recipe.preprocess(image)[None] for image in slices(CALIBRATION)]),
        subset_size=CALIBRATION,
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": core_count(), "NUM_STREAMS": 1}
    int8 = openvino.Core().compile_model(quantized, "CPU", settings).create_infer_request()

    error, dice = [], []
    for image in slices(CHECKED):
        (exact,) = model.encode([image])
        (features,) = int8.infer([model.recipe.preprocess(image)[None]]).values()
        given = model.adopt(features[0].transpose(2, 0, 1), exact.original_size)
        difference = given.as_array().astype(np.float32) - exact.as_array().astype(np.float32)
        error.append(np.linalg.norm(difference) / np.linalg.norm(exact.as_array().astype(np.float32)))
        dice += [dice_of(model.decode(given, box).mask, model.decode(exact, box).mask) for box in BOXES]
    square = model.recipe.preprocess(image)[None]
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
        f"int8: embeddings {np.mean(error):.2f} off float32's by norm, masks Dice {np.mean(dice):.4f} on average,"
        f" {min(dice):.4f} at least ({len(dice)} boxes)"
    )


if __name__ == "__main__":
    main()
