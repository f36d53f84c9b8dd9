# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Live streams over real DDS: marked objects are followed, lost and found, whatever comes as images."""

from __future__ import annotations

import subprocess
import uuid
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from camera import PICTURES, Camera, box_of, scene_with_a_disc, time_of
from geometry_msgs.msg import Point
from peer import Peer
from rclpy.publisher import Publisher
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as BagFile
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from samm_msgs.msg import ModelInfo, Prompt, TaskEvent, Track, Tracks
from samm_msgs.srv import EditTracks
from sensor_msgs.msg import CompressedImage, Image

from samm_core.latency.bag import BagReader
from samm_core.latency.cycles import complete_cycles
from samm_core.latency.events import Task, event_of
from samm_ros import topics
from samm_ros.supervision.processes import find_executable
from samm_ros.support.images import array_from_image, image_to_msg
from samm_ros.support.world import stamp_ns

pytestmark = pytest.mark.xdist_group("graph")


@pytest.fixture(scope="module")
def scene() -> tuple[list[np.ndarray], list[np.ndarray]]:
    return scene_with_a_disc()


@pytest.fixture
def peer(shared_graph: str) -> Iterator[Peer]:
    with Peer(shared_graph) as peer:
        peer.listen(Tracks, topics.TRACKS, topics.OF_A_STREAM)
        yield peer
        edit(peer, edit=EditTracks.Request.REMOVE)


@pytest.fixture
def images(peer: Peer) -> Publisher:
    return peer.publisher(Image, topics.IMAGE, topics.NEWEST)


@pytest.fixture
def camera(images: Publisher, scene: tuple[list[np.ndarray], list[np.ndarray]]) -> Iterator[Camera]:
    with Camera(images, scene[0]) as camera:
        yield camera


def edit(peer: Peer, **fields: object) -> EditTracks.Response:
    return peer.call(EditTracks, topics.EDIT_TRACKS, EditTracks.Request(**fields))


def box_prompt(name: str, box: tuple[float, float, float, float], stamp: object = None) -> Prompt:
    x0, y0, x1, y1 = map(float, box)
    prompt = Prompt(segment=name, coordinates=Prompt.PIXEL, has_box=True, client_id="test", cycle=1)
    prompt.box_min, prompt.box_max = Point(x=x0, y=y0), Point(x=x1, y=y1)
    if stamp is not None:
        prompt.header.stamp = stamp
    return prompt


def mark(peer: Peer, camera: Camera, masks: list[np.ndarray], name: str = "disc") -> None:
    """Mark the disc on the newest image that is known to have arrived."""

    def arrived() -> list[int]:
        stamps = [stamp_ns(each.header) for each in peer.heard[topics.TRACKS]]
        return [each for each in stamps if each in camera.sent]

    peer.wait_until(arrived, "tracks of the camera's images")
    stamp = arrived()[-1]
    prompt = box_prompt(name, box_of(masks[camera.sent[stamp]]), time_of(stamp))
    response = edit(peer, edit=EditTracks.Request.PROMPT, prompt=prompt)
    assert response.success, response.message


def tracked(name: str, state: int = Track.TRACKING) -> Callable[[Tracks], bool]:
    return lambda message: any(t.name == name and t.state == state for t in message.tracks)


def fresh(peer: Peer) -> None:
    """What comes from now on counts."""
    peer.heard[topics.TRACKS].clear()


