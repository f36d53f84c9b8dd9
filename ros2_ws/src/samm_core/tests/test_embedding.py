# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which slice is embedded next, what is kept, what comes back from disk, and the engine that does it."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save_file

from samm_core.embedding import cache
from samm_core.embedding.cache import EmbeddingCache, EmbeddingKey, EmbeddingStore, RecentEmbeddings, scope_of
from samm_core.embedding.engine import EmbeddingEngine
from samm_core.embedding.schedule import SweepOrder
from samm_core.errors import CacheError, NotReadyError, PromptError
from samm_core.geometry import Plane
from samm_core.models.base import FEATURES, Embedding
from samm_core.models.parity import dice_of
from samm_core.prompts import PixelPrompt
from samm_core.sources.base import ImageId, SliceKey
from samm_core.sources.volume import Volume, Window

_FEATURES = st.floats(-6e4, 6e4, width=16) | st.just(0.0)


def embedding(seed: int, floats: int = 64) -> Embedding:
    values = np.random.default_rng(seed).random((1, 1, floats)).astype(np.float16)
    return Embedding({FEATURES: values}, (10, 12), (213, 256))


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
        packed = Embedding({FEATURES: values}, (10, 12), (213, 256)).packed()
        unpacked = packed.unpacked()
        assert unpacked.as_arrays()[FEATURES].dtype == np.float16
        assert type(unpacked.features) is type(values)
        # And what float16 itself rounds away.
        allowed = step * 0.501 + np.abs(exact) * 2**-10 + 2**-24
        assert (np.abs(unpacked.as_arrays()[FEATURES].astype(np.float32) - exact) <= allowed).all()
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


class TwoTensors:
    """A model whose embeddings have two tensors, as SAM 2's have several."""

    def restore(self, tensors: dict[str, np.ndarray], original_size: tuple[int, int]) -> Embedding:
        return Embedding(tensors, original_size, (213, 256))


@pytest.mark.parametrize("made", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_embeddings_of_several_tensors_are_packed_moved_saved_and_read(tmp_path: Path, made) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "features": random.normal(size=(4, 8, 8)).astype(np.float32),
        "high_res": random.normal(size=(2, 16, 16)).astype(np.float16),
    }
    embedding = Embedding({name: made(each) for name, each in arrays.items()}, (10, 12), (213, 256))
    assert embedding.nbytes == 4 * 8 * 8 * 4 + 2 * 16 * 16 * 2
    packed = embedding.packed()
    assert packed.nbytes == 4 * 8 * 8 + 2 * 16 * 16 + 4 * (4 + 2)
    for back in (embedding.on_host().on_device(), packed.on_host().on_device().unpacked()):
        read = back.as_arrays()
        assert {name: (each.dtype, each.shape) for name, each in read.items()} == {
            name: (each.dtype, each.shape) for name, each in arrays.items()
        }
        assert all(np.allclose(read[name], arrays[name], atol=0.05) for name in arrays)

    store = EmbeddingStore(tmp_path)
    store.save(key(3), embedding)
    loaded = store.load(key(3), TwoTensors())
    assert all(np.array_equal(loaded.tensors[name], arrays[name]) for name in arrays)
    (path,) = tmp_path.rglob("*.safetensors")
    with safe_open(path, framework="np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in arrays}
    save_file({"features": tensors["features"], "swapped": tensors["high_res"]}, path, metadata)
    with pytest.raises(CacheError, match="damaged"):
        store.load(key(3), TwoTensors())


def test_a_file_of_an_earlier_release_is_read_and_still_written_so(tmp_path: Path, lite_medsam) -> None:
    """Earlier releases wrote one tensor, "features", and left its name out of the digest."""
    features = embedding(1).as_arrays()[FEATURES]
    about = {"key": "samm-embedding-2 s AXIAL 3", "size": "10 12"}
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{about['key']}|10 12|{features.shape}|{features.dtype}".encode() + features.tobytes())
    about["digest"] = digest.hexdigest()
    path = tmp_path / "s" / "axial_00003.safetensors"
    path.parent.mkdir()
    save_file({"features": features}, path, about)
    store = EmbeddingStore(tmp_path)
    assert np.array_equal(store.load(key(3), lite_medsam).features, features)
    store.save(key(3), embedding(1))
    with safe_open(path, framework="np") as file:
        assert file.metadata() == about and list(file.keys()) == ["features"]


def test_an_embedding_of_a_gpu_in_bfloat16_loses_nothing_on_disk(tmp_path: Path, lite_medsam) -> None:
    store = EmbeddingStore(tmp_path)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 8, 8))).bfloat16()
    store.save(key(3), Embedding({FEATURES: values}, (10, 12), (213, 256)))
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


