# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`./samm stream` and `./samm igtl`, in processes of their own, heard over DDS."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyigtl
import pytest
import SimpleITK as sitk
from geometry_msgs.msg import PoseStamped
from peer import Peer
from recordings import IMAGES, PROBE, REFERENCE, pictures, turned, write_plus
from sensor_msgs.msg import CompressedImage, Image

from samm_core.errors import FrameError, LaunchError
from samm_ros import cli, topics
from samm_ros.supervision.processes import environment
from samm_ros.support.images import (
    array_from_compressed,
    array_from_image,
    compressed_to_msg,
    image_to_msg,
)
from samm_ros.support.world import pose_from_msg
from samm_ros.tools.igtl import IgtlReceiver, parse_address
from samm_ros.tools.player import SENT, split_pose


class Verb:
    """`./samm` in a process of its own; what it says is kept."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "samm_ros.cli", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment() | {"COLUMNS": "200"},
        )
        self._said: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Verb:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)

    def wait_for(self, sentence: str, timeout_s: float = 60) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: any(sentence in line for line in self._said), timeout_s)
            assert found, f"{sentence!r} was not said within {timeout_s} s, but {self._said}"

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """The status and all that it said, after a signal; 0: without one."""
        if number:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(5)
        return status, "".join(self._said)

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._changed:
                self._said.append(line)
                self._changed.notify_all()


@pytest.fixture
def peer(namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    with Peer(namespace) as peer:
        yield peer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, picture in enumerate(pictures(3)):
        cv2.imwrite(str(folder / f"{number}.png"), picture[..., ::-1])
    return folder


def stamp_ns(message: Image | PoseStamped) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


# --- messages of images ---


@pytest.mark.parametrize(
    ("picture", "encoding"),
    [
        (pictures(1)[0], "rgb8"),
        (pictures(1)[0][..., 0], "mono8"),
        (IMAGES[1].astype(np.uint16) * 1000, "mono16"),
    ],
)
def test_pixels_come_back_out_of_messages(picture: np.ndarray, encoding: str) -> None:
    message = image_to_msg(picture)
    assert message.encoding == encoding and message.step * message.height == len(message.data)
    assert (array_from_image(message) == picture).all()
    packed = compressed_to_msg(picture, "png")
    assert packed.format.startswith(f"{encoding}; png compressed ")
    assert (array_from_compressed(packed) == picture).all()
    if encoding == "mono16":
        with pytest.raises(FrameError, match="does not fit into JPEG"):
            compressed_to_msg(picture, "jpeg")
    else:
        close = array_from_compressed(compressed_to_msg(picture, "jpeg")).astype(int) - picture
        assert np.abs(close).mean() < 5


def test_a_pose_of_pixels_is_split_into_a_rigid_one_and_a_size() -> None:
    rigid, size = split_pose(turned(30, (1, 2, 3)) @ np.diag([0.1, 0.3, 5, 1]))
    assert np.allclose(rigid, turned(30, (1, 2, 3))) and np.allclose(size, (0.1, 0.3))
    # An image that is seen from behind has its z towards who looks at it, and is right-handed all the same.
    rigid, _ = split_pose(np.diag([-1.0, 1, 1, 1]))
    assert np.allclose(rigid, np.diag([-1, 1, -1, 1]))


@pytest.mark.parametrize(
    "pose",
    [
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_what_is_no_pose_is_refused(pose: np.ndarray) -> None:
    with pytest.raises(FrameError, match="no rows and columns at a right angle"):
        split_pose(pose)


# --- ./samm stream ---


@pytest.mark.parametrize("qos", [topics.NEWEST, SENT], ids=["best effort", "reliable"])
def test_a_folder_is_heard_as_a_stream(namespace: str, peer: Peer, folder: Path, qos: object) -> None:
    with Verb("stream", folder, "--loop", "--namespace", namespace, "--frame-id", "camera") as verb:
        peer.listen(Image, "image", qos)
        for picture in pictures(3):
            peer.wait_for(
                "image", lambda message, picture=picture: (array_from_image(message) == picture).all()
            )
        now_ns = peer.node.get_clock().now().nanoseconds
        status, said = verb.end()
    assert status == 0
    assert "clip: pictures (0.png to 2.png), 3 images, 10 a second" in said
    assert f"images of clip were sent on /{namespace}/image, in " in said
    messages = peer.heard["image"]
    assert {message.header.frame_id for message in messages} == {"camera"}
    stamps = [stamp_ns(message) for message in messages]
    # In order, and of this minute.
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)
    assert abs(now_ns - stamps[-1]) < 60e9


@pytest.mark.parametrize("compression", ["jpeg", "png"])
def test_a_compressed_stream(namespace: str, peer: Peer, folder: Path, compression: str) -> None:
    arguments = ("--loop", "--namespace", namespace, "--topic", "left/image", "--compressed", compression)
    with Verb("stream", folder, *arguments):
        peer.listen(CompressedImage, "left/image/compressed", topics.NEWEST)
        message = peer.wait_for("left/image/compressed", bool)
    assert message.format == f"rgb8; {compression} compressed bgr8"
    pixels = array_from_compressed(message)
    off = min(np.abs(pixels.astype(int) - picture).mean() for picture in pictures(3))
    assert off == 0 if compression == "png" else off < 5


def test_it_waits_for_a_listener_and_ends_after_the_last_image(
    namespace: str, peer: Peer, folder: Path
) -> None:
    with Verb("stream", folder, "--wait", "--rate", "2", "--namespace", namespace) as verb:
        peer.listen(Image, "image", SENT)
        last = pictures(3)[-1]
        peer.wait_for("image", lambda message: (array_from_image(message) == last).all())
        status, said = verb.end(0)
    assert status == 0 and "3 images of clip were sent" in said


def test_recorded_stamps_keep_the_distances(namespace: str, peer: Peer, folder: Path) -> None:
    arguments = ("--loop", "--rate", "20", "--stamps", "recorded", "--namespace", namespace)
    with Verb("stream", folder, *arguments):
        peer.listen(Image, "image", SENT)
        peer.wait_until(lambda: len(peer.heard["image"]) >= 5, "fifth image")
    steps = np.diff([stamp_ns(message) for message in peer.heard["image"]])
    # A whole number of periods: of a loaded machine, one may be missed.
    assert np.allclose(steps / 50e6, np.rint(steps / 50e6), atol=1e-6) and steps.min() > 0


def test_poses_of_tracked_ultrasound_are_in_metres_with_the_images_stamps(
    namespace: str, peer: Peer, tmp_path: Path
) -> None:
    lost = {"Seq_Frame0001_ReferenceToTrackerTransformStatus": "INVALID"}
    path = write_plus(tmp_path / "a.igs.mha", changes=lost)
    calibration = "0.1 0 0 5  0 0.2 0 6  0 0 1 0  0 0 0 1"
    arguments = ("--loop", "--rate", "10", "--image-to-probe", calibration, "--namespace", namespace)
    with Verb("stream", path, *arguments) as verb:
        peer.listen(PoseStamped, "pose", SENT)
        peer.listen(Image, "image", SENT)
        verb.wait_for("Poses are in reference; a pixel is 0.1 x 0.2 mm")
        peer.wait_until(lambda: len(peer.heard["image"]) >= 9, "ninth image")
        status, said = verb.end()
    assert status == 0 and f"with a pose on /{namespace}/pose" in said
    images = {stamp_ns(message): array_from_image(message) for message in peer.heard["image"]}
    poses = {stamp_ns(message): message for message in peer.heard["pose"]}
    pairs = sorted(images.keys() & poses.keys())
    assert pairs
    offset = turned(0, (5, 6, 0))
    for stamp in pairs:
        number = int(images[stamp][0, 0]) // 20
        assert number != 1, "a pose that was not measured was sent"
        assert poses[stamp].header.frame_id == "reference"
        wanted = np.linalg.inv(REFERENCE[number]) @ PROBE[number] @ offset
        assert np.allclose(pose_from_msg(poses[stamp]), wanted, atol=1e-4)
        # 5 mm are 5 thousandths.
        assert abs(poses[stamp].pose.position.x * 1000 - wanted[0, 3]) < 1e-4
    # The image without a pose comes all the same.
    assert any((pixels == IMAGES[1]).all() for pixels in images.values())


def test_a_volume_is_swept_along_the_axis_that_is_asked_for(
    namespace: str, peer: Peer, tmp_path: Path
) -> None:
    volume = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (8, 10, 12)).astype(np.int16))
    sitk.WriteImage(volume, str(tmp_path / "a.nrrd"))
    arguments = ("--sweep", "right", "--step", "3", "--pixels", "20", "--loop", "--namespace", namespace)
    with Verb("stream", tmp_path / "a.nrrd", *arguments) as verb:
        peer.listen(PoseStamped, "pose", SENT)
        verb.wait_for("a.nrrd: sweep through a volume (right, 20 x 16, 0.5 mm a pixel), 5 images")
        verb.wait_for("Poses are in ras; a pixel is 0.5 x 0.5 mm")
        places = {0, 3, 6, 9, 12}
        for place in places:
            # SimpleITK's file is LPS: its first voxel's right border is at R = 0.5, and its last one's left at -11.5.
            wanted_m = (place - 11.5) / 1000
            peer.wait_for("pose", lambda pose, x=wanted_m: abs(pose.pose.position.x - x) < 1e-6)
    assert {pose.header.frame_id for pose in peer.heard["pose"]} == {"ras"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.mp4"], "There is no file or folder missing.mp4"),
        (["{folder}", "--rate", "0"], "0 images a second are not possible"),
        (["{folder}", "--count", "0"], "--count 0 is not possible"),
        (["{folder}", "--start", "7"], "There is no image 7 in clip"),
        (["{folder}", "--topic", "a b"], '--topic "a b" is no name of a topic'),
        (["{folder}", "--pose-topic", "1x"], '--pose-topic "1x" is no name of a topic'),
        (["{folder}", "--image-to-probe", "1 2 3"], '--image-to-probe "1 2 3" is no matrix; give 16 numbers'),
        (["{folder}/0.png", "--sweep", "right", "--step", "-1"], "give steps and pixels above 0"),
        (["{deep}", "--compressed", "jpeg"], "does not fit into JPEG"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    deep = tmp_path / "deep.png"
    cv2.imwrite(str(deep), np.full((5, 6), 1000, np.uint16))
    assert cli.main(["stream", *(word.format(folder=folder, deep=deep) for word in arguments)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("samm stream: ") and said.count("\n") == 1


# --- ./samm igtl ---


@contextlib.contextmanager
def igtl_server(port: int = 0) -> Iterator[pyigtl.OpenIGTLinkServer]:
    """A real server of OpenIGTLink in this process."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    server = pyigtl.OpenIGTLinkServer(port=port)
    # It takes the test's signals for its own.
    for number, handler in former.items():
        signal.signal(number, handler)
    try:
        yield server
    finally:
        server.stop()


