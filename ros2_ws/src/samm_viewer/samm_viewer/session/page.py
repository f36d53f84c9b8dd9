# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The page of a viewer: what is known goes to the browser as state, and what is pressed there comes back."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from SlicerIPPLib.client_events import BridgeState
from SlicerIPPLib.export import KINDS, missing_package
from SlicerIPPLib.nodes import world_geometry
from SlicerIPPLib.state import BRIDGE_TEXTS
from SlicerIPPLib.view import PLANES
from trame_server import Server
from trame_slicer.core import LayoutManager
from trame_slicer.rca_view import RemoteSliceViewFactory, RemoteThreeDViewFactory, RemoteViewFactory

from samm_core.errors import SammError
from samm_core.latency.events import Task
from samm_core.sources.volume import read_volume

from . import widgets
from .marking import Tool
from .pace import Pace
from .viewer import Viewer
from .views import LAYOUTS, SLICES
from .volumes import below_roots, listed

_log = logging.getLogger(__name__)
# How often is looked whether the view that the mouse is in has changed. What it shows changes by the mouse's steps and by
# masks, and less often: at 25 a picture waited for the next look, at 60 there were a third more, and no fewer masks.
_PICTURES_PER_S = 60
# Between two steps of the mouse: each picture shows a new one.
_MOUSE_S = 0.02
# Of a view, which is drawn without a GPU on most computers.
_MAX_PIXELS = 1_200_000
# Between two updates of the page's state, each of which the browser draws too.
_UPDATE_S = 0.1
# Between two counts of the segments' voxels.
_COUNT_S = 0.3
_LOG_LINES = 60
_STREAM_LAYOUT = "Axial"
# Of a slider's track.
_TRACK, _EMBEDDED = "#ffffff30", "#4db8ffb0"
PROPAGATE_SLICES = 200


def remote_views(server: Server) -> Sequence[RemoteViewFactory]:
    """Factories of views whose pictures go to the browser."""
    # Views that the mouse is not in follow more slowly: each picture of one keeps a mask waiting.
    options = {
        "target_fps": _PICTURES_PER_S,
        "blur_fps": 4.0,
        "interactive_quality": 60,
        "rca_event_throttle_s": _MOUSE_S,
    }
    return [
        RemoteSliceViewFactory(server, populate_view_ui_f=widgets.slice_controls, **options),
        RemoteThreeDViewFactory(server, populate_view_ui_f=widgets.three_d_controls, **options),
    ]


def limit_pixels(factories: Sequence[RemoteViewFactory]) -> None:
    """Of the views that the factories have made: on a large screen, a view alone is drawn smaller than it is shown."""
    for factory in factories:
        for view in factory.get_views():
            factory.get_factory_view(view.get_singleton_tag()).view_adapter.max_pixel_count = _MAX_PIXELS


