"""The HTML page of a notebook that has been run: everything in one file, to be read without a network."""

from pathlib import Path

from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from submission.cells import contents
from submission.discuss import headline

HERE = Path(__file__).parent


def page(book, records):
    """Return the page as text; records: those of q2_fcn, q3_cnn and q5_transfer, for the summary on top."""
    exporter = HTMLExporter(template_name="basic", embed_images=True)
    exporter.raw_template = (HERE / "page.html.j2").read_text(encoding="utf-8")
    resources = {
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "code_style": HtmlFormatter(style="friendly").get_style_defs(".highlight"),
        "summary": markdown2html(headline(records["q2_fcn"], records["q3_cnn"], records["q5_transfer"])),
        "contents": contents(),
    }
    html, _ = exporter.from_notebook_node(book, resources=resources)
    return html
