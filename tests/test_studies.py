import functools
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import q3_cnn
from common.data import Loader, MyDataset, load_data
from common.galaxies.synthetic import synthetic_galaxy10
from common.hardware.parallel import torch_threads
from common.storage.artifacts import load_json, load_tensors, save_tensors
from common.storage.checkpoint import weights_hash
from common.train import predict
from studies import calibration, imbalance, inside, locality
from studies.methods import page, training

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT, crop_transform, float32_tolerance, heed_ctrl_c, write_galaxy10
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional

EPOCHS = 5
STUDIES = ("seeds", "imbalance", "symmetry", "locality", "transfer", "calibration", "inside")
OPTIONS = {
    "seeds": ("--grid", 2, "--transfer-epochs", EPOCHS, "--split", "file"),
    "symmetry": ("--fractions", "1,2"),
    "calibration": ("--held-out", 0.2),
}
SCRIPTS = {"fcn": "q2_fcn", "cnn": "q3_cnn", "transfer": "q5_transfer"}
CPU = torch.device("cpu")
# `command` runs modules that are imported here too.
pytestmark = pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")


def command(module, *args):
    """Run `python -m module args`, in this process and with one thread; return what it printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), torch_threads(1):
        patch.setattr(sys, "argv", [module, *map(str, args)])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    plt.close("all")
    return printed.getvalue()


def error_of(module, *args):
    """Return the line on stderr of a command that must fail as bad input does."""
    printed = io.StringIO()
    with redirect_stderr(printed), pytest.raises(SystemExit, match="2"):
        command(module, *args)
    [line] = printed.getvalue().splitlines()
    return line


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
        sizes = "--main-train", 121, "--transfer-train", 61
        command("q1_data", "--data", folder / "galaxies.h5", *sizes, *options)
        for script in SCRIPTS.values():
            command(script, "--epochs", EPOCHS, "--device", "cpu", *options)
    return folder


def link_chain(chains, folder, seed=0):
    """Link to what the questions made with a seed, in a folder; return the folder."""
    folder.mkdir(exist_ok=True)
    for path in (chains / str(seed)).glob("q*"):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def study(chains):
    """A function that runs a study, once, by its command in a folder of its own, with seeds 0 and 3 and few epochs.

    It returns the study's record and the results in its runs' files, by their keys.
    """

    @functools.cache
    def run(name):
        out = link_chain(chains, chains / name)
        options = (*OPTIONS.get(name, ()), "--seeds", "0,3", "--epochs", EPOCHS, "--device", "cpu", "--out", out)
        printed = command(f"studies.{name}", *options)
        record, results = load_json(out / "studies" / f"{name}.json"), {}
        for path in (out / "studies" / name).glob("*.json"):
            words = path.stem.split("-")
            results[tuple(int(word) if word.isdigit() else word for word in words[1::2])] = load_json(path)["result"]
        for sentence in (record["answer"], *record["notes"]):
            assert sentence in printed
        assert (out / "studies" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        return record, results

    return run


def numbers(value):
    """Return all numbers in nested dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, (int, float)) else []


def intervals(value):
    """Return (mean, low, high) of all intervals in nested dicts and lists; of a variance the share is what has one."""
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        return [(value["mean" if "mean" in value else "share"], value["low"], value["high"])]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for item in inner for each in intervals(item)]


def not_in_record(text, record):
    """Return the percentages and points in a text, with their intervals, that a study's record does not have."""
    missing = []
    for match in re.finditer(r"([-+]?\d+(?:\.(\d))?) ?(?:%|points)(?: \[([-\d.]+), ([-\d.]+)\])?", text):
        mean, decimal, low, high = match.groups()
        digits = 1 if decimal else 0
        wanted = tuple(float(each) for each in (mean, low, high) if each)
        known = intervals(record) if low else [(number,) for number in numbers(record)]
        known = [[100 * number for number in each] for each in known if None not in each]
        known += [[number, *np.clip(bounds, 0, 100)] for number, *bounds in known]  # a share's interval is clipped
        if not any(np.allclose(wanted, np.round(each, digits), atol=1e-6) for each in known):
            missing.append(match.group())
    return missing


