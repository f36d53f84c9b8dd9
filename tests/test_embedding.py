# SPDX-License-Identifier: Apache-2.0
"""Which slice is embedded next, what is kept, what comes back from disk, and the engine that does it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samm_ros.cycle import SliceId
from samm_ros.embedding.cache import EmbeddingCache, EmbeddingKey, EmbeddingStore, scope_of
from samm_ros.embedding.engine import EmbeddingEngine
from samm_ros.embedding.schedule import SweepOrder
from samm_ros.errors import CacheError, PromptError
from samm_ros.geometry import Plane
from samm_ros.models.base import Embedding
from samm_ros.models.parity import dice_of
from samm_ros.prompts import PixelPrompt
from samm_ros.volume import Volume, Window

_FEATURES = st.floats(-6e4, 6e4, width=16) | st.just(0.0)


def embedding(seed: int, floats: int = 64) -> Embedding:
    values = np.random.default_rng(seed).random((1, 1, floats)).astype(np.float16)
    return Embedding(values, (10, 12), (213, 256))


def key(index: int, scope: str = "s") -> EmbeddingKey:
    return EmbeddingKey(scope, Plane.AXIAL, index)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_sweep_visits_every_slice_once_and_the_neighbours_outwards_first(a: int, b: int, data) -> None:
    order = SweepOrder({Plane.AXIAL: a, Plane.CORONAL: b})
    focus = data.draw(st.integers(0, b - 1))
    order.focus(Plane.CORONAL, focus)
    visited = [order.pop() for _ in range(a + b)]
    assert order.pop() is None
    assert len(set(visited)) == a + b
    assert [plane for plane, _ in visited] == [Plane.CORONAL] * b + [Plane.AXIAL] * a
    distances = [abs(index - focus) for plane, index in visited if plane == Plane.CORONAL]
    assert distances == sorted(distances)


@given(
    st.lists(st.tuples(st.sampled_from("pg"), st.integers(0, 9)), max_size=60),
    st.integers(0, 5),
    st.integers(0, 4),
)
def test_the_cache_keeps_its_budgets_and_drops_the_least_recently_used(
    steps: list[tuple[str, int]], device: int, host: int
) -> None:
    one = embedding(0).nbytes
    cache = EmbeddingCache(device * one, host * one)
    used: list[int] = []
    for what, index in steps:
        kept = index in used
        found = cache.get(key(index)) is not None if what == "g" else None
        if what == "g":
            assert found == kept
        else:
            cache.put(key(index), embedding(index))
        if what == "p" or kept:
            used = [i for i in used if i != index] + [index]
        used = used[max(0, len(used) - device - host) :]
        assert cache.nbytes <= (device + host) * one
        assert cache.indices("s", Plane.AXIAL) == set(used)


@given(
    st.lists(st.tuples(st.sampled_from("pg"), st.integers(0, 9)), max_size=60),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_a_packing_cache_counts_the_slice_that_it_unpacked(
    steps: list[tuple[str, int]], device: int, host: int
) -> None:
    one = embedding(0, 1024)
    packed = one.packed().nbytes
    cache = EmbeddingCache(one.nbytes + device * packed, host * packed, packs=True)
    for what, index in steps:
        if what == "p":
            given_back = cache.put(key(index), embedding(index, 1024))
            read = cache.get(key(index))
            assert read is None or np.array_equal(read.features, given_back.features)
        elif (read := cache.get(key(index))) is not None:
            assert read is cache.get(key(index)), "it is unpacked once"
            assert np.array_equal(read.features, embedding(index, 1024).packed().unpacked().features)
        assert cache.nbytes <= cache.device_budget + cache.host_budget
    kept = cache.nbytes
    cache.clear()
    assert cache.nbytes == 0 <= kept


@given(
    hnp.arrays(
        np.float16, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)), elements=_FEATURES
    )
)
def test_packed_features_are_within_half_a_step_of_their_channel_in_numpy_and_torch(
    features: np.ndarray,
) -> None:
    exact = features.astype(np.float32)
    step = np.abs(exact).max(axis=(1, 2), keepdims=True) / 127
    for values in (features, torch.from_numpy(features)):
        packed = Embedding(values, (10, 12), (213, 256)).packed()
        unpacked = packed.unpacked()
        assert unpacked.as_array().dtype == np.float16
        assert type(unpacked.features) is type(values)
        # And what float16 itself rounds away.
        allowed = step * 0.501 + np.abs(exact) * 2**-10 + 2**-24
        assert (np.abs(unpacked.as_array().astype(np.float32) - exact) <= allowed).all()
        assert packed.nbytes == features.size + 4 * len(features)


def test_masks_of_packed_embeddings_agree_and_twice_as_many_are_kept(lite_medsam, mni: Volume) -> None:
    boxes = [PixelPrompt(box_xyxy=box) for box in ([40, 40, 150, 170], [70, 80, 121, 140], [33, 90, 89, 133])]
    images = [mni.slice_image(plane, 95) for plane in Plane]
    exact = lite_medsam.encode(images)
    cache = EmbeddingCache(2 * exact[0].nbytes + 2**13, packs=True)
    dice = []
    for index, embedding in enumerate(exact):
        cache.put(key(index), embedding)
        given_back = cache.get(key(index))
        dice += [
            dice_of(lite_medsam.decode(given_back, box).mask, lite_medsam.decode(embedding, box).mask)
            for box in boxes
        ]
    assert len(cache) == 2, "two packed ones and the one that was read last"
    assert np.mean(dice) >= 0.995
    assert min(dice) >= 0.99


def test_a_saved_embedding_comes_back_bit_for_bit(tmp_path: Path, lite_medsam) -> None:
    store, saved = EmbeddingStore(tmp_path), embedding(1)
    store.save(key(3), saved)
    loaded = store.load(key(3), lite_medsam)
    assert np.array_equal(loaded.features, saved.features)
    assert loaded.features.dtype == saved.features.dtype
    assert (loaded.original_size, loaded.input_size) == (saved.original_size, saved.input_size)
    assert store.load(key(4), lite_medsam) is None


def test_an_embedding_of_a_gpu_in_bfloat16_loses_nothing_on_disk(tmp_path: Path, lite_medsam) -> None:
    store = EmbeddingStore(tmp_path)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 8, 8))).bfloat16()
    store.save(key(3), Embedding(values, (10, 12), (213, 256)))
    loaded = torch.from_numpy(np.ascontiguousarray(store.load(key(3), lite_medsam).features))
    assert torch.equal(loaded.bfloat16(), values)


def test_a_damaged_or_misplaced_saved_embedding_is_never_used(tmp_path: Path, lite_medsam) -> None:
    store = EmbeddingStore(tmp_path)
    store.save(key(3), embedding(1))
    store.save(key(4), embedding(2))
    (path,) = tmp_path.rglob("axial_00003*")
    whole = path.read_bytes()
    for cut in range(0, len(whole), 13):
        path.write_bytes(whole[:cut])
        with pytest.raises(CacheError, match="damaged"):
            store.load(key(3), lite_medsam)
    for position in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 0x04
        path.write_bytes(flipped)
        with pytest.raises(CacheError, match="damaged"):
            store.load(key(3), lite_medsam)
    path.write_bytes(next(tmp_path.rglob("axial_00004*")).read_bytes())
    with pytest.raises(CacheError, match="damaged"):
        store.load(key(3), lite_medsam)
    assert np.array_equal(store.load(key(4), lite_medsam).features, embedding(2).features), (
        "the whole one is still served"
    )


def test_the_scope_changes_with_volume_window_and_model() -> None:
    scopes = {
        scope_of(uid, window, model)
        for uid in "ab"
        for window in (Window(0, 1), Window(0, 2))
        for model in "mn"
    }
    assert len(scopes) == 8


@pytest.fixture
def engine(lite_medsam, mni: Volume):
    engine = EmbeddingEngine(EmbeddingCache(2**30))
    engine.set_model(lite_medsam)
    engine.set_volume(mni)
    yield engine
    engine.close()


def test_the_requested_slice_is_embedded_before_the_sweep_and_the_sweep_goes_on_around_it(
    engine: EmbeddingEngine, mni: Volume, lite_medsam
) -> None:
    embedded: list[dict[Plane, set[int]]] = []
    enough = threading.Event()
    scope = scope_of(mni.uid, mni.window, lite_medsam.fingerprint)

    def on_progress() -> None:
        embedded.append({plane: engine.cache.indices(scope, plane) for plane in Plane})
        if sum(map(len, embedded[-1].values())) >= 3:
            enough.set()

    engine.on_progress = on_progress
    engine.sweep(Plane)
    encoded = engine.request(SliceId(mni.uid, Plane.CORONAL, 40)).result(timeout=60)

    assert enough.wait(60)
    assert embedded[0][Plane.CORONAL] == {40}
    assert embedded[-1][Plane.CORONAL] <= {38, 39, 40, 41, 42}
    (direct,) = lite_medsam.encode([mni.slice_image(Plane.CORONAL, 40)])
    assert np.array_equal(encoded.embedding.features, direct.features)
    assert engine.request(SliceId(mni.uid, Plane.CORONAL, 40)).done(), "a hit needs no thread"


def test_a_slice_asked_for_again_while_it_is_encoded_is_encoded_once(
    engine: EmbeddingEngine, mni: Volume, lite_medsam, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, asked_again = threading.Event(), threading.Event()
    encode, calls = lite_medsam.encode, []

    def encode_when_asked_again(images: list, ahead: bool = False) -> list[Embedding]:
        calls.append(len(images))
        encoding.set()
        assert asked_again.wait(60)
        return encode(images, ahead)

    monkeypatch.setattr(lite_medsam, "encode", encode_when_asked_again)
    wish = SliceId(mni.uid, Plane.AXIAL, 50)
    first = engine.request(wish)
    assert encoding.wait(60)
    again = engine.request(wish)
    asked_again.set()

    assert again.result(timeout=60).embedding is first.result(timeout=60).embedding
    assert calls == [1]


def test_a_sweep_stops_when_the_cache_is_full_and_pushes_nothing_out(lite_medsam, mni: Volume) -> None:
    (one,) = lite_medsam.encode([mni.slice_image(Plane.AXIAL, 0)])
    engine = EmbeddingEngine(EmbeddingCache(2 * one.nbytes))
    stopped = threading.Event()
    engine.on_progress = lambda: stopped.set() if not engine.progress().sweeping else None
    engine.set_model(lite_medsam)
    engine.set_volume(mni)
    engine.sweep([Plane.AXIAL])
    assert stopped.wait(60)
    assert engine.progress().done[Plane.AXIAL] == 2
    assert engine.cache.evictions == 0
    engine.close()


def test_work_for_a_replaced_volume_is_refused_in_a_sentence(engine: EmbeddingEngine, mni: Volume) -> None:
    waiting = [engine.request(SliceId(mni.uid, Plane.AXIAL, index)) for index in (10, 20)]
    other = Volume(
        mni.voxels[:5], type(mni.geometry)((197, 233, 5), mni.geometry.ijk_to_ras), mni.window, "b", "b", "b"
    )
    engine.set_volume(other)
    with pytest.raises(PromptError, match="was changed"):
        # The newest is worked on already; the other waits.
        waiting[0].result(timeout=60)
    with pytest.raises(PromptError, match="not loaded"):
        engine.request(SliceId(mni.uid, Plane.AXIAL, 10)).result(timeout=60)
    with pytest.raises(PromptError, match="slices 0 to 4"):
        engine.request(SliceId("b", Plane.AXIAL, 5)).result(timeout=60)


def test_a_restarted_engine_reads_what_another_saved(lite_medsam, mni: Volume, tmp_path: Path) -> None:
    slice_id = SliceId(mni.uid, Plane.AXIAL, 60)
    results, written = [], []
    for _ in range(2):
        engine = EmbeddingEngine(EmbeddingCache(2**30), EmbeddingStore(tmp_path))
        engine.set_model(lite_medsam)
        engine.set_volume(mni)
        results.append(engine.request(slice_id).result(timeout=60).embedding)
        engine.close()
        (saved,) = tmp_path.rglob("*.safetensors")
        written.append(saved.stat().st_mtime_ns)
    assert np.array_equal(results[0].features, results[1].features)
    assert written[0] == written[1], "it was encoded and saved again"
