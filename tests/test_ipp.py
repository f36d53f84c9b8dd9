# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The bridge's parts that know neither ROS nor sockets: messages, clocks, prompts that wait, volumes as files."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samm_core import ipp, mask_codec
from samm_core.errors import VolumeError
from samm_core.geometry import Plane
from samm_core.sources.volume import read_here
from slicer_ros_bridge.clock import ClockOffset
from slicer_ros_bridge.volumes import VolumeDescription, VolumeStore

finite = st.floats(-1e9, 1e9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    points=st.lists(st.tuples(finite, finite).map(list), max_size=8),
    number=st.integers(0, 2**53),
    segment=st.text(max_size=ipp.MAX_NAME).filter(str.isprintable),
    box=st.none() | st.lists(finite, min_size=4, max_size=4),
)
def test_a_message_comes_back_as_it_was_packed(points, number, segment, box) -> None:
    fields = {
        "number": number,
        "stream": 1,
        "uid": "abc",
        "plane": 2,
        "index": 7,
        "segment": segment,
        "points_xy": points,
        "labels": [1] * len(points),
        "box_xyxy": box,
    }
    message = ipp.unpack(ipp.FROM_SLICER, ipp.pack(ipp.FROM_SLICER, "prompt", id=3, **fields))
    assert message.type == "prompt"
    assert message.fields == {**fields, "id": 3}


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_a_message_or_refused_in_a_sentence(frames: list[bytes]) -> None:
    for types in (ipp.FROM_SLICER, ipp.FROM_BRIDGE):
        with pytest.raises(ipp.ProtocolError, match=r"\.$"):
            ipp.unpack(types, frames)


@given(
    st.sampled_from(sorted(ipp.FROM_SLICER)),
    st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    st.data(),
)
def test_a_field_of_another_kind_is_refused_and_never_passed_on(kind, extra, data) -> None:
    expected = ipp.FROM_SLICER[kind]
    header = {**extra, "type": kind, **{name: data.draw(json_values) for name in expected.fields}}
    frames = [json.dumps(header).encode(), *([b"x"] if expected.buffer else [])]
    try:
        message = ipp.unpack(ipp.FROM_SLICER, frames)
    except ipp.ProtocolError as error:
        assert len(str(error)) < 400
        return
    assert all(check(message[name]) for name, check in expected.fields.items() if name in message.fields)


def _pack_as_json_alone(types, kind: str, fields: dict) -> list[bytes]:
    """The frames without any check; raises ValueError or TypeError for what is no JSON."""
    header = json.dumps({"type": kind, **fields}, separators=(",", ":"), allow_nan=False).encode()
    return [header, *([b"x"] if types[kind].buffer else [])]


@given(st.sampled_from(sorted(ipp.FROM_SLICER)), st.booleans(), st.data())
def test_pack_refuses_what_unpack_would_and_nothing_else(kind: str, as_reply: bool, data) -> None:
    plausible = st.sampled_from(
        [0, 1, 2.5, "a", "", None, True, [1, 2], (1, 2), Plane.CORONAL, np.float64(7)]
    )
    fields = {name: data.draw(plausible | json_values) for name in ipp.FROM_SLICER[kind].fields}
    fields |= {"id": 3} if as_reply else {}
    buffer = b"x" if ipp.FROM_SLICER[kind].buffer else b""
    try:
        expected = ipp.unpack(ipp.FROM_SLICER, _pack_as_json_alone(ipp.FROM_SLICER, kind, fields))
    except ValueError:
        with pytest.raises(ipp.ProtocolError):
            ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields)
        return
    assert ipp.unpack(ipp.FROM_SLICER, ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields)) == expected


