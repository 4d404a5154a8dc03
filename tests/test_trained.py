"""Networks for predict.py, export.py and the playground: whatever checkpoint holds them, with a record beside it."""

import hashlib

from common.galaxies.facts import CLASS_NAMES
from common.storage.artifacts import load_json, load_tensors, save_json, save_tensors
from use.trained import NEEDED, load_network

import pytest
import torch
from conftest import ROOT, error_of, run, run_well
from networks import galaxies, save_network
from PIL import Image
from torch import nn

CROPS = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def save_as_others(network, path):
    """Save a network's weights as PyTorch Lightning does."""
    weights = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": {"lr": 0.1}}, path)


@pytest.mark.parametrize("name", ["q2_fcn", "q3_cnn", "q5_transfer"])
def test_a_network_is_found_in_other_peoples_checkpoints(name, tmp_path, capsys):
    path = save_network(tmp_path, name)
    expected, record, _ = load_network(path)
    assert capsys.readouterr().out == ""
    save_as_others(expected, path)
    found = load_network(path)
    assert (found.name, found.record) == (name, record)
    assert torch.equal(found.network(CROPS), expected(CROPS))
    assert f"{path}: a network of {name}.py; " in capsys.readouterr().out


@pytest.mark.parametrize(("name", "classes"), [("q2_fcn", 2), ("q3_cnn", 37)])
def test_a_network_may_have_any_number_of_classes(name, classes, tmp_path):
    path = save_network(tmp_path, name, class_names=[f"class {label}" for label in range(classes)])
    record = path.with_suffix(".json")
    save_json({key: load_json(record)[key] for key in NEEDED}, record)
    weights = load_tensors(path, "")
    last = list(weights)[-2:]
    head = nn.Linear(64, classes)
    save_tensors(weights | dict(zip(last, (head.weight.detach(), head.bias.detach()), strict=True)), path)
    found = load_network(path)
    assert found.name == name
    assert torch.equal(found.network(CROPS), head(found.network[:-1](CROPS)))


def test_predict_takes_another_ones_checkpoint_and_says_what_its_record_lacks(tmp_path):
    network, record, _ = load_network(save_network(tmp_path))
    path = tmp_path / "epoch=3.ckpt"
    save_as_others(network, path)
    Image.fromarray(galaxies(1)[0]).save(tmp_path / "a.png")
    error = error_of(run("predict.py", tmp_path / "a.png", "--model", path))
    assert "epoch=3.json, which q3_cnn.py wrote next to it, is missing: copy it too, or, for a network trained" in error
    assert error.endswith("create it with source, class_names, mean, std, image_size")
    save_json({key: record[key] for key in NEEDED}, path.with_suffix(".json"))
    printed = run_well("predict.py", tmp_path / "a.png", "--model", path)
    assert printed.count(f"{path}: a network of q3_cnn.py; its tensor names begin with 'state_dict.model.'") == 1
    assert "no statistics of the training images, so pictures outside their range are not marked" in printed


@pytest.mark.parametrize(("key", "value", "words"), [
    ("class_names", {"0": "a"}, "a list of strings"), ("class_names", list(range(8)), "a list of strings"),
    ("class_names", ["a"], "a list of strings, one per class of the network"), ("source", None, "a string"),
    ("mean", [1, None, 2], "a list of three numbers"), ("std", [30, 0, 30], "a list of three numbers above 0"),
    ("image_size", 128, "69, the only size supported"),
])  # fmt: skip
def test_a_record_with_another_kind_of_value_is_refused(key, value, words, tmp_path):
    path = save_network(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=rf"q3_cnn\.json: {key} is not {words}"):
        load_network(path)


def test_what_holds_no_network_or_no_full_record_of_it_is_refused(tmp_path):
    path = save_network(tmp_path, weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"q3_cnn\.pt and q3_cnn\.json come from different runs"):
        load_network(path)
    record = load_json(path.with_suffix(".json"))
    save_json({key: value for key, value in record.items() if key != "mean"}, path.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"lacks mean: rerun q3_cnn\.py"):
        load_network(path)
    backbone = {key[2:]: value for key, value in load_tensors(path, "").items() if key.startswith("0.")}
    torch.save({"backbone": backbone}, tmp_path / "backbone.pt")
    with pytest.raises(ValueError, match=r"backbone.pt holds no q2_fcn or q3_cnn: .*; found backbone.0.weight"):
        load_network(tmp_path / "backbone.pt")
    with pytest.raises(
        FileNotFoundError, match=r"does not exist: run q3_cnn\.py first, or name another .* with --model$"
    ):
        load_network(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no exported network: did you mean {path}\?$"):
        load_network(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no exported network: write one with export\.py$"):
        load_network(tmp_path)


def test_the_network_of_the_documentation_classifies_a_picture_and_its_note_is_printed(tmp_path):
    path = ROOT / "docs" / "efigi" / "q3_cnn.pt"
    _, record, name = load_network(path)
    assert (name, record["class_names"]) == ("q3_cnn", list(CLASS_NAMES[:8]))
    digest = hashlib.sha256()
    for key, value in torch.load(path, weights_only=True).items():
        digest.update(key.encode() + value.numpy().tobytes())
    assert record["weights_sha256"] == digest.hexdigest()
    Image.fromarray(galaxies(1)[0]).save(tmp_path / "a.png")
    printed = run_well("predict.py", tmp_path / "a.png", "--model", path)
    assert "For demonstration only, not for science: " in printed.splitlines()[0]
    [line] = [line for line in printed.splitlines() if "a.png  " in line]
    assert line.split("a.png")[1].strip().startswith(CLASS_NAMES[:8])
