import json
import re
import sys

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, run_well
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from torchvision import transforms

import studies.imbalance
import studies.seeds
import studies.symmetry
import studies.training
from common.data import RandomCrop, make_loader, seed_epoch
from common.galaxies.synthetic import synthetic_galaxy10
from common.storage.checkpoint import weights_hash
from studies import tables
from studies.baselines import nearest_neighbours
from studies.runs import torch_threads


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """An HDF5 file of synthetic galaxies, and the folders that the scripts make of it with two seeds."""
    folder = tmp_path_factory.mktemp("studies")
    labels, blocks = synthetic_galaxy10(320, seed=0)
    with h5py.File(folder / "galaxies.h5", "w") as file:
        file["images"], file["ans"] = np.concatenate(list(blocks)), labels
    for seed in (0, 3):
        out = folder / str(seed)
        sizes = "--main-train", 200, "--transfer-train", 14
        run_well("q1_data.py", "--data", folder / "galaxies.h5", *sizes, "--seed", seed, "--out", out)
        for script in ("q2_fcn", "q3_cnn", "q5_transfer"):
            run_well(f"{script}.py", "--epochs", 2, "--device", "cpu", "--seed", seed, "--out", out)
    return folder


def study(monkeypatch, capsys, module, out, *args):
    """Run a study as its command does; return its record and what it printed."""
    monkeypatch.setattr(sys, "argv", ["study", "--out", str(out), "--device", "cpu", *map(str, args)])
    module.main()
    name = module.__name__.partition(".")[2]
    assert (out / "studies" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / "studies" / f"{name}.json").read_text()), capsys.readouterr().out


def script_accuracy(galaxies, seed, script):
    """The test accuracy that the script itself got with the seed, in two epochs."""
    return json.loads((galaxies / str(seed) / f"{script}.json").read_text())["test_accuracy"]


def test_a_network_that_several_studies_need_is_trained_once(tmp_path, monkeypatch):
    data, trained = {"fingerprint": "0123456789abcdef" * 4}, []

    def train_network(make_network, lr, train_loader, epochs, seed, device):
        torch.manual_seed(seed)
        trained.append((seed, epochs, torch.get_num_threads()))
        return make_network()

    monkeypatch.setattr(studies.training, "train_network", train_network)
    before = torch.get_num_threads()

    def network(seed, epochs, threads, out=tmp_path, fingerprint=data["fingerprint"]):
        given = "fcn", data | {"fingerprint": fingerprint}, None, epochs, seed, torch.device("cpu"), out, threads
        return weights_hash(studies.training.seed_network(*given).state_dict())

    first = network(0, 5, 1)
    assert network(0, 5, 1) == first
    assert network(1, 5, 1) != first
    network(0, 6, 1)
    network(0, 5, 3)
    network(0, 5, 1, fingerprint="other" * 10)
    network(0, 5, 1, out=tmp_path / "other")
    assert trained == [(0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 3), (0, 5, 1), (0, 5, 1)]
    assert torch.get_num_threads() == before


def test_a_seed_of_the_study_is_what_the_scripts_give_with_that_seed_to_the_last_digit(galaxies, monkeypatch, capsys):
    options = "--seeds", "0,3", "--grid", 2, "--epochs", 2, "--transfer-epochs", 2
    record, printed = study(monkeypatch, capsys, studies.seeds, galaxies / "0", *options)
    for seed in (0, 3):
        result = json.loads((galaxies / "0" / "studies" / "seeds" / f"seed-{seed}.json").read_text())
        for name, script in (("fcn", "q2_fcn"), ("cnn", "q3_cnn"), ("transfer", "q5_transfer")):
            expected = json.loads((galaxies / str(seed) / f"{script}.json").read_text())
            for key in ("weights_sha256", "test_loss", "test_accuracy", "test_count"):
                assert result[name][key] == expected[key], (seed, name, key)
            if name == "fcn":
                assert result["majority"]["test_accuracy"] == expected["majority_accuracy"]
    found = record["protocols"]["seed"]
    accuracies = [found["seeds"]["cnn"][place] - found["seeds"]["fcn"][place] for place in range(2)]
    assert found["cnn_minus_fcn"]["mean"] == pytest.approx(np.mean(accuracies))
    assert np.array(record["grid"]["cnn"]).diagonal().tolist() == found["seeds"]["cnn"]
    assert "\n".join(record["answer"]) in printed


