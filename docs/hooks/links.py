# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Links from the pages to files of the repository: relative in the source, to the repository's site in the built pages.

A page is read in a checkout, where `../../samm` is a file, and as a site, which has no such file. A link to a file that
is not there is a warning, which `mkdocs build --strict` takes for an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

# The logger whose warnings mkdocs counts.
logger = logging.getLogger("mkdocs.hooks.links")

_LINK = re.compile(r"(?<=\]\()(?P<path>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, page: Any, config: Any, **_others: Any) -> str:
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    folder = Path(page.file.abs_src_path).parent

    def replaced(link: re.Match[str]) -> str:
        target = Path(posixpath.normpath(folder / link["path"]))
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            logger.warning("%s links to %s, which is not there.", page.file.src_uri, link["path"])
        kind = "tree" if target.is_dir() else "blob"
        address = f"{config.repo_url}/{kind}/main/{target.relative_to(root).as_posix()}"
        return address + (link["anchor"] or "")

    return _LINK.sub(replaced, markdown)
