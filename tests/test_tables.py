"""Tables of galaxies: in which forms they are read, and which row is which picture's."""

from common.galaxies.split import class_number
from common.galaxies.tables import match_rows, read_rows

import numpy as np
import pytest

ROWS = [("100008", "round"), ("100023", "spiral"), ("100038", "")]  # the class of the last one is missing
KINDS = ["spiral", "round", "merger"]


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def pairs(path, *columns, **options):
    return [(row.id, row.class_name) for row in read_rows(path, *columns, **options)]


@pytest.mark.parametrize("text", [
    "objid,ra,class_name\n100008,1.5,round\n100023,2,spiral\n100038,,\n",
    "OBJID;ra;Class\r\n100008;1,5;round\r\n\r\n100023;2;spiral\r\n100038;;NaN\r\n;;\r\n",
    "label\tID\nround\t100008\nspiral\t100023\nnull\t100038\n",
    '\ufeff#Table1\nname,class\n100008, "round" \n 100023 ,"spiral"\n100038,NA\n',
    'sep=;\n\nfile;class\n100008;"round"\n100023;spiral\n100038;""\n',
    "CLASS,id,class\nx,100008.0,round\ny,100023.0,spiral\nz,100038.0,nan\n",
])  # fmt: skip
def test_a_csv_table_in_any_form_gives_the_same_rows(text, tmp_path):
    assert pairs(write(tmp_path / "t.csv", text)) == ROWS


@pytest.mark.parametrize("kind", [int, float, str])
@pytest.mark.parametrize("name", ["t.fits", "t.FITS.gz", "t.ecsv"])
def test_an_astropy_table_gives_the_same_rows(name, kind, tmp_path):
    Table = pytest.importorskip("astropy.table").Table
    ids = list(map(kind, (100008, 100023, 100038)))
    table = Table({"objid": ids, "class": ["round", "spiral", ""], "image": np.zeros((3, 2))})
    if name == "t.ecsv":
        del table["image"]
    table.write(tmp_path / name.lower())
    (tmp_path / name.lower()).rename(tmp_path / name)
    assert pairs(tmp_path / name) == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".fits", ".ecsv"])
def test_classes_that_are_floats_are_whole_numbers_and_nan_is_missing(suffix, tmp_path):
    Table = pytest.importorskip("astropy.table").Table
    values = [0.0, 1.0, np.nan, 1.5, -5.0]
    Table({"id": np.arange(5), "class": values}).write(tmp_path / f"t{suffix}")
    assert [row.class_name for row in read_rows(tmp_path / f"t{suffix}")] == ["0", "1", "", "1.5", "-5"]


@pytest.mark.parametrize(("suffix", "dtype", "exact", "rounded"), [
    (".csv", np.float64, 2**53 - 1, 2**53), (".fits", np.float64, 7, 42287541188009704),
    (".ecsv", np.float32, 2**24 - 1, 2**24 + 2)])  # fmt: skip
def test_ids_that_are_rounded_are_refused(suffix, dtype, exact, rounded, tmp_path):
    Table = pytest.importorskip("astropy.table").Table
    ids, path = np.array([5, exact, np.nan], dtype), tmp_path / f"t{suffix}"
    Table({"id": ids, "flux": dtype([1e20] * 3), "class": ["a"] * 3}).write(path)
    assert [row.id for row in read_rows(path)][:2] == ["5", str(exact)]
    Table({"id": np.append(ids, dtype(rounded)), "class": ["a"] * 4}).write(path, overwrite=True)
    with pytest.raises(ValueError, match="column id holds ids as floating-point numbers, which are rounded at this"):
        read_rows(path)


def test_large_integers_and_names_that_look_like_numbers_are_ids(tmp_path):
    ids, text = ["4228754118800970412", "1e300", "5.0", "x"], "id,class\n4228754118800970412,a\n1e300,a\n5.0,a\nx,a\n"
    assert [row.id for row in read_rows(write(tmp_path / "t.csv", text))] == ids


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "has no column objid or id or name or file: .*the file is empty"),
    (b"PAR1\xff\xfe\x80", "cannot be read as a table: save it as .csv, .fits or .ecsv"),
    (b"id,class\n1,a\n\n2\n", "t.csv, line 4: has 1 columns, not 2"),
    (b"#c\nid,morphology\n1,a\n", r"has no column class or .*: name one with --class \(id, morphology\)")])  # fmt: skip
