# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The MRML nodes whose changes matter: those that are chosen now, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vtk

from .parameters import Parameters
from .view import SliceNodes

_POINTS_EVENTS = (
    "PointModifiedEvent",
    "PointAddedEvent",
    "PointRemovedEvent",
    "PointPositionDefinedEvent",
)


class ChosenNodes:
    """Calls changed() for each change of a chosen node that may change what is to be segmented."""

    def __init__(self, parameters: Parameters, slice_nodes: SliceNodes, changed: Callable[[], None]) -> None:
        self._parameters = parameters
        self._slice_nodes = slice_nodes
        self._changed = changed
        self._observed: list[tuple[Any, int]] = []
        self._nodes: tuple[Any, ...] = ()

    def observe(self) -> None:
        """Listen to what is chosen now."""
        p = self._parameters
        slice_node = self._slice_nodes(p.view)
        display = p.volume.GetDisplayNode() if p.volume else None
        nodes = (p.volume, p.positive, p.negative, p.box, p.roi, p.segmentation, slice_node, display)
        if nodes == self._nodes:
            return
        self.stop()
        self._nodes = nodes
        for markups in (p.positive, p.negative, p.box):
            for name in _POINTS_EVENTS if markups else ():
                self._listen(markups, getattr(markups, name))
        for node in (p.box, slice_node, display):
            if node:
                self._listen(node, vtk.vtkCommand.ModifiedEvent)
        for node in (p.volume, p.positive, p.negative, p.box):
            if node:
                self._listen(node, node.TransformModifiedEvent)
        if p.volume:
            # Another frame of a sequence, or a module that writes into its own input.
            self._listen(p.volume, p.volume.ImageDataModifiedEvent)

    def stop(self) -> None:
        for node, observer in self._observed:
            node.RemoveObserver(observer)
        self._observed, self._nodes = [], ()

    def _listen(self, node: Any, event: int) -> None:
        self._observed.append((node, node.AddObserver(event, lambda *_arguments: self._changed())))
