"""What predict.py writes and where, which files it refuses to write, and the true classes that it compares with."""

import csv
import io
import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from common import cli
from common.galaxies.pictures import picture_id
from use.output import FeaturesFile, table_format
from use.truth import Truth

import h5py
import numpy as np
import pytest
from conftest import error_of, run
from forked import start
from networks import galaxies, save_network, save_pictures
from PIL import Image

NAMES = ["spiral", "round", "merger"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights and twelve pictures, named by number."""
    folder = tmp_path_factory.mktemp("files")
    save_network(folder)
    save_pictures(folder / "pictures", [f"{100008 + 15 * number}.jpg" for number in range(12)])
    return folder


def predict(folder, *args):
    return run("predict.py", *args, "--model", folder / "q3_cnn.pt")


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def truth_of(tmp_path, *rows, names=("100008.jpg", "100023.jpg")):
    """The classes that a table gives to pictures, or the error, in which the table is called truth.csv."""
    path = tmp_path / "truth.csv"
    path.write_text("\n".join(rows))
    try:
        truth = Truth(path, NAMES)
        truth.prepare(list(names))
        return [truth.label(name) for name in names]
    except ValueError as error:
        return str(error).replace(str(path), "truth.csv")


def test_the_columns_have_names_of_letters_digits_and_underscores_and_no_cell_is_empty(folder, tmp_path):
    (tmp_path / "truth.csv").write_text("100008,3\n")
    Image.new("RGB", (100, 100), "white").save(tmp_path / "white.png")
    done = predict(folder, folder / "pictures", tmp_path / "white.png", "--csv", tmp_path / "a.csv")
    assert done.returncode == 0
    rows, probabilities = rows_of(tmp_path / "a.csv"), [f"p_{label}" for label in range(8)]
    columns = ["file", "id", "class", "class_name", "probability", *probabilities, "second", "second_name"]
    assert list(rows[0]) == [*columns, "disagreement", "out_of_range"]
    assert [row["id"] for row in rows] == [*(str(100008 + 15 * number) for number in range(12)), "white"]
    assert rows[-1]["out_of_range"].startswith("brightness 1.000")
    assert {row["out_of_range"] for row in rows[:-1]} >= {"none"}
    assert all(value for row in rows for value in row.values())
    assert "\r" not in (tmp_path / "a.csv").read_bytes().decode()
    predict(folder, folder / "pictures", "--csv", tmp_path / "b.csv", "--truth", tmp_path / "truth.csv")
    rows = rows_of(tmp_path / "b.csv")
    assert list(rows[0])[-2:] == ["truth", "truth_name"]
    assert (rows[0]["truth"], rows[1]["truth"], rows[1]["truth_name"]) == ("3", "-1", "none")


def test_pieces_of_a_catalogue_stack_in_astropy(folder, tmp_path):
    table = pytest.importorskip("astropy.table")
    Image.new("RGB", (100, 100), "white").save(tmp_path / "white.png")
    for name, pictures in (("a", [tmp_path / "white.png"]), ("b", sorted((folder / "pictures").iterdir())[:3])):
        predict(folder, *pictures, "--csv", tmp_path / f"{name}.csv", "--json", tmp_path / f"{name}.json")
    pieces = [table.Table.read(tmp_path / f"{name}.csv") for name in "ab"]
    whole = table.vstack([pieces[1], pieces[1]])
    assert pieces[0]["out_of_range"].dtype.kind == whole["out_of_range"].dtype.kind == "U"
    assert not any(column.dtype.kind == "O" or hasattr(column, "mask") for column in whole.columns.values())
    for piece, name in zip(pieces, "ab", strict=True):  # floats, to the last bit
        for row, record in zip(piece, json.loads((tmp_path / f"{name}.json").read_text()), strict=True):
            assert [row[f"p_{label}"] for label in range(8)] == record["probabilities"]
            assert (row["class"], row["class_name"]) == (record["class"], record["class_name"])


def names_of_all_kinds(folder):
    """Write pictures with names that tables find hard, and HDF5 files with ids and without; return these files."""
    pixels = galaxies(3, seed=2)
    names = ("1237648720693755918.png", 'a, "b" #é.png', f"{'long' * 30}.png", "1e5.png", "nan.png", "true.png")
    for name in names:
        Image.fromarray(pixels[0]).save(folder / name)
    ids = {"a": {"objid": np.array([2**60, -1, 0]), "id": ["no", "no", "no"]}, "b": {"id": ["NGC 1", "", "é\n"]},
           "c": {"objid": np.array([b"x", b"y", b"z"])}, "d": {"id": np.zeros(3)}, "e": {"id": np.arange(2)}, "f": {},
           "g": {"objid": [2**63 - 1] * 3}}  # fmt: skip
    for name, datasets in ids.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for key, values in ({"images": pixels} | datasets).items():
                file[key] = values
    return [folder / name for name in (*names, *(f"{name}.h5" for name in ids))]


IDS = ["1237648720693755918", 'a, "b" #é', "long" * 30, "1e5", "nan", "true", str(2**60), "-1", "0", "NGC 1", "b[1]"]
IDS += [r"é\n", *"xyz", *(f"{name}[{row}]" for name in "def" for row in range(3)), *[str(2**63 - 1)] * 3]


@pytest.mark.parametrize("suffix", [".ecsv", ".FIT"])
def test_tables_of_astropy_hold_what_the_csv_holds_typed_and_join_and_stack(folder, tmp_path, suffix):
    table = pytest.importorskip("astropy.table")
    files, found = names_of_all_kinds(tmp_path), {}
    (tmp_path / "truth.csv").write_text(f"1e5,3\n{IDS[0]},2\nmissing,1\n")
    for piece, some in (("whole", files), ("first", files[:1]), ("none", [tmp_path / "missing.png"])):
        outputs = ("--csv", tmp_path / f"{piece}{suffix}", "--truth", tmp_path / "truth.csv")
        predict(folder, *some, *outputs)
        predict(folder, *some, "--csv", tmp_path / f"{piece}.csv", *outputs[2:])
        kind = "ascii.ecsv" if suffix == ".ecsv" else "fits"
        found[piece] = table.Table.read(tmp_path / f"{piece}{suffix}", format=kind)
        found[piece].convert_bytestring_to_unicode()
    rows, whole = rows_of(tmp_path / "whole.csv"), found["whole"]
    assert [row["id"] for row in rows] == IDS
    assert whole.colnames == list(rows[0])
    for name, column in whole.columns.items():
        kind = {"i": int, "f": float, "U": str}[column.dtype.kind]
        expected = [kind(row[name]) for row in rows]
        if suffix != ".ecsv" and kind is str:  # FITS has ASCII alone
            expected = [text.encode("ascii", "backslashreplace").decode() for text in expected]
        assert column.tolist() == expected
        assert not hasattr(column, "mask")
        for piece in ("first", "none"):
            assert found[piece][name].dtype.kind == column.dtype.kind
    assert whole["id"].dtype.kind == "U"
    stacked = table.vstack([found["none"], found["first"], whole])
    assert stacked["id"].tolist()[1:] == whole["id"].tolist()
    catalogue = table.Table({"objid": [IDS[0], IDS[6]], "ra": [1.5, 2.5]})
    joined = table.join(catalogue, whole, keys_left="objid", keys_right="id")
    assert joined["ra"].tolist() == [2.5, 1.5]  # sorted by id, as texts
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith((".png", ".h5", ".csv")))
    assert left == sorted(f"{piece}{suffix}" for piece in found)


def test_ids_that_cannot_be_used_are_named_in_a_line(folder, tmp_path):
    done = predict(folder, *names_of_all_kinds(tmp_path), "--quiet")
    kinds = {"d": "float64 (3,)", "e": "int64 (2,)"}
    expected = [f"'id' is {kind}, not one text or whole number per image" for kind in kinds.values()]
    assert done.stderr.splitlines() == [
        f"{tmp_path}/{name}.h5: its ids are not used: {line}" for name, line in zip(kinds, expected, strict=True)
    ]


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.fits")
    for name, sentence in (
        ("a.fits.gz", "compressed tables are not written: leave out .gz"),
        ("fifo.fits", "is a device or a pipe"),
    ):
        options = ("--model", tmp_path / "none.pt", "--csv", tmp_path / name)
        assert sentence in error_of(run("predict.py", tmp_path / "none.png", *options))
    assert [path.name for path in tmp_path.iterdir()] == ["fifo.fits"]
    monkeypatch.setitem(sys.modules, "astropy", None)
    with pytest.raises(ValueError, match=r"^--csv a\.fits: writing it needs astropy: pip install astropy$"):
        table_format("a.fits")


@pytest.mark.parametrize(("name", "expected"), [
    ("more/100008.jpg", "100008"), ("a.b.JPEG", "a.b"), ("cutouts.h5[12]", "cutouts[12]"), ("x/m31.fits.gz", "m31"),
    ("getjpeg?ra=184.9511&dec=-0.8754", "getjpeg?ra=184.9511&dec=-0.8754"), ("J1234.5+67.8.png", "J1234.5+67.8"),
])  # fmt: skip
def test_an_id_is_the_name_without_folder_and_suffix(name, expected):
    assert picture_id(name) == expected


@pytest.mark.parametrize("form", ["{}", "{}.jpg", "images_gz2\\images\\{}.jpg", "./{}.JPG", "{}.png", " x/../{}.jpg "])
def test_rows_are_found_by_name_without_folder_and_by_stem(tmp_path, form):
    names = ("a/100008.jpg", "b/c/100023.jpg", "100038.JPG")
    rows = (f"{form.format(number)},{label}" for number, label in ((100023, 1), (100038, "Merger"), (100008, 0)))
    assert truth_of(tmp_path, "GalaxyID,class", *rows, names=names) == [0, 1, 2]


def test_the_exact_name_comes_first_and_a_row_of_another_picture_is_nobodys(tmp_path):
    names = ("a/1.jpg", "b/1.jpg", "2.png", "c/m31.v2.jpg", "x.h5[3]", "y/x.h5[4]", "z.jpg")
    rows = ("a/1.jpg,1", "b/1.jpg,2", "1.jpg,0", "2.jpg,0", "m31.v2,2", "x.h5[3],1", "x[4],2")
    assert truth_of(tmp_path, *rows, names=names) == [1, 2, 0, 2, 1, 2, None]
    assert truth_of(tmp_path, "a/1.jpg,1", names=("a/1.jpg", "b/1.jpg")) == [1, None]
    assert truth_of(tmp_path, "a/1.jpg,1", "b/1.jpg,1", names=("/far/1.jpg", "2.jpg")) == [1, None]  # they agree


@pytest.mark.parametrize(("rows", "names", "message"), [
    (("a/1.jpg,0", "b/1.jpg,1"), ("c/1.jpg",), "truth.csv: c/1.jpg could be that of lines 1 (a/1.jpg) and 2 (b/1.jpg)"),
    (("1.png,0", "1.jpg,1"), ("1.gif",), "truth.csv: 1.gif could be that of lines 1 (1.png) and 2 (1.jpg)"),
    (("name,class", "1.jpg,0"), ("a/1.jpg", "b/1.jpg"), "truth.csv, line 2: 1.jpg could be a/1.jpg or b/1.jpg"),
    (("7,0",), ("7.jpg", "7.png"), "truth.csv, line 1: 7 could be 7.jpg or 7.png"),
    (("1.jpg,0", "./1.jpg,1"), (), "truth.csv, line 2: ./1.jpg has two classes: spiral in line 1, here round"),
    (("a.png,Barred",), (), "truth.csv, line 1: must be name,class with a class of 0 to 2, or its name: spiral"),
    (("name,class", "name,class"), (), "truth.csv, line 2: must be"),
    (("", "name,class", "1.jpg,"), (), "truth.csv, line 3: must be"),
    (("1.jpg,3",), (), "truth.csv, line 1: must be name,class with a class of 0 to 2"),
    (("1.jpg",), (), "truth.csv, line 1: must be"),
    (("name,class",), (), "truth.csv holds no true class"),
    (("100008,Unknown", "2,0"), (), "truth.csv, line 1: must be"),
    (("name,class", ",0"), (), "truth.csv, line 2: must be"),
    (("name,-1", "1.jpg,0"), (), "truth.csv, line 1: must be"),
    (("3.jpg,0",), ("1.jpg",), "no row for any of the pictures: its first name is 3.jpg, and a picture is 1.jpg"),
])  # fmt: skip
def test_what_is_ambiguous_unknown_or_contradicts_is_refused_with_its_row(tmp_path, rows, names, message):
    assert message in truth_of(tmp_path, *rows, names=names)


def test_equal_rows_and_repeated_pictures_are_fine(tmp_path):
    assert truth_of(tmp_path, "1.jpg,0", "1.jpg,spiral", names=("a/1.jpg", "./a/1.jpg")) == [0, 0]


def test_truth_says_how_many_pictures_have_none_and_refuses_a_file_of_others(folder, tmp_path):
    (tmp_path / "truth.csv").write_text("\ufeffGalaxyID,class\n100008,3\n100023,Merger\n".replace("Merger", "2"))
    outputs = ("--html", tmp_path / "a.html")
    done = predict(folder, folder / "pictures", "--truth", tmp_path / "truth.csv", *outputs)
    assert "on 2 pictures. 10 of 12 pictures have no true class." in done.stdout
    assert "10 of 12 pictures have no true class." in (tmp_path / "a.html").read_text()
    (tmp_path / "other.csv").write_text("587,3\n")
    done = predict(folder, folder / "pictures", "--truth", tmp_path / "other.csv", "--csv", tmp_path / "a.csv")
    assert "other.csv has no row for any of the pictures" in error_of(done)
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("outputs", [
    ("--csv", "truth.csv"), ("--csv", "link.csv"), ("--json", "q3_cnn.json"), ("--html", "q3_cnn.pt"),
    ("--csv", "100008.jpg"), ("--csv", "new", "--json", "./new"), ("--csv", "new", "--html", "far/new"),
    ("--json", "hard.png"),
])  # fmt: skip
def test_an_output_that_is_also_an_input_or_another_output_is_refused(folder, tmp_path, outputs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("q3_cnn.pt", "q3_cnn.json", "pictures/100008.jpg"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "truth.csv").write_text("100008,3\n")
    (tmp_path / "link.csv").symlink_to("truth.csv")
    (tmp_path / "hard.png").hardlink_to("100008.jpg")
    (tmp_path / "far").symlink_to(".")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    outputs = [value if value.startswith("--") else tmp_path / value for value in outputs]
    if "./new" in map(str, outputs):
        outputs[-1] = f"{tmp_path}/./new"
    options = ("--truth", tmp_path / "truth.csv", "--model", tmp_path / "q3_cnn.pt")
    assert "is the same file as" in error_of(run("predict.py", tmp_path / "100008.jpg", *options, *outputs))
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_a_list_on_stdin_and_pictures_in_a_folder_are_inputs_too(folder, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/pictures/100008.jpg\n")
    done = run("predict.py", "-", "--model", folder / "q3_cnn.pt", "--csv", listed, stdin=listed)
    assert f"error: --csv {listed} is the same file as the list on stdin" in error_of(done)
    shutil.copy(folder / "pictures" / "100008.jpg", tmp_path / "a.jpg")
    assert "the same file as the picture" in error_of(predict(folder, tmp_path, "--html", tmp_path / "a.jpg"))
    Image.new("RGB", (80, 80)).save(tmp_path / "00000_a.png")
    done = predict(folder, tmp_path / "a.jpg", tmp_path / "00000_a.png", "--explain", tmp_path)
    assert "--explain" in error_of(done)


def test_devices_pipes_and_links_are_written_through(folder, tmp_path):
    picture = folder / "pictures" / "100008.jpg"
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    os.mkfifo(tmp_path / "json")
    records = ThreadPoolExecutor(1).submit((tmp_path / "json").read_text)
    done = predict(folder, picture, "--csv", tmp_path / "link.csv", "--json", tmp_path / "json")
    assert done.returncode == 0
    assert [record["file"] for record in json.loads(records.result(60))] == [str(picture)]
    assert (tmp_path / "link.csv").is_symlink()
    assert [row["file"] for row in rows_of(tmp_path / "real.csv")] == [str(picture)]
    assert "--html: the name of the file is empty" in error_of(predict(folder, picture, "--html", ""))


@pytest.mark.parametrize("count", [0, 3])
def test_features_are_as_many_as_the_backbone_has(tmp_path, count):
    file, features = FeaturesFile(tmp_path / "a.npz"), np.random.default_rng(0).random((count, 32), np.float32)
    file.open()
    for number, row in enumerate(features):
        file.write({"file": f"{number}.png", "id": str(number)}, None, row)
    file.complete()
    file.rename()
    with np.load(tmp_path / "a.npz") as found:
        assert found["features"].shape == (count, 32 if count else 64)
        assert found["features"].tolist() == features.tolist()


def test_on_standard_output_the_csv_stands_alone(folder):
    done = predict(folder, folder / "pictures", "--csv", "/dev/stdout")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["id"] for row in rows] == [str(100008 + 15 * number) for number in range(12)]
    assert "It knows 8 classes" in done.stderr


def read_a_line(fifo):
    with open(fifo) as file:
        file.readline()


def test_when_nobody_reads_the_table_the_files_are_completed(folder, tmp_path):
    outputs = ("--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    model = ("--model", folder / "q3_cnn.pt")
    pictures = [folder / "pictures"] * 20  # a table larger than what is buffered
    os.mkfifo(tmp_path / "stdout")
    for options, status in ((outputs, 0), ((), 141)):
        threading.Thread(target=read_a_line, args=[tmp_path / "stdout"]).start()
        errors = tmp_path / f"errors-{status}"
        process = start("predict.py", *pictures, *model, *options, log=tmp_path / "stdout", errors=errors)
        process.join(120)
        assert process.exitcode == status
        assert errors.read_text() == ""
    assert len(rows_of(tmp_path / "a.csv")) == len(json.loads((tmp_path / "a.json").read_text())) == 240
    assert "</html>" in (tmp_path / "a.html").read_text()
    (tmp_path / "a.csv").unlink()
    process = start("predict.py", *pictures, *model, *outputs, log="/dev/full", errors=tmp_path / "errors")
    process.join(120)
    assert process.exitcode == 2
    assert (tmp_path / "errors").read_text() == "error: standard output: No space left on device\n"
    assert len(rows_of(tmp_path / "a.csv")) == 240


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "cp932", "ascii"])
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch, tmp_path, encoding):
    def main():
        print("59.9% – 63.1% × …")
        (tmp_path / "file").write_text("complete")
        print("error: … —", file=sys.stderr)

    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        monkeypatch.setattr(sys, name, stream)
    cli.run(main)
    assert (tmp_path / "file").read_text() == "complete"
    shown = [stream.buffer.getvalue().decode(encoding) for stream in (sys.stdout, sys.stderr)]
    for text, original in zip(shown, ("59.9% – 63.1% × …\n", "error: … —\n"), strict=True):
        for character in set(original):
            escape = character.encode(encoding, "backslashreplace").decode(encoding)
            assert text.count(escape) >= original.count(character)
