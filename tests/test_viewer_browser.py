# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The viewer whole: `samm view`, its page in a headless chromium, the bridge and the graph, each in processes of its own."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from bridge_process import BridgeProcess
from camera import RADIUS, SIZE, Camera, scene_with_a_disc
from graph_processes import launched
from peer import Peer
from sensor_msgs.msg import Image
from viewer_page import ViewerPage, browser, chromium, viewer_process

from samm_ros import topics
from samm_ros.supervision.supervisor import Supervisor

pytestmark = [
    pytest.mark.xdist_group("graph"),
    pytest.mark.skipif(not chromium(), reason="there is no chromium; on Debian: apt-get install chromium"),
]

# Where in the middle slices of the MNI brain, fractions of a view, LiteMedSAM finds something for a box.
BOX = ((0.40, 0.42), (0.62, 0.62))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Supervisor]]:
    """Of its own: a test kills its server."""
    with launched(tmp_path_factory.mktemp("graph")) as graph:
        yield graph


@pytest.fixture(scope="module")
def bridge(
    graph: tuple[str, Supervisor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BridgeProcess]:
    with BridgeProcess(graph[0], tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the page may open volumes, beside the first one's own."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def url(
    bridge: BridgeProcess, mni_path: Path, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("viewer")
    with viewer_process(bridge.ports["IPP/2"], folder, str(mni_path), "--root", str(root)) as url:
        yield url


@pytest.fixture(scope="module")
def chrome() -> Iterator[object]:
    with browser() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def first(chrome: object, url: str) -> Iterator[ViewerPage]:
    page = ViewerPage(chrome, url)
    yield page
    assert not page.errors
    page.close()


@pytest.fixture
def page(first: ViewerPage) -> ViewerPage:
    """With no marks and no masks."""
    first.ready()
    first.press("c")
    for segment in first.state("segments"):
        first.page.evaluate("id => window.trame.trigger('segment', [id, 'remove'])", segment["id"])
    first.wait("!s.segments.length")
    return first


def test_a_click_in_each_view_gives_a_mask_around_it_and_undo_takes_it_away(page: ViewerPage) -> None:
    page.tool("positive")
    for view in ("Red", "Green", "Yellow"):
        page.press("a")
        segments = len(page.state("segments"))
        page.wait(f"s.segments.length === {segments + 1}")
        page.click(view, 0.45, 0.5)
        page.wait("s.segments.length && s.segments[s.segments.length - 1].ml > 0")
        # The point alone is some 60 pixels.
        page.wait_for_colored(view, 150)
        page.press("z")
        page.wait("!(s.segments[s.segments.length - 1].ml > 0)")
        page.press("c")
        page.wait_for_colored(view, 0, 20)


def test_a_box_is_filled_while_it_is_drawn_saved_and_read_back(
    page: ViewerPage, tmp_path: Path, mni_path: Path
) -> None:
    page.tool("box")
    page.drag("Green", *BOX)
    page.wait("s.segments.length === 1 && s.segments[0].ml > 0 && s.score !== null")
    shown = page.state("Green_index")
    page.page.locator(".segments .text").first.fill("ventricle")
    page.page.locator(".segments .text").first.press("Enter")
    page.wait("s.segments[0].name === 'ventricle'")
    page.page.click("#save")
    with page.page.expect_download() as download:
        page.page.click("#save-nii-gz")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    labels = np.asarray(nibabel.load(path).dataobj)
    volume = nibabel.load(mni_path)
    assert labels.shape == volume.shape
    assert set(np.unique(np.nonzero(labels)[1])) == {shown}, "the mask is on the shown coronal slice alone"
    millilitres = np.count_nonzero(labels) * abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    assert page.state("segments")[0]["ml"] == pytest.approx(millilitres, rel=0.01)


def test_another_browser_has_work_of_its_own_and_a_link_shares_it(
    page: ViewerPage, chrome: object, url: str
) -> None:
    other = ViewerPage(chrome, url)
    other.ready()
    other.tool("box")
    other.drag("Red", *BOX)
    other.wait("s.segments.length === 1 && s.segments[0].ml > 0")
    assert page.state("segments") == []
    joined = ViewerPage(chrome, f"{url}&session={other.state('link')}")
    joined.wait("s.segments.length === 1 && s.segments[0].ml > 0")
    fetched = []
    joined.page.on("download", lambda download: fetched.append(download))
    for page in (other, joined):
        page.page.click("#save")
        with page.page.expect_download():
            page.page.click("#save-nii-gz")
    assert len(fetched) == 1, "a file is for the tab that asked"
    joined.close()
    other.close()


def test_a_finger_marks_and_two_zoom_without_a_mark_on_a_screen_of_fine_pixels(
    chrome: object, url: str
) -> None:
    page = ViewerPage(chrome, url, has_touch=True, device_scale_factor=3)
    page.ready()
    assert page.page.evaluate(
        "[...document.querySelectorAll('.grid img')].every(i => i.naturalWidth <= 1.5 * i.clientWidth + 1)"
    )
    page.tool("positive")
    at = page.rectangle("Red")
    x, y, apart = at["x"] + 0.5 * at["width"], at["y"] + 0.5 * at["height"], 0.1 * at["width"]
    before = page.bright("Red")
    page.fingers("touchStart", (x - apart, y), (x + apart, y))
    for step in range(1, 6):
        page.fingers("touchMove", (x - apart * (1 + step / 5), y), (x + apart * (1 + step / 5), y))
    page.fingers("touchEnd")
    for _ in range(60):
        if page.bright("Red") > 1.3 * before:
            break
        page.page.wait_for_timeout(250)
    else:
        raise AssertionError(f"{page.bright('Red')} pixels show the slice, {before} before the zoom")
    assert page.colored("Red") == 0 and page.state("masks") == 0, "two fingers have left a mark"
    page.press("f")
    page.fingers("touchStart", (x, y))
    page.fingers("touchEnd")
    page.wait("s.masks > 0 && s.segments.length === 1 && s.segments[0].ml > 0")
    page.press("z", "c")
    page.tool("box")
    page.fingers("touchStart", (x - apart, y - apart))
    for step in range(1, 6):
        page.fingers("touchMove", (x - apart + step * apart / 2, y - apart + step * apart / 2))
    page.fingers("touchEnd")
    page.wait("s.segments[s.segments.length - 1].ml > 0")
    page.close()


def test_an_oblique_volume_is_sent_or_opened_from_a_folder_and_segmented_along_its_planes(
    chrome: object, url: str, mni_path: Path, root: Path, tmp_path: Path
) -> None:
    image = sitk.ReadImage(str(mni_path))
    turn = np.radians(18.0)
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    direction = turned @ np.array(image.GetDirection()).reshape(3, 3)
    image.SetDirection(direction.ravel().tolist())
    path = tmp_path / f"oblique_{uuid.uuid4().hex[:6]}.nrrd"
    sitk.WriteImage(image[::2, ::2, ::2], str(path))
    (root / "listed.nrrd").write_bytes(path.read_bytes())
    mine = ViewerPage(chrome, url)
    mine.press("o")
    mine.page.click(f".files >> text={root.name}")
    mine.page.click(".files >> text=listed.nrrd")
    mine.wait("s.volume.startsWith('listed')")
    mine.press("o")
    mine.page.locator("input[type=file]").first.set_input_files(str(path))
    mine.wait(f"s.volume.startsWith('{path.stem}')")
    mine.ready()
    mine.tool("box")
    mine.drag("Green", *BOX)
    mine.wait("s.segments.length === 1 && s.segments[0].ml > 0")
    mine.press("c")
    # The brain fills the view as an upright one does, and so does its mask.
    mine.wait_for_colored("Green", 100)
    mine.close()


def test_a_bridge_that_is_killed_is_said_and_found_again(page: ViewerPage, bridge: BridgeProcess) -> None:
    ports = dict(bridge.ports)
    bridge.kill()
    page.wait("s.is_lost")
    assert "lost" in page.page.inner_text(".status")
    bridge.start(ports)
    page.wait("s.is_connected")
    page.ready()
    page.tool("box")
    page.drag("Red", *BOX)
    page.wait("s.segments.length === 1 && s.segments[0].ml > 0")


def test_no_file_is_opened_but_those_that_were_sent(page: ViewerPage, mni_path: Path) -> None:
    for name in (str(mni_path), "../../../../../../etc", ""):
        page.page.evaluate("name => window.trame.trigger('open_uploaded', [name])", name)
        page.wait("s.problem && !s.busy")
        page.press("f")
        page.wait("!s.problem")
    assert page.state("volume").startswith("mni")


def test_what_cannot_act_says_why(page: ViewerPage) -> None:
    page.page.click("#segment_roi")
    page.wait("s.problem.includes('3-D ROI')")


def test_a_stream_is_shown_marked_and_followed_and_the_volume_comes_back(
    page: ViewerPage, graph: tuple[str, Supervisor]
) -> None:
    pictures, masks = scene_with_a_disc()
    rows, columns = np.nonzero(masks[0])
    with Peer(graph[0]) as peer:
        # A disc that stands still, so that it is known where it is shown.
        with Camera(peer.publisher(Image, topics.IMAGE, topics.NEWEST), pictures[:1]):
            page.page.click("#start_stream")
            page.wait("s.volume === 'Live stream' && s.layout === 'Axial'")
            at = page.rectangle("Red")
            scale = min(at["width"] / SIZE[1], at["height"] / SIZE[0])

            def shown(x: float, y: float) -> tuple[float, float]:
                """A pixel of the image as fractions of the view, which it fills one way."""
                return (
                    0.5 + (x - SIZE[1] / 2) * scale / at["width"],
                    0.5 + (y - SIZE[0] / 2) * scale / at["height"],
                )

            page.tool("box")
            corners = (columns.mean(), rows.mean()) + np.array([[-1], [1]]) * (RADIUS + 3)
            page.drag("Red", *(shown(*corner) for corner in corners))
            page.wait("s.stream_text.includes('tracking')")
            page.press("c")
            # The disc's colour, and nothing like as much elsewhere.
            disc = np.pi * (RADIUS * scale) ** 2
            page.wait_for_colored("Red", round(0.5 * disc), round(1.5 * disc))
        page.wait("s.stream_text.includes('No image')")
        page.page.click("#stop_stream")
    page.wait("!s.is_stream && s.volume.startsWith('mni') && s.layout === 'Four views'")


def test_a_server_that_is_killed_answers_the_same_page_when_it_is_back(
    page: ViewerPage, graph: tuple[str, Supervisor]
) -> None:
    page.tool("box")
    page.drag("Red", *BOX)
    page.wait("s.segments.length === 1 && s.segments[0].ml > 0")
    before = page.state("segments")[0]["ml"]
    graph[1].kill("samm_server", signal.SIGKILL)
    page.press("a")
    page.drag("Green", *BOX)
    page.wait("s.segments.length === 2 && s.segments[1].ml > 0")
    assert page.state("segments")[0]["ml"] == before
