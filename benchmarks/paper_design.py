# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The SAMM paper's design, for the race alone, from its description (arXiv 2304.05622).

A server answers one request after the other (REQ/REP), on a socket that its client makes anew for each; the whole volume is
embedded before the first prompt; embeddings are float32 on the host and moved to the device with every request; a client
polls for the pointer's movement every 60 ms. Model, decoder and threads are ours: what differs is the design alone.

    python -m benchmarks.paper_design PORT_FILE MODEL CHECKPOINT BACKEND
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zmq

from samm_core.errors import LaunchError
from samm_core.geometry import Plane

from .design import MOUSE_HZ, Design, Drag, Spot, Timed

POLL_S = 0.060
START_S, ANSWER_S = 120.0, 60.0
# Slices a request while the volume is embedded, so that progress can be shown.
_CHUNK = 16


class PaperDesign(Design):
    """The server in a process of its own, and its client here."""

    name = "the paper's design"

    def __init__(self, model: str = "lite_medsam", checkpoint: str = "", backend: str = "auto") -> None:
        self._arguments = [model, checkpoint, backend]
        self._context = zmq.Context()
        self._labels = np.zeros((1, 1, 1), np.uint8)

    def __enter__(self) -> PaperDesign:
        self._folder = tempfile.TemporaryDirectory()
        port_file = Path(self._folder.name) / "port"
        command = [sys.executable, "-m", "benchmarks.paper_design", str(port_file), *self._arguments]
        self._server = subprocess.Popen(command)
        deadline = time.monotonic() + START_S
        while not port_file.exists():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise LaunchError("The server of the paper's design did not start.")
            time.sleep(0.05)
        self._address = f"tcp://127.0.0.1:{port_file.read_text()}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.terminate()
        self._server.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    @property
    def processes(self) -> list[int]:
        return [self._server.pid]

    def first_mask(self, path: Path, spot: Spot, said: Callable[[str], None]) -> float:
        started = time.perf_counter()
        counts = self._load(path)
        total = sum(counts)
        done = 0
        for plane, count in enumerate(counts):
            for first in range(0, count, _CHUNK):
                indices = list(range(first, min(first + _CHUNK, count)))
                self._ask({"command": "embed", "plane": plane, "indices": indices})
                done += len(indices)
                said(f"{self.name}: {done} of {total} slices embedded")
        self._infer(spot)
        return time.perf_counter() - started

    def load(self, path: Path, spot: Spot) -> None:
        self._load(path)
        self._ask({"command": "embed", "plane": int(Plane.AXIAL), "indices": [spot.index]})
        self._infer(spot)

    def clicks(self, spots: Sequence[Spot]) -> list[Timed]:
        chance = random.Random(0)
        timed = []
        for spot in spots:
            # The pointer knows nothing of the poll: it moves anywhere between two.
            moved_at = time.perf_counter()
            time.sleep(chance.uniform(0.0, POLL_S))
            decode_ms = self._infer(spot)
            timed.append(Timed((time.perf_counter() - moved_at) * 1e3, decode_ms))
        return timed

    def drag(self, spot: Spot, clients: int, seconds: float) -> Drag:
        answered: list[list[Timed]] = [[] for _ in range(clients)]
        before, started = self.processor_s(), time.perf_counter()

        def poll(mine: list[Timed]) -> None:
            next_poll = started
            while (now := time.perf_counter()) - started < seconds:
                # A timer that is late skips the beats it has missed.
                while next_poll <= now:
                    next_poll += POLL_S
                time.sleep(next_poll - now)
                moved_at = started + int((time.perf_counter() - started) * MOUSE_HZ) / MOUSE_HZ
                decode_ms = self._infer(spot.moved(moved_at - started))
                mine.append(Timed((time.perf_counter() - moved_at) * 1e3, decode_ms))

        threads = [threading.Thread(target=poll, args=(mine,)) for mine in answered]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - started
        cores = (self.processor_s() - before) / taken
        together = [timed for mine in answered for timed in mine]
        return Drag(
            taken, int(seconds * MOUSE_HZ) * clients, together, [len(mine) for mine in answered], cores
        )

    def _load(self, path: Path) -> list[int]:
        reply, _ = self._ask({"command": "load", "path": str(path)})
        self._labels = np.zeros(reply["shape"], np.uint8)
        return reply["counts"]

    def _infer(self, spot: Spot) -> float:
        """Ask for a mask and apply it to its slice; the decoder's own milliseconds."""
        points = None if spot.points is None else spot.points.tolist()
        reply, mask = self._ask(
            {"command": "infer", "index": spot.index, "box": spot.box.tolist(), "points": points}
        )
        # Kinder than the published extension, which writes the whole label map anew for each mask.
        self._labels[spot.index] = np.frombuffer(mask, np.uint8).reshape(self._labels.shape[1:])
        return reply["decode_ms"]

    def _ask(self, header: dict) -> tuple[dict, bytes]:
        socket = self._context.socket(zmq.REQ)
        socket.setsockopt(zmq.LINGER, 0)
        try:
            socket.connect(self._address)
            socket.send_json(header)
            if not socket.poll(ANSWER_S * 1000):
                raise LaunchError(f"The server of the paper's design gave no answer within {ANSWER_S:g} s.")
            answer, data = socket.recv_multipart()
            return json.loads(answer), data
        finally:
            socket.close()


def serve(port_file: Path, model_name: str, checkpoint: str, backend: str) -> None:
    """The server: forever."""
    from samm_core.allocator import keep_freed_memory

    keep_freed_memory()
    from samm_core.models import load_model
    from samm_core.prompts import PixelPrompt
    from samm_core.sources.volume import read_volume

    model = load_model(model_name, Path(checkpoint) if checkpoint else None, backend=backend)
    model.warm_up()
    socket = zmq.Context().socket(zmq.REP)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    written = port_file.with_suffix(".part")
    written.write_text(str(port))
    os.replace(written, port_file)
    volume, embeddings = None, {}
    while True:
        request, mask = socket.recv_json(), b""
        reply: dict[str, object] = {}
        if request["command"] == "load":
            volume, embeddings = read_volume(Path(request["path"])), {}
            geometry = volume.geometry
            reply["counts"] = [geometry.slice_count(plane) for plane in Plane]
            reply["shape"] = [geometry.slice_count(Plane.AXIAL), *geometry.slice_shape(Plane.AXIAL)]
        elif request["command"] == "embed":
            plane = Plane(request["plane"])
            for index in request["indices"]:
                (embedding,) = model.encode([volume.slice_image(plane, index)])
                tensors = {name: each.astype(np.float32) for name, each in embedding.as_arrays().items()}
                embeddings[plane, index] = tensors, embedding.original_size
        else:
            tensors, size = embeddings[Plane.AXIAL, request["index"]]
            on_device = model.restore(tensors, size)
            if request["points"]:
                points = np.array(request["points"], np.float32)
                prompt = PixelPrompt(points, np.ones(len(points), np.uint8))
            else:
                prompt = PixelPrompt(box_xyxy=np.array(request["box"], np.float32))
            started = time.perf_counter()
            result = model.decode(on_device, prompt)
            reply["decode_ms"] = (time.perf_counter() - started) * 1e3
            mask = result.mask.astype(np.uint8).tobytes()
        socket.send_multipart([json.dumps(reply).encode(), mask])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), *sys.argv[2:])
