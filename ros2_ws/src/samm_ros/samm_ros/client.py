# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The Python API of a running graph: load a volume, prompt, undo, save, follow the status; every wait has a limit.

with GraphClient() as client:
    client.load("liver.nii.gz")
    answer = client.prompt(pixel_points(Plane.AXIAL, 42, [(95, 80)]), "liver")
    client.save("liver.seg.nrrd")
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Vector3
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from samm_msgs import msg
from samm_msgs.action import EmbedVolume, SegmentVolume
from samm_msgs.srv import (
    EditSegments,
    GetPrompts,
    LoadPicture,
    LoadVolume,
    SaveSegmentation,
    UndoChange,
    WorkFile,
)
from sensor_msgs.msg import Image

from samm_core.cycle.pending import CycleProgress, PendingPrompts
from samm_core.cycle.request import STILL_WAITING, Answer, ClientPrompt
from samm_core.errors import LaunchError, MaskError, PromptError, SammError, VolumeError
from samm_core.geometry import Plane
from samm_core.latency.events import TaskEvent, event_of
from samm_core.prompts import Prompt
from samm_core.saved_work import load_work
from samm_core.sources.base import not_loaded
from samm_core.sources.picture import PICTURE, picture_volume
from samm_core.sources.volume import LoadedVolume, Volume
from samm_core.sources.window import Window

from . import conversions, topics
from .support import shared_memory
from .support.goals import Goal
from .support.images import image_to_msg
from .support.publishing import stamped
from .support.services import response_to

CHECK_S = 0.5
# How many of the newest events are kept: five for each of 20,000 cycles.
EVENTS = 100_000