@pytest.mark.parametrize(
    "size", [None, "", "10", "10 x", "10 12 3", "0 12", "-1 12", "1e9 2", "9" * 40 + " 1", "٣ 4"]
)
def test_a_saved_embedding_of_no_size_is_damaged(tmp_path: Path, lite_medsam, size: str | None) -> None:
    store = EmbeddingStore(tmp_path)
    store.save(key(3), embedding(1))
    rewrite(tmp_path, embedding(1).as_arrays(), size)
    with pytest.raises(CacheError, match="damaged"):
        store.load(key(3), lite_medsam)


@pytest.mark.parametrize(
    "tensors",
    [
        {FEATURES: np.zeros(3, "f4")},
        {FEATURES: np.zeros((1, 1, 1, 3), "f4")},
        {FEATURES: np.zeros((1, 1, 3), "i4")},
        {"other": np.zeros((1, 1, 3), "f4")},
        {FEATURES: np.zeros((1, 1, 3), "f4"), "other": np.zeros((1, 1, 3), "f4")},
        {},
    ],
)
def test_a_saved_embedding_that_its_model_does_not_read_is_damaged(
    tmp_path: Path, lite_medsam, tensors: dict[str, np.ndarray]
) -> None:
    store = EmbeddingStore(tmp_path)
    store.save(key(3), embedding(1))
    rewrite(tmp_path, tensors, "10 12")
    with pytest.raises(CacheError, match="damaged"):
        store.load(key(3), lite_medsam)


def rewrite(folder: Path, tensors: dict[str, np.ndarray], size: str | None) -> None:
    """Replace the one saved embedding, its digest right: as another program would write it."""
    (path,) = folder.rglob("*.safetensors")
    with safe_open(path, framework="np") as file:
        metadata = {"key": file.metadata()["key"]} | ({} if size is None else {"size": size})
    metadata["digest"] = cache.digest_of(tensors, metadata)
    save_file(tensors, path, metadata)


