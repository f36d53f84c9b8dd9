# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP on slicer-core.

It measures the time to apply a mask to 352×352×240 voxels, the time that a call blocks the GUI while a box is dragged, what
the bridge adds to a cycle, and how soon a killed bridge is found again.

It starts its own graph. Run it in a shell that has sourced .venv/bin/activate and ros2_ws/install/setup.bash:
python benchmarks/slicer_ipp.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "slicer_ros_bridge" / "SlicerIPP" / "SlicerIPP")]

from bridge_process import BridgeProcess, free_ports  # noqa: E402
from slicer_scene import SlicerScene  # noqa: E402
from SlicerIPPLib.client_events import BridgeState  # noqa: E402
from SlicerIPPLib.segment_writer import SegmentWriter  # noqa: E402

from samm_core.sources.sample import mni_volume  # noqa: E402
from samm_core.sources.volume import read_volume  # noqa: E402
from samm_ros.supervision.processes import environment  # noqa: E402
from samm_ros.supervision.supervisor import launch  # noqa: E402

DRAGS, RESTARTS = 500, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=RESTARTS)
    args = parser.parse_args()
    apply()
    namespace = f"bench_{uuid.uuid4().hex[:8]}"
    folder = Path(tempfile.mkdtemp())
    arguments = {"namespace": namespace, "sweep": "false", "bridge": "false"}
    os.environ.update(environment())
    with launch(arguments, folder), BridgeProcess(namespace, folder) as bridge:
        drag(bridge)
        restart(bridge, args.restarts)


def apply() -> None:
    with SlicerScene() as scene:
        node = scene.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.CreateDefaultDisplayNodes()
        segment_id = node.GetSegmentation().AddEmptySegment("", "a")
        writer, times = SegmentWriter(scene.scene), []
        dimensions = (352, 352, 240)
        for number in range(301):
            axis = number % 3
            shape = [dimensions[a] for a in (2, 1, 0) if a != axis]
            mask = np.zeros(shape, bool)
            mask[40 : shape[0] - 40, 40 : shape[1] - 40] = True
            started = time.perf_counter()
            writer.write(node, segment_id, dimensions, np.eye(4), axis, 20 + number % 200, mask)
            times.append(time.perf_counter() - started)
        show("apply a mask to 352×352×240, the first (makes the layer)", times[:1])
        show("apply a mask to 352×352×240", times[1:])


def drag(bridge: BridgeProcess) -> None:
    volume = read_volume(mni_volume())
    with SlicerScene() as scene:
        scene.connect(bridge.ports["IPP/2"])
        scene.add_volume(
            volume.voxels, volume.geometry.ijk_to_ras, (volume.window.lower, volume.window.upper)
        )
        scene.show("Red", 2, 35, volume.geometry.ijk_to_ras)
        started = time.perf_counter()
        scene.load()
        show("load the MNI volume into the graph", [time.perf_counter() - started])
        roi = scene.add_roi((36, 110, 33), (82, 162, 37), volume.geometry.ijk_to_ras)
        scene.parameters.box = roi
        scene.logic.observe()
        scene.spin_until(lambda: scene.state.score is not None)
        masks, blocked, cycles = [], [], []
        events = scene.logic.events
        events.mask.connect(lambda: masks.append(time.perf_counter()))
        events.latency.connect(lambda: cycles.append(scene.state.latency["total"] / 1e3))
        started = time.perf_counter()
        for number in range(DRAGS):
            began = time.perf_counter()
            roi.SetSize(46 + 10 * np.sin(number / 20), 52, 4)
            scene.logic.process_events()
            blocked.append(time.perf_counter() - began)
            # A mouse sends 120 positions per second.
            time.sleep(max(0.0, began + 1 / 120 - time.perf_counter()))
        print(
            f"masks while dragging at 120 Hz: {len(masks) / (time.perf_counter() - started):.1f} per second"
        )
        show(f"GUI thread blocked by a step of the drag ({DRAGS} steps)", blocked)
        show("cycle while dragging, as the graph measures it", cycles)
        quiet_at = time.perf_counter() + 2.0
        scene.spin_until(lambda: time.perf_counter() > quiet_at)
        trips, cycles[:] = [], []
        for _ in range(50):
            scene.state.score = None
            began = time.perf_counter()
            scene.logic.prompt()
            scene.spin_until(lambda: scene.state.score is not None)
            trips.append(time.perf_counter() - began)
            count = len(trips)
            scene.spin_until(lambda count=count: len(cycles) >= count)
        show("prompt to mask in Slicer's scene, one at a time", trips)
        added = [trip - cycle for trip, cycle in zip(trips, cycles[-50:], strict=False)]
        show("of that outside of the graph's cycle: bridge, ZeroMQ, Slicer", added)


def restart(bridge: BridgeProcess, count: int) -> None:
    ports = free_ports()
    bridge.stop()
    bridge.start(ports)
    times = []
    with SlicerScene() as scene:
        scene.connect(ports["IPP/2"])
        for _ in range(count):
            bridge.kill()
            scene.spin_until(lambda: scene.state.bridge == BridgeState.LOST)
            bridge.start(ports)
            began = time.perf_counter()
            scene.spin_until(lambda: scene.state.is_connected)
            times.append(time.perf_counter() - began)
    show(f"a bridge that was killed listens again, until Slicer is connected ({count} times)", times)


def show(what: str, seconds: list[float]) -> None:
    p50, p95, most = (1e3 * float(np.percentile(seconds, p)) for p in (50, 95, 100))
    print(f"{what}: p50 {p50:.2f} ms, p95 {p95:.2f} ms, max {most:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
