# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The viewer in a real browser, beside a running graph: how soon it is there, what it costs, how it follows the mouse.

    ./samm bench --viewer

Needs Debian's chromium, which shares the cores with the graph and the viewer.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.table import Table

from samm_core.errors import LaunchError
from samm_core.sources.sample import mni_volume
from samm_ros.client import GraphClient
from samm_ros.supervision.processes import environment
from samm_ros.supervision.supervisor import launch

from .measure import console, machine

if TYPE_CHECKING:
    from playwright.sync_api import Page

DRAG_STEPS, STEP_MS = 60, 33
IDLE_S, QUICK_IDLE_S = 20.0, 3.0
DRAGS, QUICK_DRAGS = 5, 1
_URL = re.compile(r"The page is at (\S+)")
_LISTENS = re.compile(r"IPP/2 listens on tcp://127.0.0.1:(\d+)")
_GREEN = "document.getElementById('slider-Green').closest('.over').parentElement"
# Counts new pictures of the view that is dragged in, and masks. The other views are drawn now and then.
_COUNT = f"""() => {{
  const masks = window.trame.state.state.masks;
  const seen = window.seen = {{first: null, pictures: 0, masks: -masks, start: performance.now()}};
  for (const image of {_GREEN}.querySelectorAll('img')) {{
    image.addEventListener('load', () => {{ seen.pictures++; seen.first ??= performance.now() - seen.start; }});
  }}
}}"""
_COUNTED = """() => ({
  ...window.seen, masks: window.seen.masks + window.trame.state.state.masks,
  seconds: (performance.now() - window.seen.start) / 1000,
})"""


def main(args: argparse.Namespace) -> int:
    """0. Raises LaunchError where there is no chromium or playwright."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        raise LaunchError("There is no chromium to measure with; on Debian: apt-get install chromium")
    os.environ.update(environment())
    quick = args.quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = {"namespace": f"bench_{uuid.uuid4().hex[:8]}", "bridge_port": "0", "samm_port": "-1"}
        arguments["sweep"] = "false"
        ports: list[int] = []

        def hear(_name: str, line: str) -> None:
            if found := _LISTENS.search(line):
                ports.append(int(found.group(1)))

        with launch(arguments, folder, hear), GraphClient(arguments["namespace"], "bench") as client:
            console.print("The graph is starting …")
            client.load(mni_volume())
            rows = _measure(path, ports[-1], folder, quick)
    table = Table("", "goal", "measured", title=f"The viewer, {machine()}")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 0


def _measure(chromium: str, port: int, folder: Path, quick: bool) -> list[tuple[str, str, str]]:
    from playwright.sync_api import sync_playwright

    begun = time.monotonic()
    words = [sys.executable, "-m", "samm_ros.cli", "view", "--port", "0", "--no-browser", str(mni_volume())]
    viewer = subprocess.Popen(
        [*words, "--bridge", f"tcp://127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
    )
    try:
        url = next(found.group(1) for line in viewer.stdout if (found := _URL.search(line)))
        printed_s = time.monotonic() - begun
        threading.Thread(target=viewer.stdout.read, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            asked = time.monotonic()
            page.goto(url)
            _wait(
                page,
                "[...document.querySelectorAll('.grid img')].filter(i => i.naturalWidth > 100).length >= 4",
            )
            drawn_s = time.monotonic() - asked
            _wait(page, "window.trame.state.state.reasons && !window.trame.state.state.reasons.prompt")
            rows = [
                ("command to its URL", "≤ 3 s", f"{printed_s:.1f} s"),
                ("URL opened to four pictures", "", f"{drawn_s:.1f} s"),
                *_idle(viewer.pid, QUICK_IDLE_S if quick else IDLE_S),
                *_drags(page, QUICK_DRAGS if quick else DRAGS),
                ("the same after use", "≤ 600 MiB", f"{_memory_mib(viewer.pid):.0f} MiB"),
            ]
            browser.close()
        return rows
    finally:
        viewer.send_signal(signal.SIGINT)
        viewer.wait()


def _idle(pid: int, seconds: float) -> list[tuple[str, str, str]]:
    memory = _memory_mib(pid)
    before = _cpu_s(pid)
    time.sleep(seconds)
    share = 100 * (_cpu_s(pid) - before) / seconds
    return [
        ("memory of verb, front and session", "≤ 600 MiB", f"{memory:.0f} MiB"),
        ("idle, a page open", "≤ 2 % of a core", f"{share:.1f} %"),
    ]


def _drags(page: Page, count: int) -> list[tuple[str, str, str]]:
    """A box drawn in the coronal view, 60 steps in two seconds."""
    page.click("#tool-box")
    at: dict[str, float] = page.evaluate(f"() => {_GREEN}.getBoundingClientRect().toJSON()")
    counted: list[dict[str, Any]] = []
    for turn in range(count + 1):
        page.evaluate(_COUNT)
        x, y = at["x"] + 0.35 * at["width"], at["y"] + 0.35 * at["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(DRAG_STEPS):
            due = time.monotonic() + STEP_MS / 1000
            page.mouse.move(
                x + 0.3 * at["width"] * step / DRAG_STEPS, y + 0.3 * at["height"] * step / DRAG_STEPS
            )
            page.wait_for_timeout(max(0.0, 1000 * (due - time.monotonic())))
        result = page.evaluate(_COUNTED)
        page.mouse.up()
        page.wait_for_timeout(500)
        page.keyboard.press("c")
        page.wait_for_timeout(500)
        if turn:  # the first one embeds the slice
            counted.append(result)

    def mean(name: str) -> float:
        return sum(each[name] / each["seconds"] for each in counted) / count

    first = sum(each["first"] or math.nan for each in counted) / count / 1000
    return [
        ("drag of a box: pictures a second", "≥ 20", f"{mean('pictures'):.1f}"),
        ("drag of a box: masks a second", "≥ 10", f"{mean('masks'):.1f}"),
        ("first mouse step to the first new picture", "≤ 0.2 s", f"{first:.2f} s"),
    ]


def _processes(pid: int) -> list[psutil.Process]:
    """The verb and all that it started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _memory_mib(pid: int) -> float:
    """What they hold together; pages that several share are counted once."""
    return sum(process.memory_full_info().pss for process in _processes(pid)) / 2**20


def _cpu_s(pid: int) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _processes(pid))


def _wait(page: Page, condition: str) -> None:
    page.wait_for_function(f"window.trame?.state && {condition}", timeout=120_000)
