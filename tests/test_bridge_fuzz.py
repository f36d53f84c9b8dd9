# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""REL10: 20,000 hostile messages over both protocols to a real bridge: no crash, no hang, memory flat."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import numpy as np
import psutil
import zmq
from bridge_process import BridgeProcess
from ipp_client import BlockingIppClient, Refused
from samm_extension import SammExtension

from samm_core import ipp
from samm_core.mask_codec import encode_mask
from samm_core.private import read_token

ROUNDS, IN_FLIGHT = 10, 200
PER_ROUND = 1_000
GROWTH_BYTES = 30 << 20

_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**53, 2**63, 2**64, 10**400, 1e308, -0.0, 0.5)
_OTHERS = (
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b"[]",
    b"{}",
    b"[" * 500 + b"]" * 500,
)


def ipp_seeds() -> list[list[bytes]]:
    """A valid message of each kind, but hello and bye: what they do would hide what the others do."""
    volume = {
        "key": "0" * 32,
        "name": "v",
        "shape_kji": [3, 4, 5],
        "components": 1,
        "dtype": "int16",
        "ijk_to_ras": np.eye(4).ravel().tolist(),
        "window": [0.0, 1.0],
        "file": None,
    }
    prompt = {
        "stream": 0,
        "uid": "u",
        "plane": 0,
        "index": 1,
        "segment": "s",
        "points_xy": [[1.5, 2.5]],
        "labels": [1],
    }
    stamps = {"started_ns": 1, "ended_ns": 2}
    task = {
        "number": 1,
        "uid": "u",
        "plane": 0,
        "segment": "s",
        "first": 0,
        "last": 2,
        "masks": [],
        "prompts": [],
        "box3d": None,
        "frozen": [1],
    }
    data = encode_mask(np.eye(4, 5).astype(bool))
    box3d = {"centre_ras": [1, 2, 3], "size_mm": [4, 5, 6], "orientation_xyzw": [0, 0, 0, 1]}
    of_task = {name: prompt[name] for name in ("index", "points_xy", "labels")}
    messages = [
        ("ping", b"", {"sent_ns": 1, "bridge_ns": 2, "received_ns": 3}),
        ("volume", b"", volume),
        ("volume", b"", {**volume, "file": "v.raw"}),
        ("chunk", b"x" * 100, {"key": "0" * 32, "offset": 0, "crc32": 1}),
        ("window", b"", {"uid": "u", "window": [0.0, 1.0]}),
        ("prompt", b"", {**prompt, "number": 1, "box_xyxy": [1.0, 2.0, 3.0, 4.0]}),
        ("prompt", b"", {**prompt, "number": 2, "box_xyxy": None, "stream": 3}),
        ("applied", b"", {"cycle": 1, "stream": 0, "completed": True, **stamps}),
        (
            "segment_volume",
            data,
            {**task, "task": "propagate", "masks": [{"index": 1, "shape": [4, 5], "size": len(data)}]},
        ),
        ("segment_volume", b"", {**task, "task": "box", "box3d": box3d}),
        ("segment_volume", b"", {**task, "task": "automatic", "prompts": [{**of_task, "box_xyxy": None}]}),
        ("cancel_volume", b"", {"number": 1}),
        ("stream", b"", {"on": True}),
        ("stream", b"", {"on": False}),
        ("image_taken", b"", {"number": 1}),
        (
            "track_prompt",
            b"",
            {"name": "s", "stamp_ns": 1, "points_xy": [[1.5, 2.5]], "labels": [1], "box_xyxy": None},
        ),
        ("track_rename", b"", {"name": "s", "new_name": "t"}),
        ("track_remove", b"", {"name": "s"}),
        ("segment_rename", b"", {"name": "s", "new_name": "t"}),
        ("segment_recolor", b"", {"name": "s", "color": [0, 0.5, 1]}),
        ("segment_remove", b"", {"name": "s"}),
        ("undo", b"", {}),
        ("redo", b"", {}),
        ("save", b"", {"name": "../x"}),
        ("select_model", b"", {"name": "vit_z"}),
        ("weights", b"", {}),
        ("fetch_weights", b"", {"name": "vit_z"}),
        ("cancel_fetch", b"", {}),
        ("embed", b"", {"planes": [0, 1, 2]}),
        ("cancel_embed", b"", {}),
    ]
    return [ipp.pack(ipp.FROM_SLICER, kind, buffer, id=7, **fields) for kind, buffer, fields in messages]


def samm_seeds() -> list[list[bytes]]:
    payloads = [
        struct.pack("<3i", 3, 4, 5),
        struct.pack("<6i", 1, 3, 4, 5, 4, 5) + bytes(20),
        struct.pack("<2i", 0, 0),
        struct.pack("<7i", 1, 0, 1, 1, 3, 3, 1) + struct.pack("<3i", 2, 2, 0),
        struct.pack("<i", 9),
        struct.pack("<5i", 1, 1, 3, 3, 1),
    ]
    return [[struct.pack("<i", command), payload] for command, payload in enumerate(payloads)]


