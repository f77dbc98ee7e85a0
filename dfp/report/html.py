"""A Markdown file of the results as a standalone HTML page, which the workflow's report can show."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from dfp.files import read_text, write_atomically
from dfp.report.pages import render

# What our Markdown uses besides plain text: a line break in a heading, and the second-best of a column.
MARKUP = re.compile(r"&lt;(br|u|/u)&gt;")


def write_page(markdown: Path, target: Path) -> Path:
    """Write ``markdown`` as a page without links to other files to ``target`` and return it."""
    text = read_text(markdown)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = (
        MARKUP.sub(r"<\1>", body).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    )
    return write_atomically(target, render("page.html", title=target.stem, body=Markup(body)))
