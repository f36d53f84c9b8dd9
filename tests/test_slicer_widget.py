# SPDX-License-Identifier: Apache-2.0
"""Slicer-IPP's module file, widget and packaging, with stand-ins for what the desktop alone has."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from slicer_desktop import Notifier, Shortcut, desktop
from slicer_scene import SlicerScene
from SlicerIPPLib.parameters import Parameters

EXTENSION = Path(__file__).parents[1] / "slicer_ros_bridge" / "SlicerIPP"
MODULE = EXTENSION / "SlicerIPP"
SOURCES = sorted(MODULE.rglob("*.py"))


@pytest.fixture
def scene() -> Iterator[SlicerScene]:
    with SlicerScene() as scene:
        yield scene


@pytest.fixture
def module(scene: SlicerScene) -> Iterator[ModuleType]:
    with desktop(scene.slices) as module:
        yield module


@pytest.fixture
def widget(module: ModuleType) -> Iterator[object]:
    widget = module.SlicerIPPWidget()
    widget.setup()
    yield widget
    widget.cleanup()


def test_every_control_of_the_code_is_in_the_ui_file_and_is_governed(module: ModuleType, widget) -> None:
    there = {e.get("name") for e in ElementTree.parse(MODULE / "Resources/UI/SlicerIPP.ui").iter("widget")}
    named = set(re.findall(r"self\.ui\.(\w+)|\bui\.(\w+)", (MODULE / "SlicerIPP.py").read_text()))
    assert {one or other for one, other in named} - {"toolTip"} <= there
    assert set(module.CONTROLS) == set(widget.logic.reasons()) - {"volume", "select_model"}
    buttons = {name for name in there if name.endswith("Button")} - {"sampleButton"}
    assert buttons <= {name for names in module.CONTROLS.values() for name in names}


def test_the_ui_file_is_bound_to_parameters_that_there_are(module: ModuleType) -> None:
    bound = {
        found.findtext("string")
        for found in ElementTree.parse(MODULE / "Resources/UI/SlicerIPP.ui").iter("property")
        if found.get("name") == "SlicerParameterName"
    }
    assert bound <= set(Parameters.__dataclass_fields__)
    assert list(module.SlicerIPPParameterNode.described.__annotations__) == list(
        Parameters.__dataclass_fields__
    )


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
    assert Notifier.newest.number == widget.logic.fileno()
    said = []
    widget.logic.process_events = lambda: said.append(True)
    Notifier.newest.send("activated", widget.logic.fileno())
    assert said


def test_a_chosen_node_is_observed_and_marks_what_it_does(widget, scene: SlicerScene) -> None:
    volume = scene.add_volume(np.zeros((8, 9, 10), np.int16), np.eye(4), (0, 1))
    widget._parameters.volume = volume
    assert widget.ui.freezeButton.enabled
    widget.ui.freezeButton.send("clicked", True)
    assert widget.logic.is_frozen() == widget.ui.freezeButton.checked


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
    place = widget.logic._place()
    extent = widget.logic._box_on(box, place, [])
    assert place.index == 7
    np.testing.assert_allclose(extent, [12, 9, 28, 21], atol=1)
    widget._make_box()
    assert widget._parameters.box is box


def test_what_is_low_is_said_in_words_too(widget) -> None:
    widget.logic.score = 0.5
    widget._on_changed("mask")
    assert "low" in widget.ui.scoreLabel.text
    widget.logic.score = 0.95
    widget._on_changed("mask")
    assert "low" not in widget.ui.scoreLabel.text


def test_keys_are_on_only_while_the_module_is_shown(widget) -> None:
    widget.enter()
    keys = [shortcut.name for shortcut in Shortcut.there]
    assert sorted(keys) == sorted({"S", "L", "E", "X", "Z", "Y", "Esc", "P", "N"})
    for key in keys:
        assert f"<b>{key}</b>" in __import__("SlicerIPP").HELP
    widget.exit()
    assert not Shortcut.there


def test_a_closed_scene_leaves_a_widget_that_works(widget, scene: SlicerScene) -> None:
    before = widget.logic
    scene.scene.Clear(False)
    assert widget.logic is not before
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


def test_shared_files_are_links_to_their_one_owner(tmp_path: Path) -> None:
    """And what builds and packages the extension copies what they point to."""
    shared = [file for file in (MODULE / "SlicerIPPLib/shared").glob("*.py") if file.name != "__init__.py"]
    assert len(shared) == 5
    for file in shared:
        assert file.is_symlink()
        subprocess.run(["cmake", "-E", "copy", file, tmp_path / file.name], check=True)
        assert not (tmp_path / file.name).is_symlink()
        assert (tmp_path / file.name).read_text() == file.resolve().read_text()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(MODULE)))
def test_slicers_oldest_python_can_read_it(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 9))
    checked = subprocess.run(
        ["ruff", "check", "--isolated", "--target-version", "py39", "--select", "E9,F", str(file)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