def port_of(server: pyigtl.OpenIGTLinkServer) -> int:
    return server.server_address[1]


def igtl_image(pixels: np.ndarray, stamp: float, device: str = "Image_Probe") -> pyigtl.ImageMessage:
    """pixels: (H, W) or (H, W, 3): one slice, k, of rows j and columns i, as PLUS sends it."""
    return pyigtl.ImageMessage(pixels[None], device_name=device, timestamp=stamp)


STAMP, STAMP_NS = 1_700_000_000.25, 1_700_000_000_250_000_000


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [
        (IMAGES[1], "mono8"),
        (pictures(2)[1], "rgb8"),
        (IMAGES[1].astype(np.uint16) * 1000, "mono16"),
        (IMAGES[1].astype(np.int16) * 500 - 15_000, "mono16"),
        (IMAGES[1].astype(">u2") * 1000, "mono16"),
    ],
    ids=["grey", "colour", "16 bits", "signed", "big-endian"],
)
def test_images_of_a_server_arrive_as_they_were_sent(
    namespace: str, peer: Peer, pixels: np.ndarray, encoding: str
) -> None:
    with igtl_server() as server:
        address = f"localhost:{port_of(server)}"
        with Verb("igtl", address, "--namespace", namespace, "--frame-id", "us") as verb:
            peer.listen(Image, "image", topics.NEWEST)
            message = peer.do_until(
                lambda: server.send_message(igtl_image(pixels, STAMP), wait=False), "image", bool
            )
            status, said = verb.end()
    assert status == 0 and f"Connected to {address}" in said and "images and 0 poses of" in said
    assert message.encoding == encoding and (message.height, message.width) == pixels.shape[:2]
    raised = 32_768 if pixels.dtype == np.int16 else 0
    assert (array_from_image(message) == pixels.astype(int) + raised).all()
    assert abs(stamp_ns(message) - STAMP_NS) < 1000 and message.header.frame_id == "us"


