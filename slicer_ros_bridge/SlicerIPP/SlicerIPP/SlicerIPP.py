# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP: promptable segmentation in real time, computed by the samm_ros graph; see docs/slicer.md."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SlicerIPPLib.client_events import BridgeState
from SlicerIPPLib.export import KINDS, missing_package
from SlicerIPPLib.i18n import tr as _
from SlicerIPPLib.local_graph import LocalGraph, found_checkout
from SlicerIPPLib.logic import SegmentationLogic
from SlicerIPPLib.markups import add_box, add_points
from SlicerIPPLib.panel import Panel
from SlicerIPPLib.parameters import DEFAULT_ADDRESS, Parameters
from SlicerIPPLib.scripting import plane_named, points_node, roi_node, segment_slice
from SlicerIPPLib.segment_writer import SegmentWriter
from SlicerIPPLib.view import PLANES

SHORTCUTS = {
    "S": "promptButton",
    "L": "liveCheckBox",
    "E": "freezeButton",
    "X": "boxButton",
    "Z": "undoButton",
    "Y": "redoButton",
    "Esc": "stopButton",
}
# Of a packaged extension: beside lib/Slicer-X.Y/qt-scripted-modules, in which this file is then.
_WHEELS = Path(__file__).resolve().parents[3] / "share" / "wheels"


def help_text() -> str:
    return _(
        "Segment CT, MR and ultrasound by marking: place points or draw a box on a slice, and the mask follows while you "
        "drag.<br>\n"
        'The masks are computed by the <a href="https://github.com/samm-ros/samm_ros">samm_ros</a> graph on this or '
        "another computer: start it there with <tt>./samm up</tt>, then press <b>Connect</b>.<br>\n"
        "No data at hand? Press <b>Download sample</b> for Slicer's MRHead.<br><br>\n"
        "Keys, while this module is shown: <b>S</b> segment now, <b>L</b> live on or off, <b>E</b> freeze the slice, "
        "<b>P</b> place a positive point, <b>N</b> a negative one, <b>X</b> draw a box, <b>Z</b> undo, <b>Y</b> redo, "
        "<b>Esc</b> stop a run."
    )


def acknowledgement_text() -> str:
    return _(
        "After the system of <i>SAMM (Segment Any Medical Model): A 3D Slicer Integration to SAM</i>, arXiv 2304.05622, "
        "and of 3D Slicer's community. Not a medical device."
    )


@parameterNodeWrapper
class SlicerIPPParameterNode(Parameters):
    """The parameters, saved with the scene."""


class SlicerIPP(ScriptedLoadableModule):
    """The module, as Slicer lists it."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Slicer-IPP"
        parent.categories = [_("Segmentation")]
        parent.dependencies = ["Markups", "Segmentations", "Volumes"]
        parent.contributors = ["samm_ros contributors"]
        parent.helpText = help_text()
        parent.acknowledgementText = acknowledgement_text()


class SlicerIPPLogic(ScriptedLoadableModuleLogic):
    """For the widget: the Qt-free logic over this scene's parameter node. For Slicer's Python console: process()."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.parameters: SlicerIPPParameterNode | None = None
        self.segmentation: SegmentationLogic | None = None
        # It goes on when the scene is closed.
        self.local_graph = LocalGraph()

    def open(self) -> SegmentationLogic:
        """Work on this scene's parameter node from now on."""
        self.close()
        self.parameters = SlicerIPPParameterNode(self.getParameterNode())
        self.segmentation = SegmentationLogic(
            slicer.mrmlScene, self.parameters, _slice_node, self.local_graph
        )
        return self.segmentation

    def close(self) -> None:
        if self.segmentation is not None:
            self.segmentation.close()
            self.segmentation = None

    def process(
        self,
        inputVolume: slicer.vtkMRMLScalarVolumeNode,
        outputSegmentation: slicer.vtkMRMLSegmentationNode | None = None,
        segmentId: str = "",
        positivePoints: Any = None,
        negativePoints: Any = None,
        box: Any = None,
        plane: str = "axial",
        sliceIndex: int | None = None,
        address: str = DEFAULT_ADDRESS,
        keysFolder: str = "",
        timeoutSeconds: float = 120.0,
    ) -> tuple[slicer.vtkMRMLSegmentationNode, str]:
        """Segment one slice, without the panel. Returns the segmentation and the id of the segment that was written.

        positivePoints, negativePoints: a markups node, or rows of R, A, S in millimetres. box: a ROI node, or two
        opposite corners in RAS. plane: axial, coronal or sagittal. sliceIndex: None takes the slice on which the first
        positive point, or the box's centre, lies. A segmentation and a segment are made when none is given.
        Blocks for at most timeoutSeconds. Raises SammError (samm_core.errors) with a sentence that says what to do;
        no voxel was written then.

        >>> logic = slicer.util.getModuleLogic("SlicerIPP")
        >>> segmentation, segmentId = logic.process(volume, positivePoints=[[12.0, -30.5, 44.0]])
        """
        parameters = Parameters(
            address=address,
            keys_folder=keysFolder,
            volume=inputVolume,
            segmentation=outputSegmentation,
            segment_id=segmentId,
            positive=points_node(positivePoints),
            negative=points_node(negativePoints),
            box=roi_node(box),
        )
        segment_id = segment_slice(
            slicer.mrmlScene, parameters, plane_named(plane), sliceIndex, timeoutSeconds
        )
        return parameters.segmentation, segment_id


class SlicerIPPWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Passes on what is pressed; the panel shows what comes of it. Nothing here waits, and nothing polls."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SlicerIPPLogic | None = None
        self._gui_tag: int | None = None
        self._notifier: qt.QSocketNotifier | None = None
        self._shortcuts: list[qt.QShortcut] = []
        # The volume node of the live stream that the views were made to show.
        self._shown_stream = ""

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/SlicerIPP.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = SlicerIPPLogic()
        self._panel = Panel(self.ui)
        self._connect_controls()
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self._on_scene)
        self._open()

    def cleanup(self) -> None:
        self.removeObservers()
        self._close()
        self.logic.local_graph.close()
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
        """Another module is shown: its keys are Slicer's own again."""
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    def _add_shortcut(self, key: str, act: Callable[[], None]) -> None:
        shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow())
        shortcut.connect("activated()", act)
        self._shortcuts.append(shortcut)

    # The parameter node and the logic over it.

    @property
    def _parameters(self) -> SlicerIPPParameterNode:
        return self.logic.parameters

    @property
    def _segmentation(self) -> SegmentationLogic:
        return self.logic.segmentation

    def _on_scene(self, caller: Any, event: str) -> None:
        """The scene was closed, or another one was loaded."""
        was_connected = self._segmentation.state.bridge != BridgeState.DISCONNECTED
        self._open()
        if was_connected:
            self._connect()

    def _open(self) -> None:
        """Work on this scene's parameter node."""
        self._close()
        segmentation = self.logic.open()
        self._notifier = qt.QSocketNotifier(segmentation.fileno(), qt.QSocketNotifier.Read)
        self._notifier.connect("activated(int)", lambda _number: segmentation.process_events())
        segmentation.events.stream.connect(self._show_stream)
        self._gui_tag = self._parameters.connectGui(self.ui)
        self.addObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters)
        self._panel.show(segmentation)

    def _close(self) -> None:
        if self._parameters is not None and self._gui_tag is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self._gui_tag = None
            self.removeObserver(
                self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters
            )
        if self._notifier is not None:
            self._notifier.setEnabled(False)
            self._notifier = None
        if self.logic is not None:
            self.logic.close()

    def _on_parameters(self, caller: Any, event: str) -> None:
        self._segmentation.observe()
        self._panel.show_segments()

    # What is pressed.

    def _connect_controls(self) -> None:
        ui = self.ui
        clicks = {
            ui.connectButton: self._connect,
            ui.disconnectButton: lambda: self._segmentation.disconnect(),
            ui.testButton: self._test,
            ui.sampleButton: self._download_sample,
            ui.loadButton: lambda: self._segmentation.load_volume(),
            ui.startStreamButton: lambda: self._segmentation.start_stream(),
            ui.stopStreamButton: lambda: self._segmentation.stop_stream(),
            ui.embedButton: lambda: self._segmentation.embed_all(),
            ui.cancelEmbedButton: lambda: self._segmentation.cancel_embed(),
            ui.boxButton: self._make_box,
            ui.promptButton: lambda: self._segmentation.prompt(),
            ui.propagateButton: lambda: self._segmentation.propagate(ui.propagateSpinBox.value),
            ui.segmentRoiButton: lambda: self._segmentation.segment_roi(),
            ui.everythingButton: lambda: self._segmentation.segment_everything(),
            ui.stopButton: lambda: self._segmentation.stop(),
            ui.undoButton: lambda: self._segmentation.undo(),
            ui.redoButton: lambda: self._segmentation.redo(),
            ui.addSegmentButton: lambda: self._segmentation.add_segment(),
            ui.removeSegmentButton: lambda: self._segmentation.remove_segment(self._parameters.segment_id),
            ui.exportButton: self._export,
            ui.restoreButton: lambda: self._segmentation.restore_autosave(),
            ui.fetchWeightsButton: lambda: self._segmentation.fetch_weights(ui.weightsComboBox.currentText),
            ui.cancelFetchButton: lambda: self._segmentation.cancel_fetch(),
            ui.startGraphButton: lambda: self._segmentation.start_graph(
                ui.sammFolderPathLineEdit.currentPath or found_checkout()
            ),
            ui.stopGraphButton: lambda: self._segmentation.stop_graph(),
        }
        for button, act in clicks.items():
            button.connect("clicked(bool)", lambda _checked=False, act=act: self._act(act))
        choices = {
            (ui.freezeButton, "clicked(bool)"): lambda checked: self._segmentation.freeze(checked),
            (ui.show3DCheckBox, "clicked(bool)"): lambda checked: self._segmentation.show_3d(checked),
            (ui.modelComboBox, "textActivated(QString)"): lambda name: self._segmentation.select_model(name),
            (ui.windowPresetComboBox, "textActivated(QString)"): (
                lambda name: self._segmentation.apply_window_preset(name)
            ),
        }
        for (widget, signal), choose in choices.items():
            widget.connect(signal, lambda value, choose=choose: self._act(lambda: choose(value)))
        ui.segmentsTableView.connect(
            "selectionChanged(QItemSelection,QItemSelection)", self._on_segment_selected
        )

    @staticmethod
    def _act(act: Callable[[], None]) -> None:
        """Whatever a press leads to, it ends in a sentence, not in a traceback alone."""
        with slicer.util.tryWithErrorDisplay(_("Slicer-IPP could not do that."), waitCursor=False):
            act()

    def _connect(self) -> None:
        if _has_zmq():
            self._segmentation.connect(self._parameters.address, self._parameters.keys_folder)

    def _test(self) -> None:
        if _has_zmq():
            self.ui.testLabel.text = _("Trying …")
            self._segmentation.test_connection(
                self._parameters.address, self._parameters.keys_folder, self._show_test
            )

    def _show_test(self, sentence: str) -> None:
        self.ui.testLabel.text = sentence

    def _download_sample(self) -> None:
        import SampleData

        self._parameters.volume = SampleData.SampleDataLogic().downloadMRHead()

    def _export(self) -> None:
        """Ask for a file, and write the segmentation to it."""
        filters = ";;".join(f"{what} (*{suffix})" for suffix, what in KINDS.items())
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export the segmentation"), "segmentation.seg.nrrd", filters
        )
        if path and _has_package(missing_package(path)):
            self._segmentation.export(path)

    def _make_box(self) -> None:
        """A box in the middle of the shown slice, for the user to drag; a box that the user has chosen stays."""
        p, slice_node = self._parameters, _slice_node(self._parameters.view)
        if p.box is None and p.volume is not None and slice_node is not None:
            p.box = add_box(slicer.mrmlScene, p.volume, slice_node)

    def _place(self, which: str) -> None:
        """Begin to place points; which: positive or negative."""
        widget = getattr(self.ui, f"{which}PlaceWidget")
        if not widget.enabled:
            return
        if getattr(self._parameters, which) is None:
            setattr(self._parameters, which, add_points(slicer.mrmlScene, which == "positive"))
        widget.setCurrentNode(getattr(self._parameters, which))
        widget.setPlaceModeEnabled(True)

    def _show_stream(self) -> None:
        """The views show a live stream from its first image on."""
        state = self._segmentation.state
        shown = state.stream_volume_id if state.stream else ""
        if shown and shown != self._shown_stream:
            slicer.util.setSliceViewerLayers(background=shown, fit=True)
        self._shown_stream = shown

    def _on_segment_selected(self, *_selections: Any) -> None:
        ids = self.ui.segmentsTableView.selectedSegmentIDs()
        if ids:
            self._parameters.segment_id = ids[0]


