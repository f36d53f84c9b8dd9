# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's module file, widget and packaging, with stand-ins for what the desktop alone has."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import slicer
from slicer_desktop import Notifier, Shortcut, desktop
from slicer_scene import SlicerScene
from SlicerIPPLib.client_events import BridgeState
from SlicerIPPLib.marks import box_on
from SlicerIPPLib.parameters import Parameters
from SlicerIPPLib.state import ModelWeights

from samm_core.errors import NotReadyError, PromptError, VolumeError

EXTENSION = Path(__file__).parents[1] / "slicer_ros_bridge" / "SlicerIPP"
MODULE = EXTENSION / "SlicerIPP"
SOURCES = [MODULE / "SlicerIPP.py", *sorted((MODULE / "SlicerIPPLib").glob("*.py"))]
SAMM_CORE = Path(__file__).parents[1] / "ros2_ws" / "src" / "samm_core" / "samm_core"


def core_copies() -> list[str]:
    """What CMake copies of samm_core."""
    (names,) = re.findall(r"foreach\(name\s+([^)]+)\)", (MODULE / "CMakeLists.txt").read_text())
    return names.split()


CORE_COPIES = core_copies()


@pytest.fixture
def scene() -> Iterator[SlicerScene]:
    with SlicerScene() as scene:
        yield scene


@pytest.fixture
def module(scene: SlicerScene) -> Iterator[ModuleType]:
    with desktop(scene.slices) as module:
        yield module


@pytest.fixture
def widget(module: ModuleType) -> Iterator[Any]:
    widget = module.SlicerIPPWidget()
    widget.setup()
    yield widget
    widget.cleanup()


def test_every_control_of_the_code_is_in_the_ui_file_and_has_a_reason(module: ModuleType, widget) -> None:
    there = {e.get("name") for e in ElementTree.parse(MODULE / "Resources/UI/SlicerIPP.ui").iter("widget")}
    code = (MODULE / "SlicerIPP.py").read_text() + (MODULE / "SlicerIPPLib/panel.py").read_text()
    controls = sys.modules["SlicerIPPLib.panel"].CONTROLS
    named = set(re.findall(r"\b(?:self\.)?_?ui\.(\w+)", code))
    assert named <= there
    assert set(controls) == set(widget.logic.segmentation.reasons())
    buttons = {name for name in there if name.endswith("Button")} - {"sampleButton"}
    assert buttons <= {name for names in controls.values() for name in names}


def test_the_parameter_node_declares_nothing_but_the_parameters(module: ModuleType) -> None:
    bound = {
        found.findtext("string")
        for found in ElementTree.parse(MODULE / "Resources/UI/SlicerIPP.ui").iter("property")
        if found.get("name") == "SlicerParameterName"
    }
    described = module.SlicerIPPParameterNode.described
    # As Slicer's parameterNodeWrapper reads them, with the base class's.
    declared = typing.get_type_hints(described)
    assert list(declared) == [field.name for field in fields(Parameters)]
    assert declared["volume"] == typing.Optional[slicer.vtkMRMLScalarVolumeNode]  # noqa: UP045
    assert not inspect.get_annotations(described)
    assert bound <= set(declared)


def test_a_control_that_cannot_act_is_disabled_with_its_reason(widget, scene: SlicerScene) -> None:
    ui = widget.ui
    assert not ui.loadButton.enabled
    assert ui.loadButton.toolTip == "Connect to the bridge first."
    assert not ui.undoButton.enabled
    assert ui.connectButton.enabled
    assert ui.connectButton.toolTip == "Connect, and stay connected"
    ui.connectButton.click()
    assert not ui.connectButton.enabled
    assert ui.disconnectButton.enabled
    ui.disconnectButton.click()
    assert ui.connectButton.enabled


def test_the_notifier_listens_to_the_logic_and_serves_it(widget) -> None:
    logic = widget.logic.segmentation
    assert Notifier.newest.number == logic.fileno()
    served = []
    logic.process_events = lambda: served.append(True)
    Notifier.newest.send("activated", logic.fileno())
    assert served


def test_a_chosen_node_is_observed_and_marks_what_it_does(widget, scene: SlicerScene) -> None:
    volume = scene.add_volume(np.zeros((8, 9, 10), np.int16), np.eye(4), (0, 1))
    widget._parameters.volume = volume
    assert widget.ui.freezeButton.enabled
    widget.ui.freezeButton.send("clicked", True)
    assert widget.logic.segmentation.is_frozen() == widget.ui.freezeButton.checked


