# SPDX-License-Identifier: Apache-2.0
"""Reads the part of ROS 2's YAML launch format that this project's launch files use, and refuses the rest.

What it reads means what it means to `ros2 launch`: entries are taken in order, attributes are text unless noted, and
a condition is true, 1, false or 0. Known entries: arg, let, set_env, node. Known substitutions: $(var NAME),
$(env NAME [DEFAULT]), $(find-pkg-share PACKAGE).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import LaunchError

ParameterValue = str | bool | int | float

_TYPES: dict[str, type] = {"str": str, "bool": bool, "int": int, "float": float}
# Attributes that an entry must and may have, beside a condition.
_ENTRIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "arg": (("name",), ("default", "description")),
    "let": (("name", "value"), ()),
    "set_env": (("name", "value"), ()),
    "node": (("pkg", "exec"), ("name", "namespace", "param", "remap", "respawn", "respawn_delay")),
}
_CONDITIONS = {"true": True, "1": True, "false": False, "0": False}
_INDEX = Path("share", "ament_index", "resource_index", "packages")


@dataclass(frozen=True)
class Argument:
    """An argument of a launch file. default: as it is written there, substitutions and all; None: it must be given."""

    name: str
    default: str | None
    description: str


@dataclass(frozen=True)
class NodeProcess:
    """One process to start. parameters: files, and values that apply to all of its nodes, the later the stronger."""

    package: str
    executable: str
    name: str | None = None
    namespace: str = ""
    parameters: tuple[Path | tuple[str, ParameterValue], ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    respawn: bool = False
    respawn_delay: float = 0.0


@dataclass(frozen=True)
class LaunchFile:
    """What a launch file asks for, everything substituted. environment: what it sets, on top of what it was given."""

    arguments: tuple[Argument, ...]
    environment: dict[str, str]
    nodes: tuple[NodeProcess, ...]


def read_launch_file(path: Path, arguments: Mapping[str, str], environment: Mapping[str, str]) -> LaunchFile:
    """The file with `arguments`, in `environment`; raises LaunchError, naming the file and the entry."""
    return _Reader(path, dict(arguments), dict(environment)).read()


def read_arguments(path: Path) -> tuple[Argument, ...]:
    """The arguments that a launch file declares; raises LaunchError."""
    reader = _Reader(path, {}, {})
    return tuple(reader.argument(body) for kind, body in reader.entries() if kind == "arg")


def find_package(package: str, environment: Mapping[str, str]) -> Path:
    """The ament prefix of a package; raises LaunchError when no prefix has it."""
    prefixes = [Path(p) for p in environment.get("AMENT_PREFIX_PATH", "").split(":") if p]
    for prefix in prefixes:
        # Joined as one name: a package called "../x" is none.
        if re.fullmatch(r"\w+", package) and (prefix / _INDEX / package).is_file():
            return prefix
    raise LaunchError(
        f'There is no package "{package}" in AMENT_PREFIX_PATH ({", ".join(map(str, prefixes))}).'
    )


def find_executable(package: str, executable: str, environment: Mapping[str, str]) -> Path:
    """What `ros2 run PACKAGE EXECUTABLE` would run; raises LaunchError, naming what the package has."""
    folder = find_package(package, environment) / "lib" / package
    there = {file.name: file for file in sorted(folder.glob("*")) if file.is_file()}
    if executable not in there:
        raise LaunchError(f'{package} has no executable "{executable}"; it has {", ".join(there) or "none"}.')
    return there[executable]


class _Reader:
    """Reads one file once. Raises LaunchError with the place that is being read."""

    def __init__(self, path: Path, given: dict[str, str], environment: dict[str, str]) -> None:
        self._path = path
        self._given = given
        self._environment = environment
        self._changes: dict[str, str] = {}
        self._variables = dict(given)
        self._place = ""

    def read(self) -> LaunchFile:
        arguments: list[Argument] = []
        nodes: list[NodeProcess] = []
        known = [argument.name for argument in read_arguments(self._path)]
        if unknown := sorted(self._given.keys() - set(known)):
            raise LaunchError(
                f'{self._path.name} has no argument "{unknown[0]}"; it has {", ".join(known) or "none"}.'
            )
        for kind, body in self.entries():
            if not self._applies(body):
                continue
            if kind == "arg":
                arguments.append(self._declare(self.argument(body)))
            elif kind == "let":
                self._variables[self._text(body, "name")] = self._text(body, "value")
            elif kind == "set_env":
                name, value = self._text(body, "name"), self._text(body, "value")
                if not name or "=" in name or "\0" in name + value:
                    raise self._error(f"{name!r}={value!r} cannot be an environment variable")
                self._changes[name] = self._environment[name] = value
            else:
                nodes.append(self._node(body))
        return LaunchFile(tuple(arguments), self._changes, tuple(nodes))

    def entries(self) -> Iterator[tuple[str, dict]]:
        """Kind and attributes of each entry, in order; the names of the attributes are checked."""
        try:
            tree = yaml.safe_load(self._path.read_text(encoding="utf-8"))
        # PyYAML lets through whatever its constructors run into, down to KeyError and RecursionError.
        except Exception as error:
            raise LaunchError(f"{self._path} cannot be read: {error}") from error
        if not isinstance(tree, dict) or list(tree) != ["launch"] or not isinstance(tree["launch"], list):
            raise LaunchError(f'{self._path} is no launch file: it has to be one list called "launch".')
        for number, entry in enumerate(tree["launch"], start=1):
            self._place = f"entry {number}"
            if not isinstance(entry, dict) or len(entry) != 1:
                raise self._error(f"an entry is one of {', '.join(_ENTRIES)}, with its attributes")
            [(kind, body)] = entry.items()
            if kind not in _ENTRIES:
                raise self._error(f"{kind!r} is not known; known are {', '.join(_ENTRIES)}")
            self._place = f"entry {number} ({kind})"
            required, optional = _ENTRIES[kind]
            self._check_keys(body, required, (*optional, "if", "unless"))
            if "if" in body and "unless" in body:
                raise self._error("if and unless exclude each other")
            for item in self._list(body, "param"):
                required, optional = (("from",), ()) if "from" in item else (("name", "value"), ("type",))
                self._check_keys(item, required, optional)
            for item in self._list(body, "remap"):
                self._check_keys(item, ("from", "to"))
            yield kind, body

    def argument(self, body: dict) -> Argument:
        default = self._string(body, "default") if "default" in body else None
        description = self._string(body, "description") if "description" in body else ""
        return Argument(self._string(body, "name"), default, description)

    def _declare(self, argument: Argument) -> Argument:
        if argument.name not in self._variables:
            if argument.default is None:
                raise self._error(f'the argument "{argument.name}" ({argument.description}) must be given')
            self._variables[argument.name] = self._expand(argument.default)
        return argument

    def _node(self, body: dict) -> NodeProcess:
        delay = body.get("respawn_delay", 0.0)
        # As to `ros2 launch`: 1 and "1.0" are no float.
        if not isinstance(delay, float) or not 0.0 <= delay < float("inf"):
            raise self._error(f"respawn_delay has to be seconds, with a decimal point, not {delay!r}")
        return NodeProcess(
            package=self._text(body, "pkg"),
            executable=self._text(body, "exec"),
            name=self._text(body, "name") if "name" in body else None,
            namespace=self._text(body, "namespace") if "namespace" in body else "",
            parameters=tuple(self._parameter(item) for item in self._list(body, "param")),
            remappings=tuple(self._remapping(item) for item in self._list(body, "remap")),
            respawn=self._condition(body, "respawn") if "respawn" in body else False,
            respawn_delay=delay,
        )

    def _parameter(self, body: dict) -> Path | tuple[str, ParameterValue]:
        if "from" in body:
            file = Path(self._text(body, "from"))
            if not file.is_file():
                raise self._error(f"there is no parameter file {file}")
            return file
        kind, value = body.get("type"), body["value"]
        if kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
            raise self._error(f"{kind!r} is no type of a parameter; known are {', '.join(_TYPES)}")
        if type(value) not in _TYPES.values():
            raise self._error(f"{value!r} is no value of a parameter")
        if isinstance(value, str):
            value = self._expand(value)
            value = value if kind == "str" else self._guessed(value)
        if kind == "float" and type(value) is int:
            value = float(value)
        if kind is not None and type(value) is not _TYPES[kind]:
            raise self._error(f"{value!r} is no {kind}")
        return self._text(body, "name"), value

    def _guessed(self, text: str) -> ParameterValue:
        """The text as YAML has it: "true" a flag, "1.5" a number."""
        try:
            value = yaml.safe_load(text)
        except Exception:  # see entries()
            return text
        return value if type(value) in _TYPES.values() else text

    def _remapping(self, body: dict) -> tuple[str, str]:
        return self._text(body, "from"), self._text(body, "to")

    def _applies(self, body: dict) -> bool:
        if "if" in body:
            return self._condition(body, "if")
        return not self._condition(body, "unless") if "unless" in body else True

    def _condition(self, body: dict, key: str) -> bool:
        text = self._text(body, key).strip().lower()
        if text not in _CONDITIONS:
            raise self._error(f"{key} has to be true or false, not {text!r}")
        return _CONDITIONS[text]

    def _check_keys(self, body: object, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
        if not isinstance(body, dict):
            raise self._error(f"attributes are missing: {', '.join(required)}")
        known = (*required, *optional)
        for key in body:
            if key not in known:
                raise self._error(f"the key {key!r} is not known; known are {', '.join(known)}")
        for key in required:
            if key not in body:
                raise self._error(f"{key} is missing")

    def _list(self, body: dict, key: str) -> list[dict]:
        items = body.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._error(f"{key} has to be a list of attributes")
        return items

    def _string(self, body: dict, key: str) -> str:
        if not isinstance(body[key], str):
            raise self._error(f"{key} has to be text, not {body[key]!r}; quote it")
        return body[key]

    def _text(self, body: dict, key: str) -> str:
        return self._expand(self._string(body, key))

    def _expand(self, text: str) -> str:
        if "\\" in text:
            raise self._error(f"escapes with a backslash are not known: {text!r}")
        try:
            return _Substitutions(text, self._substitute, self._error).expand()
        except RecursionError as error:
            raise self._error("the substitutions are nested too deep") from error

    def _substitute(self, name: str, words: list[str]) -> str:
        if name == "var" and len(words) == 1:
            if words[0] not in self._variables:
                raise self._error(
                    f'there is no variable "{words[0]}"; there are {", ".join(self._variables)}'
                )
            return self._variables[words[0]]
        if name == "env" and len(words) in (1, 2):
            value = self._environment.get(words[0], words[1] if len(words) == 2 else None)
            if value is None:
                raise self._error(f"the environment variable {words[0]} is not set")
            return value
        if name == "find-pkg-share" and len(words) == 1:
            try:
                return str(find_package(words[0], self._environment) / "share" / words[0])
            except LaunchError as error:
                raise self._error(str(error).rstrip(".")) from error
        raise self._error(
            f"$({' '.join([name, *words])}) is not known; known are $(var NAME), $(env NAME [DEFAULT]) and "
            "$(find-pkg-share PACKAGE)"
        )

    def _error(self, problem: str) -> LaunchError:
        return LaunchError(f"{self._path}, {self._place}: {problem}.")


class _Substitutions:
    """Substitutes in one text. What a substitution brings in is never read again."""

    def __init__(
        self,
        text: str,
        substitute: Callable[[str, list[str]], str],
        error: Callable[[str], LaunchError],
    ) -> None:
        self._text = text
        self._at = 0
        self._substitute = substitute
        self._error = error

    def expand(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text):
            part = self._substitution()
            parts.append(self._take(r"\$|[^$]+") if part is None else part)
        return "".join(parts)

    def _substitution(self) -> str | None:
        if not self._take(r"\$\("):
            return None
        name = self._take(r"[A-Za-z][\w-]*")
        words: list[str] = []
        while self._take(" "):
            words.append(self._word())
        if not name or not self._take(r"\)"):
            raise self._error(f"the substitution in {self._text!r} is damaged at character {self._at + 1}")
        return self._substitute(name, words)

    def _word(self) -> str:
        if quoted := self._take(r"'[^'$]*'|\"[^\"$]*\""):
            return quoted[1:-1]
        parts: list[str] = []
        while (part := self._substitution()) is not None or (part := self._take(r"[^$ '\"()]+|\$(?!\()")):
            parts.append(part)
        return "".join(parts)

    def _take(self, pattern: str) -> str:
        match = re.compile(pattern).match(self._text, self._at)
        self._at = match.end() if match else self._at
        return match.group() if match else ""
