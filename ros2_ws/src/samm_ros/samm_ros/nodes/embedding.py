# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The embedding node: holds volumes, the model, the encoder's cache, and embeds slices as they are needed.

In:   embedding_requests, of decoders elsewhere
Out:  embeddings, to them; volumes, volume_info, model_info, embedding_status (latched)
Services: load_volume, load_picture, select_model; action embed_volume
Parameters: autostart, model, checkpoint, device, backend, volume, window_preset, volumes_gib, cache_gib,
window_lower, window_upper, roots, cache_8bit, cache_dir, sweep
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.service import Service
from rclpy.subscription import Subscription
from samm_msgs.action import EmbedVolume
from samm_msgs.msg import EmbeddingRequest, EmbeddingStatus, ModelInfo, SliceEmbedding, VolumeInfo, VolumeList
from samm_msgs.srv import LoadPicture, LoadVolume, SelectModel

from samm_core.allocator import return_freed_memory
from samm_core.embedding.cache import GIB, EmbeddingCache, EmbeddingStore, RecentEmbeddings
from samm_core.embedding.engine import EmbeddingEngine, EncodedSlice
from samm_core.errors import NotReadyError, PromptError, SammError, VolumeError
from samm_core.geometry import Plane
from samm_core.models import BACKEND_NAMES, load_model
from samm_core.sources.base import ImageId
from samm_core.sources.picture import MAX_PICTURES, picture_plane, picture_volume
from samm_core.sources.readers import isolated
from samm_core.sources.volume import Volume, read_volume
from samm_core.sources.window import WINDOW_PRESETS, Window

from .. import conversions, topics
from ..supervision import cleanup
from ..support import parameters, process
from ..support.diagnostics import Diagnostics
from ..support.images import array_from_image
from ..support.lifecycle import LifecycleNode
from ..support.publishing import stamped
from .segment_volume import SegmentVolumeNode
from .track import TrackNode
from .weights import WeightsNode

Loaded = TypeVar("Loaded", LoadVolume.Response, LoadPicture.Response)

STATUS_PERIOD_S = 0.2
# How long goals may take to be aborted, and a slice under way may be waited for when the node ends.
_GOALS_S = 2.0
_CLOSE_S = 1.0


