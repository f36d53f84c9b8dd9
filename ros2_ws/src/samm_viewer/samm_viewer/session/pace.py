# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""In a drag, the view that is dragged in is drawn, and the others wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from trame_slicer.views import AbstractView

from .views import Views

# Between two pictures of another slice during a drag; 3-D waits for its end.
_OTHERS_S = 0.5
# A drag that is not heard of for so long is over: its end may be lost with the browser.
_END_S = 2.0
# Before whatever else listens to the mouse, and may keep an event for itself.
_FIRST = 20.0


class Pace:
    """Watches the buttons over the views.

    All views show the mask that follows a drag. On two cores, three pictures out of four would be of views that nobody
    looks at, and the graph would have to wait for them.
    """

    def __init__(self, views: Views) -> None:
        """To be called in a running event loop, or before it runs."""
        self._views = views
        # Those that wait for a drag's end.
        self._waiting: list[AbstractView] = []
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        for view in views.all():
            for button in ("Left", "Middle", "Right"):
                self._listen(view, f"{button}ButtonPressEvent", self._begin)
                self._listen(view, f"{button}ButtonReleaseEvent", self._end)
            self._listen(view, "MouseMoveEvent", self._go_on)

    def _listen(self, view: AbstractView, event: str, act: Callable[[AbstractView], None]) -> None:
        view.interactor().AddObserver(event, lambda *_arguments: act(view), _FIRST)

    def _begin(self, view: AbstractView) -> None:
        self._end()
        self._waiting = [each for each in self._views.all() if each is not view]
        for each in self._waiting:
            each.set_render_blocked(True)
        self._heard_at = time.monotonic()
        self._timer = asyncio.get_event_loop().call_later(_OTHERS_S, self._draw_waiting)

    def _go_on(self, _view: AbstractView) -> None:
        self._heard_at = time.monotonic()

    def _end(self, _view: AbstractView | None = None) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        for each in self._shown_waiting():
            # What it has missed is drawn now.
            each.set_render_blocked(False)
        self._waiting = []

    def _draw_waiting(self) -> None:
        if time.monotonic() - self._heard_at > _END_S:
            self._end()
            return
        for each in self._shown_waiting():
            if each is not self._views.three_d:
                # One picture is asked for.
                each.set_render_blocked(False)
                each.set_render_blocked(True)
        self._timer = asyncio.get_event_loop().call_later(_OTHERS_S, self._draw_waiting)

    def _shown_waiting(self) -> list[AbstractView]:
        """Those that wait and are shown. What the layout hides is not to be drawn, and it may have changed in the drag."""
        shown = self._views.shown()
        return [each for each in self._waiting if each in shown]
