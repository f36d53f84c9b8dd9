# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The segmentation kept in a file while it grows, so that a Slicer that ends by itself costs a minute of work at most.

A file for each volume, named by the volume's own identity, so that no name of a patient is in it. It is written in the
background, beside the older one, and then takes its place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core.errors import MaskError
from samm_core.segmentation.writers import write_segmentation

from .background import Background
from .contents import contents_of
from .events import Events
from .i18n import tr as _
from .log import Log
from .parameters import Parameters
from .rest import Rest
from .state import State

if TYPE_CHECKING:
    import slicer

# From a change to its being saved, and so between two files.
PERIOD_S = 60.0
# Volumes whose segmentations are kept; beyond, the one that was saved longest ago goes.
KEPT = 20
_SUFFIX = ".seg.nrrd"


class Autosave:
    """Saves what is segmented on a volume that the graph has."""

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        parameters: Parameters,
        state: State,
        events: Events,
        log: Log,
        background: Background,
        wake_after: Callable[[float], None],
    ) -> None:
        self._scene = scene
        self._parameters = parameters
        self._state = state
        self._events = events
        self._log = log
        self._background = background
        self._rest = Rest(PERIOD_S, wake_after)
        self._is_writing = False

    @property
    def folder(self) -> Path:
        chosen = self._parameters.autosave_folder
        return Path(chosen).expanduser() if chosen else Path.home() / "samm_ros" / "autosave"

    @property
    def path(self) -> Path | None:
        """The file of the chosen volume, there or not; None where the graph does not have the volume."""
        if not self._state.has_loaded(self._parameters.volume):
            return None
        return self.folder / f"{self._state.sent_volume.uid}{_SUFFIX}"

    def changed(self) -> None:
        """Something in the segmentation has changed: it is saved PERIOD_S after the first change since the last file."""
        if self._parameters.autosave and not self._rest.is_awaited and self.path is not None:
            self._rest.begin()

    def follow(self) -> None:
        """Save when it is time. Raises SammError where it cannot be saved."""
        if self._rest.is_over():
            self.save()

    def save(self) -> None:
        """Begin to save now. Raises SammError where it cannot be saved."""
        self._rest.end()
        path = self.path
        if path is None or self._parameters.segmentation is None or self._is_writing:
            return
        contents = contents_of(self._parameters)
        if not any(voxels.any() for _segment, voxels in contents.held):
            # An empty segmentation never takes the place of one that may be wanted back.
            return
        self._is_writing = True

        def work() -> None:
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(mode=0o700, parents=True)
            write_segmentation(contents, path)
            _keep_newest(path.parent)

        def done(why: str) -> None:
            self._is_writing = False
            if why:
                self._log.warn(_("The segmentation was not saved by itself: {why}").format(why=why))
            else:
                self._state.autosaved_at = time.time()
            self._events.controls.emit()

        self._background.do(work, done)

    def close(self) -> None:
        """Save what was not saved yet. Raises SammError where it cannot be saved."""
        if self._rest.is_awaited:
            self.save()

    def restore(self) -> None:
        """Read the chosen volume's file as a new segmentation, chosen from now on. Raises SammError without one."""
        path = self.path
        if path is None or not path.is_file():
            raise MaskError(_("Nothing was saved of this volume by itself."))
        storage = self._scene.CreateNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.UnRegister(None)
        storage.SetFileName(str(path))
        node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Slicer-IPP segmentation"))
        if not storage.ReadData(node):
            self._scene.RemoveNode(node)
            raise MaskError(_("{path} cannot be read; Slicer's log says why.").format(path=path))
        node.CreateDefaultDisplayNodes()
        volume = self._parameters.volume
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        self._parameters.segmentation, self._parameters.segment_id = node, ""
        self._log.say(_("The segmentation that was saved by itself is back."))
        self._events.segments.emit()


def _keep_newest(folder: Path) -> None:
    files = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[KEPT:]:
        with contextlib.suppress(OSError):
            file.unlink()