def mean(values):
    """Return the mean over seeds as it is printed, without its interval."""
    return f"{100 * np.mean(values):.1f}%"


def change(first, second):
    return f"{100 * np.mean(np.subtract(first, second)):+.1f} points"


def script_record(chains, seed, network):
    return load_json(chains / str(seed) / f"{SCRIPTS[network]}.json")


def cnn_of(chains, seed):
    network = q3_cnn.make_cnn()
    network.load_state_dict(load_tensors(chains / str(seed) / "q3_cnn.pt", "q3_cnn.py"))
    return network


def test_a_seeds_networks_are_those_of_the_scripts_with_that_seed_to_the_last_bit(chains, study):
    _, results = study("seeds")
    for seed in (0, 3):
        result = results["stratified", seed, seed]
        for network in SCRIPTS:
            expected = script_record(chains, seed, network)
            for key in ("weights_sha256", "test_loss", "test_accuracy", "test_count"):
                assert result[network][key] == expected[key], (seed, network, key)
        for name, network in (("majority", "cnn"), ("transfer_majority", "transfer")):
            assert result[name]["test_accuracy"] == script_record(chains, seed, network)["majority_accuracy"]


@pytest.mark.parametrize("name", STUDIES)
def test_all_numbers_that_a_study_says_are_in_its_record(study, name):
    record, _ = study(name)
    assert len(re.findall(r"%|points", record["answer"])) >= 2
    for sentence in (record["answer"], *record["notes"]):
        assert not_in_record(sentence, record) == []


def test_seeds_says_what_its_runs_have_measured(study):
    record, results = study("seeds")
    runs = [results["stratified", seed, seed] for seed in (0, 3)]
    fcn, cnn = ([run[name]["test_accuracy"] for run in runs] for name in ("fcn", "cnn"))
    assert f"Over 2 seeds the FCN reaches {mean(fcn)} " in record["answer"]
    assert f"CNN minus FCN is {change(cnn, fcn)} " in record["answer"]
    in_order = [results["file", seed, seed]["softmax"]["test_accuracy"] for seed in (0, 3)]
    assert record["protocols"]["file"]["seeds"]["softmax"] == in_order
    for name, parts in record["variance"].items():
        crossed = [[results["stratified", split, seed][name]["test_accuracy"] for seed in (0, 3)] for split in (0, 3)]
        assert parts["within_sd"] ** 2 == pytest.approx(np.var(crossed, axis=1, ddof=1).mean())


def test_imbalance_says_what_its_runs_have_measured_by_sklearns_metrics(chains, study):
    record, results = study("imbalance")
    for seed in (0, 3):
        expected = script_record(chains, seed, "cnn")
        assert results[seed, "none"]["predictions"] == expected["test_predictions"]
        assert results[seed, "none"]["train_counts"] == expected["train_counts"]

    def macro_f1(labels, predictions):
        return f1_score(labels, predictions, labels=sorted(set(labels)), average="macro")

    def recalls(labels, predictions):
        return recall_score(labels, predictions, labels=range(8), average=None, zero_division=np.nan)

    def metric(function, method):
        trained, key = ("none", "adjusted") if method == "adjusted" else (method, "predictions")
        return [function(run["labels"], run[key]) for run in (results[seed, trained] for seed in (0, 3))]

    functions = {"accuracy": accuracy_score, "balanced accuracy": balanced_accuracy_score, "macro F1": macro_f1}
    for method, found in record["methods"].items():
        for name, function in functions.items():
            assert found["value"][name]["mean"] == pytest.approx(np.mean(metric(function, method)), abs=1e-9)
        by_class = [np.nan if each["mean"] is None else each["mean"] for each in found["value"]["recall"]]
        assert by_class == pytest.approx(np.mean(metric(recalls, method), axis=0), abs=1e-9, nan_ok=True)
    changes = [change(metric(function, "sampler"), metric(function, "none")) for function in functions.values()]
    assert f" mean recall by {changes[1]} " in record["answer"]
    assert f" accuracy by {changes[0]} " in record["answer"]
    fallen = np.mean(np.subtract(metric(recalls, "adjusted"), metric(recalls, "none")), axis=0)
    worst = np.nanargmin(fallen)
    named = f"{record['class_names'][worst]} ({record['train_counts'][worst]} training images)"
    assert [named in note for note in record["notes"][1:]] == ([True] if fallen[worst] < 0 else [])


