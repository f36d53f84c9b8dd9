# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The page's parts: Vue templates of the folder `static`, put together around the views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trame_vuetify
from trame.ui.html import DivLayout
from trame.widgets import client, html
from trame_server import Server
from trame_slicer.core import LayoutManager
from trame_slicer.views import AbstractView

if TYPE_CHECKING:
    from .page import Page

_STATIC = Path(__file__).parent / "static"
# The icons alone of what trame-vuetify brings along.
_ICONS = Path(trame_vuetify.__file__).parent / "module" / "v3-serve"
_MODULE = {
    "serve": {"samm_viewer": str(_STATIC), "samm_icons": str(_ICONS)},
    "scripts": ["samm_viewer/page.js"],
    "styles": ["samm_icons/css/mdi.css", "samm_viewer/page.css"],
}


def build(server: Server, page: Page, layouts: LayoutManager) -> None:
    """Make the page. What is pressed on it calls the page's methods by their names."""
    server.enable_module(_MODULE)
    for method in (
        page.act,
        page.choose_tool,
        page.choose_layout,
        page.choose_model,
        page.choose_window,
        page.show_slice,
        page.zoom,
        page.pinch,
        page.segment,
        page.dialog,
        page.enter_folder,
        page.open_listed,
        page.open_uploaded,
        page.save,
        page.fetch_weights,
        page.tell,
    ):
        server.controller.trigger(method.__name__)(page.refusing(method))
    with DivLayout(server) as layout:
        layout.root.classes = "page"
        html.Header(_template("top"), classes="top")
        with html.Main(classes="work"):
            html.Nav(_template("tools"), classes="tools")
            with html.Section(classes="views"):
                with html.Div(classes="grid"):
                    layouts.initialize_layout_grid(layout)
                html.Div(_template("status"), classes="status")
            html.Aside(_template("side"), classes="side")
        html.Div(_template("dialogs"))
        fetch = client.JSEval(exec="window.samm.download($event)")
    server.controller.fetch_file = fetch.exec


def download(server: Server, tab: str, name: str) -> None:
    """Have a tab fetch a file of the folder downloads/."""
    server.controller.fetch_file([tab, name])


def slice_controls(server: Server, view_id: str, view: AbstractView) -> None:
    """A slice view's name, slider and buttons, over its picture."""
    _over("slice", view_id)


def three_d_controls(server: Server, view_id: str, view: AbstractView) -> None:
    _over("three_d", view_id)


def _over(template: str, view_id: str) -> None:
    html.Div(_template(template, VIEW=view_id), classes="over", raw_attrs=[f'data-view="{view_id}"'])


def _template(name: str, **values: str) -> str:
    text = (_STATIC / f"{name}.html").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(key, value)
    return text
