# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The sessions: a process for each browser, started when it comes and ended when it has left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path

from samm_core.errors import LaunchError, NotReadyError

from .files import Uploads

START_LIMIT_S = 60.0
END_LIMIT_S = 15.0  # in which a session also saves its segmentation
_MAX_LINE_BYTES = 1 << 20
# What the user has set counts more.
_ENVIRONMENT = {
    # Each thread that allocates gets an arena of glibc's of its own, up to 8 per core, and what is freed in one is not used
    # by another: sessions would grow.
    "MALLOC_ARENA_MAX": "2",
    # Larger pieces, such as volumes, go back to the system when they are freed; pictures are smaller.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    # Threads that Mesa draws with beside the session's own, where no GPU does. The session waits for them in each picture,
    # and on few cores they wait for the graph and the browser.
    "LP_NUM_THREADS": str(max(0, min(len(os.sched_getaffinity(0)) // 2 - 1, 4))),
}


class Session:
    """A process that serves one page, from its start on.

    id: known to whoever is in it. secret: what its page has to show to it. port: of 127.0.0.1.
    """

    def __init__(self, session_id: str, folder: Path, max_upload: int) -> None:
        """folder: new and empty; removed when the process has ended."""
        self.id = session_id
        self.secret = secrets.token_urlsafe(24)
        self.folder = folder
        self.uploads = Uploads(folder, max_upload)
        self.port = 0
        self.connections = 0
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task] = []
        (folder / "downloads").mkdir(mode=0o700)

    async def start(self, command: Sequence[str], arguments: Sequence[str]) -> None:
        """Return when it serves. Raises LaunchError; it has to be ended then too."""
        secret = self.folder / "secret"
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.secret)
        own = {"--id": self.id, "--folder": self.folder, "--secret-file": secret}
        self._process = await asyncio.create_subprocess_exec(
            *command,
            *(str(word) for option in own.items() for word in option),
            *arguments,
            env=_ENVIRONMENT | os.environ,
            # It ends when this is closed, as it is when we are killed.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_LINE_BYTES,
            # A Ctrl-C is for us: we end it.
            start_new_session=True,
        )
        self._tasks.append(asyncio.create_task(self._pass_on(self._process.stderr)))
        try:
            answer = await asyncio.wait_for(self._first_answer(self._process.stdout), START_LIMIT_S)
        except asyncio.TimeoutError:
            raise LaunchError(
                f"The page was not ready after {START_LIMIT_S:g} s; this computer may be too busy. Try again."
            ) from None
        if "error" in answer:
            raise LaunchError(answer["error"])
        self.port = answer["port"]
        self._tasks.append(asyncio.create_task(self._pass_on(self._process.stdout)))

    async def ended(self) -> None:
        """Return when the process has ended, of itself or otherwise."""
        if self._process:
            await self._process.wait()

    async def end(self) -> None:
        """End it, in at most END_LIMIT_S, and remove its folder."""
        if self._process and self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), END_LIMIT_S)
            except asyncio.TimeoutError:
                self._signal(signal.SIGKILL)
                await self._process.wait()
            # And what it may have started itself.
            self._signal(signal.SIGKILL)
        if self._tasks:  # the rest of what it wrote
            await asyncio.wait(self._tasks, timeout=END_LIMIT_S)
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def _first_answer(self, output: asyncio.StreamReader) -> dict:
        """The line in which it says its port, or why it has none. Raises LaunchError when there is none."""
        async for line in _lines(output):
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and (
                    isinstance(answer.get("port"), int) or isinstance(answer.get("error"), str)
                ):
                    return answer
            self._say(line)
        raise LaunchError("The page's process ended at its start; what it said is where ./samm view runs.")

    async def _pass_on(self, output: asyncio.StreamReader) -> None:
        async for line in _lines(output):
            self._say(line)

    def _say(self, line: str) -> None:
        print(f"session {self.id}: {line}", file=sys.stderr, flush=True)


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await output.readline()
        except ValueError:  # longer than the limit: it is left out
            continue
        if not line:
            return
        yield line.decode(errors="replace").rstrip()


class Sessions:
    """The sessions that run, by their ids."""

    def __init__(
        self,
        command: Sequence[str],
        arguments: Sequence[str],
        folder: Path,
        max_sessions: int,
        max_upload: int,
        grace_s: float,
    ) -> None:
        """command, arguments: of a session's process. folder: for the folders of the sessions.

        grace_s: how long a session that no page is connected to goes on.
        """
        self._command, self._arguments = command, arguments
        self._folder = folder
        self._max_sessions, self._max_upload, self._grace_s = max_sessions, max_upload, grace_s
        # A session is here from its start on, until it is being ended.
        self._sessions: dict[str, asyncio.Task[Session]] = {}
        self._timers: dict[Session, asyncio.TimerHandle] = {}
        self._background: set[asyncio.Task] = set()
        self._is_closed = False

    def running(self, session_id: str) -> Session | None:
        """The session if it serves its page."""
        task = self._sessions.get(session_id)
        return task.result() if task and task.done() and not task.exception() else None

    async def open(self, session_id: str) -> Session:
        """The session with that id, a new one when none runs.

        Raises NotReadyError when no further one may run, and LaunchError when it cannot be started.
        """
        if session_id not in self._sessions:
            if self._is_closed or len(self._sessions) >= self._max_sessions:
                raise NotReadyError(
                    f"Sessions running here: {len(self._sessions)}, and no more may (--max-sessions). Try again when somebody "
                    "has closed the page."
                )
            self._sessions[session_id] = asyncio.create_task(self._start(session_id))
        # A visitor who leaves meanwhile does not stop it for another one.
        return await asyncio.shield(self._sessions[session_id])

    @contextlib.contextmanager
    def connected(self, session: Session) -> Iterator[None]:
        """Within it, a page is connected to the session."""
        session.connections += 1
        if timer := self._timers.pop(session, None):
            timer.cancel()
        try:
            yield
        finally:
            session.connections -= 1
            if not session.connections:
                self._wait_for_a_page(session)

    async def close(self) -> None:
        """End all sessions, and start no further ones."""
        self._is_closed = True
        for task in self._sessions.values():
            task.cancel()  # if it is starting
        await asyncio.gather(*self._sessions.values(), return_exceptions=True)
        for task in list(self._sessions.values()):
            self._end(task.result())
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)

    async def _start(self, session_id: str) -> Session:
        folder = Path(tempfile.mkdtemp(prefix=f"{session_id}-", dir=self._folder))
        session = Session(session_id, folder, self._max_upload)
        try:
            await session.start(self._command, self._arguments)
        except BaseException:
            self._sessions.pop(session_id, None)
            await session.end()
            raise
        self._in_background(self._watch(session))
        self._wait_for_a_page(session)
        return session

    async def _watch(self, session: Session) -> None:
        await session.ended()
        self._end(session)

    def _wait_for_a_page(self, session: Session) -> None:
        if session.id in self._sessions:
            loop = asyncio.get_running_loop()
            self._timers[session] = loop.call_later(self._grace_s, self._end, session)

    def _end(self, session: Session) -> None:
        if timer := self._timers.pop(session, None):
            timer.cancel()
        if self.running(session.id) is session:
            del self._sessions[session.id]
            self._in_background(session.end())

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
