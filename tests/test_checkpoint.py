import argparse
import copy
import pickle
import re
import zipfile
from pathlib import Path

from common.storage.artifacts import save_tensors
from common.storage.checkpoint import load_backbone, weights_hash
from common.storage.recognize import recognize, shapes_of
from q3_cnn import make_backbone

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


def prefixed(model, *prefixes):
    return {"".join(prefixes) + key: value for key, value in model.state_dict().items()}


def converted(model, dtype):
    return {key: value.to(dtype) for key, value in model.state_dict().items()}


class Compiled(nn.Module):
    """What torch.compile makes of a model, as far as its keys go."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


class Net(nn.Module):
    """The layers of CNN under names of their own, in no particular order, and the weights of a loss."""

    def __init__(self):
        super().__init__()
        self.classifier = CNN[1]
        self.conv1, self.conv2, self.fc1, self.fc2 = (BACKBONE[index] for index in (0, 3, 7, 9))


class Features(nn.Module):
    """A backbone with a head, their names the field's, and what else a module may have."""

    def __init__(self, head):
        super().__init__()
        self.backbone, self.classifier = BACKBONE, head
        self.register_buffer("mean", torch.zeros(3, 1, 1))


def lightning(model):
    """What Lightning saves: weights under the attribute's name, settings, states of loops and callbacks."""
    weights = prefixed(model, "model.") | {"criterion.weight": torch.ones(8)}
    settings = {"lr": np.float64(0.1), "folder": Path("data"), "options": argparse.Namespace(seed=3), "sizes": [1, 2]}
    moments = {number: {"momentum_buffer": weight.detach()} for number, weight in enumerate(model.parameters())}
    states = [{"state": moments, "param_groups": [{"lr": 0.1, "params": list(range(10))}]}]
    scores = {"best": np.float32(0.5), "history": np.arange(3.0), "names": np.array(["a", "b"])}
    return {
        "epoch": 3,
        "state_dict": weights,
        "hyper_parameters": settings,
        "optimizer_states": states,
        "scores": scores,
    }


RECOGNISED = {
    "a backbone": (BACKBONE.state_dict(), "a cnn_backbone"),
    "the CNN": (CNN.state_dict(), "the backbone of a CNN of 8 classes"),
    "a head of 37": (nn.Sequential(BACKBONE, nn.Linear(64, 37)).state_dict(), "the backbone of a CNN of 37 classes"),
    "DataParallel": (nn.DataParallel(copy.deepcopy(CNN)).state_dict(), "saved from DataParallel ('module.')"),
    "compiled": (Compiled(CNN).state_dict(), "saved from torch.compile ('_orig_mod.')"),
    "module._orig_mod.": (prefixed(CNN, "module.", "_orig_mod."), "DataParallel ('module.'), saved from torch.compile"),
    "a compiled backbone": (nn.Sequential(Compiled(BACKBONE), CNN[1]).state_dict(), "torch.compile"),
    "float64": (converted(CNN, torch.float64), "float64 weights, now float32"),
    "model.": (prefixed(CNN, "model."), "its names begin with 'model.'"),
    "a backbone.": (prefixed(BACKBONE, "encoder."), "a cnn_backbone, its names begin with 'encoder.'"),
    "in a dict": ({"backbone": BACKBONE.state_dict(), "head": CNN[1].state_dict()}, "found under 'backbone'"),
    "in two dicts": ({"a": {"b": prefixed(CNN, "net.")}}, "found under 'a', 'b', its names begin with 'net.'"),
    "a head of its own": (
        Features(CNN[1]).state_dict(),
        "a cnn_backbone, its names begin with 'backbone.', left out: ",
    ),
    "two layers of head": (
        Features(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))).state_dict(),
        "left out: mean, classifier.0.weight, classifier.0.bias, classifier.2.weight, classifier.2.bias",
    ),
    "backbone and classifier": (
        {key: value for key, value in Features(CNN[1]).state_dict().items() if key != "mean"},
        "a CNN of 8 classes, its layers are backbone.0, backbone.3, backbone.7, backbone.9, classifier",
    ),
    "other names": (Net().state_dict(), "a CNN of 8 classes, its layers are conv1, conv2, fc1, fc2, classifier"),
    "a flat Sequential": (nn.Sequential(*BACKBONE, CNN[1]).state_dict(), "its layers are 0, 3, 7, 9, 11"),
    "with a dropout": (nn.Sequential(BACKBONE, nn.Dropout(), CNN[1]).state_dict(), "a CNN of 8 classes"),
    "averaged": (AveragedModel(CNN).state_dict(), "a CNN of 8 classes, saved from AveragedModel ('module.')"),
    "an averaged backbone": ({"ema": AveragedModel(BACKBONE).state_dict()}, "a cnn_backbone, found under 'ema', saved"),
    "Lightning": (
        lightning(CNN),
        "found under 'state_dict', its names begin with 'model.', left out: criterion.weight",
    ),
    "numpy beside it": (CNN.state_dict() | {"accuracy": np.float64(0.5), "epoch": np.int64(3)}, "a CNN of 8 classes"),
    "with more": ({"epoch": 3, "net": prefixed(CNN, "module."), "optimizer": {"lr": 0.1}}, "found under 'net'"),
}


