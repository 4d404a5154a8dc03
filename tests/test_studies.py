"""The studies: sentences on made-up results, and one short run of each, compared with the scripts and with sklearn."""

import functools
import importlib
import json
import os
import shutil
import signal
import time

import q3_cnn
from common.data import Loader, MyDataset, load_data
from common.galaxies.synthetic import synthetic_galaxy10
from common.storage.artifacts import load_json, load_tensors
from common.train import predict
from studies import calibration, imbalance, inside, locality, seeds, symmetry
from studies.methods import page, training
from studies.methods.statistics import share_text

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, crop_transform, error_of, float32_tolerance, run, run_well, write_galaxy10
from forked import start
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional

EPOCHS = 5
OPTIONS = {  # besides seeds.seeds, one seed is enough: test_studies_methods tests the intervals
    "seeds": ("--seeds", "0,3", "--grid", 2, "--transfer-epochs", EPOCHS, "--split", "file"),
    "imbalance": ("--seeds", 3),
    "symmetry": ("--seeds", 3, "--fractions", "1,2"),
    "locality": ("--seeds", 3),
    "transfer": ("--seeds", 3),
    "calibration": ("--seeds", 3, "--held-out", 0.2),
    "inside": ("--seeds", 3),
}
SCRIPTS = {"fcn": "q2_fcn", "cnn": "q3_cnn", "transfer": "q5_transfer"}
CPU = torch.device("cpu")


def committed(name):
    """Return a committed record as the study made it: with NaN, and with numbers as keys."""
    text = (ROOT / "docs" / "studies" / f"{name}.json").read_text(encoding="utf-8").replace("null", "NaN")
    numbered = lambda each: {int(key) if key.isdigit() else key: value for key, value in each.items()}  # noqa: E731
    return json.loads(text, object_hook=numbered)


@pytest.mark.parametrize("name", [*OPTIONS, "encoder"])
def test_sentences_match_the_committed_record(name):
    record = committed(name)
    on_pictures = record["notes"] if name == "encoder" else []
    described = importlib.import_module(f"studies.{name}").describe(record)
    assert [*described, *on_pictures] == [record["answer"], *record["notes"]]


def test_sentences_where_nothing_varies_and_no_recall_falls():
    record = committed("seeds")
    record["variance"] = {"cnn": record["variance"]["cnn"] | {"share": np.nan}}
    assert seeds.describe(record)[1:] == ["CNN: all crossed runs have the same accuracy."]
    record = committed("imbalance")
    record["methods"]["adjusted"] = record["methods"]["none"]
    assert len(imbalance.describe(record)) == 2


def test_metrics_of_imbalance_match_sklearn():
    labels, predictions = np.random.default_rng(0).choice([0, 1, 3], (2, 60))  # no image of class 2
    expected = [accuracy_score(labels, predictions), balanced_accuracy_score(labels, predictions)]
    expected.append(f1_score(labels, predictions, labels=[0, 1, 3], average="macro"))
    expected += recall_score(labels, predictions, labels=range(4), average=None, zero_division=np.nan).tolist()
    np.testing.assert_allclose(imbalance.class_metrics(labels, predictions, 4), expected, atol=1e-12)


def test_metrics_of_calibration_before_and_after_the_temperature():
    rows = []
    for name, before, after in (("fcn", [4] * 10, [4] * 10), ("cnn", [7, 5] * 5, [5] * 10)):  # correct ones of each ten
        row = {"network": name, "temperature": 1.5, "loss_before": 1.0, "loss_after": 1.0}
        row |= {f"confidence_{when}": [0.5] * 100 for when in ("before", "after")}
        for key, counts in (("correct", before), ("correct_after", after)):
            row[key] = [place < count for count in counts for place in range(10)]
        rows.append(row | {f"nine_crops_{key}": value for key, value in row.items()})
    mean = {name: network["mean"] for name, network in calibration.summarise(rows).items()}
    assert mean["fcn"]["overconfidence_before"]["mean"] == pytest.approx(0.1)
    for prefix in ("", "nine_crops_"):
        found = [
            mean["cnn"][f"{prefix}{key}"]["mean"] for key in ("overconfidence_before", "error_before", "error_change")
        ]
        assert found == pytest.approx([-0.1, 0.1, -0.1])


