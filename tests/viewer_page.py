# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm view` as a process, and its page in a headless chromium: what a person does, and sees."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as BrowserPage

LIMIT_MS = 90_000
_STATE = "window.trame.state.state"
_URL = re.compile(r"The page is at (\S+)")


def chromium() -> str:
    """Its path; empty where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""


@contextmanager
def viewer_process(bridge_port: int, folder: Path, *arguments: str) -> Iterator[str]:
    """`samm view` beside a running bridge; the URL that it prints. folder: of its files, in the place of the user's own."""
    command = [sys.executable, "-m", "samm_ros.cli", "view", "--port", "0", "--no-browser"]
    command += ["--bridge", f"tcp://127.0.0.1:{bridge_port}", *arguments]
    process = subprocess.Popen(
        command,
        # The token that the bridge asks for is in the real one.
        env={"XDG_STATE_HOME": str(Path.home() / ".local" / "state"), **os.environ}
        | {"TMPDIR": str(folder), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := _URL.search(line):
                # What it says later must not fill the pipe.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                yield found.group(1)
                break
        else:
            raise AssertionError(f"samm view ended with {process.wait()}: {''.join(lines)}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's sandbox needs rights that containers lack, and its shared memory is small there.
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


class ViewerPage:
    """A page that is open. x and y of a view are fractions of its width and height, from its upper left."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        """With cookies of its own, as another person's browser has. options: of the browser's context."""
        size = {"width": 1280, "height": 800}
        self._context = browser.new_context(viewport=size, accept_downloads=True, **options)
        self._context.set_default_timeout(LIMIT_MS)
        self.page: BrowserPage = self._context.new_page()
        self._touch = self._context.new_cdp_session(self.page)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_function(
            "window.trame?.state && [...document.querySelectorAll('.grid img')].filter(i => i.naturalWidth > 100).length >= 4"
        )

    def close(self) -> None:
        self._context.close()

    def state(self, name: str) -> Any:
        return self.page.evaluate(f"{_STATE}[{name!r}]")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression over the state `s` is true; else says what the page said last."""
        try:
            self.page.wait_for_function(f"(() => {{ const s = {_STATE}; return {condition}; }})()")
        except Exception as error:
            said = {name: self.state(name) for name in ("problem", "busy", "log", "reasons", "connection")}
            raise AssertionError(f"the page never came to {condition}: {said}") from error

    def ready(self) -> None:
        """Until a prompt can be sent."""
        self.wait("s.reasons && !s.reasons.prompt")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tool(self, name: str) -> None:
        self.page.click(f"#tool-{name}")
        self.wait(f"s.tool === '{name}'")

    def show(self, view: str, index: int) -> None:
        """By the view's slider."""
        self.page.locator(f"#slider-{view}").fill(str(index))
        self.wait(f"s.{view}_index === {index}")

    def rectangle(self, view: str) -> dict[str, float]:
        """Of a view's picture on the page: x, y, width, height."""
        return self.page.evaluate(
            "id => { const r = document.getElementById(id).closest('.over').parentElement.getBoundingClientRect();"
            " return {x: r.x, y: r.y, width: r.width, height: r.height}; }",
            f"slider-{view}",
        )

    def click(self, view: str, x: float, y: float) -> None:
        at = self.rectangle(view)
        self.page.mouse.click(at["x"] + x * at["width"], at["y"] + y * at["height"])

    def drag(self, view: str, *path: tuple[float, float], steps: int = 5) -> None:
        at = self.rectangle(view)
        points = [(at["x"] + x * at["width"], at["y"] + y * at["height"]) for x, y in path]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=steps)
        self.page.mouse.up()

    def fingers(self, kind: str, *points: tuple[float, float]) -> None:
        """kind: touchStart, touchMove or touchEnd. points: pixels of the page where fingers are then."""
        places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self._touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    def picture(self, view: str) -> np.ndarray:
        """(H, W, 3) int: what is seen of a view, without what lies over it at its edges."""
        at = self.rectangle(view)
        shot = np.array(Image.open(io.BytesIO(self.page.screenshot(clip=at))).convert("RGB")).astype(int)
        rows, columns = shot.shape[:2]
        return shot[round(0.14 * rows) : round(0.86 * rows), : round(0.98 * columns)]

    def colored(self, view: str) -> int:
        """Pixels of a view that are not grey: masks and marks, for volumes are grey."""
        pixels = self.picture(view)
        return int((pixels.max(axis=2) - pixels.min(axis=2) > 24).sum())

    def bright(self, view: str) -> int:
        """Pixels of a view that show something."""
        return int((self.picture(view).max(axis=2) > 60).sum())

    def wait_for_colored(self, view: str, least: int, most: int = 10**9) -> int:
        """Until so many pixels of a view are coloured, as pictures come."""
        for _ in range(60):
            count = self.colored(view)
            if least <= count <= most:
                return count
            self.page.wait_for_timeout(250)
        raise AssertionError(
            f"{view} has {count} coloured pixels, not {least} to {most}; {self.state('log')}"
        )