@pytest.mark.parametrize(
    ("kind", "buffer", "fields", "sentence"),
    [
        ("undo", b"", {"id": -1}, "whole number"),
        ("save", b"", {}, "lacks the field name"),
        ("ping", b"", {"sent_ns": float("nan")}, "cannot be nan"),
        ("chunk", bytes(ipp.MAX_BUFFER_BYTES + 1), {"key": "k", "offset": 0, "crc32": 0}, "at most"),
        ("undo", b"", {"of_a_later_version": "x" * ipp.MAX_HEADER_BYTES}, "at most"),
        ("undo", b"", {"of_a_later_version": {1}}, "as JSON"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(kind, buffer, fields, sentence) -> None:
    with pytest.raises(ipp.ProtocolError, match=sentence):
        ipp.pack(ipp.FROM_SLICER, kind, buffer, **fields)


TASK = {
    "number": 1,
    "uid": "u",
    "task": "propagate",
    "plane": 0,
    "segment": "s",
    "first": 0,
    "last": 3,
    "masks": [{"index": 1, "shape": [4, 5], "size": 3}],
    "prompts": [{"index": 1, "points_xy": [[1, 2]], "labels": [1], "box_xyxy": None}],
    "box3d": {"centre_ras": [1, 2, 3], "size_mm": [4, 5, 6], "orientation_xyzw": [0, 0, 0, 1]},
    "frozen": [2],
}


def _of(record: str, at: int | None, **changes: object) -> dict:
    """TASK with another field in one of its marks, or in its box; what is None is left out."""
    given = TASK[record] if at is None else TASK[record][at]
    changed = {name: value for name, value in {**given, **changes}.items() if value is not None}
    return {record: changed if at is None else [changed]}


def test_a_task_comes_back_as_it_was_packed_and_later_fields_are_no_fault() -> None:
    fields = {**TASK, **_of("masks", 0, of_a_later_version=7)}
    message = ipp.unpack(ipp.FROM_SLICER, ipp.pack(ipp.FROM_SLICER, "segment_volume", b"abc", **fields))
    assert (message.fields, message.buffer) == (fields, b"abc")


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "three_planes"},
        {"task": None},
        {"plane": 3},
        {"first": -1},
        {"last": 2**31},
        {"segment": "a\nb"},
        {"frozen": [-1]},
        {"frozen": list(range(ipp.MAX_FROZEN + 1))},
        {"masks": {}},
        {"masks": TASK["masks"] * (ipp.MAX_MARKS + 1)},
        {"prompts": TASK["prompts"] * (ipp.MAX_MARKS + 1)},
        {"masks": [[1, [4, 5], 3]]},
        _of("masks", 0, size=0),
        _of("masks", 0, size=ipp.MAX_BUFFER_BYTES + 1),
        _of("masks", 0, shape=[4, ipp.MAX_SIDE + 1]),
        _of("masks", 0, shape=[4]),
        _of("masks", 0, index=None),
        _of("prompts", 0, labels=[2]),
        _of("prompts", 0, points_xy=[[1, float("nan")]]),
        _of("prompts", 0, points_xy=[[1, 2]] * (ipp.MAX_POINTS + 1)),
        _of("box3d", None, size_mm=[1, 2]),
        _of("box3d", None, orientation_xyzw=[0, 0, 1]),
        _of("box3d", None, centre_ras=[1, 2, 1e13]),
        _of("box3d", None, centre_ras=None),
        {"box3d": []},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_task_that_is_out_of_range_is_refused_on_both_sides(changes: dict) -> None:
    fields = {**TASK, **changes}
    with pytest.raises(ipp.ProtocolError, match="segment_volume"):
        ipp.pack(ipp.FROM_SLICER, "segment_volume", b"abc", **fields)
    header = json.dumps({"type": "segment_volume", **fields}).encode()
    with pytest.raises(ipp.ProtocolError):
        ipp.unpack(ipp.FROM_SLICER, [header, b"abc"])


def test_a_task_without_its_buffer_is_refused() -> None:
    with pytest.raises(ipp.ProtocolError, match="1 buffers"):
        ipp.unpack(ipp.FROM_SLICER, ipp.pack(ipp.FROM_SLICER, "segment_volume", b"", **TASK)[:1])


def test_bridges_before_the_tasks_are_welcome() -> None:
    welcome = {"version": 2, "software": "", "folder": None, "models": [], "window_presets": {}}
    message = ipp.unpack(ipp.FROM_BRIDGE, ipp.pack(ipp.FROM_BRIDGE, "welcome", **welcome))
    assert message.get("tasks") is None


def test_a_mask_is_as_large_as_the_codec_takes() -> None:
    assert ipp.MAX_SIDE == mask_codec.MAX_SIDE


@pytest.mark.parametrize(
    "frames",
    [
        [b'{"type":"ping","sent_ns":NaN}'],
        [b'{"type":"ping","sent_ns":1e400}'],
        [b'{"type":"ping","sent_ns":true}'],
        [b"[" * 60_000],
        [b'{"type":"ping","sent_ns":' + b"[" * 900 + b"]" * 900 + b"}"],
        [b'{"type":"ping","sent_ns":' + b"9" * 400 + b"}"],
        [b" " * (ipp.MAX_HEADER_BYTES + 1)],
        [b'{"type":"ping","sent_ns":1}', b"a buffer that does not belong there"],
        [b'{"type":"chunk","key":"","offset":0,"crc32":0}'],
        [b'{"type":"chunk","key":"","offset":0,"crc32":0}', bytes(ipp.MAX_BUFFER_BYTES + 1)],
    ],
    ids=lambda frames: f"{len(frames)}-{frames[0][:24]!r}",
)
def test_what_json_allows_and_the_protocol_does_not_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ipp.ProtocolError):
        ipp.unpack(ipp.FROM_SLICER, frames)


@given(
    offset=st.integers(-(10**15), 10**15),
    trips=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)),
        min_size=1,
        max_size=16,
    ),
)
def test_the_clock_offset_is_right_within_half_the_shortest_round_trip(offset: int, trips) -> None:
    clock = ClockOffset()
    for there, stay, back in trips:
        # Ours minus theirs is `offset`.
        received = 10**12 - offset + there
        clock.exchange(10**12, received, received + stay, 10**12 + there + stay + back)
    assert abs(clock.offset_ns - offset) <= min(there + back for there, _, back in trips) / 2 + 1


