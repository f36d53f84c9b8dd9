# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The table of processes, the launch file and the supervisor that start them, and the transport that they set."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import importlib.util
import json
import os
import queue
import random
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from graph_processes import launched
from hypothesis import given
from hypothesis import strategies as st
from peer import Peer
from samm_msgs.msg import VolumeList

from samm_core.errors import LaunchError
from samm_core.geometry import VolumeGeometry
from samm_core.saved_work import SavedWork
from samm_core.segmentation.segmentation import Segmentation
from samm_core.sources.volume import LoadedVolume
from samm_core.sources.window import Window
from samm_ros import conversions, topics
from samm_ros.supervision import cleanup, fastdds_files, fork_server
from samm_ros.supervision import processes as process_table
from samm_ros.supervision.processes import (
    ARGUMENTS,
    PROCESSES,
    RESPAWN_DELAY_S,
    command,
    config_file,
    environment,
    find_executable,
    processes,
    read_arguments,
)
from samm_ros.supervision.supervisor import START_ATTEMPTS, Supervisor, launch, send_signal

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILE = ROOT / "launch" / "samm.launch.py"
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

# Stands for a node of ours: writes how it was started.
RECORDER = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
started = {{
    "namespace": next((word.partition(":=")[2] for word in words if word.startswith("__ns:=")), ""),
    "files": {{word: open(word).read() for word in words if os.path.isfile(word)}},
    "environment": dict(os.environ),
}}
with open(os.path.join(os.environ["RECORDS"], os.path.basename(sys.argv[0])), "w") as record:
    json.dump(started, record)
"""

# As `ros2 launch FILE NAME:=VALUE …`, of which ros2launch is a thin layer over this.
ROS2_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
source = PythonLaunchDescriptionSource(sys.argv[1])
arguments = [tuple(word.split(":=", 1)) for word in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""


@pytest.fixture
def own_domain() -> dict[str, str]:
    """This environment, in a domain that conftest gives to no test."""
    return {**os.environ, "ROS_DOMAIN_ID": str(random.SystemRandom().randint(101, 230))}


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder of little executables."""
    folder = tmp_path / "scripts"
    texts = {"linger": LINGER, "stubborn": STUBBORN, "parent": PARENT, "broken": BROKEN, "ros_node": ROS_NODE}
    for name, text in texts.items():
        write_executable(folder / name, text)
    return folder


@pytest.fixture
def supervise(scripts: Path, own_domain: dict[str, str], tmp_path: Path) -> Callable[..., Supervisor]:
    """Makes a supervisor of some of the scripts."""

    def make(*names: str, respawn: bool = False, on_line: Lines | None = None) -> Supervisor:
        commands = {name: [str(scripts / name)] for name in names}
        return Supervisor(commands, tmp_path / "log", own_domain, respawn, on_line)

    return make


def write_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Lines:
    """The lines of a supervisor's processes, to wait for."""

    def __init__(self) -> None:
        self._lines: dict[str, queue.SimpleQueue[str]] = collections.defaultdict(queue.SimpleQueue)

    def __call__(self, name: str, line: str) -> None:
        self._lines[name].put(line)

    def wait_for(self, name: str, text: str, timeout_s: float = 60.0) -> None:
        """Until the process has written it; lines before it are dropped."""
        deadline = time.monotonic() + timeout_s
        passed: list[str] = []
        while not passed or text not in passed[-1]:
            try:
                passed.append(self._lines[name].get(timeout=max(deadline - time.monotonic(), 0.0)))
            except queue.Empty:
                pytest.fail(f"{name} did not write {text!r} within {timeout_s} s, only {passed}")


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without the zombies that init has not collected yet."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def locks_of(pid: int) -> set[Path]:
    """Lock files of Fast DDS that a process has open."""
    files = (Path(os.readlink(link)) for link in Path(f"/proc/{pid}/fd").iterdir())
    return {file for file in files if file.parent == fastdds_files.FOLDER and file.name.endswith("_el")}


