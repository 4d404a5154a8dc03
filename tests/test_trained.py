"""Networks for predict.py, export.py and the playground: whatever checkpoint holds them, with a record beside it."""

from common.galaxies.facts import CLASS_NAMES
from common.storage.artifacts import load_json, load_tensors, save_json, save_tensors
from use.trained import NEEDED, load_network

import pytest
import torch
from conftest import ROOT, run_well
from networks import galaxies, save_network
from PIL import Image
from torch import nn

CROPS = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["q2_fcn", "q3_cnn", "q5_transfer"])
def test_a_checkpoint_from_elsewhere_is_loaded_with_a_record_beside_it(name, tmp_path, capsys):
    network, record, _ = load_network(save_network(tmp_path, name))
    assert capsys.readouterr().out == ""
    path = tmp_path / "epoch=3.ckpt"  # as PyTorch Lightning saves it
    weights = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": {"lr": 0.1}}, path)
    sentence = r"epoch=3.json, which .* is missing: .* create it with source, class_names, mean, std, image_size$"
    with pytest.raises(FileNotFoundError, match=sentence):
        load_network(path)
    save_json(record, path.with_suffix(".json"))
    found = load_network(path)
    assert (found.name, found.record) == (name, record)
    assert torch.equal(found.network(CROPS), network(CROPS))
    shown = f"{path}: a network of {name}.py; its tensor names begin with 'state_dict.model.'\n"
    assert capsys.readouterr().out == shown


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


@pytest.mark.parametrize(("key", "value", "words"), [
    ("class_names", list(range(8)), "a list of strings"), ("class_names", ["a"], "a list of strings, one per class of"),
    ("mean", [1, None, 2], "a list of three numbers"), ("std", [30, 0, 30], "a list of three numbers above 0"),
    ("source", None, "a string"),
    ("image_size", 128, "69, the only size supported"),
])  # fmt: skip
def test_a_record_with_another_kind_of_value_is_refused(key, value, words, tmp_path):
    path = save_network(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=rf"q3_cnn\.json: {key} is not {words}"):
        load_network(path)


def test_a_file_without_a_network_or_with_an_incomplete_record_is_refused(tmp_path):
    path = save_network(tmp_path, weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"q3_cnn\.pt and q3_cnn\.json come from different runs"):
        load_network(path)
    record = load_json(path.with_suffix(".json"))
    save_json({key: value for key, value in record.items() if key != "mean"}, path.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"lacks mean: rerun q3_cnn\.py"):
        load_network(path)
    sentence = r"does not exist: run q3_cnn\.py first, or name another .* with --model$"
    with pytest.raises(FileNotFoundError, match=sentence):
        load_network(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no exported network: did you mean {path}\?$"):
        load_network(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no exported network: write one with export\.py$"):
        load_network(tmp_path)


def test_the_network_of_the_documentation_classifies_a_picture_and_its_note_is_printed(tmp_path):
    path = ROOT / "docs" / "efigi" / "q3_cnn.pt"
    Image.fromarray(galaxies(1)[0]).save(tmp_path / "a.png")
    first, *lines = run_well("predict.py", tmp_path / "a.png", "--model", path).splitlines()
    assert "the network of q3_cnn.py" in first
    assert "For demonstration only, not for science: " in first
    [line] = [line for line in lines if "a.png  " in line]
    assert line.split("a.png")[1].strip().startswith(CLASS_NAMES[:8])