class GraphClient:
    """One client of the graph in `namespace`; a context manager. Every wait has a limit and raises LaunchError at it.

    It works on the volume that it loaded last, whatever other clients load; before its first load, on the volume that
    anybody loaded last. `status`, `segmentation` and `events` are what the graph has said: how much is embedded, what is
    applied, how each task ended.
    """

    def __init__(
        self, namespace: str = "", client_id: str = "", check: Callable[[], None] = lambda: None
    ) -> None:
        """client_id: names this client to the graph; empty: by host, process and chance.

        check: called while waiting; raises when the graph cannot be waited for any more.
        """
        self.client_id = client_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._check = check
        self.events: deque[TaskEvent] = deque(maxlen=EVENTS)
        self.status: msg.EmbeddingStatus | None = None
        self.segmentation: msg.SegmentationStatus | None = None
        # The one that this client works on, whatever others load.
        self.volume: LoadedVolume | None = None
        # Guards what the executor's thread and the caller's share.
        self._changed = threading.Condition()
        self._pending = PendingPrompts(self._publish)
        self._cycles: dict[str, CycleProgress] = {}
        self._on_task_mask: Callable[[msg.SliceMask], None] = lambda mask: None
        self._ended_tasks: deque[str] = deque(maxlen=16)
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = Node(
            f"samm_client_api_{uuid.uuid4().hex[:8]}", namespace=namespace, context=self._context
        )
        shared_memory.keep_private()
        self._prompts = self._node.create_publisher(msg.Prompt, topics.PROMPTS, topics.NEWEST)
        self._picture_prompts = self._node.create_publisher(
            msg.PicturePrompt, topics.PICTURE_PROMPTS, topics.PICTURES
        )
        # The picture of the newest prompt that brings one, and its uid; empty: the newest prompt brings none.
        self._picture: tuple[str, Image] = ("", Image())
        self._load = self._node.create_client(LoadVolume, topics.LOAD_VOLUME)
        self._load_picture = self._node.create_client(LoadPicture, topics.LOAD_PICTURE)
        self._save = self._node.create_client(SaveSegmentation, topics.SAVE_SEGMENTATION)
        self._undo = self._node.create_client(UndoChange, topics.UNDO)
        self._redo = self._node.create_client(UndoChange, topics.REDO)
        self._save_work = self._node.create_client(WorkFile, topics.SAVE_WORK)
        self._open_work = self._node.create_client(WorkFile, topics.OPEN_WORK)
        self._get_prompts = self._node.create_client(GetPrompts, topics.GET_PROMPTS)
        self._edit = self._node.create_client(EditSegments, topics.EDIT_SEGMENTS)
        self._embed = ActionClient(self._node, EmbedVolume, topics.EMBED_VOLUME)
        self._segment = ActionClient(self._node, SegmentVolume, topics.SEGMENT_VOLUME)
        subscribe = self._node.create_subscription
        subscribe(msg.SliceMask, topics.RECEIVED_MASKS, self._on_answer, topics.OF_ALL_CLIENTS)
        subscribe(msg.TaskMask, topics.TASK_MASKS, self._on_task, topics.TASKS)
        subscribe(msg.TaskEvent, topics.TASK_EVENTS, self._on_event, topics.EVENTS)
        subscribe(msg.EmbeddingStatus, topics.EMBEDDING_STATUS, self._on_status, topics.LATCHED)
        subscribe(msg.SegmentationStatus, topics.SEGMENTATION_STATUS, self._on_segmentation, topics.LATCHED)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(timeout=1.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def load(self, path: Path | str, window_preset: str = "", timeout_s: float = 120.0) -> LoadedVolume:
        """Make the graph load a volume and wait until its client side knows it; raises VolumeError when refused.

        path: on the server's host; a relative one is taken from here.
        """
        request = LoadVolume.Request(path=str(Path(path).absolute()), window_preset=window_preset)
        return self._load_volume(request, timeout_s)

    def _load_volume(self, request: LoadVolume.Request, timeout_s: float) -> LoadedVolume:
        return self._have_loaded(self._load, request, timeout_s)

    def load_picture(
        self,
        pixels: np.ndarray,
        name: str = "picture",
        window: Window | None = None,
        timeout_s: float = 120.0,
    ) -> LoadedVolume:
        """Make the graph load a picture as a volume of one axial slice; this client works on it then, as after `load`.

        pixels: (H, W) uint8 or uint16, or (H, W, 3) or (H, W, 4) uint8, RGB and alpha, which is left out. window: of grey;
        None: chosen from the pixels. Raises VolumeError when refused.
        """
        request = LoadPicture.Request(picture=_picture_msg(picture_volume(pixels)), name=name)
        if window:
            request.window_lower, request.window_upper = window.lower, window.upper
        return self._have_loaded(self._load_picture, request, timeout_s)

    def _have_loaded(
        self, client: Client, request: LoadVolume.Request | LoadPicture.Request, timeout_s: float
    ) -> LoadedVolume:
        deadline = time.monotonic() + timeout_s
        while not client.wait_for_service(CHECK_S):
            self._check()
            self._wait(time.monotonic() < deadline, "the server to come up")
        response = self._call(client, request, timeout_s)
        if not response.success:
            raise VolumeError(response.message)
        volume = conversions.volume_from_msg(response.volume)
        self.wait_for(
            lambda: self.segmentation_of(volume.uid) is not None,
            "the client nodes to hear of the volume",
            timeout_s,
        )
        self.volume = volume
        return volume

    def segmentation_of(self, volume_uid: str) -> msg.VolumeSegmentation | None:
        """What segmentation_status said of a volume last."""
        volumes = self.segmentation.volumes if self.segmentation else []
        return next((each for each in volumes if each.volume_uid == volume_uid), None)

    def prompt(
        self, prompt: Prompt, segment: str = "", timeout_s: float = 120.0, choice: int | None = None
    ) -> Answer:
        """Publish a prompt and wait for its answer; raises PromptError with the graph's sentence when refused.

        segment: what the mask is applied to, made when it is new; empty: the active one. choice: which of the masks that
        the model proposes, 0 the best by its score, 1 the second best, below the answer's `choices`; None: the prompt's.
        """
        if choice is not None:
            prompt = replace(prompt, choice=choice)
        window = self.volume.window if self.volume else None
        given = ClientPrompt.of(prompt, self.client_id, segment, self._uid, window)
        self._picture = ("", Image())
        return self._answer_to(given, timeout_s)

    def prompt_picture(
        self,
        pixels: np.ndarray,
        prompt: Prompt,
        segment: str = "",
        window: Window | None = None,
        timeout_s: float = 120.0,
    ) -> Answer:
        """Publish a prompt together with its picture, and wait for its answer; this client works on the picture then.

        pixels: as load_picture takes them; nothing needs to be loaded before, and the same picture again costs no encoding.
        prompt: in pixels; its plane and slice are not read. Raises VolumeError for what is no picture, and PromptError with
        the graph's sentence when refused.
        """
        volume = picture_volume(pixels, window=window)
        on_picture = replace(prompt, plane=PICTURE.plane, slice_index=PICTURE.index)
        given = ClientPrompt.of(on_picture, self.client_id, segment, volume.uid, volume.window)
        self._picture = (volume.uid, _picture_msg(volume))
        self.volume = LoadedVolume(volume.uid, volume.name, volume.uri, volume.geometry, volume.window)
        try:
            return self._answer_to(given, timeout_s)
        except PromptError as error:
            # It was let go of a moment before, and SND_INF took it for loaded: it has heard of that by now.
            if str(error) != not_loaded(volume.uid):
                raise
            return self._answer_to(given, timeout_s)

    def _answer_to(self, given: ClientPrompt, timeout_s: float) -> Answer:
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        deadline = time.monotonic() + timeout_s
        with self._changed:
            progress = self._cycles.get(self.client_id, CycleProgress())
            self._pending.put(given, answers.put, beyond=max(progress.requested, progress.settled))
        try:
            while (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    answer = answers.get(timeout=min(left, CHECK_S))
                    if not answer.error:
                        return answer
                    if not answer.error.startswith(STILL_WAITING):
                        raise PromptError(answer.error)
                self._check()
                with self._changed:
                    self._pending.resend(self._cycles)
        finally:
            with self._changed:
                self._pending.forget(self.client_id)
        raise LaunchError(f"There was no mask within {timeout_s:g} s; see the logs of the nodes.")

    def prompts_of(self, segment: str = "") -> list[Prompt]:
        """What was marked last on each slice of a segment, in pixels, that of the newest mask last.

        segment: empty: the active one. Raises MaskError when there is none of that name.
        """
        response = self._call(
            self._get_prompts, GetPrompts.Request(segment=segment, volume_uid=self._uid), 60.0
        )
        if not response.success:
            raise MaskError(response.message)
        return [conversions.prompt_from_msg(each).prompt for each in response.prompts]

    def undo(self) -> None:
        """Take back the last change of this client's volume. Raises MaskError when there is none."""
        self._change(self._undo)

    def redo(self) -> None:
        """Make the change again that was taken back last. Raises MaskError when there is none."""
        self._change(self._redo)

    def edit_segments(self, edit: int, segment: str = "", **fields: object) -> None:
        """Rename, recolour, remove, reorder, freeze: as EditSegments.srv says. Raises MaskError for what cannot be."""
        request = EditSegments.Request(edit=edit, segment=segment, volume_uid=self._uid, **fields)
        self._wait(self._edit.wait_for_service(60.0), self._edit.srv_name)
        # Made once, as undo is.
        response = self._result(self._edit.call_async(request), 60.0)
        if not response.success:
            raise MaskError(response.message)

    def _change(self, client: Client) -> None:
        self._wait(client.wait_for_service(60.0), client.srv_name)
        # Made once: a second request would take back a second change.
        response = self._result(client.call_async(UndoChange.Request(volume_uid=self._uid)), 60.0)
        if not response.success:
            raise MaskError(response.message)

    @property
    def _uid(self) -> str:
        return self.volume.uid if self.volume else ""

    def propagate(
        self,
        marks: Sequence[Prompt | Answer],
        segment: str = "",
        first: int = 0,
        last: int = -1,
        frozen: Sequence[int] = (),
        on_slice: Callable[[Answer], bool | None] = lambda answer: None,
        timeout_s: float = 600.0,
    ) -> SegmentVolume.Result:
        """Carry marked slices both ways through the volume, each until the structure ends; all of it is one undo step.

        marks: one per marked slice, in one plane: a prompt, or an answer, whose mask is then kept as it is. first, last: the slices to segment; -1: to the volume's end. frozen:
        slices that are not written. on_slice is called with each mask as it comes, on another thread; it returns False to
        cancel, which keeps what is done.

        Returns when all is applied; `stopped` says where and why each side stopped. Raises PromptError when refused.
        """
        prompts = [each for each in marks if isinstance(each, Prompt)]
        answers = [each for each in marks if isinstance(each, Answer)]
        planes = [each.plane for each in prompts] + [each.image.key.plane for each in answers]
        goal = SegmentVolume.Goal(
            task=SegmentVolume.Goal.PROPAGATE,
            client_id=self.client_id,
            segment=segment,
            volume_uid=self._uid,
            plane=int(next(iter(planes), Plane.AXIAL)),
            first=first,
            last=last,
            prompts=[conversions.prompt_to_msg(ClientPrompt.of(each)) for each in prompts],
            masks=[conversions.answer_to_msg(each, 0, Time()) for each in answers],
            frozen=list(frozen),
        )
        return self.segment_volume(goal, on_slice, timeout_s)

    def segment_box(
        self,
        corner_ras: Sequence[float],
        opposite_ras: Sequence[float],
        segment: str = "",
        plane: Plane = Plane.AXIAL,
        on_slice: Callable[[Answer], bool | None] = lambda answer: None,
        timeout_s: float = 600.0,
    ) -> SegmentVolume.Result:
        """Segment what a box holds, given by two opposite corners in RAS millimetres, on the slices of a plane."""
        # Messages take no whole numbers for these.
        corners = np.array([corner_ras, opposite_ras], np.float64)
        low, high = corners.min(axis=0), corners.max(axis=0)
        x, y, z = ((low + high) / 2).tolist()
        goal = SegmentVolume.Goal(
            task=SegmentVolume.Goal.BOX,
            client_id=self.client_id,
            segment=segment,
            volume_uid=self._uid,
            plane=int(plane),
            last=-1,
            box_centre=Point(x=x, y=y, z=z),
            box_size=Vector3(**dict(zip("xyz", (high - low).tolist(), strict=True))),
        )
        return self.segment_volume(goal, on_slice, timeout_s)

    def segment_everything(
        self, plane: Plane, index: int, name: str = "auto", timeout_s: float = 600.0
    ) -> SegmentVolume.Result:
        """Segment everything on one slice, each thing as a segment whose name begins with `name`; the largest is 1."""
        goal = SegmentVolume.Goal(
            task=SegmentVolume.Goal.AUTOMATIC,
            client_id=self.client_id,
            segment=name,
            volume_uid=self._uid,
            plane=int(plane),
            first=index,
        )
        return self.segment_volume(goal, timeout_s=timeout_s)

    def segment_volume(
        self,
        goal: SegmentVolume.Goal,
        on_slice: Callable[[Answer], bool | None] = lambda answer: None,
        timeout_s: float = 600.0,
    ) -> SegmentVolume.Result:
        """Run any task of SegmentVolume; see propagate. It ends when this client is gone, killed or not."""
        goal.client_node = self._node.get_fully_qualified_name()
        self._wait(self._segment.wait_for_server(timeout_s), "the action segment_volume")

        seen: set[int] = set()

        def heard(mask: msg.SliceMask) -> None:
            # What is only told to be under way has no mask. Feedback may lose masks of a burst; the topic may be discovered
            # after the first.
            if mask.client_id != self.client_id or mask.cycle in seen:
                return
            seen.add(mask.cycle)
            if on_slice(conversions.answer_from_msg(mask)) is False:
                sent.cancel()

        self._on_task_mask = heard
        sent = Goal(self._node, self._segment, goal, lambda feedback: heard(feedback.mask))
        result = self._result(sent.ended, timeout_s)
        if result is None:
            raise PromptError("The server does not take tasks now; see its log.")
        if not (result.success or result.slices):
            raise PromptError(result.message)
        self.wait_for(
            lambda: self.segmentation is not None and result.id in self.segmentation.ended_tasks,
            "the masks to be applied",
            timeout_s,
        )
        with self._changed:
            self._changed.wait_for(lambda: result.id in self._ended_tasks, CHECK_S)
        return result

    def embed(
        self, planes: list[Plane], on_status: Callable[[msg.EmbeddingStatus], None], limit_s: float
    ) -> None:
        """Embed whole planes, for at most `limit_s`; what is embedded by then stays. Raises PromptError when refused."""
        goal = EmbedVolume.Goal(planes=[int(plane) for plane in planes], volume_uid=self._uid)
        self._wait(self._embed.wait_for_server(limit_s), "the embedding action")
        sent = Goal(self._node, self._embed, goal, lambda feedback: on_status(feedback.status))
        try:
            result = self._result(sent.ended, limit_s)
        except LaunchError:
            sent.cancel()
            self._result(sent.ended, 30.0)
            return
        if result is None:
            raise PromptError("The embedding node does not take goals now; see its state.")
        if not result.success:
            raise PromptError(result.message)

    def save(self, path: Path | str) -> None:
        """Write the segmentation of this client's volume; the suffix says how. Raises MaskError when the graph refuses."""
        response = self._call(
            self._save,
            SaveSegmentation.Request(path=str(Path(path).absolute()), volume_uid=self._uid),
            60.0,
        )
        if not response.success:
            raise MaskError(response.message)

    def save_work(self, path: Path | str) -> None:
        """Write this client's volume's segments, their names, colours, frozen slices and prompts to a file ending in .samm.

        Raises MaskError.
        """
        self._file(self._save_work, path)

    def open_work(self, path: Path | str) -> LoadedVolume:
        """Load the volume that a file of `save_work` is of, in its window, and make the file's segments its own.

        The model stays, for others may work with it: load_work says which one the file's was.
        Raises MaskError for a file that is none, or whose volume has changed, and VolumeError where it is gone.
        """
        work = load_work(Path(path), with_voxels=False)
        volume = self._load_volume(
            LoadVolume.Request(
                path=work.source_uri, window_lower=work.window.lower, window_upper=work.window.upper
            ),
            120.0,
        )
        if volume.uid != work.source_uid:
            raise MaskError(f"{work.source_uri} has changed since {path} was saved; put the file back.")
        self._file(self._open_work, path)
        return volume

    def _file(self, client: Client, path: Path | str) -> None:
        request = WorkFile.Request(path=str(Path(path).absolute()), volume_uid=self._uid)
        response = self._call(client, request, 60.0)
        if not response.success:
            raise MaskError(response.message)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until a message made `condition` true."""
        with self._changed:
            self._wait(self._changed.wait_for(condition, timeout_s), what)

    def _call(self, client: Client, request: Any, timeout_s: float) -> Any:
        self._wait(client.wait_for_service(timeout_s), client.srv_name)
        response = response_to(client, request, timeout_s)
        self._wait(response is not None, "an answer")
        return response

    def _result(self, future: Future, timeout_s: float) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        self._wait(done.wait(timeout_s), "an answer")
        return future.result()

    @staticmethod
    def _wait(happened: bool, what: str) -> None:
        if not happened:
            raise LaunchError(f"Waited in vain for {what}; see the logs of the nodes.")

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def _publish(self, prompt: ClientPrompt) -> None:
        message = stamped(self._node, conversions.prompt_to_msg(prompt))
        uid, picture = self._picture
        if uid and uid == prompt.image.source:
            self._picture_prompts.publish(msg.PicturePrompt(picture=picture, prompt=message))
        else:
            self._prompts.publish(message)

    def _on_answer(self, message: msg.SliceMask) -> None:
        if message.client_id != self.client_id:
            return
        try:
            answer = conversions.answer_from_msg(message)
        except SammError as error:
            self._node.get_logger().warning(str(error))
            return
        with self._changed:
            self._pending.answered(answer)

    def _on_task(self, message: msg.TaskMask) -> None:
        if not message.ended:
            self._on_task_mask(message.mask)
            return
        with self._changed:
            self._ended_tasks.append(message.id)
            self._changed.notify_all()

    def _on_event(self, message: msg.TaskEvent) -> None:
        # An event that cannot be is none.
        with self._changed, contextlib.suppress(PromptError, ValueError):
            self.events.append(event_of(message))
            self._changed.notify_all()

    def _on_status(self, message: msg.EmbeddingStatus) -> None:
        with self._changed:
            self.status = message
            self._changed.notify_all()

    def _on_segmentation(self, message: msg.SegmentationStatus) -> None:
        with self._changed:
            self.segmentation = message
            self._cycles = conversions.cycles_from_msg(message)
            self._pending.refused(self._cycles)
            self._changed.notify_all()


def _picture_msg(volume: Volume) -> Image:
    """Raises VolumeError for a picture that no message holds."""
    pixels = volume.voxels[0]
    if pixels.dtype not in (np.uint8, np.uint16):
        raise VolumeError(
            f"The picture has pixels of the type {pixels.dtype}; give 8 or 16 bits without sign."
        )
    return image_to_msg(pixels)
