# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What SAMM 1.2's Slicer module waits for, the first mask on a picture and the next ones, and what the door adds.

Pictures are slices of the MNI brain, enlarged to 512×512, sent as the module sends them: three channels, base64, JSON,
one connection a request. Encoder and decoder are the graph's own figures of the same cycles. --hostile sends damaged
requests too, and says what became of the bridge.

It starts its own graph. Run it in a shell that has sourced .venv/bin/activate and ros2_ws/install/setup.bash:
python benchmarks/samm12.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import samm12_extension as samm12  # noqa: E402
from bridge_process import BridgeProcess  # noqa: E402

from samm_core.latency.events import Task, TaskEvent  # noqa: E402
from samm_core.sources.sample import mni_volume  # noqa: E402
from samm_core.sources.volume import read_volume  # noqa: E402
from samm_ros.client import GraphClient  # noqa: E402
from samm_ros.supervision.processes import environment  # noqa: E402
from samm_ros.supervision.supervisor import launch  # noqa: E402
from slicer_ros_bridge.doors.samm12 import payloads  # noqa: E402

SIDE = 512
BOX = [130, 130, 260, 290]
_ROUTES = (
    *("/predict", "/embeddings", "/embedding-jobs", "/embedding-jobs/x/items", "/embedding-files/load"),
    *("/prediction-jobs", "/prediction-jobs/x/items", "/video-prediction-jobs", "/session", "/offload"),
    *("/video-prediction-jobs/x/frames", "/video-prediction-jobs/x/run", "/models/%2F..%2F/prepare", "/none"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=10, help="on each picture, after the first")
    parser.add_argument("--hostile", type=int, default=0, help="damaged requests to send at last")
    args = parser.parse_args()
    volume = read_volume(mni_volume())
    shown = volume.window.to_uint8(volume.voxels[40 : 40 + args.pictures])
    pictures = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in shown]
    text(pictures[0])
    namespace = f"bench_{uuid.uuid4().hex[:8]}"
    os.environ.update(environment())
    with (
        tempfile.TemporaryDirectory() as folder,
        launch({"namespace": namespace, "bridge": "false"}, Path(folder)),
        GraphClient(namespace, "bench") as ros,
        BridgeProcess(namespace, Path(folder)) as bridge,
    ):
        panel = samm12.Samm12Extension(bridge.ports["SAMM"])
        panel.connect()
        panel.until_prepared()
        cycles(panel, ros, pictures, args.prompts)
        if args.hostile:
            hostile(panel, bridge, args.hostile)


def text(picture: np.ndarray) -> None:
    """The door's own work on a request and its reply, without a network."""
    body = json.dumps({**samm12.marks(box=BOX), "image": samm12.image(picture)}).encode()
    read, written = [], []
    for _ in range(50):
        began = time.perf_counter()
        payloads.predict_of(json.loads(body))
        read.append(time.perf_counter() - began)
        mask = payloads.MaskText(picture > 99)
        began = time.perf_counter()
        json.dumps(mask.fields(), default=str).encode()
        written.append(time.perf_counter() - began)
    show(f"read the request, {len(body) / 1e6:.1f} MB of JSON and base64", read)
    show("write the reply", written)


def cycles(panel: samm12.Samm12Extension, ros: GraphClient, pictures: list[np.ndarray], prompts: int) -> None:
    """Each picture is new at its first prompt. The rest is what is neither encoder nor decoder."""
    waited: list[float] = []
    for picture in pictures:
        encoded = samm12.image(picture)
        for number in range(1 + prompts):
            fields = {**samm12.marks(box=[BOX[0] + number, *BOX[1:]]), "image": encoded}
            body = json.dumps(fields).encode()
            began = time.perf_counter()
            reply = panel.post("/predict", body)
            waited.append(time.perf_counter() - began)
            assert samm12.pixels_of(reply).any()

    def completed() -> list[TaskEvent]:
        found = [
            e
            for e in ros.events
            if e.task == Task.CPL_INF and e.client_id.startswith("samm12/") and e.completion
        ]
        return sorted(found, key=lambda event: event.completion.received_ns)

    ros.wait_for(lambda: len(completed()) >= len(waited), "the events of all masks", 30.0)
    # A request that is sent again while its answer is on its way is answered twice: of a cycle, the first counts.
    first = {event.cycle: event.completion for event in reversed(completed())}
    made = [first[cycle] for cycle in sorted(first, key=lambda cycle: first[cycle].received_ns)]
    assert len(made) == len(waited), (len(made), len(waited))
    encoder = [(each.embedded_ns - each.received_ns) / 1e9 for each in made]
    decoder = [(each.decode_ended_ns - each.decode_started_ns) / 1e9 for each in made]
    is_new = [not each.embedding_hit for each in made]
    for name, chosen in (("a new picture", True), ("a picture that was prompted on", False)):
        rows = [n for n, new in enumerate(is_new) if new == chosen]
        show(f"{name}: from the request to the whole reply", [waited[n] for n in rows])
        show(f"{name}: of it the encoder, and waiting for it", [encoder[n] for n in rows])
        show(f"{name}: of it the decoder", [decoder[n] for n in rows])
        show(f"{name}: the rest", [waited[n] - encoder[n] - decoder[n] for n in rows])
    print(f"pictures encoded: {sum(is_new)} of {len(pictures)}, by {len(made)} prompts")


