"""The five scripts by the command line, from a file of galaxies to five answers."""

import json
import re

from common.data import Loader, MyDataset
from common.galaxies.facts import BRANCHES, CLASS_NAMES
from common.metrics import errors_within_branch
from common.storage.checkpoint import weights_hash
from common.train import predict
from q3_cnn import compare_with_fcn
from use.trained import load_network

import numpy as np
import pytest
import torch
from conftest import (
    EFIGI,
    crop_transform,
    error_of,
    float32_tolerance,
    products_of,
    run,
    run_well,
    subset,
    write_galaxy10,
)
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss

HISTORY_KEYS = {"train_loss", "test_loss", "train_accuracy", "test_accuracy", "epoch_seconds"}
QUESTIONS = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")


@pytest.fixture(scope="session")
def efigi_run(tmp_path_factory):
    """The folder of a whole chain on real pictures, with few epochs, and what it printed."""
    if not EFIGI.is_file():
        pytest.skip(f"the real pictures, {EFIGI}, are not here")
    out = tmp_path_factory.mktemp("efigi")
    sizes = ("--main-train", 2100, "--transfer-train", 800)
    printed = {"q1": run_well("q1_data.py", "--data", EFIGI, *sizes, "--out", out)}
    for script, epochs in (("q2_fcn", 8), ("q3_cnn", 8), ("q5_transfer", 8)):
        printed[script[:2]] = run_well(f"{script}.py", "--epochs", epochs, "--device", "cpu", "--out", out)
    printed["q4"] = run_well("q4_confusion.py", "--device", "cpu", "--out", out)
    return out, printed


@pytest.fixture(scope="session", params=["synthetic_run", "efigi_run"])
def chain(request):
    return request.getfixturevalue(request.param)


def read(out, name):
    return json.loads((out / f"{name}.json").read_text())


def load(out, name):
    return torch.load(out / f"{name}.pt", weights_only=True)


def test_all_files_are_there_and_no_others(chain):
    out, _ = chain
    expected = {f"{name}.{kind}" for name in QUESTIONS for kind in ("pt", "json", "png")} - {"q4_confusion.pt"}
    expected |= {f"{name}.resume.pt" for name in ("q2_fcn", "q3_cnn", "q5_transfer")}
    expected |= {"synthetic.h5"} if read(out, "q1_data")["source"] == "synthetic" else set()
    assert {path.name for path in out.glob("[!.]*")} == expected


def test_q1_tensors_and_figures(chain):
    out, printed = chain
    data, record = load(out, "q1_data"), read(out, "q1_data")
    for part, counts in record["counts"].items():
        images, labels = data[f"{part}_images"], data[f"{part}_labels"]
        assert images.dtype == torch.uint8
        assert images.shape == (sum(counts), 3, 69, 69)
        assert labels.dtype == torch.int64
        assert torch.bincount(labels, minlength=len(counts)).tolist() == counts
    assert data["mean"].dtype == data["std"].dtype == torch.float32
    np.testing.assert_allclose(record["normalised_mean"], 0, atol=0.05)
    np.testing.assert_allclose(record["normalised_std"], 1, atol=0.05)
    # The statistics come from random crops, so they lie between the values of whole pictures and of their centres.
    first = data["main_train_images"][:1000].double()
    whole, centre = first.mean((0, 2, 3)), first[:, :, 11:59, 11:59].mean((0, 2, 3))
    assert ((whole < data["mean"]) & (data["mean"] < centre)).all()
    for name in record["class_names"]:
        assert name in printed["q1"]


@pytest.mark.parametrize(("name", "parameters", "trainable"), [
    ("q2_fcn", 442_952, 442_952), ("q3_cnn", 178_616, 178_616), ("q5_transfer", 178_226, 130)])  # fmt: skip
