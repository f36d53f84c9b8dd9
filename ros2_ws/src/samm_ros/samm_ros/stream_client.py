# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A live stream from a Python program: mark objects, and get their masks for every image.

from samm_core.prompts import pixel_box
from samm_core.geometry import Plane
from samm_ros.stream_client import StreamClient

with StreamClient(on_masks=lambda tracks, labels: print(tracks.tracks, labels.shape)) as stream:
    stream.mark("liver", pixel_box(Plane.AXIAL, 0, 30, 40, 120, 130))
    ...
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from samm_msgs.msg import Tracks
from samm_msgs.srv import EditTracks
from sensor_msgs.msg import Image

from samm_core.cycle.request import ClientPrompt, CycleCounter
from samm_core.errors import LaunchError, PromptError
from samm_core.prompts import Prompt

from . import conversions, topics
from .support import shared_memory
from .support.direct import DirectSubscription
from .support.images import array_from_image
from .support.services import response_to
from .support.world import stamp_ns

# Tracks that wait for the label image of theirs.
_KEPT = 8


class StreamClient:
    """A node of its own, in a context of its own; a context manager. Thread-safe.

    on_masks: called on a thread of its own with the tracks of each image and its labels, (H, W) uint8; None: label images
    are not received.
    """

    def __init__(
        self,
        namespace: str = "",
        client_id: str = "",
        on_masks: Callable[[Tracks, np.ndarray], None] | None = None,
    ) -> None:
        self.client_id = client_id or f"stream-{uuid.uuid4().hex[:8]}"
        self._changed = threading.Condition()
        self._newest: Tracks | None = None
        self._by_stamp: dict[int, Tracks] = {}
        self._on_masks = on_masks
        self._cycles = CycleCounter()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = Node(f"stream_client_{uuid.uuid4().hex[:8]}", namespace=namespace, context=self._context)
        shared_memory.keep_private()
        self._edit = self._node.create_client(EditTracks, topics.EDIT_TRACKS)
        self._subscriptions = [
            DirectSubscription(self._node, Tracks, topics.TRACKS, self._on_tracks, topics.OF_A_STREAM)
        ]
        if on_masks:
            self._subscriptions.append(
                DirectSubscription(self._node, Image, topics.LABEL_IMAGE, self._on_labels, topics.OF_A_STREAM)
            )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="stream client", daemon=True)
        self._thread.start()

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the node and its threads; what is followed stays."""
        for subscription in self._subscriptions:
            subscription.destroy()
        self._executor.shutdown(1.0)
        self._thread.join(2.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    @property
    def newest(self) -> Tracks | None:
        """What is followed at the newest image; None before there is one."""
        with self._changed:
            return self._newest

    def mark(self, name: str, prompt: Prompt, stamp: Time | None = None, timeout_s: float = 60.0) -> int:
        """Mark an object, or correct one that has this name; the cycle that its track will name.

        prompt: in pixels of the image as it came; its plane and slice are not read. stamp: of the image that was marked;
        None: the newest. Raises PromptError with the graph's sentence when refused.
        """
        cycle = self._cycles.next()
        given = ClientPrompt.of(prompt, self.client_id, name)
        message = conversions.prompt_to_msg(given)
        message.cycle = cycle
        message.header.stamp = stamp or Time()
        self._call(EditTracks.Request(edit=EditTracks.Request.PROMPT, prompt=message), timeout_s)
        return cycle

    def rename(self, name: str, new_name: str, timeout_s: float = 60.0) -> None:
        """Raises PromptError for a name that is unknown, or taken."""
        self._call(
            EditTracks.Request(edit=EditTracks.Request.RENAME, name=name, new_name=new_name), timeout_s
        )

    def remove(self, name: str = "", timeout_s: float = 60.0) -> None:
        """Follow an object no longer; empty: none of them. Raises PromptError for an unknown name."""
        self._call(EditTracks.Request(edit=EditTracks.Request.REMOVE, name=name), timeout_s)

    def wait_for(self, condition: Callable[[Tracks], bool], what: str, timeout_s: float = 60.0) -> Tracks:
        """The first tracks that satisfy `condition`, those that are there or to come. Raises LaunchError after the timeout."""

        def found() -> Tracks | None:
            return self._newest if self._newest and condition(self._newest) else None

        with self._changed:
            tracks = self._changed.wait_for(found, timeout_s)
            if not tracks:
                raise LaunchError(f"Waited in vain for {what}; see `tracks`, and the logs of the nodes.")
            return tracks

    def _call(self, request: EditTracks.Request, timeout_s: float) -> None:
        response = None
        if self._edit.wait_for_service(timeout_s):
            response = response_to(self._edit, request, timeout_s)
        if response is None:
            raise LaunchError("Waited in vain for edit_tracks; see the logs of the nodes.")
        if not response.success:
            raise PromptError(response.message)

    def _on_tracks(self, message: Tracks) -> None:
        with self._changed:
            self._newest = message
            self._by_stamp[stamp_ns(message.header)] = message
            while len(self._by_stamp) > _KEPT:
                del self._by_stamp[next(iter(self._by_stamp))]
            self._changed.notify_all()

    def _on_labels(self, message: Image) -> None:
        # The two topics have a thread each: the labels may be here first.
        stamp = stamp_ns(message.header)
        with self._changed:
            self._changed.wait_for(lambda: stamp in self._by_stamp, 0.1)
            tracks = self._by_stamp.get(stamp)
        if tracks is not None:
            self._on_masks(tracks, array_from_image(message))

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()
