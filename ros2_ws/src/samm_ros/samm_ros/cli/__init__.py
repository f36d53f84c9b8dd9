# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The verbs of ./samm: one module each, found by listing this folder.

A verb has HELP (one line), add_arguments(parser) and main(args) -> exit status. It imports only the standard library
at its top, so that help works before the set-up. With PASSES_ON = True, main gets all arguments after the verb unread,
as args.rest.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import importlib
import os
import pkgutil
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType

_DESCRIPTION = (
    "samm_ros: promptable segmentation of medical volumes, as a graph of ROS 2 nodes. "
    "The first call sets this folder up."
)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Errors of disks, rights and paths: the user can mend them, so they need no traceback.
_REFUSED_BY_THE_SYSTEM = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def verbs() -> dict[str, ModuleType]:
    """The modules by name, sorted."""
    names = sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def parse(argv: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    """The verb and its arguments. Ends the process after help and after a mistake, as argparse does."""
    known = verbs()
    parser = argparse.ArgumentParser(prog="samm", description=_DESCRIPTION)
    parsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for name, verb in known.items():
        description = f"{verb.HELP[0].upper()}{verb.HELP[1:]}."
        verb.add_arguments(parsers.add_parser(name, help=verb.HELP, description=description))
    if not argv:
        parser.print_help()
        sys.exit(2)
    rest: list[str] = []
    if getattr(known.get(argv[0]), "PASSES_ON", False) and argv[1:] not in (["-h"], ["--help"]):
        argv, rest = argv[:1], argv[1:]
    args = parser.parse_args(argv)
    args.rest = rest
    return known[args.verb], args


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its status. A SammError, or an error of a file or disk, becomes one sentence and status 2.

    SIGINT and SIGTERM end it with status 130, unless the verb handles them.
    """
    from samm_core.errors import SammError

    verb, args = parse(sys.argv[1:] if argv is None else argv)
    _make_log_folder()
    # SIGINT as well: a shell starts background jobs with it ignored.
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        check_namespace(getattr(args, "namespace", ""))
        status = verb.main(args)
        sys.stdout.flush()
        return status
    except SammError as error:
        print(f"samm {args.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output, such as `head`, has ended. Python flushes what is left to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _REFUSED_BY_THE_SYSTEM:
            raise
        name = f"{error.filename} cannot be used" if error.filename else "A file cannot be written"
        print(f"samm {args.verb}: {name} ({error.strerror}).", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def check_namespace(namespace: str) -> None:
    """Raises LaunchError when ROS does not accept the namespace."""
    from samm_core.errors import LaunchError

    if not re.fullmatch(r"/|/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?/?", namespace):
        raise LaunchError(
            f'"{namespace}" is no namespace; give names of letters, digits and underscores, no digit first, '
            'with "/" between them.'
        )


@contextlib.contextmanager
def noted_signals() -> Iterator[threading.Event]:
    """Within it, SIGINT and SIGTERM only set the event, so that a file is never left half written."""
    noted = threading.Event()
    former = {number: signal.signal(number, lambda *_: noted.set()) for number in _SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _make_log_folder() -> None:
    """Give rcl a folder for its logs where it has none: it ends the process when ~ cannot be written."""
    home = os.path.expanduser("~")
    if (
        not (os.path.isdir(home) and os.access(home, os.W_OK))
        and not {"ROS_LOG_DIR", "ROS_HOME"} & os.environ.keys()
    ):
        os.environ["ROS_LOG_DIR"] = folder = tempfile.mkdtemp(prefix="samm-log-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
