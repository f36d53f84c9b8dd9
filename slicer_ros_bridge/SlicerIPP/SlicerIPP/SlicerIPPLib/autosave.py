# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The segmentation kept in a file while it grows, so that a Slicer that ends by itself costs a minute of work at most.

A file for each segmentation of a volume, named by the volume's own identity, so that no name of a patient is in it. It is
written in the background, beside the older one, and then takes its place. No two sessions write the same file.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from samm_core.errors import MaskError, SammError
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
# Files that stay; beyond, the one that was saved longest ago goes.
KEPT = 100
_SUFFIX = ".seg.nrrd"
# The volume's identity, then the segmentation's. Whatever else is in the folder is the user's own.
_NAME = re.compile(rf"([0-9a-f]{{32}})\.[0-9a-f]{{8}}{re.escape(_SUFFIX)}")


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
        self._segmentation_key = _new_key()

    @property
    def folder(self) -> Path:
        chosen = self._parameters.autosave_folder
        return Path(chosen).expanduser() if chosen else Path.home() / "samm_ros" / "autosave"

    @property
    def path(self) -> Path | None:
        """The chosen segmentation's own file, there or not; None where the graph does not have the volume."""
        if not self._state.has_loaded(self._parameters.volume):
            return None
        return self.folder / f"{self._state.sent_volume.uid}.{self._segmentation_key}{_SUFFIX}"

    @property
    def saved_path(self) -> Path | None:
        """The newest file of another segmentation of the chosen volume, or else of the chosen one; None without."""
        path = self.path
        if path is None:
            return None
        files = _saved_in(self.folder, self._state.sent_volume.uid)
        return min(files, key=lambda file: file == path, default=None)

    def chosen(self) -> None:
        """Another segmentation is chosen: it gets a file of its own."""
        self._segmentation_key = _new_key()
        self._rest.end()

    def changed(self) -> None:
        """Something in the segmentation has changed: it is saved PERIOD_S after the first change since its last file."""
        if self._parameters.autosave and not self._rest.is_awaited and self.path is not None:
            self._rest.begin()

    def follow(self) -> None:
        """Save when it is time. Raises SammError where it cannot be saved."""
        if not self._rest.is_over():
            return
        if self._is_writing or self.path is None:
            # The disk is slow, or the graph lost the volume: what has changed waits for the next time.
            self._rest.begin()
        else:
            self.save()

    def save(self) -> None:
        """Copy now what the segmentation holds, and begin to write it. Raises SammError where it cannot be saved."""
        path = self.path
        if path is None or self._parameters.segmentation is None:
            return
        self._rest.end()
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
        """Save now what was not saved yet; its nodes may go then. The log says why where it cannot be saved."""
        if self._rest.is_awaited:
            try:
                self.save()
            except SammError as error:
                self._log.warn(str(error))

    def restore(self) -> None:
        """Read the file saved_path as a new segmentation, chosen from now on. Raises SammError without one."""
        path = self.saved_path
        if path is None:
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


def _new_key() -> str:
    return uuid.uuid4().hex[:8]


def _saved_in(folder: Path, uid: str = "") -> list[Path]:
    """What was saved of a volume, or of all volumes, the newest first."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            name = _NAME.fullmatch(entry.name)
            if name and uid in ("", name[1]):
                # Another session may remove it meanwhile.
                with contextlib.suppress(OSError):
                    found.append((entry.stat().st_mtime_ns, Path(entry.path)))
    return [path for _time, path in sorted(found, reverse=True)]


def _keep_newest(folder: Path) -> None:
    for file in _saved_in(folder)[KEPT:]:
        with contextlib.suppress(OSError):
            file.unlink()
