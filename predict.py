"""Classify pictures of galaxies, with a network that q2_fcn.py, q3_cnn.py or q5_transfer.py trained.

Reads pictures (JPEG, PNG, TIFF, WebP, BMP, GIF), folders of them, HDF5 files with `images`, and FITS cubes of three
bands, the bluest first. The centred square is resized to 69 x 69 pixels. Prints a table: the class, its probability,
the second choice, and how many of the crops that are averaged predict another class; then a line for each class.
Writes only the files that are named and, beside the first of them, FILE.resume: by it --resume knows how far a run was.
"""

import hashlib
import os
import sys
from array import array
from contextlib import ExitStack, redirect_stdout
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from common import cli
from common.galaxies.pictures import find_pictures, listed_paths
from common.hardware.parallel import DASK_HELP
from common.sentences import interval
from common.storage.atomic import atomic_write, refuse_overlap
from common.storage.checkpoint import weights_hash
from use import output
from use.ensemble import grid
from use.explain import check_explain, explain
from use.pieces import Classifier, load, predictions, probabilities_of
from use.rows import Rows
from use.trained import describe_classes, files_of, load_network, trained_on, written_numbers
from use.truth import describe_shares, describe_truth, read_truth

import numpy as np
from tqdm import tqdm

EXAMPLES = (
    "python predict.py galaxy.jpg more/ cutouts.h5",
    "python predict.py more/ --model artifacts/q5_transfer.pt --symmetries --html sheet.html",
    "python predict.py more/ --truth classes.csv --csv answers.csv  # rows of name,class",
    "find . -name '*.png' | python predict.py - --quiet --csv answers.csv --resume",
    "python predict.py more/ --quiet --csv answers.csv --dask tcp://10.0.0.1:8786",
)
OUTPUTS = ("csv", "json", "html", "features")  # options that name a file to write
SETTINGS = ("crops", "symmetries", "field", "temperature")  # options on which the answers depend
MOST_ERRORS = 10  # pictures that cannot be read, named at the end


def paths_from(arguments):
    """Return the paths on the command line, with those listed on stdin in place of `-`."""
    paths = []
    for argument in arguments:
        paths += listed_paths(sys.stdin.buffer.read()) if argument == "-" else filter(None, [argument])
    return paths


def inputs(model, truth, pictures):
    """Yield a (path, what it is) pair for every file that is read beside the pictures."""
    yield from files_of(model)
    if truth:
        yield truth, "that of --truth"
    if "-" in pictures:
        yield "/dev/stdin", "the list on stdin"


def describe_network(path, name, network):
    """Return a sentence about the network and its data."""
    sentence = f"{path}: the network of {name}.py, trained on {trained_on(network)}"
    if "test_accuracy_interval" in network:
        bounds = interval(network["test_accuracy_interval"])
        sentence += f"; test accuracy {network['test_accuracy']:.1%} (95% interval {bounds})"
    if not network.get("appearance"):
        sentence += (
            "; its record has no statistics of the training images, so pictures outside their range are not marked"
        )
    return f"{sentence}. {describe_classes(network)}"


def settings_of(classifier, truth, files, outputs):
    """Return the settings that determine the output files: a run with others cannot continue them."""
    listed = hashlib.sha256(b"\0".join(map(os.fsencode, files))).hexdigest()
    true = hashlib.sha256(Path(truth).read_bytes()).hexdigest() if truth else None
    settings = {f"--{key}": getattr(classifier, key) for key in SETTINGS}
    settings |= {"network": classifier.weights_sha256, "pictures": listed, "true classes": true}
    return settings | {"files to write": {option: str(path) for option, path in outputs.items()}}


