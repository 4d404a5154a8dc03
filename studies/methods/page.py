"""The full tables of all studies, docs/studies.md, from the records of finished studies.

Reads the JSON files that the studies wrote, in any folders under docs/studies (copy them there from OUT/studies).
Writes docs/studies.md.
"""

import ast
from pathlib import Path

from common import cli, plots
from common.storage.artifacts import load_json, save_text
from studies.imbalance import TITLES as METHODS
from studies.statistics import percent, points
from studies.transfer_report import LABELS

ROOT = Path(__file__).parent.parent
EXAMPLES = ("cp artifacts/studies/*.json docs/studies/; python -m studies.tables",)
INTRODUCTION = """# The studies

Made by `python -m studies.tables` from the JSON files in [studies](studies); `make studies` measures them.

In brackets are 95 % intervals. That of a mean over seeds is Student's t: it is for the mean over all seeds, each with
its own split of the same file of galaxies, not for other galaxies. Differences are between the same seeds, in
pairs. Those of `imbalance` are wider: they also hold the chance of which images are tested (bootstrap over seeds and
images). "Cannot be told" means that the interval holds 0. The FCN and the CNN of a seed are those of the scripts, to
the last bit, in `seeds`, in `imbalance` (as in Q3) and in `symmetry` (neither, all images). `inside` looks at one
seed, that of `make all`.
"""


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--docs", default="docs", metavar="DIR", help="folder of studies/ and studies.md")
    return parser.parse_args(argv)


def table(header, rows):
    """Return a Markdown table as lines; header and each row: text or anything with a text form."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


def seeds_tables(record):
    """Return the tables of studies/seeds.py."""
    lines = []
    for kind, found in record["protocols"].items():
        lines += ["The file's own order:" if kind == "file" else "Stratified splits, one per seed:", ""]
        rows = [
            (name.replace("_", " "), percent(each), f"{100 * each['sd']:.1f}" if each["n"] > 1 else "–",
             f"{100 * each['lowest']:.1f} – {100 * each['highest']:.1f}", found["test_count"][name])
            for name, each in found["accuracy"].items()
        ]  # fmt: skip
        header = ("method", "accuracy, mean over seeds", "standard deviation", "lowest – highest", "test images")
        lines += table(header, rows)
    rows = [
        (name.upper(), f"{100 * each['between_sd']:.1f}", f"{100 * each['within_sd']:.1f}",
         f"{each['share']:.0%} [{each['low']:.0%}, {each['high']:.0%}]")
        for name, each in record["variance"].items() if each["share"] == each["share"] and each["high"] > 0
    ]  # fmt: skip
    header = ("network", "split to split (points)", "training to training (points)", "the split's share")
    return lines + (table(header, rows) if rows else [])


def imbalance_tables(record):
    """Return the tables of studies/imbalance.py: the metrics, and the recalls by class."""
    methods, names = record["methods"], [name for name in record["methods"]["none"]["value"] if name != "recall"]
    rows = [(METHODS[method], *(percent(each["value"][name]) for name in names)) for method, each in methods.items()]
    changes = [
        (f"{METHODS[method]}, minus {METHODS['none']}", *(points(each["change"][name]) for name in names))
        for method, each in methods.items()
        if method != "none"
    ]
    recalls = [
        (name, train, test, *(percent(each["value"]["recall"][label], 0) for each in methods.values()))
        for label, (name, train, test) in enumerate(
            zip(record["class_names"], record["train_counts"], record["test_counts"], strict=True)
        )
        if test
    ]
    header = ("recall", "train", "test", *(METHODS[method] for method in methods))
    return table(("method", *names), rows + changes) + table(header, recalls)


def symmetry_tables(record):
    """Return the tables of studies/symmetry.py: accuracies and gains by network and training images."""
    lines = []
    for name, network in record["networks"].items():
        rows = [
            (network["train_count"][part], *map(percent, network["accuracy"][part].values()), points(gain["both"]))
            for part, gain in network["gain"].items()
        ]
        lines += table((f"{name.upper()}: training images", *network["accuracy"]["1"], "both minus neither"), rows)
    return lines


def transfer_tables(record):
    """Return the tables of studies/transfer.py: accuracies and differences by the number of labelled galaxies."""
    accuracy, lines = record["accuracy"], []
    if "logistic_regression_on_trained" in record:  # only beside an encoder
        accuracy = accuracy | {"trained, logistic regression": record["logistic_regression_on_trained"]}
    for found, write in ((accuracy, percent), (record["differences"], points)):
        rows = [
            (size, *map(write, by_method)) for size, *by_method in zip(record["sizes"], *found.values(), strict=True)
        ]
        titles = [" minus ".join(LABELS.get(part, part) for part in name.split(" - ")) for name in found]
        lines += table(("labelled galaxies", *titles), rows)
    return lines


def calibration_tables(record):
    """Return the table of studies/calibration.py: each network before and after dividing by its temperature."""
    rows = [
        (name.upper() + (f", temperature {network['mean']['temperature']['mean']:.2f}" if when == "after" else ""),
         points(network["mean"][f"overconfidence_{when}"]), percent(network["mean"][f"debiased_error_{when}"]),
         f"{network['mean'][f'loss_{when}']['mean']:.3f}")
        for name, network in record["networks"].items() for when in ("before", "after")
    ]  # fmt: skip
    return table(("network", "stated minus correct (points)", "calibration error, debiased", "test loss"), rows)


def inside_tables(record):
    """Return the table of studies/inside.py: both networks by the shift of the test crops."""
    values = [each[key] for each in record["under_shifts"].values() for key in ("accuracy", "changed")]
    rows = [
        (shift, *(f"{100 * value:.1f} %" for value in row))
        for shift, *row in zip(record["shifts"], *values, strict=True)
    ]
    titles = [f"{name.upper()}, {what}" for name in record["under_shifts"] for what in ("accuracy", "changed")]
    return table(("shift (pixels)", *titles), rows)


TABLES = {
    "seeds": seeds_tables,
    "imbalance": imbalance_tables,
    "symmetry": symmetry_tables,
    "transfer": transfer_tables,
    "calibration": calibration_tables,
    "inside": inside_tables,
}


def question(study):
    """Return the first line of a study's docstring."""
    source = (ROOT / "studies" / f"{study}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]


def page(folder):
    """Return docs/studies.md as text, from the JSON files under `folder`. Raises ValueError when there is none."""
    paths = sorted(Path(folder).rglob("*.json"), key=lambda path: (path.parent, path.stem))
    if not paths:
        raise ValueError(f"{folder} holds no JSON file of a study: copy those in OUT/studies there")
    lines = [INTRODUCTION]
    for path in paths:
        record, study = load_json(path), path.stem
        args = ", ".join(f"{name} {value}" for name, value in record.get("args", {}).items() if name != "out")
        settings = [f"Settings: {args}.", ""] if args else []
        lines += [f"## {plots.titled(study, record['source'])}", "", question(study), ""]
        lines += [*(f"- {sentence}" for sentence in record["answer"]), ""]
        lines += [*TABLES.get(study, lambda record: [])(with_nan(record)), *settings]
    return "\n".join(lines)


def with_nan(value):
    """Return nested dicts and lists with NaN in place of None, which stands for it in JSON."""
    if isinstance(value, dict):
        return {key: with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item) for item in value]
    return float("nan") if value is None else value


def main():
    args = get_args()
    save_text(page(Path(args.docs) / "studies"), Path(args.docs) / "studies.md")


if __name__ == "__main__":
    cli.run(main)
