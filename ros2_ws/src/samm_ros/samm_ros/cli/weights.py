# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""`samm weights`: lists the models and whether their weights are here, or downloads the weights of one."""

from __future__ import annotations

import argparse

HELP = "list the models and whether their weights are here, or fetch the weights of one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="model to fetch the weights of; default: list all models")


def main(args: argparse.Namespace) -> int:
    """0. Raises ModelError: there is no such model, or its download failed."""
    if args.name:
        _fetch(args.name)
    else:
        _list()
    return 0


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from samm_core.models import MODEL_NAMES
    from samm_core.models.weights import WEIGHTS, weights_folder

    folder = weights_folder()
    table = Table("model", "weights", "size", "here", title=f"Weights in {folder}", title_justify="left")
    for name in MODEL_NAMES:
        if name not in WEIGHTS:
            table.add_row(name, "come with samm_ros", "", "yes")
            continue
        weights = WEIGHTS[name]
        size = f"{weights.size / 1e6:.0f} MB" if weights.size else ""
        here = "yes" if (folder / weights.file_name).is_file() else f"no: ./samm weights {name}"
        table.add_row(name, weights.file_name, size, here)
    Console().print(table)


def _fetch(name: str) -> None:
    from rich import progress

    from samm_core.models import MODEL_NAMES
    from samm_core.models.weights import WEIGHTS, download

    if name in MODEL_NAMES and name not in WEIGHTS:
        print(f"{name} needs nothing: its weights come with samm_ros.")
        return
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
    with progress.Progress(*columns, progress.TransferSpeedColumn(), progress.TimeRemainingColumn()) as bars:
        bar = bars.add_task(name, total=None)
        path = download(name, progress=lambda done, total: bars.update(bar, completed=done, total=total))
    print(f"{name} is in {path}")
