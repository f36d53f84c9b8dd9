# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""slicer_bridge as 3D Slicer meets it: its own process, ZeroMQ to it, the real graph behind it."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from bridge_process import BridgeProcess, free_ports
from diagnostic_msgs.msg import DiagnosticArray
from ipp_client import BlockingIppClient, Refused
from peer import Peer
from samm_msgs.msg import TaskEvent, TaskMask

from samm_core import ipp, private
from samm_core.geometry import Plane
from samm_core.mask_codec import decode_mask
from samm_core.private import private_folder
from samm_core.prompts import PixelPrompt
from samm_core.sources.volume import Volume, read_here
from samm_ros import topics
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import find_executable
from slicer_ros_bridge import curve, sockets
from slicer_ros_bridge.worker import Worker

pytestmark = pytest.mark.xdist_group("graph")

BOX = (36.0, 110.0, 82.0, 162.0)
INDEX = 35


@pytest.fixture(scope="module")
def bridge(
    shared_graph: str, mni_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgeProcess]:
    """On the shared graph, which has its volume back at the end."""
    with BridgeProcess(shared_graph, tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


@pytest.fixture
def lone_bridge(namespace: str, tmp_path: Path) -> Iterator[BridgeProcess]:
    """Without a graph."""
    with BridgeProcess(namespace, tmp_path) as bridge:
        yield bridge


@pytest.fixture
def slicer(bridge: BridgeProcess) -> Iterator[BlockingIppClient]:
    with BlockingIppClient(bridge.ports["IPP/2"], f"slicer-{uuid.uuid4().hex[:8]}") as client:
        client.hello()
        client.wait(lambda m: m.type == "volume" and m["uid"])
        yield client


@pytest.fixture
def loaded(slicer: BlockingIppClient, mni: Volume) -> str:
    """The uid of the MNI volume, sent by Slicer."""
    return _share(slicer, mni)


@pytest.fixture(scope="module")
def cropped(mni_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """3 MB of the MNI volume: several chunks."""
    path = tmp_path_factory.mktemp("cropped") / "cropped.nrrd"
    image = sitk.Cast(sitk.ReadImage(str(mni_path)), sitk.sitkInt16)
    sitk.WriteImage(image[40:160, 60:180, 50:160], str(path))
    return read_here(path)


def _share(slicer: BlockingIppClient, volume: Volume) -> str:
    folder = next(m for m in slicer.heard if m.type == "welcome")["folder"]
    return slicer.share_volume(volume, Path(folder))["uid"]


def test_a_box_from_slicer_gives_the_mask_of_the_direct_call(
    slicer: BlockingIppClient, loaded: str, lite_medsam, embedded
) -> None:
    number = slicer.prompt(loaded, Plane.AXIAL, INDEX, box_xyxy=list(BOX), segment="pole")
    message, mask = slicer.mask(number)

    expected = lite_medsam.decode(embedded(Plane.AXIAL, INDEX), PixelPrompt(box_xyxy=np.float32(BOX))).mask
    assert expected.sum() > 100
    assert (mask ^ expected).sum() <= 0.01 * expected.sum()
    assert (message["uid"], message["plane"], message["index"]) == (loaded, Plane.AXIAL, INDEX)
    assert message["segment"] == "pole"
    assert 0 < message["score"] <= 1


@pytest.mark.parametrize("box", [None, list(BOX)], ids=["clicks", "clicks and a box"])
def test_clicks_from_slicer_give_the_mask_of_the_direct_call(
    slicer: BlockingIppClient, loaded: str, lite_medsam, embedded, box: list[float] | None
) -> None:
    points, labels = [[59.0, 136.0], [95.0, 120.0]], [1, 0]
    number = slicer.prompt(loaded, Plane.AXIAL, INDEX, points_xy=points, labels=labels, box_xyxy=box)
    _, mask = slicer.mask(number)
    expected = lite_medsam.decode(embedded(Plane.AXIAL, INDEX), PixelPrompt(points, labels, box)).mask
    assert expected.sum() > 100
    assert (mask ^ expected).sum() <= 0.01 * expected.sum()


def test_the_live_latency_of_the_five_tasks_is_told(slicer: BlockingIppClient, loaded: str) -> None:
    message, _ = slicer.mask(slicer.prompt(loaded, Plane.AXIAL, INDEX, box_xyxy=list(BOX)))
    cycle = slicer.wait(lambda m: m.type == "cycle" and m["cycle"] == message["cycle"])
    assert list(cycle["intervals_ms"]) == ["SND_INF", "RCV_INF", "CPL_INF", "RCV_MSK", "APL_MSK"]
    assert sum(cycle["intervals_ms"].values()) == pytest.approx(cycle["total_ms"])


def test_slicers_own_apl_msk_is_in_the_trace_on_the_graphs_clock(
    slicer: BlockingIppClient, loaded: str, shared_graph: str
) -> None:
    behind_ns = 10**12
    stamps: dict[int, tuple[int, int]] = {}

    def apply() -> None:
        message, _ = slicer.mask(slicer.prompt(loaded, Plane.AXIAL, INDEX, box_xyxy=list(BOX)))
        stamps[message["cycle"]] = started_ns, ended_ns = time.monotonic_ns() - 10**6, time.monotonic_ns()
        times = {"started_ns": started_ns - behind_ns, "ended_ns": ended_ns - behind_ns}
        slicer.send("applied", cycle=message["cycle"], stream=0, completed=True, **times)

    with Peer(shared_graph) as peer:
        peer.listen(TaskEvent, topics.TASK_EVENTS, topics.EVENTS)
        for _ in range(3):
            # A clock that is far behind the graph's, as another computer's is.
            sent_ns = time.monotonic_ns() - behind_ns
            slicer.send("ping", sent_ns=sent_ns)
            pong = slicer.wait(lambda m, sent_ns=sent_ns: m.type == "pong" and m["sent_ns"] == sent_ns)
            now_ns = time.monotonic_ns() - behind_ns
            slicer.send("ping", sent_ns=now_ns, bridge_ns=pong["bridge_ns"], received_ns=now_ns)
        # The peer hears the bridge only once it has discovered it: then the newest is heard.
        event = peer.do_until(apply, topics.TASK_EVENTS, lambda e: e.node == f"slicer/{slicer.name}")
    started_ns, ended_ns = stamps[event.cycle]
    assert (event.task, event.outcome) == (TaskEvent.APL_MSK, TaskEvent.COMPLETED)
    # Loopback's round trip, on a busy computer.
    assert abs(event.ended_ns - ended_ns) < 50e6
    assert event.ended_ns - event.started_ns == ended_ns - started_ns


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"index": 5000}, "no axial slice 5000"),
        ({"uid": "0123456789abcdef"}, "volume 01234567"),
        ({"box_xyxy": None}, "empty"),
        ({"box_xyxy": [10.0, 10.0, 10.0, 10.0]}, "no area"),
        ({"box_xyxy": [900.0, 900.0, 950.0, 950.0]}, "outside"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_prompt_without_an_answer_is_refused_in_a_sentence(
    slicer: BlockingIppClient, loaded: str, change: dict, sentence: str
) -> None:
    prompt = {"uid": loaded, "plane": 0, "index": INDEX, "box_xyxy": list(BOX), **change}
    with pytest.raises(Refused, match=sentence):
        slicer.mask(slicer.prompt(**prompt))
    assert slicer.mask(slicer.prompt(loaded, 0, INDEX, box_xyxy=list(BOX)))[1].any()


def test_labels_that_are_not_one_a_point_are_refused(slicer: BlockingIppClient, loaded: str) -> None:
    slicer.prompt(loaded, 0, INDEX, points_xy=[[1, 2], [3, 4]], labels=[1])
    error = slicer.wait(lambda m: m.type == "error")
    assert "1 labels for 2 points" in error["message"]


def test_two_slicers_get_each_their_own_masks(
    bridge: BridgeProcess, slicer: BlockingIppClient, loaded: str
) -> None:
    with BlockingIppClient(bridge.ports["IPP/2"], "the other") as other:
        other.hello()
        boxes = [[36.0, 110.0, 82.0, 162.0], [110.0, 110.0, 160.0, 165.0]]
        for _ in range(3):
            numbers = [
                client.prompt(loaded, 0, INDEX, box_xyxy=box)
                for client, box in zip((slicer, other), boxes, strict=True)
            ]
            for client, number, box in zip((slicer, other), numbers, boxes, strict=True):
                _, mask = client.mask(number)
                columns = np.flatnonzero(mask.any(axis=0))
                assert box[0] - 10 <= columns.min() <= columns.max() <= box[2] + 10
        mine = {m["number"] for m in slicer.heard if m.type == "mask"}
        theirs = {m["number"] for m in other.heard if m.type == "mask"}
    assert mine
    assert theirs
    assert not mine & theirs


def test_streams_of_one_slicer_do_not_supersede_each_other(slicer: BlockingIppClient, loaded: str) -> None:
    dragged = [slicer.prompt(loaded, 0, INDEX, box_xyxy=[36.0 + n, 110.0, 82.0, 162.0]) for n in range(5)]
    propagated = slicer.prompt(loaded, 0, INDEX, stream=1, box_xyxy=list(BOX))
    wanted = {dragged[-1], propagated}
    for _ in range(len(wanted)):
        wanted.discard(slicer.wait(lambda m: m.type == "mask" and m["number"] in wanted)["number"])
    assert not wanted


def test_a_volume_over_the_wire_goes_on_where_it_was_cut(
    bridge: BridgeProcess, slicer: BlockingIppClient, cropped: Volume
) -> None:
    assert slicer.send_volume(cropped, stop_after=1) is None
    with BlockingIppClient(bridge.ports["IPP/2"], slicer.name) as again:
        again.hello()
        reply = again.send_volume(cropped)
        offsets = [m["offset"] for m in again.heard if m.type == "volume_wanted"]
        assert offsets[0] == ipp.CHUNK_BYTES, "what had come was sent again"
        assert reply["dimensions"] == list(cropped.geometry.dimensions)
        np.testing.assert_allclose(
            np.reshape(reply["ijk_to_ras"], (4, 4)), cropped.geometry.ijk_to_ras, atol=1e-9
        )
        # What the bridge has is not sent twice.
        before = len(again.heard)
        assert again.send_volume(cropped)["uid"] == reply["uid"]
        assert not [m for m in again.heard[before:] if m.type == "volume_wanted"]


def test_a_damaged_chunk_is_asked_for_again(slicer: BlockingIppClient, cropped: Volume) -> None:
    changed = np.ascontiguousarray(cropped.voxels[::-1])
    volume = Volume(changed, cropped.geometry, cropped.window, "v", "", "")
    fields = slicer.describe(volume)
    slicer.send("volume", id=900, **fields)
    slicer.wait(lambda m: m.type == "volume_wanted" and m["offset"] == 0)
    slicer.send("chunk", b"damaged", key=fields["key"], offset=0, crc32=1)
    assert "damaged" in slicer.wait(lambda m: m.type == "error")["message"]
    assert slicer.wait(lambda m: m.type == "volume_wanted")["offset"] == 0
    assert slicer.send_volume(volume)["dimensions"] == list(cropped.geometry.dimensions)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"file": "../../etc/passwd"}, "no bare file name"),
        ({"file": "absent"}, "cannot be read"),
        ({"key": "0" * 32}, "not those of the key"),
        ({"shape_kji": [65536, 65536, 65536]}, "voxels; at most"),
        ({"ijk_to_ras": [0.0] * 16}, "IJK-to-RAS"),
        ({"window": [5.0, 5.0]}, "window"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_volume_that_cannot_be_is_refused_and_the_loaded_one_stays(
    slicer: BlockingIppClient, loaded: str, cropped: Volume, changes: dict, sentence: str
) -> None:
    changed = np.ascontiguousarray(cropped.voxels[:, ::-1])
    volume = Volume(changed, cropped.geometry, cropped.window, "v", "", "")
    folder = Path(next(m for m in slicer.heard if m.type == "welcome")["folder"])
    with pytest.raises(Refused, match=sentence):
        slicer.share_volume(volume, folder, **changes)
    assert slicer.mask(slicer.prompt(loaded, 0, INDEX, box_xyxy=list(BOX)))[1].any()


def test_of_a_dragged_window_the_newest_is_set(slicer: BlockingIppClient, cropped: Volume) -> None:
    uid = _share(slicer, cropped)
    # Whole numbers too, as JSON has them.
    for request, upper in zip(itertools.count(500), (150, 160.0, 170.0, 180), strict=False):
        slicer.send("window", id=request, uid=uid, window=[20, upper])
    assert "newer" in slicer.reply(500)["text"]
    volume = slicer.wait(lambda m: m.type == "volume" and m["window"] == [20.0, 180.0])
    assert volume["uid"] == uid
    windows = [m["window"][1] for m in slicer.heard if m.type == "volume" and m["uid"] == uid]
    assert not {150.0, 160.0, 170.0} & set(windows)
    with pytest.raises(Refused, match="shows nothing"):
        slicer.ask("window", uid=uid, window=[5.0, 5.0])


def test_undo_save_and_models_reach_the_graph(
    slicer: BlockingIppClient, bridge: BridgeProcess, loaded: str
) -> None:
    message, mask = slicer.mask(slicer.prompt(loaded, 0, INDEX, box_xyxy=list(BOX), segment=uuid.uuid4().hex))
    slicer.wait(lambda m: m.type == "cycle" and m["cycle"] == message["cycle"])

    saved = Path(slicer.ask("save", name="saved.nii.gz")["text"])
    before = sitk.GetArrayFromImage(sitk.ReadImage(str(saved)))
    slicer.ask("undo")
    slicer.ask("save", name="saved.nii.gz")
    after = sitk.GetArrayFromImage(sitk.ReadImage(str(saved)))

    assert (before[INDEX] != after[INDEX]).sum() > 0.5 * mask.sum()
    slicer.ask("redo")
    for name in ("../saved.nii.gz", "/tmp/saved.nii.gz", ".hidden.nii.gz"):
        with pytest.raises(Refused, match="bare file name"):
            slicer.ask("save", name=name)
    with pytest.raises(Refused, match="lite_medsam"):
        slicer.ask("select_model", name="vit_z")


def test_one_slicer_cannot_undo_the_others_mask(
    bridge: BridgeProcess, slicer: BlockingIppClient, loaded: str
) -> None:
    with BlockingIppClient(bridge.ports["IPP/2"], "the other") as other:
        other.hello()
        message, _ = other.mask(other.prompt(loaded, 0, INDEX, box_xyxy=list(BOX)))
        other.wait(lambda m: m.type == "cycle" and m["cycle"] == message["cycle"])
    with pytest.raises(Refused, match="another client's"):
        slicer.ask("undo")


# The brain stem, in coronal slices.
STEM, STEM_BOX = 100, [82.0, 8.0, 116.0, 75.0]


def _task(uid: str, number: int = 1, **changes: Any) -> dict[str, Any]:
    prompt = {"index": STEM, "points_xy": [], "labels": [], "box_xyxy": STEM_BOX}
    fields = {"number": number, "uid": uid, "task": "propagate", "plane": 1, "segment": uuid.uuid4().hex}
    between = {"first": STEM - 1, "last": STEM + 1}
    return {**fields, **between, "masks": [], "prompts": [prompt], "box3d": None, "frozen": [], **changes}


def test_a_structure_is_propagated_over_the_bridge_as_one_step_of_the_graphs_copy(
    slicer: BlockingIppClient, bridge: BridgeProcess, loaded: str, mni: Volume
) -> None:
    task = _task(loaded, 7)
    ended = slicer.ask("segment_volume", **task)
    assert (ended.type, ended["number"], ended["success"]) == ("volume_ended", 7, True), ended["message"]
    masks = [m for m in slicer.heard if m.type == "volume_mask"]
    assert [m["index"] for m in masks] == [STEM, STEM + 1, STEM - 1] and ended["slices"] == 3
    assert [m["done"] for m in masks] == [1, 2, 3]
    assert {m["segment"] for m in masks} == {task["segment"]}
    assert sorted(ended["stopped"]) == [
        f"From slice {STEM} to slice {STEM + 1}: the range ends.",
        f"From slice {STEM} to slice {STEM - 1}: the range ends.",
    ]
    pixels = sum(int(decode_mask(m.buffer, tuple(m["shape"])).sum()) for m in masks)
    assert pixels > 1000

    def saved() -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(slicer.ask("save", name="task.nii.gz")["text"]))

    before = saved()
    slicer.ask("undo")
    assert np.unique(np.argwhere(saved() != before)[:, 1]).tolist() == [STEM - 1, STEM, STEM + 1]
    slicer.ask("redo")
    assert (saved() == before).all()


