# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The processes of the node graph: their arguments, parameters and environment.

`launch/samm.launch.py` and `./samm up` start what these tables say, so that both commands mean the same.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from samm_core.errors import LaunchError, MaskError, PathError
from samm_core.saved_work import load_work
from samm_core.sources.roots import Roots

from ..support import security

Value = str | bool | int | float
Values = Mapping[str, Value]  # by the name of the argument

# Set to 1 by a user who shares the computer: other users' programs can then neither join nor listen.
PRIVATE = "SAMM_PRIVATE"
RESPAWN_DELAY_S = 0.5

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Argument:
    """An argument of the command line, `name:=value`, of the type of its default.

    parameter: the ROS parameter that it sets; empty: the parameter has the argument's name.
    """

    name: str
    default: Value
    description: str
    parameter: str = ""

    @property
    def default_text(self) -> str:
        """The default as the command line would give it."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def parse(self, text: str) -> Value:
        """Raises LaunchError."""
        if isinstance(self.default, bool):
            if text.strip().lower() not in _BOOLEANS:
                raise LaunchError(f'{self.name} has to be true or false, not "{text}".')
            return _BOOLEANS[text.strip().lower()]
        if isinstance(self.default, int):
            try:
                return int(text)
            except ValueError:
                raise LaunchError(f'{self.name} has to be a whole number, not "{text}".') from None
        if isinstance(self.default, float):
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise LaunchError(f'{self.name} has to be a number, not "{text}".')
            return number
        return text


@dataclass(frozen=True)
class NodeProcess:
    """A process with one node or several.

    runs: whether it runs with the given values of the arguments.
    parameter_file: in launch/config.
    arguments: names of the arguments that set parameters of its nodes; they win over the file.
    """

    executable: str
    runs: Callable[[Values], bool]
    parameter_file: str
    arguments: tuple[str, ...]
    package: str = "samm_ros"

    def parameters(self, values: Values) -> dict[str, Value]:
        """The values of its parameters that arguments set. Raises LaunchError for roots that cannot be."""
        named = [str(values[name]) for name in ("volume", "session", "journal")]
        # The server must read what the client's arguments name, and the other way round.
        try:
            values = {**values, "roots": Roots.of(str(values["roots"]), named).text}
        except PathError as error:
            raise LaunchError(str(error)) from None
        return {
            argument.parameter or argument.name: values[argument.name]
            for argument in ARGUMENTS
            if argument.name in self.arguments
        }


def remappings(values: Values) -> dict[str, str]:
    """Topics that have other names, in every process."""
    image = str(values["image"])
    return {} if image == "image" else {"image": image, "image/compressed": f"{image}/compressed"}


def _composed(values: Values) -> bool:
    return bool(values["composed"])


def _separate(values: Values) -> bool:
    return not values["composed"]


def _bridge(values: Values) -> bool:
    return bool(values["bridge"])


# fmt: off
ARGUMENTS = (
    Argument("model", "lite_medsam", "Model: lite_medsam, mobile_sam, vit_b, vit_l, vit_h or medsam_vit_b."),
    Argument("checkpoint", "", "The model's weights; empty: where `samm weights` puts them."),
    Argument("device", "auto", "Where the model runs: auto, cpu or cuda."),
    Argument("backend", "auto", "What computes the model: torch, openvino (CPUs only) or auto: openvino on a CPU."),
    Argument("volume", "", "Volume to load at start: a file or DICOM folder; empty: none."),
    Argument("window_preset", "", "Window of the volume, e.g. ct_abdomen; empty: chosen from its voxels."),
    Argument("window_lower", 0.0, "Without window_preset, the intensity of the volume that is shown black."),
    Argument("window_upper", 0.0, "And the one shown white; as window_lower: chosen from the voxels."),
    Argument("roots", "", "Folders in which files that a message names are read and written, with ':' between them; empty: the one where this is started."),
    Argument("session", "", "File of saved work to go on with: it says volume, window and model, and its segments are opened; empty: none."),
    Argument("sweep", True, "Embed the rest of the volume ahead of need."),
    Argument("cache_8bit", False, "Keep embeddings at 8 bits per value, not 16: twice as many fit; masks keep a Dice of 0.998."),
    Argument("journal", "", "File that keeps what is applied across a crash of apl_msk; empty: it is not kept."),
    Argument("image", "image", "Topic of a live stream's images, such as /camera/image_raw; compressed ones are beside it, at /compressed."),
    Argument("region", "", "What of the images is looked at: x,y,width,height in pixels, auto, or empty: all."),
    Argument("image_geometry", "", "Where their pixels are in what carries them: millimetres a pixel, or PLUS' ImageToProbe; empty: unknown."),
    Argument("namespace", "", "Namespace of all nodes: two graphs on one network need two."),
    Argument("trace", True, "Publish task_events, from which latency is analysed."),
    Argument("composed", True, "true: one process per side, samm_server and samm_client; false: one process per node."),
    Argument("respawn", True, "Start a process again when it has ended."),
    Argument("network", False, "false: reachable from this computer only; true: from the network."),
    Argument("security", "", "Keystore of SROS 2, to encrypt and to let in its enclaves alone; empty: none."),
    Argument("bridge", True, "Start slicer_bridge, for 3D Slicer."),
    Argument("bridge_address", "127.0.0.1", "IP address of the bridge; beyond this computer only with bridge_keys.", "address"),
    Argument("bridge_port", 8800, "The bridge's port for Slicer-IPP; 0: any.", "port"),
    Argument("samm_port", 8799, "The bridge's port for the SAMM extension, 1.1 and 1.2; 0: any; -1: none."),
    Argument("bridge_keys", "", "Folder with the bridge's keys, from `samm keys`; empty: no encryption.", "keys_folder"),
)

_BACKEND = ("checkpoint", "device", "backend")
_EMBEDDING = ("model", *_BACKEND, "volume", "window_preset", "window_lower", "window_upper", "roots", "sweep", "cache_8bit")
_STREAM = ("region",)
_LISTENER = ("bridge_address", "bridge_port", "samm_port", "bridge_keys")

PROCESSES = (
    NodeProcess("samm_server", _composed, "server.yaml", (*_EMBEDDING, *_STREAM, "trace")),
    NodeProcess("samm_client", _composed, "client.yaml", ("roots", "journal", "session", "image_geometry", "trace")),
    NodeProcess("embedding", _separate, "server.yaml", (*_EMBEDDING, *_STREAM, "trace")),
    NodeProcess("rcv_inf", _separate, "server.yaml", ("trace",)),
    NodeProcess("cpl_inf", _separate, "server.yaml", (*_BACKEND, "trace")),
    NodeProcess("snd_inf", _separate, "client.yaml", ("trace",)),
    NodeProcess("rcv_msk", _separate, "client.yaml", ("trace",)),
    NodeProcess("apl_msk", _separate, "client.yaml", ("roots", "journal", "session", "trace")),
    NodeProcess("world", _separate, "client.yaml", ("roots", "image_geometry")),
    NodeProcess("slicer_bridge", _bridge, "client.yaml", _LISTENER, package="slicer_ros_bridge"),
)
# fmt: on


def read_arguments(given: Mapping[str, str]) -> dict[str, Value]:
    """The values of all arguments: those in `given` instead of their defaults, and what a session's file says.

    Raises LaunchError.
    """
    names = [argument.name for argument in ARGUMENTS]
    if unknown := [name for name in given if name not in names]:
        raise LaunchError(f'There is no argument "{unknown[0]}"; there are {", ".join(names)}.')
    values = {a.name: a.parse(given[a.name]) if a.name in given else a.default for a in ARGUMENTS}
    return {**values, **_of_session(str(values["session"]))} if values["session"] else values


def _of_session(path: str) -> dict[str, Value]:
    """The values that a file of saved work has instead of the arguments'. Raises LaunchError."""
    try:
        work = load_work(Path(path), with_voxels=False)
    except MaskError as error:
        raise LaunchError(f"The session cannot be started: {error}") from None
    window = {"window_preset": "", "window_lower": work.window.lower, "window_upper": work.window.upper}
    return {"volume": work.source_uri, **window} | ({"model": work.model} if work.model else {})


