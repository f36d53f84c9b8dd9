# SPDX-License-Identifier: Apache-2.0
"""The bridge's side of IPP/2: what each message of a Slicer does, and what it is told. Knows no sockets."""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from samm_msgs.msg import EmbeddingStatus, ModelInfo

from samm_ros.cycle import MAX_CLIENTS, Answer, SliceId
from samm_ros.errors import SammError, VolumeError
from samm_ros.geometry import Plane
from samm_ros.latency.cycles import complete_cycles
from samm_ros.models import MODEL_NAMES
from samm_ros.nodes.wire import LoadedVolume
from samm_ros.prompts import Prompt
from samm_ros.trace import Outcome, Task, TaskEvent
from samm_ros.volume import WINDOW_PRESETS, Window

from . import ipp
from .clock import ClockOffset
from .graph_link import GraphLink
from .pending import Asked, PendingPrompts
from .volumes import VolumeDescription, VolumeStore

SOFTWARE = "samm_ros 0.1.0"
# A drag of the window sends many: the graph is told once it has rested this long.
WINDOW_REST_S = 0.2
# Cycles whose events are kept until all five tasks have told of theirs.
KEPT_CYCLES = 256

logger = logging.getLogger(__name__)

Send = Callable[[bytes, list[bytes]], None]


@dataclass
class _Slicer:
    """One Slicer that said hello."""

    identity: bytes
    name: str
    heard_at: float
    clock: ClockOffset = field(default_factory=ClockOffset)
    # By stream: the newest prompt's number and its answer.
    numbers: dict[int, int] = field(default_factory=dict)
    answers: dict[int, list[bytes]] = field(default_factory=dict)
    # By stream and cycle: what was asked for there.
    slices: OrderedDict[tuple[int, int], SliceId] = field(default_factory=OrderedDict)
    upload: tuple[VolumeDescription, Window | None, int | None] | None = None

    def graph_name(self, stream: int) -> str:
        """The client id in the graph: streams must not supersede each other there either."""
        return f"{self.name}/{stream}" if stream else self.name


