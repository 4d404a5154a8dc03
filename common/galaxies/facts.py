"""Facts about the two published sets and the course.

Leung & Bovy's Galaxy10 SDSS, https://zenodo.org/records/10844811: SDSS pictures with Galaxy Zoo 2 labels; and Galaxy10
DECaLS, https://zenodo.org/records/10845026: larger pictures from the DESI Legacy Surveys.
"""

IMAGE_SIZE = 69  # pixels, of Galaxy10 SDSS
DECALS_SIZE = 256
DECALS_KEYS = ("ra", "dec", "redshift", "pxscale")  # datasets that only DECaLS has
CLASS_NAMES = (
    "Disk, Face-on, No Spiral",
    "Smooth, Completely round",
    "Smooth, in-between round",
    "Smooth, Cigar shaped",
    "Disk, Edge-on, Rounded Bulge",
    "Disk, Edge-on, Boxy Bulge",
    "Disk, Edge-on, No Bulge",
    "Disk, Face-on, Tight Spiral",
    "Disk, Face-on, Medium Spiral",
    "Disk, Face-on, Loose Spiral",
)
CLASS_COUNTS = (3461, 6997, 6292, 349, 1534, 17, 589, 1121, 906, 519)
MAIN_CLASSES = 8  # classes 0-7 are for training from scratch; 8 and 9 are held back for transfer
HELD_BACK = "8,9"
SUBSETS = ("main_train", "main_test", "transfer_train", "transfer_test")  # task and subset
DECALS_CLASS_NAMES = (
    "Disturbed",
    "Merging",
    "Round Smooth",
    "In-between Round Smooth",
    "Cigar Shaped Smooth",
    "Barred Spiral",
    "Unbarred Tight Spiral",
    "Unbarred Loose Spiral",
    "Edge-on without Bulge",
    "Edge-on with Bulge",
)
# Branches of Galaxy Zoo's decision tree: classes that its last questions distinguish. SDSS (Willett et al. 2013):
# face-on disks, smooth, edge-on disks; DECaLS: disturbed and merging, smooth, spirals, edge-on.
BRANCHES = {
    CLASS_NAMES: ((0, 7, 8, 9), (1, 2, 3), (4, 5, 6)),
    DECALS_CLASS_NAMES: ((0, 1), (2, 3, 4), (5, 6, 7), (8, 9)),
}
SOURCES = {  # by the `source` of a record
    "galaxy10-sdss": "Galaxy10 SDSS",
    "galaxy10-decals": "Galaxy10 DECaLS",
    "synthetic": "SYNTHETIC galaxies",
}
# The course's own solution on Galaxy10 SDSS: one unseeded run, the file's order, one T4. (accuracy, loss)
COURSE = {"q2": (0.646, 0.924), "q3": (0.818, 0.493), "q5": (0.809, 0.468)}


def branches_of(class_names):
    """Return the branches of a published set, tuples of class numbers, for its names in any order; None for others."""
    for names, branches in BRANCHES.items():
        if set(names) == set(class_names):
            return tuple(tuple(list(class_names).index(names[label]) for label in branch) for branch in branches)
    return None


def in_words(count):
    """Return a number of classes as text: a word up to ten."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else f"{count:,}"


def plural(count, noun):
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def source_title(source):
    """Return the title of the data from a record's `source`; it says SYNTHETIC if they are."""
    return SOURCES.get(source, source.removeprefix("file:"))


def short_name(class_name):
    """Return the last part of a class name: Completely round for Smooth, Completely round."""
    return class_name.rpartition(", ")[2]
