"""The end of `make all`: one table of what the five questions gave.

Reads the JSON files of Q1-Q5 under --out. Writes summary.txt there, and prints it. Options that were not the
assignment's are listed under the table.
"""

from pathlib import Path

from common import artifacts, cli
from common.defaults import DEFAULTS, FIXED, TRAIN_SIZES
from common.discuss import COURSE

EXAMPLES = ("python summary.py", "python summary.py --out smoke")
TITLES = {"q2_fcn": "Q2 fully connected", "q3_cnn": "Q3 convolutional", "q5_transfer": "Q5 transfer"}
SHOWN = (*FIXED, "split", "precision", "backbone", "force")  # of the options those that a result hangs on
PICTURES = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--out", default="artifacts", metavar="DIR", help="folder of all artifacts")
    return parser.parse_args(argv)


def other_settings(name, record):
    """Return the options of a question that were not the assignment's or this project's default, as phrases.

    The seed is not among them. The train sizes are if the set is Galaxy10 SDSS, of which the assignment's numbers are.
    """
    given, default = record["args"], dict(DEFAULTS[name])
    if record["source"] == "galaxy10-sdss" and name == "q1_data":
        default |= TRAIN_SIZES
        given = given | {key: given.get(key) or size for key, size in TRAIN_SIZES.items()}
    elif name == "q1_data":
        del default["main_train"], default["transfer_train"]
    phrases = []
    for key in SHOWN:
        if key in default and given.get(key, default[key]) != default[key]:
            whose = "assignment" if key in FIXED else "default"
            value = "" if given[key] is True else f" {given[key]}"
            text = "none" if default[key] in (None, False) else default[key]
            phrases.append(f"{name[:2].upper()} --{key.replace('_', '-')}{value} ({whose}: {text})")
    return phrases


def summary(records, out):
    """Return the table as text; records: those of Q1, Q2, Q3 and Q5 by name."""
    source = records["q2_fcn"]["source"]
    lines = [f"Data: {source}"]
    if source == "synthetic":
        lines = ["Data: SYNTHETIC galaxies, drawn by this program: these figures say nothing about the sky"]
    comparable = source == "galaxy10-sdss"
    header = f"{'':20}{'accuracy':>9}  {'95 % interval':15}{'loss':>7}{'commonest class':>17}"
    lines.append(header + (f"{'course: accuracy, loss':>25}" if comparable else ""))
    for name, title in TITLES.items():
        record = records[name]
        low, high = record["test_accuracy_interval"]
        line = f"{title:20}{record['test_accuracy']:9.2%}  {low:6.1%} – {high:6.1%}"
        line += f"{record['test_loss']:7.3f}{record['majority_accuracy']:17.2%}"
        if comparable:
            accuracy, loss = COURSE[name[:2]]
            line += f"{accuracy:18.1%}{loss:7.3f}"
        lines.append(line)
    others = [phrase for name, record in records.items() for phrase in other_settings(name, record)]
    if others:
        lines.append(f"Changed settings: {', '.join(others)}")
    lines.append("Pictures: " + " ".join(str(Path(out) / f"{name}.png") for name in PICTURES))
    return "\n".join(lines) + "\n"


def main():
    args = get_args()
    out = Path(args.out)
    records = {name: artifacts.load_json(out / f"{name}.json") for name in ("q1_data", *TITLES)}
    try:
        if len({record["fingerprint"] for record in records.values()}) > 1:
            raise ValueError(f"{out}: Q1, Q2, Q3 and Q5 were run on different data or splits: rerun them")
        text = summary(records, out)
    except KeyError as error:
        raise ValueError(f"{out}: a JSON file of Q1, Q2, Q3 or Q5 lacks {error}: rerun them") from None
    artifacts.save_text(text, out / "summary.txt")
    print(text, end="")


if __name__ == "__main__":
    cli.run(main)
