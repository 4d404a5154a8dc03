"""The HTML page of a notebook that has been run: one file that needs no network."""

import re
from html import escape
from itertools import groupby
from pathlib import Path

from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from submission.discuss import headline

HERE = Path(__file__).parent
LOG_LINES = 20  # longer tables, such as one line per epoch, are folded


def in_columns(line):
    """Return whether a printed line belongs to a table: it has two adjacent spaces inside."""
    return "  " in line.strip()


def printed(text):
    """Return what a script printed as HTML, in which sentences wrap and tables keep their columns.

    The length of the longest line of a table is given to the style sheet as --columns, from which it chooses a font
    size that the width allows.
    """
    lines = [line.rstrip() for line in text.splitlines()]
    widest = max((len(line) for line in lines if in_columns(line)), default=1)
    html = ""
    for is_table, group in groupby(lines, key=in_columns):
        block = list(group)
        pre = f'<pre class="{"table" if is_table else "sentences"}">{escape(chr(10).join(block))}</pre>'
        if is_table and len(block) > LOG_LINES:
            last = f'<pre class="table">{escape(block[-1])}</pre>'
            html += f"<details><summary>{len(block)} lines, the last of them:{last}</summary>{pre}</details>"
        else:
            html += pre
    return f'<div class="printed"><div style="--columns: {widest}">{html}</div></div>'


def sections(book):
    """Return the cells in lists, each of which but the first begins with a section's heading."""
    parts = [[]]
    for cell in book.cells:
        if "section" in cell.metadata:
            parts.append([])
        parts[-1].append(cell)
    return parts


def contents(book):
    """Return the table of contents: (anchor, heading) of each section, in order."""
    headings = [cell for cell in book.cells if "section" in cell.metadata]
    return [(cell.metadata["section"], re.search(r"^## (.+)$", cell.source, re.MULTILINE)[1]) for cell in headings]


def style():
    """Return the style sheet, with colours for code on a light and on a dark ground."""
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "monokai"))
    text = (HERE / "page.css").read_text(encoding="utf-8")
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{text}"


def page(book, records):
    """Return the page as text; records: those of q2_fcn, q3_cnn and q5_transfer, for the summary on top."""
    exporter = HTMLExporter(filters={"printed": printed})
    exporter.raw_template = (HERE / "page.html.j2").read_text(encoding="utf-8")
    resources = {
        "style": style(),
        "summary": markdown2html(headline(records["q2_fcn"], records["q3_cnn"], records["q5_transfer"])),
        "contents": contents(book),
        "sections": sections(book),
    }
    html, _ = exporter.from_notebook_node(book, resources=resources)
    return html
