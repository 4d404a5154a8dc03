"""studies.efigi: the rule of the labels, and the file that it makes."""

import gzip

from studies.efigi import galaxy10_class, labelled_names, read_attributes, read_picture

import h5py
import numpy as np
import pytest
from conftest import EFIGI, error_of, run, run_well
from PIL import Image

SOURCES = EFIGI.parent / "efigi"
needs_efigi = pytest.mark.skipif(not SOURCES.is_dir(), reason="EFIGI's table and pictures are not beside the project")


@pytest.mark.parametrize(
    ("attributes", "label"),
    [
        ((-5, 1, 0, -1, 0), 1),  # an elliptical, round
        ((-5, 1, 0, -1, 0.5), 2),
        ((-5, 1, 0, -1, 1), 3),
        ((-2, 0.75, 0, -1, 0.75), 3),  # a lenticular
        ((-2, 0.75, 0, -1, 1), 4),
        ((11, 0, 0, -1, 0), 1),  # a dwarf spheroidal
        ((4, 0.5, 0.5, 0.5, 1), 4),  # disks edge-on
        ((7, 0, 0, -1, 1), 6),
        ((4, -1, 0.5, 0.5, 1), None),  # its bulge is unknown
        ((0, 0.5, 0, -1, 0.25), 0),  # disks face-on
        ((10, 0, 0.25, 0, 0.25), 0),
        ((8, 0, 0.25, 0, 0.25), 9),
        ((2, 0.5, 0.5, 1, 0), 7),
        ((4, 0.25, 0.75, 0.5, 0.5), 8),
        ((4, 0.25, 0.75, -1, 0.5), None),  # its arms are unknown
        ((4, 0.25, 0.75, 0.5, 0.75), None),  # neither face-on nor edge-on
    ],
)
def test_the_rule(attributes, label):
    assert galaxy10_class(*attributes) == label


def row(name, *, morphology, inclination):
    """Return a row of EFIGI's table: name, then 16 attributes with their confidence limits."""
    values = [0.0] * 48
    values[0], values[42] = morphology, inclination
    return " ".join([name, *map(str, values)])


def test_the_file_has_each_labelled_galaxy_once(tmp_path):
    names = [f"PGC{number:07}" for number in range(1, 7)]
    rows = [row(name, morphology=-5, inclination=place / 4) for place, name in enumerate(names[:5])]
    rows.append(row(names[5], morphology=5, inclination=0.75))  # without a class
    with gzip.open(tmp_path / "attributes.gz", "wt") as file:
        file.write("# comment\n" + "\n".join(rows) + "\n")
    for place, name in enumerate(names):
        Image.new("L", (88, 88), 40 * place).save(tmp_path / f"{name}.jpg")
    options = "--pictures", tmp_path, "--attributes", tmp_path / "attributes.gz", "--to", tmp_path / "efigi.h5"
    run_well("studies/efigi.py", *options)
    with h5py.File(tmp_path / "efigi.h5") as file:
        assert file["images"].shape == (5, 69, 69, 3)
        assert file["images"].dtype == file["ans"].dtype == np.uint8
        shades = dict(zip(file["pgc_name"][:], file["images"][:, 34, 34, 0].tolist(), strict=True))
        labels = dict(zip(file["pgc_name"][:], file["ans"][:].tolist(), strict=True))
    assert shades == {name.encode(): 40 * place for place, name in enumerate(names[:5])}
    assert [labels[name.encode()] for name in names[:5]] == [1, 2, 2, 3, 3]
    (tmp_path / f"{names[1]}.jpg").unlink()
    assert "lacks 1 picture, such as PGC0000002.jpg" in error_of(run("studies/efigi.py", *options))


@needs_efigi
def test_the_labels_and_the_order_match_the_measured_file():
    names, labels = labelled_names(read_attributes(SOURCES / "EFIGI_attributes.txt.gz"))
    with h5py.File(EFIGI) as file:
        assert file["pgc_name"].asstr()[:].tolist() == names
        assert file["ans"][:].tolist() == labels
        rows = {name: place for place, name in enumerate(names)}
        for path in (SOURCES / "pictures").glob("*.jpg"):
            assert np.array_equal(read_picture(path), file["images"][rows[path.stem]])