class Page:
    """Binds a Viewer to a trame server. Everything runs on the server's event loop."""

    def __init__(self, server: Server, viewer: Viewer, folder: Path, roots: list[Path], link: str) -> None:
        """folder: holds uploads/ and downloads/. roots: folders below which volumes may be opened. link: names the session."""
        self._server = server
        self._viewer = viewer
        self._downloads = folder / "downloads"
        self._uploads = (folder / "uploads").resolve()
        self._roots = [root.resolve() for root in roots]
        # Where the list of files is; None: at the roots themselves.
        self._folder = self._roots[0] if len(self._roots) == 1 else None
        self._update: asyncio.TimerHandle | None = None
        # The segments as the page shows them, and when their voxels were counted last.
        self._rows: list[dict[str, Any]] = []
        self._are_rows_old, self._counted_at = True, 0.0
        # How many masks were applied.
        self._masks = 0
        self._reading: asyncio.Task | None = None
        # What is to be read next: a path, and whether it may be anywhere.
        self._wanted: tuple[Path, bool] | None = None
        # The layout before a stream was shown, which is one picture.
        self._layout_before = ""
        # What the shown volume was read from.
        self._source: Path | None = None
        # A reason that was asked for by pressing what cannot act.
        self._notice = ""
        layouts = LayoutManager(viewer.app.scene, viewer.app.view_manager, server)
        layouts.register_layout_dict(LAYOUTS)
        layouts.set_layout(next(iter(LAYOUTS)))
        self._layouts = layouts
        self._actions = self._make_actions()
        server.state.update(
            {
                "trame__title": "samm",
                "trame__favicon": "samm_viewer/icon.svg",
                "dialog": "",
                "busy": "",
                "link": link,
                "folder": "",
                "folders": [],
                "files": [],
                "export_kinds": [
                    [suffix, text] for suffix, text in KINDS.items() if not missing_package(suffix)
                ],
                **self._state(),
            }
        )
        widgets.build(server, self, layouts)
        self._pace = Pace(viewer.views)
        self._observe()

    def process_events(self) -> None:
        """Call when the logic's descriptor is readable."""
        self._viewer.logic.process_events()

    # What is pressed.

    def act(self, name: str) -> None:
        """Do what a button or a key stands for; where it cannot act, the page says why."""
        control, act = self._actions[name]
        self._notice = self._viewer.logic.reasons().get(control, "")
        if not self._notice:
            act()
        self.refresh()

    def choose_tool(self, name: str) -> None:
        # The reason of "window" is that of the graph's presets; the window itself is the volume's.
        self._notice = "" if name == Tool.WINDOW else self._viewer.logic.reasons().get(name, "")
        if not self._notice:
            self._viewer.marking.choose(Tool(name))
        self.refresh()

    def choose_layout(self, name: str) -> None:
        self._layouts.set_layout(name)
        self.refresh()

    def choose_model(self, name: str) -> None:
        self._viewer.logic.select_model(name)

    def choose_window(self, name: str) -> None:
        if name:
            self._viewer.logic.apply_window_preset(name)

    def show_slice(self, view: str, index: int) -> None:
        self._viewer.show_slice(view, int(index))
        self._viewer.parameters.view = view
        self._viewer.logic.observe()

    def zoom(self, view: str, factor: float) -> None:
        self._viewer.views.zoom(view, factor)

    def pinch(self, view: str, factor: float, across: float, down: float) -> None:
        """What two fingers have done: see Views.pinch."""
        self._viewer.views.pinch(view, float(factor), float(across), float(down))

    def segment(self, segment_id: str, edit: str, value: Any = None) -> None:
        """edit: choose, show, rename, color or remove."""
        logic = self._viewer.logic
        edits = {
            "choose": lambda: self._viewer.choose_segment(segment_id),
            "show": lambda: logic.set_segment_visible(segment_id, bool(value)),
            "rename": lambda: logic.rename_segment(segment_id, str(value)),
            "color": lambda: logic.recolor_segment(segment_id, _rgb(str(value))),
            "remove": lambda: logic.remove_segment(segment_id),
        }
        edits[edit]()
        self.refresh()

    def dialog(self, name: str) -> None:
        """Show a dialog: open, save, weights, help; empty: none."""
        if name == "open":
            self._list(self._folder)
        self._server.state.dialog = name
        self.refresh()

    def enter_folder(self, name: str) -> None:
        """name: of a folder in the one that is shown, or of a root; "..": the one above, as far as it may be seen."""
        if self._folder is None:
            self._list(self._roots[[_shown(root) for root in self._roots].index(name)])
        elif name != "..":
            self._list(self._folder / name)
        else:
            self._list(None if self._folder in self._roots else self._folder.parent)
        self.refresh()

    def open_listed(self, name: str) -> None:
        """Open a file or, of DICOM, the folder that is shown."""
        if self._folder is not None:
            self.open_path(self._folder / name if name else self._folder)

    def open_uploaded(self, name: str) -> None:
        """Open what the browser has sent: a file, or a folder of several, below uploads/.

        It stays there while its volume is shown, for DICOM SEG refers to its files.
        """
        self.open_path(below_roots(self._uploads / name, [self._uploads]), is_allowed=True)

    def open_path(self, path: Path, is_allowed: bool = False) -> None:
        """Read a volume and show it; the page goes on meanwhile. is_allowed: wherever it lies.

        Of those that are asked for while one is read, the newest is next.
        """
        self._server.state.dialog = ""
        self._wanted = (path, is_allowed)
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        self.refresh()

    def save(self, suffix: str, tab: str) -> None:
        """Write the segmentation, for a tab to fetch. suffix: one of export.KINDS."""
        self._server.state.dialog = ""
        logic = self._viewer.logic
        if suffix not in KINDS or (why := logic.reasons()["export"]):
            self.tell(why if suffix in KINDS else f"There is no kind of file {suffix}.")
            return
        self._server.state.busy = "Writing the file …"
        # A volume's name may be a patient's; in a folder of our own it is what the user knows the file by.
        stem = self._viewer.parameters.volume.GetName().split(".")[0] or "segmentation"
        path = self._downloads / f"{stem}{suffix}"

        def done(why: str) -> None:
            self.tell(why)
            if not why:
                widgets.download(self._server, tab, path.name)

        logic.export(path, self._source, done)
        self.refresh()

    def fetch_weights(self, name: str) -> None:
        self._notice = self._viewer.logic.reasons()["fetch_weights"]
        if not self._notice:
            self._viewer.logic.fetch_weights(name)
        self.refresh()

    def refusing(self, method: Callable[..., None]) -> Callable[..., None]:
        """The method, as the browser calls it: what it refuses, and arguments that are none, become a sentence on the page."""

        @functools.wraps(method)
        def call(*arguments: Any) -> None:
            try:
                method(*arguments)
            except SammError as error:
                self.tell(str(error))
            except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
                self.tell(f"{method.__name__} does not take {arguments}: {error}.")

        return call

    def tell(self, sentence: str) -> None:
        """Show a sentence of the browser's own, such as why a file could not be sent."""
        self._notice = sentence
        if self._reading is None:
            self._server.state.busy = ""
        self.refresh()

    def refresh(self) -> None:
        """Bring the page up to date soon; many calls are one update."""
        due = asyncio.get_event_loop().time() + _UPDATE_S
        if self._update is not None and self._update.when() > due:
            self._update.cancel()
            self._update = None
        if self._update is None:
            self._update = asyncio.get_event_loop().call_later(_UPDATE_S, self._push)

    # Inside.

    def _make_actions(self) -> dict[str, tuple[str, Callable[[], None]]]:
        """By name: the control whose reason counts, and what is done."""
        viewer, logic = self._viewer, self._viewer.logic
        return {
            "prompt": ("prompt", logic.prompt),
            "live": ("live", self._toggle_live),
            "freeze": ("freeze", lambda: logic.freeze(not logic.is_frozen())),
            "undo": ("undo", logic.undo),
            "redo": ("redo", logic.redo),
            "clear": ("", viewer.marking.clear),
            "clear_roi": ("", viewer.marking.clear_roi),
            "remove_mark": ("", viewer.marking.remove_last),
            "new_segment": ("add_segment", viewer.new_segment),
            "propagate": ("propagate", lambda: logic.propagate(PROPAGATE_SLICES)),
            "segment_roi": ("segment_roi", logic.segment_roi),
            "everything": ("everything", logic.segment_everything),
            "stop": ("stop", logic.stop),
            "embed": ("embed", logic.embed_all),
            "cancel_embed": ("cancel_embed", logic.cancel_embed),
            "start_stream": ("start_stream", self._start_stream),
            "stop_stream": ("stop_stream", self._stop_stream),
            "load": ("load", logic.load_volume),
            "show_3d": ("show_3d", viewer.toggle_3d),
            "fit": ("", viewer.views.fit),
            "marks_follow": ("marks_follow", self._toggle_marks_follow),
            "restore": ("restore", logic.restore_autosave),
            "cancel_fetch": ("cancel_fetch", logic.cancel_fetch),
        }

    def _toggle_live(self) -> None:
        self._viewer.parameters.live = not self._viewer.parameters.live
        self._viewer.logic.observe()

    def _start_stream(self) -> None:
        self._wanted = None
        self._layout_before = self._layouts.layout_id
        self._layouts.set_layout(_STREAM_LAYOUT)
        self._viewer.start_stream()

    def _stop_stream(self) -> None:
        """Back to the views, and to the volume, that were shown before."""
        self._viewer.logic.stop_stream()
        self._end_stream_layout()
        if self._source is not None and self._source.exists():
            self.open_path(self._source, is_allowed=True)

    def _end_stream_layout(self) -> None:
        if self._layout_before and self._layouts.layout_id == _STREAM_LAYOUT:
            self._layouts.set_layout(self._layout_before)
        self._layout_before = ""

    def _toggle_marks_follow(self) -> None:
        self._viewer.parameters.marks_follow = not self._viewer.parameters.marks_follow
        self._viewer.logic.observe()

    def _observe(self) -> None:
        events = self._viewer.logic.events
        for name in vars(events):
            getattr(events, name).connect(self.refresh)
        self._viewer.changed.connect(self.refresh)
        for signal in (events.segments, events.segment_rows, events.mask, events.history):
            signal.connect(self._age_rows)
        events.mask.connect(self._count_mask)
        self._viewer.changed.connect(self._forget_notice)
        self._viewer.views.before_drawing(self.process_events)
        for _name, view in self._viewer.views.slice_views():
            view.get_view_node().AddObserver("ModifiedEvent", lambda *_arguments: self.refresh())

    def _count_mask(self) -> None:
        self._masks += 1
        self._forget_notice()

    def _forget_notice(self) -> None:
        """It was about what was pressed before."""
        self._notice = ""

    def _age_rows(self) -> None:
        self._are_rows_old = True

    def _push(self) -> None:
        self._update = None
        with self._server.state as state:
            state.update(self._state())
        if self._are_rows_old:
            self._update = asyncio.get_event_loop().call_later(_COUNT_S, self._push)

    def _segments(self) -> list[dict[str, Any]]:
        """The rows of the list. In a drag, the voxels of a mask are not counted each time that it changes."""
        if self._are_rows_old and time.monotonic() - self._counted_at >= _COUNT_S:
            self._rows = [_row(row) for row in self._viewer.logic.segment_rows()]
            self._are_rows_old, self._counted_at = False, time.monotonic()
        return self._rows

    def _state(self) -> dict[str, Any]:
        """What the page shows, as JSON."""
        viewer, logic, p = self._viewer, self._viewer.logic, self._viewer.parameters
        known = logic.state
        embedding = known.embedding
        result = {
            "volume": p.volume.GetName() if p.volume else "",
            "tool": viewer.marking.tool.value,
            "view": p.view,
            "layout": self._layouts.layout_id,
            "layout_names": list(LAYOUTS),
            "reasons": logic.reasons(),
            "connection": BRIDGE_TEXTS[known.bridge],
            "is_connected": known.is_connected,
            "is_lost": known.bridge == BridgeState.LOST,
            "models": known.models,
            "model": known.model.name if known.model else "",
            "presets": list(known.window_presets),
            "is_live": p.live,
            "is_frozen": logic.is_frozen(),
            "is_following": p.marks_follow,
            "is_loading": known.is_loading,
            "is_loaded": known.has_loaded(p.volume),
            "has_roi": p.roi is not None,
            "is_running": known.is_running,
            "progress": list(known.progress),
            # That nothing is marked is no problem until something is.
            "problem": self._notice or (known.prompt_problem if viewer.marking.is_marked else ""),
            "score": known.score,
            "masks": self._masks,
            "is_low": known.is_low_confidence,
            "segments": self._segments(),
            "is_3d": known.show_3d,
            "weights": [[w.model, w.size, w.is_here, w.is_fetchable, w.page] for w in known.weights],
            "fetching": known.fetching,
            "fetched": list(known.fetch_progress),
            "bars": _bars(known.latency),
            "cycle_ms": known.latency.get("total"),
            "embedded": [embedding.done, embedding.total] if embedding else [0, 0],
            "is_embedding": bool(embedding and embedding.sweeping),
            "is_stream": known.stream,
            "stream_text": known.stream_text,
            "log": known.log[-_LOG_LINES:],
        }
        for name in SLICES:
            index, count = viewer.slice_range(name)
            result[f"{name}_index"], result[f"{name}_count"] = index, count
            result[f"{name}_track"] = self._track(name, count)
        return result

    def _track(self, view: str, count: int) -> str:
        """A slider's track as CSS: bright where the slices of the volume are embedded."""
        known = self._viewer.logic.state
        volume = self._viewer.parameters.volume
        if (
            not known.has_loaded(volume)
            or known.embedding is None
            or known.embedding.uid != known.sent_volume.uid
        ):
            return _TRACK
        axis = world_geometry(volume).axis(PLANES[view])
        stops = []
        for first, last in known.embedding.runs[known.graph_volume.plane_across(axis)]:
            left, right = 100 * first / count, 100 * (last + 1) / count
            stops += [f"{_TRACK} {left:.2f}%", f"{_EMBEDDED} {left:.2f}%", f"{_EMBEDDED} {right:.2f}%"]
            stops += [f"{_TRACK} {right:.2f}%"]
        return f"linear-gradient(to right, {', '.join(stops)})" if stops else _TRACK

    async def _read(self) -> None:
        while self._wanted is not None:
            wanted = path, is_allowed = self._wanted
            self._server.state.busy = f"Reading {path.name} …"
            self.refresh()
            try:
                path = path if is_allowed else below_roots(path, self._roots)
                volume = await asyncio.to_thread(read_volume, path)
                # Another volume, or the stream, may be wanted by now.
                if self._wanted is wanted:
                    self._end_stream_layout()
                    self._viewer.open(volume)
                    self._source, path = path, self._source
                    self._notice = " ".join(volume.warnings)
            except SammError as error:
                self._notice = str(error)
            except Exception as error:  # whatever a file leads to, the next one can be opened
                _log.exception("a volume could not be opened")
                self._notice = f"{path.name} could not be opened: {error}."
            # Of what was shown before, or could not be opened.
            self._remove_upload(path)
            if self._wanted is wanted:
                self._wanted = None
        self._reading = None
        self._server.state.busy = ""
        self.refresh()

    def _remove_upload(self, path: Path | None) -> None:
        if path is not None and path.is_relative_to(self._uploads):
            for name in path.relative_to(self._uploads).parts[:1]:
                _remove(self._uploads / name)

    def _list(self, folder: Path | None) -> None:
        """folder: None: the roots. Raises VolumeError for one that cannot be shown."""
        state = self._server.state
        if folder is None:
            self._folder = None
            state.folder = "Folders" if self._roots else ""
            state.folders, state.files = [_shown(root) for root in self._roots], []
            return
        folders, files = listed(folder, self._roots)
        self._folder = folder.resolve()
        is_top = self._folder in self._roots and len(self._roots) == 1
        state.folder = _shown(self._folder)
        state.folders, state.files = folders if is_top else ["..", *folders], files


def _shown(folder: Path) -> str:
    return folder.name or str(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _row(row: Any) -> dict[str, Any]:
    red, green, blue = (round(255 * part) for part in row.color)
    return {
        "id": row.id,
        "name": row.name,
        "color": f"#{red:02x}{green:02x}{blue:02x}",
        "visible": row.visible,
        "ml": None if math.isnan(row.volume_ml) else row.volume_ml,
        "active": row.is_active,
    }


def _rgb(text: str) -> tuple[float, float, float]:
    """Of "#rrggbb". Raises ValueError."""
    return tuple(int(text[n : n + 2], 16) / 255 for n in (1, 3, 5))


def _bars(latency: dict[str, float]) -> list[dict[str, Any]]:
    """The five tasks of the last cycle: task, ms, share of the longest in percent."""
    longest = max([latency.get(task.name, 0.0) for task in Task] + [1e-9])
    return [
        {
            "task": task.name,
            "ms": latency.get(task.name, 0.0),
            "share": round(100 * latency.get(task.name, 0.0) / longest),
        }
        for task in Task
    ]
