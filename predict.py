"""Classify pictures of galaxies, with a network that q2_fcn.py, q3_cnn.py or q5_transfer.py trained.

Reads pictures (JPEG, PNG, TIFF, WebP, BMP, GIF), folders of them, HDF5 files with `images`, and FITS cubes of three
bands, the bluest first. Of each the centred square is resized to the size the network was trained on. Prints a table:
the class, its probability, the second choice, and how many of the crops that are averaged predict another class.
Writes only the files that are named.
"""

import sys
from contextlib import ExitStack
from itertools import islice

from common import cli
from common.galaxies.appearance import out_of_range
from common.galaxies.pictures import find_pictures, listed_paths, read_pictures
from common.hardware.device import choose_device
from common.storage.atomic import descriptor, refuse_overlap
from use.answer import CropEnsemble, records
from use.explain import explain, refuse_maps_among, require_captum
from use.output import Table, csv_writer, json_writer, thumbnail, write_sheet
from use.trained import describe_classes, files_of, load_network, trained_on
from use.truth import Truth, describe_truth

import numpy as np
import torch
from tqdm import tqdm

EXAMPLES = (
    "python predict.py galaxy.jpg more/ cutouts.h5",
    "python predict.py more/ --model artifacts/q5_transfer.pt --symmetries --html sheet.html",
    "python predict.py more/ --truth classes.csv --csv answers.csv  # rows of name,class",
    "find . -name '*.png' | python predict.py - --json answers.json",
)
BATCH = 64


def paths_from(arguments):
    """Return the paths on the command line, with those listed on stdin in place of `-`."""
    paths = []
    for argument in arguments:
        paths += listed_paths(sys.stdin.buffer.read()) if argument == "-" else filter(None, [argument])
    return paths


def readable(pictures, failed):
    """Yield the (name, picture) pairs that could be read; print a line on stderr for each other and count it."""
    for name, picture in pictures:
        if isinstance(picture, Exception):
            sentence = cli.one_line(picture) or type(picture).__name__
            prefix = "" if name in sentence else f"{name}: "
            tqdm.write(f"error: {prefix}{sentence}", file=sys.stderr)
            failed.append(name)
        else:
            yield name, picture


def share_cores():
    """Leave torch a third of its threads; return the number of threads to read pictures with.

    Reading a JPEG takes twice the time of its answer. With all threads for both, those of torch would wait for each
    other: 2,000 pictures took 1.3 times as long (2 cores).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 3))
    return threads - threads // 3


def answers(pictures, answer, network):
    """Yield (record, image) for (name, picture) pairs, batch by batch; network: the trained network's record."""
    pictures = iter(pictures)
    while batch := list(islice(pictures, BATCH)):
        names, arrays = zip(*batch, strict=True)
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        marks = out_of_range(images, network.get("appearance"))
        yield from zip(records(names, *answer(images), marks, network["class_names"]), images, strict=True)


def inputs(args):
    """Yield a (path, what it is) pair for every file that is read beside the pictures."""
    yield from files_of(args.model)
    if args.truth:
        yield args.truth, "that of --truth"
    if "-" in args.pictures:
        yield "/dev/stdin", "the list on stdin"


def describe_network(path, name, network):
    """Return a sentence about the network and its data."""
    sentence = f"{path}: the network of {name}.py, trained on {trained_on(network)}"
    if "test_accuracy" in network:
        low, high = network["test_accuracy_interval"]
        sentence += f"; test accuracy {network['test_accuracy']:.1%} (95% interval {100 * low:.1f} to {high:.1%})"
    if not network.get("appearance"):
        sentence += (
            "; its record has no statistics of the training images, so pictures outside their range are not marked"
        )
    return f"{sentence}. {describe_classes(network)}"


def main():
    args = get_args()
    device = choose_device(args.device)
    outputs = {f"--{key}": vars(args)[key] for key in ("csv", "json", "html") if vars(args)[key] is not None}
    refuse_overlap(outputs, inputs(args))
    network, record, name = load_network(args.model)
    class_names = record["class_names"]
    answer = CropEnsemble(
        network, record["mean"], record["std"], record["image_size"], args.crops, args.symmetries, device
    )
    views = len(answer.corners) * (8 if args.symmetries else 1)
    truth = Truth(args.truth, class_names) if args.truth else None
    if args.explain:
        require_captum()
    files, failed, cards = find_pictures(paths_from(args.pictures)), [], []
    names = [str(file) for file in files]
    refuse_overlap(outputs, ((file, f"the picture {file}") for file in files))
    if args.explain:
        refuse_maps_among(files, args.explain)
    confusion, missing = np.zeros((len(class_names), len(class_names)), dtype=int), 0
    if truth:
        truth.prepare(names)
    about = describe_network(args.model, name, record)
    table = Table(names, class_names, views)
    if 1 in map(descriptor, outputs.values()):  # standard output is for that file alone
        sys.stdout = sys.stderr
    print(about, table.header(), sep="\n")
    with ExitStack() as files_written:
        writers = [files_written.enter_context(csv_writer(args.csv))] if args.csv else []
        writers += [files_written.enter_context(json_writer(args.json))] if args.json else []
        pictures = read_pictures(files, record["image_size"], args.field, threads=share_cores())
        for count, (found, image) in enumerate(answers(readable(pictures, failed), answer, record)):
            if truth:
                label = truth.label(found["file"])
                found |= {"truth": label, "truth_name": None if label is None else class_names[label]}
                if label is None:
                    missing += 1
                else:
                    confusion[label, found["class"]] += 1
            print(table.row(found))
            if cli.stdout_is_lost() and not outputs and not args.explain:
                sys.exit(141)  # as of a program that SIGPIPE ends
            for write in writers:
                write(found)
            if args.html:
                cards.append((found, thumbnail(image.permute(1, 2, 0).numpy())))
            if args.explain:
                explain(args.explain, count, found, answer, image, record["source"])
    agreement = describe_truth(confusion, missing, class_names) if confusion.any() else ""
    print(agreement, end="\n" if agreement else "")
    if args.html:
        write_sheet(args.html, cards, class_names, [about, *agreement.splitlines()[:1]], views)
    if failed:
        print(f"{len(failed):,} of {len(files):,} files could not be read.", file=sys.stderr)
    if truth and missing and not confusion.any():
        raise truth.no_match(names)
    if failed:
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
    add("--csv", type=cli.path, metavar="FILE", help="write a row for each picture")
    add("--json", type=cli.path, metavar="FILE", help="write a list with a record for each picture")
    add("--html", type=cli.path, metavar="FILE", help="write a contact sheet, by class, the least certain first")
    help = "write occlusion maps: what the prediction depends on (needs captum)"
    add("--explain", type=cli.path, metavar="DIR", help=help)
    help = "CSV of name and true class: adds accuracy and a confusion matrix"
    add("--truth", type=cli.path, metavar="FILE", help=help)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
