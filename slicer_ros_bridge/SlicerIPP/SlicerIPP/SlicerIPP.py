# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP: promptable segmentation in real time, computed by the samm_ros graph; see docs/slicer.md."""

from __future__ import annotations

import logging
from typing import Optional

import qt
import slicer
import vtk
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SlicerIPPLib.logic import PLANES, SlicerIPPLogic

HELP = """
Segment CT, MR and ultrasound by marking: place points or draw a box on a slice, and the mask follows while you drag.<br>
The masks are computed by the <a href="https://github.com/samm-ros/samm_ros">samm_ros</a> graph on this or another computer:
start it there with <tt>./samm up</tt>, then press <b>Connect</b>.<br>
No data at hand? Press <b>Download sample</b> for Slicer's MRHead.<br><br>
Keys, while this module is shown: <b>S</b> segment now, <b>L</b> live on or off, <b>E</b> freeze the slice, <b>P</b> place a positive point,
<b>N</b> a negative one, <b>X</b> draw a box, <b>Z</b> undo, <b>Y</b> redo, <b>Esc</b> stop a run.
"""
THANKS = """
After the system of <i>SAMM (Segment Any Medical Model): A 3D Slicer Integration to SAM</i>, arXiv 2304.05622, and of 3D Slicer's
community. Not a medical device.
"""

# Of a box that is made for the user, in the shown slice.
BOX_SHARE = 0.4

# The controls that act, by the key of the logic's reasons: disabled with the reason as their tooltip.
CONTROLS = {
    "connect": ("connectButton",),
    "disconnect": ("disconnectButton",),
    "test": ("testButton",),
    "model": ("modelComboBox",),
    "load": ("loadButton",),
    "window": ("windowPresetComboBox",),
    "positive": ("positiveSelector", "positivePlaceWidget"),
    "negative": ("negativeSelector", "negativePlaceWidget"),
    "box": ("boxSelector", "boxButton"),
    "roi": ("roiSelector",),
    "live": ("liveCheckBox",),
    "prompt": ("promptButton",),
    "freeze": ("freezeButton",),
    "propagate": ("propagateButton", "propagateSpinBox"),
    "segment_roi": ("segmentRoiButton",),
    "stop": ("stopButton",),
    "embed": ("embedButton",),
    "cancel_embed": ("cancelEmbedButton",),
    "undo": ("undoButton",),
    "redo": ("redoButton",),
    "add_segment": ("addSegmentButton",),
}
SHORTCUTS = {
    "S": "promptButton",
    "L": "liveCheckBox",
    "E": "freezeButton",
    "X": "boxButton",
    "Z": "undoButton",
    "Y": "redoButton",
    "Esc": "stopButton",
}
TASKS = ("SND_INF", "RCV_INF", "CPL_INF", "RCV_MSK", "APL_MSK", "total")
STATES = {
    "disconnected": "not connected",
    "connecting": "connecting …",
    "connected": "connected",
    "lost": "lost; looking for it …",
}


@parameterNodeWrapper
class SlicerIPPParameterNode:
    """What the user chooses, saved with the scene; SlicerIPPLib.parameters.Parameters has the same names."""

    address: str = "tcp://127.0.0.1:8800"
    keys_folder: str = ""
    volume: Optional[slicer.vtkMRMLScalarVolumeNode] = None  # noqa: UP045 (read at run time, by Python 3.9 too)
    segmentation: Optional[slicer.vtkMRMLSegmentationNode] = None  # noqa: UP045
    segment_id: str = ""
    positive: Optional[slicer.vtkMRMLMarkupsFiducialNode] = None  # noqa: UP045
    negative: Optional[slicer.vtkMRMLMarkupsFiducialNode] = None  # noqa: UP045
    box: Optional[slicer.vtkMRMLMarkupsROINode] = None  # noqa: UP045
    roi: Optional[slicer.vtkMRMLMarkupsROINode] = None  # noqa: UP045
    view: str = "Red"
    live: bool = True
    remove_holes: bool = False
    remove_islands: bool = False
    propagate_slices: int = 5


class SlicerIPP(ScriptedLoadableModule):
    """The module, as Slicer lists it."""

    def __init__(self, parent: object) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Slicer-IPP"
        parent.categories = ["Segmentation"]
        parent.dependencies = ["Markups", "Segmentations", "Volumes"]
        parent.contributors = ["samm_ros contributors"]
        parent.helpText = HELP
        parent.acknowledgementText = THANKS


class SlicerIPPWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Shows the logic's state and passes on what is pressed. Nothing here waits, and nothing polls."""

    def __init__(self, parent: Optional[object] = None) -> None:  # noqa: UP045
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Optional[SlicerIPPLogic] = None  # noqa: UP045
        self._parameters = None
        self._gui_tag = None
        self._notifier = None
        self._shortcuts: list = []
        self._tooltips: dict[str, str] = {}

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/SlicerIPP.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self._tooltips = {
            name: getattr(self.ui, name).toolTip for names in CONTROLS.values() for name in names
        }
        self._connect_controls()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, lambda *_: self._use_parameters())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, lambda *_: self._use_parameters())
        self._use_parameters()

    def cleanup(self) -> None:
        self.removeObservers()
        self._drop_logic()
        self.exit()

    def enter(self) -> None:
        """The module is shown: its keys are on."""
        if self._shortcuts:
            return
        for key, name in SHORTCUTS.items():
            self._add_shortcut(key, getattr(self.ui, name).click)
        self._add_shortcut("P", lambda: self._place("positive"))
        self._add_shortcut("N", lambda: self._place("negative"))

    def exit(self) -> None:
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def _add_shortcut(self, key: str, act: object) -> None:
        shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow())
        shortcut.connect("activated()", act)
        self._shortcuts.append(shortcut)

    # The parameter node and the logic over it.

    def _use_parameters(self) -> None:
        """Work on this scene's parameter node; the scene may have been closed or another one loaded."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self.removeObserver(
                self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters
            )
        was_connected = self.logic is not None and self.logic.state != "disconnected"
        self._drop_logic()
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        self._parameters = SlicerIPPParameterNode(node or _parameter_node(self.moduleName))
        self.logic = SlicerIPPLogic(slicer.mrmlScene, self._parameters, _slice_node)
        self.logic.changed.append(self._on_changed)
        self._notifier = qt.QSocketNotifier(self.logic.fileno(), qt.QSocketNotifier.Read)
        self._notifier.connect("activated(int)", lambda _: self.logic.process_events())
        self._gui_tag = self._parameters.connectGui(self.ui)
        self.addObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters)
        for what in ("connection", "model", "embedding", "latency", "mask", "segments", "log", "controls"):
            self._on_changed(what)
        if was_connected:
            self._connect()

    def _drop_logic(self) -> None:
        if self._notifier is not None:
            self._notifier.setEnabled(False)
            self._notifier = None
        if self.logic is not None:
            self.logic.close()
            self.logic = None

    def _on_parameters(self, caller: object, event: object) -> None:
        self.logic.observe()
        self._show_segments()

    # What is pressed.

    def _connect_controls(self) -> None:
        ui = self.ui
        clicks = {
            ui.connectButton: self._connect,
            ui.disconnectButton: lambda: self.logic.disconnect(),
            ui.testButton: self._test,
            ui.sampleButton: self._download_sample,
            ui.loadButton: lambda: self.logic.load_volume(),
            ui.embedButton: lambda: self.logic.embed_all(),
            ui.cancelEmbedButton: lambda: self.logic.cancel_embed(),
            ui.boxButton: self._make_box,
            ui.promptButton: lambda: self.logic.prompt(),
            ui.propagateButton: lambda: self.logic.propagate(ui.propagateSpinBox.value),
            ui.segmentRoiButton: lambda: self.logic.segment_roi(),
            ui.stopButton: lambda: self.logic.stop(),
            ui.undoButton: lambda: self.logic.undo(),
            ui.redoButton: lambda: self.logic.redo(),
            ui.addSegmentButton: lambda: self.logic.add_segment(),
        }
        for button, act in clicks.items():
            button.connect("clicked(bool)", lambda _=False, act=act: self._act(act))
        ui.freezeButton.connect(
            "clicked(bool)", lambda checked: self._act(lambda: self.logic.freeze(checked))
        )
        ui.modelComboBox.connect(
            "textActivated(QString)", lambda name: self._act(lambda: self.logic.select_model(name))
        )
        ui.windowPresetComboBox.connect(
            "textActivated(QString)", lambda name: self._act(lambda: self.logic.apply_window_preset(name))
        )
        ui.segmentsTableView.connect(
            "selectionChanged(QItemSelection,QItemSelection)", self._on_segment_selected
        )

    @staticmethod
    def _act(act: object) -> None:
        """Whatever a press leads to, it ends in a sentence, not in a traceback alone."""
        with slicer.util.tryWithErrorDisplay("Slicer-IPP could not do that.", waitCursor=False):
            act()

    def _connect(self) -> None:
        if _has_zmq():
            self.logic.connect(self._parameters.address, self._parameters.keys_folder)

    def _test(self) -> None:
        if _has_zmq():
            self.ui.testLabel.text = "Trying …"
            self.logic.test_connection(
                self._parameters.address, self._parameters.keys_folder, self._show_test
            )

    def _show_test(self, sentence: str) -> None:
        self.ui.testLabel.text = sentence

    def _download_sample(self) -> None:
        import SampleData

        self._parameters.volume = SampleData.SampleDataLogic().downloadMRHead()

    def _make_box(self) -> None:
        """A box in the middle of the shown slice, for the user to drag; an own one is chosen, never changed."""
        volume, slice_node = self._parameters.volume, _slice_node(self._parameters.view)
        if self._parameters.box is not None or volume is None or slice_node is None:
            return
        bounds = [0.0] * 6
        volume.GetSliceBounds(bounds, slice_node.GetSliceToRAS())
        matrix = slice_node.GetSliceToRAS()
        middle = [(bounds[0] + bounds[1]) / 2, (bounds[2] + bounds[3]) / 2, 0.0, 1.0]
        box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Slicer-IPP box")
        box.CreateDefaultDisplayNodes()
        box.GetDisplayNode().SetFillVisibility(False)
        box.SetAndObserveObjectToNodeMatrix(matrix)
        box.SetCenterWorld(*matrix.MultiplyPoint(middle)[:3])
        thickness = max(volume.GetSpacing())
        box.SetSize(BOX_SHARE * (bounds[1] - bounds[0]), BOX_SHARE * (bounds[3] - bounds[2]), thickness)
        self._parameters.box = box

    def _place(self, which: str) -> None:
        widget = getattr(self.ui, f"{which}PlaceWidget")
        if not widget.enabled:
            return
        if getattr(self._parameters, which) is None:
            points = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLMarkupsFiducialNode", "P" if which == "positive" else "N"
            )
            points.CreateDefaultDisplayNodes()
            points.GetDisplayNode().SetSelectedColor(*((0, 0.7, 0) if which == "positive" else (0.8, 0, 0)))
            setattr(self._parameters, which, points)
        widget.setCurrentNode(getattr(self._parameters, which))
        widget.setPlaceModeEnabled(True)

    def _on_segment_selected(self, *_: object) -> None:
        ids = self.ui.segmentsTableView.selectedSegmentIDs()
        if ids:
            self._parameters.segment_id = ids[0]

    # What is shown.

    def _on_changed(self, what: str) -> None:
        show = {
            "connection": self._show_connection,
            "model": self._show_model,
            "embedding": self._show_embedding,
            "latency": self._show_latency,
            "mask": self._show_score,
            "segments": self._show_segments,
            "log": self._show_log,
            "controls": self._update_controls,
        }.get(what)
        if show is not None and self.logic is not None:
            show()

    def _update_controls(self) -> None:
        for key, reason in self.logic.reasons().items():
            for name in CONTROLS.get(key, ()):
                widget = getattr(self.ui, name)
                widget.enabled = not reason
                widget.toolTip = reason or self._tooltips[name]
        self.ui.objectionLabel.text = self.logic.objection
        self.ui.freezeButton.checked = self.logic.is_frozen()
        done, total = self.logic.progress
        self.ui.runProgressBar.maximum = max(total, 1)
        self.ui.runProgressBar.value = done

    def _show_connection(self) -> None:
        trip = self.logic.round_trip_ms
        self.ui.stateLabel.text = STATES[self.logic.state] + (
            "" if trip is None else f", {trip:.1f} ms there and back"
        )

    def _show_model(self) -> None:
        combo = self.ui.modelComboBox
        combo.clear()
        combo.addItems(self.logic.models)
        if self.logic.model:
            combo.setCurrentText(self.logic.model["name"])
            self.ui.deviceLabel.text = f"on {self.logic.model['device']}"
        presets = self.ui.windowPresetComboBox
        presets.clear()
        presets.addItems(list(self.logic.window_presets))
        presets.setCurrentIndex(-1)

    def _show_embedding(self) -> None:
        status = self.logic.embedding
        if status is None:
            return
        done, total = sum(status["done"]), sum(status["total"])
        self.ui.embeddingProgressBar.maximum = max(total, 1)
        self.ui.embeddingProgressBar.value = done
        rate = f", {status['rate']:.1f} a second" if status["sweeping"] else ""
        self.ui.embeddingLabel.text = f"{done} of {total} slices are embedded{rate}"

    def _show_latency(self) -> None:
        for task in TASKS:
            if task in self.logic.latency:
                getattr(self.ui, f"{task}Label").text = f"{self.logic.latency[task]:.1f} ms"

    def _show_score(self) -> None:
        if self.logic.score is None:
            self.ui.scoreLabel.text = ""
            return
        warning = "⚠ low: check this mask" if self.logic.low_confidence else "✓"
        self.ui.scoreLabel.text = f"Confidence {self.logic.score:.2f} {warning}"
        self.ui.scoreLabel.styleSheet = (
            "color: #b35900; font-weight: bold" if self.logic.low_confidence else ""
        )

    def _show_segments(self) -> None:
        table = self.ui.segmentsTableView
        if table.segmentationNode() is not self._parameters.segmentation:
            table.setSegmentationNode(self._parameters.segmentation)
        if self._parameters.segment_id and self._parameters.segment_id not in table.selectedSegmentIDs():
            table.setSelectedSegmentIDs([self._parameters.segment_id])

    def _show_log(self) -> None:
        self.ui.logTextEdit.setPlainText("\n".join(self.logic.log))
        self.ui.logTextEdit.moveCursor(qt.QTextCursor.End)


def _parameter_node(module_name: str) -> object:
    """This module's node in the scene, made when there is none: Slicer saves it with the scene."""
    node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
    node.UnRegister(None)
    node.SetSingletonTag(module_name)
    node.SetModuleName(module_name)
    node.SetName(module_name)
    return slicer.mrmlScene.AddNode(node)


