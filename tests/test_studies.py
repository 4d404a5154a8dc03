import functools
import io
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

from common.data import RandomCrop, load_data, make_loader, seed_epoch
from common.galaxies.synthetic import synthetic_galaxy10
from common.hardware.parallel import torch_threads
from common.storage.artifacts import load_json, load_tensors, save_json, save_tensors
from common.storage.checkpoint import weights_hash
from common.train import predict
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn
from studies import calibration, encoder, imbalance, inside
from studies.methods import encoders, page
from studies.methods.heads import head_accuracy
from studies.methods.training import seed_network

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT, crop_transform, float32_tolerance, heed_ctrl_c, products_of, random_data, write_galaxy10
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional

EPOCHS = 5
STUDIES = ("seeds", "imbalance", "symmetry", "transfer", "calibration", "inside", "encoder")
OPTIONS = {
    "seeds": ("--grid", 2, "--transfer-epochs", EPOCHS, "--split", "file"),
    "symmetry": ("--fractions", "1,2"),
    "calibration": ("--held-out", 0.2),
    "encoder": ("--encoder", "test_efficientnet.r160_in1k", "--encoder-size", 48),
}
# `command` runs modules that are imported here too.
pytestmark = pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
SCRIPTS = {"fcn": "q2_fcn", "cnn": "q3_cnn", "transfer": "q5_transfer"}


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
    """Make links to what the questions made with a seed."""
    folder.mkdir(exist_ok=True)
    for path in (chains / str(seed)).glob("q*"):
        (folder / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def study(chains):
    """A function that runs a study, once, by its command in a folder of its own, with seeds 0 and 3 and few epochs.

    It returns the study's record and the results in its runs' files, by their keys.
    """

    @functools.cache
    def run(name):
        timm = pytest.importorskip("timm") if name == "encoder" else None
        out, options = chains / name, OPTIONS.get(name, ())
        link_chain(chains, out)
        if timm:
            torch.manual_seed(0)
            save_tensors(timm.create_model(options[1]).state_dict(), out / "weights.pth")
            options = *options, "--encoder-weights", out / "weights.pth"
        printed = command(
            f"studies.{name}", *options, "--seeds", "0,3", "--epochs", EPOCHS, "--device", "cpu", "--out", out
        )
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

    def accuracies(network, split="stratified"):
        return [results[split, seed, seed][network]["test_accuracy"] for seed in (0, 3)]

    fcn, cnn = accuracies("fcn"), accuracies("cnn")
    assert f"Over 2 seeds the FCN reaches {mean(fcn)} " in record["answer"]
    assert f"CNN minus FCN is {change(cnn, fcn)} " in record["answer"]
    assert record["protocols"]["file"]["seeds"]["softmax"] == accuracies("softmax", "file")
    for name, parts in record["variance"].items():
        crossed = [[results["stratified", split, seed][name]["test_accuracy"] for seed in (0, 3)] for split in (0, 3)]
        assert parts["within_sd"] ** 2 == pytest.approx(np.var(crossed, axis=1, ddof=1).mean())


def test_imbalance_says_what_its_runs_have_measured_by_sklearns_metrics(chains, study):
    record, results = study("imbalance")
    for seed in (0, 3):
        expected = script_record(chains, seed, "cnn")
        assert results[seed, "none"]["predictions"] == expected["test_predictions"]
        assert results[seed, "none"]["train_counts"] == expected["train_counts"]

    def metric(function, method, predictions="predictions"):
        return [function(each["labels"], each[predictions]) for each in (results[seed, method] for seed in (0, 3))]

    balanced, accuracy = (
        change(metric(function, "sampler"), metric(function, "none"))
        for function in (balanced_accuracy_score, accuracy_score)
    )
    assert re.search(rf"mean recall by {re.escape(balanced)} .* accuracy by {re.escape(accuracy)} ", record["answer"])

    def macro_f1(labels, predictions):
        return f1_score(labels, predictions, labels=sorted(set(labels)), average="macro")

    for name, function in (("balanced accuracy", balanced_accuracy_score), ("macro F1", macro_f1)):
        for method in ("none", "root", "inverse"):
            found = record["methods"][method]["value"][name]
            assert found["mean"] == pytest.approx(np.mean(metric(function, method)), abs=1e-9)
    changes = {}
    for label in set(results[0, "none"]["labels"]):
        recall = functools.partial(recall_score, labels=[label], average=None)
        before, after = (np.ravel(metric(recall, "none", which)) for which in ("predictions", "adjusted"))
        assert record["methods"]["adjusted"]["value"]["recall"][label]["mean"] == pytest.approx(after.mean(), abs=1e-9)
        changes[record["class_names"][label]] = (after - before).mean()
    assert record["notes"][0].startswith("Adjusting the logits changes the mean recall by ")
    for note in record["notes"][1:]:
        [worst] = [label for label, name in enumerate(record["class_names"]) if name in note]
        assert f"({record['train_counts'][worst]} training images)" in note
        assert changes[record["class_names"][worst]] == pytest.approx(min(changes.values()))


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


def test_transfer_says_what_its_runs_have_measured(chains, study):
    record, results = study("transfer")
    assert record["sizes"] == [25, 50, 61]
    assert set(record["accuracy"]) == {"frozen", "untrained", "tuned", "scratch"}
    frozen, untrained, scratch = (
        [results[seed,][name][-1] for seed in (0, 3)] for name in ("frozen", "untrained", "scratch")
    )
    assert (
        f"With 61 labelled galaxies a head on the frozen trained backbone gains {change(frozen, untrained)} "
        in (record["answer"])
    )
    assert f"and {change(frozen, scratch)} " in record["answer"]
    for seed in (0, 3):
        assert results[seed,]["majority"] == script_record(chains, seed, "transfer")["majority_accuracy"]
    # The same of seed 3, with Q1's own split of that seed, and the backbone and normalisation of seed 0.
    original, data = load_data(chains / "0"), load_data(chains / "3")
    transform = crop_transform(original["mean"], original["std"])
    train, test = (
        (data[f"transfer_{subset}_images"], data[f"transfer_{subset}_labels"]) for subset in ("train", "test")
    )
    cnn = make_cnn()
    cnn.load_state_dict(load_tensors(chains / "0" / "q3_cnn.pt", "q3_cnn.py"))
    torch.manual_seed(3)
    for backbone, name in ((cnn[0], "frozen"), (make_backbone(), "untrained")):
        with torch_threads(1):
            (features, labels), tested = (predict(backbone, make_loader(*pair, transform)) for pair in (train, test))
            heads = [head_accuracy((features[:size], labels[:size]), tested, seed=3) for size in (25, 50, 61)]
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


def test_the_temperature_is_fitted_on_images_that_were_kept_out_of_the_training(tmp_path):
    # Images of noise, with labels by chance, can only be learned by heart: on others the network is far too confident.
    write_galaxy10(tmp_path / "noise.h5", 400)
    sizes = "--main-train", 200, "--transfer-train", 30, "--image-size", 48
    command("q1_data", "--data", tmp_path / "noise.h5", *sizes, "--out", tmp_path)
    with torch_threads(1):
        options = {"seed": 0, "network": "fcn", "epochs": 30}
        result = calibration.measure(tmp_path, torch.device("cpu"), **options, held_out=0.2)
    assert result["temperature"] > 2
    assert result["loss_after"] < result["loss_before"]


def test_inside_says_what_its_runs_have_measured(chains, study):
    record, results = study("inside")
    assert record["shifts"] == [0, 1, 2, 3, 4, 6, 8, 10]
    fcn, cnn = ([results[seed, name]["changed"][-1] for seed in (0, 3)] for name in ("fcn", "cnn"))
    assert record["answer"].startswith(f"Shifting all test crops by 10 pixels changes {mean(fcn)} ")
    assert f"of the CNN's: {change(fcn, cnn)} " in record["answer"]
    # The same by the script's network and torchvision's crops; 0.001 is less than one of 75 images in four directions.
    data, network = load_data(chains / "3"), make_cnn()
    network.load_state_dict(load_tensors(chains / "3" / "q3_cnn.pt", "q3_cnn.py"))
    normalize = transforms.Normalize(data["mean"], data["std"])
    images, labels = normalize(data["main_test_images"].float()), data["main_test_labels"]
    with torch.no_grad():
        predictions = [
            network(functional.crop(images, 10 + down, 10 + right, 48, 48)).argmax(1)
            for right, down in ((0, 0), (6, 0), (-6, 0), (0, 6), (0, -6))
        ]
    changed = np.mean([(each != predictions[0]).double().mean() for each in predictions[1:]])
    accuracy = np.mean([(each == labels).double().mean() for each in predictions[1:]])
    assert results[3, "cnn"]["changed"][5] == pytest.approx(changed, abs=0.001)
    assert results[3, "cnn"]["accuracy"][5] == pytest.approx(accuracy, abs=0.001)
    labels = load_data(chains / "0")["main_test_labels"]
    for mistakes in record["confident_mistakes"].values():
        probabilities = [probability for _, _, probability in mistakes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(predicted != labels[index] for index, predicted, _ in mistakes)
    pictures = {path.stem for path in (chains / "inside" / "studies").glob("*.png")}
    assert pictures == {"inside", "inside_mistakes", "inside_filters", "inside_features"}


def test_encoder_says_what_its_runs_have_measured_and_keeps_the_features(chains, study):
    record, results = study("encoder")
    name, gains = OPTIONS["encoder"][1], {}
    for task in ("main", "transfer"):
        gains[task] = change(*([results[seed, task][key] for seed in (0, 3)] for key in ("encoder", "other")))
    assert record["answer"].startswith(f"{name}, frozen, gains {gains['main']} ")
    assert f" over the CNN on the main classes and {gains['transfer']} " in record["answer"]
    assert [results[seed, "main"]["other"] for seed in (0, 3)] == [
        script_record(chains, seed, "cnn")["test_accuracy"] for seed in (0, 3)
    ]
    # The frozen backbone is that of Q3 in all samples, as in studies.transfer.
    _, transferred = study("transfer")
    assert [results[seed, "transfer"]["other"] for seed in (0, 3)] == [
        transferred[seed,]["frozen"][-1] for seed in (0, 3)
    ]
    assert record["notes"] == [
        "The encoder sees the pictures of 69 x 69 pixels in q1_data.pt: those in galaxies.h5 are no larger."
    ]
    [kept] = (chains / "encoder" / "studies").glob("encoder-*.pt")
    network, config = encoders.load_encoder(name, chains / "encoder" / "weights.pth")
    data = load_data(chains / "0")
    pixels = functional.resize(data["main_test_images"][:5] / 255, [48, 48], transforms.InterpolationMode.BICUBIC)
    with torch.no_grad():
        expected = network(transforms.Normalize(config["mean"], config["std"])(pixels.clamp(0, 1)))
    features = load_tensors(kept, "studies.encoder")["features"]
    limit = float32_tolerance(products_of(network), expected)
    torch.testing.assert_close(features[data["main_test_indices"][:5]], expected, rtol=0, atol=limit)
    data = load_data(chains / "3")
    pairs = [
        (features[data[f"transfer_{each}_indices"]], data[f"transfer_{each}_labels"]) for each in ("train", "test")
    ]
    assert results[3, "transfer"]["encoder"] == head_accuracy(*pairs, seed=3)
    with pytest.raises(ValueError, match=r"q3_cnn\.pt was changed while the study ran"):
        encoder.measure(chains / "encoder", torch.device("cpu"), 3, "transfer", EPOCHS, kept.name, backbone="another")


def test_the_page_holds_the_answer_the_tables_and_the_pictures_of_every_study(chains, study, tmp_path):
    folder = tmp_path / "studies"
    folder.mkdir()
    names = [name for name in STUDIES if name != "encoder"]  # for which timm need not be installed
    records = {name: study(name)[0] for name in names}
    for name in names:
        for path in (chains / name / "studies").glob(f"{name}*.*"):
            (folder / path.name).write_bytes(path.read_bytes())
    command("studies.methods.page", "--docs", tmp_path)
    text = (tmp_path / "studies.md").read_text()
    lines = text.splitlines()
    for name, record in records.items():
        assert f"**{record['answer']}**" in lines
        assert all(f"- {note}" in lines for note in record["notes"])
        assert f"## {name} · galaxies.h5" in lines
    assert set(re.findall(r"\]\((.*?)\)", text)) >= {f"studies/{path.name}" for path in folder.glob("*.png")}
    for row in (
        ("balanced sampler", 3, records["imbalance"]["methods"]["sampler"]["value"]["macro F1"]),
        ("60", 4, records["symmetry"]["networks"]["cnn"]["accuracy"]["2"]["both"]),
        ("61", 1, records["transfer"]["accuracy"]["frozen"][-1]),
        ("10", 4, records["inside"]["networks"]["cnn"]["changed"][-1]),
        ("nearest neighbours", 1, records["seeds"]["protocols"]["file"]["accuracy"]["neighbours"]),
    ):
        first, column, found = row
        cells = [line.split(" | ")[column] for line in lines if line.startswith(f"| {first} | ")]
        assert any(cell.startswith(f"{100 * found['mean']:.1f}% [") for cell in cells), row


def test_a_network_that_several_studies_need_is_trained_once(chains, tmp_path):
    link_chain(chains, tmp_path)
    data = load_data(tmp_path)
    settings = {
        "name": "fcn",
        "data": data,
        "out": tmp_path,
        "seed": 0,
        "epochs": EPOCHS,
        "device": torch.device("cpu"),
    }
    with torch_threads(1):
        network = seed_network(**settings)
    assert weights_hash(network.state_dict()) == script_record(chains, 0, "fcn")["weights_sha256"]
    [kept] = (tmp_path / "studies" / "networks").glob("*.pt")
    another = make_fcn().state_dict()
    save_tensors(another, kept)
    assert weights_hash(seed_network(**settings).state_dict()) == weights_hash(another)
    for changes in ({"seed": 3}, {"epochs": 1}, {"data": load_data(chains / "3")}):
        seed_network(**settings | changes)
    assert len(list(kept.parent.glob("*.pt"))) == 4


def test_without_data_or_with_a_network_of_other_data_a_study_says_what_to_run(chains, tmp_path):
    for name in STUDIES:
        options = ("--encoder", "none") if name == "encoder" else ()
        assert "run q1_data.py first" in error_of(f"studies.{name}", "--out", tmp_path, *options)
    link_chain(chains, tmp_path)
    (tmp_path / "q1_data.pt").unlink()
    (tmp_path / "q1_data.pt").symlink_to(chains / "3" / "q1_data.pt")
    for name in ("transfer", "inside"):
        assert "was trained on different data or a different split" in error_of(f"studies.{name}", "--out", tmp_path)
    assert "holds no JSON file of a study" in error_of("studies.methods.page", "--docs", tmp_path)


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_after_ctrl_c_results_stay_no_process_does_and_the_command_it_prints_goes_on(chains, tmp_path):
    link_chain(chains, tmp_path)
    options = ["--seeds", "0,1", "--epochs", "10", "--device", "cpu", "--out", str(tmp_path)]
    study = subprocess.Popen(
        [sys.executable, "-m", "studies.imbalance", *options],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "2"}, preexec_fn=heed_ctrl_c,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    results = tmp_path / "studies" / "imbalance"
    wait_until(lambda: list(results.glob("*.json")))
    study.send_signal(signal.SIGINT)
    _, errors = study.communicate(timeout=60)  # until each process that was started has closed stderr, by ending
    assert study.returncode == 130
    assert f"interrupted; to resume: python -m studies.imbalance {' '.join(options)}" in errors
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert 0 < len(before) < 8
    command("studies.imbalance", *options)
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert before.items() < after.items()
    assert len(after) == 8


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


def test_the_balanced_sampler_shows_all_classes_alike_and_in_an_order_of_its_seed():
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([900, 90, 10]))
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 48, 48)
    weights = imbalance.class_weights(torch.bincount(labels), 1)[labels]
    loader = make_loader(images, labels, transforms.Compose([RandomCrop(48)]), weights=weights)
    epochs = []
    for _ in range(2):
        seed_epoch(loader, 1, 1)
        epochs.append(torch.cat([seen for _, seen in loader]))
    assert torch.equal(*epochs)
    counts = torch.bincount(epochs[0])
    assert counts.sum() == 1000
    assert (counts - 1000 / 3).abs().max() < 75  # five standard deviations


