# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A live stream through the bridge: images with their labels to IPP/2's clients, and marks back to the graph."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge_process import BridgeProcess
from builtin_interfaces.msg import Time
from ipp_client import BlockingIppClient, Refused
from peer import Peer
from samm_msgs.msg import Track, Tracks
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from test_ipp_server import FakeGraph

from samm_core import ipp
from samm_ros import topics
from samm_ros.support.images import compressed_to_msg, image_to_msg
from samm_ros.tools.player import SENT
from slicer_ros_bridge.doors.ipp import stream_messages
from slicer_ros_bridge.doors.ipp.clients import SlicerClient
from slicer_ros_bridge.doors.ipp.stream_messages import StreamMessages
from slicer_ros_bridge.graph_actions import StreamImage, StreamTrack
from slicer_ros_bridge.live_stream import SILENT
from slicer_ros_bridge.worker import Worker

pytestmark = pytest.mark.xdist_group("graph")

SHAPE = (48, 64)
# Beyond what a float holds: stamps have to come back to the nanosecond.
T0 = 1_700_000_000_123_456_789


def header(stamp_ns: int) -> Header:
    return Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="probe")


def picture(seed: int, color: bool = False) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3) if color else SHAPE).astype(np.uint8)


def labels_of(value: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 5:45] = value
    return labels


def pixels_of(message: ipp.Message) -> tuple[np.ndarray, np.ndarray]:
    """Of a `stream_image`, read as docs/understand/ipp.md says: the pixels and the labels."""
    rows, columns = message["shape"]
    size = rows * columns * message["components"]
    pixels = np.frombuffer(message.buffer[:size], np.uint8)
    labels = np.frombuffer(zlib.decompress(message.buffer[size:]), np.uint8).reshape(rows, columns)
    return pixels.reshape(rows, columns, -1).squeeze(), labels


def repeat(
    slicer: BlockingIppClient,
    act: Callable[[], None],
    wanted: Callable[[ipp.Message], bool],
    taken: bool = False,
) -> ipp.Message:
    """Act until something wanted has come: DDS loses what is sent to a reader that it has not discovered yet.

    taken: whether images are said to be taken.
    """

    def is_wanted(message: ipp.Message) -> bool:
        if taken and message.type == "stream_image":
            slicer.send("image_taken", number=message["number"])
        return wanted(message)

    for _ in range(300):
        act()
        with contextlib.suppress(AssertionError):
            return slicer.wait(is_wanted, timeout_s=0.2)
    raise AssertionError(f"nothing wanted came; heard {[m.fields for m in slicer.heard[-3:]]}")


class Streamer:
    """The graph's side of a stream, as the node `track` publishes it, without a model; and the camera.

    It does not wait for a subscriber: meanwhile a client would be silent, and the bridge forgets a silent one.
    """

    def __init__(self, peer: Peer, kind: type = Image) -> None:
        topic = topics.IMAGE if kind is Image else topics.COMPRESSED_IMAGE
        self._images = peer.node.create_publisher(kind, topic, SENT)
        self._labels = peer.node.create_publisher(Image, topics.LABEL_IMAGE, topics.OF_A_STREAM)
        self._tracks = peer.node.create_publisher(Tracks, topics.TRACKS, topics.OF_A_STREAM)

    def send(self, number: int, image: Image | CompressedImage, labels: np.ndarray, **changes: Any) -> None:
        stamped = header(T0 + number)
        label_image = image_to_msg(labels)
        image.header = label_image.header = stamped
        track = Track(name="liver", label=7, state=Track.TRACKING, age=0.25, score=0.9, area=400)
        message = Tracks(header=stamped, frame=number, height=SHAPE[0], width=SHAPE[1], tracks=[track])
        for name, value in changes.items():
            setattr(message, name, value)
        self._images.publish(image)
        self._labels.publish(label_image)
        self._tracks.publish(message)


@pytest.fixture
def bridge(namespace: str, tmp_path: Path) -> Iterator[BridgeProcess]:
    """Without a graph."""
    with BridgeProcess(namespace, tmp_path) as bridge:
        yield bridge


@pytest.fixture
def slicer(bridge: BridgeProcess) -> Iterator[BlockingIppClient]:
    with BlockingIppClient(bridge.ports["IPP/2"], "slicer") as client:
        client.hello()
        yield client


