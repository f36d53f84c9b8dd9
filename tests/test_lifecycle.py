# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""How nodes begin, change their state by the lifecycle services, and end.

Real processes, as a lifecycle manager and a shell meet them.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from peer import Peer
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.serialization import serialize_message
from samm_msgs.action import EmbedVolume
from samm_msgs.msg import EmbeddingStatus, ModelInfo, Prompt, SliceRequest, VolumeInfo
from samm_msgs.srv import LoadVolume

from samm_core.latency.bag import BagReader, BagWriter, Topic
from samm_ros import topics
from samm_ros.supervision.processes import find_executable
from samm_ros.support.goals import Goal
from samm_ros.tools.recorder import definition_here

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.timeout(400)]

COMPOSED = ("samm_server", "samm_client", "slicer_bridge")
NODES = ("snd_inf", "rcv_inf", "embedding", "cpl_inf", "rcv_msk", "apl_msk", *COMPOSED)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
START_S, END_S = 120.0, 20.0
LIFECYCLE = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "unconfigured_shutdown": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive_shutdown": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active_shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
APPLIES = {
    State.PRIMARY_STATE_UNCONFIGURED: {"configure", "unconfigured_shutdown"},
    State.PRIMARY_STATE_INACTIVE: {"activate", "cleanup", "inactive_shutdown"},
    State.PRIMARY_STATE_ACTIVE: {"deactivate", "active_shutdown"},
    State.PRIMARY_STATE_FINALIZED: set(),
}


def command(executable: str, namespace: str, **values: object) -> list[str]:
    package = "slicer_ros_bridge" if executable == "slicer_bridge" else "samm_ros"
    words = [
        str(find_executable(package, executable)),
        "--ros-args",
        "-r",
        f"__ns:=/{namespace}",
    ]
    for name, value in values.items():
        words += ["-p", f"{name}:={value}"]
    return words


def segments(process: subprocess.Popen) -> set[Path]:
    """The process's own files of Fast DDS in shared memory: it has their locks open.

    It maps those of others too, once it has read from them; the port of all domains belongs to none.
    """
    found = set()
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            name = os.readlink(descriptor)
            if locked := re.fullmatch(r"(/dev/shm/fast(rtps|dds)_[0-9a-z]{16})_el", name):
                found.add(Path(locked[1]))
    return found