def test_training_records(chain, name, parameters, trainable):
    out, printed = chain
    record, data = read(out, name), load(out, "q1_data")
    part = "transfer" if name == "q5_transfer" else "main"
    first, last = data["class_names"][:8], data["class_names"][8:]
    names = (record["class_names"], record["other_class_names"])
    assert names == ((last, first) if part == "transfer" else (first, last))
    assert record["train_counts"] == data[f"{part}_train_labels"].bincount().tolist()
    assert record["fingerprint"] == data["fingerprint"]
    assert (record["parameters"], record["trainable_parameters"]) == (parameters, trainable)
    assert set(record["history"]) == HISTORY_KEYS
    assert {len(values) for values in record["history"].values()} == {record["args"]["epochs"]}
    assert record["test_loss"] == record["history"]["test_loss"][-1]
    assert record["test_accuracy"] == record["history"]["test_accuracy"][-1]
    labels = data[f"{part}_test_labels"]
    assert record["test_count"] == len(labels)
    assert record["test_accuracy"] == (torch.tensor(record["test_predictions"]) == labels).double().mean().item()
    commonest = torch.bincount(data[f"{part}_train_labels"]).argmax()
    assert record["majority_accuracy"] == pytest.approx((labels == commonest).double().mean().item())
    low, high = record["test_accuracy_interval"]
    assert low < record["test_accuracy"] < high
    assert printed[name[:2]].count("epoch ") >= record["args"]["epochs"]


@pytest.mark.parametrize("name", ["q2_fcn", "q3_cnn", "q5_transfer"])
def test_the_final_network_is_evaluated_on_all_its_training_images(synthetic_run, name):
    out, _ = synthetic_run
    record, data = read(out, name), load(out, "q1_data")
    task = "transfer" if name == "q5_transfer" else "main"
    train = subset(data, f"{task}_train")
    loader = Loader(MyDataset(*train, crop_transform(data["mean"], data["std"])), shuffle=True)
    network = load_network(out / f"{name}.pt").network
    logits, labels = predict(network, loader)
    assert sorted(labels.tolist()) == sorted(train[1].tolist())
    expected = log_loss(labels, logits.double().softmax(1), labels=range(logits.shape[1]))
    limit = 2 * float32_tolerance(products_of(network), logits)  # a loss is a logit and the log of a sum of others
    assert record["final_train_loss"] == pytest.approx(expected, abs=limit)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    assert record["final_train_accuracy"] == pytest.approx(accuracy, abs=2 / len(labels))


def test_q4_repeats_sklearns_confusion_of_the_predictions_of_q2_and_q3(chain):
    out, printed = chain
    record, labels = read(out, "q4_confusion"), load(out, "q1_data")["main_test_labels"]
    assert record["train_counts"] == read(out, "q1_data")["counts"]["main_train"]
    for model, name in (("fcn", "q2_fcn"), ("cnn", "q3_cnn")):
        reference = confusion_matrix(labels, read(out, name)["test_predictions"], labels=range(8))
        results, trained = record["models"][model], read(out, name)
        assert results["confusion"] == reference.tolist()
        assert results["accuracy"] == trained["test_accuracy"]
        assert (results["recall"], record["test_counts"]) == (trained["recall"], trained["test_counts"])
        assert results["weights_sha256"] == trained["weights_sha256"]
        within = errors_within_branch(reference, BRANCHES[CLASS_NAMES])
        assert (results["within_branch"], results["within_branch_expected"]) == within
        assert f"{model.upper()}: class" in printed["q4"]
    assert max(map(len, printed["q4"].split("\n\n")[0].split("\n")[:9])) <= 120
    for name in record["class_names"]:
        assert name in printed["q4"]


def test_q3_compares_itself_with_q2(chain):
    out, printed = chain
    comparison = read(out, "q3_cnn")["comparison"]
    assert comparison["fcn_accuracy"] == read(out, "q2_fcn")["test_accuracy"]
    assert comparison["cnn_accuracy"] == read(out, "q3_cnn")["test_accuracy"]
    assert (comparison["fcn_parameters"], comparison["cnn_parameters"]) == (442_952, 178_616)
    assert "McNemar" in printed["q3"]


def test_q5_keeps_the_backbone(chain):
    out, printed = chain
    record, cnn, transfer = read(out, "q5_transfer"), load(out, "q3_cnn"), load(out, "q5_transfer")
    for key, value in transfer.items():
        if key.startswith("0."):
            assert torch.equal(value, cnn[key])
    assert record["backbone_sha256"] == weights_hash(load_network(out / "q5_transfer.pt").network[0].state_dict())
    assert np.trace(record["confusion"]) / np.sum(record["confusion"]) == record["test_accuracy"]
    assert "The backbone is unchanged" in printed["q5"]
    for comparison in ("logistic_regression", "untrained_backbone"):
        assert f"{record[comparison]['accuracy']:.1%}" in printed["q5"]