def test_the_files_order_stands_beside_ours(galaxies, monkeypatch, capsys):
    options = "--seeds", "0,3", "--grid", 1, "--epochs", 1, "--transfer-epochs", 1, "--split", "file"
    record, printed = study(monkeypatch, capsys, studies.seeds, galaxies / "3", *options)
    assert list(record["protocols"]) == ["seed", "file"]
    assert "File's order, 2 seeds" in printed
    assert record["variance"] == {}


def test_the_nearest_neighbours_find_the_same_image_again():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(256, (8, 3, 69, 69), dtype=torch.uint8, generator=generator)
    data = {}
    for subset, count in (("train", 80), ("test", 16)):
        data[f"main_{subset}_labels"] = torch.arange(count) % 8
        data[f"main_{subset}_images"] = patterns[torch.arange(count) % 8]
    assert nearest_neighbours(data, seed=0)["test_accuracy"] == 1


def test_imbalance_compares_the_same_images_and_its_metrics_are_sklearns(galaxies, monkeypatch, capsys):
    record, printed = study(monkeypatch, capsys, studies.imbalance, galaxies / "0", "--seeds", "0,3", "--epochs", 2)
    runs = [
        json.loads((galaxies / "0" / "studies" / "imbalance" / f"seed-{seed}-none.json").read_text()) for seed in (0, 3)
    ]
    for seed, run in zip((0, 3), runs, strict=True):
        assert np.equal(run["labels"], run["predictions"]).mean() == script_accuracy(galaxies, seed, "q3_cnn")
    for metric, function in (
        ("accuracy", accuracy_score),
        ("balanced accuracy", balanced_accuracy_score),
        ("macro F1", lambda true, predicted: f1_score(true, predicted, labels=sorted(set(true)), average="macro")),
    ):
        expected = np.mean([function(run["labels"], run["predictions"]) for run in runs])
        assert record["methods"]["none"]["value"][metric]["mean"] == pytest.approx(expected, abs=1e-9)
    for label in set(runs[0]["labels"]) & set(runs[1]["labels"]):
        recalls = [recall_score(run["labels"], run["adjusted"], labels=[label], average=None)[0] for run in runs]
        found = record["methods"]["adjusted"]["value"]["recall"][label]["mean"]
        assert found == pytest.approx(np.mean(recalls), abs=1e-9)
    assert all(change["mean"] == 0 for name, change in record["methods"]["none"]["change"].items() if name != "recall")
    assert "Balanced sampler" in printed


def test_symmetry_says_what_the_symmetries_are_worth(galaxies, monkeypatch, capsys):
    options = "--seeds", "0,3", "--epochs", 2, "--parts", "1,2"
    record, printed = study(monkeypatch, capsys, studies.symmetry, galaxies / "0", *options)
    assert record["networks"]["cnn"]["train_count"] == {"1": 200, "2": 100}
    for name, script in (("fcn", "q2_fcn"), ("cnn", "q3_cnn")):
        neither = [script_accuracy(galaxies, seed, script) for seed in (0, 3)]
        assert record["networks"][name]["seeds"]["1"]["neither"] == neither
    cnn = record["networks"]["cnn"]["seeds"]
    gains = np.subtract(cnn["1"]["both"], cnn["1"]["neither"])
    assert record["networks"]["cnn"]["gain"]["1"]["both"]["mean"] == pytest.approx(gains.mean())
    worth = np.subtract(cnn["2"]["both"], cnn["1"]["neither"])
    assert record["networks"]["cnn"]["worth"]["2"]["mean"] == pytest.approx(worth.mean())
    assert "both on 100 images minus neither on 200" in printed


def recomputed(key, **_):
    raise ArithmeticError(f"{key} is computed again")


@pytest.mark.parametrize("module", [studies.seeds, studies.imbalance, studies.symmetry])
def test_what_another_machine_has_computed_is_only_collected(module, galaxies, monkeypatch, capsys):
    options = ["--seeds", "0,3", "--epochs", 1]
    options += {studies.seeds: ["--transfer-epochs", 1, "--grid", 1], studies.symmetry: ["--parts", 1]}.get(module, [])
    before, _ = study(monkeypatch, capsys, module, galaxies / "3", *options)
    monkeypatch.setattr(module, "measure", recomputed)
    with torch_threads(torch.get_num_threads() + 1):  # as on a machine with more cores
        after, _ = study(monkeypatch, capsys, module, galaxies / "3", *options)
    assert after["answer"] == before["answer"]


