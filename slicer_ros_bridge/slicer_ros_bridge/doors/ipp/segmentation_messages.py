# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2's messages about the graph's segmentation, on the doors' thread.

`segment_rename`, `segment_recolor`, `segment_remove`, `undo`, `redo` and `save`.
"""

from __future__ import annotations

from pathlib import Path

from samm_core import ipp
from samm_core.errors import VolumeError

from ...graph_actions import GraphActions, SegmentEdit
from .clients import SlicerClient


class SegmentationMessages:
    """What a Slicer asks of the graph's segmentation, which is a copy of its own; undo.py has the rule.

    save_folder: where `save` writes to, made when it is needed.
    """

    def __init__(self, graph: GraphActions, save_folder: Path) -> None:
        self._graph, self._save_folder = graph, save_folder

    def on_rename(self, client: SlicerClient, message: ipp.Message) -> None:
        self._edit(client, message, SegmentEdit("rename", message["name"], new_name=message["new_name"]))

    def on_recolor(self, client: SlicerClient, message: ipp.Message) -> None:
        self._edit(client, message, SegmentEdit("recolor", message["name"], color=tuple(message["color"])))

    def on_remove(self, client: SlicerClient, message: ipp.Message) -> None:
        self._edit(client, message, SegmentEdit("remove", message["name"]))

    def _edit(self, client: SlicerClient, message: ipp.Message, edit: SegmentEdit) -> None:
        self._graph.edit_segment(edit, client.name, self._volume_of(client), client.done(message))

    def on_undo(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.undo(client.graph_names, self._volume_of(client), client.done(message))

    def on_redo(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.redo(self._volume_of(client), client.done(message))

    def on_save(self, client: SlicerClient, message: ipp.Message) -> None:
        name, volume_uid = message["name"], self._volume_of(client)
        if Path(name).name != name or name.startswith("."):
            raise ipp.ProtocolError(
                f"{name!r} is no bare file name; the bridge saves into {self._save_folder} alone."
            )
        try:
            self._save_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VolumeError(f"The folder {self._save_folder} cannot be made ({error.strerror}).") from None
        self._graph.save(self._save_folder / name, volume_uid, client.done(message))

    def _volume_of(self, client: SlicerClient) -> str:
        """Raises VolumeError where it is not known: the volume that was loaded last may be another client's."""
        if not client.volume_uid and self._graph.volumes:
            raise VolumeError("The bridge does not know your volume yet; load it, or mark on it, first.")
        return client.volume_uid
