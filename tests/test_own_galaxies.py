"""Your own galaxies: every command of docs/own-galaxies.md, and what cutouts.py and --hold-back refuse."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from multiprocessing.forkserver import ensure_running
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
from conftest import ROOT, crop_transform, error_of, loaders_of, random_data, run, run_well
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KINDS = ("disk", "smooth", "smooth", "smooth", "edge-on", "edge-on", "edge-on", "spiral", "spiral", "spiral")
OWN = ("irregular", "smooth", "spiral", "edge-on", "disk")
OBJID = 1237648720693755918
PAGE = (ROOT / "docs" / "own-galaxies.md").read_text()


def own_galaxies(folder, count=100):
    """Write synthetic galaxies as pictures/*.jpg, and their five classes as table.csv; return the table's rows."""
    labels, blocks = synthetic_galaxy10(count, seed=3)
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
    path.write_text("\n".join(["objid,ra,dec,class_name,subset", *map(",".join, rows), ""]))
    return path


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


def test_each_picture_of_the_table_comes_with_its_class_and_id(page):
    folder, rows = page
    data = load_data(folder / "own")
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


def test_classes_held_back_come_last_with_the_images_that_had_their_names(page):
    folder, rows = page
    data = load_data(folder / "held")
    assert task_names(data) == {"main": ["disk", "smooth", "spiral"], "transfer": ["edge-on", "irregular"]}
    assert {key: name for key, (_, name) in images_by_id(data).items()} == {row[0]: row[3] for row in rows}
    assert record_of(folder / "held")["counts"]["transfer_train"] == data["transfer_train_labels"].bincount().tolist()
    record = record_of(folder / "held", "q5_transfer")
    assert record["class_names"] == ["edge-on", "irregular"]
    assert np.sum(record["confusion"]) == record["test_count"]
    assert load_network(folder / "held" / "q5_transfer.pt").name == "q5_transfer"


def test_a_split_in_the_file_is_kept_also_by_the_studies_unless_another_is_named(page, tmp_path):
    folder, rows = page
    subset_of = {row[0]: row[4].lower() for row in rows}
    data, other = load_data(folder / "regions"), load_data(folder / "own")
    assert (data["own_split"], other["own_split"]) == (True, False)
    for subset in ("train", "test"):
        assert {subset_of[key] for key in data[f"main_{subset}_ids"]} == {subset}
    options = ("--data", folder / "regions.h5", "--out")
    run_well("q1_data.py", *options, tmp_path, "--seed", 5)
    found, expected = resplit(data, 5), load_data(tmp_path)
    for key in ("main_train_images", "main_train_labels", "main_test_indices", "mean"):
        assert torch.equal(found[key], expected[key])
    run_well("q1_data.py", *options, tmp_path, "--split", "stratified")
    assert {subset_of[key] for key in load_data(tmp_path)["main_test_ids"]} == {"train", "test"}
    assert "omit --main-train" in error_of(run("q1_data.py", *options, tmp_path, "--main-train", 30))
    sentence = "--transfer-train 30: no classes are held back (--hold-back)"
    assert sentence in error_of(run("q1_data.py", *options, tmp_path, "--transfer-train", 30))


def test_the_answers_of_the_page_join_with_a_catalogue_in_any_format_and_stack(page, monkeypatch):
    from astropy.table import Table

    folder, rows = page
    monkeypatch.chdir(folder)
    names = sorted(path.stem for path in Path("more").iterdir())
    join, stack = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    catalogue = Table.read("table.csv")
    catalogue.write("catalogue.csv")
    catalogue.write("numbers.fits")
    catalogue["objid"] = catalogue["objid"].astype(str)
    catalogue.write("texts.ecsv")
    catalogue["objid"] = [f"000{objid}" for objid in catalogue["objid"]]  # whose pictures have these names
    catalogue.write("zeros.csv")
    answers = Table.read("answers.fits")
    answers["id"] = [f"000{each}" for each in answers["id"].astype(str)]
    answers.write("zeros.fits")
    [as_text] = re.findall(r"`(catalogue\[.*?)`", PAGE)
    changes = {  # of the code, as the page says
        "catalogue.csv": {},
        "zeros.csv": {"answers.fits": "zeros.fits"},
        "numbers.fits": {', converters={"objid": str})': f")\n{as_text}"},
        "texts.ecsv": {', converters={"objid": str}': ""},
    }
    for name, replaced in changes.items():
        code, found = join.replace("catalogue.csv", name), {}
        for old, new in replaced.items():
            assert old in code
            code = code.replace(old, new)
        exec(code, found)
        joined = found["joined"]
        assert [key[-19:] for key in joined["objid"].tolist()] == sorted(row[0] for row in rows)
        assert joined["class_name_catalogue"].astype(str).tolist() == [row[3] for row in rows]
        with_picture = ~joined["class_name_network"].mask
        assert [key[-19:] for key in joined["objid"][with_picture].tolist()] == names
        assert joined["id"][with_picture].astype(str).tolist() == joined["objid"][with_picture].tolist()
    exec(stack, found)
    assert len(list(Path().glob("answers-part-*.fits"))) == 2
    assert sorted(found["answers"]["id"].astype(str)) == names
    assert len(Path("answers.csv").read_text().splitlines()) == 1 + len(names)


def cutouts(folder, to, *options, table=None):
    return run_well("cutouts.py", folder / "pictures", table or folder / "table.csv", "--to", to, *options)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return folder, own_galaxies(folder, 40)


def test_what_does_not_fit_is_counted_and_left_out_and_the_field_is_the_middle(own, tmp_path):
    folder, rows = own
    changed = [*rows[:30], rows[0], ["77", "", "", "spiral", "train"], [*rows[30][:3], "nan", "train"]]
    table = write_table(tmp_path / "t.csv", changed)
    printed = cutouts(folder, tmp_path / "own.h5", "--field", 0.5, table=table)
    assert f"{table}: 30 pictures of {folder / 'pictures'}; skipped: 1 row without a class; 1 row wi" in printed
    assert "1 row without a picture; 1 row repeated; 9 pictures without a row\n" in printed
    counts = Counter(row[3] for row in rows[:30])
    assert f"Classes: {'; '.join(f'{name} ({counts[name]})' for name in sorted(counts))}\n" in printed
    [path] = (folder / "pictures").rglob(f"{rows[1][0]}.jpg")
    middle = Image.open(path).resize((69, 69), Image.Resampling.BILINEAR, (17.25, 17.25, 51.75, 51.75))
    with h5py.File(tmp_path / "own.h5") as file:
        assert [key.decode() for key in file["id"]] == [row[0] for row in rows[:30]]
        assert (file["images"][1] == np.asarray(middle)).all()


def test_classes_that_differ_only_in_case_and_pictures_in_two_forms_are_named(own, tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    folder, rows = own
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    next((tmp_path / "pictures").rglob(f"{rows[0][0]}.jpg")).unlink()
    fits.writeto(tmp_path / "pictures" / f"{rows[0][0]}.fits.gz", np.random.default_rng(0).random((3, 69, 69)))
    table = write_table(tmp_path / "t.csv", [[*rows[0][:3], "Spiral", "train"], *rows[1:]])
    done = run("cutouts.py", tmp_path / "pictures", table, "--to", tmp_path / "own.h5")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"{tmp_path}/pictures: 1 of 40 pictures are FITS, the others are not: their stretch and colours differ, so use "
        "one format for all pictures",
        f"{table}: classes whose names differ only in case are kept separate: Spiral; spiral",
    ]


def test_ids_may_be_paths_within_the_folder_or_with_it(tmp_path, monkeypatch):
    ensure_running()
    monkeypatch.chdir(tmp_path)
    for name in [f"pictures/{copy}{index}.jpg" for copy in ("", "copy/") for index in range(4)]:  # in two folders
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (69, 69), (60 * int(name[-5]), 0, 0)).save(name)
    Path("p").symlink_to("pictures")
    for prefix, folder in (("", "pictures"), ("pictures/", "./pictures"), (f"{tmp_path}/p/", tmp_path / "p")):
        lines = [f"{prefix}{copy}{index}.JPG,{len(copy)}" for index in range(4) for copy in ("", "copy\\")]
        Path("t.csv").write_text("\n".join(["file,class", *lines]))
        printed = run_well("cutouts.py", folder, "t.csv", "--to", "own.h5")
        assert "4 pictures identical to an earlier one, 4 of them with a different class\n" in printed
        with h5py.File("own.h5") as file:
            assert file["ans"][:].tolist() == [0, 1] * 4


@pytest.mark.parametrize(("change", "options", "sentence"), [
    (lambda rows: [*rows, [*rows[0][:4], "train"]], (),
     rf"lines 2 \({OBJID}\) and 42 .*jpg is both irregular test and irregular train: keep one of these rows"),
    (list, ("--class", "morphology"), "has no column morphology: name one with --class"),
    (list, ("--id", "ra"), "no row matches any of the 40 pic.*; name another"),
    (list, ("--class", "ra"), "40 different classes, such as"),
    (lambda rows: [[*row[:3], "galaxy", "train"] for row in rows], (), "1 different classes"),
    (lambda rows: [], (), "it has no rows"),
    (list, ("--split-column", "ra"), "ra must be train or test for each picture, not"),
    (lambda rows: [*rows[:-1], [*rows[-1][:4], ""]], ("--split-column", "subset"), r"not \[''\]"),
    (list, ("--to", "table.csv"), "the name of an HDF5 file must end in .h5"),
])  # fmt: skip
def test_a_table_that_cannot_be_used_is_one_line_and_the_file_stays(change, options, sentence, own, tmp_path):
    table = write_table(tmp_path / "t.csv", change(own[1]))
    (tmp_path / "own.h5").write_text("before")
    columns = () if "--split-column" in options else ("--split-column", "subset")
    done = run("cutouts.py", own[0] / "pictures", table, "--to", tmp_path / "own.h5", *columns, *options)
    assert re.search(sentence, error_of(done))
    assert (tmp_path / "own.h5").read_text() == "before"


def test_pictures_that_cannot_be_read_are_named_and_names_of_two_stop_the_run(tmp_path):
    rows = own_galaxies(tmp_path, 40)
    options = (tmp_path / "pictures", tmp_path / "table.csv", "--to", tmp_path / "own.h5")
    for row in rows[1:20]:
        next((tmp_path / "pictures").rglob(f"{row[0]}.jpg")).write_bytes(b"\xff\xd8\xff no picture")
    done = run("cutouts.py", *options)
    assert "19 of 40 pictures cannot be read: replace them, or remove their rows" in error_of(done)
    assert [line for line in done.stderr.splitlines() if f"{rows[1][0]}.jpg: " in line]
    assert len(done.stderr.splitlines()) == 11
    assert not (tmp_path / "own.h5").exists()
    (tmp_path / "pictures" / "south" / f"{rows[1][0]}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sentence = f"line 3: {rows[1][0]} could be {rows[1][0]}.jpg or south/{rows[1][0]}.png"
    assert sentence in error_of(run("cutouts.py", *options))
    assert "is not a folder of pictures" in error_of(run("cutouts.py", tmp_path / "none", *options[1:]))
    assert "python cutouts.py" in error_of(run("q1_data.py", "--data", tmp_path / "pictures", "--out", tmp_path / "o"))


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
