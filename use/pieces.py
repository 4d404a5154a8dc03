"""Read and classify pictures piece by piece, in this process or on the workers of a Dask cluster.

The last bits of a prediction depend on the batch and on torch's number of threads. Both are the same everywhere: a
batch is BATCH pictures of one piece, in order, computed with one thread.
"""

import errno
import os
import socket
from contextlib import redirect_stdout
from functools import lru_cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

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
from use.trained import load_network, written_numbers

import numpy as np
import torch

BATCH = 64  # pictures that are classified together
PIECE = 2048  # pictures per task of a Dask worker, a few seconds of work
AHEAD = 16  # pieces per core that are computed ahead of the next one to be written


class Piece(NamedTuple):
    """Some image files, or rows of one HDF5 file."""

    number: int
    paths: list  # text
    rows: range | None = None  # None: all rows
    skip: int = 0  # pictures at the beginning that are done already


class Batch(NamedTuple):
    """Pictures that were classified together."""

    piece: int
    done: int  # pictures of the piece, up to the last one of this batch
    records: list  # as `describe` returns them
    errors: list  # a sentence per unreadable picture


class Classifier(NamedTuple):
    """The network and the options for classifying pictures, in a form that can be sent to a Dask worker."""

    model: str
    weights_sha256: str
    crops: int
    symmetries: bool
    device: str
    field: float
    thumbnails: bool
    temperature: float = 1.0

    @property
    def views(self):
        """Number of crops per prediction."""
        return self.crops * (8 if self.symmetries else 1)


@lru_cache(maxsize=1)
def load(classifier):
    """Return the network as a CropEnsemble, and its record. Raises ValueError if the file holds another network."""
    with redirect_stdout(None):  # predict.py already described the file
        network, record, _ = load_network(classifier.model)
    if weights_hash(network.state_dict()) != classifier.weights_sha256:
        raise ValueError(f"{classifier.model} is a different network on {socket.gethostname()}, or was replaced")
    options = classifier.crops, classifier.symmetries, choose_device(classifier.device)
    ensemble = CropEnsemble(network, record["mean"], record["std"], IMAGE_SIZE, *options)
    return ensemble, record | {"train_hashes": frozenset(record.get("train_hashes", ()))}


def at_temperature(probabilities, temperature):
    """Return mean probabilities, float (n, classes), raised to the power 1 / temperature and normalised.

    Scaling the mean, not each view, changes no prediction (Rahaman & Thiery 2021, NeurIPS).
    """
    if temperature == 1:
        return probabilities
    return (probabilities.double().log() / temperature).softmax(1).to(probabilities.dtype)


def probabilities_of(classifier, images):
    """Return the mean probabilities, float32 (n, classes), of images, uint8 or float (n, 3, size, size)."""
    ensemble, _ = load(classifier)
    return at_temperature(ensemble(images)[0], classifier.temperature)