@pytest.mark.parametrize(
    ("form", "legacy"), [*((form, False) for form in RECOGNISED), ("the CNN", True), ("Lightning", True)]
)
def test_other_peoples_checkpoints_are_recognised_and_give_the_same_features(form, legacy, tmp_path):
    content, words = RECOGNISED[form]
    torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
    loaded = make_backbone()
    kind = load_backbone(loaded, tmp_path / "ckpt.pt", DATA)
    assert words in kind
    assert torch.equal(loaded(CROPS), BACKBONE(CROPS))
    assert weights_hash(loaded.state_dict()) == weights_hash(BACKBONE.state_dict())


@pytest.mark.parametrize("model", [CNN, nn.Sequential(*BACKBONE, CNN[1]), Net()])
def test_safetensors_which_sort_the_names_are_recognised_too(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(model.state_dict(), tmp_path / "ckpt.safetensors")
    loaded = make_backbone()
    assert "a CNN of 8 classes" in load_backbone(loaded, tmp_path / "ckpt.safetensors", DATA)
    assert torch.equal(loaded(CROPS), BACKBONE(CROPS))


def test_scalars_of_either_numpy_are_read(tmp_path):
    torch.save(CNN.state_dict() | {"best": np.float32(0.5)}, tmp_path / "new.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pt").read_bytes()
    assert content.count(b"multiarray\nscalar") == 1
    for core in (b"core", b"_core"):  # of numpy 1 and of numpy 2
        (tmp_path / "ckpt.pt").write_bytes(re.sub(rb"numpy\._?core\.", b"numpy.%b." % core, content))
        assert load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA) == "the backbone of a CNN of 8 classes"


def test_among_layers_of_one_shape_the_names_decide_or_else_the_order():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    own, reverse = model.state_dict(), dict(reversed(model.state_dict().items()))
    renamed = {f"layer{'cab'[int(name[0])]}{name[1:]}": value for name, value in own.items()}  # layerc, layera, layerb
    for content in (own, reverse, renamed):
        found = recognize("ckpt.pt", content, {"model": shapes_of(own)}, "these")
        assert list(found.tensors) == list(own)
        assert all(torch.equal(found.tensors[name], own[name]) for name in own)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_and_rounded_but_once(dtype, tmp_path):
    torch.save(converted(CNN, dtype), tmp_path / "ckpt.pt")
    loaded = make_backbone()
    kind = load_backbone(loaded, tmp_path / "ckpt.pt", DATA)
    assert f"{str(dtype)[6:]} weights, now float32" in kind
    for value, original in zip(loaded.parameters(), BACKBONE.parameters(), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, original.to(dtype).float())


def changed(**changes):
    """The CNN's state_dict with entries replaced or, with None, left out."""
    weights = CNN.state_dict() | {key.replace("_", "."): value for key, value in changes.items()}
    return {key: value for key, value in weights.items() if value is not None}


