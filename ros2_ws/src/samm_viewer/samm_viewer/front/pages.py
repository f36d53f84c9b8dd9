# Copyright 2026 samm_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the server itself says to a person: a page of one sentence."""

from __future__ import annotations

from html import escape

from aiohttp import web

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>samm</title>{head}
<style>body {{ font: 1.1rem/1.5 sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }}</style></head>
<body><p>{sentence}</p></body></html>
"""


def page(sentence: str, status: int = 200, head: str = "") -> web.Response:
    """head: HTML for the page's head."""
    text = _PAGE.format(sentence=escape(sentence), head=head)
    return web.Response(text=text, status=status, content_type="text/html")


def page_that_leads_to(path: str) -> web.Response:
    """A page that opens another one of this server at once.

    Browsers send no SameSite=Strict cookie along a redirection that a link on another site's page began.
    """
    return page("The page opens …", head=f'<meta http-equiv="refresh" content="0;url={escape(path)}">')