def until(condition: Callable[[], object], what: str, limit_s: float = START_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {limit_s:g} s"
        time.sleep(0.02)


@contextlib.contextmanager
def running(executable: str, namespace: str, folder: Path, **values: object) -> Iterator[subprocess.Popen]:
    log = folder / f"{executable}-{uuid.uuid4().hex[:6]}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command(executable, namespace, **values), stdout=output, stderr=output, start_new_session=True
        )
    process.log = log
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_one_signal_ends_each_process_with_status_0_and_nothing_in_shared_memory(
    number: int, namespace: str, tmp_path: Path
) -> None:
    # All nodes begin and end in the same lines: one signal goes to each, the other to what `./samm up` starts.
    names = NODES if number == signal.SIGINT else COMPOSED
    values = {"slicer_bridge": {"port": 0, "samm_port": 0}}
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(running(name, namespace, tmp_path, **values.get(name, {})))
            for name in names
        }
        files: dict[str, set[Path]] = {}
        for name, process in processes.items():
            until(lambda p=process: p.poll() is not None or segments(p), f"{name}'s shared memory")
            assert process.poll() is None, process.log.read_text()
            files[name] = segments(process)
        for process in processes.values():
            process.send_signal(number)
        for process in processes.values():
            # Again, while it ends: that must neither hang nor hurry it.
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        for name, process in processes.items():
            status, said = process.wait(END_S), process.log.read_text()
            assert status == 0, f"{name} ended with {status}: {said}"
            assert "terminate called" not in said
            assert "Traceback" not in said
            left = [file for path in files[name] for file in (path, path.with_name(f"{path.name}_el"))]
            assert not [file for file in left if file.exists()], f"{name} left files behind"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_a_signal_ends_each_verb_with_the_status_that_it_says(
    namespace: str, tmp_path: Path, mni_path: Path
) -> None:
    session = tmp_path / "session"
    with BagWriter(session) as writer:
        for name, message in (
            (topics.VOLUME_INFO, VolumeInfo(uid="uid", uri=str(mni_path))),
            (topics.PROMPTS, Prompt(client_id="recorded", has_box=True)),
        ):
            writer.add(Topic(f"/{name}", *definition_here(type(message)), ""))
            writer.write(f"/{name}", serialize_message(message), time.time_ns())
    recording = [tmp_path / f"recording_{number.name}" for number in SIGNALS]
    verbs = [
        *((number, 0, ["record", str(path)]) for number, path in zip(SIGNALS, recording, strict=True)),
        (signal.SIGINT, 0, ["top"]),
        # It waits for a graph that never comes.
        (signal.SIGTERM, 130, ["replay", str(session), "--output", str(tmp_path / "again")]),
    ]
    with contextlib.ExitStack() as stack:
        started = []
        for number, status, words in verbs:
            log = stack.enter_context(open(tmp_path / f"{words[0]}_{number.name}.log", "w+"))
            process = subprocess.Popen(
                [sys.executable, "-m", "samm_ros.cli", *words, f"--namespace={namespace}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append((process, number, status, log))
        for process, number, status, log in started:
            until(lambda p=process: p.poll() is not None or segments(p), f"shared memory of {log.name}")
            assert process.poll() is None, Path(log.name).read_text()
            files = segments(process)
            process.send_signal(number)
            ended, said = process.wait(END_S), Path(log.name).read_text()
            assert ended == status, f"{log.name}: {said}"
            assert "terminate called" not in said
            assert "Traceback" not in said
            left = [file for path in files for file in (path, path.with_name(f"{path.name}_el"))]
            assert not [file for file in left if file.exists()], f"{log.name} left files behind"
    for path in recording:
        reader = BagReader(path)
        assert list(reader.messages()) == []
        assert not reader.cut


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_before_a_process_has_started_ends_it_quietly(
    number: int, namespace: str, tmp_path: Path
) -> None:
    with running("samm_server", namespace, tmp_path) as process:
        # Its own modules are being imported, and rclpy is not up yet.
        until(lambda: "numpy" in Path(f"/proc/{process.pid}/maps").read_text(), "its imports")
        process.send_signal(number)
        assert process.wait(END_S) == 0, process.log.read_text()
        assert "Traceback" not in process.log.read_text()


def test_a_signal_in_the_middle_of_encoding_ends_the_server(
    namespace: str, tmp_path: Path, mni_path: Path
) -> None:
    with (
        running("samm_server", namespace, tmp_path, volume=mni_path) as process,
        Peer(namespace) as peer,
    ):
        peer.listen(EmbeddingStatus, topics.EMBEDDING_STATUS, topics.LATCHED)
        peer.wait_for(topics.EMBEDDING_STATUS, lambda s: s.sweeping and sum(s.done) > 0, START_S)
        files = segments(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(END_S) == 0, process.log.read_text()
        assert files
        assert not [file for file in files if file.exists()]


def test_a_thread_that_dies_takes_its_process_down_with_a_sentence(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import threading
        from rclpy.node import Node
        from samm_ros.support import process

        def die():
            raise RuntimeError("what went wrong")

        with process.ros():
            node = Node("node")
            threading.Thread(target=die, name="worker").start()
            process.spin(node)
    """)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=START_S)
    assert ended.returncode == 1, ended.stderr
    assert "The thread 'worker' died" in ended.stderr
    assert "what went wrong" in ended.stderr


class Manager:
    """Changes states as a lifecycle manager does."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def change(self, node: str, transition: str) -> bool:
        request = ChangeState.Request(transition=Transition(id=LIFECYCLE[transition]))
        return self._peer.call(ChangeState, f"{node}/change_state", request, START_S).success

    def change_once(self, node: str, transition: str) -> bool:
        """As change, for one that may take longer than `call` waits before it asks again: to load a model is one."""
        request = ChangeState.Request(transition=Transition(id=LIFECYCLE[transition]))
        return self._peer.call_once(ChangeState, f"{node}/change_state", request, START_S).success

    def state(self, node: str) -> int:
        return self._peer.call(GetState, f"{node}/get_state", GetState.Request()).current_state.id

    def until_active(self, node: str) -> None:
        until(lambda: self.state(node) == State.PRIMARY_STATE_ACTIVE, f"{node} active")


def sends_nothing_that_does_not_apply(manager: Manager, node: str, state: int) -> None:
    for transition in LIFECYCLE.keys() - APPLIES[state]:
        assert not manager.change(node, transition), f"{node} took {transition} in state {state}"
        assert manager.state(node) == state


@pytest.fixture
def server(namespace: str, tmp_path: Path, mni_path: Path) -> Iterator[tuple[subprocess.Popen, Peer]]:
    """A server that has loaded its model and the MNI volume at its start, and a peer of it."""
    with (
        running("samm_server", namespace, tmp_path, volume=mni_path, sweep="false") as process,
        Peer(namespace) as peer,
    ):
        peer.listen(VolumeInfo, topics.VOLUME_INFO, topics.LATCHED)
        peer.listen(ModelInfo, topics.MODEL_INFO, topics.LATCHED)
        peer.listen(EmbeddingStatus, topics.EMBEDDING_STATUS, topics.LATCHED)
        peer.wait_for(topics.VOLUME_INFO, lambda v: bool(v.uid), START_S)
        yield process, peer


def test_every_transition_in_every_state_is_answered_as_it_applies(
    server: tuple[subprocess.Popen, Peer],
) -> None:
    process, peer = server
    manager = Manager(peer)
    for node in ("rcv_inf", "cpl_inf", "embedding"):
        goes_through_all_states(manager, node, process)


def goes_through_all_states(manager: Manager, node: str, process: subprocess.Popen) -> None:
    manager.until_active(node)
    for transition, state in (
        (None, State.PRIMARY_STATE_ACTIVE),
        ("deactivate", State.PRIMARY_STATE_INACTIVE),
        ("activate", State.PRIMARY_STATE_ACTIVE),
        ("deactivate", State.PRIMARY_STATE_INACTIVE),
        ("cleanup", State.PRIMARY_STATE_UNCONFIGURED),
        ("configure", State.PRIMARY_STATE_INACTIVE),
        ("activate", State.PRIMARY_STATE_ACTIVE),
        ("active_shutdown", State.PRIMARY_STATE_FINALIZED),
    ):
        if transition:
            assert manager.change_once(node, transition), (
                f"{transition} failed: {process.log.read_text()[-2000:]}"
            )
        assert manager.state(node) == state
        sends_nothing_that_does_not_apply(manager, node, state)
    assert process.poll() is None
    assert "Traceback" not in process.log.read_text()


def test_an_inactive_server_keeps_its_volume_and_an_unconfigured_one_holds_and_serves_nothing(
    server: tuple[subprocess.Popen, Peer], mni_path: Path
) -> None:
    process, peer = server
    manager = Manager(peer)
    manager.until_active("embedding")
    loader = peer.node.create_client(LoadVolume, topics.LOAD_VOLUME)
    until(loader.service_is_ready, "load_volume")
    request = LoadVolume.Request(path=str(mni_path), window_lower=1.0, window_upper=77.0)
    assert peer.call(LoadVolume, topics.LOAD_VOLUME, request).success
    shown = peer.wait_for(topics.VOLUME_INFO, lambda v: v.window_upper == 77.0)
    assert not shown.at_start
    assert peer.heard[topics.VOLUME_INFO][0].at_start

    action = ActionClient(peer.node, EmbedVolume, topics.EMBED_VOLUME)
    assert action.wait_for_server(START_S)
    sent = Goal(peer.node, action, EmbedVolume.Goal(planes=[0]))
    peer.wait_for(topics.EMBEDDING_STATUS, lambda s: s.sweeping)
    assert manager.change("embedding", "deactivate")
    until(sent.ended.done, "the goal's result")
    assert "deactivated" in sent.ended.result().message
    assert not sent.ended.result().success
    # A slice that is being encoded cannot be interrupted, and holds the model.
    until(lambda: not peer.heard[topics.EMBEDDING_STATUS][-1].sweeping, "the end of the slice under way")

    heard = len(peer.heard[topics.VOLUME_INFO])
    assert manager.change("embedding", "activate")
    assert all(v.window_upper == 77.0 for v in peer.heard[topics.VOLUME_INFO][heard:]), "it was loaded anew"

    loaded = psutil.Process(process.pid).memory_info().rss
    assert manager.change("embedding", "deactivate")
    assert manager.change("embedding", "cleanup")
    freed = loaded - psutil.Process(process.pid).memory_info().rss
    print(f"RSS {loaded / 2**20:.0f} MiB, freed {freed / 2**20:.0f} MiB")
    assert freed > 50 * 2**20, "the model and the volume are still in memory"
    peer.wait_for(topics.MODEL_INFO, lambda m: not m.name and "cleaned up" in m.error)
    peer.wait_for(topics.VOLUME_INFO, lambda v: not v.uid and "cleaned up" in v.error)
    until(lambda: not loader.service_is_ready(), "the end of load_volume")


def test_a_model_that_there_is_not_is_told_by_the_node_that_lacks_it(namespace: str, tmp_path: Path) -> None:
    values = {"model": "bogus", "volume": tmp_path / "absent.nii"}
    with running("embedding", namespace, tmp_path, **values) as process, Peer(namespace) as peer:
        peer.listen(ModelInfo, topics.MODEL_INFO, topics.LATCHED)
        peer.listen(DiagnosticArray, topics.DIAGNOSTICS, 10)
        info = peer.wait_for(topics.MODEL_INFO, lambda m: bool(m.error), START_S)
        assert not info.name
        assert "bogus" in info.error
        assert info.header.frame_id == topics.FRAME_ID
        name = f"{namespace}/embedding: state"
        array = peer.wait_for(
            topics.DIAGNOSTICS,
            lambda a: a.status[0].name == name and a.status[0].level == DiagnosticStatus.ERROR,
        )
        assert "bogus" in array.status[0].message
        assert array.status[0].hardware_id
        assert Manager(peer).state("embedding") == State.PRIMARY_STATE_UNCONFIGURED
        assert not Manager(peer).change("embedding", "configure"), "there is still no such model"
        assert process.poll() is None


def test_a_volume_that_cannot_be_read_at_the_start_is_told_and_the_server_serves(
    namespace: str, tmp_path: Path, mni_path: Path
) -> None:
    with (
        running("embedding", namespace, tmp_path, volume=tmp_path / "absent.nii") as process,
        Peer(namespace) as peer,
    ):
        peer.listen(VolumeInfo, topics.VOLUME_INFO, topics.LATCHED)
        peer.listen(EmbeddingStatus, topics.EMBEDDING_STATUS, topics.LATCHED)
        info = peer.wait_for(topics.VOLUME_INFO, lambda v: bool(v.error), START_S)
        assert not info.uid
        assert "absent.nii" in info.error
        assert peer.call(LoadVolume, topics.LOAD_VOLUME, LoadVolume.Request(path=str(mni_path))).success
        peer.wait_for(topics.EMBEDDING_STATUS, lambda s: s.sweeping)

        def set_sweep(value: ParameterValue) -> bool:
            request = SetParameters.Request(parameters=[Parameter(name="sweep", value=value)])
            return peer.call(SetParameters, "embedding/set_parameters", request).results[0].successful

        assert set_sweep(ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False))
        peer.heard[topics.EMBEDDING_STATUS].clear()
        peer.wait_for(topics.EMBEDDING_STATUS, lambda s: not s.sweeping)
        assert not set_sweep(ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="no"))
        assert set_sweep(ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True))
        peer.heard[topics.EMBEDDING_STATUS].clear()
        peer.wait_for(topics.EMBEDDING_STATUS, lambda s: s.sweeping)
        assert process.poll() is None


def test_a_node_reports_without_ros_time_when_nobody_publishes_a_clock(
    namespace: str, tmp_path: Path
) -> None:
    with running("rcv_inf", namespace, tmp_path, use_sim_time="true"), Peer(namespace) as peer:
        peer.listen(DiagnosticArray, topics.DIAGNOSTICS, 10)
        name = f"{namespace}/rcv_inf: state"
        ok = peer.wait_for(topics.DIAGNOSTICS, lambda a: a.status[0].name == name, START_S)
        assert ok.status[0].level in (DiagnosticStatus.OK, DiagnosticStatus.STALE)
        requests = peer.publisher(SliceRequest, topics.SLICE_REQUESTS, topics.NEWEST)
        peer.do_until(
            lambda: requests.publish(SliceRequest()),
            topics.DIAGNOSTICS,
            lambda a: a.status[0].name == name and a.status[0].level == DiagnosticStatus.WARN,
        )


def test_requests_name_whose_sequence_they_count(shared_graph: str) -> None:
    with Peer(shared_graph) as peer:
        peer.listen(SliceRequest, topics.SLICE_REQUESTS, topics.NEWEST)
        prompts = peer.publisher(Prompt, topics.PROMPTS, topics.NEWEST)
        prompt = Prompt(client_id=f"counts-{uuid.uuid4().hex[:6]}", coordinates=Prompt.PIXEL, has_box=True)
        prompt.image.index = 35
        prompt.box_min.x, prompt.box_min.y, prompt.box_max.x, prompt.box_max.y = 36.0, 110.0, 82.0, 162.0
        request = peer.publish_until(
            prompts, prompt, topics.SLICE_REQUESTS, lambda r: r.client_id == prompt.client_id
        )
        assert re.fullmatch(rf"/{shared_graph}/snd_inf [0-9a-f]{{8}}", request.publisher)
        assert request.header.frame_id == topics.FRAME_ID
        assert request.header.stamp.sec > 0
