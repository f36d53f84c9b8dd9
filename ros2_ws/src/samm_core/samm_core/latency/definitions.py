# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The text of message definitions, with all that they use, as bags embed it (https://mcap.dev/spec/registry#ros2msg)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_FIELD = re.compile(
    r"^\s*([A-Za-z]\w*(?:/[A-Za-z]\w*)*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-zA-Z]\w*", re.MULTILINE
)
_PLAIN = {
    *("bool", "byte", "char", "float32", "float64", "string", "wstring"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
}
_SEPARATOR = "=" * 80


def definition_of(type_name: str, share: Callable[[str], Path]) -> str:
    """The definition of a message, e.g. samm_msgs/msg/TaskEvent, followed by those of its fields' types.

    share: the share folder of a package. Raises OSError for a type that is not installed.
    """
    texts: dict[str, str] = {}
    wanted = [type_name]
    while wanted:
        name = wanted.pop(0)
        package, _, kind = name.partition("/msg/")
        if name in texts:
            continue
        texts[name] = (share(package) / "msg" / f"{kind}.msg").read_text()
        for field in _FIELD.findall(re.sub(r"#.*", "", texts[name])):
            if field not in _PLAIN:
                of, _, base = field.rpartition("/")
                wanted.append(f"{of.removesuffix('/msg') or package}/msg/{base}")
    first, *others = texts.items()
    parts = [first[1], *(f"MSG: {name.replace('/msg/', '/')}\n{text}" for name, text in others)]
    return f"\n{_SEPARATOR}\n".join(part.rstrip("\n") for part in parts) + "\n"


def fields_of(definition: str) -> dict[str, list[str]]:
    """By type, as "samm_msgs/ImageId" and "" for the first: its fields in order.

    Each is "type name", without comments, constants and default values.
    """
    fields: dict[str, list[str]] = {}
    name = ""
    for line in definition.splitlines():
        line = re.sub(r"#.*", "", line).strip()
        if line.startswith("MSG:"):
            name = line.removeprefix("MSG:").strip().replace("/msg/", "/")
        elif line and not line.startswith("==="):
            kind, _, rest = line.partition(" ")
            # Of a field without a package, the first type's: "ImageId" and "samm_msgs/ImageId" are one.
            kind = kind.replace("/msg/", "/").rpartition("/")[2]
            if "=" not in rest:
                fields.setdefault(name, []).append(f"{kind} {rest.split()[0]}")
    return fields


def unlike(recorded: str, installed: str) -> str:
    """What the two definitions of a message differ in, as the rest of a sentence; empty: bytes of one are read as the other."""
    theirs, ours = fields_of(recorded), fields_of(installed)
    for name in ours.keys() | theirs.keys():
        old, new = theirs.get(name, []), ours.get(name, [])
        if more := [field for field in old if field not in new]:
            return f"it has the field {more[0]!r}, which this release does not have"
        if less := [field for field in new if field not in old]:
            return f"it lacks the field {less[0]!r}"
        if old != new:
            return "its fields are in another order"
    return ""
