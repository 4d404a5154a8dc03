"""Classify pictures of galaxies with a network trained by q2_fcn.py, q3_cnn.py or q5_transfer.py.

Reads pictures (JPEG, PNG, TIFF, WebP, BMP, GIF), folders of pictures, HDF5 files with `images`, and FITS cubes of three
bands, the bluest first. The central square is resized to 69 x 69 pixels. Prints a table with the predicted class, its
probability, the second choice and how many crops predict another class; then a line per class. Writes only the files
named by the options and, next to the first of them, FILE.resume, which records the progress for --resume.
"""

import hashlib
import os
import sys
from array import array
from contextlib import redirect_stdout
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from common import cli
from common.galaxies.pictures import find_pictures, listed_paths
from common.hardware.parallel import DASK_HELP
from common.sentences import interval
from common.storage.atomic import atomic_write, refuse_overlap
from common.storage.checkpoint import weights_hash
from common.storage.packages import require
from use import output
from use.ensemble import CROPS
from use.explain import explain
from use.pieces import Classifier, predictions
from use.rows import Rows
from use.trained import describe_classes, files_of, load_network, training_images
from use.truth import describe_shares, describe_truth, read_truth

import numpy as np
from tqdm import tqdm

EXAMPLES = (
    "python predict.py galaxy.jpg more/ cutouts.h5",
    "python predict.py more/ --model artifacts/q5_transfer.pt --symmetries --html sheet.html",
    "python predict.py more/ --truth classes.csv --csv answers.csv  # rows: name,class",
    "find . -name '*.png' | python predict.py - --quiet --csv answers.csv --resume",
    "python predict.py more/ --quiet --csv answers.csv --dask tcp://10.0.0.1:8786",
)
SETTINGS = ("crops", "symmetries", "field", "temperature")  # options that affect the predictions
STDOUT = ("--csv", "-")
MOST_ERRORS = 10  # unreadable pictures to list at the end


def main():
    args = get_args()
    stdout = sys.stdout if args.csv == "-" else None  # only for rows
    with redirect_stdout(sys.stderr if stdout else sys.stdout):
        outputs = files_to_write(args)
        network, record, name = load_network(args.model)
        class_names, about = record["class_names"], describe_network(args.model, name, record)
        options = {key: getattr(args, key) for key in ("device", *SETTINGS)} | {"thumbnails": bool(args.html)}
        classifier = Classifier(args.model, weights_hash(network.state_dict()), **options)
        files = list(map(str, find_pictures(paths_from(args.pictures))))
        refuse_overlap(outputs, inputs(args, files))
        columns = output.Columns(class_names, read_truth(args.truth, class_names, files) if args.truth else None)
        settings = settings_of(classifier, args.truth, files, outputs)
        rows = Rows(next(iter(outputs.values()), None), [kind for kind in ("features", "html") if getattr(args, kind)])
        if args.resume and rows.has_ended(settings, outputs.values()):
            print(f"{', '.join(outputs.values())}: complete, nothing to do.")
            return

        print(about)
        table = None if args.quiet else output.PrintedTable(files, class_names, classifier.views)
        with rows.writing(settings, columns.header, args.resume):
            if table:
                print(table.header)
            batches = predictions(files, classifier, rows.piece, rows.done, args.dask)
            for row, found in append_batches(batches, rows, columns, stdout):
                if table:
                    print(table.row(found))
                if args.explain:
                    explain(args.explain, row, found, classifier, record)
                if getattr(stdout or sys.stdout, "lost", None) and not outputs and not args.explain:
                    sys.exit(141)  # exit status of a program killed by SIGPIPE
            shares, agreement, repeated = summarise(rows, class_names, args.temperature)
            sentences, views = [about, *agreement.splitlines()[:1]], classifier.views
            makers = {"--json": output.write_json_list, "--features": output.write_features}
            makers["--html"] = partial(output.write_sheet, class_names=class_names, about=sentences, views=views)
            if kind := output.table_format(outputs.get("--csv", "")):
                makers["--csv"] = partial(output.write_table, kind=kind, header=provenance(classifier, name, record))
            for option in filter(makers.get, outputs):
                with atomic_write(outputs[option]) as [temporary]:
                    makers[option](rows, temporary)
            rows.end(is_output="--csv" in outputs and not kind)

        if rows.count:
            print(shares)
        if rows.trained:
            meaning = "not counted below" if agreement else "their probabilities are too optimistic"
            print(f"{len(rows.trained):,} of these pictures are training images of this network: {meaning}.")
        print(agreement, end="\n" if agreement else "")
        if repeated and (outputs or stdout):
            print(f"ids shared by several pictures: {repeated:,}; a join by id repeats their rows", file=sys.stderr)
        if rows.errors:
            print(describe_errors(rows.errors, len(files)), file=sys.stderr)
            sys.exit(2)