def test_a_disk_that_takes_no_more_leaves_no_part_of_an_embedding(tmp_path: Path, lite_medsam) -> None:
    store = EmbeddingStore(tmp_path)
    store.save(key(3), embedding(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CacheError, match="could not be saved"):
            store.save(key(4), embedding(2, floats=10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["axial_00003.safetensors"]


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / "s" / "old.part", tmp_path / "s" / "new.part"
    old.parent.mkdir()
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    EmbeddingStore(tmp_path)
    assert list(old.parent.iterdir()) == [new]


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_of_what_was_asked_for_the_newest_outlive_their_process(
    tmp_path: Path, lite_medsam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_REST_S", 0.0)
    folder = tmp_path / "recent"
    recent = RecentEmbeddings(folder, count=2)

    def kept() -> set[int]:
        # By whoever is started next.
        return {i for i in range(4) if RecentEmbeddings(folder).load(key(i), lite_medsam)}

    for index in (0, 1, 0, 2):  # 1 was asked for before 0
        recent.note(key(index), embedding(index))
    wait_until(lambda: kept() == {0, 2})
    assert folder.stat().st_mode & 0o777 == 0o700
    again = RecentEmbeddings(folder, count=2)
    assert np.array_equal(again.load(key(2), lite_medsam).features, embedding(2).features)
    again.note(key(3), embedding(3))
    wait_until(lambda: 3 in kept() and len(kept()) == 2)
    (path,) = folder.rglob("axial_00003*")
    path.write_bytes(path.read_bytes()[:-1])
    assert again.load(key(3), lite_medsam) is None, "a damaged one is embedded again"


def test_an_engine_that_is_started_again_embeds_nothing_that_was_asked_for_last(
    tmp_path: Path, lite_medsam, mni: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(index: int) -> np.ndarray:
        engine = EmbeddingEngine(EmbeddingCache(2**30), recent=RecentEmbeddings(tmp_path / "recent"))
        engine.set_model(lite_medsam)
        engine.load(mni)
        try:
            image = ImageId(mni.uid, SliceKey(Plane.AXIAL, index))
            return engine.request(image).result(timeout=120).embedding.features
        finally:
            engine.close()

    first = asked(7)
    wait_until(lambda: any(tmp_path.rglob("axial_00007.safetensors")))
    monkeypatch.setattr(
        lite_medsam, "encode", lambda images, ahead=False: [] if not images else pytest.fail()
    )
    assert np.array_equal(asked(7), first)


def test_what_could_not_be_written_is_written_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_REST_S", 0.0)
    recent, failed = RecentEmbeddings(tmp_path / "recent"), threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise CacheError("The disk is full.")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(EmbeddingStore, "save", fail)
        recent.note(key(0), embedding(0))
        assert failed.wait(60)

    def written() -> bool:
        recent.note(key(0), embedding(0))
        return any(tmp_path.rglob("axial_00000.safetensors"))

    wait_until(written)


def test_of_a_batch_of_the_sweep_what_was_asked_for_outlives_the_process(
    tmp_path: Path, lite_medsam, mni: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeping, answering, go_on = threading.Event(), threading.Event(), threading.Event()

    def encode(images: list, ahead: bool = False) -> list[Embedding]:
        if ahead:
            sweeping.set()
        else:
            answering.set()
        # The thread that answers stays busy, so that the sweep comes to the slice that is asked for.
        assert (go_on if ahead else answered).wait(60)
        return [embedding(i) for i in range(len(images))]

    answered = threading.Event()
    monkeypatch.setattr(lite_medsam, "encode", encode)
    monkeypatch.setattr(lite_medsam, "batch", 2)
    monkeypatch.setattr(lite_medsam, "sweepers", 1)
    engine = EmbeddingEngine(EmbeddingCache(2**30), recent=RecentEmbeddings(tmp_path / "recent"))
    engine.set_model(lite_medsam)
    engine.load(mni)
    order = SweepOrder({Plane.AXIAL: mni.geometry.slice_count(Plane.AXIAL)})
    batch = [order.pop(), order.pop()]
    try:
        engine.sweep([Plane.AXIAL])
        assert sweeping.wait(60)
        engine.request(ImageId(mni.uid, SliceKey(Plane.CORONAL, 0)))
        assert answering.wait(60)
        asked = engine.request(ImageId(mni.uid, SliceKey(*batch[1])))
        go_on.set()
        asked.result(timeout=60)
        wait_until(lambda: any(tmp_path.rglob(f"axial_{batch[1][1]:05d}.safetensors")))
        assert not any(tmp_path.rglob(f"axial_{batch[0][1]:05d}.safetensors"))
    finally:
        go_on.set()
        answered.set()
        engine.close()


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
    engine.load(mni)
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
    encoded = engine.request(ImageId(mni.uid, SliceKey(Plane.CORONAL, 40))).result(timeout=60)

    assert enough.wait(60)
    assert embedded[0][Plane.CORONAL] == {40}
    assert embedded[-1][Plane.CORONAL] <= {38, 39, 40, 41, 42}
    (direct,) = lite_medsam.encode([mni.slice_image(Plane.CORONAL, 40)])
    assert np.array_equal(encoded.embedding.features, direct.features)
    assert engine.request(ImageId(mni.uid, SliceKey(Plane.CORONAL, 40))).done(), "a hit needs no thread"


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
    image = ImageId(mni.uid, SliceKey(Plane.AXIAL, 50))
    first = engine.request(image)
    assert encoding.wait(60)
    again = engine.request(image)
    asked_again.set()

    assert again.result(timeout=60).embedding is first.result(timeout=60).embedding
    assert calls == [1]


def test_a_sweep_stops_when_the_cache_is_full_and_pushes_nothing_out(lite_medsam, mni: Volume) -> None:
    (one,) = lite_medsam.encode([mni.slice_image(Plane.AXIAL, 0)])
    engine = EmbeddingEngine(EmbeddingCache(2 * one.nbytes))
    stopped = threading.Event()
    engine.on_progress = lambda: stopped.set() if not engine.progress().sweeping else None
    engine.set_model(lite_medsam)
    engine.load(mni)
    engine.sweep([Plane.AXIAL])
    assert stopped.wait(60)
    assert engine.progress().done[Plane.AXIAL] == 2
    assert engine.cache.evictions == 0
    engine.close()


def test_loading_a_volume_takes_nothing_from_those_who_work_on_another(
    engine: EmbeddingEngine, mni: Volume
) -> None:
    waiting = [engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, index))) for index in (10, 20)]
    other = Volume(
        mni.voxels[:5], type(mni.geometry)((197, 233, 5), mni.geometry.ijk_to_ras), mni.window, "b", "b", "b"
    )
    engine.load(other)
    for future in waiting:
        assert future.result(timeout=60).embedding
    assert engine.request(ImageId("b", SliceKey(Plane.AXIAL, 4))).result(timeout=60).embedding
    with pytest.raises(PromptError, match="slices 0 to 4"):
        engine.request(ImageId("b", SliceKey(Plane.AXIAL, 5))).result(timeout=60)
    assert [volume.uid for volume in engine.volumes] == ["b", mni.uid]


def test_a_window_makes_another_image_of_the_same_slice(
    engine: EmbeddingEngine, mni: Volume, lite_medsam
) -> None:
    narrow = Window(20, 60)
    # One after the other: the second must not be answered by what the cache holds of the first.
    as_loaded = engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, 50))).result(timeout=60)
    in_window = engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, 50, narrow))).result(timeout=60)

    (expected,) = lite_medsam.encode([mni.with_window(narrow).slice_image(Plane.AXIAL, 50)])
    assert np.array_equal(in_window.embedding.features, expected.features)
    assert not np.array_equal(as_loaded.embedding.features, expected.features)
    named = ImageId(mni.uid, SliceKey(Plane.AXIAL, 50, mni.window))
    assert engine.request(named).done(), "the window that it was loaded in is no other"


