# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's real logic on a real MRML scene, against the real bridge and graph in other processes."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer.util
import vtk
from bridge_process import BridgeProcess, free_ports
from slicer_scene import SlicerScene, numpy_matrix, positions, vtk_matrix
from SlicerIPPLib.client_events import BridgeState
from SlicerIPPLib.logic import SegmentationLogic
from SlicerIPPLib.masks import cleaned
from SlicerIPPLib.parameters import Parameters
from SlicerIPPLib.prompts import INTERACTIVE
from SlicerIPPLib.scripting import points_node, roi_node, segment_slice

from samm_core.errors import PromptError
from samm_core.geometry import Plane, VolumeGeometry
from samm_core.prompts import PixelPrompt
from samm_core.sources.volume import Volume, Window
from samm_ros.client import GraphClient

pytestmark = pytest.mark.xdist_group("graph")

# What LiteMedSAM segments well in the MNI brain, by view: IJK of the slice, and the box in its pixels.
BOXES = {
    "Red": (2, 35, (36, 110, 82, 162)),
    "Green": (1, 100, (82, 8, 116, 75)),
    "Yellow": (0, 98, (84, 2, 120, 68)),
}
PLANES = {"Red": Plane.AXIAL, "Green": Plane.CORONAL, "Yellow": Plane.SAGITTAL}


