# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The SAMM extension's protocol: each byte of it, and its whole session against the real bridge and graph."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bridge_process import BridgeProcess
from hypothesis import given
from hypothesis import strategies as st
from ipp_client import BlockingIppClient
from peer import Peer
from samm_extension import NO_BOX, SammExtension
from samm_msgs.msg import TaskEvent

from samm_core.geometry import Plane, VolumeGeometry
from samm_core.latency.cycles import complete_cycles
from samm_core.latency.events import event_of
from samm_core.prompts import PixelPrompt
from samm_core.sources.volume import Volume, Window
from samm_ros import topics
from samm_ros.client import GraphClient
from slicer_ros_bridge.doors.samm11.server import MODELS, SammServer

SHAPE = (3, 4, 5)


class Actions:
    """SammActions that note what they are asked for; prompts wait until they are answered."""

    def __init__(self) -> None:
        self.volumes: list[np.ndarray] = []
        self.models: list[str] = []
        self.prompts: list[tuple[Plane, int, PixelPrompt]] = []
        self.answers: list = []
        self.embedded = 0

    def load_volume(self, voxels_kji: np.ndarray) -> None:
        self.volumes.append(voxels_kji)

    def embed_all(self) -> None:
        self.embedded += 1

    def select_model(self, name: str) -> None:
        self.models.append(name)

    def prompt(self, plane: Plane, index: int, prompt: PixelPrompt, done) -> None:
        self.prompts.append((plane, index, prompt))
        self.answers.append(done)


class Door:
    """A SammServer with its actions, and what it replied and complained of."""

    def __init__(self) -> None:
        self.actions, self.replies, self.problems = Actions(), [], []
        self.server = SammServer(self.actions, self.problems.append)

    def ask(self, command: int, payload: bytes) -> bytes | None:
        """The reply; None while there is none."""
        return self.ask_frames([struct.pack("<i", command), payload])

    def ask_frames(self, frames: list[bytes]) -> bytes | None:
        before = len(self.replies)
        self.server.handle(frames, self.replies.append)
        return self.replies[before] if len(self.replies) > before else None

    def send_volume(self, voxels: np.ndarray) -> None:
        assert self.ask(0, struct.pack("<3i", *voxels.shape)) == b"\1"
        for index, image in enumerate(voxels):
            assert (
                self.ask(1, struct.pack("<6i", index, *voxels.shape, *image.shape) + image.tobytes()) == b"\1"
            )


@pytest.fixture
def voxels() -> np.ndarray:
    return np.arange(60, dtype=np.uint8).reshape(SHAPE)


@pytest.fixture
def door(voxels: np.ndarray) -> Door:
    door = Door()
    door.send_volume(voxels)
    assert door.ask(2, struct.pack("<2i", 0, 0)) == b"\1"
    return door


def test_the_volume_reaches_the_graph_as_it_was_sent(door: Door, voxels: np.ndarray) -> None:
    np.testing.assert_array_equal(door.actions.volumes[0], voxels)
    assert door.actions.embedded == 1


def test_what_the_graph_was_given_is_never_changed_afterwards(door: Door, voxels: np.ndarray) -> None:
    changed = struct.pack("<6i", 0, *SHAPE, 4, 5) + bytes(20)
    assert door.ask(1, changed) == b"\1"
    np.testing.assert_array_equal(door.actions.volumes[0], voxels)
    assert door.ask(2, bytes(8)) == b"\1"
    assert not door.actions.volumes[1][0].any()


@pytest.mark.parametrize(("view", "index", "shape"), [(0, 2, (4, 5)), (1, 3, (3, 5)), (2, 4, (3, 4))])
def test_a_view_is_the_plane_of_the_same_slice(door: Door, voxels, view: int, index: int, shape) -> None:
    payload = struct.pack("<6i", index, view, 1, 1, 3, 2) + struct.pack("<ii", 0, 0)
    assert door.ask(3, payload) is None, "the reply waits for the graph"
    plane, asked, prompt = door.actions.prompts[0]
    geometry = VolumeGeometry(voxels.shape[::-1], np.eye(4))
    np.testing.assert_array_equal(
        geometry.take_slice(voxels, plane, asked), np.take(voxels, index, axis=view)
    )
    assert prompt.box_xyxy.tolist() == [1, 1, 3, 2]
    mask = np.zeros(shape, bool)
    mask[1, 2] = True
    door.actions.answers[0](mask, "")
    assert door.replies[-1] == mask.astype(np.uint8).tobytes()