def files_to_write(args):
    """Return the paths to write, by option. Raises ValueError for an unwritable path or conflicting options."""
    options = {"--csv": args.csv, "--json": args.json, "--html": args.html, "--features": args.features}
    outputs = {option: path for option, path in options.items() if path is not None and (option, path) != STDOUT}
    for option, path in outputs.items():
        if Path(path).exists() and not Path(path).is_file():
            instead = ", or - for stdout" if option == "--csv" else ""
            raise ValueError(f"{option} {path}: is a folder, a device or a pipe: name a file{instead}")
    output.table_format(outputs.get("--csv", ""))
    if args.resume and (not outputs or args.csv == "-"):
        raise ValueError("--resume needs an output file: name one with --csv, --json, --html or --features")
    if args.explain:
        require("--explain", "captum")
        if args.dask is not None:
            raise ValueError("--explain computes in this process: omit --dask")
    return outputs


def paths_from(arguments):
    """Return the paths on the command line, with those listed on stdin in place of `-`."""
    paths = []
    for argument in arguments:
        paths += listed_paths(sys.stdin.buffer.read()) if argument == "-" else filter(None, [argument])
    return paths


def inputs(args, files):
    """Yield a (path, description) pair for every input file."""
    yield from files_of(args.model)
    if args.truth:
        yield args.truth, "the table of --truth"
    if "-" in args.pictures:
        yield "/dev/stdin", "the list on stdin"
    yield from ((file, f"the picture {file}") for file in files)


def describe_network(path, name, record):
    """Return a sentence about the network and its data."""
    sentence = f"{path}: the network of {name}.py, trained on {training_images(record)}"
    if "test_accuracy_interval" in record:
        bounds = interval(record["test_accuracy_interval"])
        sentence += f"; test accuracy {record['test_accuracy']:.1%} (95% interval {bounds})"
    if not record.get("appearance"):
        sentence += (
            "; its record has no statistics of the training images, so pictures outside their range are not marked"
        )
    return f"{sentence}. {describe_classes(record)}"


def settings_of(classifier, truth, files, outputs):
    """Return the settings that determine the output files: a run with different settings cannot resume them."""
    listed = hashlib.sha256(b"\0".join(map(os.fsencode, files))).hexdigest()
    true = hashlib.sha256(Path(truth).read_bytes()).hexdigest() if truth else None
    settings = {f"--{key}": getattr(classifier, key) for key in SETTINGS}
    settings |= {"network": classifier.weights_sha256, "pictures": listed, "true classes": true}
    return settings | {"files to write": {option: os.path.realpath(path) for option, path in outputs.items()}}


def append_batches(batches, rows, columns, stdout):
    """Append each Batch to Rows, and to the stream `stdout` if it is not None; yield (row number, record) pairs.

    Records come from `describe` in use/pieces.py. Shows a progress bar on a terminal.
    """
    if stdout:
        stdout.reconfigure(encoding="utf-8")
        stdout.write(columns.header.decode())
    with tqdm(unit=" pictures", disable=None) as bar:
        for batch in batches:
            first, records = rows.count, batch.records
            contents = {"csv": columns.rows(records)}
            contents["features"] = b"".join(record["features"].tobytes() for record in records)
            contents["html"] = "".join(f"{record['thumbnail']}\n" for record in records).encode()
            trained = [row for row, record in enumerate(records, first) if record["trained"]]
            rows.append(contents, len(records), batch.piece, batch.done, batch.errors, trained)
            if stdout:
                stdout.write(contents["csv"].decode())
            yield from enumerate(records, first)
            bar.update(len(records) + len(batch.errors))