def dice_of_box(message: Tracks, truth: np.ndarray) -> float:
    """Dice of the first object's box with that of the truth."""
    boxes = np.zeros((2, *truth.shape), bool)
    for box, (x0, y0, x1, y1) in zip(boxes, (message.tracks[0].box_xyxy, box_of(truth, 0)), strict=True):
        box[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
    return dice(*boxes)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(1.0, float(a.sum() + b.sum()))


def test_a_mark_is_followed_at_the_images_own_stamps(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    peer.listen(Image, topics.LABEL_IMAGE, topics.OF_A_STREAM)
    mark(peer, camera, scene[1])
    peer.wait_for(topics.TRACKS, tracked("disc"))
    peer.heard[topics.LABEL_IMAGE].clear()
    peer.wait_until(lambda: len(peer.heard[topics.LABEL_IMAGE]) > 2 * PICTURES, "two rounds of the disc")

    labels = list(peer.heard[topics.LABEL_IMAGE])
    by_stamp = {stamp_ns(each.header): each for each in peer.heard[topics.TRACKS]}
    scores = []
    for each in labels:
        stamp = stamp_ns(each.header)
        assert each.header.frame_id == "camera" and each.encoding == "mono8"
        truth = scene[1][camera.sent[stamp]]
        picture = array_from_image(each)
        assert picture.shape == truth.shape
        (track,) = by_stamp[stamp].tracks
        assert set(np.unique(picture)) <= {0, track.label}
        mask = picture == track.label
        assert track.area == mask.sum()
        if track.area:
            rows, columns = np.nonzero(mask)
            assert np.allclose(track.box_xyxy, (columns.min(), rows.min(), columns.max(), rows.max()))
            assert np.allclose(track.centre_xy, (columns.mean(), rows.mean()), atol=0.01)
            # On a busy computer it is UNCERTAIN while the model has no time for it.
            scores.append(dice(mask, truth))
    assert len(scores) > PICTURES, "it was followed for a round and more"
    assert np.mean(scores) > 0.9 and min(scores) > 0.7


def test_a_mark_on_an_image_of_a_second_ago_is_carried_to_now(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    peer.wait_until(lambda: len(peer.heard[topics.TRACKS]) > 20, "a second of the stream")
    stamp = stamp_ns(peer.heard[topics.TRACKS][-15].header)
    prompt = box_prompt("late", box_of(scene[1][camera.sent[stamp]]), time_of(stamp))
    assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=prompt).success
    found = peer.wait_for(topics.TRACKS, tracked("late"))
    rows, columns = np.nonzero(scene[1][camera.sent[stamp_ns(found.header)]])
    (track,) = found.tracks
    assert np.hypot(*(track.centre_xy - (columns.mean(), rows.mean()))) < 4
    assert (track.client_id, track.cycle) == ("test", 1)


def test_marks_by_the_topic_add_and_correct_objects_that_are_renamed_and_removed(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    prompts = peer.publisher(Prompt, topics.TRACK_PROMPTS, topics.OF_ALL_CLIENTS)
    peer.wait_until(lambda: peer.heard[topics.TRACKS], "tracks")
    prompt = box_prompt("one", box_of(scene[1][3]), camera.stamp_of(3))
    first = peer.publish_until(prompts, prompt, topics.TRACKS, tracked("one"))
    mark(peer, camera, scene[1], "two")
    both = peer.wait_for(topics.TRACKS, lambda m: tracked("one")(m) and tracked("two")(m))
    assert [t.name for t in both.tracks] == ["one", "two"]
    assert len({t.label for t in both.tracks}) == 2
    label = first.tracks[0].label

    correction = box_prompt("one", box_of(scene[1][9]), camera.stamp_of(9))
    correction.cycle = 7
    assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=correction).success
    corrected = peer.wait_for(
        topics.TRACKS, lambda m: any(t.cycle == 7 for t in m.tracks) and tracked("one")(m)
    )
    assert [(t.name, t.label) for t in corrected.tracks][0] == ("one", label)

    assert edit(peer, edit=EditTracks.Request.RENAME, name="one", new_name="three").success
    renamed = peer.wait_for(topics.TRACKS, tracked("three"))
    assert {t.name for t in renamed.tracks} == {"three", "two"}
    taken = edit(peer, edit=EditTracks.Request.RENAME, name="three", new_name="two")
    assert not taken.success and "two" in taken.message

    assert edit(peer, edit=EditTracks.Request.REMOVE, name="three").success
    fresh(peer)
    left = peer.wait_for(topics.TRACKS, lambda m: not m.stale)
    assert [t.name for t in left.tracks] == ["two"]


def test_what_cannot_be_marked_is_refused_in_a_sentence(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    peer.wait_until(lambda: peer.heard[topics.TRACKS], "tracks")
    box = box_of(scene[1][0])
    in_ras = box_prompt("ras", box)
    in_ras.coordinates = Prompt.RAS
    cases = {
        "no longer kept": box_prompt("old", box, time_of(1_000_000_000)),
        "outside": box_prompt("outside", (5000, 5000, 5010, 5010)),
        "no name": box_prompt("", box),
        "RAS": in_ras,
        "empty": Prompt(segment="empty", coordinates=Prompt.PIXEL),
        "no area": box_prompt("flat", (5, 5, 5, 9)),
    }
    for expected, prompt in cases.items():
        response = edit(peer, edit=EditTracks.Request.PROMPT, prompt=prompt)
        assert not response.success and expected in response.message, (expected, response.message)
    assert not edit(peer, edit=EditTracks.Request.REMOVE, name="nobody").success
    assert not edit(peer, edit=77).success
    fresh(peer)
    assert peer.wait_for(topics.TRACKS, lambda m: not m.stale).tracks == []


def test_images_of_another_size_or_kind_lose_what_was_followed_and_it_can_be_marked_again(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    mark(peer, camera, scene[1])
    peer.wait_for(topics.TRACKS, tracked("disc"))
    larger, masks = scene_with_a_disc((240, 320))
    camera.show([np.full_like(larger[0], 15)])
    lost = peer.wait_for(topics.TRACKS, tracked("disc", Track.LOST))
    assert (lost.height, lost.width) == (240, 320)
    assert "changed" in lost.tracks[0].cause and lost.tracks[0].area == 0
    camera.show(larger)
    fresh(peer)
    camera.sent.clear()
    mark(peer, camera, masks)
    peer.wait_for(topics.TRACKS, tracked("disc"))

    # In grey it is another kind of image, of the same disc: it is lost, and found again at once.
    before = peer.heard[topics.TRACKS][-1].frame
    camera.show([each[..., 0] for each in larger])
    again = peer.wait_for(topics.TRACKS, lambda m: m.frame > before + 10 and tracked("disc")(m))
    assert dice_of_box(again, masks[camera.sent[stamp_ns(again.header)]]) > 0.8


def test_a_lost_object_is_not_drawn_and_comes_back(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    pictures, masks = scene
    mark(peer, camera, masks)
    peer.wait_for(topics.TRACKS, tracked("disc"))
    # Somebody holds a cloth before the lens.
    camera.show([np.full_like(pictures[0], 15)])
    fresh(peer)
    lost = peer.wait_for(topics.TRACKS, tracked("disc", Track.LOST))
    assert lost.tracks[0].area == 0 and lost.tracks[0].cause
    camera.show(pictures)
    fresh(peer)
    peer.wait_for(topics.TRACKS, tracked("disc"))


def test_compressed_images_are_followed_and_broken_ones_are_counted(
    peer: Peer, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    publisher = peer.publisher(CompressedImage, topics.COMPRESSED_IMAGE, topics.NEWEST)
    with Camera(publisher, scene[0], compression="jpeg") as camera:
        mark(peer, camera, scene[1])
        before = peer.wait_for(topics.TRACKS, tracked("disc"))
        broken = camera.message(scene[0][0])
        broken.data = broken.data[: len(broken.data) // 2]
        told = peer.publish_until(publisher, broken, topics.TRACKS, lambda m: m.refused > before.refused)
        assert tracked("disc")(told) or tracked("disc", Track.UNCERTAIN)(told)
        garbage = CompressedImage(format="jpeg", data=array("B", b"no jpeg at all"))
        peer.publish_until(publisher, garbage, topics.TRACKS, lambda m: m.refused > told.refused)
    with Camera(publisher, [each[..., 0] for each in scene[0]], compression="png") as camera:
        fresh(peer)
        mark(peer, camera, scene[1], "in png")
        peer.wait_for(topics.TRACKS, tracked("in png"))


@pytest.mark.parametrize(
    "image",
    [
        Image(),
        Image(height=0, width=5, encoding="mono8", step=5),
        Image(height=4, width=4, encoding="mono8", step=4, data=array("B", bytes(3))),
        Image(height=4, width=4, encoding="mono8", step=2, data=array("B", bytes(16))),
        Image(height=4, width=4, encoding="32FC1", step=16, data=array("B", bytes(64))),
        Image(height=2**31, width=2**31, encoding="rgb8", step=8, data=array("B", bytes(64))),
    ],
    ids=["empty", "no rows", "too short", "narrow step", "of floats", "huge"],
)
def test_an_image_that_is_none_is_refused_and_loses_nothing(
    peer: Peer,
    camera: Camera,
    images: Publisher,
    scene: tuple[list[np.ndarray], list[np.ndarray]],
    image: Image,
) -> None:
    mark(peer, camera, scene[1])
    before = peer.wait_for(topics.TRACKS, tracked("disc"))
    told = peer.publish_until(images, image, topics.TRACKS, lambda m: m.refused > before.refused)
    assert [t.name for t in told.tracks] == ["disc"] and told.tracks[0].state != Track.LOST


def test_a_stream_of_images_that_none_can_read_says_so(peer: Peer, images: Publisher) -> None:
    floats = Image(height=4, width=4, encoding="32FC1", step=16, data=array("B", bytes(64)))
    told = peer.publish_until(images, floats, topics.TRACKS, lambda m: "32FC1" in m.error)
    assert told.refused > 0
    # The next one that can be read ends that.
    dot = Image(height=1, width=1, encoding="mono8", step=1, data=array("B", b"\x07"))
    peer.publish_until(images, dot, topics.TRACKS, lambda m: m.width == 1 and not m.error)


def test_an_image_of_one_pixel_is_an_image(peer: Peer, images: Publisher) -> None:
    dot = Image(height=1, width=1, encoding="mono8", step=1, data=array("B", b"\x07"))
    told = peer.publish_until(images, dot, topics.TRACKS, lambda m: (m.height, m.width) == (1, 1))
    assert told.tracks == []


def test_without_stamps_the_newest_image_is_meant(
    peer: Peer, images: Publisher, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    still = Camera(images, scene[0]).message(scene[0][0])
    peer.publish_until(images, still, topics.TRACKS, lambda m: m.width == still.width and not m.stale)
    assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=box_prompt("still", box_of(scene[1][0]))).success
    found = peer.publish_until(images, still, topics.TRACKS, tracked("still"))
    assert stamp_ns(found.header) == 0


def test_stamps_that_go_back_lose_what_was_followed(
    peer: Peer, images: Publisher, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    camera = Camera(images, scene[0])
    message = camera.message(scene[0][0])
    # A recording of long ago: its clock says nothing of ours.
    clock = iter(range(10**9, 10**12, 33_000_000))
    peer.do_until(lambda: camera.send(message, next(clock)), topics.TRACKS, lambda m: m.width == 256)
    assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=box_prompt("disc", box_of(scene[1][0]))).success
    peer.do_until(lambda: camera.send(message, next(clock)), topics.TRACKS, tracked("disc"))
    # The recording begins again, with something else.
    camera.send(camera.message(np.full_like(scene[0][0], 15)), 5)
    lost = peer.wait_for(topics.TRACKS, tracked("disc", Track.LOST))
    assert "back" in lost.tracks[0].cause


def test_what_is_shown_is_stale_when_images_stay_away_and_lost_after_a_pause(
    peer: Peer, camera: Camera, images: Publisher, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    peer.listen(Image, topics.STREAM_OVERLAY, topics.OF_A_STREAM)
    mark(peer, camera, scene[1])
    peer.wait_for(topics.TRACKS, tracked("disc"))
    # An earlier stream may have become stale meanwhile.
    fresh(peer)
    camera.stop()
    stale = peer.wait_for(topics.TRACKS, lambda m: m.stale)
    # The camera's last image, unless the node was still at the one before when the camera stopped.
    last = stamp_ns(stale.header)
    assert last in list(camera.sent)[-3:]
    # Its overlay is dimmed, with a border.
    peer.wait_until(
        lambda: sum(stamp_ns(each.header) == last for each in peer.heard[topics.STREAM_OVERLAY]) > 1,
        "a dimmed overlay",
    )
    overlays = [each for each in peer.heard[topics.STREAM_OVERLAY] if stamp_ns(each.header) == last]
    bright, dim = (array_from_image(each).mean() for each in overlays[:2])
    assert dim < 0.7 * bright
    # Ten seconds later by its stamps, something else lies there.
    camera.send(camera.message(np.full_like(scene[0][0], 15)), last + 10_000_000_000)
    lost = peer.wait_for(topics.TRACKS, tracked("disc", Track.LOST))
    assert "10.0 s" in lost.tracks[0].cause and not lost.stale


def test_a_mark_on_a_picture_that_stands_still_is_answered_without_further_images(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    peer.wait_until(lambda: any(not m.stale and m.width == 256 for m in peer.heard[topics.TRACKS]), "images")
    fresh(peer)
    camera.stop()
    stale = peer.wait_for(topics.TRACKS, lambda m: m.stale)
    shown = camera.sent[stamp_ns(stale.header)]
    prompt = box_prompt("still", box_of(scene[1][shown]))
    assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=prompt).success
    found = peer.wait_for(topics.TRACKS, tracked("still"))
    assert found.stale and found.header == stale.header and found.tracks[0].area > 0
    fresh(peer)
    assert edit(peer, edit=EditTracks.Request.REMOVE, name="still").success
    peer.wait_for(topics.TRACKS, lambda m: not m.tracks)


def test_every_image_is_followed_dropped_or_refused_in_a_burst_too(peer: Peer, images: Publisher) -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    camera = Camera(images, [picture])
    message = camera.message(picture)
    before = peer.do_until(
        lambda: camera.send(message, camera.count), topics.TRACKS, lambda m: m.width == 640
    )
    fresh(peer)
    # As fast as they can be sent, and so more than are followed. The network may lose the last of them, which a later
    # image tells.
    for _ in range(100):
        camera.send(message, camera.count)
    sent = camera.count
    last = peer.do_until(
        lambda: camera.send(message, camera.count), topics.TRACKS, lambda m: stamp_ns(m.header) >= sent
    )
    # Stamps count the images.
    used, dropped = last.frame - before.frame, last.dropped - before.dropped
    assert used + dropped == stamp_ns(last.header) - stamp_ns(before.header)
    assert last.refused == before.refused


def test_a_camera_that_is_started_again_is_followed_on(
    peer: Peer, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    first = peer.publisher(Image, topics.IMAGE, topics.NEWEST)
    with Camera(first, scene[0]) as camera:
        mark(peer, camera, scene[1])
        before = peer.wait_for(topics.TRACKS, tracked("disc"))
    peer.node.destroy_publisher(first)
    second = peer.publisher(Image, topics.IMAGE, topics.NEWEST)
    with Camera(second, scene[0]) as camera:
        peer.wait_until(lambda: camera.count > 20, "twenty images")
        fresh(peer)
        after = peer.wait_for(topics.TRACKS, lambda m: not m.stale)
        assert after.frame > before.frame and after.dropped <= before.dropped + camera.count
        fresh(peer)
        mark(peer, camera, scene[1])
        peer.wait_for(topics.TRACKS, tracked("disc"))


def test_keyframes_are_traced_as_cycles_of_five_tasks(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    peer.listen(TaskEvent, topics.TASK_EVENTS, topics.EVENTS)
    mark(peer, camera, scene[1])
    peer.wait_until(
        lambda: (
            sum(
                e.task == TaskEvent.APL_MSK and e.client_id == "stream"
                for e in peer.heard[topics.TASK_EVENTS]
            )
            > 1
        ),
        "two keyframes",
    )
    events = [event_of(each) for each in peer.heard[topics.TASK_EVENTS] if each.client_id == "stream"]
    for cycle in complete_cycles(events):
        assert cycle.image.source == "stream" and cycle.completion is not None
        assert cycle.ended_ns[Task.APL_MSK] >= cycle.ended_ns[Task.CPL_INF] > cycle.started_ns
    assert complete_cycles(events)


def test_a_bag_of_images_is_followed_while_it_is_played_and_found_anew_where_it_begins_again(
    peer: Peer, images: Publisher, scene: tuple[list[np.ndarray], list[np.ndarray]], tmp_path: Path
) -> None:
    recorded = [
        (each.log_ns, each.data)
        for each in BagReader(bag_of(scene[0], tmp_path / "bag")).messages("image_raw")
    ]
    assert len(recorded) == PICTURES
    bag = iter(recorded)

    def play() -> None:
        images.publish(next(bag)[1])

    def is_of_the_bag(message: Tracks) -> bool:
        return message.header.frame_id == "recorded"

    newest = peer.do_until(play, topics.TRACKS, is_of_the_bag)
    stamps = [log_ns for log_ns, _ in recorded]
    prompt = box_prompt("disc", box_of(scene[1][stamps.index(stamp_ns(newest.header))]), newest.header.stamp)
    assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=prompt).success
    found = peer.do_until(play, topics.TRACKS, tracked("disc"))
    assert dice_of_box(found, scene[1][stamps.index(stamp_ns(found.header))]) > 0.8
    # As `ros2 bag play --loop` does.
    bag = iter(recorded)
    fresh(peer)
    again = peer.do_until(play, topics.TRACKS, tracked("disc"))
    # Nothing was carried over: it was found by its looks, before the model confirmed it.
    assert peer.heard[topics.TRACKS][0].tracks[0].state != Track.TRACKING
    assert dice_of_box(again, scene[1][stamps.index(stamp_ns(again.header))]) > 0.8


def bag_of(pictures: list[np.ndarray], folder: Path) -> Path:
    """A bag with a camera's images of the year 2020, by a writer that shares no code with ours."""
    with BagFile(folder, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        store = get_typestore(Stores.ROS2_JAZZY)
        camera = bag.add_connection("/camera/image_raw", "sensor_msgs/msg/Image", typestore=store)
        for number, picture in enumerate(pictures):
            message = image_to_msg(picture)
            stamp = 1_600_000_000_000_000_000 + number * 33_000_000
            message.header.stamp, message.header.frame_id = time_of(stamp), "recorded"
            bag.write(camera, stamp, serialize_message(message))
    return folder


@pytest.fixture(scope="module")
def second_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The namespace of a server of its own that runs by /clock, which nobody publishes yet. Its model is loaded."""
    namespace, server = f"second_{uuid.uuid4().hex[:8]}", find_executable("samm_ros", "samm_server")
    words = ["--ros-args", "-r", f"__ns:=/{namespace}", "-p", "use_sim_time:=true"]
    with open(tmp_path_factory.mktemp("second") / "log", "wb") as log:
        process = subprocess.Popen([str(server), *words], stdout=log, stderr=log)
    try:
        with Peer(namespace) as peer:
            peer.listen(ModelInfo, topics.MODEL_INFO, topics.LATCHED)
            peer.wait_for(topics.MODEL_INFO, lambda message: message.name, 180.0)
        yield namespace
    finally:
        process.terminate()
        process.wait(60)


def test_two_streams_in_two_namespaces_have_an_object_each(
    peer: Peer, camera: Camera, scene: tuple[list[np.ndarray], list[np.ndarray]], second_graph: str
) -> None:
    mark(peer, camera, scene[1], "here")
    pictures, masks = scene_with_a_disc((240, 320))
    with Peer(second_graph) as other:
        other.listen(Tracks, topics.TRACKS, topics.OF_A_STREAM)
        with Camera(other.publisher(Image, topics.IMAGE, topics.NEWEST), pictures) as second:
            mark(other, second, masks, "there")
            there = other.wait_for(topics.TRACKS, tracked("there"))
            here = peer.wait_for(topics.TRACKS, tracked("here"))
            assert [[track.name for track in each.tracks] for each in (here, there)] == [["here"], ["there"]]
            assert (there.width, here.width) == (320, 256)
            assert dice_of_box(there, masks[second.sent[stamp_ns(there.header)]]) > 0.8
            assert edit(peer, edit=EditTracks.Request.REMOVE, name="here").success
            fresh(other)
            left = other.wait_for(topics.TRACKS, lambda message: not message.stale)
            assert [track.name for track in left.tracks] == ["there"]
        # Its clock stands still, and it says all the same that no image comes.
        other.wait_for(topics.TRACKS, lambda message: message.stale)
        assert edit(other, edit=EditTracks.Request.REMOVE).success


def test_a_clock_that_jumps_back_carries_nothing_over_and_the_stream_goes_on(
    scene: tuple[list[np.ndarray], list[np.ndarray]], second_graph: str
) -> None:
    with Peer(second_graph) as peer:
        peer.listen(Tracks, topics.TRACKS, topics.OF_A_STREAM)
        clock = peer.publisher(Clock, "/clock", topics.NEWEST)
        images = peer.publisher(Image, topics.IMAGE, topics.NEWEST)
        camera = Camera(images, scene[0])
        message = camera.message(scene[0][0])

        def simulate() -> None:
            stamp = next(seconds)
            clock.publish(Clock(clock=time_of(stamp)))
            camera.send(message, stamp)

        seconds = iter(range(1000 * 10**9, 2000 * 10**9, 33_000_000))
        peer.do_until(simulate, topics.TRACKS, lambda told: told.header.stamp.sec >= 1000)
        prompt = box_prompt("disc", box_of(scene[1][0]))
        assert edit(peer, edit=EditTracks.Request.PROMPT, prompt=prompt).success
        peer.do_until(simulate, topics.TRACKS, tracked("disc"))
        # The simulation is started again: what was followed is found anew, by its looks.
        seconds = iter(range(10**9, 900 * 10**9, 33_000_000))
        fresh(peer)
        again = peer.do_until(simulate, topics.TRACKS, tracked("disc"))
        assert again.header.stamp.sec < 900 and dice_of_box(again, scene[1][0]) > 0.8
        assert peer.heard[topics.TRACKS][0].tracks[0].state != Track.TRACKING
