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
