# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The viewer without a page: the mouse's events go into its views, points, boxes and pixels come out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bridge_process import BridgeProcess
from slicer_scene import picture_of, serve_until, slicer_app
from SlicerIPPLib.marks import box_on
from SlicerIPPLib.nodes import array_of, display_window, placed_points

from samm_core.errors import PromptError, VolumeError
from samm_core.geometry import VolumeGeometry
from samm_core.sources.readers import Content
from samm_core.sources.volume import Volume, volume_of

WIDTH, HEIGHT = 400, 300
SHAPE_KJI = (40, 50, 60)
# Turned by 20 degrees about two axes, with voxels of three lengths.
_A, _B = np.radians([20.0, 20.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = (
    np.array([[np.cos(_A), -np.sin(_A), 0], [np.sin(_A), np.cos(_A), 0], [0, 0, 1]])
    @ np.array([[1, 0, 0], [0, np.cos(_B), -np.sin(_B)], [0, np.sin(_B), np.cos(_B)]])
    @ np.diag([1.0, 1.2, 2.0])
)
OBLIQUE[:3, 3] = (-30.0, 12.0, 7.0)


@pytest.fixture(scope="module")
def viewer() -> Iterator[object]:
    """On the process' one scene, its views drawn off screen."""
    # VTK without a graphics driver, even in software, ends its process.
    draw = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(1); w.Render()"
    if subprocess.run([sys.executable, "-c", draw], capture_output=True, check=False).returncode:
        pytest.skip("nothing is drawn here: install libegl1 and libgl1-mesa-dri")
    from trame_slicer.views import DirectViewFactory
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    from samm_viewer.session.viewer import Viewer

    viewer = Viewer(slicer_app(), [DirectViewFactory(do_render_offscreen=True)])
    for view in [view for _name, view in viewer.views.slice_views()] + [viewer.views.three_d]:
        # Drawn when a picture is taken, not at each change.
        view.set_scheduled_render(NoScheduleRendering())
        view.render_window().SetSize(WIDTH, HEIGHT)
        view.interactor().UpdateSize(WIDTH, HEIGHT)
        view.interactor().InvokeEvent("WindowResizeEvent")
    yield viewer
    viewer.close()
    slicer_app().scene.Clear(False)


def volume(ijk_to_ras: np.ndarray = OBLIQUE) -> Volume:
    """A bright ball on a gradient."""
    k, j, i = np.indices(SHAPE_KJI)
    ball = (k - 20) ** 2 + (j - 25) ** 2 + (i - 30) ** 2 < 100
    return volume_of(Content((ball * 800 + i * 5).astype(np.int16), ijk_to_ras), Path("ball.nii"))


@pytest.fixture
def shown(viewer: object) -> object:
    """With the volume open, and nothing marked."""
    from samm_viewer.session.marking import Tool

    viewer.open(volume())
    viewer.marking.choose(Tool.POSITIVE)
    return viewer


def event(view: object, name: str, x: float, y: float, control: bool = False) -> None:
    interactor = view.interactor()
    interactor.SetEventInformation(round(x), round(y), int(control), 0)
    interactor.InvokeEvent(name)


def click(view: object, x: float, y: float, control: bool = False) -> None:
    event(view, "LeftButtonPressEvent", x, y, control)
    event(view, "LeftButtonReleaseEvent", x, y, control)


def drag(view: object, *path: tuple[float, float]) -> None:
    event(view, "LeftButtonPressEvent", *path[0])
    for x, y in path[1:]:
        event(view, "MouseMoveEvent", x, y)
    event(view, "LeftButtonReleaseEvent", *path[-1])


def pixel_of(view: object, point_ras: np.ndarray) -> np.ndarray:
    """Where a position is shown: x and y from the view's lower left."""
    return (np.linalg.inv(array_of(view.get_view_node().GetXYToRAS())) @ [*point_ras, 1.0])[:2]


def point_at(view: object, x: float, y: float) -> np.ndarray:
    """The position that is shown there: the inverse of pixel_of."""
    return (array_of(view.get_view_node().GetXYToRAS()) @ [x, y, 0.0, 1.0])[:3]


def colored(view: object) -> np.ndarray:
    """(H, W) bool: what is not grey, for volumes are."""
    pixels = picture_of(view.render_window())
    return pixels.max(axis=2) - pixels.min(axis=2) > 12


@pytest.mark.parametrize("name", ["Red", "Green", "Yellow"])
def test_a_click_places_a_point_on_the_shown_slice_of_an_oblique_volume(shown: object, name: str) -> None:
    geometry = VolumeGeometry(SHAPE_KJI[::-1], OBLIQUE)
    view = shown.views.slice_view(name)
    wanted = np.array([27.0, 22.0, 18.0])
    across = {"Red": 2, "Green": 1, "Yellow": 0}[name]
    shown.show_slice(name, int(wanted[across]))
    shown.parameters.view = name
    wanted[across] = shown.logic.shown_place().index
    click(view, *pixel_of(view, geometry.position_of(wanted)[0]))
    ((_label, position),) = placed_points(shown.parameters.positive)
    assert np.abs(geometry.index_of(position)[0] - wanted).max() < 0.5
    assert shown.parameters.view == name


def test_control_and_the_other_tool_place_negative_points(shown: object) -> None:
    from samm_viewer.session.marking import Tool

    view = shown.views.slice_view("Red")
    click(view, 200, 150, control=True)
    shown.marking.choose(Tool.NEGATIVE)
    click(view, 240, 150)
    assert len(placed_points(shown.parameters.negative)) == 2
    assert not placed_points(shown.parameters.positive)


def test_a_point_that_is_pressed_is_dragged_and_no_other_is_placed(shown: object) -> None:
    view = shown.views.slice_view("Red")
    click(view, 180, 150)
    event(view, "MouseMoveEvent", 180, 150)
    drag(view, (181, 150), (200, 160), (221, 170))
    ((_label, position),) = placed_points(shown.parameters.positive)
    assert np.abs(pixel_of(view, position) - (220, 170)).max() < 3


@pytest.mark.parametrize("name", ["Red", "Green", "Yellow"])
def test_a_box_is_drawn_and_its_edges_and_middle_are_dragged(shown: object, name: str) -> None:
    from samm_viewer.session.marking import Tool

    shown.marking.choose(Tool.BOX)
    view = shown.views.slice_view(name)

    def extent() -> np.ndarray:
        """Its corners in the view: x min, y min, x max, y max."""
        from SlicerIPPLib.nodes import roi_corners

        pixels = np.array([pixel_of(view, corner) for corner in roi_corners(shown.parameters.box)])
        return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])

    # The last step comes with the release alone, as browsers leave out moves.
    event(view, "LeftButtonPressEvent", 150, 100)
    event(view, "MouseMoveEvent", 180, 130)
    event(view, "LeftButtonReleaseEvent", 250, 200)
    assert extent() == pytest.approx([150, 100, 250, 200], abs=1)
    box = shown.parameters.box
    # The right edge, the lower left corner, the middle; then the left edge past the right one.
    drag(view, (250, 150), (270, 150))
    assert extent() == pytest.approx([150, 100, 270, 200], abs=1)
    drag(view, (150, 100), (140, 90))
    assert extent() == pytest.approx([140, 90, 270, 200], abs=1)
    drag(view, (205, 145), (215, 155))
    assert extent() == pytest.approx([150, 100, 280, 210], abs=1)
    drag(view, (150, 155), (300, 155))
    assert extent() == pytest.approx([280, 100, 300, 210], abs=1)
    assert shown.parameters.box is box
    # It lies on the shown slice alone.
    place = shown.logic.shown_place()
    assert box_on(place, box) is not None
    for neighbour in (place.index - 1, place.index + 1):
        with pytest.raises(PromptError, match="crosses slice"):
            box_on(place.at(neighbour), box)
    # Elsewhere a press begins it anew.
    drag(view, (60, 60), (100, 90))
    assert extent() == pytest.approx([60, 60, 100, 90], abs=1)