def test_symmetry_says_what_its_runs_have_measured(chains, study):
    record, results = study("symmetry")

    def accuracies(network, fraction, use):
        return [results[seed, network, fraction][use] for seed in (0, 3)]

    for network in ("fcn", "cnn"):
        scripts = [script_record(chains, seed, network)["test_accuracy"] for seed in (0, 3)]
        assert accuracies(network, 1, "none") == scripts
    assert {key[2]: result["train_count"] for key, result in results.items()} == {1: 121, 2: 60}
    gain = change(accuracies("cnn", 1, "both"), accuracies("cnn", 1, "none"))
    assert record["answer"].startswith(f"Trained on the symmetries and averaged over them, the CNN gains {gain} ")
    worth = change(accuracies("cnn", 2, "both"), accuracies("cnn", 1, "none"))
    assert f"without them on all: 60 images {worth} " in record["notes"][1]


def test_locality_says_what_its_runs_have_measured(chains, study):
    record, results = study("locality")
    fcn, cnn = (
        {key: np.array([results[seed, network][key] for seed in (0, 3)]) for key in ("as_is", "shuffled")}
        for network in ("fcn", "cnn")
    )
    assert list(cnn["as_is"]) == [script_record(chains, seed, "cnn")["test_accuracy"] for seed in (0, 3)]
    lead = {key: cnn[key] - fcn[key] for key in cnn}
    assert record["answer"].startswith(f"CNN minus FCN is {change(cnn['as_is'], fcn['as_is'])} ")
    assert f" and {change(cnn['shuffled'], fcn['shuffled'])} " in record["answer"]
    assert f": a change of {change(lead['shuffled'], lead['as_is'])} " in record["answer"]
    assert f"the FCN's accuracy by {change(fcn['shuffled'], fcn['as_is'])} " in record["notes"][0]


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
    command("q1_data", "--data", path, "--main-train", 200, "--out", tmp_path)
    with torch_threads(1):
        found = {name: locality.measure(tmp_path, CPU, seed=0, network=name, epochs=8) for name in ("fcn", "cnn")}
    assert found["cnn"]["as_is"] > 0.95
    assert max(found["cnn"]["shuffled"], *found["fcn"].values()) < 0.8


def test_transfer_says_what_its_runs_have_measured(chains, study):
    record, results = study("transfer")
    assert record["sizes"] == [25, 50, 61]
    last = {name: [results[seed,][name][-1] for seed in (0, 3)] for name in ("frozen", "untrained", "scratch")}
    for other in ("untrained", "scratch"):
        assert f" {change(last['frozen'], last[other])} " in record["answer"]
    for seed in (0, 3):
        assert results[seed,]["majority"] == script_record(chains, seed, "transfer")["majority_accuracy"]
    # The same of seed 3, with Q1's own split of that seed, and the backbone and normalisation of seed 0.
    original, data = load_data(chains / "0"), load_data(chains / "3")
    transform = crop_transform(original["mean"], original["std"])
    sets = [MyDataset(data[f"transfer_{each}_images"], data[f"transfer_{each}_labels"], transform)
            for each in ("train", "test")]  # fmt: skip
    torch.manual_seed(3)
    for backbone, name in ((q3_cnn.make_backbone(), "untrained"), (cnn_of(chains, 0)[0], "frozen")):
        with torch_threads(1):
            (features, labels), tested = (predict(backbone, Loader(each)) for each in sets)
            heads = [training.head_accuracy((features[:n], labels[:n]), tested, seed=3) for n in (25, 50, 61)]
        assert results[3,][name] == heads


