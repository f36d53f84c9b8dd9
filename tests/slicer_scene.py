# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""3D Slicer's core without the desktop, for tests: a real scene with real nodes, and the logic over them."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

with contextlib.suppress(ImportError):
    # Before VTK renders: the LLVM of Mesa, loaded first, and that of triton, which torch loads, end the process.
    import triton  # noqa: F401

import numpy as np
import slicer.util
import vtk
from SlicerIPPLib.local_graph import LocalGraph
from SlicerIPPLib.logic import SegmentationLogic
from SlicerIPPLib.parameters import Parameters
from SlicerIPPLib.state import State
from trame_slicer.core import SlicerApp
from vtk.util.numpy_support import vtk_to_numpy

_app: SlicerApp | None = None


def slicer_app() -> SlicerApp:
    """One for the process, as in the desktop."""
    global _app
    _app = _app or SlicerApp()
    return _app


class SlicerScene:
    """A Slicer with one volume at most; a context manager that leaves an empty scene."""

    def __init__(self, local_graph: LocalGraph | None = None) -> None:
        self.scene = slicer_app().scene
        self.slices: dict[str, Any] = {}
        for view, orient in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
            node = self.scene.AddNewNodeByClass("vtkMRMLSliceNode", f"{view} of the test")
            getattr(node, f"SetOrientationTo{orient}")()
            self.slices[view] = node
        # Nothing is written to the user's own folder.
        self.parameters = Parameters(autosave=False)
        self.logic = SegmentationLogic(self.scene, self.parameters, self.slices.get, local_graph)

    def __enter__(self) -> SlicerScene:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.logic.close()
        self.scene.Clear(False)

    @property
    def state(self) -> State:
        return self.logic.state

    def spin_until(self, condition: Callable[[], Any], timeout_s: float = 90.0) -> None:
        """As serve_until; says what is known where it never comes."""
        assert serve_until(self.logic, condition, timeout_s), (
            f"waited {timeout_s} s in vain; bridge {self.state.bridge}, problem {self.state.prompt_problem!r}, "
            f"log {self.state.log[-4:]}, load {self.logic.reasons()['load']!r}"
        )

    def connect(self, port: int) -> None:
        self.logic.connect(f"tcp://127.0.0.1:{port}")
        self.spin_until(lambda: self.state.is_connected and self.state.model)

    def add_volume(self, voxels: np.ndarray, ijk_to_ras: np.ndarray, window: tuple[float, float]) -> Any:
        volume = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume of the test")
        slicer.util.updateVolumeFromArray(volume, voxels)
        volume.SetIJKToRASMatrix(vtk_matrix(ijk_to_ras))
        volume.CreateDefaultDisplayNodes()
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        volume.GetDisplayNode().SetWindowLevelMinMax(*window)
        self.parameters.volume = volume
        self.logic.observe()
        return volume

    def load(self) -> None:
        self.logic.load_volume()
        self.spin_until(lambda: self.state.has_loaded(self.parameters.volume))

    def add_roi(self, low: Sequence[float], high: Sequence[float], ijk_to_world: np.ndarray) -> Any:
        """A ROI along the voxels of a volume, between two IJK positions."""
        low, high = np.array(low, float), np.array(high, float)
        spacing = np.linalg.norm(ijk_to_world[:3, :3], axis=0)
        placed = np.eye(4)
        placed[:3, :3] = ijk_to_world[:3, :3] / spacing
        placed[:3, 3] = (ijk_to_world @ [*((low + high) / 2), 1])[:3]
        roi = self.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box of the test")
        roi.SetAndObserveObjectToNodeMatrix(vtk_matrix(placed))
        roi.SetSize(*((high - low) * spacing))
        return roi

    def add_points(self, positions: Sequence[Sequence[float]]) -> Any:
        points = self.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
        for position in positions:
            points.AddControlPoint(*position)
        return points

    def show(self, view: str, axis: int, index: int, ijk_to_world: np.ndarray) -> None:
        """Make a view show a slice across an IJK axis, turned to the volume's plane as Slicer's button does."""
        others = [a for a in range(3) if a != axis]
        slice_to_ras = np.eye(4)
        columns = ijk_to_world[:3, :3] / np.linalg.norm(ijk_to_world[:3, :3], axis=0)
        slice_to_ras[:3, 0], slice_to_ras[:3, 1] = columns[:, others[0]], columns[:, others[1]]
        slice_to_ras[:3, 2] = np.cross(slice_to_ras[:3, 0], slice_to_ras[:3, 1])
        centre = np.zeros(3)
        centre[axis] = index
        slice_to_ras[:3, 3] = (ijk_to_world @ [*centre, 1])[:3]
        node = self.slices[view]
        node.GetSliceToRAS().DeepCopy(vtk_matrix(slice_to_ras))
        node.UpdateMatrices()

    def voxels(self, segment_id: str = "") -> np.ndarray:
        """(N, 3) positions in the world of a segment's voxels."""
        node = self.parameters.segmentation
        segment = node.GetSegmentation().GetSegment(segment_id or self.parameters.segment_id)
        image = segment.GetRepresentation("Binary labelmap")
        x0, x1, y0, y1, z0, z1 = image.GetExtent()
        layer = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        ijk = np.argwhere(layer == segment.GetLabelValue())[:, ::-1] + (x0, y0, z0)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        to_world = vtk.vtkMatrix4x4()
        if node.GetParentTransformNode():
            node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
        return positions(numpy_matrix(to_world) @ numpy_matrix(matrix), ijk)


def serve_until(logic: SegmentationLogic, condition: Callable[[], Any], timeout_s: float = 90.0) -> bool:
    """Serve the logic's events, as Slicer's event loop does with a socket notifier, until something is so; False: it never was."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        if select.select([logic.fileno()], [], [], 0.1)[0]:
            logic.process_events()
    return True


def picture_of(window: vtk.vtkRenderWindow) -> np.ndarray:
    """(H, W, 3) int: what a window shows, drawn now; the first row at the bottom, as mouse positions count."""
    window.Render()
    shot = vtk.vtkWindowToImageFilter()
    shot.SetInput(window)
    shot.SetInputBufferTypeToRGB()
    shot.ReadFrontBufferOff()
    shot.Update()
    image = shot.GetOutput()
    width, height, _one = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3).astype(int)


def positions(ijk_to_world: np.ndarray, ijk: np.ndarray) -> np.ndarray:
    """(N, 3) of (N, 3)."""
    return np.asarray(ijk, float) @ ijk_to_world[:3, :3].T + ijk_to_world[:3, 3]


def vtk_matrix(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, float).ravel())
    return result


def numpy_matrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