@pytest.mark.parametrize("kind", ["grey", "colour", "compressed", "16 bits"])
def test_a_streams_pixels_labels_and_stamp_reach_a_client(
    slicer: BlockingIppClient, namespace: str, kind: str
) -> None:
    shown = picture(1, color=kind != "grey" and kind != "16 bits")
    slicer.ask("stream", on=True)
    with Peer(namespace) as peer:
        streamer = Streamer(peer, CompressedImage if kind == "compressed" else Image)
        numbers = iter(range(1, 1000))

        def send() -> None:
            if kind == "compressed":
                image = compressed_to_msg(shown, "png")
            else:
                image = image_to_msg(shown * np.uint16(257) if kind == "16 bits" else shown)
            streamer.send(next(numbers), image, labels_of(7))

        message = repeat(slicer, send, lambda m: m.type == "stream_image")
    pixels, labels = pixels_of(message)
    if kind == "16 bits":
        # The window leaves out the darkest and the brightest few.
        assert np.abs(pixels.astype(int) - shown).max() <= 4
    else:
        np.testing.assert_array_equal(pixels, shown)
    np.testing.assert_array_equal(labels, labels_of(7))
    assert message["stamp_ns"] == T0 + message["number"]
    assert message["tracks"] == [
        {
            "name": "liver",
            "label": 7,
            "state": "tracking",
            "cause": "",
            "age_s": 0.25,
            "score": pytest.approx(0.9),
            "area": 400,
            "error": "",
        }
    ]
    assert not message["stale"] and not message["error"]


def test_nothing_is_listened_to_while_nobody_watches(
    slicer: BlockingIppClient, bridge: BridgeProcess, namespace: str
) -> None:
    names = (topics.IMAGE, topics.COMPRESSED_IMAGE, topics.LABEL_IMAGE, topics.TRACKS)
    with Peer(namespace) as peer, BlockingIppClient(bridge.ports["IPP/2"], "the other") as other:
        other.hello()

        def listeners() -> list[int]:
            return [peer.node.count_subscribers(name) for name in names]

        peer.wait_until(lambda: peer.node.count_subscribers(topics.TASK_EVENTS), "the bridge")
        assert listeners() == [0, 0, 0, 0]
        slicer.ask("stream", on=True)
        peer.wait_until(lambda: listeners() == [1, 1, 1, 1], "subscriptions for the first")
        other.ask("stream", on=True)
        slicer.ask("stream", on=False)
        assert listeners() == [1, 1, 1, 1]
        other.ask("bye")
        peer.wait_until(lambda: listeners() == [0, 0, 0, 0], "end of the subscriptions")


def test_a_graph_that_says_nothing_any_more_leaves_a_stale_stream(
    slicer: BlockingIppClient, namespace: str
) -> None:
    slicer.ask("stream", on=True)
    with Peer(namespace) as peer:
        streamer, numbers = Streamer(peer), iter(range(1, 1000))
        message = repeat(
            slicer,
            lambda: streamer.send(next(numbers), image_to_msg(picture(1)), labels_of(7)),
            lambda m: m.type == "stream_image",
        )
        slicer.send("image_taken", number=message["number"])
        while not message["stale"]:
            message = slicer.wait(lambda m: m.type == "stream_image")
            slicer.send("image_taken", number=message["number"])
    assert message["error"] == SILENT
    np.testing.assert_array_equal(pixels_of(message)[0], picture(1))


def test_the_graphs_own_word_that_images_stay_away_is_passed_on(
    slicer: BlockingIppClient, namespace: str
) -> None:
    slicer.ask("stream", on=True)
    with Peer(namespace) as peer:
        streamer, numbers = Streamer(peer), iter(range(1, 1000))

        def send() -> None:
            number = next(numbers)
            streamer.send(number, image_to_msg(picture(1)), labels_of(7))
            streamer.send(number, image_to_msg(picture(1)), labels_of(7), stale=True, error="Stopped.")

        message = repeat(slicer, send, lambda m: m.type == "stream_image" and m["stale"], taken=True)
    assert message["error"] == "Stopped."


