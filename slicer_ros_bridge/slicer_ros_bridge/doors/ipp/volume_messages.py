# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""IPP/2's messages about volumes: `volume`, `chunk` and `window`. Runs on the doors' thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from samm_core import ipp
from samm_core.errors import VolumeError
from samm_core.sources.base import not_loaded
from samm_core.sources.volume import LoadedVolume
from samm_core.sources.window import Window

from ...graph_actions import GraphActions
from ...volumes import VolumeDescription, VolumeStore
from ...worker import Worker
from .clients import SlicerClient, Upload

# Dragging a window sends many: the graph is told once it has rested this long.
WINDOW_REST_S = 0.2


@dataclass(frozen=True, eq=False)
class _WantedWindow:
    """came_at: time.monotonic()."""

    came_at: float
    client: SlicerClient
    message: ipp.Message


class VolumeMessages:
    """What becomes of a volume: taken in by the store (on the worker's thread), then loaded by the graph."""

    def __init__(self, graph: GraphActions, store: VolumeStore, worker: Worker) -> None:
        self._graph, self._store, self._worker = graph, store, worker
        # By the name of its client.
        self._wanted_windows: dict[str, _WantedWindow] = {}

    def on_volume(self, client: SlicerClient, message: ipp.Message) -> None:
        description = VolumeDescription(
            message["key"],
            message["name"],
            tuple(message["shape_kji"]),
            message["components"],
            message["dtype"],
            np.reshape(np.array(message["ijk_to_ras"], np.float64), (4, 4)),
        )
        upload = Upload(description, Window(*message["window"]) if message["window"] else None, message)
        file = message["file"]
        if path := self._store.find(description):
            if file:
                self._store.discard(file)
            self._load(client, upload, path)
        elif file:
            self._take(client, upload, lambda: self._store.take(description, file))
        else:
            client.upload = upload
            self._ask_for_chunk(client, upload)

    def on_chunk(self, client: SlicerClient, message: ipp.Message) -> None:
        upload = client.upload
        if upload is None or upload.description.key != message["key"]:
            raise ipp.ProtocolError("No such volume is being sent; send its description first.")
        try:
            self._store.append(upload.description, message["offset"], message.buffer, message["crc32"])
        except VolumeError as error:
            client.refuse(None, str(error))
        self._ask_for_chunk(client, upload)

    def _ask_for_chunk(self, client: SlicerClient, upload: Upload) -> None:
        """Ask for the next bytes; without any left, take the volume in."""
        description = upload.description
        offset = self._store.offset(description)
        if offset < description.nbytes:
            client.reply(upload.request, "volume_wanted", key=description.key, offset=offset)
            return
        client.upload = None
        self._take(client, upload, lambda: self._store.finish(description))

    def _take(self, client: SlicerClient, upload: Upload, take: Callable[[], Path]) -> None:
        def taken(path: Path | None, why: str) -> None:
            if path is None:
                client.refuse(upload.request, why)
            else:
                self._load(client, upload, path)

        self._worker.do(take, taken)

    def _load(self, client: SlicerClient, upload: Upload, path: Path) -> None:
        window = upload.window
        loaded = next((v for v in self._graph.volumes.values() if v.uri == str(path)), None)
        if loaded and (window is None or loaded.window == window):
            self._loaded(client, upload.request, loaded)
            return

        def done(volume: LoadedVolume | None, why: str) -> None:
            if volume is None:
                client.refuse(upload.request, why)
                return
            self._loaded(client, upload.request, volume)
            self._store.evict({path, *(Path(each.uri) for each in self._graph.volumes.values())})

        self._graph.load_volume(path, window, done)

    def _loaded(self, client: SlicerClient, request: ipp.Message, volume: LoadedVolume) -> None:
        """The client works on this volume from now on, whatever others load."""
        client.work_on(volume.uid, volume.window)
        client.volume_server = self._graph.server
        self._wanted_windows.pop(client.name, None)
        client.told_volume = self.fields(volume)
        client.reply(request, "volume", **client.told_volume)

    def on_window(self, client: SlicerClient, message: ipp.Message) -> None:
        Window(*message["window"])
        if message["uid"] not in self._graph.volumes:
            raise VolumeError("The window is for a volume that the graph has not loaded; load it first.")
        older = self._wanted_windows.get(client.name)
        if older and older.message.get("id") is not None:
            older.client.reply(older.message, "done", text="A newer window took its place.")
        self._wanted_windows[client.name] = _WantedWindow(time.monotonic(), client, message)

    def tick(self) -> None:
        """Set the windows that have rested; call some times a second."""
        for name, wanted in list(self._wanted_windows.items()):
            if time.monotonic() - wanted.came_at >= WINDOW_REST_S:
                del self._wanted_windows[name]
                self._set_window(wanted)

    def _set_window(self, wanted: _WantedWindow) -> None:
        client, message = wanted.client, wanted.message
        volume = self._graph.volumes.get(message["uid"])
        if volume is None:
            client.refuse(message, not_loaded(message["uid"]))
            return
        window = Window(*message["window"])
        client.work_on(volume.uid, window)
        if window == volume.window:
            client.reply(message, "done", text="The window is that already.")
            return
        if volume is not next(iter(self._graph.volumes.values())):
            # To load it again would make it the one loaded last, for those whose prompts name none.
            client.reply(message, "done", text="The window is set.")
            self.tell(client)
            return
        self._graph.load_volume(Path(volume.uri), window, client.done(message, "The window is set."))

    def tell(self, client: SlicerClient) -> None:
        """Tell a client of the volume that it works on: its own, or else the one that was loaded last."""
        if not client.volume_uid and len(self._graph.volumes) == 1:
            client.work_on(next(iter(self._graph.volumes)))
        self._note_server(client)
        client.told_volume = self._fields_for(client)
        client.tell("volume", **client.told_volume)

    def tell_if_changed(self, client: SlicerClient) -> None:
        # It is told nothing where the server was restarted and has the same volume again.
        self._note_server(client)
        if self._fields_for(client) != client.told_volume:
            self.tell(client)

    def _note_server(self, client: SlicerClient) -> None:
        if client.volume_uid in self._graph.volumes:
            client.volume_server = self._graph.server

    def _fields_for(self, client: SlicerClient) -> dict[str, Any]:
        volumes = self._graph.volumes
        volume = volumes.get(client.volume_uid)
        if volume:
            return self.fields(replace(volume, window=client.window) if client.window else volume)
        if client.volume_uid and client.volume_server != self._graph.server:
            # Nobody took its place: the server was restarted, and the client is to send it again.
            return self.fields(None)
        return self.fields(next(iter(volumes.values()), None))

    def fields(self, volume: LoadedVolume | None) -> dict[str, Any]:
        """Of the bridge's message `volume`; its uid is empty for None."""
        if volume is None:
            nothing = {"uid": "", "key": "", "name": "", "dimensions": [0, 0, 0]}
            return {**nothing, "ijk_to_ras": np.eye(4).ravel().tolist(), "window": [0.0, 0.0]}
        return {
            "uid": volume.uid,
            "key": self._store.key_of(volume.uri),
            "name": volume.name[: ipp.MAX_TEXT],
            "dimensions": list(volume.geometry.dimensions),
            "ijk_to_ras": volume.geometry.ijk_to_ras.ravel().tolist(),
            "window": [volume.window.lower, volume.window.upper],
            "window_reason": volume.window_reason[: ipp.MAX_TEXT],
            "warnings": [warning[: ipp.MAX_TEXT] for warning in volume.warnings[: ipp.MAX_WARNINGS]],
        }
