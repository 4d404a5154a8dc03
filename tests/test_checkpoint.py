"""Checkpoints from elsewhere, as --backbone takes them: any prefix, any head, any precision; the rest is refused."""

import argparse
import re
import zipfile
from pathlib import Path

from common.storage.artifacts import save_json, save_tensors
from common.storage.checkpoint import load_backbone, load_trained, weights_hash
from q3_cnn import make_backbone, make_cnn

import numpy as np
import pytest
import torch
from conftest import Harmful, error_of, run, run_well
from torch import nn
from torch.optim.swa_utils import AveragedModel

torch.manual_seed(0)
BACKBONE = make_backbone()
CNN = nn.Sequential(BACKBONE, nn.Linear(64, 8))
WEIGHTS = CNN.state_dict()
DATA = {"fingerprint": "here"}


def load(path):
    """Load the backbone of a checkpoint; return it and what was found."""
    loaded = make_backbone()
    return loaded, load_backbone(loaded, path, DATA)


def prefixed(model, prefix):
    return {prefix + key: value for key, value in model.state_dict().items()}


LIGHTNING = {  # weights under the attribute's name, settings, states of loops and callbacks
    "epoch": 3,
    "state_dict": prefixed(CNN, "model.") | {"criterion.weight": torch.ones(8)},
    "hyper_parameters": {"folder": Path("data"), "options": argparse.Namespace(seed=3), 3: [1, 2]},
    "optimizer_states": [torch.optim.Adam(CNN.parameters()).state_dict()],
    "scores": {"best": np.float32(0.5), "epoch": np.int64(3), "better": np.bool_(True)},
}
RECOGNIZED = {
    "a backbone": (BACKBONE.state_dict() | {"epoch": 3, "best": 0.5, 3: None}, ""),
    "a longer head": (nn.Sequential(BACKBONE, nn.Dropout(), nn.Linear(64, 32), nn.Linear(32, 5)).state_dict(), "0."),
    "AveragedModel": (AveragedModel(CNN).state_dict(), "module.0."),
    "any name": (prefixed(BACKBONE, "feature_extractor.") | prefixed(CNN[1], "classifier."), "feature_extractor."),
    "in a dict": ({"epoch": 3, "net": BACKBONE.state_dict(), "head": CNN[1].state_dict()}, "net."),
    "Lightning": (LIGHTNING, "state_dict.model.0."),
}


@pytest.mark.parametrize("form", RECOGNIZED)
def test_other_peoples_checkpoints_are_recognized_with_the_same_weights(form, tmp_path):
    content, prefix = RECOGNIZED[form]
    for legacy in (False, True):
        torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
        loaded, found = load(tmp_path / "ckpt.pt")
        shown = "" if prefix in ("", "0.") else f"; its tensor names begin with '{prefix}'"  # q3_cnn.pt has 0.
        assert found == f"a cnn_backbone{shown}"
        assert weights_hash(loaded.state_dict()) == weights_hash(BACKBONE.state_dict())


