# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Why a control cannot act now, in one sentence; empty when it can."""

from __future__ import annotations

from .client_events import BridgeState
from .i18n import tr as _
from .local_graph import is_supported
from .marks import why_no_box, why_no_points
from .nodes import is_bent
from .parameters import Parameters
from .state import State

# Translated once: each step of a drag needs them.
_CONNECT = _("Connect to the bridge first.")
_CONNECTED = _("Already connected, or trying to be; disconnect first.")
_NOT_CONNECTED = _("Not connected.")
_NO_MODEL = _("The graph has no model yet; it is starting.")
_NO_VOLUME = _("Choose a volume first.")
_BENT = _("The volume's transform is not linear: harden it (module Transforms) first.")
_LOADING = _("The volume is on its way.")
_NOT_LOADED = _("Load the volume into the graph first.")
_RUNNING = _("A run over many slices is under way; stop it first.")
_NO_TASKS = _(
    "This bridge does one slice at a time: it is older than Slicer-IPP. Update samm_ros on its computer."
)
_NOT_RUNNING = _("Nothing is running.")
_NO_VIEW = _("There is no {view} slice view; choose a layout that has it.")
_NO_SEGMENT = _("Segment the shown slice first.")
_NO_ACTIVE_SEGMENT = _("Choose a segment first.")
_NO_SEGMENTATION = _("There is no segmentation yet: segment something first, or choose one.")
_NO_AUTOSAVE = _("Nothing was saved of this volume by itself, or the volume is not loaded into the graph.")
_NO_ROI = _("Place a 3-D ROI first.")
_STREAM = _("That is for volumes: a live stream is followed by itself. Choose a volume.")
_STREAMING = _("The live stream is shown already.")
_NOT_STREAMING = _("No live stream is shown.")
_NOT_SWEEPING = _("Nothing is being embedded.")
_NO_WEIGHTS = _("This graph lists no weights: it is starting, or older than Slicer-IPP.")
_FETCHING = _("Weights are being fetched already; wait, or stop that first.")
_NOT_FETCHING = _("No weights are being fetched.")
_NOT_LINUX = _("The graph runs on Linux; start it on such a computer, and connect to it.")
_GRAPH_RUNS = _("The graph runs already; stop it first.")
_NO_GRAPH_RUNS = _("No graph was started from here.")
_NO_UNDO = _("There is nothing to undo.")
_NO_REDO = _("There is nothing to redo.")


def why_no_connection(state: State) -> str:
    return "" if state.is_connected else _CONNECT


def why_no_volume(parameters: Parameters) -> str:
    """Why the chosen volume cannot be used."""
    if parameters.volume is None:
        return _NO_VOLUME
    return _BENT if is_bent(parameters.volume) else ""


def why_no_load(parameters: Parameters, state: State) -> str:
    return (
        why_no_connection(state)
        or why_no_volume(parameters)
        or (_STREAM if state.is_stream(parameters.volume) else "")
        or (_LOADING if state.is_loading else "")
    )


def why_no_inference(parameters: Parameters, state: State) -> str:
    """Why the graph can compute nothing on the chosen volume."""
    if why := why_no_load(parameters, state):
        return why
    if not state.has_loaded(parameters.volume):
        return _NOT_LOADED
    return "" if state.model else _NO_MODEL


def why_no_prompt(parameters: Parameters, state: State, has_view: bool) -> str:
    """Why what is marked cannot be sent."""
    if state.is_stream(parameters.volume):
        return why_no_connection(state) or why_no_volume(parameters) or ("" if state.model else _NO_MODEL)
    return why_no_inference(parameters, state) or why_no_view(parameters, has_view)


def why_no_view(parameters: Parameters, has_view: bool) -> str:
    return "" if has_view else _NO_VIEW.format(view=parameters.view)


def why_no_run(parameters: Parameters, state: State, has_view: bool, task: str) -> str:
    """Why no run can begin. task: of ipp.TASKS."""
    return (
        why_no_inference(parameters, state)
        or why_no_view(parameters, has_view)
        or ("" if task in state.tasks else _NO_TASKS)
        or (_RUNNING if state.is_running else "")
    )


def has_segment(parameters: Parameters) -> bool:
    """Whether a segment is active."""
    node = parameters.segmentation
    return node is not None and node.GetSegmentation().GetSegment(parameters.segment_id or "") is not None


def why_no_segmentation(parameters: Parameters) -> str:
    return "" if parameters.segmentation is not None else _NO_SEGMENTATION


def why_no_cancel(state: State) -> str:
    is_sweeping = state.embedding is not None and state.embedding.sweeping
    return why_no_connection(state) or ("" if is_sweeping else _NOT_SWEEPING)


def reasons(parameters: Parameters, state: State, has_view: bool, can_restore: bool) -> dict[str, str]:
    """By control. has_view: the layout has the chosen view. can_restore: a segmentation of the volume was saved by itself."""
    connection = why_no_connection(state)
    inference = why_no_inference(parameters, state)
    view = why_no_view(parameters, has_view)
    points = why_no_points(state.model) if state.model else ""
    box = why_no_box(state.model) if state.model else ""
    propagate, roi, automatic = (
        why_no_run(parameters, state, has_view, task) for task in ("propagate", "box", "automatic")
    )
    stream = _STREAM if state.is_stream(parameters.volume) else ""
    is_disconnected = state.bridge == BridgeState.DISCONNECTED
    return {
        "connect": "" if is_disconnected else _CONNECTED,
        "disconnect": _NOT_CONNECTED if is_disconnected else "",
        "test": "",
        "start_graph": _GRAPH_RUNS if state.graph_runs else ("" if is_supported() else _NOT_LINUX),
        "stop_graph": "" if state.graph_runs else _NO_GRAPH_RUNS,
        "model": connection,
        "fetch_weights": connection
        or ("" if state.weights else _NO_WEIGHTS)
        or (_FETCHING if state.fetching else ""),
        "cancel_fetch": connection or ("" if state.fetching else _NOT_FETCHING),
        "load": why_no_load(parameters, state),
        "window": connection or why_no_volume(parameters) or stream,
        "start_stream": connection or (_STREAMING if state.stream else ""),
        "stop_stream": "" if state.stream else _NOT_STREAMING,
        "positive": points,
        "negative": points,
        "box": box,
        "roi": box,
        "live": "",
        "prompt": why_no_prompt(parameters, state, has_view),
        "freeze": why_no_volume(parameters) or stream or view,
        "propagate": propagate or ("" if has_segment(parameters) else _NO_SEGMENT),
        "segment_roi": roi or box or ("" if parameters.roi is not None else _NO_ROI),
        "everything": automatic,
        "stop": "" if state.is_running else _NOT_RUNNING,
        "embed": inference,
        "cancel_embed": why_no_cancel(state),
        "undo": "" if state.can_undo else _NO_UNDO,
        "redo": "" if state.can_redo else _NO_REDO,
        "add_segment": "",
        "edit_segment": "" if has_segment(parameters) else _NO_ACTIVE_SEGMENT,
        "show_3d": why_no_segmentation(parameters),
        "export": why_no_volume(parameters) or stream or why_no_segmentation(parameters),
        "restore": "" if can_restore else _NO_AUTOSAVE,
        "autosave": "",
        "marks_follow": "",
    }