def suspended_server_of(supervisor: psutil.Process) -> psutil.Process:
    """The process that forks for a supervisor, as soon as there is one, suspended: it answers no more."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        for child in supervisor.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if fork_server.__name__ in child.cmdline():
                    child.suspend()
                    return child
        time.sleep(0.005)
    pytest.fail("the process that forks did not start within 60 s")


def memory_of(process: psutil.Process) -> Path:
    """A folder with what outlives the process in shared memory, made now."""
    folder = cleanup.folder_of(process.environ()[cleanup.MARK])
    folder.mkdir()
    (folder / "file").touch()
    return folder


class TestArguments:
    def test_an_argument_that_is_not_given_has_its_default(self) -> None:
        values = read_arguments({})
        assert values == {argument.name: argument.default for argument in ARGUMENTS}
        assert values == read_arguments({argument.name: argument.default_text for argument in ARGUMENTS})

    def test_a_value_has_the_type_of_its_argument(self) -> None:
        given = {"checkpoint": "1", "sweep": " False ", "cache_8bit": "1", "samm_port": "-1", "volume": ""}
        values = read_arguments(given)
        assert {name: values[name] for name in given} == {
            "checkpoint": "1",
            "sweep": False,
            "cache_8bit": True,
            "samm_port": -1,
            "volume": "",
        }

    @pytest.mark.parametrize(
        ("name", "text", "problem"),
        [
            ("colour", "red", 'There is no argument "colour"; there are model, checkpoint'),
            ("composed", "yes", 'composed has to be true or false, not "yes"'),
            ("network", "", 'network has to be true or false, not ""'),
            ("bridge_port", "http", 'bridge_port has to be a whole number, not "http"'),
            ("samm_port", "1.5", 'samm_port has to be a whole number, not "1.5"'),
            ("window_lower", "low", 'window_lower has to be a number, not "low"'),
            ("window_upper", "inf", 'window_upper has to be a number, not "inf"'),
            ("session", "/absent.samm", "The session cannot be started: /absent.samm cannot be read"),
        ],
    )
    def test_an_argument_that_cannot_be_is_refused_by_name(self, name: str, text: str, problem: str) -> None:
        with pytest.raises(LaunchError, match=problem):
            read_arguments({name: text})

    @given(name=st.sampled_from([argument.name for argument in ARGUMENTS]), text=st.text())
    def test_any_text_is_a_value_or_a_refusal(self, name: str, text: str) -> None:
        with contextlib.suppress(LaunchError):
            assert type(read_arguments({name: text})[name]) in (str, bool, int, float)

    def test_a_session_says_volume_window_and_model(self, tmp_path: Path) -> None:
        path = tmp_path / "case.samm"
        segmentation = Segmentation(VolumeGeometry((4, 4, 4), np.eye(4)))
        volume = LoadedVolume("uid", "ct", "/data/ct.nii", segmentation.geometry, Window(-160, 240))
        SavedWork.of(volume, segmentation, "vit_b").save(path)
        given = {"session": str(path), "volume": "/another.nii", "window_preset": "ct_lung"}
        changed = {
            "session": str(path),
            "volume": "/data/ct.nii",
            "window_preset": "",
            "window_lower": -160.0,
            "window_upper": 240.0,
            "model": "vit_b",
        }
        assert read_arguments(given) == {**read_arguments({}), **changed}
        for name in ("samm_client", "apl_msk"):
            [process] = [each for each in PROCESSES if each.executable == name]
            assert process.parameters(read_arguments(given))["session"] == str(path)
        [server] = [each for each in PROCESSES if each.executable == "samm_server"]
        words = command(server, read_arguments(given))
        assert {"window_lower:=-160.0", "window_upper:=240.0", 'model:="vit_b"'} <= set(words)
        # Whose model is not known has the one that is given.
        SavedWork.of(volume, segmentation).save(path)
        assert read_arguments({**given, "model": "mobile_sam"})["model"] == "mobile_sam"

    def test_every_argument_is_described(self) -> None:
        assert all(argument.description.endswith(".") for argument in ARGUMENTS)


class TestProcesses:
    def names(self, **arguments: str) -> list[str]:
        return [process.executable for process in processes(read_arguments(arguments))]

    def test_two_processes_are_composed_or_each_node_has_its_own(self) -> None:
        assert self.names() == ["samm_server", "samm_client", "slicer_bridge"]
        assert self.names(bridge="false") == ["samm_server", "samm_client"]
        separate = [
            "apl_msk",
            "cpl_inf",
            "embedding",
            "rcv_inf",
            "rcv_msk",
            "slicer_bridge",
            "snd_inf",
            "world",
        ]
        assert sorted(self.names(composed="false")) == separate

    def test_every_executable_and_parameter_file_is_installed(self) -> None:
        for process in PROCESSES:
            assert os.access(find_executable(process.package, process.executable), os.X_OK)
            assert config_file(process.parameter_file).is_file()

    def test_every_argument_of_a_process_exists(self) -> None:
        for process in PROCESSES:
            assert set(process.arguments) <= {argument.name for argument in ARGUMENTS}

    def test_a_command_gives_the_namespace_the_file_and_the_values_in_yaml(self) -> None:
        values = read_arguments({"namespace": "/a/", "journal": "1: ü", "trace": "false"})
        [client] = [process for process in PROCESSES if process.executable == "samm_client"]
        executable, *words = command(client, values)
        assert executable == str(find_executable("samm_ros", "samm_client"))
        file = str(config_file("client.yaml"))
        assert words[:5] == ["--ros-args", "-r", "__ns:=/a", "--params-file", file]
        roots = f"roots:={json.dumps(client.parameters(values)['roots'])}"
        rest = [roots, 'session:=""', 'journal:="1: ü"', 'image_geometry:=""', "trace:=false"]
        assert words[5:] == [word for each in rest for word in ("-p", each)]

    def test_a_camera_has_its_own_topic(self) -> None:
        [server] = [process for process in PROCESSES if process.executable == "samm_server"]
        words = command(server, read_arguments({"image": "/camera/image_raw"}))
        assert words[2:6] == [
            "-r",
            "image:=/camera/image_raw",
            "-r",
            "image/compressed:=/camera/image_raw/compressed",
        ]
        assert "-r" not in command(server, read_arguments({}))

    def test_what_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(LaunchError, match='samm_ros has no executable "absent"; it has apl_msk, cpl_inf'):
            find_executable("samm_ros", "absent")
        with pytest.raises(LaunchError, match="'absent' not found.*; build the workspace"):
            find_executable("absent", "absent")
        monkeypatch.delenv("AMENT_PREFIX_PATH")
        with pytest.raises(LaunchError, match="AMENT_PREFIX_PATH.*; build the workspace"):
            environment()

    def test_the_network_is_shut_out_unless_it_is_asked_for(self) -> None:
        alone, joined = environment(), environment(network=True)
        assert alone["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("/config/fastdds.xml")
        assert alone["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SYSTEM_DEFAULT"
        assert joined["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("/config/fastdds_network.xml")
        assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in joined


class Action:
    """Stands for an action of ROS's launch: keeps what it was made with."""

    def __init__(self, *args: object, **options: object) -> None:
        self.args, self.options = args, options


