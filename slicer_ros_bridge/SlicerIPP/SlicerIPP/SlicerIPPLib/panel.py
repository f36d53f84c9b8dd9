# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Shows the logic's state in the widgets of Resources/UI/SlicerIPP.ui. Needs Qt: for the desktop alone."""

from __future__ import annotations

import time
from types import SimpleNamespace

import qt

from .i18n import tr as _
from .logic import SegmentationLogic
from .state import BRIDGE_TEXTS

TASKS = ("SND_INF", "RCV_INF", "CPL_INF", "RCV_MSK", "APL_MSK", "total")
_WARNING_STYLE = "color: #b35900; font-weight: bold"

# The controls that act, by the key of the logic's reasons: disabled with the reason as their tooltip.
CONTROLS = {
    "connect": ("connectButton",),
    "disconnect": ("disconnectButton",),
    "test": ("testButton",),
    "model": ("modelComboBox",),
    "load": ("loadButton",),
    "window": ("windowPresetComboBox",),
    "start_stream": ("startStreamButton",),
    "stop_stream": ("stopStreamButton",),
    "positive": ("positiveSelector", "positivePlaceWidget"),
    "negative": ("negativeSelector", "negativePlaceWidget"),
    "box": ("boxSelector", "boxButton"),
    "roi": ("roiSelector",),
    "live": ("liveCheckBox",),
    "prompt": ("promptButton",),
    "freeze": ("freezeButton",),
    "propagate": ("propagateButton", "propagateSpinBox"),
    "segment_roi": ("segmentRoiButton",),
    "everything": ("everythingButton",),
    "stop": ("stopButton",),
    "embed": ("embedButton",),
    "cancel_embed": ("cancelEmbedButton",),
    "undo": ("undoButton",),
    "redo": ("redoButton",),
    "add_segment": ("addSegmentButton",),
    "edit_segment": ("removeSegmentButton",),
    "show_3d": ("show3DCheckBox",),
    "export": ("exportButton",),
    "restore": ("restoreButton",),
    "autosave": ("autosaveCheckBox", "autosavePathLineEdit"),
    "marks_follow": ("marksFollowCheckBox",),
    "fetch_weights": ("fetchWeightsButton", "weightsComboBox"),
    "cancel_fetch": ("cancelFetchButton",),
    "start_graph": ("startGraphButton", "sammFolderPathLineEdit"),
    "stop_graph": ("stopGraphButton",),
}