def hostile(panel: samm12.Samm12Extension, bridge: BridgeProcess, count: int) -> None:
    """Damaged requests of every kind, from one chance: bytes, heads, JSON, cut and slow connections."""
    chance = random.Random(12)
    process, statuses = psutil.Process(bridge.process.pid), Counter[str]()
    good = json.dumps({**samm12.marks(box=[1, 1, 5, 5]), "image": samm12.image(np.zeros((8, 8), np.uint8))})
    hostile_part(bridge, chance, good, 200, Counter())
    before = process.memory_info().rss
    hostile_part(bridge, chance, good, count, statuses)
    print(f"{count} damaged requests: {dict(statuses.most_common())}")
    print(
        f"the bridge after them: ready {panel.get('/health')['status'] == 'ready'}, "
        f"memory {before / 2**20:.0f} → {process.memory_info().rss / 2**20:.0f} MiB, "
        f"{process.num_fds()} descriptors, {process.num_threads()} threads"
    )
    said = Counter(line for line in bridge.lines if re.match(r"\w+(\.\w+)*(Error|Exception)", line))
    print(f"exceptions in its log: {dict(said)}")


def hostile_part(
    bridge: BridgeProcess, chance: random.Random, good: str, count: int, statuses: Counter[str]
) -> None:
    for _ in range(count):
        body = _damaged(chance, good)
        length = chance.choice([len(body)] * 8 + [len(body) - 1, len(body) + 5, -1, 1 << 40])
        head = (
            f"{chance.choice(['POST', 'POST', 'POST', 'GET', 'PUT', 'x' * 99])} {chance.choice(_ROUTES)} "
            f"HTTP/1.{chance.choice('11110x')}\r\nHost: 127.0.0.1\r\n"
            f"Connection: close\r\nContent-Length: {length}\r\n\r\n"
        ).encode()
        sent = bytearray(head + body)
        if chance.random() < 0.2:
            for _ in range(chance.randrange(1, 9)):
                sent[chance.randrange(len(sent))] = chance.randrange(256)
        with closing(socket.create_connection(("127.0.0.1", bridge.ports["SAMM"]), timeout=2)) as raw:
            try:
                cut = chance.random() < 0.1
                raw.sendall(sent[: chance.randrange(len(sent))] if cut else sent)
                if cut or chance.random() < 0.1:
                    raw.shutdown(socket.SHUT_WR)
                if cut or length > len(body):
                    # The rest is not sent: the door waits for it, and this client does not.
                    statuses["left"] += 1
                    continue
                told = raw.recv(65536)
            except TimeoutError:
                statuses["no answer in 2 s"] += 1
                continue
            except OSError:
                statuses["reset"] += 1
                continue
        found = re.match(rb"HTTP/1\.\d (\d+)", told)
        statuses[found[1].decode() if found else "closed"] += 1


def _damaged(chance: random.Random, good: str) -> bytes:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(300))
    if kind == 1:
        return b"[" * chance.randrange(5000)
    text = list(good)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(text))
        text[at] = chance.choice('{}[]",:-0123456789eE.ntfaé\\')
    if kind == 2:
        return "".join(text[: chance.randrange(len(text))]).encode()
    return "".join(text).encode()


def show(what: str, seconds: list[float]) -> None:
    p50, p99 = np.percentile(np.array(seconds) * 1e3, (50, 99))
    print(f"{what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(seconds)})")


if __name__ == "__main__":
    main()
