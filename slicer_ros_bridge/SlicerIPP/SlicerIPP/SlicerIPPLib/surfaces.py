# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Show 3D: the segments' surfaces, by Slicer's own conversion, for its 3-D views."""

from __future__ import annotations

from collections.abc import Callable

from samm_core.errors import MaskError

from .events import Events
from .i18n import tr as _
from .parameters import Parameters
from .rest import Rest
from .state import State

_SURFACE = "Closed surface"
# Slicer drops all surfaces when a labelmap changes; to make them takes longer than a step of a drag.
REST_S = 0.5


class Surfaces:
    """Made again once the segmentation has rested for REST_S."""

    def __init__(
        self, parameters: Parameters, state: State, events: Events, wake_after: Callable[[float], None]
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._events = events
        self._rest = Rest(REST_S, wake_after)

    def show(self, shown: bool) -> None:
        """Raises MaskError where there is no segmentation, or Slicer cannot make its surfaces."""
        node = self._parameters.segmentation
        if node is None:
            raise MaskError(_("There is no segmentation to show in 3D yet."))
        self._state.show_3d = shown
        if shown:
            if node.GetDisplayNode() is None:
                node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetVisibility3D(True)
            self._make()
        else:
            node.RemoveClosedSurfaceRepresentation()
        self._events.segment_rows.emit()

    def chosen(self) -> None:
        """Another segmentation was chosen: it is shown as it is."""
        node = self._parameters.segmentation
        self._state.show_3d = node is not None and node.GetSegmentation().ContainsRepresentation(_SURFACE)

    def changed(self) -> None:
        """Something in the segmentation has changed."""
        if self._state.show_3d:
            self._rest.begin()

    def follow(self) -> None:
        """Make the surfaces that are wanted and gone, once the segmentation rests."""
        if self._rest.is_over() and self._state.show_3d and self._parameters.segmentation is not None:
            self._make()

    def _make(self) -> None:
        node = self._parameters.segmentation
        if node.GetSegmentation().GetNumberOfSegments() == 0:
            return
        if not node.CreateClosedSurfaceRepresentation():
            self._state.show_3d = False
            raise MaskError(_("Slicer could not make the segments' surfaces; its log says why."))
