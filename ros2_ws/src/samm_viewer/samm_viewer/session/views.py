# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The four views of a scene: three slices and 3-D, as in 3D Slicer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import slicer
from trame_slicer.core import SlicerApp
from trame_slicer.views import (
    AbstractView,
    Layout,
    LayoutDirection,
    SliceView,
    ThreeDView,
    ViewLayoutDefinition,
)

_ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
SLICES = tuple(_ORIENTATIONS)
THREE_D = "ThreeD"
_AXIAL = ViewLayoutDefinition.axial_view()
_CORONAL = ViewLayoutDefinition.coronal_view()
_SAGITTAL = ViewLayoutDefinition.sagittal_view()
_THREE_D = ViewLayoutDefinition.threed_view(name=THREE_D, background_color="#0b0e11")
_ROW, _COLUMN = LayoutDirection.Horizontal, LayoutDirection.Vertical

# By the name that the page shows.
LAYOUTS = {
    "Four views": Layout(_ROW, [Layout(_COLUMN, [_AXIAL, _CORONAL]), Layout(_COLUMN, [_THREE_D, _SAGITTAL])]),
    "Axial and three": Layout(
        _ROW, [_AXIAL, Layout(_COLUMN, [_CORONAL, _SAGITTAL, _THREE_D])], flex_sizes=["2", "1"]
    ),
    "Axial": Layout(_COLUMN, [_AXIAL]),
    "Coronal": Layout(_COLUMN, [_CORONAL]),
    "Sagittal": Layout(_COLUMN, [_SAGITTAL]),
    "3-D": Layout(_COLUMN, [_THREE_D]),
}


class Views:
    """Made by the factories that were registered with the app's view manager."""

    def __init__(self, app: SlicerApp) -> None:
        self._app = app
        for definition in (_AXIAL, _CORONAL, _SAGITTAL, _THREE_D):
            view = app.view_manager.create_view(definition)
            # Eight samples a pixel cost half the pictures a second, and show nothing more of a slice.
            view.render_window().SetMultiSamples(0)

    def slice_view(self, name: str) -> SliceView:
        """name: one of SLICES."""
        return self._app.view_manager.get_view(name)

    @property
    def three_d(self) -> ThreeDView:
        return self._app.view_manager.get_view(THREE_D)

    def slice_views(self) -> Iterator[tuple[str, SliceView]]:
        for name in SLICES:
            yield name, self.slice_view(name)

    def all(self) -> list[AbstractView]:
        return [*(view for _name, view in self.slice_views()), self.three_d]

    def shown(self) -> list[AbstractView]:
        """Those that the layout shows; all of them before there is a layout."""
        return self._app.view_manager.filter_visible_views(self.all())

    def slice_node(self, name: str) -> slicer.vtkMRMLSliceNode | None:
        """As Slicer-IPP's logic asks for it."""
        return self.slice_view(name).get_view_node() if name in SLICES else None

    def show(self, volume: slicer.vtkMRMLVolumeNode) -> None:
        """Show a volume whole, along its own planes."""
        for name, view in self.slice_views():
            view.set_background_volume_id(volume.GetID())
            node = view.get_view_node()
            # Each time: a picture, which has one slice, turns all views to its plane.
            node.SetOrientation(_ORIENTATIONS[name])
            node.RotateToVolumePlane(volume)
        self.fit()

    def before_drawing(self, act: Callable[[], None]) -> None:
        """Have something done before each picture, so that it shows what has come by then.

        All views are drawn one after the other, and a mask would wait for the last of them.
        """
        for view in self.all():
            view.render_window().AddObserver("StartEvent", lambda *_arguments: act())

    def fit(self) -> None:
        """Show all there is in each view, on the slices that are nearest."""
        for _name, view in self.slice_views():
            view.fit_view_to_content()
        self.three_d.fit_view_to_content()

    def zoom(self, name: str, factor: float) -> None:
        (self.three_d if name == THREE_D else self.slice_view(name)).zoom(factor)

    def pinch(self, name: str, factor: float, across: float, down: float) -> None:
        """Zoom and move what a view shows; 3-D is zoomed only.

        factor: by which it becomes larger, 0.1 to 10. across, down: how far it moves, as parts of the view's width and height.
        Raises ValueError for what lies beyond.
        """
        if not (0.1 <= factor <= 10 and abs(across) <= 2 and abs(down) <= 2):
            raise ValueError("no two fingers do that")
        self.zoom(name, 1 - 1 / factor)
        if name == THREE_D:
            return
        node = self.slice_view(name).get_view_node()
        width, height, _depth = node.GetFieldOfView()
        x, y, z = node.GetXYZOrigin()
        node.SetXYZOrigin(x - across * width, y + down * height, z)