def test_calibration_says_what_its_runs_have_measured(study):
    record, results = study("calibration")
    cnn = [results[seed, "cnn"] for seed in (0, 3)]
    over = change([np.mean(run["confidence_before"]) for run in cnn], [np.mean(run["correct"]) for run in cnn])
    assert record["answer"].startswith(f"Confidence minus accuracy is {over} ")
    before, after = (
        [calibration.calibration_error(run[f"confidence_{when}"], run["correct"]) for run in cnn]
        for when in ("before", "after")
    )
    assert f"changes the CNN's calibration error by {change(after, before)} " in record["answer"]


def test_the_temperature_is_fitted_on_images_that_were_held_out_of_the_training(tmp_path):
    # Images of noise, with labels by chance, can only be learned by heart: on others the network is far too confident.
    write_galaxy10(tmp_path / "noise.h5", 400)
    command("q1_data", "--data", tmp_path / "noise.h5", "--main-train", 200, "--transfer-train", 30, "--out", tmp_path)
    with torch_threads(1):
        result = calibration.measure(tmp_path, CPU, seed=0, network="fcn", epochs=40, held_out=0.2, crops=4)
    assert result["temperature"] > 2
    assert result["loss_after"] < result["loss_before"]


def test_inside_says_what_its_runs_have_measured(chains, study):
    record, results = study("inside")
    assert record["shifts"] == [0, 1, 2, 3, 4, 6, 8, 10]
    fcn, cnn = ([results[seed, name]["changed"][-1] for seed in (0, 3)] for name in ("fcn", "cnn"))
    assert record["answer"].startswith(f"Shifting all test crops by 10 pixels changes {mean(fcn)} ")
    assert f"of the CNN's: {change(fcn, cnn)} " in record["answer"]
    # The same by the script's network and torchvision's crops; 0.001 is less than one of 75 images in four directions.
    data = load_data(chains / "3")
    images, labels = data["main_test_images"].float(), data["main_test_labels"]
    images, predictions = transforms.Normalize(data["mean"], data["std"])(images), []
    for right, down in ((0, 0), (6, 0), (-6, 0), (0, 6), (0, -6)):
        with torch.no_grad():
            crops = functional.crop(images, 10 + down, 10 + right, 48, 48)
            predictions.append(cnn_of(chains, 3)(crops).argmax(1).numpy())
    centre, *shifted = predictions
    assert results[3, "cnn"]["changed"][5] == pytest.approx(np.mean(shifted != centre), abs=0.001)
    assert results[3, "cnn"]["accuracy"][5] == pytest.approx(np.mean(shifted == labels.numpy()), abs=0.001)
    labels = load_data(chains / "0")["main_test_labels"]
    for mistakes in record["confident_mistakes"].values():
        probabilities = [probability for _, _, probability in mistakes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(predicted != labels[index] for index, predicted, _ in mistakes)
    figures = {path.stem for path in (chains / "inside" / "studies").glob("*.png")}
    assert figures == {"inside", "inside_mistakes", "inside_filters", "inside_features"}


def test_the_page_holds_the_answer_the_tables_and_the_figures_of_every_study(chains, study, tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    records = {name: study(name)[0] for name in STUDIES}
    for name in STUDIES:
        for path in (chains / name / "studies").glob(f"{name}*.*"):
            (folder / path.name).write_bytes(path.read_bytes())
    command("studies.methods.page", "--docs", tmp_path)
    lines = (tmp_path / "studies.md").read_text().splitlines()
    for name, record in records.items():
        sentences = {f"## {name} · galaxies.h5", f"**{record['answer']}**", *(f"- {note}" for note in record["notes"])}
        assert sentences <= set(lines)
    assert {path.name for path in folder.glob("*.png")} <= set(re.findall(r"\(studies/(.*?)\)", "".join(lines)))
    for first, column, found in (
        ("balanced sampler", 3, records["imbalance"]["methods"]["sampler"]["value"]["macro F1"]),
        ("60", 4, records["symmetry"]["networks"]["cnn"]["accuracy"]["2"]["both"]),
        ("61", 1, records["transfer"]["accuracy"]["frozen"][-1]),
        ("10", 4, records["inside"]["networks"]["cnn"]["changed"][-1]),
        ("nearest neighbours", 1, records["seeds"]["protocols"]["file"]["accuracy"]["neighbours"]),
    ):
        cells = [line.split(" | ")[column] for line in lines if line.startswith(f"| {first} | ")]
        assert any(cell.startswith(f"{100 * found['mean']:.1f}% [") for cell in cells), first


def test_a_network_is_trained_once_for_each_seed_data_layers_and_learning_rate(chains, tmp_path, monkeypatch):
    link_chain(chains, tmp_path)
    settings = {"name": "fcn", "data": load_data(tmp_path), "out": tmp_path, "seed": 0, "epochs": EPOCHS, "device": CPU}
    with torch_threads(1):
        network = training.seed_network(**settings)
    assert weights_hash(network.state_dict()) == script_record(chains, 0, "fcn")["weights_sha256"]
    [kept] = (tmp_path / "studies" / "networks").glob("*.pt")
    another = training.NETWORKS["fcn"]().state_dict()
    save_tensors(another, kept)
    assert weights_hash(training.seed_network(**settings).state_dict()) == weights_hash(another)
    for changes in ({"seed": 3}, {"epochs": 1}, {"data": load_data(chains / "3")}):
        training.seed_network(**settings | changes)
    monkeypatch.setattr(training.DEFAULTS["fcn"], "lr", 0.01)
    training.seed_network(**settings)
    monkeypatch.setitem(training.NETWORKS, "fcn", lambda k=8: nn.Sequential(nn.Flatten(), nn.Linear(6912, k)))
    training.seed_network(**settings)
    assert len(list(kept.parent.glob("*.pt"))) == 6


def test_the_hash_of_layers_tells_settings_initial_weights_and_the_source_of_own_classes():
    def initialised():
        network = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        nn.init.zeros_(network[0].bias)
        return network

    def scaled(scale=1.0):
        class Own(nn.Linear):
            def forward(self, x):
                return super().forward(x) * self.scale

        layer = Own(3, 2)
        layer.scale = scale
        return layer

    def shifted():
        class Own(nn.Linear):
            def forward(self, x):
                return super().forward(x) + self.scale

        layer = Own(3, 2)
        layer.scale = 1.0
        return layer

    relu, tanh = (lambda layer=layer: nn.Sequential(nn.Linear(3, 2), layer) for layer in (nn.ReLU(), nn.Tanh()))
    makers = relu, tanh, initialised, scaled, functools.partial(scaled, 2.0), shifted
    state = torch.random.get_rng_state()
    hashes = [training.layers_hash(make) for make in makers]
    assert len(set(hashes)) == len(makers)
    assert hashes == [training.layers_hash(make) for make in makers]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_data_or_with_a_network_of_other_data_a_study_says_what_to_run(chains, tmp_path):
    for name in STUDIES:
        assert "run q1_data.py first" in error_of(f"studies.{name}", "--out", tmp_path)
    link_chain(chains, tmp_path)
    (tmp_path / "q1_data.pt").unlink()
    (tmp_path / "q1_data.pt").symlink_to(chains / "3" / "q1_data.pt")
    for name in ("transfer", "inside"):
        assert "was trained on different data or a different split" in error_of(f"studies.{name}", "--out", tmp_path)
    assert "holds no JSON file of a study" in error_of("studies.methods.page", "--docs", tmp_path)


def test_studies_take_any_number_of_classes(tmp_path):
    own = write_galaxy10(tmp_path / "own.h5", 90, ans=np.arange(90) % 3)
    with h5py.File(own, "a") as file:
        file.attrs["class_names"] = ["elliptical", "spiral", "irregular"]
    command("q1_data", "--data", own, "--main-train", 60, "--out", tmp_path)
    options = ("--epochs", 1, "--device", "cpu", "--out", tmp_path)
    for script in ("q2_fcn", "q3_cnn"):
        command(script, *options)
    for name in STUDIES:
        if name == "transfer":
            assert "no classes are held back" in error_of(f"studies.{name}", *options)
            continue
        command(f"studies.{name}", "--seeds", "0,1", *OPTIONS.get(name, ()), *options)
        assert (tmp_path / "studies" / f"{name}.png").is_file()
    assert load_json(tmp_path / "studies" / "imbalance.json")["train_counts"] == [20, 20, 20]
    assert "transfer" not in load_json(tmp_path / "studies" / "seeds.json")["protocols"]["stratified"]["accuracy"]
    assert "with 0 it is left out" in load_json(tmp_path / "studies" / "inside.json")["notes"][0]


def test_after_ctrl_c_results_stay_no_process_does_and_the_command_it_prints_resumes(chains, tmp_path):
    options = ["--seeds", "0,1", "--epochs", "10", "--device", "cpu", "--out", str(link_chain(chains, tmp_path))]
    study = subprocess.Popen(
        [sys.executable, "-m", "studies.imbalance", *options],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "2"}, preexec_fn=heed_ctrl_c,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def times():
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "studies" / "imbalance").glob("*.json")}

    end = time.monotonic() + 300
    while not times():
        assert time.monotonic() < end
        time.sleep(0.05)
    study.send_signal(signal.SIGINT)
    _, errors = study.communicate(timeout=60)  # until each process that was started has closed stderr, by ending
    assert study.returncode == 130
    assert f"interrupted; to resume: python -m studies.imbalance {' '.join(options)}" in errors
    before = times()
    assert 0 < len(before) < 8
    command("studies.imbalance", *options)
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