def _slice_node(view: str) -> slicer.vtkMRMLSliceNode | None:
    """None when the layout has no such view."""
    widget = slicer.app.layoutManager().sliceWidget(view)
    return widget.mrmlSliceNode() if widget else None


def _has_zmq() -> bool:
    return _has_package("" if importlib.util.find_spec("zmq") else "pyzmq")


def _has_package(missing: str) -> bool:
    """Whether nothing is missing any more. It is installed into Slicer only when the user agrees. missing: empty: nothing."""
    if not missing:
        return True
    if not slicer.util.confirmOkCancelDisplay(
        _("Slicer-IPP needs the Python package {name}. Install it into Slicer now?").format(name=missing)
    ):
        return False
    try:
        # A packaged extension brings what needs no network.
        is_here = any(_WHEELS.glob(f"{missing}-*.whl"))
        slicer.util.pip_install(["--no-index", "--find-links", str(_WHEELS), missing] if is_here else missing)
        importlib.invalidate_caches()
    except Exception as error:  # whatever pip meets, the user can install the package by hand
        logging.exception("%s could not be installed", missing)
        slicer.util.errorDisplay(
            _(
                "{name} could not be installed ({error}). In Slicer's Python console, with network: "
                "slicer.util.pip_install('{name}')"
            ).format(name=missing, error=error)
        )
        return False
    return True


