# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What others get who share the computer: nothing. SEC1 and SEC2; docs/security.md tells what is behind each test."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from bridge_process import BridgeProcess
from ipp_client import BlockingIppClient, Refused
from peer import Peer
from samm_msgs.msg import SegmentationStatus, VolumeInfo, VolumeList
from samm_msgs.srv import SaveSegmentation, SelectModel, WorkFile
from SlicerIPPLib.keys import token_for

from samm_core import ipp
from samm_core.errors import LaunchError, PathError, VolumeError
from samm_core.private import make_token, read_token
from samm_core.sources.roots import Roots
from samm_ros import cli, topics
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import environment, find_executable
from samm_ros.support import security

pytestmark = pytest.mark.xdist_group("graph")

STRANGER = 65534
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


@contextmanager
def _listener_of_a_stranger() -> Iterator[int]:
    """Its port."""
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(from_parent)
        os.setuid(STRANGER)
        with socket.create_server(("127.0.0.1", 0)) as theirs:
            os.write(from_child, str(theirs.getsockname()[1]).encode())
            os.read(to_child, 1)
        os._exit(0)
    try:
        yield int(os.read(to_parent, 5))
    finally:
        os.close(from_parent)
        os.waitpid(child, 0)
        for end in (to_child, to_parent, from_child):
            os.close(end)


@as_stranger
def test_slicer_sends_nothing_to_a_strangers_program_that_took_the_port(bridge: BridgeProcess) -> None:
    assert token_for(f"tcp://127.0.0.1:{bridge.ports['IPP/2']}") == read_token() != ""
    with _listener_of_a_stranger() as port, pytest.raises(ValueError, match="another user's.*bridge_port:="):
        token_for(f"tcp://127.0.0.1:{port}")
    assert token_for("tcp://192.0.2.1:8800") == ""


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
    assert mode(keys / "theatre" / "client.key_secret") == 0o600


# SROS 2.


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
