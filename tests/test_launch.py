# SPDX-License-Identifier: Apache-2.0
"""Launch files, the processes that run them, and the transport that they set."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import queue
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samm_ros import shared_memory
from samm_ros.errors import LaunchError
from samm_ros.launch_file import NodeProcess, find_executable, read_arguments, read_launch_file
from samm_ros.supervisor import START_ATTEMPTS, Graph

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILE = ROOT / "launch" / "samm.launch.yaml"
MAX_STOP_S = 5.0

LINGER = "#!/bin/sh\necho started\nexec sleep 1000\n"
STUBBORN = "#!/bin/sh\ntrap '' INT TERM\necho started\nwhile :; do sleep 1000; done\n"
PARENT = "#!/bin/sh\nsleep 1000 &\necho started\nwait\n"
BROKEN = "#!/bin/sh\necho what went wrong\nexit 3\n"

ROS_NODE = f"""#!{sys.executable}
import sys, rclpy
from rclpy.executors import ExternalShutdownException
rclpy.init()
node = rclpy.create_node("node")
print("started", flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An ament prefix with one package, "pkg", whose executables are little scripts."""
    index = tmp_path / "prefix/share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "pkg").touch()
    folder = tmp_path / "prefix/lib/pkg"
    folder.mkdir(parents=True)
    for name, text in {
        "linger": LINGER,
        "stubborn": STUBBORN,
        "parent": PARENT,
        "broken": BROKEN,
        "ros_node": ROS_NODE,
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return tmp_path / "prefix"


@pytest.fixture
def environment(prefix: Path) -> dict[str, str]:
    """Of the processes: the prefix, and a domain that conftest gives to no test."""
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
        "ROS_DOMAIN_ID": str(random.SystemRandom().randint(101, 230)),
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a launch file of its entries."""

    def write_file(entries: str) -> Path:
        path = tmp_path / "test.launch.yaml"
        path.write_text("launch:\n" + textwrap.indent(textwrap.dedent(entries), "  "))
        return path

    return write_file


class Lines:
    """What a graph says, to wait for."""

    def __init__(self) -> None:
        self._said: dict[str, queue.SimpleQueue[str]] = collections.defaultdict(queue.SimpleQueue)

    def __call__(self, name: str, line: str) -> None:
        self._said[name].put(line)

    def wait_for(self, name: str, text: str, timeout_s: float = 60.0) -> None:
        """Until the process has said it; what it said before is forgotten."""
        deadline = time.monotonic() + timeout_s
        passed: list[str] = []
        while not passed or text not in passed[-1]:
            try:
                passed.append(self._said[name].get(timeout=max(deadline - time.monotonic(), 0.0)))
            except queue.Empty:
                pytest.fail(f"{name} did not say {text!r} within {timeout_s} s, only {passed}")


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without the dead that init has not collected yet."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# Text and trees that resemble launch files.
WORDS = st.sampled_from(
    ["$(var a)", "$(env HOME)", "$(", ")", "$(var", "a", " ", "'", "$", "true", "1.5", "/"]
)
TEXTS = st.lists(WORDS, max_size=4).map("".join) | st.text(max_size=4)
KEYS = st.sampled_from(
    ["pkg", "exec", "name", "value", "default", "param", "remap", "from", "to", "if", "type"]
)
BODIES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.dictionaries(st.sampled_from(["arg", "let", "set_env", "node", "x"]), BODIES, max_size=2)


class TestReader:
    def read(
        self, path: Path, arguments: dict[str, str] | None = None, **environment: str
    ) -> tuple[NodeProcess, ...]:
        return read_launch_file(path, arguments or {}, environment).nodes

    def test_a_node_has_everything_that_is_written(
        self, write: Callable[[str], Path], tmp_path: Path
    ) -> None:
        (tmp_path / "parameters.yaml").write_text("{}")
        file = write(f"""
            - node:
                pkg: pkg
                exec: linger
                name: name
                namespace: /a/b
                respawn: "true"
                respawn_delay: 0.5
                remap:
                  - {{from: old, to: new}}
                param:
                  - from: {tmp_path}/parameters.yaml
                  - {{name: text, value: "1", type: str}}
                  - {{name: number, value: "1"}}
                  - {{name: real, value: 1, type: float}}
                  - {{name: flag, value: "true"}}
                  - {{name: words, value: some words}}
                  - {{name: empty, value: "", type: str}}
        """)
        assert self.read(file) == (
            NodeProcess(
                package="pkg",
                executable="linger",
                name="name",
                namespace="/a/b",
                parameters=(
                    tmp_path / "parameters.yaml",
                    ("text", "1"),
                    ("number", 1),
                    ("real", 1.0),
                    ("flag", True),
                    ("words", "some words"),
                    ("empty", ""),
                ),
                remappings=(("old", "new"),),
                respawn=True,
                respawn_delay=0.5,
            ),
        )

    def test_entries_are_taken_in_order_with_their_conditions(self, write: Callable[[str], Path]) -> None:
        file = write("""
            - arg: {name: side, default: left, description: Which.}
            - let: {name: other, value: $(var side)-$(env HAND none)}
            - let: {name: other, value: never, if: "false"}
            - set_env: {name: HAND, value: set}
            - node: {pkg: pkg, exec: "$(var other)", unless: "0"}
            - node: {pkg: pkg, exec: "$(env HAND)", if: " True "}
            - node: {pkg: pkg, exec: unseen, unless: "1"}
            - node: {pkg: pkg, exec: "$(env $(var side) 'a default')"}
        """)
        assert [node.executable for node in self.read(file)] == ["left-none", "set", "a default"]
        assert [node.executable for node in self.read(file, {"side": "R"}, R="$(var x)")][2] == "$(var x)"
        assert read_launch_file(file, {}, {}).environment == {"HAND": "set"}

    def test_the_share_of_a_package_is_found(self, write: Callable[[str], Path], prefix: Path) -> None:
        file = write("- node: {pkg: pkg, exec: $(find-pkg-share pkg)/x}")
        assert (
            self.read(file, AMENT_PREFIX_PATH=f"/nowhere:{prefix}")[0].executable == f"{prefix}/share/pkg/x"
        )

    def test_an_argument_without_default_must_be_given(self, write: Callable[[str], Path]) -> None:
        file = write("- arg: {name: volume, description: What to load.}")
        with pytest.raises(LaunchError, match=r"\"volume\" \(What to load.\) must be given"):
            self.read(file)
        assert self.read(file, {"volume": "x"}) == ()

    def test_an_unknown_argument_is_answered_with_the_known(self, write: Callable[[str], Path]) -> None:
        with pytest.raises(LaunchError, match='no argument "c"; it has a, b'):
            self.read(write('- arg: {name: a, default: ""}\n- arg: {name: b, default: ""}'), {"c": ""})

    @pytest.mark.parametrize(
        ("entry", "problem"),
        [
            ("- include: {file: x}", "'include' is not known; known are arg, let, set_env, node"),
            (
                "- node: {pkg: a, exec: b, output: screen}",
                "the key 'output' is not known; known are pkg, exec",
            ),
            ("- node: {pkg: a}", "exec is missing"),
            ("- node: {pkg: a, exec: b, param: [{nmae: x, value: y}]}", "the key 'nmae' is not known"),
            ("- node: {pkg: a, exec: b, param: [{name: x, value: [1]}]}", "no value of a parameter"),
            ("- node: {pkg: a, exec: b, param: [{name: x, value: y, type: int}]}", "'y' is no int"),
            ("- node: {pkg: a, exec: b, param: [{name: x, value: y, type: list}]}", "'list' is no type"),
            ("- node: {pkg: a, exec: b, param: [{from: /no/such}]}", "no parameter file /no/such"),
            ("- node: {pkg: a, exec: b, remap: [{from: x}]}", "to is missing"),
            ("- node: {pkg: a, exec: b, remap: x}", "remap has to be a list"),
            ("- node: {pkg: a, exec: b, respawn_delay: 1}", "with a decimal point"),
            ("- node: {pkg: a, exec: b, respawn: true}", "respawn has to be text"),
            ('- node: {pkg: a, exec: b, if: "yes"}', "if has to be true or false, not 'yes'"),
            ('- node: {pkg: a, exec: b, if: "1", unless: "1"}', "if and unless exclude each other"),
            ("- arg: {name: x, default: 1}", "default has to be text, not 1; quote it"),
            ("- let: {name: x, value: $(var y)}", 'no variable "y"'),
            ("- let: {name: x, value: $(env NO_SUCH)}", "NO_SUCH is not set"),
            ("- let: {name: x, value: $(eval 1+1)}", r"\$\(eval 1\+1\) is not known"),
            ("- let: {name: x, value: $(find-pkg-share ../x)}", 'no package "../x"'),
            ("- let: {name: x, value: $(var y}", "is damaged at character 8"),
            ("- let: {name: x, value: 'a\\b'}", "backslash"),
            ("- set_env: {name: A=B, value: x}", "cannot be an environment variable"),
            ("- node:", "attributes are missing"),
            ("- node", "an entry is one of"),
        ],
    )
    def test_what_is_not_known_is_refused_with_its_place(
        self, write: Callable[[str], Path], entry: str, problem: str
    ) -> None:
        file = write(entry)
        with pytest.raises(LaunchError, match=problem) as refused:
            self.read(file)
        assert str(file) in str(refused.value)
        assert "entry 1" in str(refused.value)

    @pytest.mark.parametrize(
        "text", ["", "launch: 1", "[]", "launch: []\nx: 1", "a: [", "!!int x", "\x00", "- " * 5000]
    )
    def test_what_is_no_launch_file_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "file").write_text(text)
        with pytest.raises(LaunchError, match="file"):
            self.read(tmp_path / "file")

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        tree=st.lists(ENTRIES, max_size=4).map(lambda entries: {"launch": entries}) | BODIES,
        junk=st.binary(max_size=8),
    )
    def test_no_yaml_makes_it_fail_otherwise(self, tmp_path: Path, tree: object, junk: bytes) -> None:
        for content in (yaml.safe_dump(tree).encode(), junk, b"launch: [" + junk):
            (tmp_path / "file").write_bytes(content)
            try:
                read_launch_file(tmp_path / "file", {}, {"HOME": "$(var a)"})
            except LaunchError as refused:
                assert str(refused)


