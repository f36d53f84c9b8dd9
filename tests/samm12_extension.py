# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Stands in for the client of SAMM 1.2's Slicer module: urllib, one connection a request, blocking."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# What it waits between an item and the next, and between two looks at a job, is its user's time, not a test's.
LIMIT_S = 120.0
ENDED = ("complete", "failed", "cancelled")


def image(pixels: np.ndarray) -> dict[str, Any]:
    """A slice, (H, W) uint8 or (H, W, 3), as SAMM sends it: in three channels."""
    three = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return {"shape": list(three.shape), "data": base64.b64encode(three.tobytes()).decode()}


def mask(pixels: np.ndarray) -> dict[str, Any]:
    return {"shape": list(pixels.shape), "data": base64.b64encode(pixels.astype(np.uint8).tobytes()).decode()}


def pixels_of(fields: Mapping[str, Any]) -> np.ndarray:
    """(H, W) uint8, of a mask that was replied."""
    data = base64.b64decode(fields["data"], validate=True)
    return np.frombuffer(data, np.uint8).reshape(fields["shape"])


def marks(
    points: Sequence[Sequence[float]] = (), labels: Sequence[int] = (), **others: Any
) -> dict[str, Any]:
    """Points and labels are always there; the box, the mask and the text only where there is one."""
    return {"points": list(map(list, points)), "labels": list(labels), **others}


def slice_spec(index: int) -> dict[str, Any]:
    return {"view": "Red", "axis": 0, "index": index}


def embedding_item(index: int, pixels: np.ndarray) -> dict[str, Any]:
    encoded = image(pixels)
    digest = hashlib.sha256(encoded["data"].encode()).hexdigest()
    return {
        "key": f"weight|node|Red|0|{index}|{tuple(encoded['shape'])}|{digest}",
        "slice_spec": slice_spec(index),
        "image_shape": encoded["shape"],
        "image_digest": digest,
        "image": encoded,
    }


class Samm12Error(Exception):
    """A reply that is no 2xx. fields: its JSON object, which has an `error`."""

    def __init__(self, status: int, fields: dict[str, Any]) -> None:
        super().__init__(f"{status}: {fields['error']}")
        self.status, self.fields = status, fields


class Samm12Extension:
    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._origin = f"http://{host}:{port}"
        # Of no proxy of the machine's.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(
        self, method: str, path: str, fields: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Raises Samm12Error for a reply that is no 2xx, and AssertionError for one that is no JSON object."""
        body = None
        sent = dict(headers or {})
        if fields is not None:
            body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
            sent.setdefault("Content-Type", "application/json")
        elif method == "POST":
            body = b""
        request = urllib.request.Request(self._origin + path, data=body, headers=sent, method=method)
        try:
            with self._opener.open(request, timeout=LIMIT_S) as reply:
                return reply.status, _object(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                told = _object(error.read())
            assert isinstance(told.get("error"), str), told
            raise Samm12Error(error.code, told) from None

    def get(self, path: str) -> dict[str, Any]:
        return self.request("GET", path)[1]

    def post(self, path: str, fields: Any = None) -> dict[str, Any]:
        return self.request("POST", path, fields)[1]

    def connect(self, session_id: str = "0" * 32) -> dict[str, Any]:
        """The five requests that the panel begins with; what is prepared."""
        health = self.get("/health")
        assert (health["name"], health["protocol_version"]) == ("SAMM service", "1.2.0")
        self.post("/session", {"session_id": session_id, "autosave": {}})
        assert self.get("/models")["models"]
        assert self.get("/finetuning/datasets") == {"datasets": []}
        return self.get("/prepared")["prepared"]

    def until_prepared(self) -> None:
        """Until the bridge has heard of the graph's model."""
        deadline = time.monotonic() + 60.0
        while self.get("/prepared")["prepared"] is None:
            assert time.monotonic() < deadline, "no model is prepared"
            time.sleep(0.1)

    def prepare(self, weight_id: str) -> dict[str, Any]:
        return self.post(f"/models/{urllib.parse.quote(weight_id, safe='')}/prepare")

    def predict(self, prompt: Mapping[str, Any], pixels: np.ndarray | str) -> np.ndarray:
        """(H, W) uint8. pixels: (H, W) uint8, or the id of an embedding."""
        on = {"embedding_id": pixels} if isinstance(pixels, str) else {"image": image(pixels)}
        return pixels_of(self.post("/predict", {**prompt, **on}))

    def job(self, kind: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The end of a job of these items. kind: embedding or prediction."""
        status, state = self.request("POST", f"/{kind}-jobs", {"total": len(items)})
        assert (status, state["status"], state["total"]) == (202, "queued", len(items))
        path = f"/{kind}-jobs/{state['job_id']}"
        for item in items:
            state = self.post(f"{path}/items", {"items": [item]})
        return self.until_ended(path)

    def until_ended(self, path: str) -> dict[str, Any]:
        """The state of a job that has ended; what it has made by a look stays as it was."""
        seen: list[Any] = []
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            state = self.get(path)
            assert state["results"][: len(seen)] == seen, "the results did not only grow at their end"
            seen = state["results"]
            if state["status"] in ENDED:
                return state
            time.sleep(0.05)
        raise AssertionError(f"the job did not end: {state}")


def _object(body: bytes) -> dict[str, Any]:
    told = json.loads(body)
    assert isinstance(told, dict), told
    return told