@pytest.mark.parametrize(("size", "furthest"), [(48, 0), (49, 0), (50, 1), (67, 8), (68, 10), (69, 10), (256, 10)])
def test_the_furthest_shift_keeps_every_crop_within_the_images(size, furthest):
    images, _ = random_data(3, size)
    data = {"main_test_images": images, "mean": torch.tensor([1.0, 2, 3]), "std": torch.tensor([4.0, 5, 6])}
    assert inside.possible_shifts(data) == [shift for shift in inside.SHIFTS if shift <= furthest]
    middle = (size - 48) // 2
    for right, down in ((0, 0), (furthest, 0), (-furthest, 0), (0, furthest), (0, -furthest)):
        window = functional.crop(images.float(), middle + down, middle + right, 48, 48)
        expected = transforms.Normalize(data["mean"], data["std"])(window)
        limit = float32_tolerance(4, 255 / 4)  # four roundings, of values up to 255 / 4
        torch.testing.assert_close(inside.crop_at(data, right, down), expected, rtol=0, atol=limit)


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


def test_without_timm_one_line_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^--encoder resnet18 needs timm: pip install timm$"):
        encoders.load_encoder("resnet18")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A folder with a model of timm as the Hub has them, its weights also as a state_dict, and no network."""
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model = timm.create_model(OPTIONS["encoder"][1])
    config = {"architecture": "test_efficientnet", "num_classes": 1000, "pretrained_cfg": model.pretrained_cfg}
    save_json(config, tmp_path / "config.json")
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    save_tensors(model.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    return tmp_path, model


@pytest.mark.parametrize("weights", ["weights.pth", "model.safetensors"])
@pytest.mark.parametrize("name", ["{0}", "hf_hub:timm/{0}", "hf-hub:timm/{0}", "local-dir:{1}"])
def test_with_weights_of_its_own_an_encoder_needs_no_network(name, weights, offline):
    folder, model = offline
    network, config = encoders.load_encoder(name.format(OPTIONS["encoder"][1], folder), folder / weights)
    images = torch.randn(2, *config["input_size"])
    assert tuple(config["input_size"]) == (3, 160, 160)
    assert torch.equal(network(images), model.eval().forward_head(model.forward_features(images), pre_logits=True))


def test_an_encoder_that_only_the_hub_knows_is_given_by_its_folder(offline):
    folder, _ = offline
    network, _ = encoders.load_encoder(f"local-dir:{folder}")
    assert weights_hash(network.state_dict()) == weights_hash(
        encoders.load_encoder(OPTIONS["encoder"][1], folder / "weights.pth")[0].state_dict()
    )
    for name in ("hf_hub:mwalmsley/zoobot-encoder-convnext_nano", "hf-hub:timm/not_of_timm"):
        with pytest.raises(
            ValueError, match=r"only the Hub knows its architecture: .* --encoder local-dir:FOLDER"
        ) as error:
            encoders.load_encoder(name, folder / "weights.pth")
        assert "name a file with --encoder-weights" not in str(error.value)
    for name, weights, hint in (  # what has been given is not advised
        ("no_such_model", folder / "weights.pth", "check the name"),
        ("local-dir:none", None, "check the name"),
        ("no_such_model", None, "check the name and the network, or name a file with --encoder-weights"),
    ):
        with pytest.raises(ValueError, match=f": {hint}$"):
            encoders.load_encoder(name, weights)


@pytest.mark.parametrize(("name", "repository"), [
    ("test_efficientnet.r160_in1k", "timm--test_efficientnet.r160_in1k"), ("hf_hub:a/zoobot", "a--zoobot"),
    ("hf-hub:a/zoobot@v2", "a--zoobot"),
])  # fmt: skip
def test_an_encoder_in_the_hubs_cache_needs_no_network(name, repository, offline, monkeypatch):
    folder, model = offline
    cached = folder / "hub" / f"models--{repository}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / ("v2" if "@" in name else "main")).write_text("0123")
    (cached / "snapshots" / "0123").mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (cached / "snapshots" / "0123" / file).symlink_to(folder / file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    network, _ = encoders.load_encoder(name)
    images = torch.randn(2, 3, 160, 160)
    assert torch.equal(network(images), model.eval().forward_head(model.forward_features(images), pre_logits=True))


def test_the_encoder_sees_the_pictures_of_the_file_at_their_own_resolution(offline, tmp_path):
    folder, model = offline
    pictures = np.random.default_rng(0).integers(0, 256, (60, 96, 96, 3), dtype=np.uint8)
    path, out = write_galaxy10(tmp_path / "own.h5", images=pictures, ans=np.arange(60) % 3), tmp_path / "out"
    with h5py.File(path, "a") as file:
        file.attrs["class_names"] = ["a", "b", "c"]
    command("q1_data", "--data", path, "--main-train", 40, "--out", out)
    data, cpu = load_data(out), torch.device("cpu")

    def found(name=f"local-dir:{folder}", size=64):
        features, made_from, notes = encoders.encoder_features(name, None, size, data, out, cpu)
        return load_tensors(out / "studies" / features, "the study")["features"], made_from["pictures"], notes

    def expected(images):  # uint8 (n, 3, h, w), by torchvision
        pixels = functional.resize(images / 255, [64, 64], transforms.InterpolationMode.BICUBIC).clamp(0, 1)
        normalized = transforms.Normalize(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])(pixels)
        with torch.no_grad():
            return model.eval().forward_head(model.forward_features(normalized), pre_logits=True)

    features, seen, notes = found()
    assert (seen, notes) == (
        "own.h5", ["The encoder sees the pictures of 96 x 96 pixels in own.h5, not the 69 of q1_data.pt."]
    )  # fmt: skip
    close = {"rtol": 0, "atol": float32_tolerance(products_of(model), features)}
    torch.testing.assert_close(features, expected(torch.from_numpy(pictures).permute(0, 3, 1, 2)), **close)
    with h5py.File(path, "a") as file:
        file["images"][7] = 0
    with pytest.raises(ValueError, match=r"own.h5 has other pictures than q1_data.pt: rerun q1_data.py"):
        found(size=56)  # which needs features of its own
    path.unlink()
    features, seen, [note] = found()
    assert seen == "q1_data.pt"
    assert re.fullmatch(
        r"The encoder sees the pictures of 69 x 69 pixels in q1_data.pt: \S+own.h5, .* not there any more.", note
    )
    rows = data["main_train_indices"]
    torch.testing.assert_close(features[rows], expected(data["main_train_images"]), **close)
    (tmp_path / "zoobot").symlink_to(folder)
    *_, (_, sentence) = found(f"local-dir:{tmp_path / 'zoobot'}")
    assert "has seen galaxies of Galaxy10, test images too" in sentence


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
    assert (ROOT / "docs" / "studies.md").read_text(encoding="utf-8") == page.page(ROOT / "docs" / "studies")