@pytest.mark.parametrize("module", [studies.seeds, studies.imbalance, studies.symmetry])
def test_a_study_without_data_says_what_to_run(module, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["study", "--out", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"run q1_data\.py first"):
        module.main()


def test_class_weights_make_all_classes_count_alike_or_by_their_root():
    counts = torch.tensor([100, 4, 0, 25])
    weights = studies.imbalance.class_weights(counts, 1)
    torch.testing.assert_close(weights * counts, torch.tensor([43.0, 43.0, 0, 43.0]))
    weights = studies.imbalance.class_weights(counts, 0.5)
    torch.testing.assert_close(weights[:2] / weights[0], torch.tensor([1, 5.0]))
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] == 0


def test_adjusted_logits_are_those_of_bayes_for_equally_frequent_classes():
    torch.manual_seed(0)
    counts, logits = torch.tensor([60, 30, 10, 0]), torch.randn(50, 4)
    posterior = logits.softmax(1).double() / torch.tensor([0.6, 0.3, 0.1, torch.inf])
    adjusted = studies.imbalance.adjusted_logits(logits, counts)
    torch.testing.assert_close(adjusted.softmax(1).double(), posterior / posterior.sum(1, keepdim=True))
    assert not (adjusted.argmax(1) == 3).any()


def test_the_balanced_sampler_shows_all_classes_alike_and_in_an_order_of_its_seed():
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([900, 90, 10]))
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 48, 48)
    weights = studies.imbalance.class_weights(torch.bincount(labels), 1)[labels]
    loader = make_loader(images, labels, transforms.Compose([RandomCrop(48)]), weights=weights)
    epochs = []
    for _ in range(2):
        seed_epoch(loader, 1, 1)
        epochs.append(torch.cat([seen for _, seen in loader]))
    assert torch.equal(*epochs)
    counts = torch.bincount(epochs[0])
    assert counts.sum() == 1000
    assert (counts - 1000 / 3).abs().max() < 75  # five standard deviations


def test_the_page_of_tables_is_that_of_the_committed_records(tmp_path):
    folder = ROOT / "docs" / "studies"
    if not list(folder.rglob("*.json")):
        pytest.skip("docs/studies has no records yet")
    assert (ROOT / "docs" / "studies.md").read_text(encoding="utf-8") == tables.page(folder)


def test_the_readmes_intervals_are_those_of_the_tables():
    text, tables_text = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/studies.md"))
    results = text[: text.index("## The questions")]
    intervals = re.findall(r"[-+\d.]+ (?:% |points )?\[[-\d.]+, [-\d.]+\]", results)
    assert len(intervals) > 10
    figures = [re.sub(r" (?:% |points )?\[", " [", interval).lstrip("+") for interval in intervals]
    there = re.sub(r" (?:% |points )?\[", " [", tables_text)
    assert [figure for figure in figures if figure not in there] == []


def test_the_tables_hold_the_records_figures(galaxies, monkeypatch, capsys):
    docs = galaxies / "docs"
    records = {}
    for module, *options in ((studies.imbalance, "--epochs", 1), (studies.symmetry, "--parts", "1,2", "--epochs", 1)):
        name = module.__name__.partition(".")[2]
        records[name], _ = study(monkeypatch, capsys, module, galaxies / "0", "--seeds", "0,3", *options)
        (docs / "studies").mkdir(parents=True, exist_ok=True)
        (docs / "studies" / f"{name}.json").write_text(json.dumps(records[name]))
    monkeypatch.setattr(sys, "argv", ["tables", "--docs", str(docs)])
    tables.main()
    text = (docs / "studies.md").read_text()
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    for method in ("none", "sampler"):
        macro = records["imbalance"]["methods"][method]["value"]["macro F1"]["mean"]
        assert f"| {100 * macro:.1f} %" in rows[studies.imbalance.TITLES[method]]
    accuracy = records["symmetry"]["networks"]["cnn"]["accuracy"]["2"]["both"]["mean"]
    assert f"{100 * accuracy:.1f} %" in rows["100"]  # the CNN's comes last
    assert all(sentence in text for record in records.values() for sentence in record["answer"])


def test_without_records_there_are_no_tables(tmp_path):
    with pytest.raises(ValueError, match="holds no JSON file"):
        tables.page(tmp_path)


@pytest.mark.parametrize(("low", "high", "says"), [
    (0.0, 0.0, "cannot be told from so few runs"), (0.0, 0.9, "whether the split matters cannot be told"),
    (0.2, 0.9, "the split matters")])  # fmt: skip
def test_the_splits_share_of_the_variance_is_given_only_with_an_interval_that_holds_it(low, high, says):
    parts = {"share": low, "low": low, "high": high, "between_sd": 0.01, "within_sd": 0.02}
    [sentence] = studies.seeds.describe({}, {"cnn": parts})
    assert says in sentence
    assert ("%" in sentence) == (high > 0)