def test_stamps_that_cannot_be_measure_nothing() -> None:
    clock = ClockOffset()
    clock.exchange(100, 50, 40, 200)
    clock.exchange(100, 50, 500, 200)
    assert clock.offset_ns is None


affines = st.builds(
    lambda spacing, origin, turn: np.vstack(
        [np.hstack([np.linalg.qr(turn)[0] * spacing, np.reshape(origin, (3, 1))]), (0, 0, 0, 1)]
    ),
    st.lists(st.floats(0.3, 5), min_size=3, max_size=3),
    st.lists(st.floats(-500, 500), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(3, 3))),
)


def _describe(voxels: np.ndarray, ijk_to_ras: np.ndarray) -> VolumeDescription:
    import hashlib

    key = hashlib.blake2b(np.ascontiguousarray(voxels).tobytes(), digest_size=16).hexdigest()
    components = 3 if voxels.ndim == 4 else 1
    return VolumeDescription(key, "v", voxels.shape[:3], components, voxels.dtype.name, ijk_to_ras)


@given(
    ijk_to_ras=affines,
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    dtype=st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
    colour=st.booleans(),
)
def test_a_volume_from_slicer_is_read_with_its_voxels_and_its_place(
    tmp_path_factory, ijk_to_ras, shape, dtype, seed, colour
) -> None:
    colour = colour and dtype == "uint8"
    voxels = np.random.default_rng(seed).integers(0, 100, (*shape, 3) if colour else shape).astype(dtype)
    store = VolumeStore(tmp_path_factory.mktemp("store"))
    volume = read_here(store.put(_describe(voxels, ijk_to_ras), voxels))
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype == voxels.dtype
    assert volume.geometry.dimensions == voxels.shape[2::-1]
    # SimpleITK has spacing and directions apart.
    np.testing.assert_allclose(volume.geometry.ijk_to_ras, ijk_to_ras, atol=1e-9)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1000, (5, 7, 9)).astype(np.int16)


@pytest.fixture
def description(voxels: np.ndarray) -> VolumeDescription:
    return _describe(voxels, np.eye(4))


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(tmp_path / "store")