def test_marks_without_a_graph_are_refused_in_a_sentence(slicer: BlockingIppClient) -> None:
    mark = {"name": "liver", "stamp_ns": 0, "points_xy": [[1, 2]], "labels": [1], "box_xyxy": None}
    with pytest.raises(Refused, match="edit_tracks is away"):
        slicer.ask("track_prompt", **mark)
    with pytest.raises(Refused, match="0 labels for 1 points"):
        slicer.ask("track_prompt", **{**mark, "labels": []})


MARK = {"name": "liver", "stamp_ns": 1, "points_xy": [[1.5, 2]], "labels": [1], "box_xyxy": [1, 2, 3, 4]}
IMAGE = {
    "number": 1,
    "stamp_ns": 1,
    "shape": [4, 5],
    "components": 1,
    "tracks": [
        {
            "name": "liver",
            "label": 1,
            "state": "lost",
            "cause": "c",
            "age_s": 0.1,
            "score": 1,
            "area": 2,
            "error": "",
        }
    ],
    "stale": False,
    "error": "",
}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("stream", {"on": 1}),
        ("image_taken", {"number": -1}),
        ("track_prompt", {**MARK, "name": ""}),
        ("track_prompt", {**MARK, "name": "a\nb"}),
        ("track_prompt", {**MARK, "stamp_ns": -1}),
        ("track_prompt", {**MARK, "stamp_ns": 2**31 * 10**9}),
        ("track_prompt", {**MARK, "stamp_ns": 1.5}),
        ("track_prompt", {**MARK, "labels": [2]}),
        ("track_prompt", {**MARK, "box_xyxy": [1, 2, 3]}),
        ("track_rename", {"name": "a", "new_name": ""}),
        ("track_remove", {"name": "a" * (ipp.MAX_NAME + 1)}),
        ("stream_image", {**IMAGE, "shape": [4, 0]}),
        ("stream_image", {**IMAGE, "components": 4}),
        ("stream_image", {**IMAGE, "stamp_ns": -1}),
        ("stream_image", {**IMAGE, "tracks": [{**IMAGE["tracks"][0], "state": "found"}]}),
        ("stream_image", {**IMAGE, "tracks": [{**IMAGE["tracks"][0], "label": 0}]}),
        ("stream_image", {**IMAGE, "tracks": [{**IMAGE["tracks"][0], "age_s": float("nan")}]}),
        ("stream_image", {**IMAGE, "tracks": IMAGE["tracks"] * (ipp.MAX_TRACKS + 1)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_out_of_range_is_refused_on_both_sides(kind: str, changes: dict[str, Any]) -> None:
    types = ipp.FROM_BRIDGE if kind in ipp.FROM_BRIDGE else ipp.FROM_SLICER
    buffer = b"x" if types[kind].buffer else b""
    with pytest.raises(ipp.ProtocolError, match=kind):
        ipp.pack(types, kind, buffer, **changes)
    frames = [json.dumps({"type": kind, **changes}).encode(), *([buffer] if buffer else [])]
    with pytest.raises(ipp.ProtocolError):
        ipp.unpack(types, frames)


def test_an_image_may_be_longer_than_other_buffers_but_not_without_end() -> None:
    packed = ipp.pack(ipp.FROM_BRIDGE, "stream_image", bytes(ipp.MAX_IMAGE_BYTES), **IMAGE)
    assert ipp.unpack(ipp.FROM_BRIDGE, packed)["tracks"] == IMAGE["tracks"]
    with pytest.raises(ipp.ProtocolError, match=f"at most {ipp.MAX_IMAGE_BYTES}"):
        ipp.pack(ipp.FROM_BRIDGE, "stream_image", bytes(ipp.MAX_IMAGE_BYTES + 1), **IMAGE)


class Watched:
    """StreamMessages with clients; what is posted to the doors' thread lies in a queue until run() runs it."""

    def __init__(self) -> None:
        self.graph = FakeGraph()
        self.posted: queue.SimpleQueue = queue.SimpleQueue()
        self.worker = Worker(self.posted.put, "stream")
        self.problems: list[str] = []
        self.stream = StreamMessages(self.graph, self.worker, self.problems.append)
        self.sent: dict[str, list[ipp.Message]] = {}

    def client(self, name: str) -> SlicerClient:
        self.sent[name] = []

        def send(identity: bytes, frames: list[bytes]) -> None:
            self.sent[name].append(ipp.unpack(ipp.FROM_BRIDGE, frames))

        return SlicerClient(name.encode(), send, self.problems.append, name, 0.0)

    def say(self, client: SlicerClient, kind: str, **fields: Any) -> None:
        message = ipp.unpack(ipp.FROM_SLICER, ipp.pack(ipp.FROM_SLICER, kind, **fields))
        getattr(self.stream, f"on_{kind}")(client, message)

    def run(self) -> None:
        """Until the worker's next call has ended."""
        self.posted.get(timeout=60)()

    def show(self, number: int, decode: Any = lambda: (picture(1), labels_of(7))) -> None:
        self.graph.on_image(StreamImage(number, number, (), False, "", decode))

    def images(self, name: str) -> list[int]:
        return [message["number"] for message in self.sent[name] if message.type == "stream_image"]


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.worker.close()


def test_a_slow_client_gets_the_newest_image_and_a_fast_one_all(watched: Watched) -> None:
    slow, fast = watched.client("slow"), watched.client("fast")
    for client in (slow, fast):
        watched.say(client, "stream", on=True)
    for number in (1, 2, 3):
        watched.show(number)
        watched.run()
        watched.say(fast, "image_taken", number=number)
    assert (watched.images("slow"), watched.images("fast")) == ([1], [1, 2, 3])
    watched.say(slow, "image_taken", number=1)
    watched.run()
    assert watched.images("slow") == [1, 3]
    watched.say(slow, "image_taken", number=3)
    watched.show(4)
    watched.run()
    assert (watched.images("slow"), watched.images("fast")) == ([1, 3, 4], [1, 2, 3, 4])
    assert watched.posted.empty()


def test_while_an_image_is_packed_newer_ones_are_dropped(watched: Watched) -> None:
    client, may_go = watched.client("a"), threading.Event()

    def slowly() -> tuple[np.ndarray, np.ndarray]:
        assert may_go.wait(60)
        return picture(1), labels_of(7)

    watched.say(client, "stream", on=True)
    watched.show(1, slowly)
    watched.show(2)
    watched.show(3)
    may_go.set()
    watched.run()
    watched.say(client, "image_taken", number=1)
    watched.run()
    assert watched.images("a") == [1, 3]


def test_an_image_that_was_lost_on_the_way_does_not_end_the_stream(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = watched.client("a")
    watched.say(client, "stream", on=True)
    watched.show(1)
    watched.run()
    watched.show(2)
    watched.stream.tick()
    assert watched.posted.empty()
    monkeypatch.setattr(ipp, "TIMEOUT_S", -1.0)
    watched.stream.tick()
    watched.run()
    assert watched.images("a") == [1, 2]


def test_an_image_that_cannot_be_sent_is_told_once_and_the_next_one_is_sent(watched: Watched) -> None:
    client = watched.client("a")
    watched.say(client, "stream", on=True)
    watched.show(1, lambda: (np.zeros((6000, 6000), np.uint8), np.zeros((6000, 6000), np.uint8)))
    watched.run()
    assert len(watched.problems) == 1 and f"at most {ipp.MAX_IMAGE_BYTES}" in watched.problems[0]
    watched.show(2)
    watched.run()
    assert watched.images("a") == [2]


def test_the_last_client_that_leaves_ends_the_watch(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = watched.client("one"), watched.client("other")
    watched.say(one, "stream", on=True)
    watched.say(other, "stream", on=True)
    monkeypatch.setattr(stream_messages, "LINGER_S", -1.0)
    watched.stream.end_for(one)
    watched.stream.tick()
    assert watched.graph.on_image is not None
    monkeypatch.setattr(stream_messages, "LINGER_S", 3600.0)
    watched.say(other, "stream", on=False)
    watched.stream.tick()
    assert watched.graph.on_image is not None, "it is let go of at once"
    monkeypatch.setattr(stream_messages, "LINGER_S", -1.0)
    watched.stream.tick()
    assert watched.graph.on_image is None
    watched.say(one, "stream", on=True)
    assert watched.graph.on_image is not None


def test_long_sentences_are_cut_and_odd_states_are_not_trusted(watched: Watched) -> None:
    client = watched.client("a")
    watched.say(client, "stream", on=True)
    track = StreamTrack("liver", 1, "uncertain", "c" * 9999, 0.0, 0.0, 1, "e" * 9999)
    watched.graph.on_image(
        StreamImage(1, 1, (track,) * 30, True, "x" * 9999, lambda: (picture(1, color=True), labels_of(1)))
    )
    watched.run()
    message = watched.sent["a"][-1]
    assert len(message["tracks"]) == 30 and message["components"] == 3
    assert len(message["tracks"][0]["cause"]) == ipp.MAX_REASON


def test_marks_name_their_client_and_the_marked_image(watched: Watched) -> None:
    client = watched.client("a")
    watched.say(client, "track_prompt", **{**MARK, "stamp_ns": T0})
    watched.say(client, "track_prompt", **MARK)
    (first, stamp_ns), (second, _) = watched.graph.marks
    assert (first.client_id, first.segment, stamp_ns) == ("a", "liver", T0)
    assert second.cycle > first.cycle > 0
    assert not first.prompt.in_ras
    np.testing.assert_array_equal(first.prompt.points, [[1.5, 2, 0]])
    np.testing.assert_array_equal(first.prompt.box, [[1, 2, 0], [3, 4, 0]])
    watched.say(client, "track_rename", id=5, name="liver", new_name="lung")
    assert "Nothing is called liver" in watched.sent["a"][-1]["message"]
    watched.say(client, "track_remove", id=6, name="liver")
    assert (watched.sent["a"][-1].type, watched.sent["a"][-1]["re"]) == ("done", 6)


def test_marks_of_a_client_are_followed_by_the_graph_and_come_back_as_objects(
    shared_graph: str, tmp_path: Path
) -> None:
    """Through the real node `track` and its model: a bright disc on a dark ground."""
    rows, columns = np.indices((96, 128))
    disc = (rows - 48) ** 2 + (columns - 60) ** 2 < 22**2
    shown = np.where(disc, 200, 30).astype(np.uint8)
    name = f"disc-{uuid.uuid4().hex[:6]}"
    with (
        BridgeProcess(shared_graph, tmp_path) as bridge,
        Peer(shared_graph) as peer,
        BlockingIppClient(bridge.ports["IPP/2"], "slicer") as slicer,
    ):
        slicer.hello()
        slicer.ask("stream", on=True)
        images = peer.publisher(Image, topics.IMAGE, SENT)
        stamps = iter(range(T0, T0 + 10**12, 33_000_000))

        def send() -> None:
            image = image_to_msg(shown)
            image.header = header(next(stamps))
            images.publish(image)

        first = repeat(slicer, send, lambda m: m.type == "stream_image", taken=True)
        np.testing.assert_array_equal(pixels_of(first)[0], shown)
        mark = {"points_xy": [[60, 48]], "labels": [1], "box_xyxy": [36, 24, 84, 72]}
        done = slicer.ask("track_prompt", name=name, stamp_ns=first["stamp_ns"], **mark)
        assert name in done["text"]

        def is_followed(message: ipp.Message, wanted: str) -> bool:
            if message.type != "stream_image":
                return False
            return any(
                t["name"] == wanted and t["state"] == "tracking" and t["area"] for t in message["tracks"]
            )

        message = repeat(slicer, send, lambda m: is_followed(m, name), taken=True)
        track = next(t for t in message["tracks"] if t["name"] == name)
        mask = pixels_of(message)[1] == track["label"]
        assert 2 * (mask & disc).sum() > 0.9 * (mask.sum() + disc.sum())

        slicer.ask("track_rename", name=name, new_name=f"{name} again")
        repeat(slicer, send, lambda m: is_followed(m, f"{name} again"), taken=True)
        with pytest.raises(Refused, match=name):
            slicer.ask("track_rename", name=name, new_name="x")
        with pytest.raises(Refused, match="no longer kept"):
            slicer.ask("track_prompt", name=name, stamp_ns=1, **mark)
        slicer.ask("track_remove", name=f"{name} again")
        repeat(
            slicer,
            send,
            lambda m: m.type == "stream_image" and not any(name in t["name"] for t in m["tracks"]),
            taken=True,
        )