def summarise(rows, class_names, temperature):
    """Return the class shares and the agreement with the true classes, as text, and the number of repeated ids.

    Without true classes the agreement is empty.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    counts, sums = np.zeros(len(numbers), int), np.zeros(len(numbers))
    probabilities, labels, hashes = array("d"), array("q"), array("q")  # 8 bytes for each id
    for row, record in enumerate(output.read_records(rows.part)):
        hashes.append(hash(record["id"]))
        counts[numbers[record["class_name"]]] += 1
        sums += record["probabilities"]
        if record.get("truth_name") and row not in rows.trained:
            probabilities.extend(record["probabilities"])
            labels.append(numbers[record["truth_name"]])
    shares = describe_shares(counts, sums / max(rows.count, 1), class_names)
    _, occurrences = np.unique(np.array(hashes), return_counts=True)
    repeated = np.count_nonzero(occurrences > 1)
    if not labels:
        return shares, "", repeated
    known = np.array(probabilities).reshape(-1, len(numbers))
    others = rows.count - len(rows.trained) - len(labels)
    return shares, describe_truth(known, np.array(labels), class_names, others, temperature), repeated


def provenance(classifier, name, record):
    """Return the header of a FITS or ECSV table, strings by keyword: network, data, options, names of p_0, p_1, …."""
    header = {"NETWORK": f"{name}.py", "NETHASH": classifier.weights_sha256, "DATA": record["source"]}
    header["DATE"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    header["OPTIONS"] = " ".join(f"--{key} {getattr(classifier, key)}" for key in SETTINGS)
    return header | {f"P_{number}": class_name for number, class_name in enumerate(record["class_names"])}


def describe_errors(errors, count):
    """Return lines that list the unreadable ones of `count` files."""
    lines = [f"error: {sentence}" for sentence in errors[:MOST_ERRORS]]
    lines += [f"and {len(errors) - MOST_ERRORS:,} more"] if len(errors) > MOST_ERRORS else []
    return "\n".join([*lines, f"{len(errors):,} of {count:,} files could not be read."])


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PATH", help="picture, folder, HDF5 or FITS file; - reads paths from stdin")
    help = "trained network with its .json next to it, or a folder written by export.py"
    add("--model", type=cli.path, default="artifacts/q3_cnn.pt", metavar="PT", help=help)
    add("--field", type=cli.fraction, default=1.0, metavar="FRACTION", help="fraction of the central square to use")
    add("--crops", type=int, default=9, choices=CROPS, metavar="N", help="crops to average over: 1, 4, 9, ... 121")
    add("--symmetries", action="store_true", help="also average over the eight rotations and reflections")
    help = "raise the mean probabilities to the power 1 / T and normalise them (--truth prints the best T)"
    add("--temperature", type=cli.positive_float, default=1.0, metavar="T", help=help)
    help = "write a row per picture: CSV (- for stdout), or a FITS or ECSV table if the name ends in .fits or .ecsv"
    add("--csv", type=cli.path, metavar="FILE", help=help)
    add("--json", type=cli.path, metavar="FILE", help="write the same as a list of records")
    add("--html", type=cli.path, metavar="FILE", help="write a contact sheet by class, least certain pictures first")
    help = "write the 64 inputs of the last layer for each picture"
    add("--features", type=cli.path, metavar="NPZ", help=help)
    help = "write occlusion maps, which show what each prediction depends on (needs captum)"
    add("--explain", type=cli.path, metavar="DIR", help=help)
    help = "table of names and true classes; prints accuracy, calibration and a confusion matrix"
    add("--truth", type=cli.path, metavar="FILE", help=help)
    help = "resume an interrupted run, whose rows are in FILE.part"
    add("--resume", action="store_true", help=help)
    add("--quiet", action="store_true", help="print no table; on a terminal, show a progress bar")
    add("--dask", metavar="ADDRESS", help=DASK_HELP)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="--resume")
