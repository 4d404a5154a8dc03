"""Your own galaxies: cutouts.py, any number of classes, what is held back for transfer, and docs/own-galaxies.md."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from common.data import load_data
from common.galaxies.facts import BRANCHES, CLASS_NAMES, DECALS_CLASS_NAMES, branches_of
from common.galaxies.split import hold_back, task_names
from common.galaxies.synthetic import synthetic_galaxy10
from q3_cnn import make_backbone
from q5_transfer import fit_optimum
from studies.methods.runs import resplit
from use.trained import load_network

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, crop_transform, error_of, loaders_of, made_once, random_data, run, run_well
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KINDS = ("disk", "smooth", "smooth", "smooth", "edge-on", "edge-on", "edge-on", "spiral", "spiral", "spiral")
OWN = ("irregular", "smooth", "spiral", "edge-on", "disk")
COUNT = 100
OBJID = 1237648720693755918
HEADER = "objid,ra,dec,class_name,subset"


def own_galaxies(folder):
    """Write 100 synthetic galaxies as pictures/*.jpg, and their five classes as table.csv; return the table's rows."""
    labels, blocks = synthetic_galaxy10(COUNT, seed=3)
    (folder / "pictures" / "south").mkdir(parents=True)
    rows = []
    for index, (pixels, label) in enumerate(zip(np.concatenate(list(blocks)), labels, strict=True)):
        kind = "irregular" if index % 7 == 0 else KINDS[label]
        name = f"{'south/' if index % 3 == 0 else ''}{OBJID + index}.jpg"
        Image.fromarray(pixels).save(folder / "pictures" / name, quality=95)
        rows.append([str(OBJID + index), f"{index}.5", "-1", kind, "test" if index % 5 == 0 else "Train"])
    write_table(folder / "table.csv", rows)
    return rows


def write_table(path, rows):
    path.write_text("\n".join([HEADER, *map(",".join, rows), ""]))
    return path


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """The folder of pictures/, table.csv and own.h5, and the rows of the table; in out/ what Q1 makes of them."""

    def make(folder):
        rows = own_galaxies(folder)
        cutouts(folder, folder / "own.h5", "--split-column", "subset")
        run_well("q1_data.py", "--data", folder / "own.h5", "--split", "stratified", "--out", folder / "out")
        return rows

    return made_once(tmp_path_factory, "own", make)


def cutouts(folder, to, *options, table=None):
    return run_well("cutouts.py", folder / "pictures", table or folder / "table.csv", "--to", to, *options)


def read(out, name="q1_data"):
    return json.loads((out / f"{name}.json").read_text())


def images_by_id(data):
    """Return the image and the class name of each id in Q1's data."""
    found = {}
    for task, names in task_names(data).items():
        for subset in ("train", "test"):
            kinds = (data[f"{task}_{subset}_{kind}"] for kind in ("ids", "images", "labels"))
            for key, image, label in zip(*kinds, strict=True):
                found[key] = image.permute(1, 2, 0).numpy(), names[label]
    return found


def test_each_picture_of_the_table_comes_with_its_class_and_id(own):
    folder, rows = own
    data = load_data(folder / "out")
    assert data["class_names"] == sorted(OWN)
    found = images_by_id(data)
    assert found.keys() == {row[0] for row in rows}
    for key, *_, kind, _ in rows:
        [path] = (folder / "pictures").rglob(f"{key}.jpg")
        assert (found[key][0] == np.asarray(Image.open(path))).all()
        assert found[key][1] == kind
    for subset in ("train", "test"):  # the place in the table
        places = data[f"main_{subset}_indices"].tolist()
        assert [rows[place][0] for place in places] == data[f"main_{subset}_ids"]
    counts = read(folder / "out")["counts"]
    shares = np.array(counts["main_train"]) / np.add(counts["main_train"], counts["main_test"])
    assert (np.abs(shares - 18000 / 20360) < 0.1).all()
    assert counts["transfer_train"] == counts["transfer_test"] == []


def test_the_field_is_the_central_part_as_in_predict(own, tmp_path):
    folder, rows = own
    cutouts(folder, tmp_path / "own.h5", "--field", 0.5)
    [path] = (folder / "pictures").rglob(f"{rows[1][0]}.jpg")
    middle = Image.open(path).resize((69, 69), Image.Resampling.BILINEAR, (17.25, 17.25, 51.75, 51.75))
    with h5py.File(tmp_path / "own.h5") as file:
        assert (file["images"][1] == np.asarray(middle)).all()


def test_what_does_not_fit_is_counted_and_left_out(own, tmp_path):
    folder, rows = own
    changed = [*rows[:90], rows[0], ["77", "", "", "spiral", "train"], [*rows[90][:3], "nan", "train"]]
    table = write_table(tmp_path / "t.csv", changed)
    printed = cutouts(folder, tmp_path / "own.h5", table=table)
    assert f"{table}: 90 pictures of {folder / 'pictures'}; left out: 1 row without a class; 1 row wi" in printed
    assert "1 row without a picture; 1 row repeated; 10 pictures without a row\n" in printed
    with h5py.File(tmp_path / "own.h5") as file:
        assert [key.decode() for key in file["id"]] == [row[0] for row in rows[:90]]


def test_ids_may_be_paths_within_the_folder_or_with_it(own, tmp_path):
    folder, rows = own
    (tmp_path / "pictures" / "copy").mkdir(parents=True)
    for index, row in enumerate(rows[:8]):  # the same names in two folders
        name = f"{'south/' if index % 3 == 0 else ''}{row[0]}.jpg"
        for copy in ("", "copy/"):
            (tmp_path / "pictures" / copy / f"{index}.jpg").write_bytes((folder / "pictures" / name).read_bytes())
    for prefix in ("", "pictures/", f"{tmp_path}/pictures/"):
        lines = [f"{prefix}{copy}{index}.JPG,{len(copy)}" for index in range(8) for copy in ("", "copy\\")]
        (tmp_path / "t.csv").write_text("\n".join(["file,class", *lines]))
        os.chdir(tmp_path)
        place = tmp_path if prefix.startswith("/") else Path()
        printed = run_well("cutouts.py", place / "pictures", tmp_path / "t.csv", "--to", tmp_path / "own.h5")
        os.chdir(ROOT)
        assert "8 pictures repeated byte for byte, 8 of them with another class than the first one\n" in printed
        with h5py.File(tmp_path / "own.h5") as file:
            assert file["ans"][:].tolist() == [0, 1] * 8


FAULTS = {
    "two classes of one picture": (lambda rows: [*rows, [*rows[0][:3], "disk", "train"]], (),
                                   rf"lines 2 \({OBJID}\) and 102 .*jpg is both irregular and disk: leave one row for"),
    "no such column": (lambda rows: rows, ("--class", "morphology"), "has no column morphology: name one with --class"),
    "a column of ids": (lambda rows: rows, ("--id", "ra"), "no row names one of the 100 pic.*; name another"),
    "a column of numbers as classes": (lambda rows: rows, ("--class", "ra"), "100 different classes, such as"),
    "one class": (lambda rows: [[*row[:3], "galaxy", "train"] for row in rows], (), "1 different classes"),
    "no rows": (lambda rows: [], (), "it has no rows"),
    "no split": (lambda rows: rows, ("--split-column", "ra"), "must be train or test for each picture, not"),
    "no split of one": (lambda rows: [*rows[:-1], [*rows[-1][:4], ""]], ("--split-column", "subset"), r"not \[''\]"),
    "an address of something else": (lambda rows: rows, ("--to", "table.csv"), "the name of an HDF5 file ends in .h5"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_table_that_cannot_be_used_is_one_line_and_the_file_stays(case, own, tmp_path):
    change, options, sentence = FAULTS[case]
    table = write_table(tmp_path / "t.csv", change(own[1]))
    (tmp_path / "own.h5").write_text("before")
    done = run("cutouts.py", own[0] / "pictures", table, "--to", tmp_path / "own.h5", *options)
    assert re.search(sentence, error_of(done))
    assert (tmp_path / "own.h5").read_text() == "before"


def test_pictures_that_cannot_be_read_are_named_and_names_of_two_stop_the_run(tmp_path):
    rows = own_galaxies(tmp_path)
    options = (tmp_path / "pictures", tmp_path / "table.csv", "--to", tmp_path / "own.h5")
    for row in rows[1:20]:
        next((tmp_path / "pictures").rglob(f"{row[0]}.jpg")).write_bytes(b"\xff\xd8\xff no picture")
    done = run("cutouts.py", *options)
    assert "19 of 100 pictures cannot be read: replace them, or remove their rows" in error_of(done)
    assert [line for line in done.stderr.splitlines() if f"{rows[1][0]}.jpg: " in line]
    assert len(done.stderr.splitlines()) == 11
    assert not (tmp_path / "own.h5").exists()
    (tmp_path / "pictures" / "south" / f"{rows[1][0]}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert f"line 3: {rows[1][0]} could be {rows[1][0]}.jpg or south/{rows[1][0]}.png" in error_of(
        run("cutouts.py", *options)
    )
    assert "is no folder of pictures" in error_of(run("cutouts.py", tmp_path / "none", *options[1:]))
    assert "python cutouts.py" in error_of(run("q1_data.py", "--data", tmp_path / "pictures", "--out", tmp_path / "o"))


def test_a_split_in_the_file_is_kept_also_by_the_studies_unless_another_is_named(own, tmp_path):
    folder, rows = own
    options = ("--data", folder / "own.h5", "--hold-back", "edge-on;irregular")
    run_well("q1_data.py", *options, "--out", tmp_path)
    data = load_data(tmp_path)
    subset_of = {row[0]: row[4].lower() for row in rows}
    for task in ("main", "transfer"):
        for subset in ("train", "test"):
            assert {subset_of[key] for key in data[f"{task}_{subset}_ids"]} == {subset}
    run_well("q1_data.py", *options, "--seed", 5, "--out", tmp_path / "other")
    same_as(resplit(data, 5), load_data(tmp_path / "other"))
    other = load_data(folder / "out")  # by --split stratified
    assert (data["own_split"], other["own_split"]) == (True, False)
    assert {subset_of[key] for key in other["main_test_ids"]} == {"train", "test"}
    for given, sentence in (
        ("--main-train", "leave out --main-train"),
        ("--transfer-train", "no classes are held back"),
    ):
        done = run("q1_data.py", "--data", folder / "own.h5", given, 30, "--out", tmp_path / "new")
        assert sentence in error_of(done)


def same_as(data, other):
    assert data["class_names"] == other["class_names"]
    for subset in ("main_train", "main_test", "transfer_train", "transfer_test"):
        for kind in ("images", "labels", "indices"):
            assert torch.equal(data[f"{subset}_{kind}"], other[f"{subset}_{kind}"])
    assert torch.allclose(data["mean"], other["mean"])


def test_classes_held_back_come_last_with_the_images_that_had_their_names(own, tmp_path):
    folder, rows = own
    printed = run_well("q1_data.py", "--data", folder / "own.h5", "--split", "stratified",
                       "--hold-back", "edge-on,2,disk", "--out", tmp_path)  # fmt: skip
    assert re.search(r"^Of \d+ of classes 0-1 \d+ are for training, and of \d+ of 2, 3 and 4 \d+ \(", printed, re.M)
    data = load_data(tmp_path)
    assert task_names(data) == {"main": ["smooth", "spiral"], "transfer": ["disk", "edge-on", "irregular"]}
    assert {key: name for key, (_, name) in images_by_id(data).items()} == {row[0]: row[3] for row in rows}
    assert read(tmp_path)["counts"]["transfer_train"] == data["transfer_train_labels"].bincount().tolist()
    run_well("q3_cnn.py", "--epochs", 1, "--device", "cpu", "--out", tmp_path)
    printed = run_well("q5_transfer.py", "--epochs", 2, "--device", "cpu", "--out", tmp_path)
    record = read(tmp_path, "q5_transfer")
    assert record["class_names"] == ["disk", "edge-on", "irregular"]
    assert np.sum(record["confusion"]) == record["test_count"]
    assert len(re.findall(r"^  \S+ +\d+ predicted as disk, +\d+ as edge-on, +\d+ as irregular$", printed, re.M)) == 3
    assert load_network(tmp_path / "q5_transfer.pt").name == "q5_transfer"


@pytest.mark.parametrize(("names", "given", "order", "main"), [
    (CLASS_NAMES, None, CLASS_NAMES, 8), (DECALS_CLASS_NAMES, None, DECALS_CLASS_NAMES, 8), (OWN, None, OWN, 5),
    (CLASS_NAMES, "none", CLASS_NAMES, 10), (tuple("abcdefghij"), None, tuple("abcdefghij"), 10),
    (CLASS_NAMES, "8,9", CLASS_NAMES, 8), (CLASS_NAMES, "0, 1", (*CLASS_NAMES[2:], *CLASS_NAMES[:2]), 8),
    (CLASS_NAMES, f"{CLASS_NAMES[9]}; {CLASS_NAMES[0]}", (*CLASS_NAMES[1:9], CLASS_NAMES[0], CLASS_NAMES[9]), 8),
    (OWN, "spiral,0,smooth", ("edge-on", "disk", "irregular", "smooth", "spiral"), 2),
    (("1", "2", "3", "0"), "1,2", ("3", "0", "1", "2"), 2)])  # fmt: skip
def test_held_back_are_galaxy10s_last_two_or_what_is_given_by_name_or_number(names, given, order, main):
    classes = hold_back(names, given)
    assert (classes.names, classes.main) == (order, main)
    assert [classes.names[number] for number in classes.numbers] == list(names)


@pytest.mark.parametrize(("names", "given", "sentence"), [
    (OWN, "disk,ring", "--hold-back ring: no such class: give numbers or names of 0 irregular; 1 smooth;"),
    (OWN, "disk", "is one class, and Q5 needs at least two"), (OWN, "1,2,3,disk", "leaves one for Q2"),
    (tuple("123456"), "0,2", "--hold-back 0: no such class: give names of 1; 2; 3;")])  # fmt: skip
def test_what_cannot_be_held_back_is_refused(names, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        hold_back(names, given)


def test_branches_are_known_in_any_order_of_the_classes():
    names = hold_back(CLASS_NAMES, "1,4").names
    named = [{names[label] for label in branch} for branch in branches_of(names)]
    assert named == [{CLASS_NAMES[label] for label in branch} for branch in BRANCHES[CLASS_NAMES]]
    assert branches_of(CLASS_NAMES) == BRANCHES[CLASS_NAMES]
    assert branches_of(OWN) is None


def test_ten_classes_run_through_the_chain_without_transfer(tmp_path):
    source = ("--source", "synthetic", "--count", COUNT, "--hold-back", "none")
    run_well("q1_data.py", *source, "--out", tmp_path)
    for script in ("q2_fcn.py", "q3_cnn.py"):
        run_well(script, "--epochs", 1, "--device", "cpu", "--out", tmp_path)
    run_well("q4_confusion.py", "--device", "cpu", "--out", tmp_path)
    printed = run_well("summary.py", "--out", tmp_path)
    assert "Q5 transfer          none: no classes are held back (--hold-back)\n" in printed
    assert "Q1 --hold-back none (assignment: 8,9)" in printed
    record = read(tmp_path, "q4_confusion")
    assert record["class_names"] == list(CLASS_NAMES)
    assert np.array(record["models"]["cnn"]["confusion"]).shape == (10, 10)
    error = error_of(run("q5_transfer.py", "--out", tmp_path))
    assert error == "error: no classes are held back for transfer: rerun q1_data.py with --hold-back and two or more"


def test_the_optimum_of_several_classes_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    images, labels = random_data(120, num_classes=4)
    labels[labels == 1] = 3  # class 1 has no training images
    noise = 40 * labels[:, None, None, None] * torch.rand(120, 1, 1, 1, generator=generator)
    images = (images.float() / 4 + noise).byte()
    loaders = loaders_of((images, labels), (images, labels), crop_transform([60.0] * 3, [40.0] * 3))
    features, labels, logits, _, _ = fit_optimum(make_backbone(), *loaders, 1, 0)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, labels)
    expected = np.zeros((120, 4))
    expected[:, reference.classes_] = reference.predict_proba(features)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-5)


def run_line(line):
    """Run a line of the page: a script with an epoch on the CPU, or in a shell what is more than that."""
    program, script, *args = shlex.split(line)
    if program != "python":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["bash", "-ec", line], check=True, env={**os.environ, "PATH": path})
        return
    if script == "export.py":
        pytest.importorskip("onnxscript")
    if script == "-m":
        script, *args = "use/playground.py", *args[1:]
    run_well(script, *args, *(("--epochs", 1, "--device", "cpu") if re.match("q[235]_", script) else ()))


def test_each_command_of_the_page_runs(own, tmp_path, monkeypatch):
    """In a folder with the project, pictures/, more/ and table.csv, with an epoch each; make comes last."""
    astropy_table = pytest.importorskip("astropy.table")
    for name in ("Makefile", "requirements.txt", "common", "studies", "use", *(f.name for f in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, path in (("pictures", "pictures"), ("more", "pictures/south"), ("table.csv", "table.csv")):
        (tmp_path / name).symlink_to(own[0] / path)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "own-galaxies.md").read_text()
    lines = [line.strip() for line in page.splitlines() if re.match(r" {4,}(make|python|find|split|for) ", line)]
    assert len(lines) == 21
    [make_line] = [line for line in lines if line.startswith("make ")]
    for line in lines:
        if line != make_line:
            run_line(line)
    names = sorted(path.stem for path in (tmp_path / "more").iterdir())
    with open("answers.csv") as file:
        assert sum(1 for _ in file) == 1 + len(names)
    assert len(list(tmp_path.glob("answers-part-*.fits"))) == 2
    assert (tmp_path / "own" / "playground.html").is_file()
    assert load_data("regions")["own_split"]
    join, stack = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    catalogue = astropy_table.Table.read("table.csv")
    for kind in ("csv", "fits", "ecsv"):  # with ids as whole numbers, then as texts
        catalogue.write(f"catalogue.{kind}", overwrite=True)
        catalogue["objid"] = catalogue["objid"].astype(str)
        catalogue.write(f"texts.{kind}")
        for name in (f"catalogue.{kind}", f"texts.{kind}"):
            found = {}
            exec(join.replace("table.csv", name), found)
            assert found["joined"]["objid"].tolist() == names
            assert found["joined"]["class_name_1"].astype(str).tolist() == [row[3] for row in own[1] if row[0] in names]
        catalogue["objid"] = catalogue["objid"].astype(np.int64)
    exec(stack, found)
    assert sorted(found["answers"]["id"].astype(str)) == names
    # What has been done by hand is what make would do, without Q5.
    command = [*shlex.split(make_line), f"PYTHON={sys.executable}", "EPOCHS=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done for 'all'" in done.stdout