def test_a_segment_that_is_added_is_shown_and_chosen(widget) -> None:
    widget.ui.addSegmentButton.click()
    table = widget.ui.segmentsTableView
    assert table.segmentationNode() is widget._parameters.segmentation
    assert table.selectedSegmentIDs() == [widget._parameters.segment_id]


def test_a_box_is_made_in_the_shown_slice_and_never_twice(widget, scene: SlicerScene) -> None:
    widget._parameters.volume = scene.add_volume(np.zeros((20, 30, 40), np.int16), np.eye(4), (0, 1))
    scene.show("Red", 2, 7, np.eye(4))
    widget._make_box()
    box = widget._parameters.box
    place = widget.logic.segmentation.shown_place()
    extent = box_on(place, box)
    assert place.index == 7
    np.testing.assert_allclose(extent, [12, 9, 28, 21], atol=1)
    widget._make_box()
    assert widget._parameters.box is box


def test_a_low_score_is_said_in_words_too(widget) -> None:
    logic = widget.logic.segmentation
    logic.state.score = 0.5
    logic.events.mask.emit()
    assert "low" in widget.ui.scoreLabel.text
    logic.state.score = 0.95
    logic.events.mask.emit()
    assert "low" not in widget.ui.scoreLabel.text
    logic.state.score = None
    logic.events.controls.emit()
    assert widget.ui.scoreLabel.text == ""


def test_durations_of_another_volume_are_shown_no_longer(widget) -> None:
    logic = widget.logic.segmentation
    for latency, text in (({"SND_INF": 1.25}, "1.2 ms"), ({}, "")):
        logic.state.latency = latency
        logic.events.latency.emit()
        assert widget.ui.SND_INFLabel.text == text