def predictions(files, classifier, start=0, skip=0, dask=None):
    """Yield the Batches of `files`, paths as strings, in order, without the first `start` pieces and `skip` pictures.

    dask: address of a scheduler whose workers compute.
    """
    numbered = enumerate(pieces(files))
    work = (Piece(number, *piece, skip if number == start else 0) for number, piece in numbered if number >= start)
    if dask is None:
        cores = torch.get_num_threads()
        # Reading a JPEG takes twice as long as predicting. One thread launches the kernels of a GPU.
        computing = max(1, cores // 3) if load(classifier)[0].device.type == "cpu" else 1
        with torch_threads(1):
            yield from classify(work, classifier, cores - cores // 3, computing)
        return
    work = ((piece, next(filter(os.path.exists, piece.paths), None)) for piece in work)
    yield from chain.from_iterable(side_by_side(partial(classify_there, classifier), work, dask=dask, ahead=AHEAD))


def pieces(files):
    """Yield (paths, rows) pairs of at most PIECE image files, or rows of an HDF5 file; files: paths as strings."""
    for is_hdf5, group in groupby(files, key=lambda path: path.lower().endswith(HDF5_SUFFIXES)):
        if is_hdf5:
            yield from (([path], rows) for path in group for rows in row_ranges(path))
        while paths := list(islice(group, PIECE)):
            yield paths, None


def row_ranges(path):
    """Return ranges of PIECE rows that cover an HDF5 file; [None] for a small or unreadable one."""
    try:
        with open_hdf5(Path(path)) as file:
            count = len(dataset(Path(path), file, "images"))
    except (*READ_ERRORS, ValueError):  # reported when its pictures are read
        return [None]
    if count <= PIECE:
        return [None]
    return [range(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]


def classify(work, classifier, readers, computing):
    """Yield the Batches of Pieces in order; readers, computing: numbers of threads."""
    load(classifier)

    def batches():
        for piece in work:
            ids = {}
            pictures = read_pictures(piece.paths, classifier.field, readers, piece.rows, ids)
            pictures, done = islice(pictures, piece.skip, None), piece.skip
            while pairs := list(islice(pictures, BATCH)):
                done += len(pairs)
                yield piece.number, done, pairs, ids

    def compute(batch):
        number, done, pairs, ids = batch
        errors = [unreadable(name, error) for name, error in pairs if isinstance(error, Exception)]
        pictures = [(name, pixels) for name, pixels in pairs if not isinstance(pixels, Exception)]
        return Batch(number, done, describe(pictures, ids, classifier) if pictures else [], errors)

    yield from in_order(compute, batches(), computing, ahead=computing)


def describe(pictures, ids, classifier):
    """Return a dict per picture: its record, as --json of predict.py writes it, and further entries.

    image: uint8 (3, size, size); features: float32 (64,); trained: whether it is a training image; thumbnail: string,
    or None without --html. pictures: (name, uint8 (size, size, 3)) pairs; ids: of pictures in HDF5 files, by name.
    """
    ensemble, record = load(classifier)
    class_names, numbers = record["class_names"], written_numbers(record["class_names"])
    images = torch.from_numpy(np.stack([pixels for _, pixels in pictures])).permute(0, 3, 1, 2)
    probabilities, disagreement, features = ensemble(images)
    probabilities = at_temperature(probabilities, classifier.temperature)
    order = probabilities.argsort(dim=1, descending=True, stable=True).tolist()
    probabilities, disagreement = probabilities.tolist(), disagreement.tolist()
    marks, hashes = out_of_range(images, record.get("appearance")), image_hashes(images)
    return [
        {
            "file": name,
            "id": ids.get(name) or picture_id(name),
            "class": numbers[order[row][0]],
            "class_name": class_names[order[row][0]],
            "probability": probabilities[row][order[row][0]],
            "probabilities": probabilities[row],
            "second": numbers[order[row][1]],
            "second_name": class_names[order[row][1]],
            "disagreement": disagreement[row],
            "out_of_range": marks[row],
            "image": images[row],
            "features": features[row].numpy(),
            "trained": hashes[row] in record["train_hashes"],
            "thumbnail": thumbnail(pixels) if classifier.thumbnails else None,
        }
        for row, (name, pixels) in enumerate(pictures)
    ]


def unreadable(name, error):
    """Return the error message of an unreadable picture."""
    sentence = one_line(error) or type(error).__name__
    return sentence if name in sentence else f"{name}: {sentence}"


def classify_there(classifier, item):
    """Return the Batches of a Piece as a list, without images; run by a Dask worker.

    item: the Piece, and one of its files that exists. Raises FileNotFoundError if the worker does not see that file,
    and ValueError, naming the piece, for any other error.
    """
    piece, seen = item
    if seen and not os.path.exists(seen):
        raise FileNotFoundError(errno.ENOENT, unseen("file"), seen)
    try:
        batches = list(classify([piece], classifier, readers=1, computing=1))
    except Exception as error:
        first = f"{piece.paths[0]}{f'[{piece.rows.start}]' if piece.rows else ''}"
        raise ValueError(f"the pictures from {first} on: {type(error).__name__}: {one_line(error)}") from error
    for batch in batches:
        for record in batch.records:
            del record["image"]
    return batches
