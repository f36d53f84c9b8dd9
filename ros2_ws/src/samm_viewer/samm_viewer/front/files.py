# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The files that a page sends and gets: their names are checked, and none is there before it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

MAX_NAME_LENGTH = 200
_MAX_NAME_BYTES = 255
_CHUNK_BYTES = 1 << 20


def checked_name(name: str) -> Path:
    """The relative path that NAME or FOLDER/NAME stands for. Raises HTTPBadRequest for any other."""
    parts = name.split("/")
    if len(parts) > 2 or not all(map(_is_plain, parts)):
        raise web.HTTPBadRequest(
            text="That is no name of a file; give NAME or FOLDER/NAME, of printable signs without \\, neither . nor .., "
            f"each at most {MAX_NAME_LENGTH} signs and {_MAX_NAME_BYTES} bytes long."
        )
    return Path(*parts)


def _is_plain(part: str) -> bool:
    return (
        0 < len(part) <= MAX_NAME_LENGTH
        and part not in (".", "..")
        and part.isprintable()
        and "\\" not in part
        and len(part.encode()) <= _MAX_NAME_BYTES
    )


class Uploads:
    """What one session was sent, in its folder `uploads`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """folder: of the session. max_bytes: of all its files together."""
        self._folder = folder / "uploads"
        # Beside it, on the same disk: whoever lists the folder finds whole files alone.
        self._parts = folder / "parts"
        self._max_bytes = max_bytes
        self._bytes = 0
        for each in (self._folder, self._parts):
            each.mkdir(mode=0o700)

    async def receive(self, request: web.Request, name: str) -> int:
        """Write the body as the file `name`, instead of what has that name, and return its bytes.

        Raises HTTPBadRequest, HTTPConflict, HTTPRequestEntityTooLarge and HTTPInsufficientStorage; nothing is left then.
        """
        target = self._folder / checked_name(name)
        if self._bytes + (request.content_length or 0) > self._max_bytes:
            raise self._too_large()
        handle, part = tempfile.mkstemp(dir=self._parts)
        size = 0
        try:
            with open(handle, "wb") as file:
                async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                    size += len(chunk)
                    self._bytes += len(chunk)
                    if self._bytes > self._max_bytes:
                        raise self._too_large()
                    await asyncio.to_thread(file.write, chunk)
            before = self._put(Path(part), target)
        except BaseException as error:
            self._bytes -= size
            Path(part).unlink()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise web.HTTPInsufficientStorage(
                    text=f"There is no room for {target.name} on the server's disk; make room in {self._folder.anchor}."
                ) from None
            raise
        self._bytes -= before
        return size

    def _put(self, part: Path, target: Path) -> int:
        """Give a whole file its name, and return the bytes of what had it."""
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            before = target.stat().st_size if target.is_file() else 0
            os.replace(part, target)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise web.HTTPConflict(
                text=f"{target.name} cannot be both a file and a folder; give it another name."
            ) from None
        return before

    def _too_large(self) -> web.HTTPException:
        return web.HTTPRequestEntityTooLarge(
            self._max_bytes,
            self._bytes,
            text=f"The files of this session would be over {self._max_bytes / 1e9:g} GB; send fewer, or start the page with a "
            "larger --max-upload.",
        )


def download(folder: Path, name: str) -> web.FileResponse:
    """A file of the folder `downloads`, to be saved by the browser. Raises HTTPBadRequest and HTTPNotFound."""
    path = folder / "downloads" / checked_name(name)
    with contextlib.suppress(OSError):
        if path.resolve() == path.absolute() and path.is_file():
            return web.FileResponse(
                path,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.name, safe='')}",
                    "Cache-Control": "no-store",
                },
            )
    raise web.HTTPNotFound(text=f"There is no file {name} to download.")
