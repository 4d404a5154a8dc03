"""Your own galaxies: every command of docs/own-galaxies.md, and what cutouts.py and --hold-back refuse."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import cutouts
from common.data import load_data
from common.galaxies.facts import BRANCHES, CLASS_NAMES, branches_of
from common.galaxies.split import hold_back, task_names, train_sizes
from common.galaxies.synthetic import synthetic_galaxy10
from q3_cnn import make_backbone
from q5_transfer import fit_optimum
from studies.methods.runs import resplit
from use.trained import load_network

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, crop_transform, error_of, loaders_of, random_data, run, run_well
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KINDS = ("disk", "smooth", "smooth", "smooth", "edge-on", "edge-on", "edge-on", "spiral", "spiral", "spiral")
OWN = ("irregular", "smooth", "spiral", "edge-on", "disk")
OBJID = 1237648720693755918
PAGE = (ROOT / "docs" / "own-galaxies.md").read_text()


def own_galaxies(folder):
    """Write 100 synthetic galaxies as pictures/*.jpg, and their five classes as table.csv; return the table's rows."""
    labels, blocks = synthetic_galaxy10(100, seed=3)
    (folder / "pictures" / "south").mkdir(parents=True)
    rows = []
    for index, (pixels, label) in enumerate(zip(np.concatenate(list(blocks)), labels, strict=True)):
        kind = "irregular" if index % 7 == 0 else KINDS[label]
        name = f"{'south/' if index % 3 == 0 else ''}{OBJID + index}.jpg"
        Image.fromarray(pixels).save(folder / "pictures" / name, quality=95)
        rows.append([str(OBJID + index), f"{index}.5", "-1", kind, "test" if index % 5 == 0 else "Train"])
    (folder / "table.csv").write_text("\n".join(["objid,ra,dec,class_name,subset", *map(",".join, rows)]))
    return rows


def run_line(line, stdin="/dev/null"):
    """Run a line of the page: a script with an epoch on the CPU, for each part of a list, or another program."""
    program, script, *args = shlex.split(line)
    if program == "for":
        command = line.partition("do ")[2].partition(" < $part")[0]
        for part in sorted(Path().glob("part-*")):
            run_line(command.replace("$part", str(part)), stdin=part)
    elif program != "python":
        subprocess.run(["bash", "-ec", line], check=True)
    else:
        if script == "-m":
            script, *args = f"{args[0].replace('.', '/')}.py", *args[1:]
        args += ["--epochs", "1", "--device", "cpu"] if re.match("q[235]_", script) else []
        done = run(script, *args, stdin=stdin)
        assert done.returncode == 0, (line, done.stderr)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A folder in which all commands of the page have run, but make, and the rows of its table."""
    pytest.importorskip("astropy")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("page")
    rows = own_galaxies(folder)
    (folder / "more").symlink_to("pictures/south")
    lines = [line.strip() for line in PAGE.splitlines() if re.match(r" {4,}(make|python|find|split|for) ", line)]
    assert len(lines) == 21
    ensure_running()  # in the project, where it finds what it imports
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in lines:
            if not line.startswith("make "):
                run_line(line)
    return folder, rows


def record_of(out, name="q1_data"):
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


@pytest.mark.parametrize("out", ["own", "held"])
def test_each_picture_of_the_table_comes_with_its_class_and_id(page, out):
    folder, rows = page
    found = images_by_id(load_data(folder / out))
    assert found.keys() == {row[0] for row in rows}
    for key, *_, kind, _ in rows:
        [path] = (folder / "pictures").rglob(f"{key}.jpg")
        assert (found[key][0] == np.asarray(Image.open(path))).all()
        assert found[key][1] == kind


def test_without_classes_held_back_the_chain_ends_after_q4(page):
    folder, _ = page
    record = record_of(folder / "own", "q4_confusion")
    assert record["class_names"] == sorted(OWN)
    assert np.array(record["models"]["cnn"]["confusion"]).shape == (5, 5)
    assert "none: no classes are held back (--hold-back)" in (folder / "own" / "summary.txt").read_text()
    assert record_of(folder / "own")["counts"]["transfer_train"] == []
    error = error_of(run("q5_transfer.py", "--out", folder / "own"))
    assert (
        error
        == "error: no classes are held back for transfer: rerun q1_data.py with --hold-back and two or more classes"
    )
    assert record_of(folder / "ten", "q3_cnn")["class_names"] == list(CLASS_NAMES)


def test_make_does_what_the_commands_by_hand_do(page, monkeypatch):
    [line] = re.findall("^    (make .*)", PAGE, re.MULTILINE)
    for name in ("Makefile", "requirements.txt", "common", *(path.name for path in ROOT.glob("*.py"))):
        (page[0] / name).symlink_to(ROOT / name)
    monkeypatch.chdir(page[0])
    command = [*shlex.split(line), f"PYTHON={sys.executable}", "EPOCHS=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done for 'all'" in done.stdout


def test_classes_held_back_come_last(page):
    data = load_data(page[0] / "held")
    assert task_names(data) == {"main": ["disk", "smooth", "spiral"], "transfer": ["edge-on", "irregular"]}
    assert record_of(page[0] / "held")["counts"]["transfer_train"] == data["transfer_train_labels"].bincount().tolist()
    record = record_of(page[0] / "held", "q5_transfer")
    assert record["class_names"] == ["edge-on", "irregular"]
    assert np.sum(record["confusion"]) == record["test_count"]
    assert load_network(page[0] / "held" / "q5_transfer.pt").name == "q5_transfer"


def test_a_split_in_the_file_is_kept_unless_another_is_named(page, tmp_path):
    folder, rows = page
    subset_of = {row[0]: row[4].lower() for row in rows}
    data = load_data(folder / "regions")
    assert (data["own_split"], load_data(folder / "own")["own_split"]) == (True, False)
    for subset in ("train", "test"):
        assert {subset_of[key] for key in data[f"main_{subset}_ids"]} == {subset}
    options = ("--data", folder / "regions.h5", "--out", tmp_path)
    run_well("q1_data.py", *options, "--seed", 5)
    found, expected = resplit(data, 5), load_data(tmp_path)  # by a study
    for key in ("main_train_images", "main_train_labels", "main_test_indices", "mean"):
        assert torch.equal(found[key], expected[key])
    run_well("q1_data.py", *options, "--split", "stratified")
    assert {subset_of[key] for key in load_data(tmp_path)["main_test_ids"]} == {"train", "test"}
    for task, sentence in (("main", "omit --main-train"), ("transfer", "30: no classes are held back")):
        with pytest.raises(ValueError, match=sentence):
            train_sizes(np.arange(60) % 5, {"main": None, "transfer": None, task: 30}, 5, in_train=np.ones(60, bool))


def test_the_answers_join_with_a_catalogue_of_texts_or_numbers_and_stack(page, monkeypatch):
    from astropy.table import Table

    folder, rows = page
    monkeypatch.chdir(folder)
    names = sorted(path.stem for path in Path("more").iterdir())
    join, stack = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [as_text] = re.findall(r"`(catalogue\[.*?)`", PAGE)
    catalogue = Table.read("table.csv")
    catalogue.write("catalogue.csv")
    catalogue.write("numbers.fits")
    of_numbers = join.replace("catalogue.csv", "numbers.fits")
    of_numbers = of_numbers.replace(', converters={"objid": str})', f")\n{as_text}")  # as the page says
    for code in (join, of_numbers):
        found = {}
        exec(code, found)
        joined = found["joined"]
        assert joined["objid"].tolist() == sorted(row[0] for row in rows)
        assert joined["class_name_catalogue"].astype(str).tolist() == [row[3] for row in rows]
        with_picture = ~joined["class_name_network"].mask
        assert joined["objid"][with_picture].tolist() == joined["id"][with_picture].astype(str).tolist() == names
    exec(stack, found)
    assert len(list(Path().glob("answers-part-*.fits"))) == 2
    assert sorted(found["answers"]["id"].astype(str)) == names
    assert len(Path("answers.csv").read_text().splitlines()) == 1 + len(names)


def make_cutouts(monkeypatch, *arguments):
    """Run cutouts.py in this process."""
    monkeypatch.setattr(sys, "argv", ["cutouts.py", *arguments])
    cutouts.main()


TABLE = """file,ra,class,subset
pictures/south/a.png,1,10,test
pictures/a.png,2,2,Train
b.JPG,3,spiral,train
repeated,4,10,train
c,5,2,train
d,6,Spiral,train
e,7,spiral,train
f,8,spiral,train
f,8,spiral,train
none,9,spiral,train
no_class,10,nan,train
"""
GREYS = {"south/a": 10, "a": 20, "b": 30, "repeated": 30, "c": 40, "d": 50, "e": 60, "no_class": 70, "more": 80}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The working folder, with TABLE as t.csv and pictures with GREYS in their middle and a FITS file."""
    fits = pytest.importorskip("astropy.io.fits")
    monkeypatch.chdir(tmp_path)
    Path("pictures/south").mkdir(parents=True)
    for name, grey in GREYS.items():
        image = Image.new("L", (320, 280), 255)
        image.paste(grey, (90, 70, 230, 210))
        image.save(f"pictures/{name}.png")
    fits.writeto("pictures/f.fits.gz", np.random.default_rng(0).random((3, 280, 280)))
    Path("t.csv").write_text(TABLE)


def test_cutouts_writes_the_pictures_of_the_table_and_counts_the_rest(small, monkeypatch, capsys):
    options = ("--field", "0.5", "--split-column", "subset")
    make_cutouts(monkeypatch, "pictures", "t.csv", "--to", "own.h5", *options)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "t.csv: 8 pictures of pictures; skipped: 1 row without a class; 1 row without a picture; 1 row repeated; "
        "1 picture without a row",
        "Classes: 2 (2); 10 (2); Spiral (1); spiral (3)",
        "1 picture identical to an earlier one, 1 of them with a different class",
        "own.h5: 8 pictures of 4 classes; next: python q1_data.py --data own.h5",
    ]
    assert printed.err.splitlines() == [
        "pictures: 1 of 8 pictures are FITS, the others are not: their stretch and colours differ, so use one format "
        "for all pictures",
        "t.csv: classes whose names differ only in case are kept separate: Spiral; spiral",
    ]
    with h5py.File("own.h5") as file:
        assert [key.decode() for key in file["id"]][1:4] == ["pictures/a.png", "b.JPG", "repeated"]
        assert file["ans"][:].tolist() == [1, 0, 3, 1, 0, 2, 3, 3]
        assert [subset.decode() for subset in file["split"]] == ["test", *["train"] * 7]
        for image, grey in zip(file["images"][:7], list(GREYS.values())[:7], strict=True):
            assert image.min() == image.max() == grey


def test_ids_may_also_be_paths_within_the_folder(small):
    with_folder = cutouts.labelled_pictures(Path("pictures"), "t.csv", None, None, None)
    Path("t.csv").write_text(TABLE.replace("pictures/", ""))
    within = cutouts.labelled_pictures(Path("pictures"), "t.csv", None, None, None)
    assert [path for path, _ in within] == [path for path, _ in with_folder]


@pytest.mark.parametrize(("table", "options", "sentence"), [
    (TABLE + "e,7,spiral,test\n", (), r"lines 8 \(e\) and 13 \(e\): pictures/e.png is both spiral train and spiral"),
    (TABLE, ("--id", "ra"), "no row matches any of the 10 pic.*; name another id column with --id"),
    (TABLE, ("--class", "ra"), "9 different classes, such as .*: name the class column with --class"),
    ("file,class,subset\nc,x,train\nd,x,test\n", (), "1 different classes"),
    (TABLE.replace("e,7,spiral,train", "e,7,spiral,"), (), r"subset must be train or test .*, not \[''\]"),
    (TABLE, ("--to", "table.csv"), "the name of an HDF5 file must end in .h5"),
])  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_and_the_file_stays(small, monkeypatch, table, options, sentence):
    Path("t.csv").write_text(table)
    Path("own.h5").write_text("before")
    with pytest.raises(ValueError, match=sentence):
        make_cutouts(monkeypatch, "pictures", "t.csv", "--to", "own.h5", "--split-column", "subset", *options)
    assert Path("own.h5").read_text() == "before"


def test_pictures_that_cannot_be_read_are_named_and_names_of_two_stop_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for number in range(12):
        Path(f"pictures/{number}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Path("t.csv").write_text("id,class\n" + "".join(f"{number},{number % 2}\n" for number in range(12)))
    with pytest.raises(ValueError, match="12 of 12 pictures cannot be read: replace them, or remove their rows"):
        make_cutouts(monkeypatch, "pictures", "t.csv", "--to", "own.h5")
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in errors] == [f"pictures/{number}.jpg" for number in range(10)]
    assert not Path("own.h5").exists()
    shutil.copy("pictures/1.jpg", "pictures/1.png")
    with pytest.raises(ValueError, match=r"t.csv, line 3: 1 could be 1\.jpg or 1\.png"):
        make_cutouts(monkeypatch, "pictures", "t.csv", "--to", "own.h5")
    with pytest.raises(ValueError, match="none is not a folder of pictures"):
        make_cutouts(monkeypatch, "none", "t.csv", "--to", "own.h5")


@pytest.mark.parametrize(("names", "given", "order", "main"), [
    (CLASS_NAMES, None, CLASS_NAMES, 8), (OWN, None, OWN, 5), (CLASS_NAMES, "none", CLASS_NAMES, 10),
    (CLASS_NAMES, "0, 1", (*CLASS_NAMES[2:], *CLASS_NAMES[:2]), 8),
    (CLASS_NAMES, f"{CLASS_NAMES[9]}; {CLASS_NAMES[0]}", (*CLASS_NAMES[1:9], CLASS_NAMES[0], CLASS_NAMES[9]), 8),
    (OWN, "spiral,0,smooth", ("edge-on", "disk", "irregular", "smooth", "spiral"), 2),
    (("1", "2", "3", "0"), "1,2", ("3", "0", "1", "2"), 2)])  # fmt: skip
def test_held_back_are_galaxy10s_last_two_or_what_is_given_by_name_or_number(names, given, order, main):
    classes = hold_back(names, given)
    assert (classes.names, classes.main) == (order, main)
    assert [classes.names[number] for number in classes.numbers] == list(names)


@pytest.mark.parametrize(("names", "given", "labels", "sentence"), [
    (OWN, "disk,ring", None, "--hold-back ring: no such class: give numbers or names of 0 irregular; 1 smooth;"),
    (OWN, "disk", None, "is one class, and Q5 needs at least two"), (OWN, "1,2,3,disk", None, "leaves one for Q2"),
    (tuple("123456"), "0,2", None, "--hold-back 0: no such class: give names of 1; 2; 3;"),
    (CLASS_NAMES, None, range(9), r"no images of class 9 \(Disk, Face-on, Loose Spiral\), which Q5 needs"),
    (CLASS_NAMES, None, (8, 9), "none are left for Q2 and Q3")])  # fmt: skip
def test_what_cannot_be_held_back_is_refused(names, given, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        hold_back(names, given, labels)


def test_branches_are_known_in_any_order_of_the_classes():
    names = hold_back(CLASS_NAMES, "1,4").names
    named = [{names[label] for label in branch} for branch in branches_of(names)]
    assert named == [{CLASS_NAMES[label] for label in branch} for branch in BRANCHES[CLASS_NAMES]]
    assert branches_of(CLASS_NAMES) == BRANCHES[CLASS_NAMES]
    assert branches_of(OWN) is None


def test_the_optimum_of_several_classes_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    images, labels = random_data(120, num_classes=4)
    labels[labels == 1] = 3  # class 1 has no training images
    noise = 40 * labels[:, None, None, None] * torch.rand(120, 1, 1, 1, generator=generator)
    images = (images.float() / 4 + noise).byte()
    loaders = loaders_of((images, labels), (images, labels), crop_transform([60.0] * 3, [40.0] * 3))
    features, labels, logits, _ = fit_optimum(make_backbone(), *loaders, 1, 0)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, labels)
    expected = np.zeros((120, 4))
    expected[:, reference.classes_] = reference.predict_proba(features)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-5)