def test_a_3d_box_is_as_deep_as_wide_and_its_depth_is_dragged_in_another_view(shown: object) -> None:
    from samm_viewer.session.marking import Tool

    shown.marking.choose(Tool.ROI)
    red, green = shown.views.slice_view("Red"), shown.views.slice_view("Green")
    drag(red, (170, 120), (200, 150), (230, 170))
    width, height, depth = shown.parameters.roi.GetSize()
    assert depth == pytest.approx((width + height) / 2)
    centre = [0.0, 0.0, 0.0]
    shown.parameters.roi.GetCenterWorld(centre)
    x, y = pixel_of(green, np.array(centre))
    up = depth / 2 / np.linalg.norm(array_of(green.get_view_node().GetXYToRAS())[:3, 1])
    drag(green, (x, y + up), (x, y + up + 20))
    assert shown.parameters.roi.GetSize()[:2] == pytest.approx((width, height))
    assert shown.parameters.roi.GetSize()[2] == pytest.approx(depth * (1 + 10 / up), rel=0.1)
    assert shown.parameters.box is None


def test_marks_of_another_slice_are_done_with(shown: object) -> None:
    view = shown.views.slice_view("Red")
    click(view, 180, 150)
    click(view, 220, 150)
    index, _count = shown.slice_range("Red")
    shown.show_slice("Red", index + 3)
    click(view, 200, 150)
    ((_label, position),) = placed_points(shown.parameters.positive)
    assert np.abs(pixel_of(view, position) - (200, 150)).max() < 1