def test_segments_are_removed_shown_in_3d_measured_and_exported(
    widget, scene: SlicerScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, logic = widget.ui, widget.logic.segmentation
    widget._parameters.volume = scene.add_volume(np.zeros((8, 9, 10), np.int16), np.eye(4), (0, 1))
    assert ui.exportButton.toolTip.startswith("There is no segmentation yet")
    widget._parameters.autosave = False
    segment_id = logic.add_segment("liver")
    logic.segments.write(segment_id, 2, 3, np.ones((9, 10), bool))
    logic.process_events()
    assert ui.volumeLabel.text == "liver: 0.09 ml"
    ui.show3DCheckBox.send("clicked", True)
    assert ui.show3DCheckBox.checked
    assert widget._parameters.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    said: list[str] = []
    monkeypatch.setattr(logic, "export", said.append)
    for path in ("", str(tmp_path / "s.nrrd")):
        sys.modules["qt"].QFileDialog = SimpleNamespace(getSaveFileName=lambda *_, path=path: path)
        ui.exportButton.click()
    assert said == [str(tmp_path / "s.nrrd")], "and nothing where the dialog was left"
    ui.removeSegmentButton.click()
    assert logic.segment_rows() == []
    assert not ui.removeSegmentButton.enabled
    assert ui.volumeLabel.text == ""


def test_a_package_that_is_missing_is_installed_only_if_the_user_agrees(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed: list[str | list[str]] = []
    for name, call in {
        "confirmOkCancelDisplay": lambda text: "nibabel" in text,
        "pip_install": installed.append,
    }.items():
        monkeypatch.setattr(slicer.util, name, call, raising=False)
    assert module._has_package("")
    assert not module._has_package("highdicom")
    assert module._has_package("nibabel")
    monkeypatch.setattr(module, "_WHEELS", tmp_path)
    (tmp_path / "nibabel-1.whl").touch()
    assert module._has_package("nibabel")
    assert installed == ["nibabel", ["--no-index", "--find-links", str(tmp_path), "nibabel"]]


def test_weights_that_are_missing_are_offered_and_their_progress_shown(widget) -> None:
    ui, logic = widget.ui, widget.logic.segmentation
    assert ui.fetchWeightsButton.toolTip == "Connect to the bridge first."
    logic.state.weights = [
        ModelWeights("lite_medsam", "", 0, True, False, ""),
        ModelWeights("vit_b", "b.pth", 4 << 20, False, True, "a page"),
    ]
    logic.state.fetching, logic.state.fetch_progress = "vit_b", (1 << 20, 4 << 20)
    logic.events.weights.emit()
    assert [args for name, args in ui.weightsComboBox.calls if name == "addItem"] == [("vit_b",)]
    assert (ui.weightsProgressBar.value, ui.weightsProgressBar.maximum) == (1, 4)
    assert ui.weightsLabel.text == "vit_b: 1 of 4 MB"


def test_a_graph_is_started_in_the_chosen_folder_and_its_log_is_shown(widget, tmp_path: Path) -> None:
    ui, logic = widget.ui, widget.logic.segmentation
    assert not ui.stopGraphButton.enabled
    ui.sammFolderPathLineEdit.currentPath = str(tmp_path)
    ui.startGraphButton.click()
    assert "there is no samm in it" in logic.state.log[-1]
    logic.state.graph_log, logic.state.graph_runs = ["one", "two"], True
    logic.events.graph.emit()
    assert ("setPlainText", ("one\ntwo",)) in ui.graphLogTextEdit.calls


def test_a_live_stream_is_asked_for_told_of_and_put_into_the_views_once(
    widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, logic = widget.ui, widget.logic.segmentation
    asked: list[tuple[str, dict[str, Any]]] = []
    views: list[str] = []
    logic.connection.request = lambda kind, on_reply=None, **fields: asked.append((kind, fields))
    monkeypatch.setattr(
        slicer.util, "setSliceViewerLayers", lambda background, fit: views.append(background), raising=False
    )
    assert ui.startStreamButton.toolTip == "Connect to the bridge first."
    logic.connection.set_state(BridgeState.CONNECTED)
    ui.startStreamButton.click()
    assert asked == [("stream", {"on": True})]
    assert "Waiting" in ui.streamLabel.text
    assert not ui.startStreamButton.enabled
    logic.state.stream_volume_id, logic.state.stream_text = "vtkMRMLScalarVolumeNode1", "liver: tracking"
    for _ in range(2):
        logic.events.stream.emit()
    assert (ui.streamLabel.text, views) == ("liver: tracking", ["vtkMRMLScalarVolumeNode1"])
    ui.stopStreamButton.click()
    assert asked[-1] == ("stream", {"on": False})
    assert not ui.stopStreamButton.enabled


def test_keys_are_on_only_while_the_module_is_shown(module: ModuleType, widget) -> None:
    widget.enter()
    keys = [shortcut.name for shortcut in Shortcut.there]
    assert sorted(keys) == sorted({"S", "L", "E", "X", "Z", "Y", "Esc", "P", "N"})
    for key in keys:
        assert f"<b>{key}</b>" in module.help_text()
    widget.exit()
    assert not Shortcut.there


def test_a_closed_scene_leaves_a_widget_that_works(widget, scene: SlicerScene) -> None:
    before = widget.logic.segmentation
    scene.scene.Clear(False)
    assert widget.logic.segmentation is not before
    assert widget.ui.loadButton.toolTip == "Connect to the bridge first."
    widget.ui.addSegmentButton.click()
    assert widget._parameters.segment_id


def test_the_module_says_what_slicer_lists(module: ModuleType) -> None:
    parent = SimpleNamespace()
    module.SlicerIPP(parent)
    assert (parent.title, parent.categories) == ("Slicer-IPP", ["Segmentation"])
    assert "2304.05622" in parent.acknowledgementText


def test_cmake_lists_each_file_that_there_is() -> None:
    listed = set(re.findall(r"SlicerIPPLib/[\w/]+\.py", (MODULE / "CMakeLists.txt").read_text()))
    assert listed == {str(file.relative_to(MODULE)) for file in (MODULE / "SlicerIPPLib").rglob("*.py")}
    for file in (
        "SlicerIPP.png",
        "SlicerIPP/Resources/Icons/SlicerIPP.png",
        "SlicerIPP/Resources/UI/SlicerIPP.ui",
    ):
        assert (EXTENSION / file).is_file()


def test_cmake_copies_exactly_what_the_module_imports_of_samm_core() -> None:
    needed: set[str] = set()
    waiting = [name for file in SOURCES for name in core_imports(file)]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += core_imports(SAMM_CORE / f"{name}.py")
    packages = {f"{package}/__init__" for package in {Path(name).parent for name in needed} if package.name}
    assert set(CORE_COPIES) == needed | packages | {"__init__"}


def test_the_client_runs_where_the_copied_files_are_all_there_is_of_samm_core(tmp_path: Path) -> None:
    for name in CORE_COPIES:
        copy = tmp_path / "samm_core" / f"{name}.py"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMM_CORE / f"{name}.py", copy)
    code = (
        "import sys, SlicerIPPLib.client, samm_core\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*samm_core.__path__)\n"
        "print(*sorted(loaded & {'torch', 'rclpy', 'samm_ros', 'SimpleITK', 'nibabel', 'qt'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(tmp_path), str(MODULE)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [str(tmp_path / "samm_core"), ""]


def test_a_text_is_translated_where_slicer_can() -> None:
    code = (
        "import sys, types\n"
        "i18n = types.ModuleType('slicer.i18n')\n"
        "i18n.tr = str.upper\n"
        "sys.modules.update({'slicer': types.ModuleType('slicer'), 'slicer.i18n': i18n})\n"
        "from SlicerIPPLib.i18n import tr as _\n"
        "print(_('connected'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(MODULE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == "CONNECTED", ran.stderr


def test_a_mask_that_is_asked_for_without_the_panel_and_without_a_bridge_fails_in_a_sentence(
    module: ModuleType, scene: SlicerScene
) -> None:
    volume = scene.add_volume(np.zeros((8, 9, 10), np.int16), np.eye(4), (0, 1))
    logic = module.SlicerIPPLogic()
    where = {"address": "tcp://127.0.0.1:1", "timeoutSeconds": 0.3}
    with pytest.raises(NotReadyError, match=r"Nothing listens at tcp://127\.0\.0\.1:1: start the graph"):
        logic.process(volume, positivePoints=[[4, 4, 4]], **where)
    with pytest.raises(NotReadyError, match="/absent lacks client.key_secret"):
        logic.process(volume, positivePoints=[[4, 4, 4]], keysFolder="/absent")
    with pytest.raises(PromptError, match="outside the volume"):
        logic.process(volume, positivePoints=[[400, 4, 4]], **where)
    with pytest.raises(PromptError, match="Nothing is marked"):
        logic.process(volume, **where)
    with pytest.raises(PromptError, match="give axial, coronal or sagittal"):
        logic.process(volume, positivePoints=[[4, 4, 4]], plane="transversal", **where)
    with pytest.raises(PromptError, match="slices 0 to 7"):
        logic.process(volume, positivePoints=[[4, 4, 4]], sliceIndex=8, **where)
    with pytest.raises(VolumeError, match="Choose a volume"):
        logic.process(None, positivePoints=[[4, 4, 4]], **where)


def test_the_extension_finds_samm_core_in_the_checkout_when_no_copy_lies_beside_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import SlicerIPPLib.client, samm_core; print(*samm_core.__path__)"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(MODULE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == str(SAMM_CORE), ran.stderr


@pytest.mark.parametrize(
    "file",
    [*SOURCES, *(SAMM_CORE / f"{name}.py" for name in CORE_COPIES)],
    ids=lambda file: "/".join(file.parts[-2:]),
)
def test_slicers_oldest_python_can_read_it(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    strict = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == "strict"]
    assert not strict, f"zip(strict=…) is of Python 3.10: lines {strict}"
    checked = subprocess.run(
        ["ruff", "check", "--isolated", "--target-version", "py39", "--select", "E9,F", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_text_of_the_panel_goes_through_slicers_translation() -> None:
    """No f-string does: its text would be another one each time."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                assert isinstance(node.args[0], ast.Constant), f"{file.name}:{node.lineno}"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("warn", "say"):
                said = node.args[0]
                assert not isinstance(said, (ast.Constant, ast.JoinedStr)), f"{file.name}:{node.lineno}"


def core_imports(file: Path) -> set[str]:
    """The modules of samm_core that a file imports, such as cycle/request. The file is the module's or samm_core's."""
    found = set()
    tree = ast.parse(file.read_text())
    # What is imported for type hints alone is not there when the module runs.
    hints = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for_hints = {id(inner) for node in hints for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_hints:
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level and file.is_relative_to(SAMM_CORE):
            folder = file.relative_to(SAMM_CORE).parts[: -node.level]
            parts = [*folder, *parts]
        elif not node.level and parts[0] == "samm_core":
            parts = parts[1:]
        else:
            continue
        if (SAMM_CORE.joinpath(*parts)).with_suffix(".py").is_file() and parts:
            found.add("/".join(parts))
            continue
        for alias in node.names:
            if SAMM_CORE.joinpath(*parts, f"{alias.name}.py").is_file():
                found.add("/".join([*parts, alias.name]))
            else:
                # Of the package itself, which imports its modules by name when they are used.
                folder = SAMM_CORE.joinpath(*parts)
                found |= {"/".join([*parts, module.stem]) for module in folder.glob("*.py")}
    return found
