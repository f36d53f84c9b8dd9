# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What others get who share the computer: nothing. docs/security.md tells what is behind each test."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from bridge_process import BridgeProcess
from ipp_client import BlockingIppClient, Refused
from peer import Peer
from samm_msgs.msg import SegmentationStatus, VolumeInfo, VolumeList
from samm_msgs.srv import SaveSegmentation, SelectModel, WorkFile
from SlicerIPPLib import diagnosis
from SlicerIPPLib.client import IppClient
from SlicerIPPLib.client_events import BridgeState, ClientEvent, ProblemFound, ReplyReceived, StateChanged
from SlicerIPPLib.diagnosis import diagnose
from SlicerIPPLib.keys import token_for

from samm_core import ipp, private
from samm_core.errors import LaunchError, PathError, VolumeError
from samm_core.private import make_token, owner_of_connection, read_token
from samm_core.sources.roots import Roots
from samm_ros import cli, topics
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import PROCESSES, environment, find_executable, read_arguments
from samm_ros.support import security

pytestmark = pytest.mark.xdist_group("graph")

STRANGER = 65534
# A user id without an entry in the system's list of users.
HOMELESS = 54321
as_stranger = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
OUTSIDE = Path("/etc/passwd")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeProcess]:
    """Without a graph."""
    with BridgeProcess("test_security", tmp_path_factory.mktemp("bridge")) as bridge:
        yield bridge


# Roots.