def test_the_last_mark_is_removed_then_the_one_before(shown: object) -> None:
    view = shown.views.slice_view("Red")
    click(view, 180, 150)
    click(view, 220, 150, control=True)
    shown.marking.remove_last()
    assert not placed_points(shown.parameters.negative) and shown.marking.is_marked
    shown.marking.remove_last()
    assert not shown.marking.is_marked


def test_a_drag_widens_the_window_and_lets_its_level_fall(shown: object) -> None:
    from samm_viewer.session.marking import Tool

    shown.marking.choose(Tool.WINDOW)
    lower, upper = display_window(shown.parameters.volume)
    drag(shown.views.slice_view("Red"), (200, 150), (200 + WIDTH / 4, 150))
    low, high = display_window(shown.parameters.volume)
    assert high - low == pytest.approx((upper - lower) * 2**0.5, rel=0.01)
    drag(shown.views.slice_view("Red"), (200, 100), (200, 100 + HEIGHT / 4))
    assert sum(display_window(shown.parameters.volume)) / 2 < (low + high) / 2


@pytest.mark.parametrize(("name", "count"), [("Red", 40), ("Green", 50), ("Yellow", 60)])
def test_each_slice_is_shown_by_its_number(shown: object, name: str, count: int) -> None:
    shown.parameters.view = name
    indices = set()
    for index in range(count):
        shown.show_slice(name, index)
        assert shown.slice_range(name) == (index, count)
        indices.add(shown.logic.shown_place().index)
    assert indices == set(range(count))


def test_after_a_picture_each_view_shows_its_own_plane_again(viewer: object) -> None:
    picture = volume_of(Content(np.zeros((1, 50, 60), np.int16), np.eye(4)), Path("picture.nii"))
    viewer.open(picture)
    viewer.open(volume())
    for name, _view in viewer.views.slice_views():
        viewer.show_slice(name, 3)
        assert viewer.slice_range(name)[0] == 3, name


