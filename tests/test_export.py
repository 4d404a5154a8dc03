import json
import re
import subprocess
import sys

from common.data import Normalize
from common.storage.artifacts import load_json, load_tensors
from common.storage.checkpoint import weights_hash
from export import check_packages
from use.card import model_card, onnx_example
from use.trained import load_network

import h5py
import numpy as np
import pytest
import torch
from conftest import EFIGI, ROOT, error_of, run, run_well
from networks import galaxies, save_network
from PIL import Image

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with networks of random weights, each exported into a folder of its name."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("q2_fcn", "q3_cnn", "q5_transfer"):
        path = save_network(folder, name)
        run_well("export.py", "--model", path, "--to", folder / name, "--license", "cc-by-4.0")
    return folder


def real_crops(count=300):
    """Crops of real galaxies where there are some, else of made ones: uint8 (count, 48, 48, 3)."""
    if not EFIGI.is_file():
        return galaxies(count)[:, 7:55, 12:60]
    with h5py.File(EFIGI) as file:
        return file["images"][:count, 7:55, 12:60]


@pytest.mark.parametrize("name", ["q2_fcn", "q3_cnn", "q5_transfer"])
def test_onnxruntime_gives_the_logits_and_probabilities_of_torch(exported, name):
    session = onnxruntime.InferenceSession(exported / name / "model.onnx")
    network, record, _ = load_network(exported / f"{name}.pt")
    crops = real_crops()
    for count in (1, 7, len(crops)):  # the batch size is free
        pixels = torch.from_numpy(crops[:count]).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            pixels = Normalize(torch.tensor(record["mean"]), torch.tensor(record["std"]))(pixels)
            expected, features = network(pixels), network[0](pixels)
        logits, probabilities = session.run(["logits", "probabilities"], {"crops": crops[:count]})
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(probabilities, expected.softmax(1), atol=1e-5)
        if name != "q2_fcn":
            [found] = session.run(["features"], {"crops": crops[:count]})
            # Sums of up to 1,296 products: the rounding of float32 grows with their number.
            limit = 1296 * np.finfo(np.float32).eps * features.abs().max().item()
            np.testing.assert_allclose(found, features, atol=limit, rtol=0)
    names = ["logits", "probabilities"] + ["features"] * (name != "q2_fcn")
    assert [each.name for each in session.get_outputs()] == names
    [taken] = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("crops", "tensor(uint8)", [48, 48, 3])
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == record["class_names"]


def test_a_folder_is_not_exported_into_itself(exported):
    before = {path.name: path.read_bytes() for path in (exported / "q3_cnn").iterdir()}
    for model in ("q3_cnn", "q3_cnn/model.safetensors"):
        error = error_of(run("export.py", "--model", exported / model, "--to", exported / "q3_cnn"))
        assert "is the same file as the model's " in error
    assert before == {path.name: path.read_bytes() for path in (exported / "q3_cnn").iterdir()}


# What each release of onnxruntime loads at most: https://onnxruntime.ai/docs/reference/compatibility.html
OPSETS = {"1.17": 20, "1.18": 21, "1.19": 21, "1.20": 21, "1.21": 22, "1.22": 23}


@pytest.mark.parametrize("name", ["q2_fcn", "q3_cnn", "q5_transfer"])
def test_the_oldest_onnxruntime_that_is_allowed_loads_the_file(exported, name):
    onnx = pytest.importorskip("onnx")
    [lowest] = re.findall(r"^onnxruntime>=(.*)$", (ROOT / "requirements-extra.txt").read_text(), re.MULTILINE)
    model = onnx.load(exported / name / "model.onnx")
    # By ONNX's own table of releases: opset 20 came with IR version 9.
    irs = {opset: ir for _, ir, opset, *_ in onnx.helper.VERSION_TABLE}
    [opset] = [each.version for each in model.opset_import if not each.domain]
    assert opset <= OPSETS[lowest]
    assert model.ir_version <= irs[opset]
    assert not any(node.domain for node in model.graph.node)  # of no library of its own
    onnx.checker.check_model(model, full_check=True)


def test_safetensors_hold_the_same_bits(exported):
    weights = load_tensors(exported / "q3_cnn.pt", "q3_cnn.py")
    read = safetensors.load_file(exported / "q3_cnn" / "model.safetensors")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], weights[key]) for key in weights)


def test_predict_takes_the_folder_and_the_safetensors_file(exported, tmp_path):
    Image.fromarray(galaxies(1)[0]).save(tmp_path / "a.png")
    found = []
    for model in ("q3_cnn.pt", "q3_cnn", "q3_cnn/model.safetensors"):
        run_well("predict.py", tmp_path / "a.png", "--model", exported / model, "--json", tmp_path / "a.json")
        found.append((tmp_path / "a.json").read_text())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("backbone", ["q3_cnn", "q3_cnn/model.safetensors"])