@pytest.mark.parametrize("stamp", [0.0, 4e9], ids=["none", "2096"])
def test_a_picture_of_two_axes_arrives_upright_and_is_stamped_where_it_has_no_time(
    namespace: str, peer: Peer, stamp: float
) -> None:
    message = pyigtl.ImageMessage(IMAGES[2], device_name="Camera", timestamp=stamp)
    with igtl_server() as server, Verb("igtl", f"127.0.0.1:{port_of(server)}", "--namespace", namespace):
        peer.listen(Image, "image", topics.NEWEST)
        heard = peer.do_until(lambda: server.send_message(message, wait=False), "image", bool)
    assert (array_from_image(heard) == IMAGES[2]).all()
    assert abs(stamp_ns(heard) - peer.node.get_clock().now().nanoseconds) < 120e9


def test_poses_of_a_server_arrive_in_metres_unless_they_were_not_measured(namespace: str, peer: Peer) -> None:
    matrix = turned(35, (100, -20, 7.5))

    def transform(stamp: float, status: str, device: str) -> pyigtl.TransformMessage:
        message = pyigtl.TransformMessage(matrix, device_name=device, timestamp=stamp)
        message.header_version = 2
        message.metadata = {"TransformStatus": status}
        return message

    def send() -> None:
        server.send_message(transform(1.0, "OK", "StylusToReference"), wait=False)
        server.send_message(transform(STAMP + 1, "INVALID", "ProbeToReference"), wait=False)

    with igtl_server() as server:
        arguments = ("--transform-device", "ProbeToReference", "--namespace", namespace)
        with Verb("igtl", f"localhost:{port_of(server)}", *arguments) as verb:
            peer.listen(PoseStamped, "pose", SENT)
            send()
            verb.wait_for("The transform ProbeToReference is INVALID; such ones are not sent on.")
            verb.wait_for("TRANSFORM of the device StylusToReference is left out")
            pose = peer.do_until(
                lambda: server.send_message(transform(STAMP, "OK", "ProbeToReference"), wait=False),
                "pose",
                bool,
            )
    assert np.allclose(pose_from_msg(pose), matrix, atol=1e-3)
    assert pose.pose.position.x == pytest.approx(0.1, abs=1e-6)
    assert abs(stamp_ns(pose) - STAMP_NS) < 1000 and pose.header.frame_id == "reference"
    assert all(stamp_ns(each) == stamp_ns(pose) for each in peer.heard["pose"])


