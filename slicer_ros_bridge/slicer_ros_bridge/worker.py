# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What takes the bridge long, as writing a volume or an image, on a thread beside the doors'.

Knows neither ROS nor sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from samm_core.errors import SammError

from .graph_actions import Done, Post

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Worker:
    """One thread; calls are made one after the other."""

    def __init__(self, post: Post, name: str = "volumes") -> None:
        """name: of the thread."""
        self._post = post
        self._thread = ThreadPoolExecutor(1, name)

    def do(self, call: Callable[[], T], done: Done[T]) -> None:
        """Make the call. done gets, on the doors' thread, what it returned, or None and a sentence, whatever fails."""

        def work() -> None:
            try:
                value, why = call(), ""
            except SammError as error:
                value, why = None, str(error)
            except Exception as error:
                logger.exception("The bridge's work failed")
                value, why = None, f"The bridge failed at it ({type(error).__name__}: {error}); see its log."
            self._post(lambda: done(value, why))

        self._thread.submit(work)

    def close(self) -> None:
        """Wait for the call that is being made, and make none of the others."""
        self._thread.shutdown(cancel_futures=True)