def test_a_task_that_is_cancelled_says_so_and_the_next_one_runs(
    slicer: BlockingIppClient, loaded: str
) -> None:
    slicer.send("segment_volume", id=900, **_task(loaded, 1, first=0, last=200))
    slicer.wait(lambda m: m.type == "volume_mask" and m["done"] >= 2)
    slicer.send("cancel_volume", number=1)
    ended = slicer.reply(900)
    assert not ended["success"] and "Cancelled after" in ended["message"]
    assert ended["slices"] == len([m for m in slicer.heard if m.type == "volume_mask"])
    assert slicer.ask("segment_volume", **_task(loaded, 2))["success"]


def test_the_task_of_a_slicer_that_vanished_ends(
    bridge: BridgeProcess, loaded: str, shared_graph: str
) -> None:
    with Peer(shared_graph) as peer:
        peer.listen(TaskMask, topics.TASK_MASKS, topics.TASKS)
        with BlockingIppClient(bridge.ports["IPP/2"], f"gone-{uuid.uuid4().hex[:6]}") as gone:
            gone.hello()
            gone.send("segment_volume", **_task(loaded, 1, first=0, last=200))
            gone.wait(lambda m: m.type == "volume_mask")
            mine = peer.wait_for(topics.TASK_MASKS, lambda m: m.mask.client_id.startswith(gone.name))
            # As if it had crashed: nothing more is said.
        peer.wait_for(topics.TASK_MASKS, lambda m: m.ended and m.id == mine.id)
        masks = [m for m in peer.heard[topics.TASK_MASKS] if m.id == mine.id and not m.ended]
        assert len(masks) < 100


