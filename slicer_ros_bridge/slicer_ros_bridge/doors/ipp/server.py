# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The bridge's side of IPP/2: calls each message's handler, and tells the clients what changes in the graph.

`handlers` is the whole dispatch: message type → method. clients.py knows who is connected; volume_messages.py,
prompt_messages.py, task_messages.py, segmentation_messages.py and stream_messages.py do what takes more than a line.

Which thread calls what:

- The doors' thread (sockets.py) owns all state of both doors. On it run handle(), tick(), each `on_…`, and each `done`
  of a GraphActions or a Worker. Nothing in a door takes a lock, and nothing may be called from another thread.
- The executor's thread (rclpy) runs the node's subscriptions, timers and answers of services. node_graph.py and
  service_calls.py convert there what came, and post it to the doors' thread. The diagnostics read `names` there.
- The worker's thread (worker.py) reads, checks and writes volumes' files, and posts how that ended. Chunks are the
  exception: `chunk` appends its at most 4 MiB on the doors' thread.
- While a service has yet to answer, a thread looks whether it is still there (service_calls.py).
- The stream's worker reads the images of a live stream and writes them for the wire. While somebody watches the stream,
  each of its subscriptions has a thread too (live_stream.py), which posts what has come whole.
- Two threads of the sockets' own touch nothing here: the one that reads and writes HTTP (front.py) and, with keys,
  pyzmq's that looks for allowed clients (curve.py).

To post is to append to a deque and to wake the doors' thread; it never waits. There are two locks. ServiceCalls' is
for the lists of calls, which that thread, the executor's and the doors' share; LiveStream's for what its threads put
together. Each is held for that alone, and no other is taken under it.

Knows neither ROS nor sockets.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samm_core import ipp
from samm_core.errors import SammError
from samm_core.latency.events import Outcome, TaskEvent
from samm_core.models import MODEL_NAMES
from samm_core.sources.window import WINDOW_PRESETS

from ...graph_actions import (
    SLICER_NODE,
    EmbeddingState,
    GraphActions,
    GraphListener,
    ModelState,
    WeightsState,
)
from ...volumes import VolumeStore
from ...worker import Worker
from .clients import Send, SlicerClient, SlicerClients
from .prompt_messages import PromptMessages
from .segmentation_messages import SegmentationMessages
from .stream_messages import StreamMessages
from .task_messages import TaskMessages
from .volume_messages import VolumeMessages

SOFTWARE = "samm_ros 0.1.0"
NO_TOKEN = (
    "Without keys the bridge serves the user who started it, on the same computer, alone: connect as that user with "
    "the Slicer-IPP of the same release, or make keys with ./samm keys FOLDER."
)
# A bridge that was restarted hears of the graph within this, where there is one.
HEARD_S = 3.0

Handler = Callable[[SlicerClient, ipp.Message], None]

logger = logging.getLogger(__name__)