def test_pictures_can_be_opened_and_are_not_blank(chain):
    out, _ = chain
    for name in QUESTIONS:
        picture = np.asarray(Image.open(out / f"{name}.png").convert("L"))
        assert min(picture.shape) > 500
        assert picture.std() > 5


def test_real_pictures_teach_the_networks_something(efigi_run):
    out, _ = efigi_run
    assert read(out, "q1_data")["source"] == "file:efigi10.h5"
    for name in ("q2_fcn", "q3_cnn"):
        record = read(out, name)
        assert record["test_accuracy_interval"][0] > record["majority_accuracy"]
    assert read(out, "q5_transfer")["test_accuracy"] > read(out, "q5_transfer")["majority_accuracy"]


def test_synthetic_figures_are_called_synthetic(synthetic_run):
    out, printed = synthetic_run
    assert read(out, "q1_data")["source"] == read(out, "q5_transfer")["source"] == "synthetic"
    assert all("SYNTHETIC" in printed[question] for question in ("q2", "q3", "q5"))


def test_bad_input_gets_one_sentence_and_changes_nothing(synthetic_run, tmp_path):
    out, _ = synthetic_run
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "text.h5").write_text("no galaxies")
    small = write_galaxy10(tmp_path / "small.h5")
    cases = [
        ("q1_data.py", ("--data", tmp_path / "text.h5"), "text.h5 cannot be read: "),
        ("q1_data.py", ("--data", small, "--main-train", 48), "--main-train 48: there are 48 images"),
        ("q1_data.py", ("--data", small, "--source", "real"), "are mutually exclusive"),
        ("q1_data.py", ("--seed", -1), "--seed"),
        ("q2_fcn.py", ("--epochs", 0), "--epochs"),
        ("q2_fcn.py", ("--lr", "nan"), "--lr"),
        ("q5_transfer.py", ("--backbone", out / "q2_fcn.pt"), "holds no cnn_backbone: expected 0.weight, 0.bias"),
    ]
    for script, args, words in cases:
        assert words in error_of(run(script, *args, "--out", out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "run q1_data.py first" in error_of(run("q2_fcn.py", "--out", tmp_path / "empty"))


def test_classes_without_images_or_with_only_one_do_not_end_the_chain(tmp_path):
    labels = np.arange(200, dtype=np.uint8) % 10
    labels[labels == 3] = 1
    for rare in (5, 9):
        where = np.flatnonzero(labels == rare)
        labels[where[1:]] = rare - 1
    path = write_galaxy10(tmp_path / "galaxies.h5", count=200, ans=labels)
    sizes = ("--main-train", 120, "--transfer-train", 30)
    printed = run_well("q1_data.py", "--data", path, *sizes, "--out", tmp_path)
    assert re.search("Smooth, Cigar shaped +0 [+] +0", printed)
    assert re.search("Disk, Edge-on, Boxy Bulge +1 [+] +0", printed)  # the only one is for training
    for script in ("q2_fcn.py", "q3_cnn.py", "q5_transfer.py"):
        run_well(script, "--epochs", 1, "--out", tmp_path)
    run_well("q4_confusion.py", "--out", tmp_path)
    record = read(tmp_path, "q4_confusion")
    assert record["train_counts"][3] == 0
    assert record["models"]["cnn"]["recall"][3] is None
    assert read(tmp_path, "q5_transfer")["confusion"][1] == [0, 0]


def test_q3_is_compared_only_with_a_whole_record_of_the_same_data(synthetic_run, tmp_path, capsys):
    out, _ = synthetic_run
    record, fcn, labels = read(out, "q3_cnn"), read(out, "q2_fcn"), load(out, "q1_data")["main_test_labels"]
    path = tmp_path / "q2_fcn.json"
    assert compare_with_fcn(path, record, labels) is None
    assert "run q2_fcn.py first to compare" in capsys.readouterr().out
    foreign, short = fcn | {"fingerprint": "of others"}, fcn | {"test_predictions": [1, 2]}
    for text, words in (
        (json.dumps(foreign), "comes from different data or a different split"),
        *((broken, "Not compared: ") for broken in ("{broken", "[]", "{}", json.dumps(short))),
    ):
        path.write_text(text)
        assert compare_with_fcn(path, record, labels) is None
        assert words in capsys.readouterr().out
