# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A slicer_bridge of its own for tests."""

from __future__ import annotations

import queue
import re
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from samm_ros.supervision.processes import find_executable

_LISTENS = re.compile(r"(IPP/2|SAMM) listens on tcp://.*:(\d+)")


def free_ports() -> dict[str, int]:
    """A port for each protocol."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return {"IPP/2": one.getsockname()[1], "SAMM": two.getsockname()[1]}


class BridgeProcess:
    """The node in a process; a context manager. ports: by protocol, what it listens on."""

    def __init__(self, namespace: str, folder: Path, **values: str | int | Path) -> None:
        """values: of the node's parameters."""
        self._folder = folder
        values = {
            "port": 0,
            "samm_port": 0,
            "folder": folder / "volumes",
            "save_folder": folder / "saved",
            **values,
        }
        self._command = [str(find_executable("slicer_ros_bridge", "slicer_bridge")), "--ros-args"]
        self._command += ["-r", f"__ns:=/{namespace}"]
        for name, value in values.items():
            self._command += ["-p", f"{name}:={value}"]
        self.lines: list[str] = []
        self.ports: dict[str, int] = {}

    def __enter__(self) -> BridgeProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, ports: Mapping[str, int] | None = None, listening: int = 2) -> None:
        """Start, or start again on `ports`; returns when so many protocols are listened to."""
        command = list(self._command)
        for protocol, name in (("IPP/2", "port"), ("SAMM", "samm_port")):
            if ports:
                command += ["-p", f"{name}:={ports[protocol]}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self.process, self._said), daemon=True).start()
        self.ports = {}
        while len(self.ports) < listening:
            line = self.wait_line()
            if found := _LISTENS.search(line):
                self.ports[found[1]] = int(found[2])

    def wait_line(self, pattern: str = "", timeout_s: float = 60.0) -> str:
        """The next line that holds `pattern`."""
        while True:
            try:
                line = self._said.get(timeout=timeout_s)
            except queue.Empty:
                raise AssertionError(f"the bridge said no {pattern!r}; it said {self.lines}") from None
            assert line is not None, f"the bridge ended with {self.process.wait()}: {self.lines}"
            if pattern in line:
                return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def _read(self, process: subprocess.Popen, said: queue.SimpleQueue) -> None:
        for line in process.stdout:
            self.lines.append(line.rstrip())
            said.put(line.rstrip())
        said.put(None)