class IppServer:
    """Serves any number of Slicers; each call on the same thread.

    send: takes an identity and the frames for it. post: runs a call on that thread, soon. work: does what takes long.
    """

    def __init__(
        self,
        graph: GraphLink,
        store: VolumeStore,
        save_folder: Path,
        send: Send,
        post: Callable[[Callable[[], None]], None],
        work: Executor,
        problem: Callable[[str], None],
    ) -> None:
        self._graph, self._store, self._save_folder = graph, store, save_folder
        self._send, self._post, self._work, self._problem = send, post, work, problem
        self.pending = PendingPrompts(graph.prompt)
        self._slicers: dict[bytes, _Slicer] = {}
        self._cycles: dict[str, tuple[int, int]] = {}
        self._events: OrderedDict[tuple[str, int], list[TaskEvent]] = OrderedDict()
        self._volume: LoadedVolume | None = None
        self._model: ModelInfo | None = None
        self._embedding: EmbeddingStatus | None = None
        self._window: tuple[float, bytes, ipp.Message] | None = None
        self._applied_by: list[str] = []

    @property
    def slicers(self) -> list[str]:
        return [slicer.name for slicer in self._slicers.values()]

    # What Slicer says.

    def handle(self, identity: bytes, frames: Sequence[bytes]) -> None:
        """A message has come; never raises."""
        message = None
        try:
            message = ipp.unpack(ipp.FROM_SLICER, frames)
            if message.type == "hello":
                self._hello(identity, message)
                return
            slicer = self._slicers.get(identity)
            if slicer is None:
                raise ipp.ProtocolError("Say hello first; the bridge does not know you, or it was restarted.")
            slicer.heard_at = time.monotonic()
            getattr(self, f"_on_{message.type}")(slicer, message)
        except (ipp.ProtocolError, SammError) as error:
            self._tell(identity, "error", re=message.get("id") if message else None, message=str(error))
        except Exception as error:  # one message must not end the service of all others
            logger.exception("A message could not be handled")
            self._tell(identity, "error", message=f"The bridge failed at this message: {error}")

    def tick(self) -> None:
        """Call some times a second."""
        now = time.monotonic()
        for identity, slicer in list(self._slicers.items()):
            if now - slicer.heard_at > ipp.TIMEOUT_S:
                self._forget(identity)
        self.pending.resend(self._cycles)
        if self._window and now - self._window[0] >= WINDOW_REST_S:
            self._set_window()

    def _hello(self, identity: bytes, message: ipp.Message) -> None:
        if message["version"] != ipp.VERSION:
            raise ipp.ProtocolError(
                f"This bridge speaks IPP/{ipp.VERSION}, not IPP/{message['version']}; install the Slicer-IPP of the same release."
            )
        if "/" in message["client"]:
            raise ipp.ProtocolError(
                f"A client cannot be named {message['client']!r}: its streams are told by a slash."
            )
        slicer = self._slicers.get(identity)
        if slicer and slicer.name != message["client"]:
            self._forget(identity)
            slicer = None
        for other in [
            s for s in self._slicers.values() if s.name == message["client"] and s.identity != identity
        ]:
            # The same Slicer over a new connection: it goes on where it was.
            slicer = self._slicers.pop(other.identity)
        if slicer is None and len(self._slicers) >= MAX_CLIENTS:
            raise ipp.ProtocolError(f"{MAX_CLIENTS} Slicers are connected already; close one.")
        if slicer is None:
            slicer = _Slicer(identity, message["client"], 0.0)
        slicer.identity, slicer.heard_at = identity, time.monotonic()
        self._slicers[identity] = slicer
        self._tell(
            identity,
            "welcome",
            re=message.get("id"),
            version=ipp.VERSION,
            software=SOFTWARE,
            folder=str(self._store.incoming),
            models=list(MODEL_NAMES),
            window_presets={name: [w.lower, w.upper] for name, w in WINDOW_PRESETS.items()},
        )
        self._tell(identity, "model", **_model_fields(self._model))
        self._tell(identity, "volume", **self._volume_fields(self._volume))
        if self._embedding:
            self._tell(identity, "embedding", **_embedding_fields(self._embedding))

    def _on_ping(self, slicer: _Slicer, message: ipp.Message) -> None:
        now_ns = time.monotonic_ns()
        if message.get("bridge_ns") is not None and message.get("received_ns") is not None:
            slicer.clock.exchange(message["bridge_ns"], message["received_ns"], message["sent_ns"], now_ns)
        self._tell(slicer.identity, "pong", sent_ns=message["sent_ns"], bridge_ns=time.monotonic_ns())

    def _on_bye(self, slicer: _Slicer, message: ipp.Message) -> None:
        self._tell(slicer.identity, "done", re=message.get("id"), text="Goodbye.")
        self._forget(slicer.identity)

    def _forget(self, identity: bytes) -> None:
        slicer = self._slicers.pop(identity)
        for stream in slicer.numbers:
            self.pending.forget(slicer.graph_name(stream))

    def _on_volume(self, slicer: _Slicer, message: ipp.Message) -> None:
        description = VolumeDescription(
            message["key"],
            message["name"],
            tuple(message["shape_kji"]),
            message["components"],
            message["dtype"],
            np.reshape(np.array(message["ijk_to_ras"], np.float64), (4, 4)),
        )
        window = Window(*message["window"]) if message["window"] else None
        request = message.get("id")
        file = message["file"]
        if path := self._store.find(description):
            if file:
                self._store.discard(file)
            self._load(slicer, path, window, request)
        elif file:
            self._take(slicer, lambda: self._store.take(description, file), window, request)
        else:
            slicer.upload = description, window, request
            self._want(slicer)

    def _on_chunk(self, slicer: _Slicer, message: ipp.Message) -> None:
        if slicer.upload is None or slicer.upload[0].key != message["key"]:
            raise ipp.ProtocolError("No such volume is being sent; send its description first.")
        description, window, request = slicer.upload
        try:
            self._store.append(description, message["offset"], message.buffer, message["crc32"])
        except VolumeError as error:
            self._tell(slicer.identity, "error", message=str(error))
        self._want(slicer)

    def _want(self, slicer: _Slicer) -> None:
        description, window, request = slicer.upload
        offset = self._store.offset(description)
        if offset < description.nbytes:
            self._tell(slicer.identity, "volume_wanted", re=request, key=description.key, offset=offset)
            return
        slicer.upload = None
        self._take(slicer, lambda: self._store.finish(description), window, request)

    def _take(
        self, slicer: _Slicer, take: Callable[[], Path], window: Window | None, request: int | None
    ) -> None:
        def taken() -> None:
            try:
                path = take()
            except VolumeError as error:
                self._post(
                    lambda error=error: self._tell(slicer.identity, "error", re=request, message=str(error))
                )
                return
            self._post(lambda: self._load(slicer, path, window, request))

        self._work.submit(taken)

    def _load(self, slicer: _Slicer, path: Path, window: Window | None, request: int | None) -> None:
        loaded = self._volume
        if loaded and loaded.uri == str(path) and (window is None or loaded.window == window):
            self._tell(slicer.identity, "volume", re=request, **self._volume_fields(loaded))
            return

        def done(volume: LoadedVolume | None, why: str) -> None:
            if volume is None:
                self._tell(slicer.identity, "error", re=request, message=why)
                return
            self._tell(slicer.identity, "volume", re=request, **self._volume_fields(volume))
            self._store.evict(path)

        self._graph.load_volume(path, window, self._soon(done))

    def _on_window(self, slicer: _Slicer, message: ipp.Message) -> None:
        Window(*message["window"])
        if self._volume is None or message["uid"] != self._volume.uid:
            raise VolumeError("The window is for another volume than the graph has loaded; load yours first.")
        if self._window and self._window[2].get("id") is not None:
            self._tell(
                self._window[1], "done", re=self._window[2]["id"], text="A newer window took its place."
            )
        self._window = time.monotonic(), slicer.identity, message

    def _set_window(self) -> None:
        _, identity, message = self._window
        self._window = None
        if self._volume is None or message["uid"] != self._volume.uid:
            return
        window = Window(*message["window"])
        if window == self._volume.window:
            self._tell(identity, "done", re=message.get("id"), text="The window is that already.")
            return
        self._graph.load_volume(
            Path(self._volume.uri), window, self._soon(self._reply(identity, message, "The window is set."))
        )

    def _on_prompt(self, slicer: _Slicer, message: ipp.Message) -> None:
        stream, number = message["stream"], message["number"]
        if len(message["labels"]) != len(message["points_xy"]):
            raise ipp.ProtocolError(
                f"There are {len(message['labels'])} labels for {len(message['points_xy'])} points; give one a point."
            )
        newest = slicer.numbers.get(stream, -1)
        if number < newest:
            return
        if number == newest:
            # Sent again after a reconnection: its answer was lost with the old connection, or is still to come.
            if stream in slicer.answers:
                self._send(slicer.identity, slicer.answers[stream])
            return
        slicer.numbers[stream] = number
        slicer.answers.pop(stream, None)
        points = np.array(message["points_xy"], np.float64).reshape(-1, 2)
        box = None if message["box_xyxy"] is None else np.array(message["box_xyxy"], np.float64).reshape(2, 2)
        prompt = Prompt(
            plane=Plane(message["plane"]),
            slice_index=message["index"],
            in_ras=False,
            points=_with_z(points),
            labels=np.array(message["labels"], np.uint8),
            box=None if box is None else _with_z(box),
        )
        asked = Asked(slicer.graph_name(stream), message["uid"], message["segment"], prompt)
        self.pending.ask(asked, lambda answer: self._answer(slicer, stream, number, answer))

    def _answer(self, slicer: _Slicer, stream: int, number: int, answer: Answer) -> None:
        common = {"number": number, "cycle": answer.cycle, "stream": stream}
        if answer.error:
            frames = ipp.pack(ipp.FROM_BRIDGE, "refused", **common, message=answer.error[: ipp.MAX_TEXT])
        else:
            frames = ipp.pack(
                ipp.FROM_BRIDGE,
                "mask",
                answer.data,
                **common,
                uid=answer.slice.volume_uid,
                plane=int(answer.slice.plane),
                index=answer.slice.index,
                shape=list(answer.shape),
                segment=answer.segment,
                model=answer.model,
                score=float(answer.score),
            )
            slicer.slices[stream, answer.cycle] = answer.slice
            if len(slicer.slices) > KEPT_CYCLES:
                slicer.slices.popitem(last=False)
        if number == slicer.numbers.get(stream):
            slicer.answers[stream] = frames
        self._send(slicer.identity, frames)

    def _on_applied(self, slicer: _Slicer, message: ipp.Message) -> None:
        slice_id = slicer.slices.pop((message["stream"], message["cycle"]), None)
        offset_ns = slicer.clock.offset_ns
        if slice_id is None or offset_ns is None:
            return
        event = TaskEvent(
            Task.APL_MSK,
            Outcome.COMPLETED if message["completed"] else Outcome.DROPPED,
            message["cycle"],
            slicer.graph_name(message["stream"]),
            slice_id,
            f"slicer/{slicer.name}",
            message["started_ns"] + offset_ns,
            message["ended_ns"] + offset_ns,
        )
        self._graph.event(event)

    def _on_undo(self, slicer: _Slicer, message: ipp.Message) -> None:
        names = {slicer.graph_name(stream) for stream in range(ipp.STREAMS)}
        if self._applied_by and self._applied_by[-1] not in names:
            raise ipp.ProtocolError(
                "The newest mask in the graph is another client's: nothing was undone there."
            )

        def done(text: str | None, why: str) -> None:
            if text and self._applied_by:
                self._applied_by.pop()
            self._reply(slicer.identity, message, text or "")(text, why)

        self._graph.undo(self._soon(done))

    def _on_redo(self, slicer: _Slicer, message: ipp.Message) -> None:
        def done(text: str | None, why: str) -> None:
            if text:
                self._applied_by.append(slicer.graph_name(0))
            self._reply(slicer.identity, message, text or "")(text, why)

        self._graph.redo(self._soon(done))

    def _on_save(self, slicer: _Slicer, message: ipp.Message) -> None:
        name = message["name"]
        if Path(name).name != name or name.startswith("."):
            raise ipp.ProtocolError(
                f"{name!r} is no bare file name; the bridge saves into {self._save_folder} alone."
            )
        try:
            self._save_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VolumeError(f"The folder {self._save_folder} cannot be made ({error.strerror}).") from None
        path = self._save_folder / name
        self._graph.save(path, self._soon(self._reply(slicer.identity, message, str(path))))

    def _on_select_model(self, slicer: _Slicer, message: ipp.Message) -> None:
        def done(model: ModelInfo | None, why: str) -> None:
            if model is None:
                self._tell(slicer.identity, "error", re=message.get("id"), message=why)
            else:
                self._tell(slicer.identity, "model", re=message.get("id"), **_model_fields(model))

        self._graph.select_model(message["name"], self._soon(done))

    def _on_embed(self, slicer: _Slicer, message: ipp.Message) -> None:
        def done(text: str | None, why: str) -> None:
            self._reply(slicer.identity, message, text or "")(text, why)

        self._graph.embed(message["planes"], self._soon(done))

    def _on_cancel_embed(self, slicer: _Slicer, message: ipp.Message) -> None:
        self._graph.cancel_embed()
        self._tell(slicer.identity, "done", re=message.get("id"), text="Asked to stop.")

    # What the graph says; Listener's methods, posted here by the bridge.

    def on_answer(self, answer: Answer) -> None:
        self.pending.answered(answer)

    def on_cycles(self, cycles: dict[str, tuple[int, int]]) -> None:
        self._cycles = cycles

    def on_volume(self, volume: LoadedVolume | None) -> None:
        self._volume = volume
        self._tell_all("volume", **self._volume_fields(volume))

    def on_model(self, model: ModelInfo) -> None:
        self._model = model
        self._tell_all("model", **_model_fields(model))

    def on_embedding(self, status: EmbeddingStatus) -> None:
        self._embedding = status
        self._tell_all("embedding", **_embedding_fields(status))

    def on_event(self, event: TaskEvent) -> None:
        if event.outcome != Outcome.COMPLETED or event.node.startswith("slicer/"):
            return
        if event.task == Task.APL_MSK:
            self._applied_by = [*self._applied_by[-199:], event.client_id]
        key = event.client_id, event.cycle
        events = self._events.setdefault(key, [])
        events.append(event)
        if len(self._events) > KEPT_CYCLES:
            self._events.popitem(last=False)
        for slicer, stream in itertools.product(self._slicers.values(), range(ipp.STREAMS)):
            if slicer.graph_name(stream) == event.client_id:
                self._tell_cycle(slicer, stream, key)
                return

    def _tell_cycle(self, slicer: _Slicer, stream: int, key: tuple[str, int]) -> None:
        for cycle in complete_cycles(self._events[key]):
            del self._events[key]
            self._tell(
                slicer.identity,
                "cycle",
                cycle=cycle.cycle,
                stream=stream,
                intervals_ms={task.name: cycle.interval_ms(task) for task in Task},
                total_ms=cycle.total_ms,
            )

    # How it is said.

    def _soon(self, done: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
        """`done`, to be called from another thread."""
        return lambda value, why: self._post(lambda: done(value, why))

    def _reply(self, identity: bytes, message: ipp.Message, text: str) -> Callable[[Any, str], None]:
        def done(value: Any, why: str) -> None:
            if value is None:
                self._tell(identity, "error", re=message.get("id"), message=why)
            else:
                self._tell(identity, "done", re=message.get("id"), text=text)

        return done

    def _tell(self, identity: bytes, kind: str, **fields: Any) -> None:
        if kind == "error":
            fields["message"] = fields["message"][: ipp.MAX_TEXT]
            self._problem(fields["message"])
        self._send(identity, ipp.pack(ipp.FROM_BRIDGE, kind, **fields))

    def _tell_all(self, kind: str, **fields: Any) -> None:
        for identity in self._slicers:
            self._tell(identity, kind, **fields)

    def _volume_fields(self, volume: LoadedVolume | None) -> dict[str, Any]:
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
        }


def _model_fields(model: ModelInfo | None) -> dict[str, Any]:
    if model is None:
        return {"name": "", "device": "", "takes_points": False, "takes_box": False}
    return {
        "name": model.name,
        "device": model.device,
        "takes_points": model.takes_points,
        "takes_box": model.takes_box,
    }


def _embedding_fields(status: EmbeddingStatus) -> dict[str, Any]:
    return {
        "uid": status.volume_uid,
        "done": list(map(int, status.done)),
        "total": list(map(int, status.total)),
        "rate": float(status.rate),
        "sweeping": status.sweeping,
        "bytes_used": int(status.bytes_used),
    }


def _with_z(points_xy: np.ndarray) -> np.ndarray:
    return np.hstack([points_xy, np.zeros((len(points_xy), 1))])