class SlicerIPPTest(ScriptedLoadableModuleTest):
    """Slicer's self-test. It needs no graph, and computes no mask."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(False)

    def runTest(self) -> None:
        self.setUp()
        self.test_a_mask_is_written_where_it_belongs()
        self.setUp()
        self.test_every_view_shows_a_slice_of_the_volume()

    def test_a_mask_is_written_where_it_belongs(self) -> None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segment_id = node.GetSegmentation().AddEmptySegment("", "tested")
        writer = SegmentWriter(slicer.mrmlScene)
        mask = np.zeros((6, 7), bool)
        mask[2:4, 3:5] = True
        writer.write(node, segment_id, (7, 6, 5), np.eye(4), 2, 3, mask)
        written = writer.mask(node, segment_id, (7, 6, 5), np.eye(4), 2, 3)
        self.assertTrue((written == mask).all())
        self.assertTrue(writer.undo())
        self.assertFalse(writer.mask(node, segment_id, (7, 6, 5), np.eye(4), 2, 3).any())
        self.delayDisplay("A mask is written and taken back")

    def test_every_view_shows_a_slice_of_the_volume(self) -> None:
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        slicer.util.updateVolumeFromArray(volume, np.zeros((20, 30, 40), np.int16))
        volume.CreateDefaultDisplayNodes()
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        logic = SegmentationLogic(slicer.mrmlScene, Parameters(volume=volume), _slice_node)
        try:
            for view, plane in PLANES.items():
                logic.parameters.view = view
                place = logic.shown_place()
                self.assertEqual(place.plane, plane)
                self.assertTrue(place.geometry.contains_slice(plane, place.index))
        finally:
            logic.close()
        self.delayDisplay("Each view shows a slice; the first mask needs a graph: ./samm up")