def processes(values: Values) -> list[NodeProcess]:
    """The processes that run with these values."""
    return [process for process in PROCESSES if process.runs(values)]


def environment(network: bool = False, keystore: str = "") -> dict[str, str]:
    """Environment variables for every process that joins the node graph.

    network, keystore: as the arguments network and security. Raises LaunchError for a keystore that cannot be used, and
    where $SAMM_PRIVATE is neither 0 nor 1, or asks for the opposite of the network.
    """
    private = os.environ.get(PRIVATE) or "0"
    if private not in ("0", "1"):
        raise LaunchError(
            f"{PRIVATE}={private} is neither 0 nor 1; set it to 1 to shut other users out, or unset it."
        )
    if network and private == "1":
        raise LaunchError(
            f"{PRIVATE}=1 shuts other users out, and network:=true lets the whole network in; unset {PRIVATE}, or leave "
            "the argument out."
        )
    # Fast DDS silently loses images over 256 KB with its own defaults. These profiles make room for them.
    here = "fastdds_private.xml" if private == "1" else "fastdds.xml"
    profile = "fastdds_network.xml" if network else here
    variables = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(config_file(profile)),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    }
    if not network:
        # The profile alone decides who can reach us: see fastdds.xml.
        variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"
        # With the older ROS_LOCALHOST_ONLY=1, rmw_fastrtps ignores the profile and listens on every interface.
        variables["ROS_LOCALHOST_ONLY"] = ""
    return variables | security.environment(keystore) if keystore else variables