def provenance(classifier, name, record):
    """Return the header of a FITS or ECSV table, texts by keyword: the network, its data, the names of p_0, p_1, …."""
    header = {"NETWORK": f"{name}.py", "NETHASH": classifier.weights_sha256, "DATA": record["source"]}
    header["DATE"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    header["OPTIONS"] = " ".join(f"--{key} {getattr(classifier, key)}" for key in SETTINGS)
    return header | {f"P_{number}": class_name for number, class_name in enumerate(record["class_names"])}


def summarise(rows, numbers):
    """Return the pictures predicted as each class and its mean probability, (classes,) each, of all Rows.

    And the probabilities, float64 (n, classes), and true classes, int64 (n,), of the pictures that have one and are no
    training images. numbers: of the classes, as they are written.
    """
    counts, sums = np.zeros(len(numbers), int), np.zeros(len(numbers))
    probabilities, labels = array("d"), array("q")
    for row, record in enumerate(output.read_records(rows.part)):
        counts[numbers.index(record["class"])] += 1
        sums += record["probabilities"]
        if record.get("truth") is not None and row not in rows.trained:
            probabilities.extend(record["probabilities"])
            labels.append(numbers.index(record["truth"]))
    known = np.array(probabilities).reshape(-1, len(numbers))
    return counts, sums / max(rows.place.rows, 1), known, np.array(labels, int)


def write_rows(batches, rows, columns, labels, cards, stdout=None):
    """Append the rows of each Batch to Rows, then yield (number of its first row, Batch).

    labels: true classes, by name; cards: LeastCertain, or None without --html; stdout: a stream that gets the rows too.
    """
    if stdout:
        stdout.reconfigure(encoding="utf-8")
        stdout.write(columns.header().decode())
    for batch in batches:
        first = rows.place.rows
        contents = {"": columns.rows(batch.records, labels)}
        if batch.features is not None:
            contents["features"] = batch.features.tobytes()
        if cards:
            contents["pictures"] = cards.pictures(first, batch.records, batch.thumbnails)
        trained = [number for number, is_one in enumerate(batch.trained, first) if is_one]
        rows.append(contents, len(batch.records), batch.piece, batch.done, batch.errors, trained)
        if stdout:
            stdout.write(contents[""].decode())
        yield first, batch


def describe_errors(errors, count):
    """Return lines that name pictures that cannot be read, of `count` files."""
    lines = [f"error: {sentence}" for sentence in errors[:MOST_ERRORS]]
    lines += [f"and {len(errors) - MOST_ERRORS:,} more"] if len(errors) > MOST_ERRORS else []
    return "\n".join([*lines, f"{len(errors):,} of {count:,} files could not be read."])


def main():
    args = get_args()
    stdout = sys.stdout if args.csv == "-" else None  # for the rows alone
    with ExitStack() as stack, redirect_stdout(sys.stderr if stdout else sys.stdout):
        given = {f"--{key}": path for key in OUTPUTS if (path := vars(args)[key]) not in (None, "-")}
        refuse_overlap(given, inputs(args.model, args.truth, args.pictures))
        targets = {option: output.file_to_write(option, path) for option, path in given.items()}
        table_format = output.table_format(args.csv) if "--csv" in given else None
        if args.resume and (stdout or not given):
            raise ValueError("--resume continues files: name one with --csv, --json, --html or --features")
        network, record, name = load_network(args.model)
        class_names, about = record["class_names"], describe_network(args.model, name, record)
        if args.features and name == "q2_fcn":
            raise ValueError(f"--features: {args.model} is a fully connected network, without a backbone: name a CNN")
        options = args.crops, args.symmetries, args.device, args.field, bool(args.html), bool(args.features)
        classifier = Classifier(args.model, weights_hash(network.state_dict()), *options, args.temperature)
        views = len(grid(record["image_size"], args.crops)) * (8 if args.symmetries else 1)
        if args.dask is None:
            load(classifier)
        files = list(map(str, find_pictures(paths_from(args.pictures))))
        refuse_overlap(given, ((file, f"the picture {file}") for file in files))
        if args.explain:
            check_explain(args.explain, files, args.dask)
        labels = read_truth(args.truth, class_names, files) if args.truth else {}

        columns = output.Columns(class_names, written_numbers(class_names), bool(args.truth))
        table = output.PrintedTable(files, class_names, views)
        settings = settings_of(classifier, args.truth, files, targets)
        first = next(iter(targets.values()), None) or Path(stack.enter_context(TemporaryDirectory()), "rows")
        kinds = [kind for kind, option in (("features", args.features), ("pictures", args.html)) if option]
        rows = Rows(first, kinds, is_kept=bool(given))
        if args.resume and rows.has_ended(settings, targets.values()):
            print(f"{', '.join(given.values())}: complete, nothing is left to do.")
            return
        print(about)
        with (
            rows.writing(settings, columns.header(), args.resume),
            tqdm(unit=" pictures", disable=None if args.quiet else True) as bar,
        ):
            if not args.quiet:
                print(table.header())
            cards = output.LeastCertain(rows.part) if args.html else None
            batches = predictions(files, classifier, rows.place.piece, rows.place.done, args.dask)
            for first_row, batch in write_rows(batches, rows, columns, labels, cards, stdout):
                for row, (found, image) in enumerate(zip(batch.records, batch.images, strict=True), first_row):
                    if not args.quiet:
                        print(table.row(found))
                    if args.explain:
                        answer = partial(probabilities_of, classifier)
                        explain(args.explain, row, found, answer, image, record["source"])
                bar.update(len(batch.records) + len(batch.errors))
                if getattr(stdout or sys.stdout, "lost", None) and not given and not args.explain:
                    sys.exit(141)  # as of a program that SIGPIPE ends
            counts, means, known, true = summarise(rows, columns.numbers)
            others = rows.place.rows - len(rows.trained) - len(true)
            agreement = describe_truth(known, true, class_names, others, args.temperature) if len(true) else ""
            makers = {
                "--csv": partial(output.write_table, kind=table_format, header=provenance(classifier, name, record)),
                "--json": output.write_json_list,
                "--html": partial(
                    output.write_sheet,
                    shown=cards,
                    counts=dict(zip(class_names, counts.tolist(), strict=True)),
                    about=[about, *agreement.splitlines()[:1]],
                    views=views,
                ),
                "--features": output.write_features,
            }
            csv = None if table_format else targets.pop("--csv", None)
            for option, path in targets.items():
                with atomic_write(path) as [temporary]:
                    makers[option](rows, temporary)
            rows.end(csv)
        print(describe_shares(counts, means, class_names))
        if rows.trained:
            print(f"{len(rows.trained):,} of these pictures are training images of this network: not counted below.")
        print(agreement, end="\n" if agreement else "")
        if rows.errors:
            print(describe_errors(rows.errors, len(files)), file=sys.stderr)
            sys.exit(2)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PATH", help="picture, folder, HDF5 or FITS file; - reads paths from stdin")
    help = "a trained network with its .json beside it, or a folder that export.py wrote"
    add("--model", type=cli.path, default="artifacts/q3_cnn.pt", metavar="PT", help=help)
    add("--field", type=cli.fraction, default=1.0, metavar="FRACTION", help="fraction of the central square to use")
    add("--crops", type=cli.positive_int, default=9, metavar="N", help="crops to average over, a square number")
    add("--symmetries", action="store_true", help="also average over the eight rotations and reflections")
    help = "raise the mean probabilities to the power 1 / T, and normalise them: see --truth"
    add("--temperature", type=cli.positive_float, default=1.0, metavar="T", help=help)
    help = "write a row for each picture: CSV (- is stdout), or a FITS or ECSV table if the name ends in .fits or .ecsv"
    add("--csv", type=cli.path, metavar="FILE", help=help)
    add("--json", type=cli.path, metavar="FILE", help="write a list with a record for each picture")
    add("--html", type=cli.path, metavar="FILE", help="write a contact sheet, by class, the least certain first")
    help = "write the 64 outputs of the CNN's backbone for each picture"
    add("--features", type=cli.path, metavar="NPZ", help=help)
    help = "write occlusion maps: what the prediction depends on (needs captum)"
    add("--explain", type=cli.path, metavar="DIR", help=help)
    help = "table of names and true classes: adds accuracy, calibration and a confusion matrix"
    add("--truth", type=cli.path, metavar="FILE", help=help)
    help = "continue an interrupted run that wrote files: these stay as FILE.part until they are complete"
    add("--resume", action="store_true", help=help)
    add("--quiet", action="store_true", help="print no table, but a progress bar on a terminal")
    add("--dask", metavar="ADDRESS", help=DASK_HELP)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="--resume")