def test_a_server_may_come_later_and_go_and_come_again(namespace: str, peer: Peer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Verb("igtl", f"127.0.0.1:{port}", "--namespace", namespace) as verb:
        verb.wait_for(
            f"There is no OpenIGTLink server at 127.0.0.1:{port} (Connection refused); it is tried again"
        )
        peer.listen(Image, "image", topics.NEWEST)
        for number in range(3):
            with igtl_server(port) as server:
                wanted = IMAGES[number]
                peer.do_until(
                    lambda server=server, wanted=wanted: server.send_message(
                        igtl_image(wanted, STAMP), wait=False
                    ),
                    "image",
                    lambda message, wanted=wanted: (array_from_image(message) == wanted).all(),
                )
            verb.wait_for(f"127.0.0.1:{port} closed the connection; it is tried again")
        status, said = verb.end(signal.SIGTERM)
    assert status == 0 and said.count("Connected to") == 3


def test_only_one_device_is_sent_on_and_a_volume_is_refused(namespace: str, peer: Peer) -> None:
    with igtl_server() as server:
        arguments = ("--image-device", "B", "--namespace", namespace)
        with Verb("igtl", f"localhost:{port_of(server)}", *arguments) as verb:
            peer.listen(Image, "image", topics.NEWEST)
            server.send_message(igtl_image(IMAGES[0], STAMP, "A"), wait=False)
            verb.wait_for("IMAGE of the device A is left out; --image-device A takes it instead.")
            server.send_message(pyigtl.ImageMessage(IMAGES, device_name="B", timestamp=STAMP), wait=False)
            verb.wait_for("B sends voxels of the shape (3, 4, 5); send one slice at a time.")
            floats = IMAGES[:1].astype(np.float32)
            server.send_message(pyigtl.ImageMessage(floats, device_name="B", timestamp=STAMP), wait=False)
            verb.wait_for("B has pixels of the type float32; give whole numbers")
            peer.do_until(
                lambda: server.send_message(igtl_image(IMAGES[1], STAMP, "B"), wait=False), "image", bool
            )
            status, said = verb.end()
    assert status == 0 and "2 could not be used" in said
    assert all((array_from_image(message) == IMAGES[1]).all() for message in peer.heard["image"])


def test_of_many_messages_the_newest_of_each_device_is_taken() -> None:
    with igtl_server() as server, IgtlReceiver("127.0.0.1", port_of(server), print) as receiver:
        taken: list[list[float]] = []
        for number in range(1, 41):
            for device in ("A", "B"):
                server.send_message(igtl_image(IMAGES[0], STAMP + number, device), wait=False)
            if number % 20:
                continue
            newest: dict[str, float] = {}
            while set(newest.values()) != {STAMP + number}:
                messages = receiver.take(60)
                assert messages, "the newest image did not come"
                devices = [message.device_name for message in messages]
                assert len(set(devices)) == len(devices)
                newest |= {message.device_name: round(message.timestamp, 2) for message in messages}
                taken.append([message.timestamp for message in messages])
        assert [max(stamps) for stamps in taken] == sorted(max(stamps) for stamps in taken)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" * 3,
            "a header has no version",
        ),
        (
            b"\0\1IMAGE\0\0\0\0\0\0\0" + b"A".ljust(20, b"\0") + bytes(8) + b"\xff" * 16,
            "a message claims 18446744073709551615 bytes",
        ),
        (b"\0\1" + b"\xff" * 200, "a header has no names"),
    ],
)
def test_another_servers_answer_is_told(namespace: str, answer: bytes, sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        port = listener.getsockname()[1]
        with Verb("igtl", f"127.0.0.1:{port}", "--namespace", namespace) as verb:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)
                verb.wait_for(f"127.0.0.1:{port} does not speak OpenIGTLink ({sentence}")
            assert verb.end()[0] == 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:18944", ("localhost", 18944)),
        ("10.0.0.5", ("10.0.0.5", 18944)),
        ("[::1]:99", ("::1", 99)),
        ("[::1]", ("::1", 18944)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":", "a:", ":5", "a:b", "a:0", "a:65536", "a:-1", "a b:5"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LaunchError, match="is no HOST:PORT; give such as localhost:18944"):
        parse_address(text)


def test_a_host_that_is_not_known_is_told(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["igtl", "no-such-host.invalid:18944"]) == 2
    assert "There is no computer no-such-host.invalid (" in capsys.readouterr().err