def _slice_node(view: str) -> object:
    """None when the layout has no such view."""
    widget = slicer.app.layoutManager().sliceWidget(view)
    return widget.mrmlSliceNode() if widget else None


def _has_zmq() -> bool:
    """Whether pyzmq is there; the user is asked before it is installed into Slicer."""
    try:
        import zmq  # noqa: F401
    except ImportError:
        if not slicer.util.confirmOkCancelDisplay(
            "Slicer-IPP needs the Python package pyzmq (2 MB). Install it into Slicer now?"
        ):
            return False
        try:
            slicer.util.pip_install("pyzmq")
            import zmq  # noqa: F401
        except Exception as error:
            logging.exception("pyzmq could not be installed")
            slicer.util.errorDisplay(
                f"pyzmq could not be installed ({error}). In Slicer's Python console, with network: "
                "slicer.util.pip_install('pyzmq')"
            )
            return False
    return True


class SlicerIPPTest(ScriptedLoadableModuleTest):
    """Slicer's self-test: needs no graph; says which part a graph would add."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(False)

    def runTest(self) -> None:
        self.setUp()
        self.test_a_mask_is_written_where_it_belongs()
        self.setUp()
        self.test_every_view_shows_a_slice_of_the_volume()

    def test_a_mask_is_written_where_it_belongs(self) -> None:
        import numpy as np
        from SlicerIPPLib.segments import SegmentWriter

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segment_id = node.GetSegmentation().AddEmptySegment("", "tested")
        writer = SegmentWriter(slicer.mrmlScene)
        mask = np.zeros((6, 7), bool)
        mask[2:4, 3:5] = True
        writer.write(node, segment_id, (7, 6, 5), np.eye(4), 2, 3, mask)
        held = writer.mask(node, segment_id, (7, 6, 5), np.eye(4), 2, 3)
        self.assertTrue((held == mask).all())
        self.assertTrue(writer.undo())
        self.assertFalse(writer.mask(node, segment_id, (7, 6, 5), np.eye(4), 2, 3).any())
        self.delayDisplay("A mask is written and taken back")

    def test_every_view_shows_a_slice_of_the_volume(self) -> None:
        import numpy as np
        from SlicerIPPLib.parameters import Parameters

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        slicer.util.updateVolumeFromArray(volume, np.zeros((20, 30, 40), np.int16))
        volume.CreateDefaultDisplayNodes()
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        logic = SlicerIPPLogic(slicer.mrmlScene, Parameters(volume=volume), _slice_node)
        try:
            for view, plane in PLANES.items():
                logic.parameters.view = view
                place = logic._place()
                self.assertEqual(place.plane, plane)
                self.assertTrue(place.geometry.contains_slice(plane, place.index))
        finally:
            logic.close()
        self.delayDisplay("Each view shows a slice; the first mask needs a graph: ./samm up")