class TestLaunchFile:
    """launch/samm.launch.yaml itself."""

    def names(self, **arguments: str) -> list[str]:
        return [node.executable for node in read_launch_file(LAUNCH_FILE, arguments, os.environ).nodes]

    def test_it_composes_two_processes_or_starts_one_a_node(self) -> None:
        assert self.names() == ["samm_server", "samm_client", "slicer_bridge"]
        assert self.names(bridge="false") == ["samm_server", "samm_client"]
        alone = ["apl_msk", "cpl_inf", "embedding", "rcv_inf", "rcv_msk", "slicer_bridge", "snd_inf"]
        assert sorted(self.names(composed="false")) == alone

    def test_every_executable_is_installed(self) -> None:
        for name in {*self.names(), *self.names(composed="false")}:
            package = "slicer_ros_bridge" if name == "slicer_bridge" else "samm_ros"
            assert os.access(find_executable(package, name, os.environ), os.X_OK)

    def test_every_argument_is_described_and_optional(self) -> None:
        for argument in read_arguments(LAUNCH_FILE):
            assert argument.description
            assert argument.default is not None

    def test_the_network_is_shut_out_unless_asked_for(self) -> None:
        alone = read_launch_file(LAUNCH_FILE, {}, os.environ).environment
        joined = read_launch_file(LAUNCH_FILE, {"network": "true"}, os.environ).environment
        assert alone["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("/config/fastdds.xml")
        assert alone["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SYSTEM_DEFAULT"
        assert joined["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("/config/fastdds_network.xml")
        assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in joined


class TestGraph:
    def test_a_process_that_dies_is_started_again(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path
    ) -> None:
        lines = Lines()
        file = write('- node: {pkg: pkg, exec: linger, respawn: "true", respawn_delay: 0.1}')
        with Graph(file, {}, tmp_path / "log", environment, lines) as graph:
            # Kills come from outside: any number of them is no failed start.
            for _ in range(START_ATTEMPTS + 1):
                lines.wait_for("linger", "started")
                first = graph.processes["linger"]
                graph.kill("linger", signal.SIGKILL)
                lines.wait_for("linger", "was ended by SIGKILL")
            lines.wait_for("linger", "started")
            assert graph.processes["linger"] != first
        assert (tmp_path / "log/linger.log").read_text() == "started\n" * (START_ATTEMPTS + 2)

    @pytest.mark.parametrize("executable", ["linger", "stubborn", "parent"])
    def test_a_stop_takes_at_most_5_s_and_leaves_nothing(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path, executable: str
    ) -> None:
        lines = Lines()
        graph = Graph(
            write(f"- node: {{pkg: pkg, exec: {executable}}}"), {}, tmp_path / "log", environment, lines
        )
        with graph:
            lines.wait_for(executable, "started")
            process = psutil.Process(graph.processes[executable])
            family = [process, *process.children(recursive=True)]
            began = time.monotonic()
            graph.stop()
            assert time.monotonic() - began < MAX_STOP_S
        assert living(family) == []
        assert graph.processes == {}

    @pytest.mark.parametrize("executable", ["stubborn", "parent"])
    def test_nothing_outlives_a_supervisor_that_was_killed(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path, executable: str
    ) -> None:
        file = write(f'- node: {{pkg: pkg, exec: {executable}, respawn: "true"}}')
        code = f"""
            import sys, threading
            from pathlib import Path
            from samm_ros.supervisor import Graph
            said = threading.Event()
            graph = Graph(Path({str(file)!r}), {{}}, Path({str(tmp_path / "log")!r}), on_line=lambda n, l: said.set())
            graph.start()
            said.wait()
            print(graph.processes[{executable!r}], flush=True)
            graph.wait()
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        supervisor = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        process = psutil.Process(int(supervisor.stdout.readline()))
        family = [process, *process.children(recursive=True)]
        supervisor.kill()
        supervisor.wait()
        _, left = psutil.wait_procs(family, timeout=MAX_STOP_S)
        assert living(left) == []

    @pytest.mark.parametrize(("respawn", "times"), [("false", 1), ("true", START_ATTEMPTS)])
    def test_what_cannot_start_is_an_error_with_the_end_of_its_log(
        self,
        write: Callable[[str], Path],
        environment: dict[str, str],
        tmp_path: Path,
        respawn: str,
        times: int,
    ) -> None:
        file = write(
            f'- node: {{pkg: pkg, exec: broken, respawn: "{respawn}"}}\n- node: {{pkg: pkg, exec: linger}}'
        )
        with pytest.raises(LaunchError, match="broken ended with status 3 at its start") as failure:
            with Graph(file, {}, tmp_path / "log", environment) as graph:
                graph.wait()
        assert "what went wrong" in str(failure.value)
        assert (tmp_path / "log/broken.log").read_text() == "what went wrong\n" * times

    def test_a_wait_in_vain_for_what_could_not_start_is_told_by_its_cause(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path
    ) -> None:
        lines = Lines()
        with pytest.raises(LaunchError, match="broken ended with status 3"):
            with Graph(
                write("- node: {pkg: pkg, exec: broken}"), {}, tmp_path / "log", environment, lines
            ) as graph:
                lines.wait_for("broken", "what went wrong")
                with pytest.raises(LaunchError):
                    graph.wait()
                raise LaunchError("Waited in vain.")

    def test_an_executable_that_is_not_there_is_named_with_those_that_are(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path
    ) -> None:
        with pytest.raises(LaunchError, match='pkg has no executable "absent"; it has broken, linger'):
            Graph(write("- node: {pkg: pkg, exec: absent}"), {}, tmp_path / "log", environment)
        with pytest.raises(LaunchError, match='There is no package "absent"'):
            Graph(write("- node: {pkg: absent, exec: linger}"), {}, tmp_path / "log", environment)

    def test_two_of_one_executable_have_two_names_and_logs(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path
    ) -> None:
        lines = Lines()
        file = write("- node: {pkg: pkg, exec: linger}\n- node: {pkg: pkg, exec: linger}")
        with Graph(file, {}, tmp_path / "log", environment, lines) as graph:
            lines.wait_for("linger_2", "started")
            assert set(graph.processes) == {"linger", "linger_2"}
        assert (tmp_path / "log/linger_2.log").exists()


class TestSharedMemory:
    SEGMENT = "fastrtps_0123456789abcdef"

    def test_only_what_no_living_process_holds_is_removed(self, tmp_path: Path) -> None:
        dead, held, strange = "fastrtps_port7411", self.SEGMENT, "fastrtps_notes.txt"
        for name in (dead, f"{dead}_el", f"sem.{dead}_mutex", held, f"{held}_el", strange, "other"):
            (tmp_path / name).touch()
        with open(tmp_path / f"{held}_el") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            removed = shared_memory.remove_abandoned(tmp_path)
        assert {file.name for file in removed} == {dead, f"{dead}_el", f"sem.{dead}_mutex"}
        assert {file.name for file in tmp_path.iterdir()} == {held, f"{held}_el", strange, "other"}

    def test_a_segment_without_a_lock_has_no_owner(self, tmp_path: Path) -> None:
        (tmp_path / self.SEGMENT).touch()
        assert shared_memory.remove_abandoned(tmp_path) == [tmp_path / self.SEGMENT]

    def test_a_killed_node_leaves_nothing_in_shared_memory_and_the_living_keep_theirs(
        self, write: Callable[[str], Path], environment: dict[str, str], tmp_path: Path
    ) -> None:
        profile = str(ROOT / "launch/config/fastdds.xml")
        environment |= {
            "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
        }
        lines = Lines()
        file = write(
            "- node: {pkg: pkg, exec: ros_node, name: dies}\n- node: {pkg: pkg, exec: ros_node, name: lives}"
        )
        with Graph(file, {}, tmp_path / "log", environment, lines) as graph:
            lines.wait_for("dies", "started")
            lines.wait_for("lives", "started")
            dying, living = (self.locks_of(graph.processes[name]) for name in ("dies", "lives"))
            assert dying
            assert living
            graph.kill("dies", signal.SIGKILL)
            lines.wait_for("dies", "was ended by SIGKILL")
            assert [lock for lock in dying if lock.exists()] == []
            assert [lock for lock in dying if Path(str(lock)[:-3]).exists()] == []
            assert all(lock.exists() for lock in living)

    def locks_of(self, pid: int) -> set[Path]:
        """Lock files that a process has open."""
        files = (Path(os.readlink(link)) for link in Path(f"/proc/{pid}/fd").iterdir())
        return {file for file in files if file.parent == shared_memory.FOLDER and file.name.endswith("_el")}


ECHO = """
import rclpy, sys
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import UInt8MultiArray
newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
rclpy.init()
node = rclpy.create_node("echo")
answers = node.create_publisher(UInt8MultiArray, "answers", newest)
node.create_subscription(UInt8MultiArray, "questions", answers.publish, newest)
print("ready", flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""

ASK = """
import array, sys, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import UInt8MultiArray
newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
size, count = int(sys.argv[1]), int(sys.argv[2])
rclpy.init()
node = rclpy.create_node("ask")
questions = node.create_publisher(UInt8MultiArray, "questions", newest)
got = []
node.create_subscription(UInt8MultiArray, "answers", lambda m: got.append(m.data[0]), newest)

def spin_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.05)
    return condition()

def ask(number, seconds):
    questions.publish(UInt8MultiArray(data=array.array("B", bytes([number]) + bytes(size - 1))))
    return spin_until(lambda: number in got, seconds)

# Until both directions are matched, which no one side knows.
assert spin_until(lambda: ask(255, 0.2), 30.0), "the echo was not found"
print(sum(ask(number, 5.0) for number in range(count)))
"""


class TestTransport:
    @pytest.fixture
    def echo(self, environment: dict[str, str]):
        """A node in a process, with the launch file's environment. Gives the process and that environment."""
        environment |= read_launch_file(LAUNCH_FILE, {}, os.environ).environment
        process = subprocess.Popen(
            [sys.executable, "-c", ECHO], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        yield process, environment
        process.kill()
        process.communicate()
        shared_memory.remove_abandoned()

    def test_best_effort_messages_of_4_mb_arrive_every_one(self, echo) -> None:
        _, environment = echo
        command = [sys.executable, "-c", ASK, str(4_000_000), "30"]
        arrived = subprocess.check_output(command, env=environment, text=True, timeout=200)
        assert int(arrived) == 30

    def test_nothing_listens_beyond_loopback(self, echo) -> None:
        process, _ = echo
        addresses = {socket.laddr.ip for socket in psutil.Process(process.pid).net_connections("inet")}
        assert addresses == {"127.0.0.1"}