class Panel:
    """Reads the logic, writes the widgets."""

    def __init__(self, ui: SimpleNamespace) -> None:
        """ui: the widgets by name."""
        self._ui = ui
        self._logic: SegmentationLogic | None = None
        self._tooltips = {name: getattr(ui, name).toolTip for names in CONTROLS.values() for name in names}

    def show(self, logic: SegmentationLogic) -> None:
        """Show this logic from now on."""
        self._logic = logic
        events = logic.events
        for signal, show in (
            (events.connection, self._show_connection),
            (events.round_trip, self._show_connection),
            (events.model, self._show_model),
            (events.embedding, self._show_embedding),
            (events.latency, self._show_latency),
            (events.stream, self._show_stream),
            (events.mask, self.show_score),
            (events.controls, self.show_score),
            (events.segments, self.show_segments),
            (events.segment_rows, self._show_rows),
            (events.weights, self._show_weights),
            (events.graph, self._show_graph),
            (events.log, self._show_log),
            (events.controls, self._update_controls),
        ):
            signal.connect(show)
            show()

    def show_segments(self) -> None:
        parameters, table = self._logic.parameters, self._ui.segmentsTableView
        if table.segmentationNode() is not parameters.segmentation:
            table.setSegmentationNode(parameters.segmentation)
        if parameters.segment_id and parameters.segment_id not in table.selectedSegmentIDs():
            table.setSelectedSegmentIDs([parameters.segment_id])

    def _show_rows(self) -> None:
        self._ui.show3DCheckBox.checked = self._logic.state.show_3d
        active = next((row for row in self._logic.segment_rows() if row.is_active), None)
        self._ui.volumeLabel.text = (
            _("{name}: {volume} ml").format(name=active.name, volume=f"{active.volume_ml:.2f}")
            if active
            else ""
        )

    def _show_weights(self) -> None:
        state, combo = self._logic.state, self._ui.weightsComboBox
        chosen = combo.currentText
        combo.clear()
        for weights in state.weights:
            if not weights.is_here:
                combo.addItem(weights.model)
        combo.setCurrentText(state.fetching or chosen)
        done, total = state.fetch_progress
        self._ui.weightsProgressBar.maximum = max(total >> 20, 1)
        self._ui.weightsProgressBar.value = done >> 20
        self._ui.weightsLabel.text = (
            _("{name}: {done} of {total} MB").format(
                name=state.fetching, done=round(done / 1e6), total=round(total / 1e6)
            )
            if state.fetching
            else ""
        )

    def _show_graph(self) -> None:
        self._ui.graphLogTextEdit.setPlainText("\n".join(self._logic.state.graph_log))
        self._ui.graphLogTextEdit.moveCursor(qt.QTextCursor.End)

    def show_score(self) -> None:
        state = self._logic.state
        if state.score is None:
            self._ui.scoreLabel.text = ""
            return
        text = (
            _("Confidence {score} ⚠ low: check this mask")
            if state.is_low_confidence
            else _("Confidence {score} ✓")
        )
        self._ui.scoreLabel.text = text.format(score=f"{state.score:.2f}")
        self._ui.scoreLabel.styleSheet = _WARNING_STYLE if state.is_low_confidence else ""

    def _show_connection(self) -> None:
        state = self._logic.state
        text = BRIDGE_TEXTS[state.bridge]
        if state.round_trip_ms is not None:
            text = _("{state}, {milliseconds} ms there and back").format(
                state=text, milliseconds=f"{state.round_trip_ms:.1f}"
            )
        self._ui.stateLabel.text = text

    def _show_model(self) -> None:
        state, combo, presets = self._logic.state, self._ui.modelComboBox, self._ui.windowPresetComboBox
        combo.clear()
        combo.addItems(state.models)
        if state.model:
            combo.setCurrentText(state.model.name)
            self._ui.deviceLabel.text = _("on {device}").format(device=state.model.device)
        presets.clear()
        presets.addItems(list(state.window_presets))
        presets.setCurrentIndex(-1)

    def _show_embedding(self) -> None:
        progress = self._logic.state.embedding
        if progress is None:
            return
        self._ui.embeddingProgressBar.maximum = max(progress.total, 1)
        self._ui.embeddingProgressBar.value = progress.done
        if progress.sweeping:
            text = _("{done} of {total} slices are embedded, {rate} per second")
        else:
            text = _("{done} of {total} slices are embedded")
        self._ui.embeddingLabel.text = text.format(
            done=progress.done, total=progress.total, rate=f"{progress.rate:.1f}"
        )

    def _show_latency(self) -> None:
        latency = self._logic.state.latency
        for task in TASKS:
            getattr(self._ui, f"{task}Label").text = (
                _("{milliseconds} ms").format(milliseconds=f"{latency[task]:.1f}") if task in latency else ""
            )

    def _show_stream(self) -> None:
        self._ui.streamLabel.text = self._logic.state.stream_text

    def _show_log(self) -> None:
        self._ui.logTextEdit.setPlainText("\n".join(self._logic.state.log))
        self._ui.logTextEdit.moveCursor(qt.QTextCursor.End)

    def _update_controls(self) -> None:
        for control, reason in self._logic.reasons().items():
            for name in CONTROLS[control]:
                widget = getattr(self._ui, name)
                widget.enabled = not reason
                widget.toolTip = reason or self._tooltips[name]
        self._ui.problemLabel.text = self._logic.state.prompt_problem
        saved_at = self._logic.state.autosaved_at
        self._ui.autosaveLabel.text = (
            _("saved by itself at {time}").format(time=time.strftime("%H:%M:%S", time.localtime(saved_at)))
            if saved_at
            else ""
        )
        self._ui.freezeButton.checked = self._logic.is_frozen()
        done, count = self._logic.state.progress
        self._ui.runProgressBar.maximum = max(count, 1)
        self._ui.runProgressBar.value = done