class EmbeddingNode(LifecycleNode):
    """Configure loads the model, activate the volume named by the parameters; deactivate leaves both, cleanup frees them.

    Its callbacks may take long: spin it aside of nodes that answer prompts.
    """

    def __init__(self) -> None:
        super().__init__("embedding")
        process.declare_autostart(self)
        self._model_name = parameters.declare(self, "model", "lite_medsam", "Model to answer with.")
        self._checkpoint = parameters.declare(
            self, "checkpoint", "", "Path of the model's weights; empty: where `samm weights` puts them."
        )
        self._device = parameters.declare(self, "device", "auto", "auto, cpu or cuda.")
        self._backend = parameters.declare(
            self, "backend", "auto", f"What computes the model: {', '.join(BACKEND_NAMES)}."
        )
        self._volume_path = parameters.declare(self, "volume", "", "Volume to load at start; empty: none.")
        self._roots = parameters.declare_roots(self, self._volume_path)
        self._window_preset = parameters.declare(
            self, "window_preset", "", f"One of {', '.join(WINDOW_PRESETS)}; empty: chosen from the voxels."
        )
        finite = (-sys.float_info.max, sys.float_info.max)
        self._window_bounds = (
            parameters.declare_number(
                self, "window_lower", 0.0, "Without a preset, the intensity shown black.", finite
            ),
            parameters.declare_number(
                self, "window_upper", 0.0, "And white; as window_lower: chosen from the voxels.", finite
            ),
        )
        volumes_gib = parameters.declare_number(
            self,
            "volumes_gib",
            4.0,
            "Memory for the voxels of loaded volumes, GiB; beyond it those are let go of that were used least recently.",
            (0.01, 1024.0),
        )
        cache_gib = parameters.declare_number(
            self, "cache_gib", 4.0, "Memory for embeddings where the encoder runs, GiB.", (0.01, 1024.0)
        )
        cache_8bit = parameters.declare(
            self, "cache_8bit", False, "Keep embeddings at 8 bits a value: twice as many in the same memory."
        )
        cache_dir = parameters.declare(
            self, "cache_dir", "", "Folder in which embeddings outlive the node; empty: they do not."
        )
        self._sweeps = parameters.declare(
            self,
            "sweep",
            True,
            "Embed the rest of a volume ahead of need.",
            on_set=self._set_sweep,
        )
        self.engine = EmbeddingEngine(
            EmbeddingCache(int(cache_gib * GIB), packs=cache_8bit),
            EmbeddingStore(Path(cache_dir)) if cache_dir else None,
            self._on_progress,
            int(volumes_gib * GIB),
            RecentEmbeddings(cleanup.folder_of(mark)) if (mark := os.environ.get(cleanup.MARK)) else None,
        )
        self.engine.suspend()
        # Requests of decoders elsewhere whose answer is under way.
        self._under_way: set[tuple[ImageId, str]] = set()
        self._progressed = threading.Condition()
        self._goals = 0
        self._entrances: list[Service] = []
        self._requests: Subscription | None = None
        self._reading: Future[Volume] | None = None  # of the volume to load at start
        self._action: ActionServer | None = None
        # The uid of the volume that was loaded at the start, until a client loads it too.
        self._loaded_at_start = ""
        # Which start of the server this is: who hears another mark knows that what was loaded since the start is lost.
        self._mark = uuid.uuid4().hex
        self._status_at = 0.0
        self._diagnostics = Diagnostics(self, self._readings, self._device_name)
        self._volume_info = self.create_publisher(VolumeInfo, topics.VOLUME_INFO, topics.LATCHED)
        self._volumes = self.create_publisher(VolumeList, topics.VOLUMES, topics.LATCHED)
        self._model_info = self.create_publisher(ModelInfo, topics.MODEL_INFO, topics.LATCHED)
        self._embeddings = self.create_publisher(SliceEmbedding, topics.EMBEDDINGS, topics.EMBEDDING)
        self._status = self.create_publisher(EmbeddingStatus, topics.EMBEDDING_STATUS, topics.LATCHED)

    def configure(self) -> None:
        """Raises ModelError, which `model_info` tells too."""
        if self._volume_path and self.engine.volume is None:
            # By the time that the model is there, it has been read; a process that is ready for any format would import
            # the libraries of all of them meanwhile.
            isolated.start_after_read()
            self._reading = self._read_at_start()
        else:
            isolated.start_ahead()
        self._model_info.publish(stamped(self, ModelInfo()))
        self._use_model(self._model_name, self._checkpoint)
        self._diagnostics.failing("")
        # There as long as the model is: an action that is gone cannot send the results that it owes.
        self._action = ActionServer(
            self,
            EmbedVolume,
            topics.EMBED_VOLUME,
            self._embed_volume,
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )

    def activate(self) -> None:
        self.engine.resume()
        if self.engine.volume is None:
            self._load_at_start()
        else:
            self._sweep_all()
        changes = MutuallyExclusiveCallbackGroup()
        self._entrances = [
            self.create_service(LoadVolume, topics.LOAD_VOLUME, self._on_load_volume, callback_group=changes),
            self.create_service(
                LoadPicture, topics.LOAD_PICTURE, self._on_load_picture, callback_group=changes
            ),
            self.create_service(
                SelectModel, topics.SELECT_MODEL, self._on_select_model, callback_group=changes
            ),
        ]
        self._requests = self.create_subscription(
            EmbeddingRequest, topics.EMBEDDING_REQUESTS, self._on_request, topics.EMBEDDING
        )

    def deactivate(self) -> None:
        self.engine.suspend()
        for service in self._entrances:
            self.destroy_service(service)
        self._entrances = []
        if self._requests:
            self.destroy_subscription(self._requests)
            self._requests = None
        with self._progressed:
            self._progressed.notify_all()
            self._progressed.wait_for(lambda: not self._goals, _GOALS_S)
        self._status.publish(self._status_message())

    def cleanup(self) -> None:
        if self._action:
            self._action.destroy()
            self._action = None
        if self.engine.model is None:
            return
        self.engine.release()
        isolated.stop()
        self._reading = None
        self._loaded_at_start = ""
        # What it held is gone, as if it had been started again.
        self._mark = uuid.uuid4().hex
        return_freed_memory()
        why = "The embedding node was cleaned up; configure and activate it."
        self._model_info.publish(stamped(self, ModelInfo(error=why)))
        self._tell_volumes(why)
        self._status.publish(self._status_message())

    def destroy_node(self) -> None:
        """Says nothing to the others: a node that is started again has its model and volume soon."""
        if self._action:
            self._action.destroy()
            self._action = None
        self.engine.close(_CLOSE_S)
        isolated.stop()
        super().destroy_node()

    def transition_failed(self, sentence: str) -> None:
        self._diagnostics.failing(sentence)
        if self.engine.model is None:
            self._model_info.publish(stamped(self, ModelInfo(error=sentence)))

    def _load_at_start(self) -> None:
        """The volume that the parameter names; without it the node serves all the same, and says why there is none."""
        error = ""
        if self._volume_path:
            reading, self._reading = self._reading or self._read_at_start(), None
            try:
                self._take(reading.result(), at_start=True)
                return
            except SammError as problem:
                error = str(problem)
                self._diagnostics.problem(error)
        self._tell_volumes(error)

    def _read_at_start(self) -> Future[Volume]:
        def read() -> Volume:
            return read_volume(
                Path(self._volume_path), self._window(self._window_preset, *self._window_bounds)
            )

        reader = ThreadPoolExecutor(1, "reading")
        try:
            return reader.submit(read)
        finally:
            reader.shutdown(wait=False)

    def _use_model(self, name: str, checkpoint: str) -> None:
        started = time.monotonic()
        model = load_model(
            name, Path(checkpoint) if checkpoint else None, self._device, backend=self._backend
        )
        model.warm_up()
        for why in model.refused:
            self.get_logger().warning(why)
        self.engine.set_model(model)
        info = self._model_message()
        self._model_info.publish(info)
        self.get_logger().info(
            f"{info.name} on {info.device} by {model.backend}, loaded in {time.monotonic() - started:.1f} s"
        )
        self._sweep_all()

    def _load_volume(self, path: str, window: Window | None) -> Volume:
        return self._take(read_volume(Path(path), window))

    def _take(self, volume: Volume, at_start: bool = False) -> Volume:
        """Answer on this volume too."""
        if self.engine.model is None:
            raise VolumeError(
                "The embedding node was cleaned up meanwhile; activate it and load the volume again."
            )
        self.engine.load(volume)
        for older in [each for each in self.engine.volumes if not each.uri][MAX_PICTURES:]:
            self.engine.let_go(older.uid)
        if at_start:
            self._loaded_at_start = volume.uid
        elif self._loaded_at_start == volume.uid:
            self._loaded_at_start = ""
        self._tell_volumes()
        self._status.publish(self._status_message())
        self.get_logger().info(
            f"{volume.name}: {'×'.join(map(str, volume.geometry.dimensions))} voxels; window {volume.window.lower:g} to "
            f"{volume.window.upper:g}: {volume.window_reason}"
        )
        for warning in volume.warnings:
            self.get_logger().warning(warning)
        self._sweep_all()
        return volume

    @staticmethod
    def _window(preset: str, lower: float, upper: float) -> Window | None:
        if preset:
            if preset not in WINDOW_PRESETS:
                raise VolumeError(
                    f"There is no window preset {preset}; there are {', '.join(WINDOW_PRESETS)}."
                )
            return WINDOW_PRESETS[preset]
        return None if lower == upper else Window(lower, upper)

    def _on_load_volume(
        self, request: LoadVolume.Request, response: LoadVolume.Response
    ) -> LoadVolume.Response:
        def load() -> Volume:
            window = self._window(request.window_preset, request.window_lower, request.window_upper)
            return self._load_volume(str(self._roots.resolved(request.path)), window)

        return self._loaded(load, response)

    def _on_load_picture(
        self, request: LoadPicture.Request, response: LoadPicture.Response
    ) -> LoadPicture.Response:
        def load() -> Volume:
            window = self._window("", request.window_lower, request.window_upper)
            pixels = array_from_image(request.picture)
            return self._take(picture_volume(pixels, request.name or "picture", window))

        return self._loaded(load, response)

    def _loaded(self, load: Callable[[], Volume], response: Loaded) -> Loaded:
        """The response with what `load` loads, or why it does not."""
        try:
            volume = load()
        except SammError as error:
            self._diagnostics.problem(str(error))
            response.message = str(error)
            return response
        self._diagnostics.solved()
        response.success = True
        response.volume = self._volume_message(volume)
        return response

    def _on_select_model(
        self, request: SelectModel.Request, response: SelectModel.Response
    ) -> SelectModel.Response:
        try:
            checkpoint = request.checkpoint and str(self._roots.resolved(request.checkpoint))
            self._use_model(request.name, checkpoint)
        except SammError as error:
            self._diagnostics.problem(str(error))
            response.message = str(error)
            return response
        self._diagnostics.solved()
        response.success = True
        response.model = self._model_message()
        return response

    def _on_request(self, request: EmbeddingRequest) -> None:
        held = {volume.uid for volume in self.engine.volumes}
        if request.image.source not in held or not self._is_of_this_model(request):
            # Just restarted, or the decoder has yet to hear of another model: it repeats its request for the model that it
            # knows by then. snd_inf has lost volumes loaded again, and refuses prompts on those that stay away.
            return
        try:
            image = conversions.image_from_msg(request.image)
        except PromptError as error:
            self._refuse(request, error)
            return
        wanted = image, request.model
        if wanted in self._under_way:
            return
        self._under_way.add(wanted)
        self.engine.request(image).add_done_callback(lambda future: self._answer(wanted, request, future))

    def _is_of_this_model(self, request: EmbeddingRequest) -> bool:
        model = self.engine.model
        return model is not None and model.name == request.model

    def _answer(
        self, wanted: tuple[ImageId, str], request: EmbeddingRequest, future: Future[EncodedSlice]
    ) -> None:
        """On the thread that encoded the slice. It is under way until then: asked again meanwhile, it is sent once."""
        try:
            encoded = future.result()
            if encoded.model is self.engine.model and self._is_of_this_model(request):
                self._embeddings.publish(conversions.embedding_to_msg(request, encoded.embedding))
        except NotReadyError:
            return  # the decoder repeats its request
        except PromptError as error:
            self._refuse(request, error)
        finally:
            self._under_way.discard(wanted)

    def _refuse(self, request: EmbeddingRequest, error: PromptError) -> None:
        self._embeddings.publish(SliceEmbedding(image=request.image, model=request.model, error=str(error)))

    def _embed_volume(self, goal: ServerGoalHandle) -> EmbedVolume.Result:
        with self._progressed:
            self._goals += 1
        try:
            return self._embed_planes(goal)
        finally:
            # Its result is on its way when this callback has returned, which `deactivate` leaves time for.
            with self._progressed:
                self._goals -= 1
                self._progressed.notify_all()

    def _embed_planes(self, goal: ServerGoalHandle) -> EmbedVolume.Result:
        started, result = time.monotonic(), EmbedVolume.Result()
        try:
            if self.engine.is_suspended:
                raise PromptError("The embedding node is not active; activate it.")
            volume, uid = self.engine.volume, goal.request.volume_uid
            if uid and (volume is None or volume.uid != uid):
                raise PromptError("Only the volume that was loaded last is embedded ahead; load yours again.")
            planes = [conversions.plane_from_msg(plane) for plane in goal.request.planes]
            planes = planes or (self._planes() if volume else list(Plane))
            self.engine.sweep(planes)
        except SammError as error:
            result.message = str(error)
            goal.abort()
            return result
        scope = self.engine.scope
        while (progress := self.engine.progress()) and progress.sweeping and self.engine.scope == scope:
            if goal.is_cancel_requested:
                self.engine.cancel_sweep()
                break
            if self.engine.is_suspended:
                break
            goal.publish_feedback(EmbedVolume.Feedback(status=self._status_message()))
            with self._progressed:
                self._progressed.wait(timeout=STATUS_PERIOD_S)
        result.seconds = time.monotonic() - started
        if not progress or self.engine.scope != scope:
            result.message = "Another volume, window or model was taken before this one was embedded."
            goal.abort()
            return result
        result.embedded = sum(progress.done[plane] for plane in planes)
        missing = sum(progress.total[plane] for plane in planes) - result.embedded
        if goal.is_cancel_requested:
            result.message = f"Cancelled with {missing} slices to go; what is embedded stays."
            goal.canceled()
        elif self.engine.is_suspended:
            result.message = (
                f"The embedding node was deactivated with {missing} slices to go; what is embedded stays."
            )
            goal.abort()
        elif missing:
            result.message = (
                f"The cache is full with {missing} slices to go; raise cache_gib or set cache_8bit."
            )
            goal.abort()
        else:
            result.success = True
            goal.succeed()
            self._sweep_all()
        return result

    def _set_sweep(self, sweeps: bool) -> None:
        self._sweeps = sweeps
        if self._goals:
            return  # what a goal asked for is swept all the same, and then it is looked at again
        if sweeps:
            self._sweep_all()
        else:
            self.engine.cancel_sweep()
        self._status.publish(self._status_message())

    def _sweep_all(self) -> None:
        if self._sweeps and self.engine.scope and not self.engine.is_suspended:
            self.engine.sweep(self._planes())

    def _planes(self) -> list[Plane]:
        """Of the volume that was loaded last: all, and of a picture its own; in the others it is a line."""
        own = picture_plane(self.engine.volume.geometry)
        return list(Plane) if own is None else [own]

    def _on_progress(self) -> None:
        with self._progressed:
            self._progressed.notify_all()
        now, progress = time.monotonic(), self.engine.progress()
        if progress and (now - self._status_at >= STATUS_PERIOD_S or not progress.sweeping):
            self._status_at = now
            self._status.publish(self._status_message())

    def _tell_volumes(self, error: str = "") -> None:
        """Publish what is loaded; error: why nothing is, one sentence."""
        messages = [self._volume_message(volume) for volume in self.engine.volumes]
        self._volumes.publish(stamped(self, VolumeList(server=self._mark, volumes=messages, error=error)))
        self._volume_info.publish(messages[0] if messages else stamped(self, VolumeInfo(error=error)))

    def _volume_message(self, volume: Volume) -> VolumeInfo:
        message = VolumeInfo(
            uid=volume.uid,
            name=volume.name,
            uri=volume.uri,
            dimensions=list(volume.geometry.dimensions),
            dtype=volume.voxels.dtype.name,
            components=3 if volume.voxels.ndim == 4 else 1,
            ijk_to_ras=volume.geometry.ijk_to_ras.ravel(),
            window_lower=float(volume.window.lower),
            window_upper=float(volume.window.upper),
            window_reason=volume.window_reason,
            warnings=list(volume.warnings),
            at_start=volume.uid == self._loaded_at_start,
        )
        return stamped(self, message)

    def _model_message(self) -> ModelInfo:
        model = self.engine.model
        message = ModelInfo(
            name=model.name,
            device=str(model.device),
            takes_points=model.takes_points,
            takes_box=model.takes_box,
            image_size=model.image_size,
        )
        return stamped(self, message)

    def _status_message(self) -> EmbeddingStatus:
        progress, cache = self.engine.progress(), self.engine.cache
        message = EmbeddingStatus(
            bytes_used=cache.nbytes, bytes_budget=cache.device_budget + cache.host_budget
        )
        stamped(self, message)
        if progress:
            message.volume_uid, message.model = progress.volume_uid, progress.model
            message.device, message.rate = progress.device, progress.rate
            message.done = [progress.done[plane] for plane in Plane]
            message.total = [progress.total[plane] for plane in Plane]
            flags = bytearray()
            for plane in Plane:
                flags += bytes(index in progress.embedded[plane] for index in range(progress.total[plane]))
            message.embedded = array("B", flags)
            message.sweeping = progress.sweeping
        return message

    def _device_name(self) -> str:
        model = self.engine.model
        return str(model.device) if model else ""

    def _readings(self) -> dict[str, object]:
        cache, model = self.engine.cache, self.engine.model
        return {
            "backend": model.backend if model else "",
            "backends refused": " ".join(model.refused) if model else "",
            "cache bytes": cache.nbytes,
            "cache hits": cache.hits,
            "cache misses": cache.misses,
            "cache evictions": cache.evictions,
        }


def main() -> None:
    with process.ros_with_model():
        node = EmbeddingNode()
        segment_volume, track = SegmentVolumeNode(node.engine), TrackNode(node.engine)
        with process.spinning_aside(node), process.spinning_aside(segment_volume, WeightsNode()):
            process.autostart(node)
            process.spin(track)
