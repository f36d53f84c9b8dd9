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
        """folder: of the session, which removes what it has read. max_bytes: of all that is there together."""
        self._folder = folder / "uploads"
        # Beside it, on the same disk: whoever lists the folder finds whole files alone.
        self._parts = folder / "parts"
        self._max_bytes = max_bytes
        # Of whole files, at least as many as are there: what the session has removed is found out when there is no room.
        self._whole_bytes = 0
        self._part_bytes = 0
        for each in (self._folder, self._parts):
            each.mkdir(mode=0o700)

    async def receive(self, request: web.Request, name: str) -> int:
        """Write the body as the file `name`, instead of what has that name, and return its bytes.

        Raises HTTPBadRequest, HTTPConflict, HTTPRequestEntityTooLarge and HTTPInsufficientStorage; nothing is left then.
        """
        target = self._folder / checked_name(name)
        self._make_sure_of_room(request.content_length or 0)
        handle, part = tempfile.mkstemp(dir=self._parts)
        size = 0
        try:
            with open(handle, "wb") as file:
                async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                    self._make_sure_of_room(len(chunk))
                    size += len(chunk)
                    self._part_bytes += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
            self._put(Path(part), target)
            self._whole_bytes += size
        except BaseException as error:
            Path(part).unlink()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise web.HTTPInsufficientStorage(
                    text=f"There is no room for {target.name} on the server's disk; make room in {self._folder.anchor}."
                ) from None
            raise
        finally:
            self._part_bytes -= size
        return size

    def _put(self, part: Path, target: Path) -> None:
        """Give a whole file its name, which another one may have had."""
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(part, target)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise web.HTTPConflict(
                text=f"{target.name} cannot be both a file and a folder; give it another name."
            ) from None

    def _make_sure_of_room(self, size: int) -> None:
        """Raises HTTPRequestEntityTooLarge where so many further bytes would be too many."""
        if self._whole_bytes + self._part_bytes + size <= self._max_bytes:
            return
        self._whole_bytes = sum(
            _size(Path(folder, name)) for folder, _folders, names in os.walk(self._folder) for name in names
        )
        there = self._whole_bytes + self._part_bytes + size
        if there > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(
                self._max_bytes,
                there,
                text=f"The files of this session would be over {self._max_bytes / 1e9:g} GB; send fewer, or start the page "
                "with a larger --max-upload.",
            )


def _size(path: Path) -> int:
    """The bytes of a file; 0 when it was removed a moment ago."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def download(folder: Path, name: str) -> web.FileResponse:
    """A file of the folder `downloads`, to be saved by the browser. Raises HTTPBadRequest and HTTPNotFound."""
    # A link below the session's folder may lead to any file; one above it, such as /tmp, is the system's or the user's.
    path = folder.resolve() / "downloads" / checked_name(name)
    with contextlib.suppress(OSError):
        if path.resolve() == path and path.is_file():
            return web.FileResponse(
                path,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.name, safe='')}",
                    "Cache-Control": "no-store",
                },
            )
    raise web.HTTPNotFound(text=f"There is no file {name} to download.")