def test_a_file_that_is_not_a_table_is_refused(content, sentence, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(("text", "line", "first"), [
    ("100008,round\n100023,1\n", 1, ("100008", "round")), ("GalaxyID,class\n100008,round\n", 2, ("100008", "round")),
    ("a.png;x\nb.png;round\n", 1, ("a.png", "x")), ("100008,Barred\n", 1, ("100008", "Barred")),
    ("#t\nimage,kind\n100008,round\n", 3, ("100008", "round")), ("class,name\nround,100008\n", 2, ("100008", "round")),
    ("M31,1.5\nM32,2\n", 1, ("M31", "1.5"))])  # fmt: skip
def test_with_the_names_of_classes_a_table_of_two_columns_needs_no_header(text, line, first, tmp_path):
    row = read_rows(write(tmp_path / "t.csv", text), class_names=KINDS)[0]
    assert (row.line, row.id, row.class_name) == (line, *first)


@pytest.mark.parametrize(("names", "text", "number"), [
    (KINDS, "round", 1), (KINDS, "ROUND", 1), (KINDS, "2", 2), (KINDS, "3", None), (("Sa", "SA"), "SA", 1),
    (("1", "2", "6"), "1", 0), (("1", "2", "6"), "0", None), (("1", "2", "6"), "6", 2), (("-5", "3"), "0", None),
    (("1", "b"), "1", 0), (("1", "b"), "0", 0)])  # fmt: skip
def test_a_class_is_named_or_numbered_unless_the_names_are_numbers(names, text, number):
    assert class_number(names, text) == number


def match(tmp_path, lines, pictures, ids=None):
    rows = read_rows(write(tmp_path / "t.csv", "\n".join(["id,class", *lines])))
    found = match_rows("t.csv", rows, pictures, ids)
    return {name: rows[0].class_name for name, rows in found.items()}


@pytest.mark.parametrize("form", ["{}", "{}.jpg", "images_gz2\\images\\{}.jpg", "./{}.JPG", "{}.png", " x/../{}.jpg "])
def test_rows_are_found_by_name_without_folder_and_by_stem(form, tmp_path):
    names = ["a/100008.jpg", "b/c/100023.jpg", "100038.JPG"]
    rows = [f"{form.format(number)},{number}" for number in (100023, 100038, 100008)]
    assert match(tmp_path, rows, names) == dict(zip(names, ["100008", "100023", "100038"], strict=True))


def test_compressed_cubes_and_composed_accents_have_the_same_name(tmp_path):
    assert match(tmp_path, ["m31,a", "g1.fits,b", "x\\G.jpg,c"], ["d/m31.fits.fz", "g1.fits.gz", "G.JPG"]) == {
        "d/m31.fits.fz": "a", "g1.fits.gz": "b", "G.JPG": "c"}  # fmt: skip
    assert match(tmp_path, ["galaxi\u00e91,a"], ["nfd/galaxie\u03011.jpg"]) == {"nfd/galaxie\u03011.jpg": "a"}


def test_the_exact_name_comes_first_and_ids_of_hdf5_rows_next(tmp_path):
    names = ["a/1.jpg", "b/1.jpg", "2.png", "c/m31.v2.jpg", "x.h5[3]", "y/x.h5[4]", "y/x.h5[5]", "z.jpg"]
    rows = ["a/1.jpg,p", "b/1.jpg,q", "1.jpg,r", "2.jpg,s", "m31.v2,t", "x.h5[3],u", "x[4],v", "NGC 1/2,w", "7,x", ",y"]
    ids = {"x.h5[3]": "7", "y/x.h5[4]": "NGC 9", "y/x.h5[5]": "NGC 1/2", "z.jpg": ""}
    assert match(tmp_path, rows, names, ids) == dict(zip(names, "pqstuvw", strict=False))
    assert match(tmp_path, ["a/1.jpg,p"], ["a/1.jpg", "b/1.jpg"]) == {"a/1.jpg": "p"}
    assert match(tmp_path, ["1.jpg,p", "1.PNG,q"], ["a/1.JPG", "a/1.png"]) == {"a/1.JPG": "p", "a/1.png": "q"}


def test_rows_that_agree_are_all_returned_and_a_picture_may_occur_twice(tmp_path):
    rows = read_rows(write(tmp_path / "t.csv", "id,class\n1.jpg,a\n1.jpg,a\n9,b\n"))
    found = match_rows("t.csv", rows, ["a/1.jpg", "./a/1.jpg"])
    assert [[row.line for row in found[name]] for name in ("a/1.jpg", "./a/1.jpg")] == [[2, 3], [2, 3]]


@pytest.mark.parametrize(("rows", "names", "message"), [
    (["a/1.jpg,p", "b/1.jpg,q"], ["c/1.jpg"], r"t.csv, lines 2 \(a/1.jpg\) and 3 \(b/1.jpg\): c/1.jpg is both p and q"),
    (["2.jpg,p", "1.jpg,q"], ["a/1.jpg", "b/1.jpg"], "line 3: 1.jpg could be a/1.jpg or b/1.jpg: use its full name"),
    (["3.jpg,p"], ["1.jpg"], "no row matches any of the 1 pictures, such as 1.jpg: the first row is 3.jpg"),
    ([], ["1.jpg"], "it has no rows")])  # fmt: skip
def test_ambiguous_and_contradictory_rows_are_refused(rows, names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        match(tmp_path, rows, names)
