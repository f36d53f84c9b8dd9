# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is this user's alone, on a computer that others use too: files, a folder, the token that its programs show.

The packaged Slicer extension has this file too: standard library only, in Python 3.9's syntax.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_TOKEN_BYTES = 32
# How Path.home() says that this user has none; the KeyError is Python 3.9's.
_NO_HOME = (RuntimeError, KeyError)
# Where Linux lists its TCP connections, and what an IPv4 address begins with there; see proc_pid_net(5). A connection
# has a row for each end. That of a program that listens for IPv6 too is in the second table, its address IPv4-mapped.
_CONNECTIONS = (("/proc/net/tcp", ""), ("/proc/net/tcp6", "0000000000000000FFFF0000"))


def keep_files_private() -> None:
    """Make the files and folders that this process writes from now on readable by its user alone; for its start."""
    os.umask(0o077)


def private_folder() -> Path:
    """A folder of this user alone, made, for what must not touch a disk: in memory where there is such a place.

    Raises OSError where none can be made.
    """
    tried = []
    for folder in _private_folders():
        tried.append(str(folder))
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            # In /dev/shm somebody else may have taken the name.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                folder.chmod(0o700)
                return folder
    raise OSError(f"none of {', '.join(tried) or '$XDG_RUNTIME_DIR, /dev/shm, $XDG_CACHE_HOME'} can be used")


def _private_folders() -> Iterator[Path]:
    """Where it may be, the best place first."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if base and os.access(base, os.W_OK):
            yield Path(base) / f"samm_ros-{os.getuid()}"
    with contextlib.suppress(*_NO_HOME):
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "samm_ros" / "private"


def make_token() -> str:
    """The token by which the bridge knows this user's programs; made, and kept in a file, where there is none.

    Raises OSError where no file can be written.
    """
    failure = OSError(0, "there is no place for it")
    for path in _token_files():
        if token := read_token():
            return token
        new = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_hex(_TOKEN_BYTES))
            # Of two bridges that start at once, both take the first one's.
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
            if not read_token():
                os.replace(new, path)
            new.unlink(missing_ok=True)
        except OSError as error:
            failure = error
    if token := read_token():
        return token
    raise failure


def read_token() -> str:
    """The token, where this user has one; else empty."""
    for path in _token_files():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                mine = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
                token = file.read(4 * _TOKEN_BYTES) if mine and not status.st_mode & 0o077 else ""
                if len(token) == 2 * _TOKEN_BYTES:
                    return token
    return ""


def _token_files() -> Iterator[Path]:
    """Where it may be, the best place first. Not in XDG_RUNTIME_DIR: Slicer's may be another than the graph's."""
    if not hasattr(os, "getuid"):
        return  # No graph runs on Windows.
    with contextlib.suppress(*_NO_HOME):
        yield (
            Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "samm_ros" / "token"
        )
    yield Path("/dev/shm") / f"samm_ros-{os.getuid()}" / "token"


def tells_owners() -> bool:
    """Whether this system tells whose connections there are: Linux does, with /proc."""
    return os.path.exists(_CONNECTIONS[0][0])


def owner_of_connection(local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user id of the process at the other end of an IPv4 connection within this computer; None: not to be found.

    local, remote: address and port of this end and of the other.
    """
    for table, prefix in _CONNECTIONS:
        ends = [prefix + _address(end) for end in (remote, local)]
        with contextlib.suppress(OSError, ValueError):
            with open(table) as rows:
                for row in rows:
                    # Number, local address, remote address, state, queues, timer, retransmissions, uid, timeout, inode.
                    words = row.split()
                    # Once its process has closed it, a socket has no inode, and seems to be root's.
                    if words[1:3] == ends and words[9] != "0":
                        return int(words[7])
    return None


def _address(address: tuple[str, int]) -> str:
    """As the tables write it."""
    host = int.from_bytes(bytes(map(int, address[0].split("."))), "little")
    return f"{host:08X}:{address[1]:04X}"
