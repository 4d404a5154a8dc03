"""Checkpoints from elsewhere, as --backbone takes them: any prefix, any head, any precision; the rest is refused."""

import argparse
import copy
import re
from pathlib import Path

from common.storage.artifacts import save_json, save_tensors
from common.storage.checkpoint import load_backbone, load_trained, weights_hash
from q3_cnn import make_backbone, make_cnn

import numpy as np
import pytest
import torch
from conftest import Harmful, error_of, run, run_well
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

torch.manual_seed(0)
BACKBONE = make_backbone()
CNN = nn.Sequential(BACKBONE, nn.Linear(64, 8))
CROPS = torch.randn(3, 3, 48, 48)
DATA = {"fingerprint": "here"}


def prefixed(model, prefix):
    return {prefix + key: value for key, value in model.state_dict().items()}


def changed(**changes):
    """The CNN's state_dict with entries replaced or, with None, left out."""
    weights = CNN.state_dict() | {key.replace("_", "."): value for key, value in changes.items()}
    return {key: value for key, value in weights.items() if value is not None}


def lightning(model):
    """What Lightning saves: weights under the attribute's name, settings, states of loops and callbacks."""
    return {
        "epoch": 3,
        "state_dict": prefixed(model, "model.") | {"criterion.weight": torch.ones(8)},
        "hyper_parameters": {"folder": Path("data"), "options": argparse.Namespace(seed=3), "sizes": [1, 2]},
        "optimizer_states": [torch.optim.Adam(model.parameters()).state_dict()],
        "scores": {"best": np.float32(0.5), "epoch": np.int64(3), "better": np.bool_(True)},
    }


RECOGNIZED = {
    "a backbone": (BACKBONE.state_dict() | {"epoch": 3, "best": 0.5}, ""),
    "the CNN": (CNN.state_dict(), "0."),
    "37 classes": (nn.Sequential(BACKBONE, nn.Linear(64, 37)).state_dict(), "0."),
    "a longer head": (nn.Sequential(BACKBONE, nn.Dropout(), nn.Linear(64, 32), nn.Linear(32, 5)).state_dict(), "0."),
    "DataParallel": (nn.DataParallel(copy.deepcopy(CNN)).state_dict(), "module.0."),
    "torch.compile": (torch.compile(CNN).state_dict(), "_orig_mod.0."),
    "AveragedModel": (AveragedModel(CNN).state_dict(), "module.0."),
    "any name": (prefixed(BACKBONE, "feature_extractor.") | prefixed(CNN[1], "classifier."), "feature_extractor."),
    "in a dict": ({"epoch": 3, "net": BACKBONE.state_dict(), "head": CNN[1].state_dict()}, "net."),
    "Lightning": (lightning(CNN), "state_dict.model.0."),
}


@pytest.mark.parametrize(
    ("form", "legacy"), [*((form, False) for form in RECOGNIZED), ("the CNN", True), ("Lightning", True)]
)
def test_other_peoples_checkpoints_are_recognized_and_give_the_same_features(form, legacy, tmp_path):
    content, prefix = RECOGNIZED[form]
    torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
    loaded = make_backbone()
    found = load_backbone(loaded, tmp_path / "ckpt.pt", DATA)
    assert found == (f"a cnn_backbone, its names begin with '{prefix}'" if prefix else "a cnn_backbone")
    assert torch.equal(loaded(CROPS), BACKBONE(CROPS))
    assert weights_hash(loaded.state_dict()) == weights_hash(BACKBONE.state_dict())


