"""Reading and classifying pictures piece by piece, in this process or by the workers of a Dask cluster.

The last bits of a prediction depend on which pictures are classified together and on the number of torch's threads. So
both are the same everywhere: a batch is BATCH pictures of one piece, in order, and is computed with one thread.
"""

import errno
import os
import socket
from contextlib import redirect_stdout
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from common.galaxies.appearance import image_hashes, out_of_range
from common.galaxies.facts import IMAGE_SIZE
from common.galaxies.hdf5 import READ_ERRORS, dataset, open_hdf5
from common.galaxies.pictures import HDF5_SUFFIXES, picture_id, read_pictures
from common.hardware.device import choose_device
from common.hardware.parallel import in_order, side_by_side, torch_threads, unseen
from common.storage.checkpoint import weights_hash
from common.storage.streams import one_line
from use.ensemble import CropEnsemble
from use.output import thumbnail
from use.trained import load_network

import numpy as np
import torch

BATCH = 64  # pictures that are classified together
PIECE = 2048  # pictures that a Dask worker gets at a time, some seconds of work
AHEAD = 16  # pieces per core that are computed before the first of them is written


class Piece(NamedTuple):
    """Some image files, or rows of one HDF5 file."""

    number: int
    paths: list  # text
    rows: range | None = None  # None: all that the files hold
    skip: int = 0  # pictures at its beginning that are done already


class Batch(NamedTuple):
    """Pictures that were classified together."""

    piece: int
    done: int  # pictures of the piece, up to the last one of this batch
    records: list
    errors: list  # a sentence for each picture that could not be read
    thumbnails: list  # one per record; None without --html
    images: Any  # uint8 (records, 3, size, size); from a Dask worker a list of None
    features: Any  # float32 (records, 64); None without --features
    trained: list  # bool, one per record: whether the picture is one of the training images


class Classifier(NamedTuple):
    """What classifies pictures, in a form that can be sent to a Dask worker."""

    model: str
    weights_sha256: str
    crops: int
    symmetries: bool
    device: str
    field: float
    thumbnails: bool
    features: bool = False
    temperature: float = 1.0


@lru_cache(maxsize=1)
def load(classifier):
    """Return the network as a CropEnsemble, and its record, in it `train_hashes` as a set.

    Raises ValueError if it is not the one that was meant.
    """
    with redirect_stdout(None):  # whoever made the Classifier has said what is in the file
        network, record, _ = load_network(classifier.model)
    if weights_hash(network.state_dict()) != classifier.weights_sha256:
        raise ValueError(f"{classifier.model} is another network on {socket.gethostname()}, or has been replaced")
    record["train_hashes"] = frozenset(record.get("train_hashes", ()))
    options = classifier.crops, classifier.symmetries, choose_device(classifier.device)
    return CropEnsemble(network, record["mean"], record["std"], IMAGE_SIZE, *options), record


def at_temperature(probabilities, temperature):
    """Return mean probabilities, float (n, classes), as they are at a temperature: in proportion to p^(1 / T).

    Mean probabilities and not those of each crop, so no prediction changes (Rahaman & Thiery 2021, NeurIPS).
    """
    if temperature == 1:
        return probabilities
    return (probabilities.double().log() / temperature).softmax(1).to(probabilities.dtype)


def probabilities_of(classifier, images):
    """Return the mean probabilities, float32 (n, classes), of images, uint8 or float (n, 3, size, size)."""
    answer, _ = load(classifier)
    return at_temperature(answer(images)[0], classifier.temperature)


