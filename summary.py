"""The end of `make all`: one table of what the five questions gave.

Reads the JSON files of Q1-Q5 under --out. Writes summary.txt there, and prints it.
"""

from pathlib import Path

from common.discuss import COURSE

from common import artifacts, cli

EXAMPLES = ("python summary.py", "python summary.py --out smoke")
TITLES = {"q2_fcn": "Q2 fully connected", "q3_cnn": "Q3 convolutional", "q5_transfer": "Q5 transfer"}
PICTURES = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--out", default="artifacts", metavar="DIR", help="folder of all artifacts")
    return parser.parse_args(argv)


def summary(records, out):
    """Return the table as text; records: those of Q2, Q3 and Q5 by name."""
    source = next(iter(records.values()))["source"]
    lines = [f"Data: {source}"]
    if source == "synthetic":
        lines = ["Data: SYNTHETIC galaxies, drawn by this program: these figures say nothing about the sky"]
    comparable = source == "galaxy10-sdss"
    header = f"{'':20}{'accuracy':>9}  {'95 % interval':15}{'loss':>7}{'commonest class':>17}"
    lines.append(header + (f"{'course: accuracy, loss':>25}" if comparable else ""))
    for name, record in records.items():
        low, high = record["test_accuracy_interval"]
        line = f"{TITLES[name]:20}{record['test_accuracy']:9.2%}  {low:6.1%} – {high:6.1%}"
        line += f"{record['test_loss']:7.3f}{record['majority_accuracy']:17.2%}"
        if comparable:
            accuracy, loss = COURSE[name[:2]]
            line += f"{accuracy:18.1%}{loss:7.3f}"
        lines.append(line)
    lines.append("Pictures: " + " ".join(str(Path(out) / f"{name}.png") for name in PICTURES))
    return "\n".join(lines) + "\n"


def main():
    args = get_args()
    out = Path(args.out)
    records = {name: artifacts.load_json(out / f"{name}.json") for name in TITLES}
    try:
        if len({record["fingerprint"] for record in records.values()}) > 1:
            raise ValueError(f"{out}: Q2, Q3 and Q5 were answered on different data or splits: make them anew")
        text = summary(records, out)
    except KeyError as error:
        raise ValueError(f"{out}: a JSON file of Q2, Q3 or Q5 lacks {error}: make them anew") from None
    artifacts.save_text(text, out / "summary.txt")
    print(text, end="")


if __name__ == "__main__":
    cli.run(main)
