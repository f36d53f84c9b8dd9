# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Has a server that was restarted load the volumes again that its clients loaded.

In:   volumes (VolumeList, latched)
Uses: load_volume, load_picture
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rclpy.node import Node
from rclpy.task import Future
from samm_msgs.msg import VolumeList
from samm_msgs.srv import LoadPicture, LoadVolume
from sensor_msgs.msg import Image

from samm_core.errors import VolumeError
from samm_core.sources.volume import LoadedVolume

from .. import conversions, topics
from .services import RestartedServer

# Longer than a volume may take to be read. A server that died is known by its mark: nobody waits for its answer.
REQUEST_AGAIN_S = 150.0


class VolumeReloader:
    """Knows which volumes are loaded. Call `tick` often. Its methods and callbacks run on the executor's thread.

    on_volumes: the server has these volumes, the one that was loaded last first; it was restarted and is loading those
    again; and the uid of the one that was loaded last, which may be among either. on_none: it has none, and loads none;
    why, or an empty sentence. on_problem: a sentence. picture_of: a picture by its uid, which no file holds; None: it is gone.
    """

    def __init__(
        self,
        node: Node,
        on_volumes: Callable[[list[LoadedVolume], list[LoadedVolume], str], None],
        on_none: Callable[[str], None],
        on_problem: Callable[[str], None],
        picture_of: Callable[[str], Image | None] = lambda uid: None,
    ) -> None:
        self._node = node
        self._picture_of = picture_of
        self._on_changed, self._on_none, self._on_problem = on_volumes, on_none, on_problem
        self._server = ""
        self._held: list[LoadedVolume] = []
        self._why_none = ""
        # What was loaded before the server was restarted, the one that was loaded last first.
        self._known: list[LoadedVolume] = []
        # What it has yet to load, in this order.
        self._lost: list[LoadedVolume] = []
        self._requested: LoadedVolume | None = None
        self._requested_at = 0.0
        self._load_volume = RestartedServer(node, node.create_client(LoadVolume, topics.LOAD_VOLUME))
        self._load_picture = RestartedServer(node, node.create_client(LoadPicture, topics.LOAD_PICTURE))
        node.create_subscription(VolumeList, topics.VOLUMES, self._on_volumes, topics.LATCHED)

    @property
    def is_waiting(self) -> bool:
        """Whether `tick` has anything to request, now or later."""
        return bool(self._lost)

    def tick(self) -> None:
        """Request the volume that comes next, as soon as there is a server, until there is an answer."""
        if not self._lost:
            return
        lost, server = self._lost[0], self._server
        service = self._load_volume if lost.uri else self._load_picture
        if not service.is_ready():
            return
        if self._requested is lost and time.monotonic() - self._requested_at < REQUEST_AGAIN_S:
            return
        self._node.get_logger().info(f"The server came back without {lost.name}; it is loaded again")
        window = {"window_lower": lost.window.lower, "window_upper": lost.window.upper}
        if lost.uri:
            request = LoadVolume.Request(path=lost.uri, **window)
        else:
            picture = self._picture_of(lost.uid) or Image()
            request = LoadPicture.Request(picture=picture, name=lost.name, **window)
        self._requested, self._requested_at = lost, time.monotonic()
        service.client.call_async(request).add_done_callback(
            lambda future: self._on_answer(future, lost, server)
        )

    def _on_volumes(self, message: VolumeList) -> None:
        try:
            self._held = conversions.volumes_from_msg(message)
        except VolumeError as error:
            self._on_problem(str(error))
            return
        self._why_none = message.error
        for service in (self._load_volume, self._load_picture):
            service.heard(is_new=message.server != self._server)
        if message.server != self._server:
            self._server, self._requested = message.server, None
            self._lost = self._lost_by_restart()
        self._tell()
        self.tick()

    def _lost_by_restart(self) -> list[LoadedVolume]:
        """What a new server must load, in this order, to have what the former one had."""
        there = {_identity(volume) for volume in self._held}
        # What the former one had loaded by itself, the new one has replaced by its own.
        wanted = [volume for volume in self._known if not (volume.at_start and self._held)]
        wanted = [volume for volume in wanted if volume.uri or self._picture_of(volume.uid)]
        lost = [volume for volume in reversed(wanted) if _identity(volume) not in there]
        first = self._known[:1]
        if first and first[0] in wanted and (lost or _identity(first[0]) != _identity(self._held[0])):
            # What was loaded last is loaded last again: prompts that name no volume are for that one.
            lost = [volume for volume in lost if volume is not first[0]] + first
        return lost

    def _on_answer(self, future: Future, volume: LoadedVolume, server: str) -> None:
        if server != self._server or not self._lost or self._lost[0] is not volume:
            return
        self._lost.pop(0)
        answer = future.result()
        if answer.success:
            # The answer may overtake what the server tells of it. Its content may be another by now.
            loaded = conversions.volume_from_msg(answer.volume)
            if loaded.uid not in {each.uid for each in self._held}:
                self._held.insert(0, loaded)
        else:
            # Whoever still works on it is told so, prompt by prompt.
            self._on_problem(f"{volume.name} cannot be loaded again: {answer.message}")
        self._tell()
        self.tick()

    def _tell(self) -> None:
        # Back by itself, it is still one that a client loaded.
        by_client = {_identity(volume) for volume in self._known if not volume.at_start}
        held = [
            replace(volume, at_start=volume.at_start and _identity(volume) not in by_client)
            for volume in self._held
        ]
        names = {volume.uid for volume in held}
        lost = [volume for volume in self._lost if volume.uid not in names]
        if self._lost:
            uids = {volume.uid for volume in self._known}
            self._known = [volume for volume in held if volume.uid not in uids] + self._known
        else:
            self._known = held
        last = self._lost[-1].uid if self._lost else held[0].uid if held else ""
        if held or lost:
            self._on_changed(held, lost, last)
        else:
            self._on_none(self._why_none)


def _identity(volume: LoadedVolume) -> tuple[str, float, float]:
    return volume.uid, volume.window.lower, volume.window.upper
