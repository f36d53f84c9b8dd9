# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The bridge's side of SAMM 1.2: `routes` is the whole dispatch, from a request's method and path to its handler.

All state belongs to the doors' thread, on which handlers and their replies run. What a body holds is read before, on
the front's thread (payloads.py). http.py has the transport, jobs.py and video.py have what takes more than one reply.
Knows neither ROS nor sockets.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from samm_core.errors import SammError
from samm_core.prompts import Prompt, pixel_box
from samm_core.sources.picture import PICTURE

from ...graph_actions import Done, GraphActions, GraphListener, ModelState
from ...one_shot import OneShotPrompts
from ...volumes import VolumeStore
from ...worker import Worker
from . import embedding_files, payloads
from .jobs import SliceJobs
from .models import WEIGHTS, Weight, models_fields
from .payloads import WINDOW, Fields, Item, MaskText, Picture, Refused
from .video import VideoJobs

PROTOCOL = "1.2.0"
SESSION_S = 600.0
_MAX_SESSIONS = 256
# Slicer stands still while SAMM waits, which it does for 600 s; the largest encoder takes half a minute on a CPU.
ANSWER_WITHIN_S = 120.0
# Of embedded pictures, which SAMM names by their ids alone.
MAX_EMBEDDED_BYTES = 1 << 30

logger = logging.getLogger(__name__)

Reply = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Request:
    """path: the variable parts of it. query: its arguments. body: what the route's `read` made of it."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any


@dataclass(frozen=True, eq=False)
class Route:
    """path: with names in braces. read: makes of the body's fields what `handle` wants of them; raises Refused."""

    method: str
    path: str
    handle: Callable[[Request, Reply], None]
    read: Callable[[Fields], Any] = payloads.no_fields