class IppServer(GraphListener):
    """Serves any number of Slicers; all calls on the doors' thread.

    save_folder: where `save` writes to. stream_worker: of the live stream's images alone. send: takes an identity and
    the frames for it. problem: gets the sentence of each error that a client is told. token: what a client must show;
    empty: nothing, its keys have shown who it is.
    """

    def __init__(
        self,
        graph: GraphActions,
        store: VolumeStore,
        save_folder: Path,
        worker: Worker,
        stream_worker: Worker,
        send: Send,
        problem: Callable[[str], None],
        token: str = "",
    ) -> None:
        self._graph, self._store, self._token = graph, store, token
        self._clients = SlicerClients(send, problem, self._on_left)
        self._volumes = VolumeMessages(graph, store, worker)
        self._prompts = PromptMessages(graph, self._clients)
        self._tasks = TaskMessages(graph)
        self._began = time.monotonic()
        self._segmentation = SegmentationMessages(graph, save_folder)
        self._stream = StreamMessages(graph, stream_worker, problem)
        # All types but hello, which alone may come from somebody unknown.
        self.handlers: dict[str, Handler] = {
            "ping": self._on_ping,
            "volume": self._volumes.on_volume,
            "chunk": self._volumes.on_chunk,
            "window": self._volumes.on_window,
            "prompt": self._prompts.on_prompt,
            "applied": self._prompts.on_applied,
            "segment_volume": self._tasks.on_segment_volume,
            "cancel_volume": self._tasks.on_cancel_volume,
            "stream": self._stream.on_stream,
            "image_taken": self._stream.on_image_taken,
            "track_prompt": self._stream.on_track_prompt,
            "track_rename": self._stream.on_track_rename,
            "track_remove": self._stream.on_track_remove,
            "segment_rename": self._segmentation.on_rename,
            "segment_recolor": self._segmentation.on_recolor,
            "segment_remove": self._segmentation.on_remove,
            "undo": self._segmentation.on_undo,
            "redo": self._segmentation.on_redo,
            "save": self._segmentation.on_save,
            "select_model": self._on_select_model,
            "weights": self._on_weights,
            "fetch_weights": self._on_fetch_weights,
            "cancel_fetch": self._on_cancel_fetch,
            "embed": self._on_embed,
            "cancel_embed": self._on_cancel_embed,
            "bye": self._on_bye,
        }

    @property
    def names(self) -> list[str]:
        """Of the Slicers that are connected; may be read from any thread."""
        return [client.name for client in self._clients]

    def handle(self, identity: bytes, frames: Sequence[bytes]) -> None:
        """A message has come; never raises."""
        message = None
        try:
            message = ipp.unpack(ipp.FROM_SLICER, frames)
            if message.type == "hello":
                self._on_hello(identity, message)
                return
            client = self._clients.get(identity)
            if client is None:
                raise ipp.ProtocolError("Say hello first; the bridge does not know you, or it was restarted.")
            client.heard_at = time.monotonic()
            self.handlers[message.type](client, message)
        except (ipp.ProtocolError, SammError) as error:
            self._clients.recipient(identity).refuse(message, str(error))
        except Exception as error:  # one message must not end the service of all others
            logger.exception("A message could not be handled")
            self._clients.recipient(identity).refuse(message, f"The bridge failed at this message: {error}")

    def tick(self) -> None:
        """Ends what waited too long; call some times a second."""
        self._clients.drop_silent()
        self._volumes.tick()
        self._stream.tick()

    # What a Slicer says.

    def _on_hello(self, identity: bytes, message: ipp.Message) -> None:
        if message["version"] != ipp.VERSION:
            raise ipp.ProtocolError(
                f"This bridge speaks IPP/{ipp.VERSION}, not IPP/{message['version']}; "
                "install the Slicer-IPP of the same release."
            )
        if not hmac.compare_digest(message.get("token", "").encode(), self._token.encode()) and self._token:
            raise ipp.ProtocolError(NO_TOKEN)
        if message.get("uid") and not self._graph.server and time.monotonic() - self._began < HEARD_S:
            # Told that there is no such volume, it would send it again. It says hello again soon.
            return
        client = self._clients.hello(identity, message["client"])
        if message.get("uid"):
            client.work_on(message["uid"])
        # It says hello again because it lost the connection, and with it its task and the stream.
        self._tasks.end_for(client)
        self._stream.end_for(client)
        client.reply(
            message,
            "welcome",
            version=ipp.VERSION,
            software=SOFTWARE,
            folder=str(self._store.incoming),
            models=list(MODEL_NAMES),
            window_presets={name: [w.lower, w.upper] for name, w in WINDOW_PRESETS.items()},
            tasks=list(ipp.TASKS),
        )
        client.tell("model", **_model_fields(self._graph.model))
        self._volumes.tell(client)
        if self._graph.embedding:
            client.tell("embedding", **_embedding_fields(self._graph.embedding))

    def _on_ping(self, client: SlicerClient, message: ipp.Message) -> None:
        now_ns = time.monotonic_ns()
        if message.get("bridge_ns") is not None and message.get("received_ns") is not None:
            client.clock.exchange(message["bridge_ns"], message["received_ns"], message["sent_ns"], now_ns)
        client.tell("pong", sent_ns=message["sent_ns"], bridge_ns=time.monotonic_ns())

    def _on_bye(self, client: SlicerClient, message: ipp.Message) -> None:
        client.reply(message, "done", text="Goodbye.")
        self._clients.drop(client)

    def _on_left(self, client: SlicerClient) -> None:
        self._tasks.end_for(client)
        self._stream.end_for(client)
        for stream in client.numbers:
            self._graph.forget(client.graph_name(stream))

    def _on_select_model(self, client: SlicerClient, message: ipp.Message) -> None:
        def done(model: ModelState | None, why: str) -> None:
            if model is None:
                client.refuse(message, why)
            else:
                client.reply(message, "model", **_model_fields(model))

        self._graph.select_model(message["name"], done)

    def _on_weights(self, client: SlicerClient, message: ipp.Message) -> None:
        client.wants_weights = True
        client.reply(message, "weights", **_weights_fields(self._graph.weights))

    def _on_fetch_weights(self, client: SlicerClient, message: ipp.Message) -> None:
        name = message["name"]

        def progressed(done: int, total: int) -> None:
            client.tell("weights_progress", name=name, done=done, total=total)

        self._graph.fetch_weights(name, client.name, progressed, client.done(message))

    def _on_cancel_fetch(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.cancel_fetch(client.name)
        client.reply(message, "done", text="Asked to stop.")

    def _on_embed(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.embed(message["planes"], client.volume_uid, client.done(message))

    def _on_cancel_embed(self, client: SlicerClient, message: ipp.Message) -> None:
        self._graph.cancel_embed()
        client.reply(message, "done", text="Asked to stop.")

    # What changes in the graph.

    def on_volumes(self) -> None:
        for client in self._clients:
            self._volumes.tell_if_changed(client)

    def on_model(self, model: ModelState) -> None:
        self._tell_all("model", _model_fields(model))

    def on_embedding(self, embedding: EmbeddingState) -> None:
        self._tell_all("embedding", _embedding_fields(embedding))

    def on_weights(self, weights: WeightsState) -> None:
        for client in self._clients:
            if client.wants_weights:
                client.tell("weights", **_weights_fields(weights))

    def on_event(self, event: TaskEvent) -> None:
        # Slicer's own APL_MSK, which this door published, is no task of the graph.
        if event.outcome == Outcome.COMPLETED and not event.node.startswith(SLICER_NODE):
            self._prompts.on_event(event)

    def _tell_all(self, kind: str, fields: dict[str, Any]) -> None:
        for client in self._clients:
            client.tell(kind, **fields)


def _model_fields(model: ModelState | None) -> dict[str, Any]:
    return asdict(model or ModelState("", "", False, False))


def _weights_fields(weights: WeightsState | None) -> dict[str, Any]:
    return asdict(weights or WeightsState("", ()))


def _embedding_fields(embedding: EmbeddingState) -> dict[str, Any]:
    fields = asdict(embedding)
    return {"uid": fields.pop("volume_uid"), **fields}
