"""Files that predict.py makes from the rows, files that it refuses to write, and true classes."""

import csv
import json
import os
import re
import sys
import threading

import predict
from common.galaxies.pictures import picture_id
from use import output
from use.pieces import Classifier, predictions
from use.rows import Rows
from use.trained import written_numbers
from use.truth import describe_temperature, describe_truth, read_truth

import h5py
import numpy as np
import pytest
from conftest import error_of, run
from forked import start
from networks import galaxies, save_network, save_pictures
from sklearn.metrics import confusion_matrix, log_loss, recall_score

NAMES = ["spiral", "round", "merger"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights and twelve pictures, named by number."""
    folder = tmp_path_factory.mktemp("files")
    save_network(folder)
    save_pictures(folder / "pictures", [f"{100008 + 15 * number}.jpg" for number in range(12)])
    return folder


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record_of(name, probabilities, marks=()):
    """A record as predictions give it."""
    first, second = np.argsort(probabilities)[-2:].tolist()[::-1]
    record = {"file": name, "id": picture_id(name), "class": first, "class_name": NAMES[first % 3]}
    record |= {"probability": probabilities[first], "probabilities": probabilities, "second": second}
    return record | {"second_name": NAMES[second % 3], "disagreement": 0.25, "out_of_range": list(marks)}


def rows_with(path, records, labels=None, class_names=NAMES):
    """Rows with these records in FILE.part."""
    columns, rows = output.Columns(class_names, labels), Rows(path)
    rows.part.write_bytes(columns.header + columns.rows(records))
    return rows


@pytest.mark.parametrize(("kind", "suffix"), [("fits", "fits"), ("ascii.ecsv", "ecsv")])
def test_fits_and_ecsv_tables_hold_the_values_of_the_csv_with_the_same_types_in_every_piece(tmp_path, kind, suffix):
    table = pytest.importorskip("astropy.table")
    names = ["1237648720693755918.png", 'a, "b" #é.png', f"{'long' * 30}.png", "1e5.png", "nan.png", "true.png"]
    records = [record_of(name, [0.1 + 1e-17, 0.7, 0.2], ["dark, 1", "blue"][: n % 3]) for n, name in enumerate(names)]
    header = {"NETWORK": "q3_cnn.py", "P_0": NAMES[0], "P_1": "é" * 100, "DATE": "2026-01-01T00:00:00"}
    found = []
    for piece in (records, records[:1], []):
        rows = rows_with(tmp_path / "a", piece, labels={names[1]: 2})
        output.write_table(rows, tmp_path / f"a.{suffix}", kind, header)
        found.append(table.Table.read(tmp_path / f"a.{suffix}", format=kind))
        found[-1].convert_bytestring_to_unicode()
    whole, expected = found[0], rows_of(rows_with(tmp_path / "b", records, labels={names[1]: 2}).part)
    assert whole.colnames == list(expected[0])
    for name, column in whole.columns.items():
        kind_of = {"i": int, "f": float, "U": str}[column.dtype.kind]
        values = [kind_of(row[name]) for row in expected]
        if suffix == "fits" and kind_of is str:  # which has ASCII alone
            values = [text.encode("ascii", "backslashreplace").decode() for text in values]
        assert column.tolist() == values
        assert {piece[name].dtype.kind for piece in found} == {column.dtype.kind}
    assert table.vstack([found[2], found[1], whole])["id"].tolist()[1:] == whole["id"].tolist()
    assert (whole.meta["NETWORK"], whole.meta["P_0"]) == ("q3_cnn.py", "spiral")
    assert whole.meta["P_1"].startswith(r"\xe9")


def test_classes_that_are_whole_numbers_keep_them_in_rows_and_true_classes(folder, tmp_path):
    names = ["1", "2", "5", "7", "11", "13", "17", "19"]
    model = save_network(tmp_path, class_names=names)
    weights_sha256 = json.loads(model.with_suffix(".json").read_text())["weights_sha256"]
    classifier = Classifier(str(model), weights_sha256, 1, False, "cpu", 1.0, False)
    [batch] = predictions([str(folder / "pictures" / "100008.jpg")], classifier)
    [record] = batch.records
    assert (record["class"], record["second"]) == (int(record["class_name"]), int(record["second_name"]))
    (tmp_path / "truth.csv").write_text("name,class\n100008.jpg,5\n")
    labels = read_truth(tmp_path / "truth.csv", names, ["100008.jpg"])
    [row] = rows_of(rows_with(tmp_path / "a.csv", [record_of("100008.jpg", [0.1] * 8)], labels, names).part)
    assert (row["truth"], row["truth_name"]) == ("5", "5")
    assert written_numbers([*names, "ring"]) == list(range(9))


def test_true_classes_come_from_a_table_by_names_paths_and_the_ids_of_an_hdf5_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["objid"] = galaxies(3), np.array([2**60, 5, 7])
    lines = ["objid,ra,dec,class_name", f"{2**60},1.5,2,spiral", "100008,1.5,2,MERGER", "a[2],0,0,round", "x,1,1,ring",
             "100023,0,0,nan"]  # fmt: skip
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    files = ["in/100008.jpg", "in/100023.jpg", str(tmp_path / "a.h5"), "none.h5"]
    expected = {"in/100008.jpg": 2, f"{tmp_path}/a.h5[0]": 0, f"{tmp_path}/a.h5[2]": 1}
    assert read_truth(tmp_path / "truth.csv", NAMES, files) == expected
    for text, sentence in (
        (
            "name,class\n100008,ring\n",
            "truth.csv, line 2: ring is not a class: the network knows spiral; round; merger",
        ),
        ("picture,ra,class\n100008,1.5,round\n", r"has no column objid .*: rename one \(picture, ra, class\)"),
    ):
        (tmp_path / "truth.csv").write_text(text)
        with pytest.raises(ValueError, match=sentence):
            read_truth(tmp_path / "truth.csv", NAMES, files)


@pytest.fixture(scope="module")
def answers():
    """Probabilities of a network that is too sure, float64 (400, 3), and true classes."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (400, 3)), rng.integers(0, 3, 400)
    logits[np.arange(400), labels] += 2
    powers = np.exp(2 * logits)
    return powers / powers.sum(1, keepdims=True), labels


def test_truth_is_described_by_the_metrics_of_scikit_learn(answers):
    probabilities, labels = answers
    lines = describe_truth(probabilities, labels, NAMES, without=5).splitlines()
    predictions = probabilities.argmax(1)
    accuracy = (predictions == labels).mean()
    assert lines[0].startswith(f"Accuracy {accuracy:.1%} (95% interval ")
    assert lines[0].endswith(" on 400 pictures. 5 pictures have no true class.")
    matrix = confusion_matrix(labels, predictions)
    assert [[int(number) for number in line.split()[-3:]] for line in lines[-3:]] == matrix.tolist()
    recalls = recall_score(labels, predictions, average=None)
    assert [line.split()[2] for line in lines[-3:]] == [f"{recall:.1%}" for recall in recalls]
    error = 0
    for low in range(10):
        inside = (probabilities.max(1) >= low / 10) & (probabilities.max(1) < (low + 1) / 10)
        error += abs(probabilities.max(1)[inside].sum() - (predictions == labels)[inside].sum()) / 400
    expected = f"Log loss {log_loss(labels, probabilities):.4f}, expected calibration error {error:.2%}"
    assert lines[1] == f"{expected} (10 bins of equal width)."


def test_the_temperature_that_fits_has_the_interval_of_the_bootstrap(answers):
    def losses(temperature):
        powers = probabilities ** (1 / temperature)
        return -np.log(powers[np.arange(400), labels] / powers.sum(1))

    probabilities, labels = answers
    sentence, rng = describe_temperature(probabilities, labels, 1.5), np.random.default_rng(0)
    found = re.search(r"is ([\d.]+) \(95% interval ([\d.]+) to ([\d.]+)\): log loss ([\d.]+),", sentence)
    best, low, high, loss = map(float, found.groups())
    temperatures = np.geomspace(0.5, 6, 500)
    each = np.array(list(map(losses, temperatures)))
    fitted = temperatures[each.mean(1).argmin()]
    assert best == pytest.approx(1.5 * fitted, rel=0.01)
    assert loss == pytest.approx(each.mean(1).min(), abs=1e-3)
    again = [temperatures[each[:, rng.integers(0, 400, 400)].mean(1).argmin()] for _ in range(200)]
    limits = 1.5 * np.quantile(again, [0.025, 0.975])
    np.testing.assert_allclose([low, high], limits, rtol=0.05)
    assert high - low == pytest.approx(np.ptp(limits), rel=0.1)
    assert describe_temperature(np.eye(3), np.arange(3), 1).startswith("No temperature fits")


def test_a_contact_sheet_shows_the_least_certain_pictures_of_each_class_first(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SHEET_CARDS", 3)
    records = [record_of(f"<{n}>&.png", [p, 0.1, 0.0]) for n, p in enumerate([0.9, 0.6, 0.8, 0.7, 0.6, 0.95])]
    records.append(record_of("merger.png", [0.1, 0.2, 0.7]))
    rows = rows_with(tmp_path / "a", records, {"merger.png": 1})
    rows.paths["html"] = tmp_path / "pictures"
    rows.paths["html"].write_text("".join(f"data:,{n}\n" for n in range(7)))
    output.write_sheet(rows, tmp_path / "a.html", NAMES, ["about <it>"], 9)
    page = (tmp_path / "a.html").read_text()
    names = ["&lt;1&gt;&amp;.png", "&lt;4&gt;&amp;.png", "&lt;3&gt;&amp;.png", "merger.png"]
    assert re.findall(r">([^<]*png)</p>", page) == names
    assert re.findall(r'src="(.*?)"', page) == ["data:,1", "data:,4", "data:,3", "data:,6"]
    assert [int(value) for value in re.findall(r"<strong>(\d+)%", page)] == [60, 60, 70, 70]
    assert re.findall("<h2>(.*?) <span>", page) == ["spiral", "merger"]
    assert "spiral <span>· 6; the 3 least certain are shown" in page
    assert "about &lt;it&gt;" in page
    assert page.count("✗ true: round") == 1


def test_a_table_that_cannot_be_written_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"compressed tables are not written: leave out \.gz"):
        files_to_write("--csv", "a.fits.gz")
    monkeypatch.setitem(sys.modules, "astropy", None)
    with pytest.raises(ValueError, match=r"^--csv a\.fits: writing it needs astropy: pip install astropy$"):
        files_to_write("--csv", "a.fits")


def test_outputs_that_are_no_files_and_options_that_do_not_fit_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for options, sentence in (
        (("--json", tmp_path / "fifo"), "fifo: is a folder, a device or a pipe: name a file$"),
        (("--csv", tmp_path), "is a folder, a device or a pipe: name a file, or - for stdout"),
        (
            ("--csv", "-", "--resume"),
            "--resume needs an output file: name one with --csv, --json, --html or --features",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            files_to_write(*options)


def files_to_write(*options):
    return predict.files_to_write(predict.get_args(["a.png", *map(str, options)]))


def test_an_output_that_is_also_an_input_is_refused(folder, tmp_path):
    (tmp_path / "truth.csv").write_text("100008,3\n")
    (tmp_path / "link.csv").symlink_to("truth.csv")
    options = ("--model", folder / "q3_cnn.pt", "--truth", tmp_path / "truth.csv")
    error = error_of(run("predict.py", folder / "pictures", *options, "--csv", tmp_path / "link.csv"))
    assert error.endswith("link.csv is the same file as the table of --truth: name another one")
    assert (tmp_path / "truth.csv").read_text() == "100008,3\n"
    args = predict.get_args(["-", *map(str, options)])
    names = {os.path.basename(path): what for path, what in predict.inputs(args, ["more/a.png"])}
    model = {name: f"the model's {name}" for name in ("q3_cnn.pt", "q3_cnn.json")}
    others = {"truth.csv": "the table of --truth", "stdin": "the list on stdin", "a.png": "the picture more/a.png"}
    assert names == model | others


def read_a_line(fifo, lines):
    with open(fifo) as file:
        lines.append(file.readline())


def test_when_nobody_reads_the_table_the_files_are_completed(folder, tmp_path):
    model = ("--model", folder / "q3_cnn.pt")
    pictures = [folder / "pictures"] * 20  # a table larger than what is buffered
    lines = []
    os.mkfifo(tmp_path / "stdout")
    for options, status in ((("--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json"), 0), (("--csv", "-"), 141)):
        threading.Thread(target=read_a_line, args=[tmp_path / "stdout", lines]).start()
        errors = tmp_path / f"errors-{status}"
        process = start("predict.py", *pictures, *model, *options, "--quiet", log=tmp_path / "stdout", errors=errors)
        process.join(120)
        assert process.exitcode == status
    assert "It knows 8 classes" in lines[0]
    assert lines[1].startswith("file,id,class,")  # nothing else is on stdout
    assert "It knows 8 classes" in (tmp_path / "errors-141").read_text()
    assert (
        tmp_path / "errors-0"
    ).read_text() == "ids shared by several pictures: 12; a join by id repeats their rows\n"
    assert len(rows_of(tmp_path / "a.csv")) == len(json.loads((tmp_path / "a.json").read_text())) == 240