class TestLaunchFile:
    """launch/samm.launch.py starts what the table says.

    Where ROS's launch is installed, it runs the file, with recorders in place of the nodes. ROS 2 from wheels has no
    launch: there the file runs with stand-ins for launch's classes, which show only what it makes of the table.
    """

    ARGUMENTS = [
        {},
        {"composed": "false", "bridge": "0", "network": "true"},
        {"namespace": "a/b", "checkpoint": "1", "volume": "/a b/ü.nii", "sweep": "false", "samm_port": "-1"},
        {"window_lower": "-1e3", "window_upper": "40"},
    ]

    @pytest.mark.parametrize("arguments", ARGUMENTS, ids=["defaults", "separate", "values", "window"])
    def test_it_starts_what_the_table_says(
        self, arguments: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = {**arguments, "respawn": "false"}
        if importlib.util.find_spec("launch_ros"):
            started = self.started_by_launch(arguments, tmp_path)
        else:
            started = self.started_by_stand_ins(arguments, monkeypatch)
        values = read_arguments(arguments)
        assert started == {
            process.executable: {
                "namespace": str(values["namespace"]),
                "file": process.parameter_file,
                "parameters": process.parameters(values),
                "environment": {
                    name: Path(value).name for name, value in environment(bool(values["network"])).items()
                },
            }
            for process in processes(values)
        }

    def test_it_declares_the_arguments_and_starts_a_process_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        declared, actions = self.run_with_stand_ins({}, monkeypatch)
        assert [(a.args[0], a.options["default_value"], a.options["description"]) for a in declared] == [
            (a.name, a.default_text, a.description) for a in ARGUMENTS
        ]
        nodes = [action for action in actions if "executable" in action.options]
        assert nodes
        assert {(n.options["respawn"], n.options["respawn_delay"]) for n in nodes} == {
            (True, RESPAWN_DELAY_S)
        }

    def started_by_launch(self, arguments: dict[str, str], tmp_path: Path) -> dict[str, dict]:
        """With recorders installed under the names of our executables, each gone as soon as it has written."""
        for process in PROCESSES:
            write_executable(tmp_path / "lib" / process.package / process.executable, RECORDER)
            marker = tmp_path / "share/ament_index/resource_index/packages" / process.package
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        (tmp_path / "share/samm_ros").mkdir()
        (tmp_path / "share/samm_ros/launch").symlink_to(ROOT / "launch")
        (records := tmp_path / "records").mkdir()
        words = [f"{name}:={value}" for name, value in arguments.items()]
        subprocess.run(
            [sys.executable, "-c", ROS2_LAUNCH, str(LAUNCH_FILE), *words],
            env={
                **os.environ,
                "AMENT_PREFIX_PATH": f"{tmp_path}:{os.environ['AMENT_PREFIX_PATH']}",
                "RECORDS": str(records),
                "ROS_LOG_DIR": str(tmp_path / "log"),
            },
            check=True,
            timeout=60,
        )
        names = environment(arguments.get("network") == "true")
        started: dict[str, dict] = {}
        for record in records.iterdir():
            seen = json.loads(record.read_text())
            file, values = seen["files"]
            started[record.name] = {
                "namespace": seen["namespace"].lstrip("/"),
                "file": Path(file).name,
                "parameters": yaml.safe_load(seen["files"][values])["/**"]["ros__parameters"],
                "environment": {name: Path(seen["environment"][name]).name for name in names},
            }
        return started

    def started_by_stand_ins(
        self, arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, dict]:
        _, actions = self.run_with_stand_ins(arguments, monkeypatch)
        changes = {a.args[0]: Path(a.args[1]).name for a in actions if a.args}
        started: dict[str, dict] = {}
        for options in (action.options for action in actions if not action.args):
            file, parameters = options["parameters"]
            assert all(type(each.args[0]) is each.options["value_type"] for each in parameters.values())
            started[options["executable"]] = {
                "namespace": options["namespace"],
                "file": Path(file).name,
                "parameters": {name: each.args[0] for name, each in parameters.items()},
                "environment": changes,
            }
        return started

    def run_with_stand_ins(
        self, arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> tuple[list[Action], list[Action]]:
        """What the file declares, and the actions that its function makes of the arguments."""
        classes = {
            "launch": ["LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"],
            "launch.actions": ["DeclareLaunchArgument", "OpaqueFunction", "SetEnvironmentVariable"],
            "launch_ros": [],
            "launch_ros.actions": ["Node"],
            "launch_ros.parameter_descriptions": ["ParameterValue"],
        }
        for module, names in classes.items():
            stand_in = types.ModuleType(module)
            vars(stand_in).update({name: type(name, (Action,), {}) for name in names})
            monkeypatch.setitem(sys.modules, module, stand_in)
        [entities] = runpy.run_path(str(LAUNCH_FILE))["generate_launch_description"]().args
        *declared, function = entities
        texts = {argument.args[0]: argument.options["default_value"] for argument in declared}
        context = types.SimpleNamespace(launch_configurations={**texts, **arguments})
        return declared, function.options["function"](context)


class TestSupervisor:
    def test_a_process_that_dies_is_started_again(
        self, supervise: Callable[..., Supervisor], tmp_path: Path
    ) -> None:
        lines = Lines()
        with supervise("linger", respawn=True, on_line=lines) as supervisor:
            # Kills come from outside: any number of them is no failed start.
            for _ in range(START_ATTEMPTS + 1):
                lines.wait_for("linger", "started")
                first = supervisor.processes["linger"]
                supervisor.kill("linger", signal.SIGKILL)
                lines.wait_for("linger", "was ended by SIGKILL")
            lines.wait_for("linger", "started")
            assert supervisor.processes["linger"] != first
        assert (tmp_path / "log/linger.log").read_text() == "started\n" * (START_ATTEMPTS + 2)

    @pytest.mark.parametrize("script", ["linger", "stubborn", "parent"])
    def test_a_stop_takes_at_most_5_s_and_leaves_nothing(
        self, supervise: Callable[..., Supervisor], script: str
    ) -> None:
        lines = Lines()
        with supervise(script, on_line=lines) as supervisor:
            lines.wait_for(script, "started")
            process = psutil.Process(supervisor.processes[script])
            family = [process, *process.children(recursive=True)]
            memory = memory_of(process)
            began = time.monotonic()
            supervisor.stop()
            assert time.monotonic() - began < MAX_STOP_S
        assert living(family) == []
        assert not memory.exists()
        assert supervisor.processes == {}

    @pytest.mark.parametrize("script", ["stubborn", "parent", "ros_node"])
    def test_nothing_outlives_a_supervisor_that_was_killed(
        self, scripts: Path, own_domain: dict[str, str], tmp_path: Path, script: str
    ) -> None:
        code = f"""
            import os, threading
            from pathlib import Path
            from samm_ros.supervision.supervisor import Supervisor
            started = threading.Event()
            supervisor = Supervisor(
                {{"script": [{str(scripts / script)!r}]}},
                Path({str(tmp_path / "log")!r}),
                os.environ,
                on_line=lambda name, line: started.set(),
            )
            supervisor.start()
            started.wait()
            print(supervisor.processes["script"], flush=True)
            supervisor.wait()
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        supervisor = subprocess.Popen(command, env=own_domain, stdout=subprocess.PIPE, text=True)
        process = psutil.Process(int(supervisor.stdout.readline()))
        family = [process, *process.children(recursive=True)]
        # Not those of ports, which another process on this computer may take as soon as they are free.
        locks = {lock for lock in locks_of(process.pid) if "_port" not in lock.name}
        assert bool(locks) == (script == "ros_node")
        in_memory = {*locks, memory_of(process)}
        supervisor.kill()
        supervisor.communicate()
        _, left = psutil.wait_procs(family, timeout=MAX_STOP_S)
        assert living(left) == []
        deadline = time.monotonic() + MAX_STOP_S
        while (left := [path for path in in_memory if path.exists()]) and time.monotonic() < deadline:
            # A file's end is told to nobody.
            time.sleep(0.05)
        assert left == []

    @pytest.mark.parametrize(("respawn", "times"), [(False, 1), (True, START_ATTEMPTS)])
    def test_a_process_that_cannot_start_is_an_error_with_the_end_of_its_log(
        self, supervise: Callable[..., Supervisor], tmp_path: Path, respawn: bool, times: int
    ) -> None:
        with pytest.raises(LaunchError, match="broken ended with status 3 at its start") as failure:
            with supervise("broken", "linger", respawn=respawn) as supervisor:
                supervisor.wait()
        assert "what went wrong" in str(failure.value)
        assert (tmp_path / "log/broken.log").read_text() == "what went wrong\n" * times

    def test_a_wait_in_vain_for_a_process_that_did_not_start_is_explained_by_its_cause(
        self, supervise: Callable[..., Supervisor]
    ) -> None:
        lines = Lines()
        with pytest.raises(LaunchError, match="broken ended with status 3"):
            with supervise("broken", on_line=lines) as supervisor:
                lines.wait_for("broken", "what went wrong")
                with pytest.raises(LaunchError):
                    supervisor.wait()
                raise LaunchError("Waited in vain.")

    def test_a_command_that_cannot_be_run_is_an_error(
        self, supervise: Callable[..., Supervisor], scripts: Path
    ) -> None:
        (scripts / "linger").chmod(0o644)
        with pytest.raises(LaunchError, match="linger cannot be started: .*Permission denied"):
            with supervise("linger") as supervisor:
                supervisor.wait()

    def test_it_tells_when_every_process_has_ended(self, supervise: Callable[..., Supervisor]) -> None:
        lines = Lines()
        with supervise("linger", on_line=lines) as supervisor:
            lines.wait_for("linger", "started")
            supervisor.kill("linger", signal.SIGTERM)
            supervisor.wait()
            with pytest.raises(LaunchError, match="linger is not running; running are none"):
                supervisor.kill("linger")

    def test_what_a_process_left_in_shared_memory_is_removed_before_it_is_started_again(
        self, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = Lines()
        running: list[dict[str, int]] = []
        supervisor = supervise("linger", respawn=True, on_line=lines)
        remove = fastdds_files.remove_abandoned

        def note() -> list[Path]:
            running.append(supervisor.processes)
            return remove()

        monkeypatch.setattr(fastdds_files, "remove_abandoned", note)
        monkeypatch.setattr(process_table, "RESPAWN_DELAY_S", 0.0)
        with supervisor:
            lines.wait_for("linger", "started")
            supervisor.kill("linger", signal.SIGKILL)
            lines.wait_for("linger", "was ended by SIGKILL")
            assert running == [{}]
            lines.wait_for("linger", "started")

    def test_arguments_are_refused_before_anything_is_started(self, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match='sweep has to be true or false, not "maybe"'):
            launch({"sweep": "maybe"}, tmp_path / "log")
        assert not (tmp_path / "log").exists()


class TestForkServer:
    """Processes that the supervisor starts as forks: a node of ours, rcv_msk, beside a script that is none."""

    @pytest.fixture
    def lines(self) -> Lines:
        return Lines()

    @pytest.fixture
    def forked(
        self, scripts: Path, own_domain: dict[str, str], tmp_path: Path, lines: Lines
    ) -> Callable[..., Supervisor]:
        """Makes a supervisor of rcv_msk, with these words after its command line."""

        def make(*words: str, respawn: bool = True) -> Supervisor:
            [node] = [process for process in PROCESSES if process.executable == "rcv_msk"]
            commands = {
                "rcv_msk": [*command(node, read_arguments({})), *words],
                "linger": [str(scripts / "linger")],
            }
            variables = {**own_domain, **environment(), "PYTHONUNBUFFERED": "1"}
            return Supervisor(commands, tmp_path / "log", variables, respawn, lines, forked=["rcv_msk"])

        return make

    @staticmethod
    def node_of(supervisor: Supervisor, but: int = 0) -> psutil.Process:
        """rcv_msk, when it has joined DDS; not the one with the process id `but`."""
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            pid = supervisor.processes.get("rcv_msk", but)
            with contextlib.suppress(OSError):
                if pid != but and locks_of(pid):
                    return psutil.Process(pid)
            time.sleep(0.02)
        pytest.fail("rcv_msk did not join DDS within 60 s")

    def test_a_fork_is_a_process_like_another_and_outlives_what_forked_it(
        self, forked: Callable[..., Supervisor], lines: Lines
    ) -> None:
        with forked() as supervisor:
            # However young it is.
            killed = supervisor.processes["rcv_msk"]
            supervisor.kill("rcv_msk", signal.SIGKILL)
            lines.wait_for("rcv_msk", "was ended by SIGKILL")
            node = self.node_of(supervisor, but=killed)
            server = node.parent()
            assert server.parent().pid == os.getpid()
            assert (os.getpgid(node.pid), os.getsid(node.pid)) == (node.pid, node.pid)
            assert Path(f"/proc/{node.pid}/comm").read_text() == "rcv_msk\n"
            assert set(os.environ) <= set(node.environ())

            supervisor.kill("rcv_msk", signal.SIGKILL)
            lines.wait_for("rcv_msk", "was ended by SIGKILL")
            second = self.node_of(supervisor, but=node.pid)
            assert second.parent() == server

            server.kill()
            server.wait()
            supervisor.kill("rcv_msk", signal.SIGTERM)
            lines.wait_for("rcv_msk", "it is started again")
            third = self.node_of(supervisor, but=second.pid)
            assert third.parent() != server
            family = [third, third.parent()]

            supervisor.kill("rcv_msk", signal.SIGTERM)
            lines.wait_for("rcv_msk", "ended with status 0")
        assert living(family) == []

    def test_a_process_that_has_no_group_of_its_own_yet_is_killed(self) -> None:
        young = subprocess.Popen(["sleep", "1000"])
        try:
            send_signal(young.pid, signal.SIGKILL)
            assert young.wait(MAX_STOP_S) == -signal.SIGKILL
        finally:
            young.kill()

    def test_a_stop_waits_for_nothing_while_a_process_is_being_started(
        self, forked: Callable[..., Supervisor]
    ) -> None:
        supervisor = forked()
        starting = threading.Thread(target=supervisor.start, daemon=True)
        starting.start()
        server = suspended_server_of(psutil.Process())
        supervisor.stop()
        starting.join(MAX_STOP_S)
        assert not starting.is_alive()
        assert living([server]) == []
        supervisor.check()

    def test_a_start_that_is_interrupted_leaves_nothing(
        self, own_domain: dict[str, str], tmp_path: Path
    ) -> None:
        code = f"""
            import psutil, signal
            from pathlib import Path
            from samm_ros.supervision.supervisor import launch
            # Ignored in what a shell starts in the background, and in its children.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                with launch({{}}, Path({str(tmp_path / "log")!r})) as supervisor:
                    supervisor.wait()
            except KeyboardInterrupt:
                children = psutil.Process().children(recursive=True)
                print("left", [child.cmdline() for child in children if child.status() != psutil.STATUS_ZOMBIE])
        """
        program = [sys.executable, "-c", textwrap.dedent(code)]
        starting = subprocess.Popen(program, env=own_domain, stdout=subprocess.PIPE, text=True)
        family = [psutil.Process(starting.pid)]
        try:
            family.append(suspended_server_of(family[0]))
            starting.send_signal(signal.SIGINT)
            assert starting.communicate(timeout=60)[0] == "left []\n"
        finally:
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            starting.communicate()

    def test_a_fork_that_cannot_start_is_an_error_with_the_end_of_its_log(
        self, forked: Callable[..., Supervisor]
    ) -> None:
        with pytest.raises(LaunchError, match="rcv_msk ended with status 1 at its start") as failure:
            with forked("--params-file", "/absent.yaml", respawn=False) as supervisor:
                supervisor.wait()
        assert "/absent.yaml" in str(failure.value)

    def test_nothing_outlives_a_supervisor_that_was_killed(
        self, own_domain: dict[str, str], tmp_path: Path
    ) -> None:
        code = f"""
            from pathlib import Path
            from samm_ros.supervision.supervisor import launch
            arguments = {{"bridge": "false", "composed": "false"}}
            with launch(arguments, Path({str(tmp_path / "log")!r})) as supervisor:
                print(*supervisor.processes.values(), flush=True)
                supervisor.wait()
        """
        program = [sys.executable, "-c", textwrap.dedent(code)]
        supervisor = subprocess.Popen(program, env=own_domain, stdout=subprocess.PIPE, text=True)
        nodes = [psutil.Process(int(pid)) for pid in supervisor.stdout.readline().split()]
        family = [*nodes, nodes[0].parent()]
        assert nodes[0].parent().pid != supervisor.pid, "they are no forks"
        supervisor.kill()
        supervisor.communicate()
        _, left = psutil.wait_procs(family, timeout=4 * MAX_STOP_S)
        assert living(left) == []


class TestFastDdsFiles:
    SEGMENT = "fastrtps_0123456789abcdef"

    def test_only_what_no_living_process_holds_is_removed(self, tmp_path: Path) -> None:
        dead, held, strange = "fastrtps_port7411", self.SEGMENT, "fastrtps_notes.txt"
        for name in (dead, f"{dead}_el", f"sem.{dead}_mutex", held, f"{held}_el", strange, "other"):
            (tmp_path / name).touch()
        with open(tmp_path / f"{held}_el") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            removed = fastdds_files.remove_abandoned(tmp_path)
        assert {file.name for file in removed} == {dead, f"{dead}_el", f"sem.{dead}_mutex"}
        assert {file.name for file in tmp_path.iterdir()} == {held, f"{held}_el", strange, "other"}

    def test_a_segment_without_a_lock_has_no_owner(self, tmp_path: Path) -> None:
        (tmp_path / self.SEGMENT).touch()
        assert fastdds_files.remove_abandoned(tmp_path) == [tmp_path / self.SEGMENT]

    def test_a_killed_node_leaves_nothing_in_shared_memory_and_the_living_keep_theirs(
        self, scripts: Path, own_domain: dict[str, str], tmp_path: Path
    ) -> None:
        commands = {name: [str(scripts / "ros_node")] for name in ("dies", "lives")}
        lines = Lines()
        with Supervisor(
            commands, tmp_path / "log", {**own_domain, **environment()}, respawn=False, on_line=lines
        ) as supervisor:
            lines.wait_for("dies", "started")
            lines.wait_for("lives", "started")
            dying, living = (locks_of(supervisor.processes[name]) for name in ("dies", "lives"))
            assert dying
            assert living
            supervisor.kill("dies", signal.SIGKILL)
            lines.wait_for("dies", "was ended by SIGKILL")
            assert [lock for lock in dying if lock.exists()] == []
            assert [lock for lock in dying if Path(str(lock)[:-3]).exists()] == []
            assert all(lock.exists() for lock in living)


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
    def echo(self, own_domain: dict[str, str], request: pytest.FixtureRequest):
        """A node in a process, with our environment over a user's own (the parameter).

        Gives the process and its environment.
        """
        variables = {**own_domain, **getattr(request, "param", {}), **environment()}
        process = subprocess.Popen(
            [sys.executable, "-c", ECHO], env=variables, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        yield process, variables
        process.kill()
        process.communicate()
        fastdds_files.remove_abandoned()

    def test_best_effort_messages_of_4_mb_arrive_every_one(self, echo) -> None:
        _, variables = echo
        command = [sys.executable, "-c", ASK, str(4_000_000), "30"]
        arrived = subprocess.check_output(command, env=variables, text=True, timeout=200)
        assert int(arrived) == 30

    @pytest.mark.parametrize(
        "echo",
        [{}, {"ROS_LOCALHOST_ONLY": "1"}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}],
        indirect=True,
        ids=["nothing", "localhost_only", "subnet"],
    )
    def test_nothing_listens_beyond_loopback(self, echo) -> None:
        process, _ = echo
        addresses = {socket.laddr.ip for socket in psutil.Process(process.pid).net_connections("inet")}
        assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("composed", ["true", "false"])
def test_a_volume_is_loaded_in_the_window_of_the_start(composed: str, tmp_path: Path, mni_path: Path) -> None:
    """Other nodes of the process have parameters too, and must not take these for theirs."""
    arguments = {"volume": str(mni_path), "window_lower": "-160", "window_upper": "240", "composed": composed}
    with launched(tmp_path, **arguments) as (namespace, _), Peer(namespace) as peer:
        peer.listen(VolumeList, topics.VOLUMES, topics.LATCHED)
        message = peer.wait_for(topics.VOLUMES, lambda m: m.volumes, 120.0)
        (volume,) = conversions.volumes_from_msg(message)
        assert volume.window == Window(-160.0, 240.0)
