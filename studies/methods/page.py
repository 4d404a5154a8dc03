"""Write docs/studies.md, below its introduction, from the records of finished studies.

Reads the JSON files in docs/studies and its subfolders. Copy them there from OUT/studies first, with the figures.
"""

import importlib
from pathlib import Path

from common import cli, plots
from common.storage.artifacts import load_json, save_text

EXAMPLES = ("cp artifacts/studies/*.json artifacts/studies/*.png docs/studies/; python -m studies.methods.page",)
MARK = "<!-- below: written by python -m studies.methods.page -->\n"


def studies_page(folder):
    """Return the sections of docs/studies.md from the JSON files under `folder`. Raises ValueError without any."""
    folder = Path(folder)
    paths = sorted(folder.rglob("*.json"), key=lambda path: (path.parent, path.stem))
    if not paths:
        raise ValueError(f"{folder} holds no JSON file of a study: copy those in OUT/studies to it")
    lines = [""]
    for path in paths:
        record, study = load_json(path), path.stem
        module = importlib.import_module(f"studies.{study}")
        question = module.__doc__.partition("\n")[0]
        settings = ", ".join(f"{name} {value}" for name, value in record["args"].items() if name != "out")
        lines += [f"## {plots.titled(study, record['source'])}", "", f"**{record['answer']}**", "", question, ""]
        figures = sorted(path.parent.glob(f"{study}*.png"))
        lines += [f"![{each.stem}]({each.relative_to(folder.parent).as_posix()})\n" for each in figures]
        lines += [*(f"- {sentence}" for sentence in record["notes"]), *([""] if record["notes"] else [])]
        lines += [*module.tables(record), f"Settings: {settings}.", ""]
    return "\n".join(lines)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    help = "folder that contains studies/, for studies.md"
    parser.add_argument("--docs", type=cli.path, default="docs", metavar="DIR", help=help)
    return parser.parse_args(argv)


def main():
    args = get_args()
    page = Path(args.docs) / "studies.md"
    introduction = page.read_text(encoding="utf-8").partition(MARK)[0] if page.is_file() else "# The studies\n\n"
    save_text(introduction + MARK + studies_page(Path(args.docs) / "studies"), page)


if __name__ == "__main__":
    cli.run(main)