def test_a_path_is_taken_below_the_roots_alone_wherever_its_links_lead(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/etc")
    (tmp_path / "way in").symlink_to(root)
    roots = Roots.of(str(root))
    assert roots.resolved(root / "ct.nrrd") == root / "ct.nrrd"
    assert roots.resolved(tmp_path / "way in" / "ct.nrrd") == root / "ct.nrrd"
    for outside in (OUTSIDE, root / "link" / "passwd", root / ".." / "ct.nrrd", f"{root}-2/ct.nrrd", "a\0b"):
        with pytest.raises(PathError):
            roots.resolved(outside)
    with pytest.raises(PathError, match=rf"/etc/passwd is in none of the folders .*{root}.*roots:=FOLDER"):
        roots.resolved(OUTSIDE)


def test_the_roots_are_those_named_else_the_variables_else_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("SAMM_ROOTS", f"{tmp_path / 'b'}")
    assert Roots.of(f"{tmp_path / 'c'}").folders[0] == tmp_path / "c"
    assert Roots.of("").folders[0] == tmp_path / "b"
    monkeypatch.delenv("SAMM_ROOTS")
    started_with_a_volume = Roots.of("", [tmp_path / "c" / "ct.nrrd", ""])
    assert started_with_a_volume.folders[:2] == (tmp_path / "a", tmp_path / "c")
    assert not started_with_a_volume.hold(tmp_path / "b")


def test_a_folder_that_cannot_be_told_from_two_is_no_root(tmp_path: Path) -> None:
    for name in ("a:b", "c"):
        (tmp_path / name).mkdir()
    sentence = "a:b cannot be a root.*rename it"
    for text in (f"{tmp_path / 'a:b'}", f"{tmp_path / 'c'}:{tmp_path / 'a:b'}:/absent"):
        with pytest.raises(PathError, match=sentence):
            Roots.of(text)
    with pytest.raises(PathError, match=sentence):
        _ = Roots.of(f"{tmp_path / 'c'}", [tmp_path / "a:b" / "ct.nrrd"]).text
    with pytest.raises(LaunchError, match=sentence):
        PROCESSES[0].parameters(read_arguments({"volume": str(tmp_path / "a:b" / "ct.nrrd")}))
    assert Roots.of(f"{tmp_path / 'c'}:{tmp_path / 'absent'}").folders[:2] == (
        tmp_path / "c",
        tmp_path / "absent",
    )


def test_the_whole_disk_is_a_root_only_where_it_is_named_and_a_removed_folder_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMM_ROOTS", raising=False)
    monkeypatch.chdir("/")
    for unnamed in (Roots.of(""), Roots.of("", ["/ct.nrrd"])):
        assert not unnamed.hold(OUTSIDE)
        assert unnamed.hold(Path("~/samm_ros/ct.nrrd").expanduser())
    assert Roots.of("/").hold(OUTSIDE)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert Roots.of("").folders == Roots.of("", ["/ct.nrrd"]).folders == unnamed.folders


# Path.home() as it was until Python 3.9, which Slicer has: another error tells that there is no home.
_HOME_OF_PYTHON_3_9 = "Path.home = lambda: Path(os.environ.get('HOME') or pwd.getpwuid(os.getuid()).pw_dir)"


@as_stranger
@pytest.mark.parametrize("line", ["", _HOME_OF_PYTHON_3_9], ids=["this Python", "Python 3.9"])
def test_a_user_without_a_home_is_told_that_there_is_no_private_folder(line: str) -> None:
    taken = Path(f"/dev/shm/samm_ros-{HOMELESS}")
    program = f"""import os, pwd
from pathlib import Path
{line}
from samm_core.private import private_folder, read_token
from samm_core.sources.roots import Roots
os.setuid({HOMELESS})
assert read_token() == ""
print(Roots.of("/data").text)
try:
    private_folder()
except OSError as error:
    print(error)"""
    left_out = ("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    taken.touch()
    try:
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    finally:
        taken.unlink()
    assert ended.stdout.splitlines() == ["/data", f"none of {taken} can be used"], ended.stderr


def test_a_server_loads_nothing_from_elsewhere(shared_graph: str) -> None:
    with GraphClient(shared_graph, "curious") as client:
        with pytest.raises(VolumeError, match="/etc/passwd is in none of the folders"):
            client.load(OUTSIDE)
    with Peer(shared_graph) as peer:
        request = SelectModel.Request(name="lite_medsam", checkpoint=str(OUTSIDE))
        assert (
            "/etc/passwd is in none of the folders"
            in peer.call(SelectModel, topics.SELECT_MODEL, request).message
        )


@contextmanager
def running(name: str, namespace: str, **parameters: object) -> Iterator[subprocess.Popen]:
    """A node as it is installed, started by somebody who has thought of no umask."""
    command = [str(find_executable("samm_ros", name)), "--ros-args", "-r", f"__ns:=/{namespace}"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={value}"]
    process = subprocess.Popen(command, umask=0o022, env=os.environ | environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_segmentations_and_work_are_saved_below_the_roots_alone_and_are_this_users_alone(
    namespace: str, tmp_path: Path
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "link").symlink_to(elsewhere)
    theirs = root / "theirs.nii.gz"
    theirs.write_bytes(b"somebody's")
    info = VolumeInfo(uid="v", name="v", uri=str(OUTSIDE), dtype="uint8", components=1, window_upper=1.0)
    info.dimensions, info.ijk_to_ras = np.array([4, 4, 4], np.uint32), np.eye(4).ravel()
    with Peer(namespace) as peer:
        ours = _shared_memory(os.getpid())
        with running("apl_msk", namespace, journal=root / "journal", roots=root) as process:
            peer.listen(SegmentationStatus, topics.SEGMENTATION_STATUS, topics.LATCHED)
            peer.publisher(VolumeList, topics.VOLUMES, topics.LATCHED).publish(VolumeList(volumes=[info]))
            peer.wait_for(topics.SEGMENTATION_STATUS, lambda status: len(status.volumes) == 1)

            def save(path: Path) -> str:
                return peer.call(
                    SaveSegmentation, topics.SAVE_SEGMENTATION, SaveSegmentation.Request(path=str(path))
                ).message

            assert "is in none of the folders" in save(elsewhere / "a.nii.gz")
            assert "is in none of the folders" in save(root / "link" / "a.nii.gz")
            assert "no segmentation of samm" in save(theirs)
            assert save(root / "a.nii.gz") == "" == save(root / "a.nii.gz")
            for kind in (topics.SAVE_WORK, topics.OPEN_WORK):
                request = WorkFile.Request(path=str(elsewhere / "a.samm"))
                assert "is in none of the folders" in peer.call(WorkFile, kind, request).message
            assert list(elsewhere.iterdir()) == []
            assert theirs.read_bytes() == b"somebody's"
            assert {mode(root / name) for name in ("a.nii.gz", "journal")} == {0o600}
            # Images and masks on their way.
            on_their_way = _shared_memory(process.pid) - ours
            assert on_their_way
            assert {mode(path) for path in on_their_way} == {0o600}


def _shared_memory(process: int) -> set[Path]:
    maps = Path(f"/proc/{process}/maps").read_text()
    return {Path(found) for found in re.findall(r"/dev/shm/fastrtps_\S+$", maps, re.MULTILINE)}


def test_a_recording_is_this_users_alone(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    command = [sys.executable, "-m", "samm_ros.cli", "record", str(bag)]
    with subprocess.Popen(command, umask=0o022, stdout=subprocess.PIPE, text=True) as recording:
        assert "Recording into" in recording.stdout.readline()
        recording.send_signal(signal.SIGINT)
    assert {mode(file) for file in bag.iterdir()} == {0o600}
    assert mode(bag) == 0o700


def _udp_sockets(process: int) -> set[str]:
    """The inodes of those that a process holds."""
    tables = [Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:] for name in ("udp", "udp6")]
    udp = {line.split()[9] for table in tables for line in table}
    links = {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}
    return {inode for inode in udp if f"socket:[{inode}]" in links}


def test_a_private_graph_talks_by_this_users_shared_memory_alone(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMM_PRIVATE", "1")
    # Fast DDS reads its profile once in a process.
    ask = """import sys, rclpy; from samm_msgs.srv import UndoChange; rclpy.init()
node = rclpy.create_node("asks", namespace=sys.argv[1])
client = node.create_client(UndoChange, "undo")
assert client.wait_for_service(60)
answer = client.call_async(UndoChange.Request())
rclpy.spin_until_future_complete(node, answer, timeout_sec=60)
print(answer.result().message)"""
    with running("apl_msk", namespace) as process:
        asked = subprocess.run(
            [sys.executable, "-c", ask, namespace],
            env=os.environ | environment(),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert "nothing to undo" in asked.stdout, asked.stderr
        assert _udp_sockets(process.pid) == set()
    monkeypatch.delenv("SAMM_PRIVATE")
    with running("apl_msk", namespace) as process, Peer(namespace) as peer:
        peer.publisher(VolumeList, topics.VOLUMES, topics.LATCHED)
        assert len(_udp_sockets(process.pid)) > 0


def test_what_samm_private_does_not_mean_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = "FASTRTPS_DEFAULT_PROFILES_FILE"
    for off in ("", "0"):
        monkeypatch.setenv("SAMM_PRIVATE", off)
        assert environment()[profile].endswith("/fastdds.xml")
    for unknown in ("yes", "true", "2"):
        monkeypatch.setenv("SAMM_PRIVATE", unknown)
        with pytest.raises(LaunchError, match=f"SAMM_PRIVATE={unknown} is neither 0 nor 1; set it to 1"):
            environment()
    monkeypatch.setenv("SAMM_PRIVATE", "1")
    assert environment()[profile].endswith("/fastdds_private.xml")
    with pytest.raises(LaunchError, match="SAMM_PRIVATE=1 shuts other users out, and network:=true"):
        environment(network=True)


# The bridge.


def test_a_client_without_the_token_is_refused_in_a_sentence(bridge: BridgeProcess) -> None:
    hello = {"version": ipp.VERSION, "software": ""}
    with BlockingIppClient(bridge.ports["IPP/2"], "stranger") as client:
        for wrong in ({}, {"token": ""}, {"token": "0" * 64}, {"token": "é"}):
            with pytest.raises(Refused, match="the user who started it.*make keys"):
                client.ask("hello", client="stranger", **hello, **wrong)
        with pytest.raises(Refused, match="Say hello first"):
            client.ask("undo")
        assert client.ask("hello", client="user", **hello, token=read_token()).type == "welcome"


def test_the_token_is_kept_and_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    token = make_token()
    file = tmp_path / "samm_ros" / "token"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert make_token() == read_token() == token == file.read_text()
    # Others may have read it.
    file.chmod(0o644)
    assert make_token() != token
    assert mode(file) == 0o600
    file.write_text("damaged")
    assert len(make_token()) == 64


def _http(port: int, *prefix: str) -> str:
    """What the SAMM port says to a program of this user, or of another one."""
    talk = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /health HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3"
    command = [*prefix, "timeout", "30", "bash", "-c", talk]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_program_of_this_user_is_served_on_the_samm_port(bridge: BridgeProcess) -> None:
    assert _http(bridge.ports["SAMM"]).startswith("HTTP/1.")


@as_stranger
def test_a_stranger_is_hung_up_on_at_the_samm_port(bridge: BridgeProcess) -> None:
    stranger = ("setpriv", "--reuid", str(STRANGER), "--clear-groups")
    assert _http(bridge.ports["SAMM"], *stranger) == ""
    bridge.wait_line("Another user's program was refused")


# Says welcome to whoever comes, though nobody said hello, and then prints what it hears until the other has left.
_LISTENER = """import json, os, sys, zmq
from samm_core import ipp
user, port = map(int, sys.argv[1:])
if user != os.getuid():
    os.setgroups([])
    os.setuid(user)
context = zmq.Context()
door = context.socket(zmq.DEALER)
monitor = door.get_monitor_socket(zmq.EVENT_DISCONNECTED)
door.bind(f"tcp://127.0.0.1:{port or '*'}")
print(door.last_endpoint.decode().rpartition(":")[2], flush=True)
fields = {"version": ipp.VERSION, "software": "x", "folder": "/tmp", "models": [], "window_presets": {}}
door.send_multipart(ipp.pack(ipp.FROM_BRIDGE, "welcome", **fields))
print("said welcome", flush=True)
poller = zmq.Poller()
for each in (door, monitor):
    poller.register(each, zmq.POLLIN)
has_left = False
while not has_left:
    has_left = monitor in dict(poller.poll())
    while door.poll(0):
        message = ipp.unpack(ipp.FROM_SLICER, door.recv_multipart())
        print(json.dumps({"type": message.type, **message.fields}), flush=True)
print("left", flush=True)
os._exit(0)"""


class Listener:
    """A program of a user that listens where a bridge would; a context manager. port: 0: any."""

    def __init__(self, user: int, port: int = 0) -> None:
        command = [sys.executable, "-c", _LISTENER, str(user), str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.line())

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def line(self) -> str:
        return self._process.stdout.readline().strip()

    def lines(self) -> list[str]:
        """The rest, until it ends."""
        return self._process.stdout.read().splitlines()


class Slicer:
    """Slicer-IPP's own client; a context manager. events: all that it has told.

    may_go_on: while it is not set, the client's thread stops at the next event that it tells.
    """

    def __init__(self, port: int) -> None:
        self._woken = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.events: list[ClientEvent] = []
        self.client = IppClient(f"tcp://127.0.0.1:{port}", "slicer", "", self._wake)

    def __enter__(self) -> Slicer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.may_go_on.set()
        self.client.close()

    def prompt(self) -> None:
        self.client.prompt(
            number=1,
            stream=0,
            uid="0" * 16,
            plane=2,
            index=0,
            segment="",
            points_xy=[],
            labels=[],
            box_xyxy=None,
        )

    def _wake(self) -> None:
        self._woken.set()
        self.may_go_on.wait()

    def wait_for(self, wanted: Callable[[ClientEvent], bool], timeout_s: float = 60.0) -> ClientEvent:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._woken.wait(deadline - time.monotonic())
            self._woken.clear()
            new = self.client.take()
            self.events += new
            for event in new:
                if wanted(event):
                    return event
        raise AssertionError(f"waited in vain; there was {self.events}")


def _is_refusal(event: ClientEvent) -> bool:
    return isinstance(event, ProblemFound) and bool(
        re.search("another user's.*bridge_port:=", event.sentence)
    )


@as_stranger
def test_slicer_sends_nothing_to_a_strangers_program_that_took_the_port() -> None:
    with Listener(STRANGER) as theirs:
        with Slicer(theirs.port) as slicer:
            slicer.wait_for(_is_refusal)
            assert theirs.line() == "said welcome"
            slicer.prompt()
            # Each is answered in another turn of the client's thread, which by the last one has read the welcome.
            for _ in range(3):
                slicer.client.request("undo", lambda reply: None)
                reply = slicer.wait_for(lambda event: isinstance(event, ReplyReceived))
                assert reply.message["message"] == "The bridge is not connected."
        assert theirs.lines() == ["left"]
    assert StateChanged(BridgeState.CONNECTED) not in slicer.events


@as_stranger
def test_the_test_of_the_connection_sends_nothing_to_a_stranger() -> None:
    with Listener(STRANGER) as theirs:
        assert re.search("another user's.*bridge_port:=", diagnose(f"tcp://127.0.0.1:{theirs.port}"))
        assert theirs.lines() == ["said welcome", "left"]


@as_stranger
def test_the_test_of_the_connection_believes_no_welcome_that_it_did_not_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the stranger's welcome is there before the connection is looked at."""
    ask = diagnosis._ask

    def ask_late(dealer: zmq.Socket, *others: object) -> object:
        assert dealer.poll(60_000), "the stranger said nothing"
        return ask(dealer, *others)

    monkeypatch.setattr(diagnosis, "_ask", ask_late)
    with Listener(STRANGER) as theirs:
        assert re.search("another user's.*bridge_port:=", diagnose(f"tcp://127.0.0.1:{theirs.port}"))
        assert theirs.lines() == ["said welcome", "left"]


_WELCOME = {"version": ipp.VERSION, "software": "x", "folder": "/tmp", "models": [], "window_presets": {}}


@contextmanager
def door() -> Iterator[zmq.Socket]:
    """Listens where a bridge would, in this process."""
    with zmq.Context() as context:
        with context.socket(zmq.ROUTER) as door:
            door.rcvtimeo = 10_000
            door.bind("tcp://127.0.0.1:*")
            yield door


def _port(door: zmq.Socket) -> int:
    return int(door.last_endpoint.decode().rpartition(":")[2])


def _answer_hello(door: zmq.Socket, kind: str, **fields: object) -> None:
    client, *frames = door.recv_multipart()
    assert ipp.unpack(ipp.FROM_SLICER, frames).type == "hello"
    door.send_multipart([client, *ipp.pack(ipp.FROM_BRIDGE, kind, **fields)])


@as_stranger
@pytest.mark.parametrize(
    ("kind", "fields"), [("welcome", _WELCOME), ("error", {"message": "Not now."})], ids=["sends", "believes"]
)
def test_slicer_neither_sends_to_a_stranger_nor_believes_it_when_the_port_was_taken_while_it_was_busy(
    kind: str, fields: dict[str, object]
) -> None:
    """Welcome, it would send its prompt next; refused, it would read the stranger's welcome next."""
    with door() as ours, Slicer(port := _port(ours)) as slicer:
        slicer.prompt()
        slicer.may_go_on.clear()
        _answer_hello(ours, kind, **fields)
        slicer.wait_for(lambda event: True)
        ours.close()
        ours.context.term()
        with Listener(STRANGER, port) as theirs:
            assert theirs.line() == "said welcome"
            slicer.may_go_on.set()
            slicer.wait_for(_is_refusal)
            slicer.client.close()
            assert theirs.lines() == ["left"]
    assert slicer.events.count(StateChanged(BridgeState.CONNECTED)) == (kind == "welcome")


def test_the_test_of_the_connection_says_hello_again() -> None:
    with door() as ours:
        told = []
        address = f"tcp://127.0.0.1:{_port(ours)}"
        tester = threading.Thread(target=lambda: told.append(diagnose(address)))
        tester.start()
        assert ours.recv_multipart()
        _answer_hello(ours, "welcome", **_WELCOME)
        tester.join()
    assert told == [f"All is well: x answers at {address}."]


def test_slicer_says_when_it_cannot_be_told_whose_program_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "tcp"
    table.touch()
    told = private._CONNECTIONS
    monkeypatch.setattr(private, "_CONNECTIONS", ((str(table), ""),))
    with door() as ours, Slicer(_port(ours)) as slicer:
        address = f"tcp://127.0.0.1:{_port(ours)}"
        sentence = f"does not tell whose program listens at {address}, .*keys"
        problem = slicer.wait_for(lambda event: True)
        assert re.search(sentence, problem.sentence)
        # It takes so long that Slicer tries some times more.
        assert re.search(sentence, diagnose(address))
        assert not ours.poll(0), "something was sent"
        monkeypatch.setattr(private, "_CONNECTIONS", told)
        _answer_hello(ours, "welcome", **_WELCOME)
        slicer.wait_for(lambda event: event == StateChanged(BridgeState.CONNECTED))
        assert [event for event in slicer.events if isinstance(event, ProblemFound)] == [problem]


@as_stranger
def test_slicer_looks_at_each_connection_anew(bridge: BridgeProcess) -> None:
    """The port goes from a stranger to the user; a bridge has made the token."""
    with Listener(STRANGER) as theirs, Slicer(theirs.port) as slicer:
        slicer.wait_for(_is_refusal)
        theirs.end()
        with Listener(os.getuid(), theirs.port) as ours:
            assert ours.line() == "said welcome"
            hello = json.loads(ours.line())
            assert (hello["type"], hello["token"]) == ("hello", read_token()) != ("hello", "")


def test_slicer_is_welcome_at_the_users_own_bridge(bridge: BridgeProcess) -> None:
    with Slicer(bridge.ports["IPP/2"]) as slicer:
        slicer.wait_for(lambda event: event == StateChanged(BridgeState.CONNECTED))


def test_a_connection_that_is_gone_gets_no_token(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as unconnected, open(tmp_path / "file", "w") as file:
        gone = os.dup(file.fileno())
        os.close(gone)
        for descriptor in (one.fileno(), unconnected.fileno(), file.fileno(), gone):
            with pytest.raises(ConnectionError):
                token_for(descriptor, "tcp://127.0.0.1:8800")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as ours:
        ours.connect(server.getsockname())
        server.accept()[0].close()
        with pytest.raises(ConnectionError):
            token_for(ours.fileno(), "tcp://127.0.0.1:8800")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this computer has no IPv6")
def test_whose_connection_it_is_is_known_of_a_listener_for_ipv6_too() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        with socket.create_connection(("127.0.0.1", server.getsockname()[1])) as ours:
            accepted, _ = server.accept()
            with accepted:
                assert owner_of_connection(ours.getsockname(), ours.getpeername()) == os.getuid()
            assert owner_of_connection(ours.getsockname(), ours.getpeername()) is None


def test_no_verb_widens_the_roots_by_being_there() -> None:
    program = "import os; from samm_ros import cli; cli.parse(['up']); assert 'SAMM_ROOTS' not in os.environ"
    without = {name: value for name, value in os.environ.items() if name != "SAMM_ROOTS"}
    subprocess.run(
        [sys.executable, "-c", program],
        env={**without, "SAMM_ROOT": str(Path(__file__).parents[1])},
        check=True,
    )


# Keys.


def test_a_key_is_added_and_revoked_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    keys = tmp_path / "keys"
    run: Callable[..., int] = lambda *arguments: cli.main(["keys", str(keys), *arguments])  # noqa: E731
    assert run() == 0
    assert run("--add", "theatre") == 0
    assert {file.name for file in (keys / "theatre").iterdir()} >= {"client.key_secret", "server.key"}
    assert {file.name for file in (keys / "allowed").iterdir()} == {"client.key", "theatre.key"}
    (keys / "allowed" / "copy.key").write_bytes((keys / "allowed" / "theatre.key").read_bytes())
    assert run("--revoke", "theatre") == 0
    assert {file.name for file in (keys / "allowed").iterdir()} == {"client.key"}
    capsys.readouterr()
    assert run("--revoke", "theatre") == 2
    assert "There is no client theatre" in capsys.readouterr().err
    assert run("--add", "../outside") == 2
    assert run("--add", "theatre") == 0, "its name is free again"
    assert mode(keys / "theatre" / "client.key_secret") == 0o600


def test_what_is_no_key_stays_when_a_key_is_revoked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    keys = tmp_path / "keys"
    run: Callable[..., int] = lambda *arguments: cli.main(["keys", str(keys), *arguments])  # noqa: E731
    assert run() == run("--add", "theatre") == 0
    notes = keys / "theatre" / "notes.txt"
    notes.write_text("the user's own")
    assert run("--revoke", "theatre") == 0
    assert list((keys / "theatre").iterdir()) == [notes]
    assert run("--add", "theatre") == 2
    assert f"remove {keys / 'theatre'}" in capsys.readouterr().err


# SROS 2.


@pytest.mark.parametrize("asked", ["TRUE", "True", "1", "yes"])
def test_security_that_ros_would_leave_out_in_silence_is_refused(
    asked: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ROS_SECURITY_ENABLE", asked)
    with pytest.raises(SystemExit, match="1"):
        security.require_what_was_asked_for()
    assert f"ROS_SECURITY_ENABLE={asked} for no" in (said := capfd.readouterr().err)
    assert "write it as true" in said


@pytest.mark.parametrize("asked", ["", "0", "false", "FALSE"])
def test_no_security_is_had_where_it_was_not_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_SECURITY_ENABLE", asked)
    security.require_what_was_asked_for()


@pytest.mark.skipif(security._has_plugins(), reason="this Fast DDS has its security plugins")
def test_security_that_cannot_be_had_is_refused(namespace: str, tmp_path: Path) -> None:
    asked = os.environ | environment() | {"ROS_SECURITY_ENABLE": "true"}
    command = [str(find_executable("samm_ros", "rcv_msk")), "--ros-args", "-r", f"__ns:=/{namespace}"]
    ended = subprocess.run(command, env=asked, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "this Fast DDS was built without it" in ended.stderr
    assert "Traceback" not in ended.stderr
    with pytest.raises(LaunchError, match="no keystore of SROS 2"):
        environment(keystore=str(tmp_path))
    (tmp_path / "enclaves").mkdir()
    with pytest.raises(LaunchError, match="was built without it"):
        environment(keystore=str(tmp_path))