def test_a_mask_is_drawn_where_it_is_in_every_view_and_no_key_of_slicers_hides_it(shown: object) -> None:
    shown.logic.add_segment("ball")
    place = shown.logic.shown_place()
    ball = volume().voxels > 700
    for index in range(10, 31):
        mask = ball.take(index, axis=2 - place.axis)
        if mask.any():
            shown.logic.segments.write(shown.parameters.segment_id, place.axis, index, mask)
    centre = VolumeGeometry(SHAPE_KJI[::-1], OBLIQUE).position_of([30, 25, 20])[0]
    for name, view in shown.views.slice_views():
        shown.views.slice_view(name).get_view_node().JumpSliceByOffsetting(*centre)
        x, y = np.rint(pixel_of(view, centre)).astype(int)
        seen = colored(view)
        assert seen[y, x], name
        assert not seen[:20].any() and not seen[-20:].any()
        before = seen.sum()
        view.interactor().SetKeyCode("g")
        view.interactor().SetKeySym("g")
        for key_event in ("KeyPressEvent", "CharEvent"):
            view.interactor().InvokeEvent(key_event)
        assert colored(view).sum() == before
    assert not colored(shown.views.three_d).any()
    shown.toggle_3d()
    assert colored(shown.views.three_d).sum() > 500
    shown.toggle_3d()
    assert not colored(shown.views.three_d).any()


def test_each_mask_and_each_step_back_asks_the_views_to_draw(shown: object) -> None:
    """In a drag the box asks too; the last mask of one comes when nothing moves any more."""
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    class Counting(NoScheduleRendering):
        asked = 0

        def schedule_render(self) -> None:
            self.asked += 1

    view, counting = shown.views.slice_view("Red"), Counting()
    view.set_scheduled_render(counting)
    shown.parameters.view = "Red"
    shown.logic.add_segment()
    place = shown.logic.shown_place()
    mask = np.zeros(SHAPE_KJI[1:], bool)
    mask[20:30, 20:30] = True

    def write(shift: int) -> None:
        shifted = np.roll(mask, shift, axis=1)
        shown.logic.segments.write(shown.parameters.segment_id, place.axis, place.index, shifted)

    try:
        for act in (lambda: write(0), lambda: write(5), shown.logic.undo, shown.logic.redo, lambda: write(9)):
            counting.asked = 0
            act()
            assert counting.asked
    finally:
        view.set_scheduled_render(NoScheduleRendering())


def test_two_fingers_zoom_and_move_what_a_view_shows_and_fit_brings_it_back(shown: object) -> None:
    view = shown.views.slice_view("Red")
    middle, aside = (point_at(view, x, y) for x, y in ((WIDTH / 2, HEIGHT / 2), (WIDTH / 2 + 30, HEIGHT / 2)))
    shown.views.pinch("Red", 2.0, 0.25, 0.1)
    x, y = 0.75 * WIDTH, 0.4 * HEIGHT
    assert pixel_of(view, middle) == pytest.approx((x, y), abs=1)
    assert pixel_of(view, aside) == pytest.approx((x + 60, y), abs=1)
    with pytest.raises(ValueError, match="fingers"):
        shown.views.pinch("Red", float("nan"), 0, 0)
    shown.views.fit()
    assert pixel_of(view, aside) == pytest.approx((WIDTH / 2 + 30, HEIGHT / 2), abs=1)


def views_that_count(slices: int = 2) -> tuple[SimpleNamespace, list[int]]:
    """Slices and 3-D, and how often each of them was to be drawn."""
    from trame_slicer.views import AbstractView
    from trame_slicer.views.render_scheduler import ScheduledRenderStrategy

    counts = [0] * (slices + 1)

    class Counting(ScheduledRenderStrategy):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def schedule_render(self) -> None:
            counts[self.number] += 1

    views = [AbstractView(Counting(number)) for number in range(slices + 1)]
    for view in views:
        # The one it comes with would keep a drag for itself; Slicer's do not.
        view.interactor().SetInteractorStyle(None)
    return SimpleNamespace(all=lambda: views, shown=lambda: views, three_d=views[-1]), counts


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 30)