def mutate(chance: random.Random, frames: list[bytes], others: list[list[bytes]]) -> list[bytes]:
    frames = list(frames)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(frames)) if frames else 0
        data = bytearray(frames[at]) if frames else bytearray()
        where = chance.randrange(len(data) + 1)
        kind = chance.randrange(9)
        if kind == 0 and data:
            data[min(where, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[where:]
        elif kind == 2:
            data[where:where] = chance.randbytes(chance.randint(1, 64))
        elif kind == 3:
            donor = chance.choice(chance.choice(others))
            data[where:] = donor[chance.randrange(len(donor) + 1) :]
        elif kind == 4 and len(data) >= 4:
            where = chance.randrange(len(data) - 3)
            data[where : where + 4] = struct.pack(
                "<i", chance.choice((-1, -404, 2**31 - 1, -(2**31), 0, 65536))
            )
        elif kind == 5:
            pieces = bytes(data).split(b":")
            if len(pieces) > 1:
                piece = chance.randrange(1, len(pieces))
                _, comma, rest = pieces[piece].partition(b",")
                value = chance.choice((*_OTHERS, *(repr(n).encode() for n in _NUMBERS)))
                pieces[piece] = value + comma + rest
                data = bytearray(b":".join(pieces))
        elif kind == 6:
            frames = [*frames, chance.randbytes(chance.randint(0, 32))]
            continue
        elif kind == 7:
            frames = frames[:-1]
            continue
        else:
            data = bytearray()
        if frames:
            frames[at] = bytes(data)
    return frames


class Attacker:
    """One DEALER with some messages in flight at all times."""

    def __init__(self, port: int, seeds: list[list[bytes]], envelope: list[bytes]) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._seeds, self._envelope = seeds, envelope
        self.replies = 0

    def close(self) -> None:
        self._context.destroy(linger=0)

    def attack(self, chance: random.Random, count: int) -> None:
        for number in range(count):
            frames = mutate(chance, chance.choice(self._seeds), self._seeds)
            self._socket.send_multipart([*self._envelope, *frames] or [b""])
            if number % IN_FLIGHT == 0:
                self._drain()

    def ask(self, frames: list[bytes], is_answer, timeout_s: float = 60.0) -> None:
        """All that was sent before is done when this is answered."""
        self._socket.send_multipart([*self._envelope, *frames])
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._socket.poll(200):
                self.replies += 1
                if is_answer(self._socket.recv_multipart()):
                    return
        raise AssertionError("the bridge does not answer any more")

    def _drain(self) -> None:
        while self._socket.poll(0):
            self._socket.recv_multipart()
            self.replies += 1


def test_twenty_thousand_hostile_messages_leave_a_bridge_that_serves(namespace: str, tmp_path: Path) -> None:
    chance = random.Random(20230412)
    pings = iter(range(10**6, 10**7))
    with BridgeProcess(namespace, tmp_path) as bridge:
        process = psutil.Process(bridge.process.pid)
        known = {"version": ipp.VERSION, "client": "attacker", "software": "", "token": read_token()}
        hello = ipp.pack(ipp.FROM_SLICER, "hello", **known)
        slicer = Attacker(bridge.ports["IPP/2"], ipp_seeds(), [])
        extension = Attacker(bridge.ports["SAMM"], samm_seeds(), [b""])
        sizes, threads = [], []
        for _ in range(ROUNDS):
            slicer.ask(hello, lambda frames: b'"welcome"' in frames[0])
            slicer.attack(chance, PER_ROUND)
            extension.attack(chance, PER_ROUND)
            # Its threads are there whenever they are counted.
            watch = ipp.pack(ipp.FROM_SLICER, "stream", on=True)
            slicer.ask(watch, lambda frames: b"images are sent." in frames[0])
            number = next(pings)
            ping = ipp.pack(ipp.FROM_SLICER, "ping", sent_ns=number)
            slicer.ask(ping, lambda frames, number=number: b'"sent_ns":%d' % number in frames[0])
            extension.ask(samm_seeds()[0], lambda frames: frames[-1] == b"\1")
            sizes.append(process.memory_info().rss)
            threads.append(process.num_threads())
        assert slicer.replies > ROUNDS * PER_ROUND / 4
        slicer.close()
        extension.close()
        assert bridge.process.poll() is None
        # What is loaded on first use is loaded by the second round.
        assert sizes[-1] - sizes[1] < GROWTH_BYTES, [size >> 20 for size in sizes]
        assert threads[-1] <= threads[1], threads
        assert not any("Traceback" in line for line in bridge.lines), bridge.lines[-30:]

        with BlockingIppClient(bridge.ports["IPP/2"], "honest") as honest:
            assert honest.hello()["version"] == ipp.VERSION
            try:
                honest.ask("undo")
            except Refused as refusal:
                assert "away" in str(refusal)
        with SammExtension(bridge.ports["SAMM"]) as client:
            assert client.set_image_size((3, 4, 5)) == b"\1"