def test_safetensors_which_sort_the_names_are_recognized_too(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(WEIGHTS, tmp_path / "ckpt.safetensors")
    save_json(DATA | {"weights_sha256": weights_hash(WEIGHTS)}, tmp_path / "ckpt.json")
    loaded, _ = load(tmp_path / "ckpt.safetensors")
    assert weights_hash(loaded.state_dict()) == weights_hash(BACKBONE.state_dict())


def test_scalars_of_either_numpy_are_read(tmp_path):
    torch.save(WEIGHTS | {"best": np.float32(0.5)}, tmp_path / "new.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pt").read_bytes()
    assert content.count(b"multiarray\nscalar") == 1
    for core in (b"core", b"_core"):  # of numpy 1 and of numpy 2
        (tmp_path / "ckpt.pt").write_bytes(re.sub(rb"numpy\._?core\.", b"numpy.%b." % core, content))
        load(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_taken_and_rounded_only_once(dtype, tmp_path):
    torch.save({name: value.to(dtype) for name, value in WEIGHTS.items()}, tmp_path / "ckpt.pt")
    for value, original in zip(load(tmp_path / "ckpt.pt")[0].parameters(), BACKBONE.parameters(), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, original.to(dtype).float())


with_nan = BACKBONE[0].weight.detach().clone()
with_nan[3, 1, 2, 2] = float("nan")
EXPECTED = r"holds no cnn_backbone: expected 0.weight, 0.bias, 3.weight, .*, with any prefix; found "
REFUSED = {
    "other names": (prefixed(BACKBONE, "conv"), EXPECTED + "conv0.weight"),
    "a layer missing": ({name: WEIGHTS[name] for name in WEIGHTS if name != "0.7.bias"}, EXPECTED + "0.0.weight"),
    "a layer more": (BACKBONE.state_dict() | {"1.mean": torch.ones(8)}, "does not hold the .*Unexpected.*1.mean"),
    "a shape": (WEIGHTS | {"0.0.weight": torch.ones(8, 1, 5, 5)}, r"does not hold the .*size mismatch for 0.we"),
    "NaN": (WEIGHTS | {"0.0.weight": with_nan}, "expected finite floating-point weights, found others in 0.weight"),
    "whole numbers": (WEIGHTS | {"0.7.bias": torch.ones(128, dtype=torch.int8)}, "expected finite floating-poin"),
    "a model and its average": (
        {"model": WEIGHTS, "ema": AveragedModel(CNN).state_dict()},
        "holds 2 networks, with the prefixes 'model.0.' and 'ema.module.0.': save only one of them",
    ),
    "a tensor": (torch.zeros(3), EXPECTED + "nothing"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_other_networks_are_refused_with_what_was_expected_and_found(form, tmp_path):
    content, sentence = REFUSED[form]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=f"(?s)ckpt.pt.* {sentence}"):
        load(tmp_path / "ckpt.pt")


def test_files_that_are_no_checkpoint_are_named_for_what_they_are_and_run_nothing(tmp_path):
    path, harmful = tmp_path / "ckpt.pt", {"state_dict": WEIGHTS, "extra": Harmful(tmp_path / "written")}
    torch.save(WEIGHTS, path)
    cut_short = path.read_bytes()[:5000]
    for write, reason in (
        (lambda: path.write_text("0.weight = 1\n"), "it is another kind of file, or truncated"),
        (lambda: path.write_bytes(cut_short), "it is another kind of file, or truncated$"),
        (
            lambda: torch.save(harmful, path),
            "it contains _?io.open, which is not loaded .*: save a state_dict$",
        ),
        (lambda: torch.save(harmful, path, _use_new_zipfile_serialization=False), "it contains _?io.open, "),
        (lambda: torch.save(CNN, path), r"it contains torch\.nn\.modules\.container\.Sequential, which"),
        (lambda: zipfile.ZipFile(path, "w").writestr("folder/file", "x"), "(?!it )"),  # torch's own words
    ):
        write()
        with pytest.raises(ValueError, match=f"ckpt.pt is not a file of tensors that torch can read safely: {reason}"):
            load(path)
    assert not (tmp_path / "written").exists()


def test_the_hash_sees_every_bit_and_no_memory_format():
    backbone = make_backbone()
    before = weights_hash(backbone.state_dict())
    assert weights_hash(backbone.to(memory_format=torch.channels_last).state_dict()) == before
    with torch.no_grad():
        weight = backbone[0].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert weights_hash(backbone.state_dict()) != before


def test_the_record_beside_a_network_must_be_of_the_same_weights(tmp_path, capsys):
    path = tmp_path / "ckpt.pt"
    save_tensors(WEIGHTS, path)
    load(path)
    assert "no ckpt.json next to it, so its training data are unknown" in capsys.readouterr().out
    save_json(DATA | {"weights_sha256": weights_hash(WEIGHTS)}, tmp_path / "ckpt.json")
    load(path)
    save_tensors(WEIGHTS | {"1.bias": torch.zeros(8)}, path)
    for attempt in (lambda: load(path), lambda: load_trained(make_cnn(), path, DATA, "q3_cnn.py")):
        with pytest.raises(ValueError, match=r"ckpt.pt and ckpt.json come from different runs: .* --force"):
            attempt()


def test_q4_and_q5_refuse_networks_of_another_split_unless_forced(synthetic_run, tmp_path):
    made, _ = synthetic_run
    for path in made.glob("q[23]*"):
        (tmp_path / path.name).symlink_to(path)
    run_well("q1_data.py", "--source", "synthetic", "--count", 800, "--split", "file", "--out", tmp_path)
    for script, *options in (("q4_confusion.py",), ("q5_transfer.py", "--epochs", 1)):
        error = error_of(run(script, "--out", tmp_path))
        assert "was trained on different data or a different split than this q1_data.pt" in error
        assert not (tmp_path / f"{script[:-3]}.json").exists()
        assert "using it anyway (--force)" in run_well(script, *options, "--force", "--out", tmp_path)
