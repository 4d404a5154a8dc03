"""Classify pictures of galaxies, with a network that q2_fcn.py, q3_cnn.py or q5_transfer.py trained.

Reads pictures (JPEG, PNG, TIFF, WebP, BMP, GIF), folders of them, HDF5 files with `images`, and FITS cubes of three
bands, the bluest first. Of each the centred square is resized to the size the network was trained on. Prints a table:
the class, its probability, the second choice, and how many of the crops that are averaged predict another class.
Writes only the files that are named.
"""

import hashlib
import os
import sys
from pathlib import Path

from common import cli
from common.ensemble import grid
from common.galaxies.pictures import find_pictures, listed_paths
from common.hardware.parallel import DASK_HELP
from common.sentences import interval
from common.storage.atomic import descriptor, refuse_overlap
from common.storage.checkpoint import weights_hash
from common.storage.packages import require
from common.storage.streams import stdout_is_lost
from use.explain import explain, refuse_maps_among
from use.journal import Journal
from use.output import AstropyFile, CsvFile, FeaturesFile, JsonFile, Sheet, Table, require_file, table_format
from use.pieces import Classifier, load, predictions
from use.trained import describe_classes, files_of, load_network, trained_on
from use.truth import Truth, describe_truth

from tqdm import tqdm

EXAMPLES = (
    "python predict.py galaxy.jpg more/ cutouts.h5",
    "python predict.py more/ --model artifacts/q5_transfer.pt --symmetries --html sheet.html",
    "python predict.py more/ --truth classes.csv --csv answers.csv  # rows of name,class",
    "find . -name '*.png' | python predict.py - --quiet --csv answers.csv --resume",
    "python predict.py more/ --quiet --csv answers.csv --dask tcp://10.0.0.1:8786",
)
OUTPUTS = ("csv", "json", "html", "features")  # options that name a file to write


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
    if "temperature" in network:
        sentence += f"; its logits are divided by the temperature {network['temperature']:.3f}"
    return f"{sentence}. {describe_classes(network)}"


def settings_of(classifier, truth, files, outputs):
    """Return what the files that are written depend on, by name: a run with other settings cannot continue them."""
    listed = hashlib.sha256(b"\0".join(map(os.fsencode, files))).hexdigest()
    true = hashlib.sha256(Path(truth).read_bytes()).hexdigest() if truth else None
    settings = {f"--{key}": getattr(classifier, key) for key in ("crops", "symmetries", "field")}
    settings |= {"network": classifier.weights_sha256, "pictures": listed, "true classes": true}
    return settings | {"files to write": {option: os.path.realpath(path) for option, path in outputs.items()}}


def counted(batch, truth, progress, class_names):
    """Yield (record, thumbnail, features, image) of each picture of a Batch, counted in `progress`."""
    for record, *others in zip(batch.records, batch.thumbnails, batch.features, batch.images, strict=True):
        label = truth and truth.label(record["file"])
        if truth:
            record |= {"truth": label, "truth_name": None if label is None else class_names[label]}
        progress.count(record["probabilities"], record["class"], label)
        yield record, *others


def main():
    args = get_args()
    outputs = {f"--{key}": vars(args)[key] for key in OUTPUTS if vars(args)[key] is not None}
    refuse_overlap(outputs, inputs(args.model, args.truth, args.pictures))
    if 1 in map(descriptor, outputs.values()):  # standard output is for that file alone
        sys.stdout = sys.stderr
    kind_of_table = AstropyFile if args.csv is not None and table_format(args.csv) else CsvFile
    if args.features is not None:
        require_file("--features", args.features)
    network, record, name = load_network(args.model)
    if args.features and name == "q2_fcn":
        raise ValueError(f"--features: {args.model} is a fully connected network, without a backbone: name a CNN")
    class_names, about = record["class_names"], describe_network(args.model, name, record)
    options = args.crops, args.symmetries, args.device, args.field, bool(args.html), bool(args.features)
    classifier = Classifier(args.model, weights_hash(network.state_dict()), *options)
    views = len(grid(record["image_size"], args.crops)) * (8 if args.symmetries else 1)
    answer = load(classifier)[0] if args.dask is None else None
    truth = Truth(args.truth, class_names) if args.truth else None
    if args.explain:
        if args.dask is not None:
            raise ValueError("--explain computes in this process: leave --dask out")
        require("--explain", "captum")
    files = list(map(str, find_pictures(paths_from(args.pictures))))
    refuse_overlap(outputs, ((file, f"the picture {file}") for file in files))
    if args.explain:
        refuse_maps_among(files, args.explain)
    if truth:
        truth.prepare(files)
    print(about)
    table = Table(files, class_names, views)
    written = [kind_of_table(args.csv, len(class_names), args.truth)] if args.csv else []
    written += [JsonFile(args.json)] if args.json else []
    written += [Sheet(args.html, class_names, views, about)] if args.html else []
    written += [FeaturesFile(args.features)] if args.features else []
    journal = Journal(written, settings_of(classifier, args.truth, files, outputs), len(class_names))
    with journal.writing(args.resume) as progress, tqdm(unit=" pictures", disable=None if args.quiet else True) as bar:
        if not args.quiet:
            print(table.header())
        for batch in predictions(files, classifier, progress.piece, progress.done, args.dask):
            for sentence in batch.errors:
                tqdm.write(f"error: {sentence}", file=sys.stderr)
            progress.failed += len(batch.errors)
            for found, thumbnail, features, image in counted(batch, truth, progress, class_names):
                for file in written:
                    file.write(found, thumbnail, features)
                if not args.quiet:
                    print(table.row(found))
                if args.explain:
                    explain(args.explain, progress.rows - 1, found, answer, image, record["source"])
            bar.update(len(batch.records) + len(batch.errors))
            progress.piece, progress.done = batch.piece, batch.done
            journal.mark()
            if stdout_is_lost() and not outputs and not args.explain:
                sys.exit(141)  # as of a program that SIGPIPE ends
        agreement = describe_truth(progress, class_names) if truth else ""
        for file in written:
            file.summarise(progress.predicted, agreement)
    print(agreement, end="\n" if agreement else "")
    if progress.failed:
        print(f"{progress.failed:,} of {len(files):,} files could not be read.", file=sys.stderr)
    if truth and progress.rows and not agreement:
        raise truth.no_match(files)
    if progress.failed:
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
    help = "write a row for each picture: CSV, or a FITS or ECSV table if the name ends in .fits or .ecsv"
    add("--csv", type=cli.path, metavar="FILE", help=help)
    add("--json", type=cli.path, metavar="FILE", help="write a list with a record for each picture")
    add("--html", type=cli.path, metavar="FILE", help="write a contact sheet, by class, the least certain first")
    help = "write the 64 outputs of the CNN's backbone for each picture"
    add("--features", type=cli.path, metavar="NPZ", help=help)
    help = "write occlusion maps: what the prediction depends on (needs captum)"
    add("--explain", type=cli.path, metavar="DIR", help=help)
    help = "CSV of name and true class: adds accuracy and a confusion matrix"
    add("--truth", type=cli.path, metavar="FILE", help=help)
    help = "continue an interrupted run that wrote files: these stay as FILE.part until they are complete"
    add("--resume", action="store_true", help=help)
    add("--quiet", action="store_true", help="print no table, but a progress bar on a terminal")
    add("--dask", metavar="ADDRESS", help=DASK_HELP)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="--resume")