def test_metrics_of_locality():
    rows = [
        {"network": name, "as_is": as_is, "shuffled": shuffled}
        for name, as_is, shuffled in (("fcn", 0.5, 0.6), ("cnn", 0.9, 0.7))
    ]
    found = locality.summarise(rows)
    for name, expected in (("fcn", [0.5, 0.6, 0.1]), ("cnn", [0.9, 0.7, -0.2])):
        assert [each["mean"] for each in found["networks"][name].values()] == pytest.approx(expected)
    assert [each["mean"] for each in found["cnn_minus_fcn"].values()] == pytest.approx([0.4, 0.1, -0.3])


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """A folder with a small synthetic set, and in 0/ and 3/ what Q1, Q2, Q3 and Q5 make of it with these seeds."""
    folder = tmp_path_factory.mktemp("chains")
    labels, blocks = synthetic_galaxy10(500, seed=0)
    labels = np.array([0, 8, 9, 3, 4, 5, 6, 7, 1, 2])[labels]  # so that classes 8 and 9 have images enough to compare
    with h5py.File(folder / "galaxies.h5", "w") as file:
        file["images"], file["ans"] = np.concatenate(list(blocks)), labels
    for seed in (0, 3):
        options = "--seed", seed, "--out", folder / str(seed)
        run_well("q1_data.py", "--data", folder / "galaxies.h5", "--main-train", 121, "--transfer-train", 61, *options)
        for script in SCRIPTS.values():
            run_well(f"{script}.py", "--epochs", EPOCHS, "--device", "cpu", *options)
    return folder


def link_chain(chains, folder):
    """Link to what the questions made with seed 0, in a folder; return the folder."""
    folder.mkdir(exist_ok=True)
    for path in (chains / "0").glob("q*"):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def study(chains):
    """A function that runs a study once, by its command on seed 0's data; it returns the record, and the results.

    Results are those in the files of its runs, by the values in their names.
    """

    @functools.cache
    def once(name):
        out, results = link_chain(chains, chains / name), {}
        printed = run_well(f"studies.{name}", "--epochs", EPOCHS, "--device", "cpu", "--out", out, *OPTIONS[name])
        record = load_json(out / "studies" / f"{name}.json")
        assert printed.splitlines() == [f"studies.{name} · galaxies.h5", record["answer"], *record["notes"]]
        for path in (out / "studies" / name).glob("*.json"):
            words = path.stem.split("-")[1::2]
            results[tuple(int(word) if word.isdigit() else word for word in words)] = load_json(path)["result"]
        return record, results

    return once


def script_record(chains, seed, network):
    return load_json(chains / str(seed) / f"{SCRIPTS[network]}.json")


def cnn_of(chains, seed):
    network = q3_cnn.make_cnn()
    network.load_state_dict(load_tensors(chains / str(seed) / "q3_cnn.pt", "q3_cnn.py"))
    return network


def test_a_seeds_networks_match_the_scripts_with_that_seed_to_the_last_bit(chains, study):
    record, results = study("seeds")
    for seed in (0, 3):
        result = results["stratified", seed, seed]
        for network in SCRIPTS:
            expected = script_record(chains, seed, network)
            for key in ("weights_sha256", "test_loss", "test_accuracy", "test_count"):
                assert result[network][key] == expected[key], (seed, network, key)
        for name, network in (("majority", "cnn"), ("transfer_majority", "transfer")):
            assert result[name]["test_accuracy"] == script_record(chains, seed, network)["majority_accuracy"]
    in_order, protocols = [results["file", seed, seed] for seed in (0, 3)], record["protocols"]
    assert protocols["file"]["seeds"]["softmax"] == [each["softmax"]["test_accuracy"] for each in in_order]
    lead = np.subtract(*(protocols["stratified"]["seeds"][name] for name in ("cnn", "fcn")))
    assert protocols["stratified"]["cnn_minus_fcn"]["mean"] == pytest.approx(lead.mean())
    for name, parts in record["variance"].items():
        crossed = [[results["stratified", split, seed][name]["test_accuracy"] for seed in (0, 3)] for split in (0, 3)]
        assert parts["within_sd"] ** 2 == pytest.approx(np.var(crossed, axis=1, ddof=1).mean())