class Samm12Server(GraphListener):
    """Has what the published server has: one prepared model, its embeddings and its jobs, for all clients.

    problem: gets the sentence of each refusal that is no fault of the request.
    """

    def __init__(
        self, graph: GraphActions, store: VolumeStore, worker: Worker, problem: Callable[[str], None]
    ) -> None:
        self._graph, self._worker, self._problem = graph, worker, problem
        self._prompts = OneShotPrompts(graph, "samm12", waits=True)
        self._embedded = _Embedded()
        self._embeddings = SliceJobs(self._embed_item, self._embedding_result, predicts=False)
        self._predictions = SliceJobs(self._predict_item, _prediction_result, predicts=True)
        self._videos = VideoJobs(graph, store, worker)
        # By id, when it was heard of last, monotonic.
        self._sessions: dict[str, float] = {}
        # What a client prepared; None: nothing yet, and the graph's own model answers.
        self._weight: Weight | None = None
        self._is_offloaded = False
        # The graph's model as it was heard of last: a server that starts again has none for a while.
        self._model: ModelState | None = None
        self.routes = [
            Route("GET", "/health", self._on_health),
            Route("POST", "/session", self._on_session, payloads.session_of),
            Route("GET", "/models", self._on_models),
            Route("GET", "/models/{weight_id}", self._on_weight),
            Route("POST", "/models/{weight_id}/prepare", self._on_prepare),
            Route("GET", "/prepared", self._on_prepared),
            Route("POST", "/offload", self._on_offload),
            Route("POST", "/predict", self._on_predict, payloads.predict_of),
            Route("POST", "/embeddings", self._on_embed, payloads.embedding_of),
            Route("POST", "/embedding-jobs", self._on_begin_embeddings, payloads.total_of),
            Route("GET", "/embedding-jobs/{job_id}", self._on_embeddings),
            Route(
                "POST",
                "/embedding-jobs/{job_id}/items",
                self._on_embedding_items,
                payloads.embedding_items_of,
            ),
            Route("POST", "/embedding-files/save", self._on_save, payloads.saved_of),
            Route("POST", "/embedding-files/load", self._on_load, payloads.path_of),
            Route("POST", "/prediction-jobs", self._on_begin_predictions, payloads.total_of),
            Route("GET", "/prediction-jobs/{job_id}", self._on_predictions),
            Route(
                "POST",
                "/prediction-jobs/{job_id}/items",
                self._on_prediction_items,
                payloads.prediction_items_of,
            ),
            Route("POST", "/video-prediction-jobs", self._on_begin_video, payloads.frames_total_of),
            Route("GET", "/video-prediction-jobs/{job_id}", self._on_video),
            Route("POST", "/video-prediction-jobs/{job_id}/frames", self._on_frames, payloads.frames_of),
            Route("POST", "/video-prediction-jobs/{job_id}/run", self._on_run, payloads.run_of),
            Route("POST", "/video-prediction-jobs/{job_id}/cancel", self._on_cancel_video),
            Route("GET", "/finetuning/datasets", _on_datasets),
            Route("GET", "/finetuning/datasets/{name}", _on_dataset),
            Route("POST", "/finetuning/datasets/{name}/build", _on_finetuning),
            Route("GET", "/finetuning/reports/{run}", _on_finetuning),
            Route("POST", "/finetuning/train", _on_finetuning),
            Route("POST", "/finetuning/eval", _on_finetuning),
            Route("GET", "/finetuning/jobs/{job_id}", _on_finetuning),
            Route("POST", "/finetuning/jobs/{job_id}/cancel", _on_finetuning),
        ]

    def handle(self, route: Route, request: Request, reply: Reply) -> None:
        """Answer one request, now or later, exactly once; never raises."""
        try:
            route.handle(request, reply)
        except Refused as error:
            reply(error.status, error.fields)
        except SammError as error:
            reply(400, {"error": str(error)})
        except Exception as error:  # one request must not end the service of all others
            logger.exception("A request of SAMM 1.2 could not be handled")
            reply(500, {"error": f"The bridge failed at this request: {error}"})

    def tick(self) -> None:
        """Ends what waited too long; call some times a second."""
        self._prompts.tick()
        for jobs in (self._embeddings, self._predictions, self._videos):
            jobs.tick()

    def on_model(self, model: ModelState) -> None:
        """Embeddings are of one model."""
        if not model.name:
            return
        if self._model and self._model.name != model.name:
            self._forget_embedded("Another model was prepared; embed the slices again.")
        self._model = model

    def _forget_embedded(self, why: str) -> None:
        self._embedded.clear()
        self._embeddings.end_all(why)

    # Connection and models.

    def _on_health(self, request: Request, reply: Reply) -> None:
        names = {"name": "SAMM service", "version": PROTOCOL, "status": "ready"}
        reply(200, {**names, "protocol_version": PROTOCOL})

    def _on_session(self, request: Request, reply: Reply) -> None:
        now = time.monotonic()
        self._sessions[request.body] = now
        self._sessions = {key: at for key, at in self._sessions.items() if now - at < SESSION_S}
        while len(self._sessions) > _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        reply(
            200,
            {
                "status": "active",
                "session_id": request.body,
                "active_sessions": len(self._sessions),
                "timeout_seconds": SESSION_S,
            },
        )

    def _on_models(self, request: Request, reply: Reply) -> None:
        reply(200, {"models": models_fields(self._graph.weights, self._model)})

    def _on_weight(self, request: Request, reply: Reply) -> None:
        reply(200, _weight_of(request).fields(self._graph.weights, self._model))

    def _on_prepare(self, request: Request, reply: Reply) -> None:
        weight = _weight_of(request)
        ids = {"model_id": weight.family, "weight_id": weight.id}

        def done(model: ModelState | None, why: str) -> None:
            if model is None:
                self._refuse(reply, why, **ids)
                return
            # Its topic tells it a moment later.
            self.on_model(model)
            if weight != self._weight:
                self._forget_embedded("Other weights were prepared; embed the slices again.")
            self._weight, self._is_offloaded = weight, False
            reply(200, _prepared_fields(weight, weight.checkpoint(self._graph.weights), model))

        model = self._model
        if model and model.name == weight.model:
            # Loaded again, it would forget its embeddings.
            done(model, "")
        elif self._graph.weights and not weight.is_here(self._graph.weights, model):
            checkpoint = weight.checkpoint(self._graph.weights)
            raise Refused(
                409, f"checkpoint missing: ./samm weights {weight.model}", **ids, checkpoint=checkpoint
            )
        else:
            self._graph.select_model(weight.model, done)

    def _on_prepared(self, request: Request, reply: Reply) -> None:
        prepared = self._prepared()
        if prepared is None:
            reply(200, {"prepared": None})
            return
        weight, model = prepared
        reply(200, {"prepared": _prepared_fields(weight, weight.checkpoint(self._graph.weights), model)})

    def _on_offload(self, request: Request, reply: Reply) -> None:
        """The graph keeps its model, which is everybody's."""
        self._is_offloaded, self._weight = True, None
        self._forget_embedded("The model was offloaded; prepare it and embed the slices again.")
        reply(200, {"status": "offloaded"})

    def _prepared(self) -> tuple[Weight, ModelState] | None:
        """The weights that answer, and the graph's model that they are; None: none do."""
        model = self._model
        if model is None or self._is_offloaded:
            return None
        if self._weight and self._weight.model == model.name:
            return self._weight, model
        return Weight(model.name), model

    def _must_be_prepared(self) -> tuple[Weight, ModelState]:
        prepared = self._prepared()
        if prepared is None:
            raise Refused(409, "model not prepared")
        return prepared

    # One slice.

    def _on_predict(self, request: Request, reply: Reply) -> None:
        _, model = self._must_be_prepared()
        named, marks = request.body
        picture = self._embedded.get(named) if isinstance(named, str) else named
        if picture is None:
            raise Refused(500, "embedding not found", embedding_id=named)

        def done(mask: np.ndarray | None, why: str) -> None:
            if mask is None:
                self._refuse(reply, why)
            else:
                reply(200, MaskText(mask).fields())

        self._ask(picture, marks.on_slice(PICTURE.index, picture.shape, model), done)

    def _on_embed(self, request: Request, reply: Reply) -> None:
        self._must_be_prepared()
        picture = request.body

        def done(mask: np.ndarray | None, why: str) -> None:
            if mask is None:
                self._refuse(reply, why)
            else:
                reply(200, self._embedding_result(Item({}, picture), mask))

        self._embed_item(Item({}, picture), done)

    def _ask(self, picture: Picture, prompt: Prompt, done: Done[np.ndarray]) -> None:
        due_at = time.monotonic() + ANSWER_WITHIN_S
        self._prompts.ask(picture.uid, prompt, due_at, done, WINDOW, picture.pixels)

    def _embed_item(self, item: Item, done: Done[np.ndarray]) -> None:
        """A prompt, whose mask nobody takes: what it takes long for is the embedding."""
        rows, columns = item.picture.shape
        whole = pixel_box(PICTURE.plane, PICTURE.index, -0.5, -0.5, columns - 0.5, rows - 0.5)
        self._ask(item.picture, whole, done)

    def _embedding_result(self, item: Item, mask: np.ndarray) -> dict[str, Any]:
        self._embedded.put(item.picture)
        return {"embedding_id": item.picture.uid, "shape": list(item.picture.shape)}

    def _predict_item(self, item: Item, done: Done[np.ndarray]) -> None:
        try:
            _, model = self._must_be_prepared()
            prompt = item.marks.on_slice(PICTURE.index, item.picture.shape, model)
        except (Refused, SammError) as error:
            done(None, str(error))
        else:
            self._ask(item.picture, prompt, done)

    # Jobs.

    def _on_begin_embeddings(self, request: Request, reply: Reply) -> None:
        self._must_be_prepared()
        reply(202, self._embeddings.begin(request.body))

    def _on_embeddings(self, request: Request, reply: Reply) -> None:
        reply(200, self._embeddings.state(request.path["job_id"]))

    def _on_embedding_items(self, request: Request, reply: Reply) -> None:
        reply(200, self._embeddings.submit(request.path["job_id"], request.body))

    def _on_begin_predictions(self, request: Request, reply: Reply) -> None:
        self._must_be_prepared()
        reply(202, self._predictions.begin(request.body))

    def _on_predictions(self, request: Request, reply: Reply) -> None:
        reply(200, self._predictions.state(request.path["job_id"]))

    def _on_prediction_items(self, request: Request, reply: Reply) -> None:
        reply(200, self._predictions.submit(request.path["job_id"], request.body))

    def _on_begin_video(self, request: Request, reply: Reply) -> None:
        weight, _ = self._must_be_prepared()
        reply(202, self._videos.begin(request.body, weight))

    def _on_video(self, request: Request, reply: Reply) -> None:
        reply(200, self._videos.state(request.path["job_id"], request.query.get("cursor", "0")))

    def _on_frames(self, request: Request, reply: Reply) -> None:
        reply(200, self._videos.submit(request.path["job_id"], request.body))

    def _on_run(self, request: Request, reply: Reply) -> None:
        weight, model = self._must_be_prepared()
        reply(202, self._videos.run(request.path["job_id"], *request.body, weight, model))

    def _on_cancel_video(self, request: Request, reply: Reply) -> None:
        reply(200, self._videos.cancel(request.path["job_id"]))

    # Files.

    def _on_save(self, request: Request, reply: Reply) -> None:
        weight, _ = self._must_be_prepared()
        path, items = request.body
        slices = []
        for item in items:
            embedding_id = item.pop("embedding_id")
            picture = self._embedded.get(embedding_id)
            if picture is None:
                raise Refused(500, "embedding not found", embedding_id=embedding_id)
            slices.append((item, picture))

        def saved(fields: dict[str, Any] | None, why: str) -> None:
            if fields is None:
                self._refuse(reply, why)
            else:
                reply(200, fields)

        self._worker.do(lambda: embedding_files.save(path, weight.id, slices), saved)

    def _on_load(self, request: Request, reply: Reply) -> None:
        weight, _ = self._must_be_prepared()
        path = request.body

        def loaded(slices: list[tuple[dict[str, Any], Picture]] | None, why: str) -> None:
            if slices is None:
                self._refuse(reply, why)
                return
            items = []
            for echo, picture in slices:
                self._embedded.put(picture)
                items.append({"embedding_id": picture.uid, **echo, "shape": list(picture.shape)})
            reply(200, {"path": path, "count": len(items), "items": items})

        self._worker.do(lambda: embedding_files.load(path, weight.id), loaded)

    def _refuse(self, reply: Reply, why: str, **fields: Any) -> None:
        self._problem(f"SAMM: {why}")
        reply(500, {"error": why, **fields})


