# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the mouse, a pen or a finger does in the slice views: places points, draws and drags boxes, changes the window."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
import slicer
from SlicerIPPLib.logic import SegmentationLogic
from SlicerIPPLib.markups import add_box, add_points
from SlicerIPPLib.nodes import array_of, display_window, placed_points, roi_corners
from trame_slicer.views import SliceView
from vtkmodules.vtkCommonCore import vtkCommand

from samm_core.errors import SammError

from . import boxes
from .views import Views

# How near to a mark, or to a box's edge, a press counts for it: pixels of the view.
REACH = 12
# Before Slicer's own interactor style.
_FIRST = 10.0


class Tool(str, Enum):
    """What pressing the left button begins."""

    WINDOW = "window"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    BOX = "box"
    ROI = "roi"


class Marking:
    """Watches the views' mouse. A press on a mark that is there drags it; Control turns a positive point into a negative one."""

    def __init__(self, views: Views, logic: SegmentationLogic, changed: Callable[[], None]) -> None:
        """changed: called when the chosen view, or what is marked, has changed."""
        self.tool = Tool.POSITIVE
        self._views = views
        self._logic = logic
        self._changed = changed
        self._drag: Callable[[SliceView], None] | None = None
        # The slice that the marks are on, as Place.key; None: nothing is marked.
        self._marked: tuple[str, int, int] | None = None
        # Of the points, in the order in which they were placed: which are positive.
        self._placed: list[bool] = []
        for name, view in views.slice_views():
            for event, act in (
                ("LeftButtonPressEvent", self._press),
                ("MouseMoveEvent", self._move),
                ("LeftButtonReleaseEvent", self._release),
                ("MouseWheelForwardEvent", self._choose_view),
                ("MouseWheelBackwardEvent", self._choose_view),
                # Slicer's own keys: g hides all masks. The page has keys of its own.
                ("KeyPressEvent", _ignore),
                ("CharEvent", _ignore),
            ):
                self._observe(view, name, event, act)

    @property
    def is_marked(self) -> bool:
        """Whether there is a point or a box."""
        p = self._logic.parameters
        return p.box is not None or any(placed_points(node) for node in (p.positive, p.negative))

    def choose(self, tool: Tool) -> None:
        self.tool = tool

    def clear(self) -> None:
        """Take all points and the box away; masks stay."""
        p = self._logic.parameters
        for node in (p.positive, p.negative):
            if node is not None:
                node.RemoveAllControlPoints()
        if p.box is not None:
            self._logic.scene.RemoveNode(p.box)
        self._marked = None
        self._placed.clear()
        self._logic.observe()
        self._changed()

    def clear_roi(self) -> None:
        """Take the 3-D box away."""
        if self._logic.parameters.roi is not None:
            self._logic.scene.RemoveNode(self._logic.parameters.roi)
            self._logic.observe()
            self._changed()

    def remove_last(self) -> None:
        """Take away the point that was placed last, or else the box."""
        p = self._logic.parameters
        if self._placed:
            node = p.positive if self._placed.pop() else p.negative
            node.RemoveNthControlPoint(node.GetNumberOfControlPoints() - 1)
        elif p.box is not None:
            self._logic.scene.RemoveNode(p.box)
        self._logic.observe()
        self._changed()

    def _observe(self, view: SliceView, name: str, event: str, act: Callable[[str, SliceView], bool]) -> None:
        interactor = view.interactor()

        def on_event(*_arguments: object) -> None:
            try:
                is_ours = act(name, view)
            except SammError:
                is_ours = False
            if is_ours:
                command.AbortFlagOn()

        tag = interactor.AddObserver(getattr(vtkCommand, event), on_event, _FIRST)
        command = interactor.GetCommand(tag)

    # What the mouse does. Each says whether it was for us: Slicer's own style does not see it then.

    def _choose_view(self, name: str, view: SliceView) -> bool:
        p = self._logic.parameters
        if p.view != name:
            p.view = name
            self._logic.observe()
            self._changed()
        return False

    def _press(self, name: str, view: SliceView) -> bool:
        self._choose_view(name, view)
        p = self._logic.parameters
        if p.volume is None:
            return False
        point = _point_ras(view)
        if self.tool == Tool.WINDOW:
            self._drag = self._windowing(view)
        elif self.tool == Tool.ROI:
            self._drag = self._gripped(p.roi, view, point) or self._new_roi(view, point)
        elif self.tool == Tool.BOX:
            self._begin_marks()
            self._drag = self._gripped(p.box, view, point) or self._new_box(view, point)
        elif self._is_near_point(view, point):
            # Slicer drags it.
            return False
        else:
            self._begin_marks()
            is_positive = self.tool == Tool.POSITIVE and not view.interactor().GetControlKey()
            self._place(is_positive, point)
        return True

    def _move(self, name: str, view: SliceView) -> bool:
        if self._drag is None:
            return False
        self._drag(view)
        return True

    def _release(self, name: str, view: SliceView) -> bool:
        if self._drag is None:
            return False
        # A browser sends no move that comes soon after another one: where the button is let go is known by this alone.
        self._drag(view)
        self._drag = None
        self._changed()
        return True

    def _begin_marks(self) -> None:
        """Marks are on one slice: those on another are done with, unless they move along."""
        shown = self._logic.shown_place().key
        if self._marked not in (None, shown) and not self._logic.parameters.marks_follow:
            self.clear()
        self._marked = shown

    def _place(self, is_positive: bool, point_ras: np.ndarray) -> None:
        p = self._logic.parameters
        name = "positive" if is_positive else "negative"
        if getattr(p, name) is None:
            points = add_points(self._logic.scene, is_positive)
            display = points.GetDisplayNode()
            display.SetPointLabelsVisibility(False)
            display.SetGlyphScale(2.5)
            display.SetVisibility3D(False)
            setattr(p, name, points)
            self._logic.observe()
        getattr(p, name).AddControlPointWorld(*point_ras)
        self._placed.append(is_positive)
        self._changed()

    def _new_box(self, view: SliceView, corner_ras: np.ndarray) -> Callable[[SliceView], None]:
        p = self._logic.parameters
        if p.box is None:
            p.box = self._add_box(view)
            p.box.GetDisplayNode().SetVisibility3D(False)
        # Thinner than any voxel, so that it is on no other slice.
        grip = boxes.begin(p.box, _slice_to_ras(view), corner_ras, min(p.volume.GetSpacing()) / 2)
        self._logic.observe()
        return _dragging(p.box, grip)

    def _new_roi(self, view: SliceView, corner_ras: np.ndarray) -> Callable[[SliceView], None]:
        """A 3-D box is as deep as it is wide, until its depth is dragged in another view."""
        p = self._logic.parameters
        if p.roi is None:
            p.roi = self._add_box(view)
            p.roi.SetName("3-D box")
            p.roi.GetDisplayNode().SetSelectedColor(0.35, 0.75, 1.0)
        grip = boxes.begin(p.roi, _slice_to_ras(view), corner_ras, 0.0)
        self._logic.observe()
        roi = p.roi

        def drag(view: SliceView) -> None:
            boxes.drag(roi, grip, _point_ras(view))
            width, height, _depth = roi.GetSize()
            roi.SetSize(width, height, (width + height) / 2)

        return drag

    def _add_box(self, view: SliceView) -> slicer.vtkMRMLMarkupsROINode:
        """Without Slicer's handles, which hide the mask: its edges are dragged themselves."""
        box = add_box(self._logic.scene, self._logic.parameters.volume, view.get_view_node())
        display = box.GetDisplayNode()
        display.SetHandlesInteractive(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetGlyphScale(0.1)
        display.SetLineThickness(0.2)
        return box

    @staticmethod
    def _gripped(
        roi: slicer.vtkMRMLMarkupsROINode | None, view: SliceView, point_ras: np.ndarray
    ) -> Callable[[SliceView], None] | None:
        """What drags the part of a box that is pressed on; None where that is none."""
        if roi_corners(roi) is None:
            return None
        reach_mm = REACH * _millimetres_per_pixel(view)
        grip = boxes.grip_at(roi, _slice_to_ras(view), point_ras, reach_mm)
        return _dragging(roi, grip) if grip else None

    def _is_near_point(self, view: SliceView, point_ras: np.ndarray) -> bool:
        p = self._logic.parameters
        reach_mm = REACH * _millimetres_per_pixel(view)
        return any(
            np.linalg.norm(position - point_ras) < reach_mm
            for node in (p.positive, p.negative)
            for _label, position in placed_points(node)
        )

    def _windowing(self, view: SliceView) -> Callable[[SliceView], None]:
        """Across the view doubles, or halves, the window's width; up it, its level falls by that width."""
        volume = self._logic.parameters.volume
        window = display_window(volume)
        if window is None:
            return lambda view: None
        width, level = window[1] - window[0], sum(window) / 2
        start = np.array(view.interactor().GetEventPosition(), float)
        size = np.array(view.render_window().GetSize(), float)

        def drag(view: SliceView) -> None:
            across, up = (np.array(view.interactor().GetEventPosition()) - start) / size
            new_width = width * 2.0 ** (2 * across)
            new_level = level - width * up
            self._logic.volume.show_window(new_level - new_width / 2, new_level + new_width / 2)
            self._logic.observe()

        return drag


def _ignore(name: str, view: SliceView) -> bool:
    return True


def _dragging(roi: slicer.vtkMRMLMarkupsROINode, grip: boxes.Grip) -> Callable[[SliceView], None]:
    return lambda view: boxes.drag(roi, grip, _point_ras(view))


def _point_ras(view: SliceView) -> np.ndarray:
    """(3,) where the mouse is, in the world."""
    x, y = view.interactor().GetEventPosition()
    return (array_of(view.get_view_node().GetXYToRAS()) @ [x, y, 0.0, 1.0])[:3]


def _slice_to_ras(view: SliceView) -> np.ndarray:
    return array_of(view.get_view_node().GetSliceToRAS())


def _millimetres_per_pixel(view: SliceView) -> float:
    return float(np.linalg.norm(array_of(view.get_view_node().GetXYToRAS())[:3, 0]))