def test_without_a_change_the_studies_networks_match_the_scripts(chains, study):
    cnn, fcn = (script_record(chains, 3, name) for name in ("cnn", "fcn"))
    record, results = study("imbalance")
    assert results[3, "none"]["predictions"] == cnn["test_predictions"]
    assert results[3, "none"]["train_counts"] == cnn["train_counts"]
    labels, sampled = results[3, "sampler"]["labels"], results[3, "sampler"]["predictions"]
    gain = balanced_accuracy_score(labels, sampled) - balanced_accuracy_score(labels, cnn["test_predictions"])
    assert record["methods"]["sampler"]["change"]["balanced accuracy"]["mean"] == pytest.approx(gain)
    _, results = study("locality")
    assert [results[3, name]["as_is"] for name in ("cnn", "fcn")] == [cnn["test_accuracy"], fcn["test_accuracy"]]
    record, results = study("symmetry")
    assert [results[3, name, 1]["none"] for name in ("cnn", "fcn")] == [cnn["test_accuracy"], fcn["test_accuracy"]]
    assert {key[2]: result["train_count"] for key, result in results.items()} == {1: 121, 2: 60}
    test_loader = training.make_loader(load_data(chains / "3"), "main_test")
    mean = symmetry.SymmetryMean(cnn_of(chains, 3))
    assert results[3, "cnn", 1]["test-time"] == training.accuracy_of(mean, test_loader)
    cnn, fewer = record["networks"]["cnn"], results[3, "cnn", 2]["both"]
    assert cnn["gain"]["2"]["both"]["mean"] == fewer - results[3, "cnn", 2]["none"]
    assert cnn["worth"]["2"]["mean"] == fewer - results[3, "cnn", 1]["none"]


def test_transfer_compares_heads_on_the_backbone_and_the_normalisation_of_q3(chains, study):
    record, results = study("transfer")
    assert record["sizes"] == [25, 50, 61]
    for name, intervals in record["differences"].items():
        first, second = name.split(" - ")
        differences = np.subtract(results[3,][first], results[3,][second])
        assert [each["mean"] for each in intervals] == pytest.approx(differences)
    assert results[3,]["majority"] == script_record(chains, 3, "transfer")["majority_accuracy"]
    # The same with Q1's own split of seed 3, and the backbone and normalisation of seed 0.
    original, data = load_data(chains / "0"), load_data(chains / "3")
    transform = crop_transform(original["mean"], original["std"])
    sets = [MyDataset(data[f"transfer_{each}_images"], data[f"transfer_{each}_labels"], transform)
            for each in ("train", "test")]  # fmt: skip
    torch.manual_seed(3)
    untrained, trained = q3_cnn.make_backbone(), cnn_of(chains, 0)[0]
    for backbone, name, place in ((untrained, "untrained", 0), (trained, "frozen", 2)):
        n = record["sizes"][place]
        (features, labels), tested = (predict(backbone, Loader(each)) for each in sets)
        head = training.head_accuracy((features[:n], labels[:n]), tested, seed=3)
        assert results[3,][name][place] == head


