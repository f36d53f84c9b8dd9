# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The pages: they build without a warning, their links lead somewhere, and the README's example uses what there is."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from samm_core.cycle.request import Answer
from samm_core.models.base import MaskResult, SegmentationModel
from samm_core.sources.volume import Volume
from samm_ros.client import GraphClient

ROOT = Path(__file__).parents[1]
# Not the race's report, which is as its benchmark wrote it.
PAGES = [
    page
    for pattern in ("*.md", "docker/*.md", "training/*.md", "docs/**/*.md")
    for page in sorted(ROOT.glob(pattern))
    if page.parent.name != "race"
]
MAX_WIDTH = 120
# What the variables of the examples are.
OBJECTS = {
    "client": GraphClient,
    "answer": Answer,
    "volume": Volume,
    "model": SegmentationModel,
    "result": MaskResult,
}

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def names(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.timeout(300)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert built.returncode == 0, built.stderr[-4000:]
    client = (tmp_path / "site" / "api" / "client" / "index.html").read_text()
    assert "GraphClient" in client


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_relative_link_and_image_of_a_page_is_there(page: Path) -> None:
    missing = []
    for target in relative_links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            missing.append(target)
    assert not missing, f"{names(page)} links to {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_no_line_of_prose_is_wider_than_120_characters(page: Path) -> None:
    wide = [
        f"{names(page)}:{number}: {len(line)} characters"
        for number, line in prose(page.read_text())
        if len(line) > MAX_WIDTH
    ]
    assert not wide, "\n".join(wide)


@pytest.mark.parametrize("page", ["README.md", "docs/use/python.md"])
def test_the_python_examples_use_only_what_there_is(page: str) -> None:
    code = "".join(
        fence["code"] for fence in _FENCE.finditer((ROOT / page).read_text()) if fence["language"] == "python"
    )
    example = ast.parse(code)
    imported = imports(example)
    assert GraphClient in imported.values()
    for node in ast.walk(example):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OBJECTS:
            assert has_attribute(OBJECTS[node.value.id], node.attr), f"{page} uses {ast.unparse(node)}"
        if isinstance(node, ast.Call) and (function := called(node.func, imported)):
            # Raises TypeError for arguments that it does not take.
            inspect.signature(function).bind(*node.args, **{k.arg: k.value for k in node.keywords})


def relative_links(text: str) -> list[str]:
    targets = (link["target"] for link in _LINK.finditer(_FENCE.sub("", text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are no table, no code, and not mostly one link; with their numbers."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("|") and len(_LINK.sub("]", line)) > MAX_WIDTH:
            yield number, line


def imports(example: ast.Module) -> dict[str, object]:
    """What the example imports, by name. Raises ImportError or AttributeError for what there is not."""
    return {
        alias.name: getattr(importlib.import_module(statement.module), alias.name)
        for statement in example.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def called(function: ast.expr, imported: dict[str, object]) -> Callable | None:
    """The function that is called, where it is one that was imported or a method of one of OBJECTS."""
    if isinstance(function, ast.Name):
        return imported.get(function.id)
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        owner = OBJECTS.get(function.value.id)
        return owner and functools.partial(getattr(owner, function.attr), owner)
    return None


def has_attribute(owner: type, name: str) -> bool:
    # A field without a default is no attribute of its dataclass.
    return hasattr(owner, name) or name in getattr(owner, "__dataclass_fields__", {})