def config_file(name: str) -> Path:
    """A file of launch/config, as installed. Raises LaunchError."""
    file = _prefix("samm_ros") / "share" / "samm_ros" / "launch" / "config" / name
    if not file.is_file():
        raise LaunchError(f"{file} is missing; build the workspace again.")
    return file


def find_executable(package: str, executable: str) -> Path:
    """What `ros2 run PACKAGE EXECUTABLE` would run. Raises LaunchError."""
    folder = _prefix(package) / "lib" / package
    names = sorted(file.name for file in folder.glob("*") if file.is_file())
    if executable not in names:
        raise LaunchError(f'{package} has no executable "{executable}"; it has {", ".join(names) or "none"}.')
    return folder / executable


def command(process: NodeProcess, values: Values) -> list[str]:
    """The command that starts a process, as launch_ros would write it. Raises LaunchError."""
    words = [str(find_executable(process.package, process.executable)), "--ros-args"]
    # There is no __node:= here: it would rename every node of a process that has several.
    if namespace := str(values["namespace"]).strip("/"):
        words += ["-r", f"__ns:=/{namespace}"]
    for topic, name in remappings(values).items():
        words += ["-r", f"{topic}:={name}"]
    words += enclave(process, values)
    words += ["--params-file", str(config_file(process.parameter_file))]
    for name, value in process.parameters(values).items():
        # rcl reads the value as YAML, of which JSON is a part.
        words += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
    return words


def enclave(process: NodeProcess, values: Values) -> list[str]:
    """With SROS 2, the arguments that name the enclave of a process: its identity and permissions in the keystore."""
    return ["--enclave", f"/samm/{process.executable}"] if values["security"] else []


def _prefix(package: str) -> Path:
    """The folder that a package is installed in. Raises LaunchError."""
    try:
        return Path(get_package_prefix(package))
    except (PackageNotFoundError, OSError) as error:  # OSError: there is no AMENT_PREFIX_PATH
        raise LaunchError(
            f"{error.args[0]}; build the workspace, and source its setup file or use ./samm."
        ) from None
