# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what only the desktop has: qt, widgets of the module's real .ui file, and Slicer's module classes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import slicer
import slicer.util
from slicer_scene import slicer_app
from SlicerIPPLib.parameters import Parameters


class Widget:
    """Any Qt or Slicer widget: properties can be set, signals connected and sent, methods are remembered."""

    def __init__(self, kind: str = "", name: str = "") -> None:
        self.kind, self.name = kind, name
        self.enabled, self.toolTip, self.text, self.checked, self.value = True, "", "", False, 0
        self.currentText = self.currentPath = ""
        self.calls: list[tuple[str, tuple]] = []
        self._slots: dict[str, list] = {}

    def connect(self, signal: str, slot: Any) -> None:
        self._slots.setdefault(signal.partition("(")[0], []).append(slot)

    def send(self, signal: str, *values: Any) -> None:
        for slot in self._slots.get(signal, []):
            slot(*values)

    def click(self) -> None:
        if self.enabled:
            self.send("clicked", False)

    def segmentationNode(self) -> Any:
        return next((args[0] for name, args in reversed(self.calls) if name == "setSegmentationNode"), None)

    def selectedSegmentIDs(self) -> list[str]:
        return next((args[0] for name, args in reversed(self.calls) if name == "setSelectedSegmentIDs"), [])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: self.calls.append((name, args))


class Shortcut(Widget):
    """qt.QShortcut; all that exist are in `there`."""

    there: list[Shortcut] = []

    def __init__(self, sequence: str, parent: Any) -> None:
        super().__init__("QShortcut", sequence)
        Shortcut.there.append(self)

    def deleteLater(self) -> None:
        Shortcut.there.remove(self)


class Notifier(Widget):
    """qt.QSocketNotifier; the newest is in `newest`."""

    Read = 0
    newest: Notifier | None = None

    def __init__(self, number: int, kind: int) -> None:
        super().__init__("QSocketNotifier")
        self.number = number
        Notifier.newest = self


class ParameterNode(Parameters):
    """What parameterNodeWrapper makes of a class, over a real node; setting a value tells the node's observers."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self.parameterNode = node
        self.is_connected = False

    def connectGui(self, ui: Any) -> int:
        self.is_connected = True
        return 1

    def disconnectGui(self, tag: int) -> None:
        self.is_connected = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if "parameterNode" in self.__dict__:
            self.parameterNode.Modified()


class ModuleLogic:
    """ScriptedLoadableModuleLogic: the module's node in the scene, made when there is none."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = "SlicerIPP"

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ModuleWidget:
    """ScriptedLoadableModuleWidget."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = "SlicerIPP"
        self.layout = Widget("QVBoxLayout")

    def setup(self) -> None:
        pass

    def resourcePath(self, path: str) -> str:
        return str(Path(sys.modules["SlicerIPP"].__file__).parent / "Resources" / path)


class Observations:
    """VTKObservationMixin."""

    def __init__(self) -> None:
        self.observed: list[tuple[Any, int, int]] = []

    def addObserver(self, node: Any, event: int, callback: Any) -> None:
        self.observed.append((node, event, node.AddObserver(event, callback)))

    def removeObserver(self, node: Any, event: int, callback: Any) -> None:
        kept = []
        for entry in self.observed:
            if entry[:2] == (node, event):
                node.RemoveObserver(entry[2])
            else:
                kept.append(entry)
        self.observed = kept

    def removeObservers(self) -> None:
        for node, _, tag in self.observed:
            node.RemoveObserver(tag)
        self.observed = []


def load_ui(path: str) -> Widget:
    """The widgets of a .ui file, in `children` by name."""
    root = Widget("ui", path)
    root.children = {
        element.get("name"): _widget(element) for element in ElementTree.parse(path).iter("widget")
    }
    return root


def _widget(element: ElementTree.Element) -> Widget:
    widget = Widget(element.get("class"), element.get("name"))
    for found in element.findall("property"):
        if found.get("name") in ("toolTip", "text"):
            setattr(widget, found.get("name"), found.findtext("string"))
    return widget


@contextlib.contextmanager
def desktop(slices: dict[str, Any]) -> Iterator[ModuleType]:
    """While it lasts SlicerIPP.py can be imported: the module. slices: the layout's slice nodes by view."""
    qt = ModuleType("qt")
    qt.QSocketNotifier, qt.QShortcut = Notifier, Shortcut
    qt.QKeySequence = str
    qt.QTextCursor = SimpleNamespace(End=11)
    scripted = ModuleType("slicer.ScriptedLoadableModule")
    scripted.ScriptedLoadableModule = type(
        "ScriptedLoadableModule", (), {"__init__": lambda self, parent: None}
    )
    scripted.ScriptedLoadableModuleWidget = ModuleWidget
    scripted.ScriptedLoadableModuleLogic = ModuleLogic
    scripted.ScriptedLoadableModuleTest = type("ScriptedLoadableModuleTest", (), {})
    wrapper = ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = lambda described: type(
        described.__name__, (ParameterNode,), {"described": described}
    )
    app = SimpleNamespace(
        layoutManager=lambda: SimpleNamespace(
            sliceWidget=lambda view: (
                SimpleNamespace(mrmlSliceNode=lambda: slices[view]) if view in slices else None
            )
        )
    )
    modules = {"qt": qt, "slicer.ScriptedLoadableModule": scripted, "slicer.parameterNodeWrapper": wrapper}
    attributes = {"app": app, "mrmlScene": slicer_app().scene}
    utilities = {
        "VTKObservationMixin": Observations,
        "loadUI": load_ui,
        "childWidgetVariables": lambda widget: SimpleNamespace(**widget.children),
        "mainWindow": lambda: None,
        "tryWithErrorDisplay": lambda *_, **__: contextlib.nullcontext(),
    }
    missing = object()
    before = [(slicer, name, getattr(slicer, name, missing)) for name in attributes]
    before += [(slicer.util, name, getattr(slicer.util, name, missing)) for name in utilities]
    sys.modules.update(modules)
    for owner, values in ((slicer, attributes), (slicer.util, utilities)):
        for name, value in values.items():
            setattr(owner, name, value)
    try:
        import SlicerIPP

        yield SlicerIPP
    finally:
        for name in ("SlicerIPP", "SlicerIPPLib.panel"):
            sys.modules.pop(name, None)
        for name in modules:
            del sys.modules[name]
        for owner, name, value in before:
            delattr(owner, name) if value is missing else setattr(owner, name, value)