@given(
    positive=st.lists(st.tuples(st.integers(-5, 9), st.integers(-5, 9)), max_size=5),
    negative=st.lists(st.tuples(st.integers(-5, 9), st.integers(-5, 9)), max_size=5),
    box=st.none() | st.tuples(*[st.integers(-5, 9)] * 4),
)
def test_points_labels_and_box_come_over_or_are_answered_by_zeros(positive, negative, box) -> None:
    door = Door()
    door.send_volume(np.zeros(SHAPE, np.uint8))
    payload = struct.pack("<6i", 1, 0, *(box or NO_BOX))
    for points in (positive, negative):
        payload += struct.pack("<i", len(points)) + b"".join(struct.pack("<2i", *p) for p in points)
    reply = door.ask(3, payload)
    if door.actions.prompts:
        _, _, prompt = door.actions.prompts[0]
        assert prompt.points_xy.tolist() == [list(p) for p in (*positive, *negative)]
        assert prompt.labels.tolist() == [1] * len(positive) + [0] * len(negative)
        assert (prompt.box_xyxy is None) == (box is None)
        if box:
            assert prompt.box_xyxy.tolist() == [max(1, value) for value in box]
        door.actions.answers[0](None, "no mask")
        reply = door.replies[-1]
    assert reply == bytes(20)


def _point(index: int, view: int = 0) -> bytes:
    return struct.pack("<6i", index, view, *NO_BOX) + struct.pack("<4i", 1, 1, 1, 0)


def test_a_refusal_leaves_the_mask_that_the_slice_holds(door: Door) -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2] = True
    door.ask(3, _point(1))
    door.actions.answers[-1](mask, "")
    door.ask(3, _point(1))
    door.actions.answers[-1](None, "The model takes no points.")
    assert door.replies[-1] == mask.astype(np.uint8).tobytes()
    assert "takes no points" in door.problems[-1]
    door.ask(3, _point(2, view=2))
    door.actions.answers[-1](None, "no mask")
    assert np.frombuffer(door.replies[-1], np.uint8).reshape(3, 4)[1].tolist() == [0, 1, 1, 0]
    door.send_volume(np.zeros(SHAPE, np.uint8))
    door.ask(3, _point(1))
    door.actions.answers[-1](None, "no mask")
    assert door.replies[-1] == bytes(20), "the new volume has no mask yet"


@pytest.mark.parametrize("index", [-7, -1, 5, 99])
@pytest.mark.parametrize(("view", "size"), [(0, 20), (1, 15), (2, 12)])
def test_a_slice_outside_of_the_volume_gets_an_empty_mask_of_its_size(
    door: Door, view: int, size: int, index: int
) -> None:
    assert door.ask(3, _point(index, view)) == bytes(size)
    assert door.ask(5, struct.pack("<5i", 0, 0, 2, 2, index)) == bytes(20)
    assert not door.actions.prompts


@pytest.mark.parametrize(("view", "side"), [(0, 3), (1, 4), (2, 5)])
def test_a_slice_below_the_volume_leaves_the_one_that_the_extension_writes_it_over(
    door: Door, view: int, side: int
) -> None:
    door.ask(3, _point(side - 1, view))
    plane, index, _ = door.actions.prompts[-1]
    mask = np.ones(np.take(np.zeros(SHAPE), index, axis=plane).shape, bool)
    door.actions.answers[-1](mask, "")
    assert door.ask(3, _point(-1, view)) == mask.astype(np.uint8).tobytes()
    assert door.ask(3, _point(side, view)) == bytes(mask.size)


def test_models_by_their_index(door: Door) -> None:
    for index in range(len(MODELS)):
        assert door.ask(4, struct.pack("<i", index)) == b"\1"
    assert door.actions.models == ["vit_b", "vit_l", "vit_h", "mobile_sam", "medsam_vit_b"]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"", b""],
        [b"\0\0\0\0"],
        [b"\0\0\0\0", b"", b""],
        [struct.pack("<i", 6), b""],
        [struct.pack("<i", -1), b""],
        [struct.pack("<q", 0), b""],
        [struct.pack("<i", 0), struct.pack("<3i", 0, 1, 1)],
        [struct.pack("<i", 0), struct.pack("<3i", 2**31 - 1, 2**31 - 1, 2**31 - 1)],
        [struct.pack("<i", 0), struct.pack("<3i", 16384, 16384, 16384)],
        [struct.pack("<i", 0), b"short"],
        [struct.pack("<i", 1), struct.pack("<6i", 3, *SHAPE, 4, 5) + bytes(20)],
        [struct.pack("<i", 1), struct.pack("<6i", -1, *SHAPE, 4, 5) + bytes(20)],
        [struct.pack("<i", 1), struct.pack("<6i", 0, *SHAPE, 4, 5) + bytes(19)],
        [struct.pack("<i", 1), struct.pack("<6i", 0, *SHAPE, 5, 4) + bytes(20)],
        [struct.pack("<i", 1), struct.pack("<6i", 0, 9, 9, 9, 9, 9) + bytes(81)],
        [struct.pack("<i", 2), bytes(4)],
        [struct.pack("<i", 3), bytes(8)],
        [struct.pack("<i", 3), struct.pack("<6i", 0, 3, *NO_BOX) + bytes(8)],
        [struct.pack("<i", 3), struct.pack("<7i", 0, 0, *NO_BOX, 2**31 - 1) + bytes(8)],
        [struct.pack("<i", 3), struct.pack("<7i", 0, 0, *NO_BOX, -1) + bytes(8)],
        [struct.pack("<i", 4), struct.pack("<i", 5)],
    ],
)
def test_a_damaged_request_is_answered_by_zero_and_changes_nothing(door: Door, voxels, frames) -> None:
    assert door.ask_frames(frames) == b"\0"
    assert door.problems[-1].endswith(".")
    assert door.ask(2, bytes(8)) == b"\1"
    np.testing.assert_array_equal(door.actions.volumes[-1], voxels)