def test_safetensors_which_sort_the_names_are_recognized_too(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(CNN.state_dict(), tmp_path / "ckpt.safetensors")
    loaded = make_backbone()
    load_backbone(loaded, tmp_path / "ckpt.safetensors", DATA)
    assert torch.equal(loaded(CROPS), BACKBONE(CROPS))


def test_scalars_of_either_numpy_are_read(tmp_path):
    torch.save(CNN.state_dict() | {"best": np.float32(0.5)}, tmp_path / "new.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pt").read_bytes()
    assert content.count(b"multiarray\nscalar") == 1
    for core in (b"core", b"_core"):  # of numpy 1 and of numpy 2
        (tmp_path / "ckpt.pt").write_bytes(re.sub(rb"numpy\._?core\.", b"numpy.%b." % core, content))
        load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_taken_and_rounded_only_once(dtype, tmp_path):
    torch.save(copy.deepcopy(CNN).to(dtype).state_dict(), tmp_path / "ckpt.pt")
    loaded = make_backbone()
    load_backbone(loaded, tmp_path / "ckpt.pt", DATA)
    for value, original in zip(loaded.parameters(), BACKBONE.parameters(), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, original.to(dtype).float())


with_nan = CNN[0][0].weight.detach().clone()
with_nan[3, 1, 2, 2] = float("nan")
EXPECTED = r"holds no cnn_backbone: expected 0.weight, 0.bias, 3.weight, .*, with any prefix; found "
REFUSED = {
    "another architecture": (nn.Sequential(nn.Flatten(), nn.Linear(9, 64)).state_dict(), EXPECTED + "1.weight, 1.bias"),
    "other names": ({f"conv{name}": value for name, value in BACKBONE.state_dict().items()}, EXPECTED + "conv0.weight"),
    "a layer missing": (changed(**{"0_7_bias": None}), EXPECTED + "0.0.weight"),
    "a layer more": (BACKBONE.state_dict() | {"1.mean": torch.ones(8)}, "does not hold the .*Unexpected.*1.mean"),
    "a shape": (changed(**{"0_0_weight": torch.ones(8, 1, 5, 5)}), r"does not hold the .*size mismatch for 0.we"),
    "NaN": (changed(**{"0_0_weight": with_nan}), "expected finite floating-point weights, found others in 0.weight"),
    "whole numbers": (changed(**{"0_7_bias": torch.ones(128, dtype=torch.int8)}), "expected finite floating-poin"),
    "a model and its average": (
        {"model": CNN.state_dict(), "ema": AveragedModel(CNN).state_dict()},
        "holds 2 networks, with the prefixes 'model.0.' and 'ema.module.0.': save one of them alone",
    ),
    "a tensor": (torch.zeros(3), EXPECTED + "nothing"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_other_networks_are_refused_with_what_was_expected_and_found(form, tmp_path):
    content, sentence = REFUSED[form]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=f"(?s)ckpt.pt.* {sentence}"):
        load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)


def write_no_checkpoint(kind, path):
    harmful = {"state_dict": CNN.state_dict(), "extra": Harmful(path.parent / "written")}
    if kind == "text":
        path.write_text("0.weight = 1\n")
    elif kind == "cut short":
        torch.save(CNN.state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "TorchScript":
        torch.jit.trace(CNN, CROPS).save(path)
    else:
        content = CNN if kind == "whole model" else harmful
        torch.save(content, path, _use_new_zipfile_serialization=kind != "harmful, legacy")


NO_CHECKPOINTS = {
    "text": "it is another kind of file, or was cut short: copy or recreate it",
    "cut short": "it is another kind of file, or was cut short: copy or recreate it",
    "harmful": r"it holds objects of _?io.open, whose code is not run: save a state_dict",
    "harmful, legacy": r"it holds objects of _?io.open, whose code is not run: save a state_dict",
    "whole model": r"it holds objects of torch\.nn\.modules\.container\.Sequential, whose code is not run",
    "TorchScript": "TorchScript archives passed to ``torch.load``.$",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_files_that_are_no_checkpoint_are_named_for_what_they_are_and_run_nothing(kind, tmp_path):
    write_no_checkpoint(kind, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=NO_CHECKPOINTS[kind]) as error:
        load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)
    assert "ckpt.pt is not a file of tensors" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "written").exists()


leaves = st.sampled_from(
    [None, 3, "", torch.zeros(3), torch.ones(8, 3, 5, 5), CNN.state_dict(), BACKBONE.state_dict(), {"0.weight": None}]
)
names = st.sampled_from(["state_dict", "0.weight", "0.0.weight", "1.weight", "module", "module.module", 3, ""])
contents = st.recursive(leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner)))


@settings(max_examples=100)
@given(content=contents)
def test_whatever_a_checkpoint_holds_it_is_the_backbone_or_refused_in_a_sentence(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    torch.save(content, path)
    loaded = make_backbone()
    try:
        load_backbone(loaded, path, DATA)
    except ValueError as error:
        assert "any.pt holds " in str(error)  # noqa: PT017
    else:
        assert weights_hash(loaded.state_dict()) == weights_hash(BACKBONE.state_dict())


def test_the_hash_sees_every_bit():
    backbone = make_backbone()
    before = weights_hash(backbone.state_dict())
    assert weights_hash(backbone.to(memory_format=torch.channels_last).state_dict()) == before
    with torch.no_grad():
        weight = backbone[0].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert weights_hash(backbone.state_dict()) != before


def test_the_record_beside_a_network_must_be_of_the_same_weights(tmp_path, capsys):
    save_tensors(CNN.state_dict(), tmp_path / "ckpt.pt")
    load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)
    assert "no ckpt.json next to it, so what it was trained on is unknown" in capsys.readouterr().out
    save_json(DATA | {"weights_sha256": weights_hash(CNN.state_dict())}, tmp_path / "ckpt.json")
    load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)
    save_tensors(CNN.state_dict() | {"1.bias": torch.zeros(8)}, tmp_path / "ckpt.pt")
    for load in (
        lambda: load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA),
        lambda: load_trained(make_cnn(), tmp_path / "ckpt.pt", DATA, "q3_cnn.py"),
    ):
        with pytest.raises(ValueError, match=r"ckpt.pt and ckpt.json come from different runs: .* --force"):
            load()


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