with_nan = CNN[0][0].weight.detach().clone()
with_nan[3, 1, 2, 2] = float("nan")
SHAPES = r"expected 0.weight 8x3x5x5, 0.bias 8, 3.weight 16x8x5x5.*; found .*"
REFUSED = {
    "another architecture": (nn.Sequential(nn.Flatten(), nn.Linear(9, 64)).state_dict(), SHAPES + "1.weight 64x9"),
    "a large one": ({f"layer{i}.weight": torch.ones(i) for i in range(300)}, SHAPES + "and 284 more"),
    "a layer missing": (changed(**{"0_7_bias": None}), SHAPES),
    "a layer too many": (changed(**{"2_weight": torch.ones(3, 3)}), SHAPES + "2.weight 3x3"),
    "a shape": (changed(**{"0_0_weight": torch.ones(8, 1, 5, 5)}), SHAPES + "0.0.weight 8x1x5x5"),
    "a scalar head": (changed(**{"1_weight": torch.tensor(1.0)}), SHAPES + "1.weight scalar"),
    "NaN": (changed(**{"0_0_weight": with_nan}), "expected finite weights, found NaN or infinity in 0.0.weight"),
    "whole numbers": (converted(CNN, torch.int32), "expected floating-point weights, found torch.int32 in 0.0.weight"),
    "two in one": (CNN.state_dict() | prefixed(CNN, "module."), "holds two state_dicts: expected"),
    "a model and its average": (
        {"model": CNN.state_dict(), "ema": AveragedModel(CNN).state_dict()},
        "holds two state_dicts: expected one alone, found model.0.0.weight and ema.module.0.0.weight",
    ),
    "beside each other": (prefixed(BACKBONE, "student.") | prefixed(BACKBONE, "teacher."), "holds two state_dicts"),
    "normalised inside": (prefixed(nn.Sequential(*BACKBONE[:3], nn.BatchNorm2d(8), *BACKBONE[3:]), "net."), SHAPES),
    "an optimizer's": (
        {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(8, 3, 5, 5)}}},
        SHAPES + "step scalar, exp_avg 8x3x5x5",
    ),
    "a tensor": (torch.zeros(3), "expected a dict of tensors by name, found a Tensor"),
    "no tensors": ({"epoch": 5, "loss": 0.5}, r"found epoch \(int\), loss \(float\)"),
    "a sparse tensor": (changed(**{"0_7_bias": torch.eye(3).to_sparse()}), r"found 0.7.bias \(Tensor\)"),
    "nothing": ({}, "expected a dict of tensors by name, found nothing"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_other_networks_are_refused_with_what_was_expected_and_found(form, tmp_path):
    content, sentence = REFUSED[form]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=sentence) as error:
        load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)
    assert "ckpt.pt" in str(error.value)


def write_no_checkpoint(kind, path):
    if kind == "cut":
        torch.save(CNN.state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "no weights")
    elif kind == "harmful":
        torch.save({"state_dict": CNN.state_dict(), "extra": Harmful(path.parent / "written")}, path)
    elif kind == "harmful, legacy":
        content = {"extra": Harmful(path.parent / "written")}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "an array of objects":
        torch.save({"state_dict": CNN.state_dict(), "names": np.array(["a", None], dtype=object)}, path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Harmful(path.parent / "written")))
    elif kind == "whole model":
        torch.save(CNN, path)
    elif kind == "TorchScript":
        torch.jit.trace(CNN, CROPS).save(path)
    else:
        path.write_bytes({"empty": b"", "text": b"0.weight = 1\n", "noise": bytes(range(256)) * 9}[kind])


NO_CHECKPOINTS = {
    "empty": "it is empty",
    "text": "it is a text file",
    "noise": "it is not a file of torch.save, or a damaged one",
    "cut": "it is truncated",
    "zip": "it is a zip archive, but not one of torch.save",
    "harmful": r"it is a pickle that would execute code \(_?io.open\) and was not loaded",
    "harmful, legacy": r"it is a pickle that would execute code \(_?io.open\) and was not loaded",
    "bare pickle": "it is a pickle, but not of torch.save",
    "an array of objects": "it holds objects other than tensors and plain values, which were not loaded",
    "whole model": r"would execute code \(torch\.nn\.modules\.container\.Sequential\) and was not loaded",
    "TorchScript": "it is a TorchScript archive: save the model's state_dict",
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


leaves = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.sampled_from([torch.zeros(3), torch.ones(8, 3, 5, 5)]),
    st.sampled_from([CNN.state_dict(), BACKBONE.state_dict(), {"0.weight": None}]))  # fmt: skip
names = st.sampled_from(["state_dict", "net", "0.weight", "0.0.weight", "1.weight", "module", "module.module", 3, ""])
contents = st.recursive(leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner)))


@settings(max_examples=100)
@given(content=contents)
def test_whatever_a_checkpoint_holds_it_is_the_backbone_or_refused_in_a_sentence(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    torch.save(content, path)
    try:
        loaded = make_backbone()
        load_backbone(loaded, path, DATA)
    except ValueError as error:
        sentence = str(error)
    else:
        assert weights_hash(loaded.state_dict()) == weights_hash(BACKBONE.state_dict())
        return
    assert "any.pt" in sentence
    assert "expected" in sentence


def test_the_hash_sees_every_bit():
    backbone = make_backbone()
    before = weights_hash(backbone.state_dict())
    assert weights_hash(backbone.to(memory_format=torch.channels_last).state_dict()) == before
    with torch.no_grad():
        weight = backbone[0].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert weights_hash(backbone.state_dict()) != before


def test_a_network_of_unknown_origin_is_used_with_a_remark(tmp_path, capsys):
    save_tensors(CNN.state_dict(), tmp_path / "ckpt.pt")
    load_backbone(make_backbone(), tmp_path / "ckpt.pt", DATA)
    assert "no ckpt.json next to it, so what it was trained on is unknown" in capsys.readouterr().out


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