class _Embedded:
    """The pictures that were embedded, by the id that SAMM got, the newest ones."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0

    def put(self, picture: Picture) -> None:
        if picture.uid not in self._pictures:
            self._bytes += picture.pixels.nbytes
        self._pictures[picture.uid] = picture
        self._pictures.move_to_end(picture.uid)
        while self._bytes > MAX_EMBEDDED_BYTES and len(self._pictures) > 1:
            _, oldest = self._pictures.popitem(last=False)
            self._bytes -= oldest.pixels.nbytes

    def get(self, embedding_id: str) -> Picture | None:
        return self._pictures.get(embedding_id)

    def clear(self) -> None:
        self._pictures.clear()
        self._bytes = 0


def _prediction_result(item: Item, mask: np.ndarray) -> dict[str, Any]:
    return MaskText(mask).fields()


def _weight_of(request: Request) -> Weight:
    weight_id = request.path["weight_id"]
    if weight_id not in WEIGHTS:
        raise Refused(404, "weight not found", weight_id=weight_id)
    return WEIGHTS[weight_id]


def _prepared_fields(weight: Weight, checkpoint: str, model: ModelState) -> dict[str, Any]:
    return {
        "model_id": weight.family,
        "weight_id": weight.id,
        "status": "prepared",
        "checkpoint": checkpoint,
        "backend": "samm_ros",
        "model_type": weight.model,
        "device": model.device,
        "capabilities": weight.capabilities,
    }


def _on_datasets(request: Request, reply: Reply) -> None:
    reply(200, {"datasets": []})


def _on_dataset(request: Request, reply: Reply) -> None:
    """The panel asks for it at every update of its controls."""
    counts = dict.fromkeys(
        ("source_segmented_volumes", "train_segmented_volumes", "val_segmented_volumes"), 0
    )
    reply(200, {"name": request.path["name"], "source": "", "dataset": "", **counts})


def _on_finetuning(request: Request, reply: Reply) -> None:
    raise Refused(501, "samm_ros finetunes nothing; use SAMM's own server for it.")