@pytest.mark.usefixtures("viewer")
def test_in_a_drag_the_other_slices_are_drawn_now_and_then_and_3d_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from samm_viewer.session import pace

    # A machine that is held up must not end the drag.
    monkeypatch.setattr(pace, "_END_S", 60.0)
    views, counts = views_that_count()
    dragged, *others = views.all()

    async def act() -> None:
        pace.Pace(views)
        event(dragged, "LeftButtonPressEvent", 10, 10)
        for _mask in range(5):
            for view in views.all():
                view.schedule_render()
        assert counts == [5, 0, 0]
        await until(lambda: counts[1])
        assert all(view.is_render_blocked for view in others)
        assert counts[2] == 0
        event(dragged, "LeftButtonReleaseEvent", 10, 10)
        assert counts[2] == 1
        assert not any(view.is_render_blocked for view in views.all())

    asyncio.run(act())


@pytest.mark.usefixtures("viewer")
def test_a_drag_whose_end_is_lost_with_the_browser_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from samm_viewer.session import pace

    monkeypatch.setattr(pace, "_END_S", 0.0)
    views, counts = views_that_count()

    async def act() -> None:
        pace.Pace(views)
        event(views.all()[0], "LeftButtonPressEvent", 10, 10)
        await until(lambda: counts[2])
        assert not any(view.is_render_blocked for view in views.all())

    asyncio.run(act())


@pytest.mark.usefixtures("viewer")
def test_a_view_that_a_layout_hides_in_a_drag_is_not_drawn_in_it_or_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from samm_viewer.session import pace

    monkeypatch.setattr(pace, "_OTHERS_S", 0.01)
    monkeypatch.setattr(pace, "_END_S", 60.0)
    views, counts = views_that_count(slices=3)
    dragged, hidden, *others = views.all()

    async def act() -> None:
        pace.Pace(views)
        event(dragged, "LeftButtonPressEvent", 10, 10)
        # As trame-slicer's layouts do.
        hidden.set_render_blocked(True)
        views.shown = lambda: [dragged, *others]
        await until(lambda: counts[2] >= 2)
        event(dragged, "LeftButtonReleaseEvent", 10, 10)
        assert counts[1] == 0 and hidden.is_render_blocked
        assert counts[3] == 1 and not any(view.is_render_blocked for view in others)

    asyncio.run(act())


def test_the_shown_views_are_those_of_the_layout(viewer: object) -> None:
    views, manager = viewer.views, viewer.app.view_manager
    assert views.shown() == views.all()
    try:
        manager.set_current_view_ids(["Green"])
        assert views.shown() == [views.slice_view("Green")]
    finally:
        manager.set_current_view_ids([view.get_singleton_tag() for view in views.all()])
    assert views.shown() == views.all()


@pytest.mark.usefixtures("viewer")
def test_a_view_of_a_large_screen_is_drawn_with_fewer_pixels() -> None:
    from trame.app import get_server
    from trame_slicer.views import ViewLayoutDefinition

    from samm_viewer.session.page import limit_pixels, remote_views

    app = slicer_app()

    async def sizes() -> list[tuple[int, int]]:
        factory, _three_d = factories = remote_views(get_server("large", client_type="vue3"))
        definition = ViewLayoutDefinition.axial_view("Large")
        view = factory.create_view(definition, app.scene, app.app_logic)
        limit_pixels(factories)
        adapter = factory.get_factory_view(view.get_singleton_tag()).view_adapter
        drawn = []
        for shown in ({"w": 800, "h": 600, "p": 1}, {"w": 3840, "h": 2160, "p": 2}):
            adapter.update_size("browser", shown)
            drawn.append(view.render_window().GetSize())
        return drawn

    small, (width, height) = asyncio.run(sizes())
    assert small == (800, 600)
    assert 1_190_000 < width * height <= 1_200_000
    assert width / height == pytest.approx(3840 / 2160, abs=0.01)


