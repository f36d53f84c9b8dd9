# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of the README, with a graph of its own: overlay, plot of latency, Slicer's scene, the viewer's page.

    source ros2_ws/install/setup.bash && .venv/bin/python docs/pictures.py

Slicer's scene is drawn by Slicer's own views without its desktop (trame-slicer), which needs EGL or OSMesa. The page
is shown by Debian's chromium.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from samm_core.geometry import Plane

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).parent / "images"
NAMESPACE = "pictures"
# What is segmented on the sample volume: by name, a box on a slice.
STRUCTURES = {
    "brain stem": (Plane.CORONAL, 100, (82, 8, 116, 75)),
    "left temporal pole": (Plane.AXIAL, 35, (36, 110, 82, 162)),
    "right temporal pole": (Plane.AXIAL, 35, (114, 110, 160, 162)),
}
REACH = 8
# The same on the viewer's page: the view, the slice, and two corners as fractions of the view's picture.
ON_THE_PAGE = {
    "brain stem": ("Green", 100, (0.44, 0.58), (0.553, 0.868)),
    "left temporal pole": ("Red", 35, (0.553, 0.302), (0.705, 0.526)),
    "right temporal pole": ("Red", 35, (0.294, 0.302), (0.447, 0.526)),
}
# Where the slice views cross, RAS millimetres.
CENTRE_RAS = (0.0, -20.0, -37.0)
SIZE = 420


def main() -> None:
    """Overwrites the pictures in docs/images."""
    from samm_core.sources.roots import Roots
    from samm_core.sources.sample import mni_volume
    from samm_ros.supervision.processes import environment
    from samm_ros.supervision.supervisor import launch

    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"namespace": NAMESPACE, "sweep": "false", "bridge": "false"}
        arguments["roots"] = Roots.of("", [mni_volume(), folder]).text
        with launch(arguments, Path(folder) / "log"):
            segmentation = prompt(Path(folder))
        latency(Path(folder))
        scene(segmentation)
    page()


def prompt(folder: Path) -> Path:
    """Prompts with a recording beside it, and saves the overlay; the segmentation's file."""
    from samm_core.prompts import pixel_box
    from samm_core.sources.sample import mni_volume
    from samm_ros.client import GraphClient

    with GraphClient(NAMESPACE, "reader") as client, Overlay() as overlay:
        client.load(mni_volume())
        command = [
            sys.executable,
            "-m",
            "samm_ros.cli",
            "record",
            str(folder / "bag"),
            "--namespace",
            f"/{NAMESPACE}",
        ]
        recorder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        recorder.stdout.readline()
        for shift in range(60):
            name = list(STRUCTURES)[shift % 3]
            plane, index, (x0, y0, x1, y1) = STRUCTURES[name]
            client.prompt(pixel_box(plane, index, x0, y0, x1, y1 + shift % 2), name)
        for name, (plane, index, box) in STRUCTURES.items():
            client.propagate([pixel_box(plane, index, *box)], name, index - REACH, index + REACH)
        recorder.send_signal(signal.SIGINT)
        recorder.wait()
        client.save(folder / "saved.seg.nrrd")
        # The slice of the two that were prompted last, with both.
        client.prompt(pixel_box(plane, index, *box), name)
        client.wait_for(lambda: overlay.newest is not None, "the overlay", 10.0)
        cv2.imwrite(str(IMAGES / "overlay.png"), enlarged(overlay.newest))
    return folder / "saved.seg.nrrd"


