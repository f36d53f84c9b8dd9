# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Pictures that come with their prompts: kept, as no file holds them, and loaded by the server.

Uses: load_picture
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Collection

from rclpy.node import Node
from rclpy.task import Future
from samm_msgs.srv import LoadPicture
from sensor_msgs.msg import Image

from samm_core.sources.picture import picture_volume
from samm_core.sources.volume import LoadedVolume, Volume
from samm_core.sources.window import Window

from .. import topics
from .images import array_from_image

# The newest pictures are kept, so that a server that was started again gets them again; the newest one of any size.
MAX_KEPT = 8
MAX_KEPT_BYTES = 128 << 20
# A server takes a picture at once, or is gone.
_REQUEST_AGAIN_S = 10.0


def volume_from_image(message: Image) -> Volume:
    """A picture as a volume of one slice. Raises FrameError or VolumeError for what is none."""
    return picture_volume(array_from_image(message))


class Pictures:
    """The newest pictures, by the uid of the volume that each is."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Image, LoadedVolume]] = OrderedDict()
        # By a digest of the message: a picture that is marked again and again is looked at once.
        self._uids: dict[bytes, str] = {}

    def take(self, message: Image) -> LoadedVolume:
        """Keep a picture; the volume that it is, in the window that is chosen for it.

        Raises FrameError or VolumeError for what is none.
        """
        digest = _digest(message)
        uid = self._uids.get(digest)
        if uid is None:
            volume = volume_from_image(message)
            uid = self._uids[digest] = volume.uid
            described = LoadedVolume(uid, volume.name, volume.uri, volume.geometry, volume.window)
            self._kept[uid] = (message, described)
        self._kept.move_to_end(uid)
        while len(self._kept) > MAX_KEPT or (self._bytes() > MAX_KEPT_BYTES and len(self._kept) > 1):
            former, _ = self._kept.popitem(last=False)
            self._uids = {digest: uid for digest, uid in self._uids.items() if uid != former}
        return self._kept[uid][1]

    def image(self, uid: str) -> Image | None:
        """None: it is not kept, or was never a picture."""
        kept = self._kept.get(uid)
        return kept and kept[0]

    def _bytes(self) -> int:
        return sum(len(message.data) for message, _ in self._kept.values())


def _digest(message: Image) -> bytes:
    digest = hashlib.blake2b(message.data, digest_size=16)
    digest.update(message.encoding.encode(errors="replace"))
    digest.update(struct.pack("<IIIB", message.height, message.width, message.step, message.is_bigendian))
    return digest.digest()


class PictureLoader:
    """Has the server load pictures that it does not hold. Call `tick` often. All on the executor's thread, or under a lock.

    on_problem: a sentence, where the server refuses one.
    """

    def __init__(self, node: Node, pictures: Pictures, on_problem: Callable[[str], None]) -> None:
        self._pictures, self._on_problem = pictures, on_problem
        self._held: set[str] = set()
        # By uid, when it was requested last, monotonic; 0.0: it was not. And in which window.
        self._wanted: dict[str, float] = {}
        self._windows: dict[str, Window | None] = {}
        self._client = node.create_client(LoadPicture, topics.LOAD_PICTURE)

    def want(self, uid: str, window: Window | None) -> None:
        """Load a picture that is kept, unless the server holds it. window: None: chosen from the pixels.

        In the window that its prompt has, what the server embeds ahead is what is prompted on.
        """
        if uid not in self._held:
            self._wanted.setdefault(uid, 0.0)
            self._windows[uid] = window
            self.tick()

    def held(self, uids: Collection[str]) -> None:
        """The server holds these volumes, and no others."""
        self._held = set(uids)
        self._wanted = {uid: at for uid, at in self._wanted.items() if uid not in self._held}
        self._windows = {uid: window for uid, window in self._windows.items() if uid in self._wanted}

    @property
    def is_waiting(self) -> bool:
        """Whether `tick` has anything to request, now or later."""
        return bool(self._wanted)

    def tick(self) -> None:
        """Request what is wanted, as soon as there is a server."""
        if not self._wanted or not self._client.service_is_ready():
            return
        now = time.monotonic()
        for uid, requested_at in list(self._wanted.items()):
            image = self._pictures.image(uid)
            if image is None:
                del self._wanted[uid]
            elif not requested_at or now - requested_at >= _REQUEST_AGAIN_S:
                self._wanted[uid] = now
                request = LoadPicture.Request(picture=image)
                if window := self._windows.get(uid):
                    request.window_lower, request.window_upper = window.lower, window.upper
                future = self._client.call_async(request)
                future.add_done_callback(lambda future, uid=uid: self._on_answer(uid, future))

    def _on_answer(self, uid: str, future: Future) -> None:
        answer = future.result()
        if not answer.success:
            self._wanted.pop(uid, None)
            self._on_problem(answer.message)
