# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What takes long, as to write a file, on a thread beside the scene's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from samm_core.errors import SammError

from .i18n import tr as _

logger = logging.getLogger(__name__)


class Background:
    """One thread; works are done one after the other. None may touch the scene."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        """post: makes a call on the scene's thread."""
        self._post = post
        self._thread = ThreadPoolExecutor(1, "Slicer-IPP files")

    def do(self, work: Callable[[], None], done: Callable[[str], None]) -> None:
        """Do the work; `done` gets a sentence of why it failed, or nothing, on the scene's thread."""

        def run() -> None:
            try:
                work()
                why = ""
            except SammError as error:
                why = str(error)
            except Exception as error:  # of any library: the user is told, whatever it is
                logger.exception("The work failed")
                why = _("It failed ({kind}: {error}); Slicer's log has more.").format(
                    kind=type(error).__name__, error=error
                )
            self._post(lambda: done(why))

        self._thread.submit(run)

    def close(self) -> None:
        """Wait until all that was asked for is done."""
        self._thread.shutdown()