def predictions(files, classifier, start=0, skip=0, dask=None):
    """Yield the Batches of `files`, paths as text, in order, without the first `start` pieces and `skip` pictures.

    dask: address of a scheduler, whose workers compute.
    """
    numbered = enumerate(pieces(files))
    work = (Piece(number, *piece, skip if number == start else 0) for number, piece in numbered if number >= start)
    if dask is None:
        cores = torch.get_num_threads()
        # Reading a JPEG takes twice the time of its prediction. A GPU's kernels come from one thread.
        computing = max(1, cores // 3) if load(classifier)[0].device.type == "cpu" else 1
        with torch_threads(1):
            yield from classify(work, classifier, cores - cores // 3, computing)
        return
    work = ((piece, next(filter(os.path.exists, piece.paths), None)) for piece in work)
    yield from chain.from_iterable(side_by_side(partial(classify_there, classifier), work, dask=dask, ahead=AHEAD))


def pieces(files):
    """Yield `files`, paths as text, as (paths, rows) of PIECE image files or of as many rows of an HDF5 file."""
    for is_hdf5, group in groupby(files, key=lambda path: path.lower().endswith(HDF5_SUFFIXES)):
        if is_hdf5:
            yield from (([path], rows) for path in group for rows in row_ranges(path))
        while paths := list(islice(group, PIECE)):
            yield paths, None


def row_ranges(path):
    """Return ranges of PIECE rows that cover an HDF5 file, or [None] if it has fewer, or none that can be read."""
    try:
        with open_hdf5(Path(path)) as file:
            count = len(dataset(Path(path), file, "images"))
    except (*READ_ERRORS, ValueError):  # of which whoever reads it will tell
        return [None]
    if count <= PIECE:
        return [None]
    return [range(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]


def classify(work, classifier, readers, computing):
    """Yield the Batches of Pieces, in order, read and computed by so many threads."""
    answer, record = load(classifier)

    def batches():
        for piece in work:
            ids = {}
            pictures = read_pictures(piece.paths, IMAGE_SIZE, classifier.field, readers, piece.rows, ids)
            pictures, done = islice(pictures, piece.skip, None), piece.skip
            while pairs := list(islice(pictures, BATCH)):
                done += len(pairs)
                yield piece.number, done, pairs, ids

    def compute(batch):
        number, done, pairs, ids = batch
        errors = [unreadable(name, error) for name, error in pairs if isinstance(error, Exception)]
        pairs = [pair for pair in pairs if not isinstance(pair[1], Exception)]
        if not pairs:
            return Batch(number, done, [], errors, [], [], None, [])
        names, pixels = zip(*pairs, strict=True)
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        marks = out_of_range(images, record.get("appearance"))
        known = record["train_hashes"]
        trained = [each in known for each in image_hashes(images)] if known else [False] * len(images)
        probabilities, disagreement, features = answer(images)
        probabilities = at_temperature(probabilities, classifier.temperature)
        found = records(names, ids, probabilities, disagreement, marks, record["class_names"])
        thumbnails = map(thumbnail, pixels) if classifier.thumbnails else [None] * len(pixels)
        features = features.numpy() if classifier.features else None
        return Batch(number, done, found, errors, list(thumbnails), images, features, trained)

    yield from in_order(compute, batches(), computing, ahead=computing)


def records(names, ids, probabilities, disagreement, out_of_range, class_names):
    """Return one dict per picture, as predict.py's --json writes it, from what the network says of a batch.

    ids: of pictures in HDF5 files that have ids, by name.
    """
    order = probabilities.argsort(dim=1, descending=True, stable=True).tolist()
    return [
        {
            "file": names[row],
            "id": ids.get(names[row]) or picture_id(names[row]),
            "class": order[row][0],
            "class_name": class_names[order[row][0]],
            "probability": values[order[row][0]],
            "probabilities": values,
            "second": order[row][1],
            "second_name": class_names[order[row][1]],
            "disagreement": disagreement[row].item(),
            "out_of_range": out_of_range[row],
        }
        for row, values in enumerate(probabilities.tolist())
    ]


def unreadable(name, error):
    """Return the sentence that a picture cannot be read."""
    sentence = one_line(error) or type(error).__name__
    return sentence if name in sentence else f"{name}: {sentence}"


def classify_there(classifier, item):
    """Return the Batches of a Piece as a list; run by a Dask worker.

    item: the Piece, and a file of it that exists. Raises FileNotFoundError if that is not there, else ValueError, which
    names the piece.
    """
    piece, seen = item
    if seen and not os.path.exists(seen):
        raise FileNotFoundError(errno.ENOENT, unseen("file"), seen)
    try:
        return [
            batch._replace(images=[None] * len(batch.records))
            for batch in classify([piece], classifier, readers=1, computing=1)
        ]
    except Exception as error:
        first = f"{piece.paths[0]}{f'[{piece.rows.start}]' if piece.rows else ''}"
        raise ValueError(f"the pictures from {first} on: {type(error).__name__}: {one_line(error)}") from error