def _turned(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    transform = vtk.vtkTransform()
    transform.RotateWXYZ(degrees, *axis)
    return numpy_matrix(transform.GetMatrix())


@pytest.fixture(scope="module")
def bridge(
    shared_graph: str, mni_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgeProcess]:
    with BridgeProcess(shared_graph, tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


@pytest.fixture
def slicer_ipp(bridge: BridgeProcess) -> Iterator[SlicerScene]:
    """Connected, with an empty scene."""
    with SlicerScene() as scene:
        scene.connect(bridge.ports["IPP/2"])
        yield scene


@pytest.fixture
def with_mni(slicer_ipp: SlicerScene, mni: Volume) -> SlicerScene:
    """The MNI volume is loaded, and Red shows a slice of it with nothing marked."""
    window = (mni.window.lower, mni.window.upper)
    slicer_ipp.add_volume(mni.voxels, mni.geometry.ijk_to_ras, window)
    slicer_ipp.show("Red", 2, 35, mni.geometry.ijk_to_ras)
    slicer_ipp.load()
    return slicer_ipp


def _box(scene: SlicerScene, view: str, ijk_to_world: np.ndarray, grow: float = 0.0) -> None:
    """Mark the view's box, and show its slice."""
    axis, index, (x0, y0, x1, y1) = BOXES[view]
    low, high = np.empty(3), np.empty(3)
    low[[a for a in range(3) if a != axis]] = x0, y0
    high[[a for a in range(3) if a != axis]] = x1 + grow, y1
    low[axis], high[axis] = index - 2, index + 2
    scene.parameters.view = view
    scene.show(view, axis, index, ijk_to_world)
    scene.parameters.box = scene.add_roi(low, high, ijk_to_world)
    scene.logic.observe()


def _expected(
    lite_medsam, volume: Volume, axis: int, index: int, box: tuple[int, int, int, int]
) -> np.ndarray:
    """(N, 3) IJK of the voxels of the mask computed directly."""
    plane = next(p for p in Plane if volume.geometry.axis(p) == axis)
    (embedding,) = lite_medsam.encode([volume.slice_image(plane, index)])
    mask = lite_medsam.decode(embedding, PixelPrompt(box_xyxy=np.float32(box))).mask
    assert mask.sum() > 100
    return np.rint(volume.geometry.ijk_of(np.argwhere(mask)[:, ::-1], plane, index)).astype(int)


def _assert_same_places(found: np.ndarray, wanted: np.ndarray) -> None:
    """Two sets of positions in the world, equal but for what another number of threads rounds the other way."""
    found_set, wanted_set = (
        {tuple(p) for p in np.rint(points * 100).astype(int)} for points in (found, wanted)
    )
    assert len(found_set ^ wanted_set) <= 0.01 * len(wanted_set), (
        f"{len(found_set)} voxels, wanted {len(wanted_set)}"
    )


@pytest.mark.parametrize("view", BOXES)
def test_a_box_gives_the_right_voxels_in_each_view(
    with_mni: SlicerScene, mni: Volume, lite_medsam, view: str
) -> None:
    _box(with_mni, view, mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    ijk = _expected(lite_medsam, mni, *BOXES[view])
    _assert_same_places(with_mni.voxels(), positions(mni.geometry.ijk_to_ras, ijk))
    with_mni.spin_until(lambda: with_mni.state.latency)
    assert set(with_mni.state.latency) == {"SND_INF", "RCV_INF", "CPL_INF", "RCV_MSK", "APL_MSK", "total"}


@pytest.mark.parametrize("kind", ["sagittal acquired", "oblique", "transformed"])
def test_volumes_that_lie_otherwise_get_the_right_voxels(
    slicer_ipp: SlicerScene, mni: Volume, lite_medsam, kind: str
) -> None:
    voxels, ijk_to_ras, transform = mni.voxels, mni.geometry.ijk_to_ras, np.eye(4)
    axis, index, box = BOXES["Yellow"]
    view = "Yellow"
    if kind == "sagittal acquired":
        # K runs to the right, I from back to front, J upwards.
        voxels = np.ascontiguousarray(mni.voxels.transpose(2, 0, 1))
        ijk_to_ras = ijk_to_ras[:, [1, 2, 0, 3]]
        axis = 2
    elif kind == "oblique":
        ijk_to_ras = _turned(20, (1, 2, 3)) @ ijk_to_ras
    else:
        # By a quarter: what the graph calls sagittal is what the user sees as coronal.
        transform = _turned(90, (0, 0, 1)) @ np.diag([1.0, 1.0, 1.0, 1.0])
        transform[:3, 3] = (5, -7, 11)
        view = "Green"
    slicer_ipp.add_volume(voxels, ijk_to_ras, (mni.window.lower, mni.window.upper))
    if kind == "transformed":
        node = slicer_ipp.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node.SetMatrixTransformToParent(vtk_matrix(transform))
        slicer_ipp.parameters.volume.SetAndObserveTransformNodeID(node.GetID())
    to_world = transform @ ijk_to_ras
    slicer_ipp.load()

    low, high = np.empty(3), np.empty(3)
    inside = [a for a in range(3) if a != axis]
    low[inside], high[inside] = box[:2], box[2:]
    low[axis], high[axis] = index - 1, index + 1
    slicer_ipp.parameters.view = view
    slicer_ipp.show(view, axis, index, to_world)
    slicer_ipp.parameters.box = slicer_ipp.add_roi(low, high, to_world)
    slicer_ipp.logic.observe()
    slicer_ipp.spin_until(lambda: slicer_ipp.state.score is not None)

    geometry = VolumeGeometry(voxels.shape[::-1], ijk_to_ras)
    volume = Volume(voxels, geometry, Window(mni.window.lower, mni.window.upper), "", "", "")
    ijk = _expected(lite_medsam, volume, axis, index, box)
    _assert_same_places(slicer_ipp.voxels(), positions(to_world, ijk))


def test_fiducials_in_ras_give_the_mask_of_the_direct_call(
    with_mni: SlicerScene, mni: Volume, lite_medsam
) -> None:
    to_ras = mni.geometry.ijk_to_ras
    inside, outside = (59.0, 136.0, 35.0), (95.0, 120.0, 35.0)
    with_mni.parameters.positive = with_mni.add_points(positions(to_ras, [inside]))
    with_mni.parameters.negative = with_mni.add_points(positions(to_ras, [outside]))
    with_mni.logic.observe()
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    (embedding,) = lite_medsam.encode([mni.slice_image(Plane.AXIAL, 35)])
    prompt = PixelPrompt([inside[:2], outside[:2]], [1, 0])
    mask = lite_medsam.decode(embedding, prompt).mask
    assert mask.sum() > 100
    ijk = np.rint(mni.geometry.ijk_of(np.argwhere(mask)[:, ::-1], Plane.AXIAL, 35)).astype(int)
    _assert_same_places(with_mni.voxels(), positions(to_ras, ijk))


@pytest.mark.parametrize("view", BOXES)
def test_a_script_without_panel_and_view_gets_the_mask_of_the_direct_call(
    bridge: BridgeProcess, mni: Volume, lite_medsam, view: str
) -> None:
    axis, index, (x0, y0, x1, y1) = BOXES[view]
    low, high = np.empty(3), np.empty(3)
    inside = [a for a in range(3) if a != axis]
    low[inside], high[inside] = (x0, y0), (x1, y1)
    low[axis], high[axis] = index - 2, index + 2
    with SlicerScene() as scene:
        p = scene.parameters
        scene.add_volume(mni.voxels, mni.geometry.ijk_to_ras, (mni.window.lower, mni.window.upper))
        p.address = f"tcp://127.0.0.1:{bridge.ports['IPP/2']}"
        p.box = roi_node(positions(mni.geometry.ijk_to_ras, [low, high]))
        segment_id = segment_slice(scene.scene, p, PLANES[view], limit_s=90.0)
        ijk = _expected(lite_medsam, mni, axis, index, (x0, y0, x1, y1))
        _assert_same_places(scene.voxels(segment_id), positions(mni.geometry.ijk_to_ras, ijk))
        p.positive = points_node(positions(mni.geometry.ijk_to_ras, [(1.0, 1.0, 1.0)]))
        with pytest.raises(PromptError, match="not on slice"):
            segment_slice(scene.scene, p, PLANES[view], slice_index=index)


def test_while_a_box_is_dragged_its_newest_place_wins(
    with_mni: SlicerScene, mni: Volume, lite_medsam
) -> None:
    axis, index, (x0, y0, x1, y1) = BOXES["Red"]
    _box(with_mni, "Red", mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    masks = []
    with_mni.logic.events.mask.connect(lambda: masks.append(with_mni.state.score))
    roi = with_mni.parameters.box
    for grow in range(1, 61):
        low, high = np.array([x0, y0, index - 2.0]), np.array([x1 + grow / 4, y1, index + 2.0])
        centre = positions(mni.geometry.ijk_to_ras, [(low + high) / 2])[0]
        roi.SetCenter(*centre)
        roi.SetSize(*(high - low))
        with_mni.logic.process_events()
    prompts = with_mni.logic.prompts
    newest = prompts.newest(INTERACTIVE)
    with_mni.spin_until(lambda: prompts.newest_answered(INTERACTIVE) >= newest)
    assert len(masks) < 60, "every place was answered: prompts queued"
    ijk = _expected(lite_medsam, mni, axis, index, (x0, y0, x1 + 15, y1))
    _assert_same_places(with_mni.voxels(), positions(mni.geometry.ijk_to_ras, ijk))


def test_a_mask_that_comes_late_for_another_slice_is_never_applied(
    with_mni: SlicerScene, mni: Volume
) -> None:
    to_ras = mni.geometry.ijk_to_ras
    _box(with_mni, "Red", to_ras)
    with_mni.logic.prompt()
    with_mni.show("Red", 2, 36, to_ras)
    with_mni.logic.prompt()
    prompts = with_mni.logic.prompts
    newest = prompts.newest(INTERACTIVE)
    with_mni.spin_until(lambda: prompts.newest_answered(INTERACTIVE) >= newest)
    slices = np.unique(np.rint(with_mni.voxels()[:, 2] - to_ras[2, 3]))
    assert slices.tolist() == [36]


def test_a_frozen_slice_keeps_its_mask(with_mni: SlicerScene, mni: Volume) -> None:
    _box(with_mni, "Red", mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    before = with_mni.voxels()
    with_mni.logic.freeze(True)
    assert with_mni.logic.is_frozen()
    _box(with_mni, "Red", mni.geometry.ijk_to_ras, grow=20)
    with_mni.spin_until(lambda: "frozen" in with_mni.state.prompt_problem)
    np.testing.assert_array_equal(with_mni.voxels(), before)
    with_mni.logic.freeze(False)
    with_mni.spin_until(lambda: len(with_mni.voxels()) != len(before))


def test_undo_and_redo_change_the_node(with_mni: SlicerScene, mni: Volume) -> None:
    assert not with_mni.state.can_undo
    _box(with_mni, "Red", mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    with_mni.parameters.live = False
    before = len(with_mni.voxels())
    while with_mni.state.can_undo:
        with_mni.logic.undo()
    assert len(with_mni.voxels()) == 0
    while with_mni.state.can_redo:
        with_mni.logic.redo()
    assert len(with_mni.voxels()) == before


def test_points_elsewhere_are_named_and_not_sent(with_mni: SlicerScene, mni: Volume) -> None:
    to_ras = mni.geometry.ijk_to_ras
    with_mni.parameters.positive = with_mni.add_points(positions(to_ras, [(60, 130, 50), (5000, 0, 35)]))
    with_mni.logic.observe()
    with_mni.spin_until(lambda: "P-" in with_mni.state.prompt_problem)
    problem = with_mni.state.prompt_problem
    first, second = problem.split(" P-2: ")
    assert first.startswith("P-1: ") and "lies on axial slice 50, not on slice 35" in first
    assert "lies outside the volume" in second
    assert not with_mni.logic.prompts.newest(INTERACTIVE)


def _slices(scene: SlicerScene, mni: Volume, axis: int = 1) -> list[int]:
    """The indices, along an IJK axis, of the slices that the active segment is on."""
    ijk = positions(np.linalg.inv(mni.geometry.ijk_to_ras), scene.voxels())
    return np.unique(np.rint(ijk[:, axis])).astype(int).tolist()


def _run(scene: SlicerScene, run: Callable[[], None]) -> None:
    """From its start to its end."""
    run()
    assert scene.state.is_running, scene.state.log[-3:]
    scene.spin_until(lambda: not scene.state.is_running)


@contextlib.contextmanager
def _copy(graph: str, scene: SlicerScene) -> Iterator[Callable[[], int]]:
    """How many voxels the graph's copy of the active segment has."""
    node, segment_id = scene.parameters.segmentation, scene.parameters.segment_id
    name = node.GetSegmentation().GetSegment(segment_id).GetName()
    with GraphClient(graph, f"looker-{uuid.uuid4().hex[:6]}") as client:

        def voxels() -> int:
            held = client.segmentation_of(scene.state.sent_volume.uid)
            return next((each.voxels for each in held.segments if each.name == name), 0) if held else 0

        yield voxels


@pytest.fixture
def with_stem(with_mni: SlicerScene, mni: Volume) -> SlicerScene:
    """Green shows the brain stem, whose mask is there; nothing follows what is marked any more."""
    with_mni.logic.add_segment(f"stem {uuid.uuid4().hex[:6]}")
    _box(with_mni, "Green", mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    with_mni.parameters.live = False
    return with_mni


def test_a_mask_is_propagated_and_one_undo_takes_all_of_it_back_here_and_in_the_graph(
    with_stem: SlicerScene, mni: Volume, shared_graph: str
) -> None:
    before = with_stem.voxels()
    with _copy(shared_graph, with_stem) as in_graph:
        with_stem.spin_until(lambda: in_graph() == len(before))
        with_stem.logic.propagate(2)
        assert "under way" in with_stem.logic.reasons()["propagate"]
        with_stem.spin_until(lambda: not with_stem.state.is_running)
        log = with_stem.state.log
        assert with_stem.state.progress == (5, 5), log
        assert log[-1].startswith("Done: 5 slices in ")
        assert set(log[-3:-1]) == {f"From slice 100 to slice {end}: the range ends." for end in (98, 102)}
        assert _slices(with_stem, mni) == [98, 99, 100, 101, 102]
        propagated = with_stem.voxels()
        with_stem.spin_until(lambda: in_graph() == len(propagated))

        with_stem.logic.undo()
        np.testing.assert_array_equal(with_stem.voxels(), before)
        with_stem.spin_until(lambda: in_graph() == len(before))
        with_stem.logic.redo()
        np.testing.assert_array_equal(with_stem.voxels(), propagated)
        with_stem.spin_until(lambda: in_graph() == len(propagated))


def test_a_segment_that_is_changed_here_is_changed_in_the_graph_and_so_is_its_undo(
    with_stem: SlicerScene, shared_graph: str
) -> None:
    logic, segment_id = with_stem.logic, with_stem.parameters.segment_id
    name = logic.segment_rows()[0].name
    count = len(with_stem.voxels())
    with GraphClient(shared_graph, f"looker-{uuid.uuid4().hex[:6]}") as client:

        def held() -> dict[str, tuple[int, float]]:
            """Of the graph's copy, by name: voxels, and how red."""
            copy = client.segmentation_of(with_stem.state.sent_volume.uid)
            segments = copy.segments if copy else ()
            return {
                each.name: (each.voxels, round(each.color.r, 2)) for each in segments if name in each.name
            }

        with_stem.spin_until(lambda: held().get(name, (0, 0))[0] == count)
        as_it_was = held()
        logic.rename_segment(segment_id, f"{name} renamed")
        logic.recolor_segment(segment_id, (0.25, 1.0, 1.0))
        with_stem.spin_until(lambda: held() == {f"{name} renamed": (count, 0.25)})
        logic.remove_segment(segment_id)
        with_stem.spin_until(lambda: held() == {})
        # A segment that the graph never heard of is changed here alone, and so is its undo.
        unknown = logic.add_segment("unknown to the graph")
        logic.rename_segment(unknown, "still unknown")
        logic.undo()
        logic.undo()
        with_stem.spin_until(lambda: held() == {f"{name} renamed": (count, 0.25)})
        logic.undo()
        logic.undo()
        with_stem.spin_until(lambda: held() == as_it_was)
        assert len(with_stem.voxels(segment_id)) == count


def test_a_mask_that_was_painted_by_hand_is_carried_and_kept(
    with_mni: SlicerScene, mni: Volume, lite_medsam
) -> None:
    axis, index, box = BOXES["Green"]
    with_mni.parameters.view = "Green"
    with_mni.show("Green", axis, index, mni.geometry.ijk_to_ras)
    segment_id = with_mni.logic.add_segment("painted")
    with_mni.logic.propagate(1)
    assert "no mask to propagate" in with_mni.state.log[-1]

    (embedding,) = lite_medsam.encode([mni.slice_image(Plane.CORONAL, index)])
    painted = lite_medsam.decode(embedding, PixelPrompt(box_xyxy=np.float32(box))).mask.copy()
    painted[::7] = False
    with_mni.logic.segments.write(segment_id, axis, index, painted)
    _run(with_mni, lambda: with_mni.logic.propagate(1))
    assert _slices(with_mni, mni) == [99, 100, 101], with_mni.state.log
    np.testing.assert_array_equal(with_mni.logic.segments.mask_on(with_mni.logic.shown_place()), painted)


def test_frozen_slices_are_not_written_and_end_a_propagation(with_stem: SlicerScene, mni: Volume) -> None:
    to_ras = mni.geometry.ijk_to_ras
    with_stem.show("Green", 1, 101, to_ras)
    with_stem.logic.freeze(True)
    with_stem.show("Green", 1, 100, to_ras)
    _run(with_stem, lambda: with_stem.logic.propagate(2))
    assert _slices(with_stem, mni) == [98, 99, 100]
    assert "From slice 100 to slice 100: the next slice is frozen." in with_stem.state.log


def test_a_run_that_is_stopped_leaves_whole_slices_as_one_step_and_another_can_begin(
    with_stem: SlicerScene, mni: Volume
) -> None:
    before = with_stem.voxels()
    with_stem.logic.propagate(40)
    with_stem.spin_until(lambda: with_stem.state.progress[0] >= 4)
    with_stem.logic.stop()
    assert with_stem.state.log[-1] == "Stopped."
    assert not with_stem.logic.reasons()["propagate"]
    done = with_stem.state.progress[0]
    stopped = with_stem.voxels()
    assert len(_slices(with_stem, mni)) == done
    _run(with_stem, lambda: with_stem.logic.propagate(1))
    assert with_stem.state.progress == (3, 3), with_stem.state.log
    with_stem.logic.undo()
    np.testing.assert_array_equal(with_stem.voxels(), stopped)
    with_stem.logic.undo()
    np.testing.assert_array_equal(with_stem.voxels(), before)


def test_another_volume_in_the_graph_ends_no_run_and_another_chosen_one_does(
    with_stem: SlicerScene, mni: Volume, mni_path: Path, shared_graph: str, tmp_path: Path
) -> None:
    image = sitk.ReadImage(str(mni_path))[40:120, 60:140, 50:110]
    sitk.WriteImage(image, str(tmp_path / "other.nrrd"))
    with GraphClient(shared_graph, "another") as client:
        with_stem.logic.propagate(3)
        client.load(tmp_path / "other.nrrd")
        with_stem.spin_until(lambda: not with_stem.state.is_running)
        assert with_stem.state.log[-1].startswith("Done: "), with_stem.state.log
        assert with_stem.state.progress[0] > 3

        before = with_stem.voxels()
        with_stem.logic.propagate(20)
        volume = with_stem.parameters.volume
        with_stem.add_volume(np.zeros((3, 4, 5), np.int16), np.eye(4), (0, 1))
        with_stem.spin_until(lambda: not with_stem.state.is_running)
        assert "for another volume" in with_stem.state.log[-1]
        with_stem.parameters.volume = volume
        np.testing.assert_array_equal(with_stem.voxels(), before)
        client.load(mni_path)


def test_a_bridge_that_is_killed_ends_the_run_in_a_sentence_and_the_next_run_works(
    shared_graph: str, mni: Volume, mni_path: Path, tmp_path: Path
) -> None:
    ports = free_ports()
    bridge = BridgeProcess(shared_graph, tmp_path)
    bridge.start(ports)
    try:
        with SlicerScene() as scene:
            scene.connect(ports["IPP/2"])
            scene.add_volume(mni.voxels, mni.geometry.ijk_to_ras, (mni.window.lower, mni.window.upper))
            scene.load()
            _box(scene, "Green", mni.geometry.ijk_to_ras)
            scene.spin_until(lambda: scene.state.score is not None)
            scene.parameters.live = False
            scene.logic.propagate(40)
            scene.spin_until(lambda: scene.state.progress[0] >= 2)
            bridge.kill()
            scene.spin_until(lambda: not scene.state.is_running)
            assert any("lost before it answered. What is segmented stays." in s for s in scene.state.log)
            assert len(_slices(scene, mni)) == scene.state.progress[0]
            bridge.start(ports)
            scene.spin_until(lambda: not scene.logic.reasons()["propagate"])
            _run(scene, lambda: scene.logic.propagate(1))
            assert scene.state.progress == (3, 3), scene.state.log
    finally:
        bridge.stop()
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


def test_a_three_d_box_is_segmented_on_each_slice_that_it_crosses(with_mni: SlicerScene, mni: Volume) -> None:
    to_ras = mni.geometry.ijk_to_ras
    x0, y0, x1, y1 = BOXES["Green"][2]
    with_mni.parameters.view = "Green"
    with_mni.show("Green", 1, 100, to_ras)
    with_mni.parameters.roi = with_mni.add_roi((x0, 98.6, y0), (x1, 101.4, y1), to_ras)
    with_mni.logic.observe()
    _run(with_mni, with_mni.logic.segment_roi)
    assert _slices(with_mni, mni) == [99, 100, 101], with_mni.state.log
    with_mni.logic.undo()
    assert not len(with_mni.voxels())


def test_a_turned_box_in_a_turned_volume_is_the_box_that_it_is_on_the_screen(
    slicer_ipp: SlicerScene, mni: Volume
) -> None:
    transform = _turned(90, (0, 0, 1)) @ _turned(10, (1, 0, 0))
    transform[:3, 3] = (5, -7, 11)
    to_world = transform @ mni.geometry.ijk_to_ras
    slicer_ipp.add_volume(mni.voxels, mni.geometry.ijk_to_ras, (mni.window.lower, mni.window.upper))
    node = slicer_ipp.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(vtk_matrix(transform))
    slicer_ipp.parameters.volume.SetAndObserveTransformNodeID(node.GetID())
    slicer_ipp.load()
    # What the graph calls coronal is what the user sees as sagittal.
    slicer_ipp.parameters.view = "Yellow"
    slicer_ipp.show("Yellow", 1, 100, to_world)
    x0, y0, x1, y1 = BOXES["Green"][2]
    slicer_ipp.parameters.roi = slicer_ipp.add_roi((x0, 98.6, y0), (x1, 101.4, y1), to_world)
    slicer_ipp.logic.observe()
    _run(slicer_ipp, slicer_ipp.logic.segment_roi)
    ijk = positions(np.linalg.inv(to_world), slicer_ipp.voxels())
    assert np.unique(np.rint(ijk[:, 1])).tolist() == [99, 100, 101], slicer_ipp.state.log
    assert (ijk.min(axis=0) >= (x0 - 1, 98.5, y0 - 1)).all()
    assert (ijk.max(axis=0) <= (x1 + 1, 101.5, y1 + 1)).all()
    assert len(ijk) > 1000


def test_everything_on_a_slice_says_how_far_it_is_and_can_be_stopped(with_mni: SlicerScene) -> None:
    """Hundreds of prompts: what comes of them all is in test_slicer_logic.py."""
    with_mni.logic.segment_everything()
    with_mni.spin_until(lambda: with_mni.state.progress[0] > 0)
    done, total = with_mni.state.progress
    assert done < total
    with_mni.logic.stop()
    assert not with_mni.logic.reasons()["everything"]
    assert with_mni.state.log[-1] == "Stopped."


def test_voxels_that_change_in_place_are_sent_again_before_anything_is_segmented(
    with_mni: SlicerScene, mni: Volume, lite_medsam
) -> None:
    """As a sequence's next frame, or a module that writes into its own input."""
    before = with_mni.state.sent_volume.uid
    slicer.util.updateVolumeFromArray(with_mni.parameters.volume, mni.voxels[:, ::-1].copy())
    _box(with_mni, "Red", mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    assert with_mni.state.sent_volume.uid != before
    assert any("has changed" in line for line in with_mni.state.log)
    turned = Volume(mni.voxels[:, ::-1].copy(), mni.geometry, mni.window, "", "", "")
    ijk = _expected(lite_medsam, turned, *BOXES["Red"])
    _assert_same_places(with_mni.voxels(), positions(mni.geometry.ijk_to_ras, ijk))


def test_the_graph_follows_the_volumes_window(with_mni: SlicerScene) -> None:
    with_mni.logic.apply_window_preset("ct_brain")
    with_mni.spin_until(lambda: with_mni.state.graph_volume.window == (0.0, 80.0))
    for upper in range(100, 140):
        with_mni.parameters.volume.GetDisplayNode().SetWindowLevelMinMax(10, upper)
        with_mni.logic.process_events()
    with_mni.spin_until(lambda: with_mni.state.graph_volume.window == (10.0, 139.0))


def test_holes_and_islands_are_removed_on_request() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:9, 2:9] = True
    mask[5, 5] = False
    mask[15:17, 15:17] = True
    no_points, at_island = np.zeros((0, 2)), np.array([(15.0, 16.0)])
    assert cleaned(mask, False, False, no_points) is mask
    assert cleaned(mask, True, False, no_points).sum() == mask.sum() + 1
    assert cleaned(mask, True, True, no_points).sum() == 49
    assert cleaned(mask, True, True, at_island).sum() == 4


def test_the_users_own_segments_and_markups_are_left_alone(with_mni: SlicerScene, mni: Volume) -> None:
    scene = with_mni.scene
    other = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "the user's")
    mine = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mine.GetSegmentation().AddEmptySegment("kept", "kept", (0.1, 0.2, 0.3))
    with_mni.parameters.segmentation = mine
    count = scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")
    _box(with_mni, "Red", mni.geometry.ijk_to_ras)
    with_mni.spin_until(lambda: with_mni.state.score is not None)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == count + 1
    assert scene.GetNodeByID(other.GetID()) is other
    kept = mine.GetSegmentation().GetSegment("kept")
    assert (kept.GetName(), kept.GetColor()) == ("kept", (0.1, 0.2, 0.3))
    assert with_mni.parameters.segment_id != "kept", "a segment that the user did not choose was written"


def test_two_slicers_at_once_get_each_their_own(
    with_mni: SlicerScene, bridge: BridgeProcess, mni: Volume
) -> None:
    to_ras = mni.geometry.ijk_to_ras
    _box(with_mni, "Red", to_ras)
    second = SegmentationLogic(
        with_mni.scene,
        Parameters(volume=with_mni.parameters.volume, autosave=False),
        with_mni.slices.get,
    )
    try:
        second.connect(f"tcp://127.0.0.1:{bridge.ports['IPP/2']}")

        def both(condition) -> None:
            with_mni.spin_until(lambda: second.process_events() or condition())

        both(lambda: second.state.is_connected and second.state.model)
        second.load_volume()
        both(lambda: not second.reasons()["prompt"])
        second.parameters.box = with_mni.add_roi((110, 110, 33), (160, 165, 37), to_ras)
        second.observe()
        both(lambda: second.state.score is not None and with_mni.state.score is not None)
        columns = with_mni.voxels()[:, 0] - to_ras[0, 3]
        assert 26 <= columns.min() <= columns.max() <= 92
        theirs = second.parameters.segmentation
        with_mni.parameters.segmentation, with_mni.parameters.segment_id = (
            theirs,
            second.parameters.segment_id,
        )
        columns = with_mni.voxels()[:, 0] - to_ras[0, 3]
        assert 100 <= columns.min() <= columns.max() <= 170
    finally:
        second.close()


def test_a_bridge_that_was_killed_is_found_again_with_everything_kept(
    shared_graph: str, mni: Volume, mni_path: Path, tmp_path: Path
) -> None:
    ports = free_ports()
    bridge = BridgeProcess(shared_graph, tmp_path)
    bridge.start(ports)
    to_ras = mni.geometry.ijk_to_ras
    try:
        with SlicerScene() as scene:
            scene.connect(ports["IPP/2"])
            scene.add_volume(mni.voxels, to_ras, (mni.window.lower, mni.window.upper))
            scene.load()
            _box(scene, "Red", to_ras)
            scene.spin_until(lambda: scene.state.score is not None)
            before = scene.voxels()
            bridge.kill()
            scene.spin_until(lambda: scene.state.bridge == BridgeState.LOST)
            np.testing.assert_array_equal(scene.voxels(), before)
            assert "Connect" in scene.logic.reasons()["prompt"]
            bridge.start(ports)
            # Nobody presses anything: what is marked is asked for again.
            scene.state.score = None
            scene.spin_until(lambda: scene.state.is_connected and scene.state.score is not None)
    finally:
        bridge.stop()
    with GraphClient(shared_graph, "after") as client:
        client.load(mni_path)


def test_closing_the_scene_in_mid_prompt_loses_no_control(with_mni: SlicerScene, mni: Volume) -> None:
    _box(with_mni, "Red", mni.geometry.ijk_to_ras)
    with_mni.logic.prompt()
    with_mni.scene.Clear(False)
    with_mni.logic.process_events()
    p = with_mni.parameters
    assert (p.volume, p.box, p.segmentation) == (None, None, None)
    assert with_mni.logic.reasons()["load"] == "Choose a volume first."
    dropped = with_mni.state.dropped
    with_mni.spin_until(lambda: with_mni.state.dropped > dropped or with_mni.state.round_trip_ms is not None)


def test_what_cannot_be_taken_is_refused_in_a_sentence(slicer_ipp: SlicerScene, mni: Volume) -> None:
    colours = slicer_ipp.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "16-bit colours")
    slicer.util.updateVolumeFromArray(colours, np.zeros((3, 4, 5, 3), np.int16))
    slicer_ipp.parameters.volume = colours
    slicer_ipp.logic.observe()
    slicer_ipp.logic.load_volume()
    assert "Cast Scalar Volume" in slicer_ipp.state.log[-1]
    grid = slicer_ipp.scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    slicer_ipp.parameters.volume.SetAndObserveTransformNodeID(grid.GetID())
    assert "not linear" in slicer_ipp.logic.reasons()["load"]


def test_no_call_of_the_gui_waits_for_a_bridge_that_is_away() -> None:
    """Whatever is pressed: a thread that is not served cannot be waited for."""
    with SlicerScene() as scene:
        logic = scene.logic
        scene.add_volume(np.zeros((3, 4, 5), np.int16), np.eye(4), (0, 1))
        for connect in (False, True):
            if connect:
                logic.connect("tcp://127.0.0.1:1")
            for act in (
                logic.load_volume,
                logic.prompt,
                logic.embed_all,
                logic.cancel_embed,
                lambda: logic.propagate(3),
                logic.segment_roi,
                logic.segment_everything,
                logic.stop,
                logic.undo,
                logic.redo,
                lambda: logic.freeze(True),
                lambda: logic.select_model("vit_b"),
                logic.process_events,
            ):
                act()
        assert scene.state.log
        assert any(thread.name == "Slicer-IPP" for thread in threading.enumerate())
        logic.disconnect()
        assert not any(thread.name == "Slicer-IPP" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("port", "sentence"), [("IPP/2", "All is well"), ("SAMM", "8800"), ("none", "Nothing listens")]
)
def test_testing_the_connection_says_what_is_wrong(
    slicer_ipp: SlicerScene, bridge: BridgeProcess, port, sentence
) -> None:
    said = []
    number = bridge.ports.get(port, 1)
    slicer_ipp.logic.test_connection(f"tcp://127.0.0.1:{number}", "", said.append)
    slicer_ipp.spin_until(lambda: said)
    assert sentence in said[0]
    slicer_ipp.logic.test_connection("nonsense", "/absent", said.append)
    slicer_ipp.spin_until(lambda: len(said) > 1)
    assert "/absent lacks client.key_secret" in said[1]


def test_every_control_says_why_it_cannot_act() -> None:
    with SlicerScene() as scene:
        reasons = scene.logic.reasons()
        assert reasons["prompt"] == "Connect to the bridge first."
        assert not reasons["connect"]
        assert all(reason == "" or reason.endswith(".") for reason in reasons.values())
