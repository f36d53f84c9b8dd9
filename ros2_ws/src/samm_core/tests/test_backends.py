# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Backends: the masks of the reference, or refused with a reason; exports that are made once and never used when stale."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops

from samm_core.embedding.cache import EmbeddingCache, EmbeddingKey, EmbeddingStore, scope_of
from samm_core.embedding.engine import EmbeddingEngine
from samm_core.errors import BackendError, ModelError, PromptError
from samm_core.geometry import Plane
from samm_core.models import checkpoint_of, load_model
from samm_core.models.backends import compiled_store, export_store
from samm_core.models.backends.export_store import (
    REFERENCE_FILE,
    UNUSED_S,
    export_of,
    identity_of,
    write_manifest,
)
from samm_core.models.backends.openvino import OpenVinoModel, activate, fast_precisions
from samm_core.models.base import FEATURES, Embedding
from samm_core.models.parity import Reference, dice_of, reference_prompts
from samm_core.models.processor import LiteMedSamProcessor, SamProcessor
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey

# Of the processor: others may use it too.
CHECK_S = 2.0


@pytest.fixture(scope="module")
def torch_lite():
    return load_model("lite_medsam", device="cpu", backend="torch")


@pytest.fixture(scope="module")
def encoded(lite_medsam, torch_lite, mni) -> dict[Plane, tuple[np.ndarray, Embedding, Embedding]]:
    """In two planes: a slice of a real brain, (H, W, 3) uint8, and its embeddings by the fast backend and the reference."""
    found = {}
    for plane in (Plane.AXIAL, Plane.SAGITTAL):
        image = mni.slice_image(plane, mni.geometry.slice_count(plane) // 2)
        found[plane] = (image, *lite_medsam.encode([image]), *torch_lite.encode([image]))
    return found


@pytest.fixture(scope="module")
def export() -> Path:
    return export_of("lite_medsam", checkpoint_of("lite_medsam"))


def test_auto_takes_openvino_on_a_cpu_and_no_torch() -> None:
    code = (
        "import sys; from samm_core.models import load_model; m = load_model('lite_medsam', device='cpu')\n"
        "print(m.backend, 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert shown.stdout.startswith("openvino") and shown.stdout.endswith(" False\n"), shown


def test_a_model_in_the_background_gives_the_same_masks_and_lets_other_work_go_first(
    lite_medsam, encoded
) -> None:
    behind = lite_medsam.in_background()
    assert lite_medsam.in_background() is behind and behind.in_background() is behind
    assert behind.fingerprint == lite_medsam.fingerprint
    image, embedding, _ = encoded[Plane.AXIAL]
    prompt = PixelPrompt(box_xyxy=(60, 60, 120, 140))
    masks = [
        lite_medsam.decode(embedding, prompt).mask,
        behind.decode(behind.encode([image])[0], prompt).mask,
    ]
    assert dice_of(*masks) > 0.999
    own = os.getpriority(os.PRIO_PROCESS, 0)
    priorities = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            priorities.add(os.getpriority(os.PRIO_PROCESS, int(thread)))
    assert max(priorities) > own
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_masks_on_a_real_brain_are_those_of_the_reference(lite_medsam, torch_lite, encoded) -> None:
    dice = []
    for _, fast, reference in encoded.values():
        exact = reference.as_arrays()[FEATURES]
        error = np.linalg.norm(fast.as_arrays()[FEATURES].astype(np.float32) - exact)
        assert error < 0.005 * np.linalg.norm(exact)
        for box in ([40, 40, 150, 170], [70, 80, 121, 140], [33, 90, 89, 133]):
            prompt = PixelPrompt(box_xyxy=box)
            mask = torch_lite.decode(reference, prompt).mask
            assert 0 < mask.sum() < mask.size
            dice.append(dice_of(lite_medsam.decode(fast, prompt).mask, mask))
    assert np.mean(dice) >= 0.995 and min(dice) >= 0.98, np.round(dice, 4)


def test_what_is_embedded_ahead_is_what_is_embedded_at_once(lite_medsam, encoded) -> None:
    image, at_once, _ = encoded[Plane.AXIAL]
    (ahead,) = lite_medsam.encode([image], ahead=True)
    difference = np.abs(at_once.as_arrays()[FEATURES].astype(np.float32) - ahead.as_arrays()[FEATURES])
    assert difference.max() < 0.01


def test_an_embedding_of_one_backend_is_decoded_by_another(lite_medsam, torch_lite, encoded) -> None:
    """As when the encoder is on a server's GPU and the decoder on a laptop."""
    _, _, made = encoded[Plane.AXIAL]
    (prompt,) = reference_prompts(takes_points=False, takes_box=True)[:1]
    taken = lite_medsam.restore(made.as_arrays(), made.original_size)
    assert dice_of(lite_medsam.decode(taken, prompt).mask, torch_lite.decode(made, prompt).mask) >= 0.98
    assert lite_medsam.fingerprint != torch_lite.fingerprint


def test_openvino_tells_nobody_how_it_is_used(tmp_path) -> None:
    """Without the stand-in, any conversion starts threads that send it, and a folder with an identity of the user."""
    code = (
        "import os, sys, threading; import samm_core.models.backends; import openvino\n"
        "try: openvino.convert_model('absent.onnx')\n"
        "except Exception as error: print('absent.onnx' in str(error))\n"
        "print(sys.modules['openvino_telemetry'], threading.active_count(), os.listdir(os.environ['HOME']))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.stdout == "True\nNone 1 []\n", shown


# What was compiled is kept


@pytest.fixture
def kept(lite_medsam, tmp_path) -> Path:
    """A copy of the export of a model that has been loaded, with its compiled networks."""
    return shutil.copytree(lite_medsam.export, tmp_path / lite_medsam.export.name)


def masks_of(model: OpenVinoModel, image: np.ndarray) -> list[np.ndarray]:
    """By each of its networks."""
    (embedding,) = model.encode([image])
    prompts = (
        PixelPrompt(box_xyxy=[40, 40, 150, 170]),
        PixelPrompt([[98, 120]], [1]),
        PixelPrompt([[98, 120], [60, 60]], [1, 0]),
    )
    return [model.decode(embedding, prompt).mask for prompt in prompts]


def test_a_second_load_compiles_nothing_and_gives_the_same_masks(
    lite_medsam, kept, encoded, monkeypatch
) -> None:
    image = encoded[Plane.AXIAL][0]
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: pytest.fail("it was compiled again"))
    model = OpenVinoModel("lite_medsam", LiteMedSamProcessor(), kept, "float32")
    for mask, expected in zip(masks_of(model, image), masks_of(lite_medsam, image), strict=True):
        assert expected.any() and np.array_equal(mask, expected)


def test_a_compiled_network_that_was_cut_is_compiled_again_and_gives_the_same_masks(
    lite_medsam, kept, encoded
) -> None:
    image = encoded[Plane.AXIAL][0]
    (cut,) = kept.glob("compiled-decoder-2-float32-*")
    os.truncate(cut, cut.stat().st_size - 100)
    assert compiled_store.load_compiled(cut) is None
    model = OpenVinoModel("lite_medsam", LiteMedSamProcessor(), kept, "float32")
    for mask, expected in zip(masks_of(model, image), masks_of(lite_medsam, image), strict=True):
        assert np.array_equal(mask, expected)
    assert compiled_store.load_compiled(cut) is not None


def test_agreement_is_of_compiled_networks_that_were_kept_and_ends_when_the_computer_is_started(
    kept, tmp_path, monkeypatch
) -> None:
    def load() -> None:
        activate("lite_medsam", LiteMedSamProcessor(), kept, "float32")

    def is_noted() -> bool:
        return any(kept.glob("agreed-float32-*"))

    for former in (*kept.glob("agreed-*"), *kept.glob("compiled-decoder-2-*")):
        former.unlink()
    load()
    assert not is_noted(), "what the next start imports has not been checked"
    load()
    assert is_noted()
    # The check alone reads it.
    (kept / REFERENCE_FILE).unlink()
    load()
    monkeypatch.setattr(compiled_store, "_BOOT", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("of another start")
    with pytest.raises(FileNotFoundError):
        load()


def test_compiled_networks_that_nobody_uses_are_removed(tmp_path) -> None:
    def make(name: str, age_s: float) -> Path:
        (tmp_path / name).write_bytes(b"compiled")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
        return tmp_path / name

    unused = make("compiled-points-float32-a", UNUSED_S + 60)
    abandoned = make("compiled-points-float32-b.x.part", 7200)
    others = {
        make("compiled-points-float32-c", UNUSED_S - 60),
        make("compiled-points-float32-d.x.part", 60),
        make("compiled-points-2-float32-a", UNUSED_S + 60),
    }
    used = tmp_path / "compiled-points-float32-e"
    compiled_store.save_compiled(used, b"compiled")
    assert set(tmp_path.iterdir()) == {*others, used} and not {unused, abandoned} & others
    assert compiled_store.load_compiled(used).tobytes() == b"compiled"
    os.utime(used, (0, 0))
    compiled_store.load_compiled(used)
    compiled_store.save_compiled(tmp_path / "compiled-points-float32-f", b"compiled")
    assert used.exists(), "it was used a moment ago"


# A backend is refused when it is wrong, whatever is wrong with it


def swap_axes(network: openvino.Model) -> openvino.Output:
    return ops.transpose(network.output(0).get_node().input_value(0), [0, 2, 1, 3]).output(0)


def not_a_number(network: openvino.Model) -> openvino.Output:
    return ops.log(ops.multiply(ops.abs(network.output(0).get_node().input_value(0)), np.float16(-1))).output(
        0
    )


def overflow(network: openvino.Model) -> openvino.Output:
    wide = ops.convert(network.output(0).get_node().input_value(0), "f32")
    return ops.convert(ops.multiply(wide, np.float32(1e6)), "f16").output(0)


def off_by_a_pixel(network: openvino.Model) -> openvino.Output:
    return ops.roll(network.output(0).get_node().input_value(0), [1], [1]).output(0)


def wrong_masks(network: openvino.Model) -> openvino.Output:
    return ops.subtract(network.output(0).get_node().input_value(0), np.float32(2)).output(0)


FAULTS = {
    "encoder swaps axes": ("encoder", swap_axes, "off the reference's"),
    "encoder overflows float16": ("encoder", overflow, "not finite"),
    "encoder is off by a pixel": ("encoder", off_by_a_pixel, "off the reference's"),
    "decoder's masks are too small": ("decoder", wrong_masks, "Dice"),
    "masks of points are too small": ("points", wrong_masks, "Dice"),
}


def plant(export: Path, name: str, fault: Callable) -> None:
    """Rewrite a network of an export so that its first output is wrong, and write the manifest anew."""
    path = export / f"{name}.xml"
    network = openvino.Core().read_model(path)
    spoiled = openvino.Model([fault(network), *network.outputs[1:]], network.get_parameters())
    openvino.save_model(spoiled, export / "spoiled.xml", compress_to_fp16=False)
    del network, spoiled
    for suffix in (".xml", ".bin"):
        (export / f"spoiled{suffix}").replace(path.with_suffix(suffix))
    write_manifest(export, export.name.removeprefix("lite_medsam-"))


@pytest.mark.parametrize(("network", "fault", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_wrong_backend_is_refused(export, tmp_path, network, fault, reason) -> None:
    wrong = shutil.copytree(export, tmp_path / export.name)
    plant(wrong, network, fault)
    with pytest.raises(BackendError, match=reason):
        activate("lite_medsam", LiteMedSamProcessor(), wrong, "float32")


def test_in_place_of_a_backend_that_is_refused_the_next_is_taken(export, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SAMM_HOME", str(tmp_path))
    plant(shutil.copytree(export, tmp_path / "exports" / export.name), "encoder", not_a_number)
    model = load_model("lite_medsam", device="cpu")
    assert model.backend == "torch float32"
    # One for each precision that this CPU computes in: bfloat16 first where it has it, and float32.
    assert len(model.refused) == len(fast_precisions())
    assert "not finite" in model.refused[-1] and not any("\n" in why for why in model.refused)


# A precision is refused when its masks are not the reference's, and the next one taken

halves = pytest.mark.skipif(
    fast_precisions() == ("float32",),
    reason="this CPU does not compute in bfloat16: it takes a minute a slice",
)


def random_boxes(size: tuple[int, int], count: int) -> list[PixelPrompt]:
    random, sides = np.random.default_rng(0), np.array(size[::-1])
    starts, extents = random.uniform(0.15, 0.6, (count, 2)), random.uniform(0.15, 0.4, (count, 2))
    return [
        PixelPrompt(box_xyxy=[*(start * sides), *((start + extent) * sides)])
        for start, extent in zip(starts, extents, strict=True)
    ]


def random_clicks(size: tuple[int, int], count: int) -> list[PixelPrompt]:
    """On the brain: the middle of the slice."""
    random, sides = np.random.default_rng(1), np.array(size[::-1])
    return [
        PixelPrompt(random.uniform(0.3, 0.7, (clicks, 2)) * sides, [1, *random.integers(0, 2, clicks - 1)])
        for clicks in random.integers(1, 6, count)
    ]


def test_what_passes_the_parity_check_has_the_masks_of_the_reference_for_many_prompts(
    lite_medsam, torch_lite, encoded
) -> None:
    """On the backend and in the precision that a user of this machine gets."""
    dice = []
    for image, fast, reference in encoded.values():
        for prompt in (*random_boxes(image.shape[:2], 8), *random_clicks(image.shape[:2], 8)):
            masks = (m.decode(e, prompt).mask for m, e in ((lite_medsam, fast), (torch_lite, reference)))
            dice.append(dice_of(*masks))
    assert np.mean(dice) >= 0.995 and min(dice) >= 0.98, np.round(dice, 4)


@halves
def test_bfloat16_that_changes_masks_is_refused_float32_taken_and_the_refusal_remembered(
    export, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("SAMM_HOME", str(tmp_path))
    own = shutil.copytree(
        export, tmp_path / "exports" / export.name, ignore=shutil.ignore_patterns("refused-*")
    )
    first = load_model("lite_medsam", device="cpu")
    assert first.backend == "openvino float32"
    assert len(first.refused) == 1 and "openvino bfloat16 is not used" in first.refused[0]
    (note,) = own.glob("refused-bfloat16-*")
    note.write_text("bfloat16 was refused before.")
    second = load_model("lite_medsam", device="cpu")
    assert second.refused == ("bfloat16 was refused before.",) and second.backend == "openvino float32"
    chosen = load_model("lite_medsam", device="cpu", precision="bfloat16")
    assert chosen.refused == second.refused and chosen.backend == "torch float32"


@halves
def test_on_a_gpu_the_first_precision_that_agrees_is_taken(mni) -> None:
    """What accelerate does on CUDA, here on a CPU that computes in bfloat16."""
    from samm_core.models.backends.cuda import choose_precision

    model = load_model("lite_medsam", device="cpu", backend="torch")
    fingerprint = model.fingerprint
    reference = Reference.of(model)
    agrees, refused = choose_precision(model, reference, ("bfloat16",))
    assert not agrees and len(refused) == 1 and "torch bfloat16 is not used" in refused[0]
    assert model.fingerprint != fingerprint
    agrees, refused = choose_precision(model, reference, ("bfloat16", "float32"))
    assert agrees and len(refused) == 1
    assert (model.backend, model.fingerprint) == ("torch float32", fingerprint)


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ModelError, match="float16 is for GPUs"):
        load_model("lite_medsam", device="cpu", precision="float16")


def spoil_weights(export: Path) -> None:
    path = export / "encoder.bin"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x40
    path.write_bytes(whole)


def cut_short(export: Path) -> None:
    path = export / "decoder.bin"
    path.write_bytes(path.read_bytes()[:-100])


def of_another_identity(export: Path) -> None:
    write_manifest(export, "0" * 32)


def without_manifest(export: Path) -> None:
    (export / "manifest.json").unlink()


STALE = (spoil_weights, cut_short, of_another_identity, without_manifest)


@pytest.mark.parametrize("spoil", STALE, ids=[spoil.__name__ for spoil in STALE])
def test_a_stale_or_damaged_export_is_seen_before_it_is_used(export, tmp_path, monkeypatch, spoil) -> None:
    """And made anew."""
    spoiled = shutil.copytree(export, tmp_path / export.name)
    spoil(spoiled)
    made = []
    monkeypatch.setattr(export_store, "make_export", lambda *args: made.append(args[-1]))
    started = time.process_time()
    assert export_of("lite_medsam", checkpoint_of("lite_medsam"), tmp_path) == spoiled
    assert made == [spoiled]
    assert time.process_time() - started < CHECK_S


def test_the_identity_of_an_export_follows_the_checkpoint(tmp_path) -> None:
    published = checkpoint_of("lite_medsam")
    changed = tmp_path / "changed.pth"
    whole = bytearray(published.read_bytes())
    whole[-1000] ^= 1
    changed.write_bytes(whole)
    assert identity_of("lite_medsam", changed) != identity_of("lite_medsam", published)
    assert identity_of("lite_medsam", published) == identity_of("lite_medsam", published)


def test_embeddings_of_an_earlier_release_with_the_same_encoder_are_still_read(export, tmp_path, mni) -> None:
    """An earlier release named what it saved by its whole export, whose decoder was another."""
    place = tmp_path / "exports"
    own = shutil.copytree(export, place / export.name)
    earlier = shutil.copytree(export, place / "lite_medsam-0123456789abcdef")
    (earlier / "decoder.bin").write_bytes(b"of another decoder")
    write_manifest(earlier, "0123456789abcdef")
    other = shutil.copytree(export, place / "lite_medsam-fedcba9876543210")
    spoil_weights(other)
    write_manifest(other, "fedcba9876543210")
    model = OpenVinoModel("lite_medsam", LiteMedSamProcessor(), own, "float32")

    def named(folder: Path) -> str:
        text = f"{folder.name} {model.processor.version} {model.backend}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    assert set(model.former_fingerprints) == {named(own), named(earlier)}
    store = EmbeddingStore(tmp_path / "store")
    saved = model.restore({FEATURES: np.full((256, 64, 64), 0.5, np.float16)}, (233, 197))
    scope = scope_of(mni.uid, mni.window, named(earlier))
    store.save(EmbeddingKey(scope, Plane.AXIAL, 60), saved)
    with contextlib.closing(EmbeddingEngine(EmbeddingCache(2**30), store)) as engine:
        engine.set_model(model)
        engine.load(mni)
        read = engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, 60))).result(timeout=60).embedding
    assert np.array_equal(read.features, saved.features)


def test_a_bad_checkpoint_is_refused_in_a_sentence_not_taken_for_a_bad_backend(tmp_path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="damaged") as caught:
        load_model("lite_medsam", bad, device="cpu")
    assert not isinstance(caught.value, BackendError)
    with pytest.raises(ModelError, match="no checkpoint at"):
        load_model("lite_medsam", tmp_path / "none.pth", device="cpu")


def test_two_processes_that_need_an_export_at_once_make_it_once(export, tmp_path) -> None:
    """The second waits for the first: here for a lock that this test holds, while it puts the export there."""
    code = (
        "import sys; from pathlib import Path; from samm_core.models import checkpoint_of; from samm_core.models.backends import export_store\n"
        "export_store.make_export = lambda *args: sys.exit('made again')\n"
        "print('waiting', flush=True)\n"
        f"print(export_store.export_of('lite_medsam', checkpoint_of('lite_medsam'), Path({str(tmp_path)!r})))"
    )
    with export_store.locked(tmp_path / "lite_medsam.lock"):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "waiting\n"
        shutil.copytree(export, tmp_path / ".aside")
        (tmp_path / ".aside").rename(tmp_path / export.name)
    out, _ = other.communicate(timeout=60)
    assert (other.returncode, out) == (0, f"{tmp_path / export.name}\n")


def test_an_unknown_backend_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ModelError, match="auto, torch, openvino"):
        load_model("lite_medsam", backend="tensorrt")


# What a GPU runs, checked where there is none


def test_fused_attention_is_the_published_attention() -> None:
    from segment_anything.modeling.image_encoder import Attention

    from samm_core.models.backends.cuda import FusedAttention

    torch.manual_seed(0)
    for size in ((14, 14), (7, 9)):
        published = Attention(48, num_heads=3, use_rel_pos=True, input_size=size).eval()
        with torch.no_grad():
            published.rel_pos_h.normal_()
            published.rel_pos_w.normal_()
            x = torch.randn(2, *size, 48)
            torch.testing.assert_close(FusedAttention(published)(x), published(x), rtol=1e-4, atol=1e-5)


def test_prompts_decoded_in_one_batch_have_the_masks_of_each_alone(
    torch_lite, encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the modules that are captured on a GPU, here without the capture."""
    from samm_core.models.backends.torch import BatchDecoders

    class Uncaptured:
        def __init__(self, decoder: torch.nn.Module) -> None:
            self.decoder = decoder

        def stream(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

        def __call__(
            self, features: torch.Tensor, point_coords: np.ndarray, point_labels: np.ndarray
        ) -> tuple[torch.Tensor, torch.Tensor]:
            coords, labels = torch.from_numpy(point_coords), torch.from_numpy(point_labels)
            return self.decoder(features.permute(1, 2, 0)[None], coords, labels)

    _, _, embedding = encoded[Plane.AXIAL]
    boxes = [[40, 40, 150, 170], [70, 80, 121, 140], [33, 90, 89, 133]]
    prompts = [PixelPrompt(box_xyxy=box) for box in boxes]
    prompts += [PixelPrompt([[98, 120]], [1]), PixelPrompt([[98, 120], [60, 60]], [1, 0])]
    prompts += [PixelPrompt([[98, 120]], [1], choice=choice) for choice in (1, 2)]
    alone = torch_lite.decode_all(embedding, prompts)
    monkeypatch.setattr(
        torch_lite, "batch_decoders", BatchDecoders(*map(Uncaptured, torch_lite.fused_decoders()))
    )
    together = torch_lite.decode_all(embedding, prompts)
    for one, other in zip(alone, together, strict=True):
        assert 0 < one.mask.sum() < one.mask.size
        assert dice_of(one.mask, other.mask) > 0.999 and one.score == pytest.approx(other.score, abs=1e-3)
        assert (one.best, one.low_res_logits.shape) == (other.best, other.low_res_logits.shape)


def test_a_mask_is_refused_by_an_exported_decoder_which_has_no_input_for_it(export) -> None:
    """Even where the family takes masks: here SAM's processor stands around LiteMedSAM's export."""
    model = OpenVinoModel("vit_b", SamProcessor(), export, "float32")
    with pytest.raises(PromptError, match="vit_b takes no mask here"):
        model.check_prompt(PixelPrompt([[98, 120]], [1], mask_input=np.zeros((256, 256))))