@pytest.mark.parametrize(
    ("error", "is_told"), [(ConnectionResetError("the page is closed"), False), (ValueError("a fault"), True)]
)
def test_an_event_loop_tells_faults_and_not_that_pages_were_closed(
    caplog: pytest.LogCaptureFixture, error: Exception, is_told: bool
) -> None:
    from samm_viewer import closed_pages

    def fail() -> None:
        raise error

    async def act() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(closed_pages.report)
        loop.call_soon(fail)
        await asyncio.sleep(0)

    asyncio.run(act())
    assert (str(error) in caplog.text) == is_told


def test_another_volume_takes_the_place_of_all_that_was_there(shown: object) -> None:
    click(shown.views.slice_view("Red"), 200, 150)
    shown.logic.add_segment()
    first = shown.parameters.volume.GetID()
    shown.open(volume(np.diag([2.0, 2.0, 2.0, 1.0])))
    assert shown.app.scene.GetNodeByID(first) is None
    assert shown.parameters.segmentation is None and not shown.marking.is_marked
    assert shown.views.slice_view("Red").get_background_volume_id() == shown.parameters.volume.GetID()
    assert picture_of(shown.views.slice_view("Red").render_window()).max() > 200


def test_volumes_are_opened_below_the_given_folders_alone(viewer: object, tmp_path: Path) -> None:
    from samm_viewer.session.volumes import below_roots, listed

    root = tmp_path / "root"
    (root / "series").mkdir(parents=True)
    (root / "a.nii").touch()
    (root / ".hidden").touch()
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    assert listed(root, [root]) == (["link", "series"], ["a.nii"])
    assert below_roots(root / "series" / ".." / "a.nii", [root]) == (root / "a.nii").resolve()
    for path in (root / "..", root / "link", tmp_path / "secret", Path("/etc/passwd")):
        with pytest.raises(VolumeError, match="--root"):
            below_roots(path, [root])


@pytest.fixture(scope="module")
def port(shared_graph: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with BridgeProcess(shared_graph, tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge.ports["IPP/2"]


@pytest.mark.xdist_group("graph")
def test_a_mask_is_drawn_while_the_box_is_dragged(viewer: object, port: int, mni: Volume) -> None:
    """Marked with the mouse, computed by a graph in other processes, seen before the mouse is released; then undone."""
    from samm_viewer.session.marking import Tool

    viewer.open(mni)
    viewer.logic.connect(f"tcp://127.0.0.1:{port}")
    assert serve_until(viewer.logic, lambda: not viewer.logic.reasons()["prompt"]), viewer.logic.reasons()[
        "prompt"
    ]
    view = viewer.views.slice_view("Red")
    viewer.show_slice("Red", 35)
    viewer.marking.choose(Tool.BOX)
    # The cerebellum's left half, in pixels of the slice; see BOXES of test_slicer_session.
    corners = [mni.geometry.position_of([i, j, 35])[0] for i, j in ((36, 110), (82, 162))]
    (x0, y0), (x1, y1) = (pixel_of(view, corner) for corner in corners)
    event(view, "LeftButtonPressEvent", x0, y0)
    event(view, "MouseMoveEvent", (x0 + x1) / 2, (y0 + y1) / 2)
    event(view, "MouseMoveEvent", x1, y1)
    viewer.parameters.box.GetDisplayNode().SetVisibility(False)
    assert serve_until(viewer.logic, lambda: colored(view).sum() > 100), viewer.logic.state.prompt_problem
    rows, columns = np.nonzero(colored(view))
    low, high = np.minimum((x0, y0), (x1, y1)), np.maximum((x0, y0), (x1, y1))
    assert (columns >= low[0] - 3).all() and (columns <= high[0] + 3).all()
    assert (rows >= low[1] - 3).all() and (rows <= high[1] + 3).all()
    event(view, "LeftButtonReleaseEvent", x1, y1)
    viewer.marking.clear()
    viewer.logic.undo()
    while viewer.logic.state.can_undo:
        viewer.logic.undo()
    assert not colored(view).any()
    viewer.logic.disconnect()