class Overlay:
    """Keeps the newest picture of the topic `overlay`, BGR; a context manager."""

    newest: np.ndarray | None = None

    def __enter__(self) -> Overlay:
        import threading

        import rclpy
        from sensor_msgs.msg import Image

        from samm_ros import topics

        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = rclpy.create_node("pictures", namespace=NAMESPACE, context=self._context)
        self._node.create_subscription(Image, topics.OVERLAY, self._on_image, topics.NEWEST)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        threading.Thread(target=self._executor.spin, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def _on_image(self, message: object) -> None:
        rgb = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        self.newest = rgb[..., ::-1]


def enlarged(image: np.ndarray) -> np.ndarray:
    scale = SIZE / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def latency(folder: Path) -> None:
    """The plot that `samm latency` makes of the recording."""
    command = [
        sys.executable,
        "-m",
        "samm_ros.cli",
        "latency",
        str(folder / "bag"),
        "--output",
        str(folder / "latency"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (IMAGES / "latency.png").write_bytes((folder / "latency" / "cycles.png").read_bytes())


def scene(segmentation: Path) -> None:
    """Three slice views and the surfaces, as Slicer draws them."""
    import vtk
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import DirectRendering, SliceView, ThreeDView
    from vtk.util.numpy_support import vtk_to_numpy

    from samm_core.sources.sample import mni_volume

    app = SlicerApp()
    volume = app.io_manager.load_volumes(str(mni_volume()))[0]
    node = app.io_manager.load_segmentation(str(segmentation))
    node.CreateClosedSurfaceRepresentation()
    shots = []
    for name in ("Axial", "Sagittal", "Coronal", None):
        strategy = {"scheduled_render_strategy": DirectRendering()}
        view = (SliceView if name else ThreeDView)(app.scene, app.app_logic, name or "3D", **strategy)
        window = view.render_window()
        window.SetOffScreenRendering(1)
        window.SetSize(SIZE, SIZE)
        if name:
            view.set_orientation(name)
            view.set_background_volume_id(volume.GetID())
            view.fit_view_to_content()
            view.get_view_node().JumpSliceByCentering(*CENTRE_RAS)
        else:
            view.reset_view()
        window.Render()
        shot = vtk.vtkWindowToImageFilter()
        shot.SetInput(window)
        shot.ReadFrontBufferOff()
        shot.Update()
        output = shot.GetOutput()
        width, height, _ = output.GetDimensions()
        pixels = vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, -1)
        shots.append(pixels[::-1, :, 2::-1])
    rows = [np.hstack([shots[0], shots[3]]), np.hstack([shots[2], shots[1]])]
    cv2.imwrite(str(IMAGES / "slicer.png"), np.vstack(rows))


def page() -> None:
    """The page of `samm view`, with its own graph: three structures, carried through the slices."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "samm_ros.cli", "view", "--port", "0", "--no-browser"]
    viewer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = next(line.split()[-1] for line in viewer.stdout if "The page is at" in line)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            shown = browser.new_page(viewport={"width": 1280, "height": 800})
            shown.set_default_timeout(180_000)
            shown.goto(url)
            wait_for(shown, "s.reasons && !s.reasons.prompt")
            shown.click("#tool-box")
            for number, (name, mark) in enumerate(ON_THE_PAGE.items()):
                segment_on(shown, number, name, *mark)
            shown.keyboard.press("c")
            shown.keyboard.press("d")
            wait_for(shown, "s.is_3d")
            shown.wait_for_timeout(5000)
            shown.screenshot(path=str(IMAGES / "viewer.png"))
            browser.close()
    finally:
        viewer.send_signal(signal.SIGINT)
        viewer.wait()


def segment_on(
    shown: Page,
    number: int,
    name: str,
    view: str,
    index: int,
    low: tuple[float, float],
    high: tuple[float, float],
) -> None:
    """Draw a box on a slice, name the segment, and carry it through the slices."""
    if number:
        shown.keyboard.press("a")
        wait_for(shown, f"s.segments.length === {number + 1}")
    shown.locator(f"#slider-{view}").fill(str(index))
    wait_for(shown, f"s.{view}_index === {index}")
    at = shown.evaluate(
        "id => document.getElementById(id).closest('.over').parentElement.getBoundingClientRect().toJSON()",
        f"slider-{view}",
    )
    corners = [(at["x"] + x * at["width"], at["y"] + y * at["height"]) for x, y in (low, high)]
    shown.mouse.move(*corners[0])
    shown.mouse.down()
    shown.mouse.move(*corners[1], steps=8)
    shown.mouse.up()
    wait_for(shown, f"s.segments.length > {number} && s.segments[{number}].ml > 0")
    field = shown.locator(".segments .text").nth(number)
    field.fill(name)
    field.press("Enter")
    shown.click("#propagate")
    wait_for(shown, f"s.log.filter(line => line.startsWith('Done')).length > {number}")


def wait_for(shown: Page, condition: str) -> None:
    """Until an expression over the page's state `s` is true."""
    shown.wait_for_function(
        f"window.trame?.state && (() => {{ const s = window.trame.state.state; return {condition}; }})()"
    )


if __name__ == "__main__":
    main()