def test_inside_shifts_crops_in_four_directions_and_shows_mistakes(chains, study):
    record, results = study("inside")
    assert record["shifts"] == [0, 1, 2, 3, 4, 6, 8, 10]
    last = {name: results[3, name]["changed"][-1] for name in ("fcn", "cnn")}
    assert record["fcn_minus_cnn"]["mean"] == pytest.approx(last["fcn"] - last["cnn"])
    data, cnn = load_data(chains / "3"), cnn_of(chains, 3)
    ways = (0, 0), (6, 0), (-6, 0), (0, 6), (0, -6)
    centre, *shifted = (cnn(inside.crop_at(data, *way)).argmax(1).numpy() for way in ways)
    # 0.001 is less than one of 75 images in four directions.
    assert results[3, "cnn"]["changed"][5] == pytest.approx(np.mean(shifted != centre), abs=0.001)
    labels = data["main_test_labels"].numpy()
    assert results[3, "cnn"]["accuracy"][5] == pytest.approx(np.mean(shifted == labels), abs=0.001)
    labels = load_data(chains / "0")["main_test_labels"]
    for mistakes in record["confident_mistakes"].values():
        probabilities = [probability for _, _, probability in mistakes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(predicted != labels[index] for index, predicted, _ in mistakes)
    figures = {path.stem for path in (chains / "inside" / "studies").glob("*.png")}
    assert figures == {"inside", "inside_mistakes", "inside_filters", "inside_features"}


def test_the_temperature_is_fitted_on_images_that_were_held_out_of_the_training(chains, monkeypatch):
    seen = {}

    def untrained(name, data, *_):
        seen.update(data)
        return cnn_of(chains, 3)

    monkeypatch.setattr(calibration, "train_on_main", untrained)
    result = calibration.measure(chains / "3", CPU, seed=3, network="cnn", epochs=1, held_out=0.2, crops=4)
    kept, held = seen["main_train_images"], seen["held_out_images"]
    assert (len(kept), len(held)) == (97, 24)
    rows = {image.numpy().tobytes() for each in (kept, held) for image in each}
    assert rows == {image.numpy().tobytes() for image in load_data(chains / "3")["main_train_images"]}
    logits, labels = predict(cnn_of(chains, 3), training.make_loader(seen, "held_out"))
    logits, labels = logits.numpy(), labels.numpy()
    expected = calibration.fit_temperature(logits, labels)
    assert result["temperature"] == pytest.approx(expected, rel=1e-4)
    logits, labels = predict(cnn_of(chains, 3), training.make_loader(seen, "main_test"))
    probabilities, predicted = (logits / expected).softmax(1).max(1)
    np.testing.assert_allclose(result["confidence_after"], probabilities, atol=1e-4)
    assert result["correct"] == (predicted == labels).tolist()


def test_shifted_crops_match_torchvision():
    images = torch.randint(256, (2, 3, 69, 69), dtype=torch.uint8)
    data = {"main_test_images": images, "mean": torch.tensor([90.0, 80, 70]), "std": torch.tensor([9.0, 8, 7])}
    normalize = transforms.Normalize(data["mean"], data["std"])
    for right, down in ((0, 0), (6, 0), (0, 6), (-10, 3)):
        expected = normalize(functional.crop(images.float(), 10 + down, 10 + right, 48, 48))
        assert torch.equal(inside.crop_at(data, right, down), expected)


def test_shuffling_is_the_same_for_all_images_and_an_fcn_with_its_weights_shuffled_sees_no_difference():
    places = torch.arange(48 * 48.0).view(1, 1, 48, 48).expand(2, 3, 48, 48)
    order = locality.shuffle_pixels(places).flatten(2).long()
    assert (order == order[0, 0]).all()  # the colours of a pixel stay together
    assert torch.equal(order[0, 0].sort().values, torch.arange(48 * 48))
    assert (order[0, 0] == torch.arange(48 * 48)).float().mean() < 0.01
    crops, first = torch.randn(4, 3, 48, 48), nn.Linear(3 * 48 * 48, 64)
    with torch.no_grad():
        expected = first(crops.flatten(1))
        first.weight.copy_(first.weight.view(64, 3, -1)[:, :, order[0, 0]].flatten(1))
        found = first(locality.shuffle_pixels(crops).flatten(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=float32_tolerance(3 * 48 * 48, expected))


def test_streaks_of_noise_are_told_apart_by_the_cnn_alone_and_only_until_they_are_shuffled(tmp_path):
    random, classes = np.random.default_rng(0), np.arange(300) % 2
    noise = random.normal(0, 20, (300, 69, 69, 1))
    across, down = (sum(np.roll(noise, shift, axis) for shift in range(6)) for axis in (2, 1))
    images = np.where(classes[:, None, None, None], across, down).repeat(3, axis=3) + 128
    path = write_galaxy10(tmp_path / "streaks.h5", images=images.clip(0, 255).astype(np.uint8), ans=classes)
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = ["down", "across"]
    run_well("q1_data.py", "--data", path, "--main-train", 200, "--out", tmp_path)
    found = {name: locality.measure(tmp_path, CPU, seed=0, network=name, epochs=8) for name in ("fcn", "cnn")}
    assert found["cnn"]["as_is"] > 0.95
    assert max(found["cnn"]["shuffled"], *found["fcn"].values()) < 0.8


def test_a_network_is_trained_once_for_each_seed_data_layers_and_learning_rate(tmp_path, monkeypatch):
    trained = []

    def fake(name, *arguments):
        trained.append(arguments)
        return training.NETWORKS[name]()

    monkeypatch.setattr(training, "train_on_main", fake)
    data = {"fingerprint": "0" * 64, "class_names": [""] * 8}
    settings = {"name": "fcn", "data": data, "out": tmp_path, "seed": 0, "epochs": 1, "device": CPU}
    first, again = (training.seed_network(**settings) for _ in range(2))
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert len(trained) == 1
    for changes in ({"seed": 3}, {"epochs": 2}, {"data": data | {"fingerprint": "1" * 64}}):
        training.seed_network(**settings | changes)
    monkeypatch.setattr(training.DEFAULTS["fcn"], "lr", 0.01)
    training.seed_network(**settings)
    monkeypatch.setitem(training.NETWORKS, "fcn", lambda k=8: nn.Sequential(nn.Flatten(), nn.Linear(6912, k)))
    training.seed_network(**settings)
    assert len(trained) == 6


def test_the_hash_of_layers_tells_layers_and_initial_weights():
    def initialised():
        network = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        nn.init.zeros_(network[0].bias)
        return network

    relu, tanh = (lambda layer=layer: nn.Sequential(nn.Linear(3, 2), layer) for layer in (nn.ReLU(), nn.Tanh()))
    state = torch.random.get_rng_state()
    hashes = [training.layers_hash(make) for make in (relu, tanh, initialised)]
    assert len(set(hashes)) == 3
    assert hashes[0] == training.layers_hash(relu)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_data_or_with_a_network_of_other_data_a_study_says_what_to_run(chains, tmp_path):
    assert "run q1_data.py first" in error_of(run("studies.seeds", "--out", tmp_path))
    link_chain(chains, tmp_path)
    (tmp_path / "q1_data.pt").unlink()
    (tmp_path / "q1_data.pt").symlink_to(chains / "3" / "q1_data.pt")
    for name in ("transfer", "inside"):
        error = error_of(run(f"studies.{name}", "--out", tmp_path))
        assert "was trained on different data or a different split" in error
    assert "holds no JSON file of a study" in error_of(run("studies.methods.page", "--docs", tmp_path))


def test_studies_take_any_number_of_classes_and_the_page_shows_their_figures(tmp_path):
    own = write_galaxy10(tmp_path / "own.h5", 90, ans=np.arange(90) % 3)
    with h5py.File(own, "a") as file:
        file.attrs["class_names"] = ["elliptical", "spiral", "irregular"]
    run_well("q1_data.py", "--data", own, "--main-train", 60, "--out", tmp_path)
    options = ("--epochs", 1, "--device", "cpu", "--out", tmp_path)
    for script in ("q2_fcn", "q3_cnn"):
        run_well(f"{script}.py", *options)
    for name in OPTIONS:
        if name == "transfer":
            assert "no classes are held back" in error_of(run(f"studies.{name}", *options))
        else:
            run_well(f"studies.{name}", *OPTIONS[name], "--seeds", "0", *options)
    folder = tmp_path / "studies"
    assert load_json(folder / "imbalance.json")["train_counts"] == [20, 20, 20]
    assert "transfer" not in load_json(folder / "seeds.json")["protocols"]["stratified"]["accuracy"]
    assert "with 0 it is left out" in load_json(folder / "inside.json")["notes"][0]
    docs = tmp_path / "docs"
    shutil.copytree(folder, docs / "studies", ignore=lambda _, names: [name for name in names if "." not in name])
    (docs / "studies.md").write_text(f"By hand.\n{page.MARK}Old.\n")
    run_well("studies.methods.page", "--docs", docs)
    lines = (docs / "studies.md").read_text().splitlines()
    assert lines[:4] == ["By hand.", page.MARK.strip(), "", "## calibration · own.h5"]
    assert "Old." not in lines
    figures = {f"![{path.stem}](studies/{path.name})" for path in folder.glob("*.png")}
    assert len(figures) == 8
    assert figures <= set(lines)


def test_after_ctrl_c_results_stay_no_process_does_and_the_command_it_prints_resumes(chains, tmp_path):
    options = ["--seeds", "0,1", "--epochs", str(EPOCHS), "--device", "cpu", "--out", str(link_chain(chains, tmp_path))]
    pipe = tmp_path / "errors"
    os.mkfifo(pipe)
    study = start("studies.imbalance", *options, log=tmp_path / "log", errors=pipe, LOKY_MAX_CPU_COUNT="2")

    def times():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "studies" / "imbalance").glob("*.json")}

    with open(pipe) as errors:
        while not times() and study.is_alive():
            time.sleep(0.05)
        os.kill(study.pid, signal.SIGINT)
        printed = errors.read()  # until each process that was started has closed stderr, by ending
    study.join()
    assert study.exitcode == 130
    assert f"interrupted; to resume: python -m studies.imbalance {' '.join(options)}" in printed
    before = times()
    assert 0 < len(before) < 8
    run_well("studies.imbalance", *options)
    assert before.items() < times().items()
    assert len(times()) == 8


