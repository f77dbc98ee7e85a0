"""A Markdown file of the results as an HTML page of its own, which the workflow's report can show."""

from __future__ import annotations

import html
import re
from pathlib import Path

from markdown_it import MarkdownIt

from dfp.files import write_atomically

# What our Markdown uses besides plain text: a line break in a heading, and the second-best of a column.
MARKUP = re.compile(r"&lt;(br|u|/u)&gt;")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 1.5em auto; max-width: 78em; padding: 0 1.5em; }
h1, h2, h3 { line-height: 1.2; margin: 1.4em 0 0.5em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 0.8em 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25em 0.7em; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #888; text-align: left; }
tbody tr:hover { background: #f5f5f5; }
code { background: #f2f2f2; padding: 0 0.2em; }
"""


def write_page(markdown: Path, target: Path) -> Path:
    """Write ``markdown`` as a page without links to other files to ``target`` and return it."""
    text = markdown.read_text(encoding="utf-8")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = (
        MARKUP.sub(r"<\1>", body).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    )
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(target.stem)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}</body>\n</html>\n"
    )
    return write_atomically(target, page)
