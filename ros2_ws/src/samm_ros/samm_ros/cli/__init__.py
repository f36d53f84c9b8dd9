# SPDX-License-Identifier: Apache-2.0
"""The verbs of ./samm, one module each, found by listing this folder.

A verb has HELP (one line), add_arguments(parser) and main(args) -> exit status. At import it needs the
standard library alone, so that help is there before the set-up. PASSES_ON = True: all arguments after the verb
are given to main unread, as args.rest.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from types import ModuleType

_DESCRIPTION = "samm_ros: promptable segmentation of medical volumes, as a ROS 2 graph. The first call sets this folder up."


def verbs() -> dict[str, ModuleType]:
    """By name, sorted."""
    names = sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")
    )
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def parse(argv: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    """The verb and its arguments. Help and mistakes end the process, as argparse does."""
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
    """Run a verb; its SammError becomes one sentence and status 2."""
    from ..errors import SammError

    verb, args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return verb.main(args)
    except SammError as error:
        print(f"samm {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