def test_q5_takes_the_folder_and_the_safetensors_file_of_other_data_with_force(
    exported, synthetic_run, tmp_path, backbone
):
    out, _ = synthetic_run
    (tmp_path / "q1_data.pt").symlink_to(out / "q1_data.pt")
    options = ("--backbone", exported / backbone, "--epochs", 1, "--device", "cpu", "--out", tmp_path)
    assert "was trained on different data or a different split" in error_of(run("q5_transfer.py", *options))
    printed = run_well("q5_transfer.py", *options, "--force")
    assert f"{exported / backbone}: the backbone of a CNN of 8 classes" in printed
    network, _, _ = load_network(exported / "q3_cnn.pt")
    assert load_json(tmp_path / "q5_transfer.json")["backbone_sha256"] == weights_hash(network[0].state_dict())


def test_a_damaged_safetensors_file_is_refused(exported, tmp_path):
    content = (exported / "q3_cnn" / "model.safetensors").read_bytes()
    for number, damaged in enumerate((b"", content[:1000], b"\xff" * 100)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        message = error_of(run("predict.py", tmp_path, "--model", path))
        assert f"{path} is not a file of safetensors, or a damaged one" in message


def test_the_card_has_the_metrics_and_counts_of_the_record(exported):
    yaml = pytest.importorskip("yaml")
    record, card = load_json(exported / "q3_cnn.json"), (exported / "q3_cnn" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    [result] = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == record["test_accuracy"]
    assert f"{record['test_accuracy']:.2%} (95% interval 70.0% to 80.0%)" in card
    for class_name, count in zip(record["class_names"], record["train_counts"], strict=True):
        assert f"| {class_name} | {count} |" in card
    assert "SYNTHETIC" in card
    config = load_json(exported / "q3_cnn" / "config.json")
    for key in (
        "class_names",
        "other_class_names",
        "mean",
        "std",
        "image_size",
        "test_accuracy",
        "test_accuracy_interval",
    ):
        assert config[key] == record[key]


def test_a_card_of_real_data_does_not_say_synthetic(tmp_path):
    record = load_json(save_network(tmp_path, source="galaxy10-sdss", train_counts=[100] * 8).with_suffix(".json"))
    card = model_card("q3_cnn", record, license="mit")
    assert "SYNTHETIC" not in card
    assert "Galaxy10 SDSS" in card
    assert "fewer than 50" not in card


@pytest.mark.parametrize("document", ["card", "docs/onnx.md"])
def test_the_ten_lines_use_the_network_without_torch(exported, tmp_path, document):
    text = exported / "q3_cnn" / "README.md" if document == "card" else ROOT / document
    [code] = re.findall(r"```python\n(.*?)```", text.read_text(), re.DOTALL)
    assert len(code.replace("\n\n", "\n").splitlines()) == 10
    assert code == onnx_example(69)
    (tmp_path / "model.onnx").symlink_to(exported / "q3_cnn" / "model.onnx")
    pixels = galaxies(1)[0]
    Image.fromarray(pixels).save(tmp_path / "galaxy.png")
    blocked = f"import sys\nsys.modules['torch'] = None\n{code}"
    command = [sys.executable, "-c", blocked]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    arguments = ("--model", exported / "q3_cnn", "--crops", 1, "--json", tmp_path / "a.json")
    run_well("predict.py", tmp_path / "galaxy.png", *arguments)
    [record] = json.loads((tmp_path / "a.json").read_text())
    names = load_json(exported / "q3_cnn.json")["class_names"]
    rows = [f"{p:6.1%}  {name}" for p, name in zip(record["probabilities"], names, strict=True)]
    assert printed.splitlines() == rows


def test_missing_packages_are_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    sentence = "^export.py needs onnx, onnxscript, which are not installed: pip install onnx onnxscript$"
    with pytest.raises(ValueError, match=sentence):
        check_packages()


def test_an_old_record_without_metrics_is_refused_and_nothing_written(exported, tmp_path):
    path = save_network(tmp_path)
    record = path.with_suffix(".json")
    record.write_text(record.read_text().replace('"test_loss"', '"old"'))
    message = error_of(run("export.py", "--model", path, "--to", tmp_path / "model"))
    assert message == "error: the record of q3_cnn lacks test_loss: rerun q3_cnn.py"
    assert not (tmp_path / "model").exists()