def test_beyond_their_budget_the_volumes_used_least_recently_are_let_go(lite_medsam, mni: Volume) -> None:
    slab, matrix = mni.voxels[:5], mni.geometry.ijk_to_ras
    geometry = type(mni.geometry)((197, 233, 5), matrix)
    engine = EmbeddingEngine(EmbeddingCache(2**30), volume_budget=2 * slab.nbytes)
    engine.set_model(lite_medsam)
    for uid in "ab":
        engine.load(Volume(slab, geometry, mni.window, uid, uid, uid))
    engine.request(ImageId("a", SliceKey(Plane.AXIAL, 0))).result(timeout=60)
    engine.load(Volume(slab, geometry, mni.window, "c", "c", "c"))

    assert [volume.uid for volume in engine.volumes] == ["c", "a"]
    with pytest.raises(PromptError, match="let go to make room"):
        engine.request(ImageId("b", SliceKey(Plane.AXIAL, 0))).result(timeout=60)
    engine.load(mni)
    assert [volume.uid for volume in engine.volumes] == [mni.uid], (
        "one that is larger than the budget is held all the same"
    )
    engine.close()


def test_a_restarted_engine_reads_what_another_saved(lite_medsam, mni: Volume, tmp_path: Path) -> None:
    image = ImageId(mni.uid, SliceKey(Plane.AXIAL, 60))
    results, written = [], []
    for _ in range(2):
        engine = EmbeddingEngine(EmbeddingCache(2**30), EmbeddingStore(tmp_path))
        engine.set_model(lite_medsam)
        engine.load(mni)
        results.append(engine.request(image).result(timeout=60).embedding)
        engine.close()
        (saved,) = tmp_path.rglob("*.safetensors")
        written.append(saved.stat().st_mtime_ns)
    assert np.array_equal(results[0].features, results[1].features)
    assert written[0] == written[1], "it was encoded and saved again"


def test_an_image_of_no_volume_is_embedded_between_requests_and_not_kept(lite_medsam, mni: Volume) -> None:
    engine = EmbeddingEngine(EmbeddingCache(10**9))
    image = mni.slice_image(Plane.AXIAL, 90)
    with pytest.raises(NotReadyError, match="No model"):
        engine.encode(image).result(5)
    engine.set_model(lite_medsam)
    engine.load(mni)
    slices = [engine.request(ImageId(mni.uid, SliceKey(Plane.AXIAL, index))) for index in (10, 20, 30)]
    loose = engine.encode(image)
    order: list[int] = []
    for i, each in enumerate([*slices, loose]):
        each.add_done_callback(lambda _, i=i: order.append(i))
    encoded = loose.result(60)
    (expected,) = lite_medsam.encode([image])
    # Another number of threads adds in another order.
    assert np.abs(encoded.embedding.as_arrays()[FEATURES] - expected.as_arrays()[FEATURES]).max() < 0.02
    [each.result(60) for each in slices]
    assert len(engine.cache) == 3
    engine.close()
    assert order.index(3) < 3, "it did not wait for all that were requested"
    engine.suspend()
    with pytest.raises(NotReadyError, match="not active"):
        engine.encode(image).result(5)