@pytest.mark.parametrize(
    ("changes", "buffer", "sentence"),
    [
        ({"prompts": []}, b"", "no mark"),
        ({"first": 50, "last": 40}, b"", "reversed"),
        ({"last": 100_000}, b"", "100000"),
        ({"frozen": [2**31 - 1]}, b"", "2147483647"),
        (
            {"prompts": [], "masks": [{"index": STEM, "shape": [189, 197], "size": 5}]},
            b"12345",
            "cannot be read",
        ),
        (
            {"prompts": [{"index": STEM, "points_xy": [], "labels": [], "box_xyxy": None}]},
            b"",
            "empty",
        ),
        (
            {"prompts": [{"index": STEM, "points_xy": [], "labels": [], "box_xyxy": [9e11] * 4}]},
            b"",
            "no area|outside|finite",
        ),
        ({"task": "box", "prompts": []}, b"", "no box"),
        (
            {
                "task": "box",
                "box3d": {"centre_ras": [9e11] * 3, "size_mm": [1] * 3, "orientation_xyzw": [0, 0, 0, 1]},
            },
            b"",
            "outside the volume",
        ),
        ({"task": "automatic", "prompts": [], "first": 5000, "last": 5000}, b"", "5000"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_task_that_cannot_be_is_refused_in_a_sentence_by_the_graph(
    slicer: BlockingIppClient, loaded: str, mni: Volume, changes: dict, buffer: bytes, sentence: str
) -> None:
    task = _task(loaded, **changes)
    for mark in task["masks"]:
        mark["shape"] = list(mni.geometry.slice_shape(Plane.CORONAL))
    ended = slicer.ask("segment_volume", buffer=buffer, **task)
    assert not ended["success"]
    assert re.search(sentence, ended["message"]), ended["message"]
    assert not [m for m in slicer.heard if m.type == "volume_mask"]


def test_a_client_without_a_hello_or_with_a_wrong_one_is_told_so(bridge: BridgeProcess) -> None:
    with BlockingIppClient(bridge.ports["IPP/2"], "silent") as client:
        with pytest.raises(Refused, match="Say hello first"):
            client.ask("undo")
        with pytest.raises(Refused, match="not IPP/9"):
            client.ask("hello", version=9, client="silent", software="")


def test_a_slicer_that_vanished_is_forgotten(lone_bridge: BridgeProcess, namespace: str) -> None:
    with Peer(namespace) as peer:
        peer.listen(DiagnosticArray, topics.DIAGNOSTICS, 10)

        def slicers(array: DiagnosticArray) -> str:
            return next((v.value for s in array.status for v in s.values if v.key == "Slicers"), "")

        with BlockingIppClient(lone_bridge.ports["IPP/2"], "soon gone") as client:
            client.hello()
            peer.wait_for(topics.DIAGNOSTICS, lambda a: slicers(a) == "soon gone")
        peer.heard[topics.DIAGNOSTICS].clear()
        peer.wait_for(topics.DIAGNOSTICS, lambda a: slicers(a) == "none", timeout_s=20.0)


def test_without_a_graph_the_bridge_says_what_is_away(lone_bridge: BridgeProcess, cropped: Volume) -> None:
    with BlockingIppClient(lone_bridge.ports["IPP/2"], "early") as client:
        welcome = client.hello()
        with pytest.raises(Refused, match="load_volume is away"):
            client.share_volume(cropped, Path(welcome["folder"]))
        with pytest.raises(Refused, match="undo is away"):
            client.ask("undo")
        with pytest.raises(Refused, match="embed_volume is away"):
            client.ask("embed", planes=[])


def test_a_bridge_that_was_killed_goes_on_with_the_same_slicers(
    shared_graph: str, mni: Volume, mni_path: Path, tmp_path: Path
) -> None:
    ports = free_ports()
    bridge = BridgeProcess(shared_graph, tmp_path)
    bridge.start(ports)
    try:
        with BlockingIppClient(ports["IPP/2"], "patient") as client:
            client.hello()
            uid = _share(client, mni)
            assert client.mask(client.prompt(uid, 0, INDEX, box_xyxy=list(BOX)))[1].any()
            bridge.kill()
            bridge.start(ports)
            client.heard.clear()
            client.hello()
            volume = client.wait(lambda m: m.type == "volume" and m["uid"] != "")
            assert (volume["uid"], len(volume["key"])) == (uid, 32), "the volume was lost with the bridge"
            assert client.mask(client.prompt(uid, 0, INDEX, box_xyxy=list(BOX)))[1].any()
    finally:
        bridge.stop()
    assert not (tmp_path / "volumes").exists(), "patients' voxels were left behind"
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


def test_what_a_killed_bridge_left_is_removed_by_the_next_one(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The path of a socket has to be short.
    with tempfile.TemporaryDirectory() as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")

        def sockets() -> set[Path]:
            return {path for path in Path(runtime).rglob("*") if path.is_socket()}

        killed = BridgeProcess(namespace, tmp_path / "killed")
        killed.start()
        (left,) = sockets()
        killed.kill()
        with BridgeProcess(namespace, tmp_path / "lives"):
            (lives,) = sockets() - {left}
            for old in (left, lives):
                os.utime(old, (0, 0))
            with BridgeProcess(namespace, tmp_path / "next"):
                assert lives in sockets() and left not in sockets()
        assert sockets() == set()
        assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This user's private folder, empty, by a path that is short enough for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield private_folder()


@pytest.mark.timeout(60)
def test_only_sockets_that_nobody_listens_on_are_removed_and_a_busy_bridge_is_not_waited_for(
    runtime: Path,
) -> None:
    left, busy, file = (runtime / f"door-{name}" for name in ("left", "busy", "file"))
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))
    file.touch()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(busy))
        listener.listen(0)
        is_full = False
        while not is_full:
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            is_full = client.connect_ex(str(busy)) != 0
        for each in (left, busy, file):
            os.utime(each, (0, 0))
        new = Path(sockets._path_behind())
    assert set(runtime.iterdir()) == {busy, file}
    assert new.parent == runtime and new.name.startswith("door-")


def said_at_the_start(endpoint: sockets.Endpoint) -> str:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = sockets.SocketThread([endpoint], lambda: None, said.put)
    with contextlib.closing(thread):
        thread.start()
        return said.get(timeout=30)


def no_application() -> None:
    raise AssertionError("a front was made for what cannot listen")


SAMM = sockets.Endpoint("SAMM", "127.0.0.1", 0, "", 1 << 20, lambda *_: None, no_application)


def test_a_private_folder_whose_path_is_too_long_for_a_socket_is_told_with_its_remedy(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deep = runtime / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    told = said_at_the_start(SAMM)
    assert f"{deep}/" in told and "107 bytes" in told and "set XDG_RUNTIME_DIR to a shorter folder" in told
    assert "another graph" not in told
    assert not caplog.records


def test_what_keeps_the_bridge_from_listening_is_told_without_a_remedy_for_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # One of the addresses for documentation, which no computer has.
    told = said_at_the_start(sockets.Endpoint("IPP/2", "192.0.2.1", 0, "", 1 << 20, lambda *_: None))
    assert "(Cannot assign requested address" in told and "another graph" not in told
    (tmp_path / "file").touch()
    # As for a user without a home whose name somebody has taken in /dev/shm.
    monkeypatch.setattr(private, "_private_folders", lambda: iter([tmp_path / "file" / "folder"]))
    told = said_at_the_start(SAMM)
    assert f"(none of {tmp_path / 'file' / 'folder'} can be used)" in told and "another graph" not in told


def test_nothing_listens_beyond_this_computer(lone_bridge: BridgeProcess) -> None:
    connections = psutil.Process(lone_bridge.process.pid).net_connections("inet")
    listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    assert {address.port for address in listening} >= set(lone_bridge.ports.values())
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_port_that_is_taken_is_waited_for(namespace: str, tmp_path: Path) -> None:
    ports = free_ports()
    bridge = BridgeProcess(namespace, tmp_path)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", ports["IPP/2"]))
        squatter.listen()
        bridge.start(ports, listening=1)
        try:
            assert "SAMM" in bridge.ports
            assert any("cannot listen" in line and "bridge:=false" in line for line in bridge.lines)
            squatter.close()
            bridge.wait_line("IPP/2 listens")
        finally:
            bridge.stop()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys") / "good")


def make_keys(folder: Path) -> Path:
    from samm_ros import cli

    assert cli.main(["keys", str(folder)]) == 0
    return folder


def test_with_keys_no_key_and_a_wrong_key_are_refused_and_the_right_one_is_not(
    namespace: str, tmp_path: Path, keys: Path
) -> None:
    """Beyond this computer, clients with a key of the folder `allowed` are let in, and no others."""
    wrong = make_keys(tmp_path / "wrong")
    (wrong / "server.key").write_text((keys / "server.key").read_text())
    with BridgeProcess(namespace, tmp_path, address="0.0.0.0", keys_folder=keys) as bridge:
        port = bridge.ports["IPP/2"]
        with BlockingIppClient(port, "right", keys=keys) as client:
            assert client.hello()["version"] == ipp.VERSION
        for given in (None, wrong):
            with (
                BlockingIppClient(port, "wrong", keys=given) as client,
                pytest.raises(AssertionError, match="in vain"),
            ):
                client.hello(timeout_s=2.0)
        with BlockingIppClient(port, "right", keys=keys) as client:
            assert client.hello()


@pytest.mark.parametrize(
    ("address", "folder", "sentence"),
    [
        ("0.0.0.0", "", "needs keys"),
        ("192.0.2.1", "", "needs keys"),
        ("everywhere", "", "no IP address"),
        ("127.0.0.1", "absent", "lacks server.key_secret"),
        ("0.0.0.0", "readable", "Others can read"),
    ],
)
def test_a_bridge_that_would_be_open_does_not_start(
    namespace: str, tmp_path: Path, address: str, folder: str, sentence: str
) -> None:
    if folder == "readable":
        (make_keys(tmp_path / folder) / "server.key_secret").chmod(0o644)
    executable = find_executable("slicer_ros_bridge", "slicer_bridge")
    keys_folder = str(tmp_path / folder) if folder else "''"
    command = [executable, "--ros-args", "-r", f"__ns:=/{namespace}", "-p", f"address:={address}"]
    command += ["-p", "port:=0", "-p", "samm_port:=-1", "-p", f"keys_folder:={keys_folder}"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_server_key_is_an_error_at_the_start(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys")
    secret = folder / curve.SERVER_SECRET
    for damaged in (
        "",
        "nothing",
        secret.read_text()[:-20],
        secret.read_text().replace("secret-key", "other"),
    ):
        secret.write_text(damaged)
        with pytest.raises(curve.SecurityError, match="is damaged"):
            curve.require_safe("127.0.0.1", str(folder))


def test_a_public_key_that_is_deleted_ends_its_connection(namespace: str, tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys")
    with BridgeProcess(namespace, tmp_path, address="127.0.0.1", keys_folder=folder) as bridge:
        port = bridge.ports["IPP/2"]
        with BlockingIppClient(port, "revoked", keys=folder) as client:
            client.hello()
            (folder / curve.ALLOWED / "client.key").unlink()
            # All connections are ended by listening anew.
            bridge.wait_line("IPP/2 listens")
        with (
            BlockingIppClient(port, "revoked", keys=folder) as client,
            pytest.raises(AssertionError, match="in vain"),
        ):
            client.hello(timeout_s=2.0)


def test_a_bridge_whose_sockets_thread_dies_ends_with_a_sentence(namespace: str, tmp_path: Path) -> None:
    """The server's key is gone when it is needed again."""
    keys = make_keys(tmp_path / "keys")
    with BridgeProcess(namespace, tmp_path, keys_folder=keys) as bridge:
        (keys / curve.SERVER_SECRET).unlink()
        for public in (keys / curve.ALLOWED).iterdir():
            public.unlink()
        bridge.wait_line("holds no pair of CURVE keys")
        assert bridge.process.wait(60) == 1


def test_whatever_fails_in_the_bridges_work_is_answered() -> None:
    answers: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
    worker = Worker(lambda call: call())

    def answered(call: Callable[[], Any]) -> tuple[Any, str]:
        worker.do(call, lambda value, why: answers.put((value, why)))
        return answers.get(timeout=30)

    value, why = answered(lambda: np.frombuffer(b"123", np.int16))
    assert value is None
    assert why.startswith("The bridge failed at it (ValueError: ")
    assert answered(lambda: 7) == (7, "")
    worker.close()


def test_keys_are_never_overwritten(keys: Path, capsys: pytest.CaptureFixture) -> None:
    from samm_ros import cli

    before = (keys / "server.key_secret").read_bytes()
    assert cli.main(["keys", str(keys)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (keys / "server.key_secret").read_bytes() == before
    assert (keys / "server.key_secret").stat().st_mode & 0o077 == 0