def test_class_weights_make_all_classes_count_alike_or_by_their_root():
    counts = torch.tensor([100, 4, 0, 25])
    weights = imbalance.class_weights(counts, 1)
    torch.testing.assert_close(weights * counts, torch.tensor([43.0, 43.0, 0, 43.0]))
    weights = imbalance.class_weights(counts, 0.5)
    torch.testing.assert_close(weights[:2] / weights[0], torch.tensor([1, 5.0]))
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[2] == 0


def test_adjusted_logits_match_bayes_for_equally_frequent_classes():
    torch.manual_seed(0)
    counts, logits = torch.tensor([60, 30, 10, 0]), torch.randn(50, 4)
    posterior = logits.softmax(1).double() / torch.tensor([0.6, 0.3, 0.1, torch.inf])
    adjusted = imbalance.adjusted_logits(logits, counts)
    torch.testing.assert_close(adjusted.softmax(1).double(), posterior / posterior.sum(1, keepdim=True))
    assert not (adjusted.argmax(1) == 3).any()


def test_the_decision_line_is_where_the_logits_are_equal():
    torch.manual_seed(0)
    head = nn.Linear(64, 2)
    with torch.no_grad():
        features = torch.randn(50, 64) + 9 * torch.randn(50, 1) * (head.weight[1] - head.weight[0])
        plane = inside.features_in_a_plane(features, head)
        logits = head(features)
    limit = float32_tolerance(64, logits)
    torch.testing.assert_close(plane[:, 0], logits[:, 1] - logits[:, 0], rtol=0, atol=limit)
    # Across it, no direction is wider: the first principal component of what is left, by numpy.
    unit = (head.weight[1] - head.weight[0]).detach()
    unit = unit / unit.norm()
    rest = features - features.mean(0)
    rest = rest - (rest @ unit)[:, None] * unit
    widest = np.linalg.eigvalsh(np.cov(rest.numpy().T))[-1]
    assert plane[:, 1].var().item() == pytest.approx(widest, rel=float32_tolerance(50 * 64, 1))


def test_the_readmes_accuracies_match_the_committed_record():
    found = load_json(ROOT / "docs" / "studies" / "seeds.json")["protocols"]["stratified"]["accuracy"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("fcn", "cnn", "transfer"):
        lowest, highest = (f"{100 * found[name][end]:.1f}" for end in ("lowest", "highest"))
        assert f"| {share_text(found[name])} | {lowest} – {highest} |" in text
    for name in ("majority", "transfer_majority"):
        assert f"| {found[name]['mean']:.1%} | |" in text


def test_the_page_of_studies_is_that_of_the_committed_records():
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert text.partition(page.MARK)[2] == page.studies_page(ROOT / "docs" / "studies")
