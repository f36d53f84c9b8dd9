# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""CUDA: the masks of the CPU's float32 from half precision, recorded kernels, batches and threads beside each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from samm_core.embedding.cache import EmbeddingCache
from samm_core.embedding.engine import EmbeddingEngine
from samm_core.geometry import Plane
from samm_core.models import load_model
from samm_core.models.parity import dice_of
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey

if TYPE_CHECKING:
    from samm_core.models.base import SegmentationModel
    from samm_core.sources.volume import Volume

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")

BOXES = [PixelPrompt(box_xyxy=box) for box in ([40, 40, 150, 170], [70, 80, 121, 140], [33, 90, 89, 133])]
CLICKS = [PixelPrompt([[98, 120]], [1]), PixelPrompt([[98, 120], [60, 60]], [1, 0])]
BOTH = [PixelPrompt([[98, 120], [60, 60]], [1, 0], [40, 40, 150, 170])]
PROMPTS = [*BOXES, *CLICKS, *BOTH]


@pytest.fixture(scope="module")
def on_cpu() -> SegmentationModel:
    return load_model("lite_medsam", device="cpu", backend="torch")


@pytest.fixture(scope="module")
def on_gpu() -> SegmentationModel:
    return load_model("lite_medsam", device="cuda")


@pytest.fixture(scope="module")
def image(mni: Volume) -> np.ndarray:
    return mni.slice_image(Plane.AXIAL, 95)


def test_the_fast_paths_agree_with_eager_float32_and_features_stay_on_the_gpu(
    on_gpu: SegmentationModel, image: np.ndarray
) -> None:
    assert on_gpu.backend.endswith(", fused"), on_gpu.refused
    assert on_gpu.decodes_in_batch and on_gpu.batch >= 1
    (embedding,) = on_gpu.encode([image])
    assert embedding.features.device.type == "cuda"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_mask_is_that_of_the_cpu(
    on_gpu: SegmentationModel, on_cpu: SegmentationModel, image: np.ndarray, prompt: PixelPrompt
) -> None:
    (gpu_embedding,), (cpu_embedding,) = on_gpu.encode([image]), on_cpu.encode([image])
    ours, reference = on_gpu.decode(gpu_embedding, prompt), on_cpu.decode(cpu_embedding, prompt)
    assert 0 < reference.mask.sum() < reference.mask.size
    assert dice_of(ours.mask, reference.mask) > 0.98
    assert ours.score == pytest.approx(reference.score, abs=0.02)


def test_prompts_decoded_in_one_batch_have_the_masks_of_each_alone(
    on_gpu: SegmentationModel, image: np.ndarray
) -> None:
    (embedding,) = on_gpu.encode([image])
    together = on_gpu.decode_all(embedding, PROMPTS)
    for one, prompt in zip(together, PROMPTS, strict=True):
        alone = on_gpu.decode(embedding, prompt)
        assert dice_of(one.mask, alone.mask) > 0.999 and one.best == alone.best


def test_slices_of_one_batch_have_the_masks_of_each_alone(on_gpu: SegmentationModel, mni: Volume) -> None:
    images = [mni.slice_image(Plane.AXIAL, index) for index in range(80, 80 + on_gpu.batch)]
    for image, embedding in zip(images, on_gpu.encode(images, ahead=True), strict=True):
        (alone,) = on_gpu.encode([image])
        ours, reference = (on_gpu.decode(each, BOXES[0]).mask for each in (embedding, alone))
        assert dice_of(ours, reference) > 0.99


def test_masks_are_the_same_while_other_threads_encode_and_decode(
    on_gpu: SegmentationModel, mni: Volume
) -> None:
    images = [mni.slice_image(plane, 95) for plane in Plane]
    embeddings = on_gpu.encode(images)
    expected = [[on_gpu.decode(each, prompt).mask for prompt in PROMPTS] for each in embeddings]

    def decode_all_again() -> bool:
        masks = [[on_gpu.decode(each, prompt).mask for prompt in PROMPTS] for each in embeddings]
        return all(np.array_equal(ours, theirs) for ours, theirs in zip(masks, expected, strict=True))

    with ThreadPoolExecutor(6) as pool:
        encoding = [pool.submit(on_gpu.encode, images, True) for _ in range(40)]
        decoding = [pool.submit(decode_all_again) for _ in range(20)]
        assert all(each.result() for each in decoding)
        for each in encoding:
            each.result()


def test_the_first_prompt_of_a_kind_is_recorded_while_slices_are_embedded_ahead(mni: Volume) -> None:
    """A recording that another thread's work could break would fail here, or give another mask."""
    images = [mni.slice_image(plane, 95) for plane in Plane]
    model = load_model("lite_medsam", device="cuda")
    (embedding,) = model.encode(images[:1])
    with ThreadPoolExecutor(2) as pool:
        encoding = [pool.submit(model.encode, images, True) for _ in range(30)]
        for count in range(1, 12):
            points = [[60 + 7 * i, 90 + 5 * i] for i in range(count)]
            prompt = PixelPrompt(points, [1] * count)
            first, again = model.decode(embedding, prompt), model.decode(embedding, prompt)
            assert np.array_equal(first.mask, again.mask)
        for each in encoding:
            each.result()


def test_an_embedding_moved_to_the_host_and_back_gives_the_same_mask(
    on_gpu: SegmentationModel, image: np.ndarray
) -> None:
    (embedding,) = on_gpu.encode([image])
    back = embedding.on_host().on_device()
    assert back.features.device.type == "cuda"
    restored = on_gpu.restore(embedding.as_arrays(), embedding.original_size)
    mask = on_gpu.decode(embedding, BOXES[0]).mask
    assert all(np.array_equal(mask, on_gpu.decode(each, BOXES[0]).mask) for each in (back, restored))


def test_the_engine_embeds_a_plane_ahead_and_answers_requests_meanwhile(
    on_gpu: SegmentationModel, mni: Volume
) -> None:
    engine = EmbeddingEngine(EmbeddingCache(2**33))
    try:
        engine.set_model(on_gpu)
        engine.load(mni)
        engine.sweep([Plane.AXIAL])
        for index in range(0, mni.geometry.slice_count(Plane.AXIAL), 7):
            encoded = engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, index))).result(timeout=60)
            assert on_gpu.decode(encoded.embedding, BOXES[0]).mask.any()
    finally:
        assert engine.close(timeout_s=60)


@pytest.mark.parametrize("name", ["vit_b", "mobile_sam"])
def test_a_model_of_random_weights_is_fast_or_says_why_not(
    name: str, tmp_path: Path, image: np.ndarray
) -> None:
    torch.manual_seed(0)
    if name == "vit_b":
        from segment_anything import sam_model_registry

        network = sam_model_registry["vit_b"]()
    else:
        from samm_core.models.families.mobile_sam import build_mobile_sam

        network = build_mobile_sam()
    torch.save(network.state_dict(), tmp_path / "random.pth")
    model = load_model(name, tmp_path / "random.pth", "cuda")
    assert model.backend.endswith(", fused"), model.refused
    (embedding,) = model.encode([image])
    assert np.isfinite(model.decode(embedding, CLICKS[0]).score)
