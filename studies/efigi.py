"""Create efigi10.h5, 3,772 pictures of the EFIGI catalogue with Galaxy10's class names, from the catalogue's files.

The labels are derived from EFIGI's visual attributes (Baillard et al. 2011, A&A 532, A74), not from Galaxy Zoo votes;
no galaxy has class 5. docs/studies.md gives the rule and the sources: the pictures (SDSS gri, one JPEG per PGC name)
and the table EFIGI_attributes.txt (version 1.6.2, also compressed as .gz). The file contains images, ans and pgc_name.
"""

import gzip
from pathlib import Path

from common import cli
from common.galaxies.facts import IMAGE_SIZE, plural
from common.galaxies.hdf5 import create_hdf5

import numpy as np
from PIL import Image
from tqdm import tqdm

EXAMPLES = ("python -m studies.efigi --pictures galaxies/ --attributes EFIGI_attributes.txt --to efigi10.h5",)
ORDER_SEED = 467  # of the permutation of the rows
# Positions of the attributes in a row; each is followed by its lower and upper confidence limits.
TYPE, BULGE, ARM_STRENGTH, ARM_CURVATURE, INCLINATION = 1, 4, 7, 10, 43


def read_attributes(path):
    """Return the table's attributes by PGC name: morphological type, bulge, arm strength, arm curvature, inclination.

    All but the type are 0 to 1 in steps of 0.25; -1 is unknown.
    """
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt") as file:
        rows = [line.split() for line in file if line.startswith("PGC")]
    columns = TYPE, BULGE, ARM_STRENGTH, ARM_CURVATURE, INCLINATION
    try:
        attributes = {row[0]: [float(row[column]) for column in columns] for row in rows}
    except (IndexError, ValueError):
        attributes = {}
    if not attributes:
        raise ValueError(f"{path} is not EFIGI_attributes.txt, version 1.6.2")
    return attributes


def galaxy10_class(morphology, bulge, strength, curvature, inclination):
    """Return the number of a galaxy's Galaxy10 class, or None if no rule applies."""
    spheroid = morphology <= -4 or morphology == 11
    lenticular = -3 <= morphology <= -1
    disk = 0 <= morphology <= 10
    if spheroid or lenticular:
        if inclination in (0, 0.25, 0.5):
            return 1 if inclination == 0 else 2  # completely round, in-between round
        if inclination == 0.75 or (spheroid and inclination == 1):
            return 3  # cigar shaped
        return 4 if inclination == 1 else None  # a lenticular edge-on, rounded bulge
    if disk and inclination == 1:
        return 4 if bulge >= 0.25 else 6 if bulge == 0 else None  # rounded bulge, no bulge
    if disk and 0 <= inclination <= 0.5:
        if strength == 0 or (morphology >= 9 and 0 < strength <= 0.25):
            return 0  # face-on, no spiral
        if curvature >= 0.5:
            return 7 if curvature >= 0.75 else 8  # tight, medium spiral
        return 9 if curvature >= 0 else None  # loose spiral
    return None


def labelled_names(attributes):
    """Return the PGC names of the galaxies with a class, in the order of the file's rows, and their classes."""
    classes = {name: galaxy10_class(*values) for name, values in attributes.items()}
    names = sorted(name for name, label in classes.items() if label is not None)
    names = np.random.default_rng(ORDER_SEED).permutation(names).tolist()
    return names, [classes[name] for name in names]


def read_picture(path):
    """Return a picture in Galaxy10's format, uint8 (69, 69, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS))


def main():
    args = get_args()
    names, labels = labelled_names(read_attributes(args.attributes))
    paths = [Path(args.pictures) / f"{name}.jpg" for name in names]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{args.pictures} lacks {plural(len(missing), 'picture')}, such as {missing[0]}: see docs/studies.md"
        )
    with create_hdf5(args.to) as file:
        file["images"] = np.stack([read_picture(path) for path in tqdm(paths, disable=None, leave=False)])
        file["ans"] = np.array(labels, np.uint8)
        file["pgc_name"] = np.array(names, "S")
    print(f"{args.to}: {len(names):,} pictures; next: make all DATA={args.to} MAIN_TRAIN=2100 TRANSFER_TRAIN=800")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--pictures", type=cli.path, required=True, metavar="DIR", help="folder of pictures: PGC0000212.jpg, …")
    add("--attributes", type=cli.path, required=True, metavar="FILE", help="EFIGI_attributes.txt, plain or as .gz")
    add("--to", type=cli.path, required=True, metavar="FILE", help="HDF5 file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
