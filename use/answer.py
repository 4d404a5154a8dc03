"""What predict.py says of a picture: the record that it writes, and the name by which a catalogue knows it."""

import re
from pathlib import PurePath

from common.galaxies.pictures import HDF5_SUFFIXES, SUFFIXES

# Of the files that pictures are in, before the row of one in an HDF5 file.
SUFFIX = re.compile(
    rf"(?:(?P<hdf5>{'|'.join(map(re.escape, HDF5_SUFFIXES))})|{'|'.join(map(re.escape, SUFFIXES))})"
    r"(?:\.(?:gz|bz2|fz))?(?=(?:\[\d+\])?$)",
    re.IGNORECASE,
)


def picture_id(name):
    """Return what identifies a picture to its catalogue: the name without folder and suffix.

    more/100008.jpg gives 100008, cutouts.h5[12] gives cutouts[12].
    """
    return SUFFIX.sub("", PurePath(name).name)


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