@given(st.lists(st.binary(max_size=64), max_size=4), st.integers(-2, 7))
def test_any_bytes_are_replied_to_once(frames: list[bytes], command: int) -> None:
    door = Door()
    door.send_volume(np.zeros(SHAPE, np.uint8))
    before = len(door.replies)
    door.ask_frames([struct.pack("<i", command), *frames])
    for done in door.actions.answers:
        done(None, "no mask")
    assert len(door.replies) == before + 1


def test_a_volume_without_all_its_slices_is_not_loaded() -> None:
    door = Door()
    assert door.ask(2, bytes(8)) == b"\0"
    assert door.ask(0, struct.pack("<3i", *SHAPE)) == b"\1"
    assert door.ask(1, struct.pack("<6i", 1, *SHAPE, 4, 5) + bytes(20)) == b"\1"
    assert door.ask(2, bytes(8)) == b"\0"
    assert "2 of 3 slices" in door.problems[-1]
    assert not door.actions.volumes


@pytest.fixture(scope="module")
def bridge(
    shared_graph: str, mni_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgeProcess]:
    with BridgeProcess(shared_graph, tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


@pytest.mark.xdist_group("graph")
def test_the_extensions_whole_session_gets_the_masks_of_the_direct_call(
    bridge: BridgeProcess, shared_graph: str, mni: Volume, lite_medsam
) -> None:
    """Sizes, slices, model, embeddings, 60 inferences over three views, automatic segmentation, beside IPP/2."""
    array = mni.window.to_uint8(mni.voxels[20:110, 50:190, 20:170])
    geometry = VolumeGeometry(array.shape[::-1], np.eye(4))
    volume = Volume(array, geometry, Window(0, 255), "", "", "")
    slices = [(0, 15, (16, 60, 62, 112)), (1, 50, (62, 4, 96, 55)), (2, 78, (34, 4, 70, 48))]
    expected = {}
    for view, index, box in slices:
        (embedding,) = lite_medsam.encode([volume.slice_image(Plane(view), index)])
        for shift in range(4):
            moved = (box[0] + shift, *box[1:])
            expected[view, shift] = lite_medsam.decode(
                embedding, PixelPrompt(box_xyxy=np.float32(moved))
            ).mask
    assert min(mask.sum() for mask in expected.values()) > 50

    with SammExtension(bridge.ports["SAMM"]) as client, Peer(shared_graph) as peer:
        peer.listen(TaskEvent, topics.TASK_EVENTS, topics.EVENTS)
        assert client.set_image_size(array.shape) == b"\1"
        for index, image in enumerate(array):
            assert client.set_nth_image(index, array.shape, image) == b"\1"
        assert client.calculate_embeddings() == b"\1"
        with BlockingIppClient(bridge.ports["IPP/2"], "beside") as beside:
            for count in range(60):
                view, index, box = slices[count % 3]
                shift = count // 3 % 4
                reply = client.inference(index, view, (box[0] + shift, *box[1:]))
                while count == 0 and not any(reply):
                    # The volume is on its way into the graph: no mask in the extension's time, which asks again.
                    reply = client.inference(index, view, (box[0] + shift, *box[1:]))
                mask = np.frombuffer(reply, np.uint8).reshape(expected[view, shift].shape)
                # Another number of threads may round a pixel on the outline the other way.
                difference = (mask ^ expected[view, shift]).sum()
                assert difference <= 0.01 * expected[view, shift].sum(), (count, view, bridge.lines[-5:])
            assert beside.hello()["version"] == 2
        view, index, box = slices[0]
        assert client.auto_seg(box[:2], box[2:], index) == client.inference(index, 0, box)
        # Green and red points, alone and beside the box.
        (embedding,) = lite_medsam.encode([volume.slice_image(Plane(view), index)])
        for given, prompt in (
            ({"positive": [(38, 86)]}, PixelPrompt([(38, 86)], [1])),
            (
                {"positive": [(38, 86)], "negative": [(70, 70)]},
                PixelPrompt([(38, 86), (70, 70)], [1, 0]),
            ),
            ({"box": box, "negative": [(38, 86)]}, PixelPrompt([(38, 86)], [0], box)),
        ):
            wanted = lite_medsam.decode(embedding, prompt).mask
            mask = np.frombuffer(client.inference(index, 0, **given), np.uint8).reshape(wanted.shape)
            assert wanted.any() and (mask ^ wanted).sum() <= 0.01 * wanted.sum() + 2, given
        assert client.inference(index, 0) == bytes(array[index].size)
        # The weights are not here: the model that answers stays.
        assert client.select_model(0) == b"\1"
        assert any(client.inference(index, 0, box))
        events = [event_of(e) for e in peer.heard[topics.TASK_EVENTS] if e.client_id.startswith("samm/")]
    assert len(complete_cycles(events)) >= 57, "the five tasks were not traced"