def test_an_upload_that_was_cut_goes_on_where_it_was(tmp_path: Path, store, description, voxels) -> None:
    data = voxels.tobytes()
    assert store.append(description, 0, data[:100], zlib.crc32(data[:100]))
    again = VolumeStore(tmp_path / "store")
    assert again.offset(description) == 100
    assert not again.append(description, 50, data[50:60], zlib.crc32(data[50:60])), (
        "these are not the next bytes"
    )
    assert again.append(description, 100, data[100:], zlib.crc32(data[100:]))
    np.testing.assert_array_equal(read_here(again.finish(description)).voxels, voxels)
    assert again.find(description)


def test_damaged_bytes_change_nothing(store, description, voxels) -> None:
    data = voxels.tobytes()
    with pytest.raises(VolumeError, match="damaged on the way"):
        store.append(description, 0, data[:100], zlib.crc32(data[:100]) ^ 1)
    assert store.offset(description) == 0
    with pytest.raises(VolumeError, match="do not fit"):
        store.append(description, 0, data + b"x", zlib.crc32(data + b"x"))
    assert store.offset(description) == 0


def test_an_upload_that_is_not_what_its_key_says_is_forgotten(store, description, voxels) -> None:
    data = voxels.tobytes()[::-1]
    store.append(description, 0, data, zlib.crc32(data))
    with pytest.raises(VolumeError, match="not those of the key"):
        store.finish(description)
    assert store.find(description) is None
    assert store.offset(description) == 0


def test_a_shared_file_is_taken_in_and_deleted(store, description, voxels) -> None:
    (store.incoming / "v.raw").write_bytes(voxels.tobytes())
    np.testing.assert_array_equal(read_here(store.take(description, "v.raw")).voxels, voxels)
    assert not list(store.incoming.iterdir())


def _link(path: Path, voxels: np.ndarray) -> None:
    (path.parent.parent / "secret").write_bytes(voxels.tobytes())
    path.symlink_to(path.parent.parent / "secret")


def _hard_link(path: Path, voxels: np.ndarray) -> None:
    (path.parent.parent / "secret").write_bytes(voxels.tobytes())
    os.link(path.parent.parent / "secret", path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path, voxels: None, "cannot be read"),
        (_link, "cannot be read"),
        (_hard_link, "no plain file"),
        (lambda path, voxels: os.mkfifo(path), "no plain file"),
        (lambda path, voxels: path.write_bytes(voxels.tobytes()[:-1]), "holds 629 bytes"),
        (lambda path, voxels: path.write_bytes(bytes(630)), "not those of the key"),
    ],
    ids=["absent", "symbolic link", "hard link", "pipe", "cut short", "other content"],
)
def test_only_a_plain_file_with_the_voxels_is_taken_in(store, description, voxels, make, sentence) -> None:
    make(store.incoming / "v.raw", voxels)
    with pytest.raises(VolumeError, match=sentence):
        store.take(description, "v.raw")
    assert store.find(description) is None


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", ".", "a/b", "a\0b"])
def test_a_file_name_never_leaves_the_folder(store, description, name: str) -> None:
    with pytest.raises(VolumeError, match="no bare file name"):
        store.take(description, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape_kji": (65536, 65536, 65536)},
        {"dtype": "complex64"},
        {"components": 2},
        {"components": 3},
        {"key": "../../etc/passwd"},
        {"ijk_to_ras": np.zeros((4, 4))},
        {"ijk_to_ras": np.full((4, 4), np.nan)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_description_of_what_cannot_be_is_refused(description: VolumeDescription, changes: dict) -> None:
    with pytest.raises(VolumeError):
        VolumeDescription(**{**vars(description), **changes})


def test_the_oldest_volumes_go_and_the_loaded_one_stays(
    store, voxels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slicer_ros_bridge import volumes

    paths = []
    for number in range(4):
        changed = voxels + np.int16(number)
        paths.append(store.put(_describe(changed, np.eye(4)), changed))
        os.utime(paths[-1], (number, number))
    monkeypatch.setattr(volumes, "MAX_STORED_BYTES", 2 * paths[0].stat().st_size)
    # As a part that another thread has put in place since it was listed.
    (store.folder / "gone.nrrd.part").symlink_to("nowhere")
    store.evict({paths[0]})
    assert [path.exists() for path in paths] == [True, False, True, True]
