"""Your own galaxies: pictures and a table, any number of classes, and what is held back for transfer."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from common.data import load_data, make_loaders
from common.galaxies.cutouts import Cutouts, write_cutouts
from common.galaxies.facts import BRANCHES, CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS, branches_of
from common.galaxies.split import hold_back, task_names
from common.galaxies.synthetic import synthetic_galaxy10
from q3_cnn import make_backbone
from q5_transfer import fit_optimum
from studies import imbalance, seeds
from studies.methods.runs import resplit
from use.trained import load_network

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, crop_transform, error_of, made_once, random_data, run, run_well, write_galaxy10
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KINDS = ("disk", "smooth", "smooth", "smooth", "edge-on", "edge-on", "edge-on", "spiral", "spiral", "spiral")
OWN = ("irregular", "smooth", "spiral", "edge-on", "disk")
COUNT = 100
OBJID = 1237648720693755918


def own_galaxies(folder):
    """Write 100 synthetic galaxies as cutouts/*.jpg, and their five classes as table.csv; return the table's rows."""
    labels, blocks = synthetic_galaxy10(COUNT, seed=3)
    (folder / "cutouts" / "south").mkdir(parents=True)
    rows = []
    for index, (pixels, label) in enumerate(zip(np.concatenate(list(blocks)), labels, strict=True)):
        kind = "irregular" if index % 7 == 0 else KINDS[label]
        name = f"{'south/' if index % 3 == 0 else ''}{OBJID + index}.jpg"
        Image.fromarray(pixels).save(folder / "cutouts" / name, quality=95)
        subset = "test" if index % 5 == 0 else "train"
        rows.append([str(OBJID + index), f"{index}.5", "-1", kind, subset])
    write_table(folder / "table.csv", rows)
    return rows


def write_table(path, rows, header=("objid", "ra", "dec", "class_name", "subset"), delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """The folder of cutouts/ and table.csv, and the rows of the latter; in out/ what Q1 makes of them."""

    def make(folder):
        rows = own_galaxies(folder)
        q1(folder / "cutouts", folder / "table.csv", folder / "out")
        return rows

    return made_once(tmp_path_factory, "own", make)


def q1(folder, table, out, *options):
    return run_well("q1_data.py", "--data", folder, "--labels", table, "--out", out, *options)


def read(out, name="q1_data"):
    return json.loads((out / f"{name}.json").read_text())


def images_by_id(data):
    """Return the image and the class name of each id in Q1's data."""
    found = {}
    for task, names in task_names(data).items():
        for half in ("train", "test"):
            kinds = (data[f"{task}_{half}_{kind}"] for kind in ("ids", "images", "labels"))
            found |= {
                key: (image.permute(1, 2, 0).numpy(), names[label]) for key, image, label in zip(*kinds, strict=True)
            }
    return found


def test_each_picture_of_the_table_comes_with_its_class_and_id(own):
    folder, rows = own
    data = load_data(folder / "out")
    assert data["class_names"] == sorted(OWN)
    found = images_by_id(data)
    assert list(found) != sorted(found)
    assert found.keys() == {row[0] for row in rows}
    for key, *_, kind, _ in rows:
        [path] = (folder / "cutouts").rglob(f"{key}.jpg")
        assert (found[key][0] == np.asarray(Image.open(path))).all()
        assert found[key][1] == kind
    for subset in ("train", "test"):  # the place in the table
        places = data[f"main_{subset}_indices"].tolist()
        assert [rows[place][0] for place in places] == data[f"main_{subset}_ids"]
    counts = read(folder / "out")["counts"]
    shares = np.array(counts["main_train"]) / np.add(counts["main_train"], counts["main_test"])
    assert (np.abs(shares - 18000 / 20360) < 0.1).all()
    assert counts["transfer_train"] == counts["transfer_test"] == []


def other_tables(folder, rows):
    """The same table in other forms, each with the options that it needs."""
    short = [row[:4] for row in rows]
    yield write_table(folder / "semicolons.csv", short, ("OBJID", "ra", "dec", "Class"), ";"), ()
    yield write_table(folder / "tabs.txt", [[f"{row[0]}.jpg", row[3]] for row in rows], ("file", "label"), "\t"), ()
    (folder / "bom.csv").write_text((folder / "semicolons.csv").read_text(), encoding="utf-8-sig")
    yield folder / "bom.csv", ()
    columns = ("number", "picture", "class", "kind")  # the usual name is of other values
    renamed = [[n, row[0], n % 2, row[3]] for n, row in enumerate(rows)]
    yield write_table(folder / "renamed.csv", renamed, columns), ("--id", "picture", "--class", "kind")


def astropy_tables(folder, rows):
    Table = pytest.importorskip("astropy.table").Table
    ids, names = np.array([int(row[0]) for row in rows]), [row[3] for row in rows]
    table = Table({"objid": ids, "ra": np.zeros(COUNT), "class_name": names})
    table["image"] = np.zeros((COUNT, 3))  # no column of texts or numbers
    for name in ("table.fits", "table.fits.gz"):
        table.write(folder / name)
        yield folder / name
    del table["image"]
    table.write(folder / "table.ecsv")
    yield folder / "table.ecsv"


@pytest.mark.parametrize("kind", ["csv", "astropy"])
def test_a_table_in_another_form_gives_the_same_file(kind, own, tmp_path):
    folder, rows = own
    tables = other_tables if kind == "csv" else lambda *args: ((path, ()) for path in astropy_tables(*args))
    for path, options in tables(tmp_path, rows):
        columns = dict(zip(options[::2], options[1::2], strict=True))
        cutouts = Cutouts(path, columns.get("--id"), columns.get("--class"))
        write_cutouts(tmp_path / "cutouts.h5", folder / "cutouts", cutouts)
        with h5py.File(folder / "out" / "cutouts.h5") as expected, h5py.File(tmp_path / "cutouts.h5") as found:
            for key in ("images", "ans", "class_names"):
                assert (expected[key][:] == found[key][:]).all(), path


def test_what_does_not_fit_is_counted_and_left_out(own, tmp_path):
    folder, rows = own
    changed = [*rows[:90], rows[0], ["77", "", "", "spiral", "train"], [*rows[90][:3], " ", "train"]]
    printed = q1(folder / "cutouts", write_table(tmp_path / "t.csv", changed), tmp_path / "out")
    assert f"{tmp_path / 't.csv'}: 90 pictures of {folder / 'cutouts'}; left out: 1 row repeated; " in printed
    assert "1 row without a picture; 1 row without a class; 10 pictures without a row\n" in printed
    assert images_by_id(load_data(tmp_path / "out")).keys() == {row[0] for row in rows[:90]}


FAULTS = {
    "two classes of one picture": (lambda rows: [*rows, [*rows[0][:3], "disk", "train"]], (),
                                   r"the picture \d+ is both irregular and disk: leave one row for it"),
    "no such column": (lambda rows: rows, ("--class", "morphology"), "has no column morphology: name one with --class"),
    "a column of ids": (lambda rows: rows, ("--id", "ra"), "no row names one of the 100 pictures"),
    "a column of numbers as classes": (lambda rows: rows, ("--class", "ra"), "100 different classes, such as"),
    "one class": (lambda rows: [[*row[:3], "galaxy", "train"] for row in rows], (), "1 different classes"),
    "no rows": (lambda rows: [], (), "there are none"),
    "ragged": (lambda rows: [*rows[:3], rows[3][:2]], (), "line 5: has 2 columns, the header 5"),
    "no split": (lambda rows: rows, ("--split-column", "ra"), "ra must be train or test for each picture: found"),
    "a split of one": (lambda rows: [[*row[:4], "train"] for row in rows], ("--split-column", "subset"),
                       "there are no images for main_test: see --split-column"),
    "sizes too": (lambda rows: rows, ("--split-column", "subset", "--main-train", 30), "leave out --main-train"),
    "a class held back that is none": (lambda rows: rows, ("--hold-back", "disk,ring"),
                                       "--hold-back ring: no such class: give numbers or names of 0 disk; 1 edge-on;"),
    "one class held back": (lambda rows: rows, ("--hold-back", "disk"), "is one class, and Q5 needs at least two"),
    "one class left": (lambda rows: rows, ("--hold-back", "1,2,3,disk"), "leaves one for Q2"),
    "sizes of nothing": (lambda rows: rows, ("--transfer-train", 9), "no classes are held back"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_table_that_cannot_be_used_is_one_line_and_the_data_stay(case, own, tmp_path):
    folder, rows = own
    change, options, sentence = FAULTS[case]
    table = write_table(tmp_path / "t.csv", change(rows))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "q1_data.json").write_text("before")
    done = run("q1_data.py", "--data", folder / "cutouts", "--labels", table, "--out", tmp_path / "out", *options)
    assert re.search(sentence, error_of(done))
    assert (tmp_path / "out" / "q1_data.json").read_text() == "before"
    assert not (tmp_path / "out" / "q1_data.pt").exists()


@pytest.mark.parametrize(("content", "sentence"), [
    (None, "No such file"), (b"", "has no column objid or id or name or file: .*the file is empty"),
    (b"PAR1\xff\xfe\x80", "is not a table that can be read: save it as .csv, .fits or .ecsv")])  # fmt: skip
def test_a_file_that_is_no_table_is_called_so(content, sentence, own, tmp_path):
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    options = ("--data", own[0] / "cutouts", "--labels", tmp_path / "t.csv", "--out", tmp_path / "out")
    assert re.search(sentence, error_of(run("q1_data.py", *options)))


def test_pictures_that_cannot_be_read_and_names_of_two_stop_the_run(tmp_path):
    rows = own_galaxies(tmp_path)
    options = ("--data", tmp_path / "cutouts", "--labels", tmp_path / "table.csv", "--out", tmp_path / "out")
    for row in rows[1:3]:
        (tmp_path / "cutouts" / f"{row[0]}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    sentence = (
        rf"{rows[1][0]}\.jpg: cannot identify .*\(2 of 100 pictures cannot be read\): replace it, or take its row"
    )
    assert re.search(sentence, error_of(run("q1_data.py", *options)))
    assert not (tmp_path / "out").exists()
    (tmp_path / "cutouts" / "south" / f"{rows[1][0]}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert f"{rows[1][0]} names 2 pictures, " in error_of(run("q1_data.py", *options))


def test_labels_and_a_folder_belong_together(own, tmp_path):
    out = ("--out", tmp_path)
    error = error_of(run("q1_data.py", "--data", own[0] / "cutouts", *out))
    assert "is a folder: give --data the HDF5 file itself, or --labels, the table of its pictures" in error
    for data in ((), ("--data", own[0] / "out" / "cutouts.h5")):
        error = error_of(run("q1_data.py", *data, "--labels", own[0] / "table.csv", *out))
        assert "--data must be the folder of its pictures" in error
    assert "of the table that --labels names" in error_of(run("q1_data.py", "--id", "objid", *out))


def test_a_split_of_ones_own_is_kept_also_by_the_studies(own, tmp_path):
    folder, rows = own
    options = ("--split-column", "SUBSET", "--hold-back", "edge-on;irregular")
    q1(folder / "cutouts", folder / "table.csv", tmp_path, *options)
    data = load_data(tmp_path)
    subset_of = {row[0]: row[4] for row in rows}
    for task in ("main", "transfer"):
        for half in ("train", "test"):
            assert {subset_of[key] for key in data[f"{task}_{half}_ids"]} == {half}
    q1(folder / "cutouts", folder / "table.csv", tmp_path / "other", *options, "--seed", 5)
    same_as(resplit(data, 5), load_data(tmp_path / "other"))
    again = ("--data", tmp_path / "cutouts.h5", *options, "--out", tmp_path / "again")  # the HDF5 file by itself
    run_well("q1_data.py", *again)
    same_as(data, load_data(tmp_path / "again"))


def same_as(data, other):
    assert data["class_names"] == other["class_names"]
    for subset in ("main_train", "main_test", "transfer_train", "transfer_test"):
        for kind in ("images", "labels", "indices"):
            assert torch.equal(data[f"{subset}_{kind}"], other[f"{subset}_{kind}"])
    assert torch.allclose(data["mean"], other["mean"])


def test_classes_held_back_come_last_with_the_images_that_had_their_names(own, tmp_path):
    folder, rows = own
    q1(folder / "cutouts", folder / "table.csv", tmp_path, "--hold-back", "edge-on,2")
    data = load_data(tmp_path)
    assert task_names(data) == {"main": ["disk", "smooth", "spiral"], "transfer": ["edge-on", "irregular"]}
    found = images_by_id(data)
    assert {key: name for key, (_, name) in found.items()} == {row[0]: row[3] for row in rows}
    assert read(tmp_path)["counts"]["transfer_train"] == data["transfer_train_labels"].bincount().tolist()


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


def test_branches_are_known_in_any_order_of_the_classes():
    names = hold_back(CLASS_NAMES, "1,4").names
    named = [{names[label] for label in branch} for branch in branches_of(names)]
    assert named == [{CLASS_NAMES[label] for label in branch} for branch in BRANCHES[CLASS_NAMES]]
    assert branches_of(CLASS_NAMES) == BRANCHES[CLASS_NAMES]
    assert branches_of(OWN) is None


def chain(out, *q1_options):
    """Run Q1, Q2, Q3, Q4 and the summary for an epoch each; return what the last printed."""
    run_well("q1_data.py", *q1_options, "--out", out)
    for script in ("q2_fcn.py", "q3_cnn.py"):
        run_well(script, "--epochs", 1, "--device", "cpu", "--out", out)
    run_well("q4_confusion.py", "--device", "cpu", "--out", out)
    return run_well("summary.py", "--out", out)


def decals(path):
    """Write 100 galaxies in DECaLS's form, of 256 pixels."""
    labels, blocks = synthetic_galaxy10(COUNT, seed=1)
    images = [np.asarray(Image.fromarray(each).resize((256, 256))) for block in blocks for each in block]
    return write_galaxy10(path, images=np.array(images), ans=labels, **dict.fromkeys(DECALS_KEYS, np.zeros(COUNT)))


def test_ten_classes_of_decals_form_run_through_the_chain(tmp_path):
    printed = chain(tmp_path, "--data", decals(tmp_path / "decals.h5"), "--hold-back", "none")
    assert "Q5 transfer          none: no classes are held back (--hold-back)\n" in printed
    assert "Q1 --hold-back none (assignment: 8,9)" in printed
    assert "q5_transfer.png" not in printed
    record, data = read(tmp_path, "q4_confusion"), load_data(tmp_path)
    assert record["class_names"] == list(DECALS_CLASS_NAMES)
    for name in ("fcn", "cnn"):
        predictions = read(tmp_path, f"q{2 + (name == 'cnn')}_{name}")["test_predictions"]
        matrix = confusion_matrix(data["main_test_labels"], predictions, labels=range(10))
        assert record["models"][name]["confusion"] == matrix.tolist()
        assert record["models"][name]["within_branch"] is not None
    network, record, name = load_network(tmp_path / "q3_cnn.pt")
    assert (name, len(record["class_names"]), network[1].out_features) == ("q3_cnn", 10, 10)
    error = error_of(run("q5_transfer.py", "--out", tmp_path))
    assert error == "error: no classes are held back for transfer: rerun q1_data.py with --hold-back and two or more"


def test_three_classes_are_held_back_and_transferred_to(own, tmp_path):
    folder, _ = own
    printed = q1(folder / "cutouts", folder / "table.csv", tmp_path, "--hold-back", "disk,edge-on,smooth")
    assert re.search(r"^Of \d+ of classes 0-1 \d+ are for training, and of \d+ of 2, 3 and 4 \d+ \(", printed, re.M)
    run_well("q3_cnn.py", "--epochs", 1, "--device", "cpu", "--out", tmp_path)
    printed = run_well("q5_transfer.py", "--epochs", 2, "--device", "cpu", "--out", tmp_path)
    record = read(tmp_path, "q5_transfer")
    assert record["class_names"] == ["disk", "edge-on", "smooth"]
    assert np.array(record["confusion"]).shape == (3, 3)
    assert np.sum(record["confusion"]) == record["test_count"]
    assert len(re.findall(r"^  \S+ +\d+ predicted as disk, +\d+ as edge-on, +\d+ as smooth$", printed, re.M)) == 3
    assert load_network(tmp_path / "q5_transfer.pt").name == "q5_transfer"
    assert load_network(tmp_path / "q3_cnn.pt").name == "q3_cnn"  # of two classes, as Q5's of the assignment


def test_the_optimum_of_several_classes_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    images, labels = random_data(120, num_classes=4)
    labels[labels == 1] = 3  # class 1 has no training images
    images = (
        images.float() / 4 + 40 * labels[:, None, None, None] * torch.rand(120, 1, 1, 1, generator=generator)
    ).byte()
    data = {"class_names": list("abcdef"), "main_classes": 2}
    data |= {f"transfer_{half}_{kind}": each for half in ("train", "test")
             for kind, each in (("images", images), ("labels", labels))}  # fmt: skip
    task = make_loaders(data, "transfer", crop_transform(torch.full((3,), 60.0), torch.full((3,), 40.0)))
    features, labels, logits, _, _ = fit_optimum(make_backbone(), task.train_loader, task.test_loader, 1, 0)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, labels)
    expected = np.zeros((120, 4))
    expected[:, reference.classes_] = reference.predict_proba(features)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-5)


def test_data_written_before_there_were_other_classes_are_the_assignments(synthetic_run):
    data = torch.load(synthetic_run[0] / "q1_data.pt", weights_only=True)
    older = {key: value for key, value in data.items() if key not in ("main_classes", "split_column")}
    assert task_names(older) == {"main": list(CLASS_NAMES[:8]), "transfer": list(CLASS_NAMES[8:])}
    same_as(resplit(older, 3), resplit(data, 3))


def test_studies_count_the_classes_of_the_data():
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(2):
        for method in ("none", "root", "inverse", "sampler"):
            labels, predictions = rng.integers(0, 3, (2, 50)).tolist()
            row = {"seed": seed, "method": method, "labels": labels, "train_counts": [5, 6, 7]}
            rows.append(row | {"predictions": predictions, "adjusted": predictions})
    summary = imbalance.summarise(rows)
    assert {len(each["value"]["recall"]) for each in summary.values()} == {3}
    metrics = {"test_accuracy": 0.5, "test_loss": 1.0, "test_count": 9}
    found = seeds.protocol([{name: metrics for name in ("majority", "neighbours", "softmax", "fcn", "cnn")}] * 2)
    assert "transfer" not in found["accuracy"]
    assert len(seeds.seeds_figure({"stratified": found}, {}, "file:own").axes[0].get_yticklabels()) == 5


def commands_of_the_page():
    lines = (ROOT / "docs" / "own-galaxies.md").read_text().splitlines()
    return [line.strip() for line in lines if re.match(r" {4,}(make|python|find|split|for) ", line)]


def run_in_shell(command):
    """Run a line of the page that is more than one command of Python's."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", command], check=True, env={**os.environ, "PATH": path})


def test_each_command_of_the_page_runs(own, tmp_path, monkeypatch):
    """In a folder with the project, cutouts/, more/ and table.csv, with an epoch each; make comes last."""
    for name in ("Makefile", "requirements.txt", "common", "studies", "use", *(f.name for f in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, path in (("cutouts", "cutouts"), ("more", "cutouts/south"), ("table.csv", "table.csv")):
        (tmp_path / name).symlink_to(own[0] / path)
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("astropy")
    lines = commands_of_the_page()
    commands = [shlex.split(command) for command in lines]
    assert len(commands) == 19
    for line, (program, script, *args) in zip(lines[1:], commands[1:], strict=True):
        if program != "python":
            run_in_shell(line)
            continue
        if script == "export.py":
            pytest.importorskip("onnxscript")
        if script == "-m":
            script, *args = "use/playground.py", *args[1:]
        run_well(script, *args, *(("--epochs", 1, "--device", "cpu") if re.match("q[235]_", script) else ()))
    with open("answers.csv") as file:
        assert sum(1 for _ in file) == 1 + len(list((tmp_path / "more").iterdir()))
    with h5py.File("own/cutouts.h5") as file:
        assert len(file["id"]) == COUNT
    found = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own-galaxies.md").read_text(), re.DOTALL):
        exec(block, found)
    names = sorted(path.stem for path in (tmp_path / "more").iterdir())
    assert found["joined"]["objid"].tolist() == sorted(found["answers"]["id"].astype(str)) == names
    assert found["joined"]["class_name_1"].tolist() == [row[3] for row in own[1] if row[0] in names]
    assert len(list(tmp_path.glob("answers-part-*.fits"))) == 2
    assert (tmp_path / "own" / "playground.html").is_file()
    # What has been done by hand is what make would do, without Q5.
    command = [*commands[0], f"PYTHON={sys.executable}", "EPOCHS=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done for 'all'" in done.stdout
