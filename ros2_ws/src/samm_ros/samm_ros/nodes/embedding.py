# SPDX-License-Identifier: Apache-2.0
"""The embedding node: holds the volume, the model, the encoder's cache, and embeds slices as they are needed.

In:   embedding_requests, of decoders elsewhere
Out:  embeddings, to them; volume_info, model_info, embedding_status (latched)
Services: load_volume, select_model; action embed_volume
Parameters: autostart, model, checkpoint, device, backend, volume, window_preset, cache_gib, cache_8bit,
cache_dir, sweep
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from samm_msgs.action import EmbedVolume
from samm_msgs.msg import EmbeddingRequest, EmbeddingStatus, ModelInfo, SliceEmbedding, VolumeInfo
from samm_msgs.srv import LoadVolume, SelectModel

from ..cycle import SliceId
from ..embedding.cache import GIB, EmbeddingCache, EmbeddingStore
from ..embedding.engine import EmbeddingEngine, EncodedSlice
from ..errors import PromptError, SammError, VolumeError
from ..geometry import Plane
from ..models import BACKEND_NAMES, load_model
from ..volume import WINDOW_PRESETS, Window, read_volume
from . import graph, parameters, process, wire
from .diagnostics import Diagnostics

STATUS_PERIOD_S = 0.2


class EmbeddingNode(LifecycleNode):
    """Configure loads the model, activate the volume named by the parameters. Its callbacks may take long: spin it
    aside of nodes that answer prompts."""

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
        self._window_preset = parameters.declare(
            self, "window_preset", "", f"One of {', '.join(WINDOW_PRESETS)}; empty: chosen from the voxels."
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
        self._sweeps = parameters.declare(self, "sweep", True, "Embed the rest of a volume ahead of need.")
        self.engine = EmbeddingEngine(
            EmbeddingCache(int(cache_gib * GIB), packs=cache_8bit),
            EmbeddingStore(Path(cache_dir)) if cache_dir else None,
            self._on_progress,
        )
        self._promised: set[tuple[SliceId, str]] = set()
        self._progressed = threading.Condition()
        self._status_at = 0.0
        self._diagnostics = Diagnostics(self, self._readings)
        self._volume_info = self.create_publisher(VolumeInfo, graph.VOLUME_INFO, graph.LATCHED)
        self._model_info = self.create_publisher(ModelInfo, graph.MODEL_INFO, graph.LATCHED)
        self._embeddings = self.create_publisher(SliceEmbedding, graph.EMBEDDINGS, graph.EMBEDDING)
        self._status = self.create_publisher(EmbeddingStatus, graph.EMBEDDING_STATUS, graph.LATCHED)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._use_model(self._model_name, self._checkpoint)
        except SammError as error:
            self._diagnostics.problem(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        changes = MutuallyExclusiveCallbackGroup()
        waits = ReentrantCallbackGroup()
        self._entrances = [
            self.create_service(LoadVolume, graph.LOAD_VOLUME, self._on_load_volume, callback_group=changes),
            self.create_service(
                SelectModel, graph.SELECT_MODEL, self._on_select_model, callback_group=changes
            ),
        ]
        self._wishes = self.create_subscription(
            EmbeddingRequest, graph.EMBEDDING_REQUESTS, self._on_wish, graph.EMBEDDING
        )
        self._action = ActionServer(
            self,
            EmbedVolume,
            graph.EMBED_VOLUME,
            self._embed_volume,
            callback_group=waits,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )
        if self._volume_path:
            try:
                self._use_volume(self._volume_path, self._window(self._window_preset, 0.0, 0.0))
            except SammError as error:
                self._diagnostics.problem(str(error))
        if self.engine.volume is None:
            self._volume_info.publish(VolumeInfo())
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.engine.cancel_sweep()
        self._action.destroy()
        for service in self._entrances:
            self.destroy_service(service)
        self.destroy_subscription(self._wishes)
        return super().on_deactivate(state)

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

    def _use_volume(self, path: str, window: Window | None) -> None:
        volume = read_volume(Path(path), window)
        self.engine.set_volume(volume)
        self._volume_info.publish(self._volume_message())
        self._status.publish(self._status_message())
        self.get_logger().info(f"{volume.name}: {'×'.join(map(str, volume.geometry.dimensions))} voxels")
        self._sweep_all()

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
        try:
            window = self._window(request.window_preset, request.window_lower, request.window_upper)
            self._use_volume(request.path, window)
        except SammError as error:
            self._diagnostics.problem(str(error))
            response.message = str(error)
            return response
        self._diagnostics.solved()
        response.success = True
        response.volume = self._volume_message()
        return response

    def _on_select_model(
        self, request: SelectModel.Request, response: SelectModel.Response
    ) -> SelectModel.Response:
        try:
            self._use_model(request.name, request.checkpoint)
        except SammError as error:
            self._diagnostics.problem(str(error))
            response.message = str(error)
            return response
        self._diagnostics.solved()
        response.success = True
        response.model = self._model_message()
        return response

    def _on_wish(self, wish: EmbeddingRequest) -> None:
        if self.engine.volume is None:
            # Just restarted: snd_inf has the volume loaded again, and the decoder repeats its wish until then.
            return
        try:
            slice_id = wire.slice_from_msg(wish.slice)
            if wish.model != (loaded := self._model_message().name):
                raise PromptError(f"The model {wish.model} is not loaded; {loaded} is.")
        except PromptError as error:
            self._refuse(wish, error)
            return
        promise = slice_id, wish.model
        if promise in self._promised:
            return
        self._promised.add(promise)
        self.engine.request(slice_id).add_done_callback(lambda future: self._keep(promise, wish, future))

    def _keep(
        self, promise: tuple[SliceId, str], wish: EmbeddingRequest, future: Future[EncodedSlice]
    ) -> None:
        """On the thread that encoded the slice. The promise stands until it is kept: a reminder is no second wish."""
        try:
            self._embeddings.publish(wire.embedding_to_msg(wish, future.result().embedding))
        except PromptError as error:
            self._refuse(wish, error)
        finally:
            self._promised.discard(promise)

    def _refuse(self, wish: EmbeddingRequest, error: PromptError) -> None:
        self._embeddings.publish(SliceEmbedding(slice=wish.slice, model=wish.model, error=str(error)))

    def _embed_volume(self, goal: ServerGoalHandle) -> EmbedVolume.Result:
        started, result = time.monotonic(), EmbedVolume.Result()
        try:
            planes = [wire.plane_from_msg(plane) for plane in goal.request.planes] or list(Plane)
            self.engine.sweep(planes)
        except SammError as error:
            result.message = str(error)
            goal.abort()
            return result
        volume_uid = self.engine.volume.uid
        while (
            (progress := self.engine.progress()) and progress.sweeping and progress.volume_uid == volume_uid
        ):
            if goal.is_cancel_requested:
                self.engine.cancel_sweep()
                break
            goal.publish_feedback(EmbedVolume.Feedback(status=self._status_message()))
            with self._progressed:
                self._progressed.wait(timeout=STATUS_PERIOD_S)
        result.seconds = time.monotonic() - started
        if not progress or progress.volume_uid != volume_uid:
            result.message = "Another volume was loaded before this one was embedded."
            goal.abort()
            return result
        result.embedded = sum(progress.done[plane] for plane in planes)
        missing = sum(progress.total[plane] for plane in planes) - result.embedded
        if goal.is_cancel_requested:
            result.message = f"Cancelled with {missing} slices to go; what is embedded stays."
            goal.canceled()
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

    def _sweep_all(self) -> None:
        if self._sweeps and self.engine.volume and self.engine.model:
            self.engine.sweep(Plane)

    def _on_progress(self) -> None:
        with self._progressed:
            self._progressed.notify_all()
        now, progress = time.monotonic(), self.engine.progress()
        if progress and (now - self._status_at >= STATUS_PERIOD_S or not progress.sweeping):
            self._status_at = now
            self._status.publish(self._status_message())

    def _volume_message(self) -> VolumeInfo:
        volume = self.engine.volume
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
        )
        message.header.stamp = self.get_clock().now().to_msg()
        return message

    def _model_message(self) -> ModelInfo:
        model = self.engine.model
        message = ModelInfo(
            name=model.name,
            device=str(model.device),
            takes_points=model.takes_points,
            takes_box=model.takes_box,
            image_size=model.image_size,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        return message

    def _status_message(self) -> EmbeddingStatus:
        progress, cache = self.engine.progress(), self.engine.cache
        message = EmbeddingStatus(
            bytes_used=cache.nbytes, bytes_budget=cache.device_budget + cache.host_budget
        )
        message.header.stamp = self.get_clock().now().to_msg()
        if progress:
            message.volume_uid, message.model = progress.volume_uid, progress.model
            message.device, message.rate = progress.device, progress.rate
            message.done = [progress.done[plane] for plane in Plane]
            message.total = [progress.total[plane] for plane in Plane]
            message.sweeping = progress.sweeping
        return message

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
        with process.spinning_aside(node):
            process.autostart(node)
            process.spin()