def test_adjusted_logits_are_those_of_bayes_for_equally_frequent_classes():
    torch.manual_seed(0)
    counts, logits = torch.tensor([60, 30, 10, 0]), torch.randn(50, 4)
    posterior = logits.softmax(1).double() / torch.tensor([0.6, 0.3, 0.1, torch.inf])
    adjusted = imbalance.adjusted_logits(logits, counts)
    torch.testing.assert_close(adjusted.softmax(1).double(), posterior / posterior.sum(1, keepdim=True))
    assert not (adjusted.argmax(1) == 3).any()


def test_the_decision_line_is_where_the_logits_are_equal():
    torch.manual_seed(0)
    features, head = torch.randn(50, 64), nn.Linear(64, 2)
    with torch.no_grad():
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


def test_the_numbers_in_the_readmes_studies_table_are_those_of_the_records():
    rows = re.findall(r"^\|(.*)\|.*?docs/studies/(\w+?)(?:_\w+)?\.png.*\|$", (ROOT / "README.md").read_text(), re.M)
    assert len(rows) >= 6
    for text, name in rows:
        answer = text.partition("**")[2].partition("**")[2]
        assert len(re.findall(r"%|points", answer)) >= 2
        assert len(answer.split()) <= 30
        assert not_in_record(answer, load_json(ROOT / "docs" / "studies" / f"{name}.json")) == [], name
    accuracies = re.findall(r"^\| .*Q\d.*\|$", (ROOT / "README.md").read_text().partition("Each seed")[0], re.M)
    assert len(accuracies) == 5
    assert not_in_record("".join(accuracies), load_json(ROOT / "docs" / "studies" / "seeds.json")) == []


def test_the_page_of_studies_is_that_of_the_committed_records():
    assert (ROOT / "docs" / "studies.md").read_text(encoding="utf-8") == page.studies_page(ROOT / "docs" / "studies")
